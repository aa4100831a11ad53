"""`audit STACK [--after-destroy]`: what of a stack exists in its cluster and its cloud, what of it bills, and how much.

The stack file says which names the stack gives, the state what it should have now. Something unexpected is what the
state does not have; after a destroy, all but what the stack keeps on purpose. Only reads.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from config.abilities import CLOUDS
from config.clouds import LocalCloud
from config.plans import Planned, plan_services
from config.stack import StackConfig, installs_aibrix, keeps_weights, own_bucket
from config.stack_file import StackFile
from ops.arguments import add_stack, stack_file
from ops.recover import kubeconfig, pulumi
from ops.render import registered
from planning.catalog import fact
from planning.names import COLOURS, coloured, group_object, model_object, service_object
from planning.units import GIB
from stacks import addon_charts
from watch import leftovers
from watch.api_server import UnansweredError
from watch.cloud_lists import BALANCERS, KINDS, PACKAGES, find
from watch.leftovers import Left, Names
from watch.outcomes import about, is_in_cluster, resources_of


@dataclass(frozen=True)
class Asset:
    """Something in the cloud. `known`: the state has it. `kept`: the stack leaves it on purpose."""

    kind: str
    name: str
    known: bool
    kept: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Audit:
    """The findings, a line each: what exists, expected (`right`) or not (`wrong`); what bills; what could not be looked
    up; what deletions wait for; and what nothing here lists, with the command that does."""

    right: tuple[str, ...]
    wrong: tuple[str, ...]
    bills: tuple[str, ...]
    unread: tuple[str, ...]
    waits: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether everything could be looked up, and nothing was unexpected."""
        return not self.wrong and not self.unread


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser)
    parser.add_argument("--after-destroy", action="store_true", help="expect only what the stack keeps on purpose")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Returns 0 if nothing is unexpected, 1 if something is, or could not be looked up."""
    file = stack_file(args)
    found = audit(file, args.stack, after_destroy=args.after_destroy)
    if args.json:
        told = {"right": found.right, "wrong": found.wrong, "bills": found.bills, "unread": found.unread}
        print(json.dumps({"ok": found.clean, **told, "waits": found.waits, "unlisted": found.unlisted}))
    else:
        print("\n".join(lines(args.stack, found)))
    return 0 if found.clean else 1


def lines(stack: str, found: Audit) -> Iterator[str]:
    """The audit as a person reads it."""
    yield from (f"{stack}: {each}: unexpected" for each in found.wrong)
    yield from (f"{stack}: {each}" for each in found.right)
    yield from (f"{stack}: {each}" for each in found.waits)
    yield from (f"{stack}: could not be looked up: {each}" for each in found.unread)
    yield from (f"{stack}: not listed here: {each}" for each in found.unlisted)
    yield from (f"{stack}: bills: {each}" for each in found.bills)
    count = len(found.wrong)
    unread = f"; {len(found.unread)} could not be looked up" if found.unread else ""
    yield f"{stack}: {f'{count} unexpected' if count else 'nothing unexpected'}{unread}"


def audit(file: StackFile, stack: str, *, after_destroy: bool, before: Sequence[Mapping[str, Any]] = ()) -> Audit:
    """Looks at cluster and cloud. `before` are the resources of the state before a destroy: load balancers are looked
    up by the addresses that they had. Raises RequestError if Pulumi cannot read the stack."""
    config = file.config()
    plans = plan_services(config, refuse_misfits=False)
    resources = resources_of(json.loads(pulumi("stack", "export", "-s", stack)))
    expected = [each for each in resources if each.get("protect") or not after_destroy]
    right: list[str] = []
    wrong: list[str] = []
    unread: list[str] = []
    there: list[Left] = []
    cluster = config.cluster.context, kubeconfig(stack)
    try:
        there, unread = leftovers.look(*cluster, names_of(config, stack))
    except UnansweredError as error:
        unread = [f"the cluster of context {config.cluster.context} ({error})"]
    known = {_key(each) for each in expected if is_in_cluster(each) and not each.get("delete")}
    for each in there:
        derived = not after_destroy and (each.owned or bool(each.why))
        good = derived or (each.kind, each.namespace, each.name) in known or _is_idle(each, there)
        (right if good else wrong).append(f"{each} ({each.why})" if each.why else str(each))
    assets, unasked = _assets(file, stack, config, resources, addresses([*resources, *before]))
    for asset in assets:
        good = asset.kept if after_destroy else asset.known
        (right if good else wrong).append(f"{asset}{' (kept on purpose)' if asset.kept else ''}")
    bills = tuple(_bills(config, plans, there, assets))
    waits = (*leftovers.waiting(there, now()), *leftovers.barred(*cluster, there, now()))
    return Audit(tuple(right), tuple(wrong), bills, (*unread, *unasked), waits, tuple(_unlisted(config)))


def addresses(resources: Sequence[Mapping[str, Any]]) -> list[str]:
    """The addresses outside the cluster that the state's Services and Gateways have got."""
    ips = set()
    for each in resources:
        status = (each.get("outputs") or {}).get("status") or {}
        kind = each["type"].rpartition(":")[2]
        if kind == "Service":
            ips |= {one.get("ip") for one in (status.get("loadBalancer") or {}).get("ingress") or []}
        elif kind == "Gateway":
            ips |= {one.get("value") for one in status.get("addresses") or []}
    return sorted(filter(None, ips))


def _unlisted(config: StackConfig) -> Iterator[str]:
    """What may be left that nothing here lists, each with the command that does."""
    cloud, bucket = config.cloud, own_bucket(config)
    if isinstance(cloud, LocalCloud):
        return
    for what, command in fact("clouds", cloud.kind, "unlisted").items():
        exposed = any(service.expose.to != "cluster" for service in config.services.values()) or installs_aibrix(config)
        if exposed if "balancer" in what else bucket is not None:
            yield f"{what}: {command.format(region=cloud.region, bucket=bucket.name if bucket else '')}"


def now() -> datetime:
    """The time, with which deletions are compared."""
    return datetime.now(timezone.utc)


def names_of(config: StackConfig, stack: str) -> Names:
    """The names that the stack's things have in the cluster."""
    objects = {each for name in config.services for each in (name, service_object(name), group_object(name))}
    objects |= {coloured(name, colour) for name in config.services for colour in COLOURS}
    objects |= {model_object(service.model) for service in config.services.values()}
    addons = [each.namespace for each in addon_charts.wanted(config)] if CLOUDS[config.cloud.kind].installs else []
    systems = [fact("aibrix", "gateway", "object")["namespace"]] if installs_aibrix(config) else []
    return Names(stack, config.cluster.namespace, frozenset(objects), frozenset((*addons, *systems)))


def _key(resource: Mapping[str, Any]) -> tuple[str, str, str]:
    named = about(dict(resource))
    return resource["type"].rpartition(":")[2], named.get("namespace") or "", named.get("name") or ""


def _is_idle(each: Left, there: Sequence[Left]) -> bool:
    """Whether it is a namespace that Helm left with nothing in it: it deletes none, because others may use it."""
    return each.kind == "Namespace" and bool(each.why) and not any(other.namespace == each.name for other in there)


def _assets(
    file: StackFile,
    stack: str,
    config: StackConfig,
    resources: Sequence[Mapping[str, Any]],
    balancers: Sequence[str],
) -> tuple[list[Asset], list[str]]:
    """What the cloud has of the stack, and what it did not tell."""
    if isinstance(config.cloud, LocalCloud):
        return [], []
    asked = {each["urn"]: each for each in resources if _is_asked(each["type"])}
    known = {each["id"] for each in asked.values()}
    registered_others = registered(file, stack).others.items()
    asked |= {
        f"{kind}::{name}": {"urn": f"{kind}::{name}", "type": kind, "inputs": inputs}
        for (kind, name), inputs in registered_others
        if _is_asked(kind)
    }
    package = PACKAGES[config.cloud.kind]
    asked |= {
        f"{kind}::{address}": {"urn": f"{kind}::{address}", "type": kind, "inputs": {"address": address}}
        for kind in BALANCERS
        for address in balancers
        if kind.startswith(f"{package}:")
    }
    region = config.cloud.region
    answers = find(list(asked.values()), dict.fromkeys(asked, region))
    unread = [
        f"{asked[urn]['type'].rpartition(':')[2]} ({why})" for urn, why in answers.items() if isinstance(why, str)
    ]
    found = {
        (asked[urn]["type"].rpartition(":")[2], item.id)
        for urn, items in answers.items()
        for item in (items if not isinstance(items, str) else ())
    }
    keeps = keeps_weights(config)
    return [
        # A balancer is found by an address of the state's, so the state has it.
        Asset(kind, name, name in known or kind.endswith("LoadBalancer"), keeps and kind == "Bucket")
        for kind, name in sorted(found)
    ], unread


def _is_asked(kind: str) -> bool:
    """Whether a list shows it by itself: settings and attachments go with what they are of, and bill nothing."""
    known = KINDS.get(kind)
    return known is not None and known.lookup is not None and not known.written_again and "Attachment" not in kind


def _bills(
    config: StackConfig, plans: Mapping[str, Planned], there: Sequence[Left], assets: Sequence[Asset]
) -> Iterator[str]:
    prices = config.prices

    def of(count: float, what: str, price: float | None, time: str) -> str:
        told = "at an unknown price" if price is None else f"{count * price:.2f} {prices.currency} {time}"
        return f"{what}: {told}"

    gpus, workers, balancers = leftovers.billing(there)
    if gpus:
        yield of(gpus, f"{gpus} GPUs", prices.per_gpu_hour, "an hour")
    if workers:
        yield of(workers, f"{workers} cache workers", prices.per_cache_worker_hour, "an hour")
    if balancers:
        yield of(balancers, f"{balancers} load balancers", None, "an hour")
    volumes = [each for each in there if each.kind == "PersistentVolumeClaim"]
    if volumes:
        yield of(len(volumes), f"{len(volumes)} claims, by their volumes", None, "a month")
    for bucket in (asset for asset in assets if asset.kind == "Bucket"):
        size = sum({planned.service.model: planned.plan.file_bytes for planned in plans.values()}.values()) / GIB
        yield of(size, f"{bucket} with up to {size:.0f} GiB of weights", prices.per_gib_month, "a month")

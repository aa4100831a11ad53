"""`destroy STACK`: takes away everything but kept weights, only in the cluster and the account that the stack is in.

Elsewhere Pulumi would find nothing of the stack, take it for gone, and forget it, while it goes on to bill. So before
anything is touched, cluster and account are compared with what the state has recorded. While the destroy waits for
something longer than it should, the command says for what, and what is safe to do. Afterwards it looks for what is left
(`ops.audit`).

Pulumi deletes in the order opposite to that of an `up`, so of a blue-green service the Service would go before the
group, and with a load balancer the running answers. Such groups are scaled to zero first, while their Service stands.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from config.clouds import LocalCloud
from config.errors import ConfigError
from config.stack import StackConfig
from ops.arguments import add_stack, stack_file
from ops.audit import audit, lines, names_of, now
from ops.recover import kubeconfig, make_readable, pulumi
from planning import timeouts
from planning.names import CLUSTER, COLOUR
from planning.problems import Problem
from watch import client, cloud_lists, leftovers, preflight
from watch.api_server import UnansweredError, cluster_id
from watch.outcomes import UnreadError, about, is_in_cluster, resources_of

if TYPE_CHECKING:
    from kubernetes.client import CustomObjectsApi

_STACK = "pulumi:pulumi:Stack"
_LOOK_SECONDS = 20.0
_DRAIN_LOOK_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask whether to go on")


def run(args: argparse.Namespace) -> int:
    """Returns 0 if only what is kept on purpose is left, else 1. Raises ConfigError for another cluster or account."""
    file = stack_file(args)
    config, stack = file.config(), args.stack
    make_readable(stack)
    resources = resources_of(json.loads(pulumi("stack", "export", "-s", stack)))
    if wrong := list(misplaced(config, stack, resources, kubeconfig(stack))):
        raise ConfigError(wrong)
    groups = coloured_groups(resources)
    sure = ["--yes", "--skip-preview"] if args.yes or groups else []
    if groups and not args.yes and not _agreed(stack):
        print(f"{stack}: nothing was done", file=sys.stderr)
        return 1
    names, context, content = names_of(config, stack), config.cluster.context, kubeconfig(stack)

    def late() -> list[str]:
        with contextlib.suppress(UnansweredError):
            left, _ = leftovers.look(context, content, names)
            waits = leftovers.waiting(left, now(), overdue=True)
            return [*waits, *leftovers.barred(context, content, left, now())]
        return []

    say = _teller(stack, late)
    try:
        for why in _drained(groups, context, content, say):
            print(f"{stack}: {why}; its running answers may be cut", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print(f"{stack}: stopped; pulumi up -s {stack} --refresh brings the replicas back", file=sys.stderr)
        return 1
    code = _run(["pulumi", "destroy", "-s", stack, "--exclude-protected", *sure], say)
    found = audit(file, stack, after_destroy=True, before=resources)
    print("\n".join(lines(stack, found)))
    if code:
        print(f"{stack}: the destroy did not end: after a kill, python -m ops recover {stack}; then destroy again")
    return 1 if code or not found.clean else 0


def _agreed(stack: str) -> bool:
    """Whether a person wants it. Pulumi would ask only after the groups have been scaled to zero."""
    if subprocess.run(["pulumi", "destroy", "-s", stack, "--exclude-protected", "--preview-only"]).returncode:
        return False
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        return input(f"Destroy {stack}? Running answers are given first. yes or no\n> ").strip() == "yes"
    return False


def _teller(stack: str, late: Callable[[], list[str]]) -> Callable[[], None]:
    """Says on stderr what is waited for, which `late` tells, once a line."""
    said: set[str] = set()

    def say() -> None:
        for line in late():
            if line not in said:
                print(f"{stack}: waiting: {line}", file=sys.stderr, flush=True)
            said.add(line)

    return say


def _run(command: Sequence[str], say: Callable[[], None]) -> int:
    """The command's exit code. `say` is called again and again while it runs."""
    with subprocess.Popen(command) as process:
        while True:
            try:
                return process.wait(_LOOK_SECONDS)
            except KeyboardInterrupt:
                continue  # Pulumi gets it too, and ends what it has begun
            except subprocess.TimeoutExpired:
                say()


def coloured_groups(resources: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The inputs of the state's LeaderWorkerSets that are one of two colours."""
    groups = [each for each in resources if each["type"].endswith(":LeaderWorkerSet")]
    return [each["inputs"] for each in groups if COLOUR in (about(dict(each)).get("annotations") or {})]


def _drained(
    groups: Sequence[Mapping[str, Any]], context: str, kubeconfig: str | None, say: Callable[[], None]
) -> Iterator[str]:
    """Scales the groups to zero and waits until their leaders have given their answers. Yields why one did not. `say`
    is called again and again meanwhile."""
    if not groups:
        return
    from kubernetes.client import CustomObjectsApi

    api, failures = CustomObjectsApi(client.api_client(context, kubeconfig)), client.errors()
    ends: dict[tuple[str, ...], float] = {}
    for group in groups:
        named, template = group["metadata"], group["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
        place = (*group["apiVersion"].split("/"), named["namespace"], "leaderworkersets", named["name"])
        limit = template["spec"]["terminationGracePeriodSeconds"] + timeouts.DELETE_SLACK_SECONDS
        try:
            api.patch_namespaced_custom_object_scale(*place, {"spec": {"replicas": 0}})
            print(f"{named['name']} gives its running answers, then all goes", flush=True)
            ends[place] = time.monotonic() + limit
        except failures as error:
            if not _is_gone(error):
                why = getattr(error, "reason", None) or type(error).__name__
                yield f"{named['name']} was not scaled to zero: {why}"
    look = time.monotonic() + _LOOK_SECONDS
    for place, end in ends.items():
        while _leaders(api, place):
            if time.monotonic() > end:
                yield f"{place[-1]} has not ended in its time"
                break
            if time.monotonic() > look:
                say()
                look = time.monotonic() + _LOOK_SECONDS
            time.sleep(_DRAIN_LOOK_SECONDS)


def _leaders(api: CustomObjectsApi, place: tuple[str, ...]) -> int:
    """How many leaders a group has, those that still give their answers too; 1 if the cluster does not say."""
    try:
        return (api.get_namespaced_custom_object(*place).get("status") or {}).get("replicas", 0)
    except client.errors() as error:
        return 0 if _is_gone(error) else 1


def _is_gone(error: Exception) -> bool:
    return getattr(error, "status", None) == HTTPStatus.NOT_FOUND


def misplaced(
    config: StackConfig, stack: str, resources: Sequence[Mapping[str, Any]], kubeconfig: str | None
) -> Iterator[Problem]:
    """Why nothing of the stack may be deleted from here: the cluster or the account is another, or does not answer."""
    context = config.cluster.context
    recorded = next((each.get("outputs", {}).get(CLUSTER) for each in resources if each["type"] == _STACK), None)
    objects = [each for each in resources if is_in_cluster(dict(each))]
    try:
        if wrong := preflight.elsewhere(config, stack, recorded, cluster_id(context, kubeconfig)):
            yield wrong
    except UnansweredError as error:
        if objects:
            forget = f"PULUMI_K8S_DELETE_UNREACHABLE=true pulumi destroy -s {stack} --exclude-protected"
            why = f"the cluster does not answer ({error}), and {len(objects)} objects of the stack are in it"
            yield Problem("cluster.context", context, why, f"bring it back; if it is gone for good: {forget}")
    account = cloud_lists.recorded_account(resources)
    if account is None or isinstance(config.cloud, LocalCloud):
        return
    try:
        ours = cloud_lists.account(config.cloud.kind, config.cloud.region)
    except UnreadError as error:
        yield Problem("cloud.kind", config.cloud.kind, f"the account is unknown ({error})", "look at your credentials")
        return
    if ours != account:
        why = f"your credentials are those of account {ours}, and stack {stack} is in {account}"
        yield Problem("cloud.kind", config.cloud.kind, why, "take credentials of that account")

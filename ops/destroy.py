"""`destroy STACK`: takes away everything but kept weights, only in the cluster and the account that the stack is in.

Elsewhere Pulumi would find nothing of the stack, take it for gone, and forget it, while it goes on to bill. So before
anything is touched, cluster and account are compared with what the state has recorded. While the destroy waits for
something longer than it should, the command says for what, and what is safe to do. Afterwards it looks for what is left
(`ops.audit`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from config.clouds import LocalCloud
from config.errors import ConfigError
from config.stack import StackConfig
from ops.arguments import add_stack, stack_file
from ops.audit import audit, lines, names_of, now
from ops.recover import kubeconfig, make_readable, pulumi
from planning.names import CLUSTER
from planning.problems import Problem
from watch import cloud_lists, leftovers, preflight
from watch.api_server import UnansweredError, cluster_id
from watch.outcomes import UnreadError, is_in_cluster, resources_of

_STACK = "pulumi:pulumi:Stack"
_LOOK_SECONDS = 20.0


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
    sure = ["--yes", "--skip-preview"] if args.yes else []
    names, context, content = names_of(config, stack), config.cluster.context, kubeconfig(stack)

    def late() -> list[str]:
        with contextlib.suppress(UnansweredError):
            left, _ = leftovers.look(context, content, names)
            return list(leftovers.waiting(left, now(), overdue=True))
        return []

    code = _run(["pulumi", "destroy", "-s", stack, "--exclude-protected", *sure], stack, late)
    found = audit(file, stack, after_destroy=True, before=resources)
    print("\n".join(lines(stack, found)))
    if code:
        print(f"{stack}: the destroy did not end: after a kill, python -m ops recover {stack}; then destroy again")
    return 1 if code or not found.clean else 0


def _run(command: Sequence[str], stack: str, late: Callable[[], list[str]]) -> int:
    """The command's exit code. What it waits for, which `late` tells, is said once a line, on stderr."""
    said: set[str] = set()
    with subprocess.Popen(command) as process:
        while True:
            try:
                return process.wait(_LOOK_SECONDS)
            except KeyboardInterrupt:
                continue  # Pulumi gets it too, and ends what it has begun
            except subprocess.TimeoutExpired:
                for line in late():
                    if line not in said:
                        print(f"{stack}: waiting: {line}", file=sys.stderr, flush=True)
                    said.add(line)


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

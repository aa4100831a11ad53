"""`recover STACK`: repairs what a killed or interrupted `pulumi up` or `destroy` left, so that the next run works.

A killed run leaves a lock, plugins that still finish their operations, pending operations, and objects that the state
lacks, or has although they are gone. An interrupted run leaves objects that it wrote and did not record.

`recover` removes the lock of a dead process, ends its plugins once Helm has finished, and looks up the resource of each
pending operation in the cluster, or through the cloud's plugin:

- created, and this stack's: it is added to the state; the next `up` updates it and waits, a `destroy` deletes it;
- gone: it is removed from the state;
- half-written: the next `up` writes it again;
- somebody else's: it is left alone and named.

Then it compares every object of the cluster that is in the state with what the state says.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from config.errors import NAMESPACE
from config.stack import StackConfig
from config.stack_file import RequestError
from ops import orphans
from ops.arguments import add_stack, stack_file
from watch.client import dynamic_client, errors
from watch.cloud_lists import Clouds
from watch.outcomes import (
    UNSOLVED,
    Found,
    Resource,
    Verdict,
    compare,
    is_in_cluster,
    pending_operations,
    resources_of,
    settle,
)
from watch.stack_objects import StackObjects

_LOCKED = re.compile(r"created by (?P<user>\S+)@(?P<host>\S+) \(pid (?P<pid>\d+)\) at (?P<at>\S+)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser)
    parser.add_argument("--force", action="store_true", help="remove the lock even where its owner may be alive")
    parser.add_argument(
        "--force-user", metavar="USER", help="the same, for a lock of that user: a CI runner's, whose job has ended"
    )


def run(args: argparse.Namespace) -> int:
    """Returns what `repair` does."""
    return repair(stack_file(args).config(), args.stack, force=args.force, user=args.force_user)


def repair(config: StackConfig, stack: str, *, force: bool = False, user: str | None = None) -> int:
    """Returns 0 if the stack can go on, 1 if something is in the way or could not be looked up.

    `force` removes a lock whose owner may be alive, `user` such a lock of that user. Raises RequestError if the stack
    is locked by somebody else, or the cluster does not answer.
    """
    # Connect before the lock is removed: its time tells which Helm releases the run created, and is lost with it.
    cluster = _cluster(config, stack)
    make_readable(stack)
    exported = pulumi("stack", "export", "-s", stack)
    state = json.loads(exported)
    cluster.since = _unlock(stack, state, force=force, user=user)
    pending = pending_operations(state)
    left = orphans.plugins(Path.cwd())
    if left:
        cluster.await_helm([operation["resource"] for operation in pending], lambda: orphans.alive(left))
        orphans.end(left)
        print(f"{stack}: ended {len(left)} plugin{'s'[: len(left) != 1]} that the run had left")
    cloud = Clouds(state, cluster.since)

    def look(resource: Resource) -> Found | None:
        return (cluster if is_in_cluster(resource) else cloud).look(resource)

    outcomes = settle(state, look)
    if any(outcome.verdict is Verdict.UNREAD for outcome in outcomes):
        # An import drops every pending operation, so import nothing until all of them can be looked up.
        print("\n".join(outcome.line for outcome in outcomes if outcome.verdict is Verdict.UNREAD))
        print(f"{stack}: nothing was changed; recover again when that can be looked up")
        return 1
    shown = json.loads(pulumi("stack", "export", "--show-secrets", "-s", stack))
    outcomes += compare(state, shown, cluster.compare)
    if state != json.loads(exported):
        pulumi("stack", "import", "-s", stack, given=json.dumps(state))
    nothing = f"{stack}: nothing is pending, and the cluster has what the state says"
    print("\n".join(outcome.line for outcome in outcomes) or nothing)
    # A user may have two keys: a second lost one would leave no room for the next.
    known = {each["urn"] for each in resources_of(state) if not each.get("delete")}
    lost = {outcome.resource["urn"] for outcome in outcomes if outcome.verdict is Verdict.LOST} - known
    if lost:
        pulumi("destroy", "-s", stack, "--skip-preview", "--yes", *_targets(lost))
    reread = {outcome.resource["urn"] for outcome in outcomes if outcome.is_reread}
    if reread:
        pulumi("refresh", "-s", stack, "--skip-preview", "--yes", *_targets(reread))
    return 1 if any(outcome.verdict in UNSOLVED for outcome in outcomes) else 0


def _targets(urns: Iterable[str]) -> list[str]:
    return [word for urn in sorted(urns) for word in ("--target", urn)]


def make_readable(stack: str) -> None:
    """Lets Pulumi read the state after a kill that tore its attributes, and says so."""
    if torn := drop_torn_attributes(json.loads(pulumi("whoami", "--verbose", "--json"))["url"], stack):
        print(f"{stack}: removed {torn.name}, which the kill had left empty; the state itself is complete")


def drop_torn_attributes(backend: str, stack: str) -> Path | None:
    """Removes an empty attributes file of the stack's state in a file backend; returns its path, None if there is none.

    The backend writes a state to a new file and renames it, but writes the attributes in place. It refuses to read a
    state whose attributes it cannot parse (gocloud.dev/blob/fileblob, attrs.go); without attributes it reads the state.
    """
    if not backend.startswith("file://"):
        return None
    root = Path(backend.removeprefix("file://")).expanduser() / ".pulumi" / "stacks"
    for file in root.rglob(f"{stack}.json.attrs"):
        if file.stat().st_size == 0:
            file.unlink()
            return file
    return None


def _cluster(config: StackConfig, stack: str) -> StackObjects:
    """The stack's cluster, through the kubeconfig that is a secret of the stack, if there is one. Raises RequestError
    if the cluster does not answer."""
    context = config.cluster.context
    try:
        return StackObjects(stack, dynamic_client(context, kubeconfig(stack)))
    except errors() as error:
        why = getattr(error, "reason", None) or type(error).__name__
        raise RequestError(f"the cluster of context {context} does not answer ({why}); nothing was changed") from None


def kubeconfig(stack: str) -> str | None:
    """The stack's secret of that name, None where it has none."""
    command = ["pulumi", "config", "get", f"{NAMESPACE}:kubeconfig", "-s", stack]
    said = subprocess.run(command, capture_output=True, text=True)
    return said.stdout if said.returncode == 0 else None


def _unlock(stack: str, state: Mapping[str, Any], *, force: bool, user: str | None = None) -> str | None:
    """Removes the lock of a dead run; returns since when the run held it. Raises RequestError if its owner is alive, or
    may be alive on another machine."""
    unprotected = (
        resource["urn"]
        for resource in resources_of(state)
        if not resource.get("protect") and not resource.get("delete")
    )
    urn = next(unprotected, None)
    if urn:
        # Unprotecting an unprotected resource asks for the lock and changes nothing. Unlike an import it keeps the
        # pending operations.
        question, given = ["state", "unprotect", urn, "--yes"], None
    else:
        # The state has no stack resource yet, so the run has created nothing: an import has nothing to lose.
        question, given = ["stack", "import"], json.dumps(state)
    asked = subprocess.run(
        ["pulumi", *question, "-s", stack, "--non-interactive"], input=given, text=True, capture_output=True
    )
    if asked.returncode == 0:
        return None
    lock = _LOCKED.search(asked.stderr)
    if lock is None:
        raise RequestError(f"pulumi {' '.join(question)}: {asked.stderr.strip()}")
    owner = f"{lock['user']}@{lock['host']} (pid {lock['pid']}), since {lock['at']}"
    force = force or lock["user"] == user
    if not force and (lock["host"] != socket.gethostname() or psutil.pid_exists(int(lock["pid"]))):
        raise RequestError(
            f"stack {stack}: is locked by {owner}, which may be alive: wait for it; if you know that it "
            f"is dead: python -m ops recover {stack} --force"
        )
    pulumi("cancel", "--yes", "-s", stack)
    print(f"{stack}: removed the lock of {owner}")
    return lock["at"]


def pulumi(*args: str, given: str | None = None) -> str:
    """What a pulumi command prints. Raises RequestError if it fails or is not installed."""
    try:
        done = subprocess.run(["pulumi", *args, "--non-interactive"], input=given, text=True, capture_output=True)
    except FileNotFoundError:
        raise RequestError("pulumi is not on PATH: install it, or load the rehearsal's environment") from None
    if done.returncode:
        print(done.stderr, file=sys.stderr, end="")
        raise RequestError(f"pulumi {' '.join(args)} failed")
    return done.stdout

"""`recover STACK`: what a killed or interrupted `pulumi up` or `destroy` left, put right, so that the next one goes on.

A run that dies leaves a lock, plugins that finish what they were at, operations marked pending, and objects that are in
no state, or are gone and still in it. One that is interrupted leaves objects that it has written and does not remember.
Here the lock of a dead process is removed, its plugins are ended once Helm has finished, and what each pending
operation was about is looked up: in the cluster, or by the cloud's plugin. What was made, and is this stack's, is taken
into the state: the next `up` updates it and waits, a `destroy` deletes it. What is gone leaves the state, what was
written halfway is written again, and somebody else's is left alone and named. Then every object of the cluster that the
state knows is compared with what the state says of it.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
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
from watch.outcomes import UNSOLVED, Found, Resource, Verdict, compare, is_in_cluster, pending_operations, settle
from watch.stack_objects import StackObjects

_LOCKED = re.compile(r"created by (?P<user>\S+)@(?P<host>\S+) \(pid (?P<pid>\d+)\) at (?P<at>\S+)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser)
    parser.add_argument("--force", action="store_true", help="remove the lock even where its owner may be alive")


def run(args: argparse.Namespace) -> int:
    """0 when the stack can go on, 1 when something is in the way, or could not be looked up."""
    config = stack_file(args).config()
    # Before the lock goes, whose time tells which of Helm's releases the run has made.
    cluster = _cluster(config, args.stack)
    if torn := drop_torn_attributes(json.loads(_pulumi("whoami", "--verbose", "--json"))["url"], args.stack):
        print(f"{args.stack}: removed {torn.name}, which the kill had left empty: the state beside it is whole")
    exported = _pulumi("stack", "export", "-s", args.stack)
    state = json.loads(exported)
    cluster.since = _unlock(args.stack, state, force=args.force)
    pending = pending_operations(state)
    left = orphans.plugins(Path.cwd())
    if left:
        cluster.await_helm([each["resource"] for each in pending], lambda: orphans.alive(left))
        orphans.end(left)
        print(f"{args.stack}: ended {len(left)} plugin{'s'[: len(left) != 1]} that the run had left")
    cloud = Clouds(state, cluster.since)

    def look(resource: Resource) -> Found | None:
        return (cluster if is_in_cluster(resource) else cloud).look(resource)

    outcomes = settle(state, look)
    if any(outcome.verdict is Verdict.UNREAD for outcome in outcomes):
        # An import throws away every pending operation, so all of them wait for these.
        print("\n".join(outcome.line for outcome in outcomes if outcome.verdict is Verdict.UNREAD))
        print(f"{args.stack}: nothing was changed; recover again when that can be looked up")
        return 1
    shown = json.loads(_pulumi("stack", "export", "--show-secrets", "-s", args.stack))
    outcomes += compare(state, shown, cluster.compare)
    if state != json.loads(exported):
        _pulumi("stack", "import", "-s", args.stack, given=json.dumps(state))
    nothing = f"{args.stack}: nothing is pending, and the cluster has what the state says"
    print("\n".join(outcome.line for outcome in outcomes) or nothing)
    reread = [outcome.resource["urn"] for outcome in outcomes if outcome.is_reread]
    if reread:
        targets = [word for urn in reread for word in ("--target", urn)]
        _pulumi("refresh", "-s", args.stack, "--skip-preview", "--yes", *targets)
    return 1 if any(outcome.verdict in UNSOLVED for outcome in outcomes) else 0


def drop_torn_attributes(backend: str, stack: str) -> Path | None:
    """Remove, in a backend of files, the empty attributes of the stack's state; gives their file, None without.

    The backend writes a state beside the old one and renames it, but its attributes in place, and a state whose
    attributes cannot be read is not read either (gocloud.dev/blob/fileblob, attrs.go). Without any, it is.
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
    """The stack's cluster, through its kubeconfig if that is a secret of the stack. Raises RequestError where nobody
    answers."""
    secret = subprocess.run(
        ["pulumi", "config", "get", f"{NAMESPACE}:kubeconfig", "-s", stack], capture_output=True, text=True
    )
    context = config.cluster.context
    try:
        return StackObjects(stack, dynamic_client(context, secret.stdout if secret.returncode == 0 else None))
    except errors() as error:
        why = getattr(error, "reason", None) or type(error).__name__
        raise RequestError(f"the cluster of context {context} does not answer ({why}); nothing was changed") from None


def _unlock(stack: str, state: Mapping[str, Any], *, force: bool) -> str | None:
    """Remove the lock of a dead run; gives the time since which it held it. Raises RequestError where its owner lives,
    or may live, elsewhere."""
    unprotected = (
        each["urn"]
        for each in state["deployment"].get("resources") or []
        if not each.get("protect") and not each.get("delete")
    )
    urn = next(unprotected, None)
    if urn is None:
        return None  # a run that has made no stack yet has made nothing
    # It changes nothing, keeps what is pending, which an import throws away, and asks for the lock.
    said = subprocess.run(
        ["pulumi", "state", "unprotect", urn, "-s", stack, "--yes", "--non-interactive"], text=True, capture_output=True
    )
    if said.returncode == 0:
        return None
    lock = _LOCKED.search(said.stderr)
    if lock is None:
        raise RequestError(f"pulumi state unprotect: {said.stderr.strip()}")
    owner = f"{lock['user']}@{lock['host']} (pid {lock['pid']}), since {lock['at']}"
    if not force and (lock["host"] != socket.gethostname() or psutil.pid_exists(int(lock["pid"]))):
        raise RequestError(
            f"stack {stack}: is locked by {owner}, which may be alive: wait for it; if you know that it "
            f"is dead: python -m ops recover {stack} --force"
        )
    _pulumi("cancel", "--yes", "-s", stack)
    print(f"{stack}: removed the lock of {owner}")
    return lock["at"]


def _pulumi(*args: str, given: str | None = None) -> str:
    """What a pulumi command prints. Raises RequestError with its words where it fails or is not there."""
    try:
        done = subprocess.run(["pulumi", *args, "--non-interactive"], input=given, text=True, capture_output=True)
    except FileNotFoundError:
        raise RequestError("pulumi is not on PATH: install it, or load the rehearsal's environment") from None
    if done.returncode:
        print(done.stderr, file=sys.stderr, end="")
        raise RequestError(f"pulumi {' '.join(args)} failed")
    return done.stdout

"""`recover STACK`: what a killed `pulumi up` or `destroy` left behind, put right, so that the next one just goes on.

A run that dies leaves a lock, operations marked pending, and objects that were made but are in no state: the next `up`
meets the lock, then its own objects as «already exists». Here the lock of a dead process is removed, and each pending
create is looked up in the cluster: an object that carries this stack's labels is taken into the state as not yet ready
(the next `up` updates it and waits; a `destroy` deletes it), one that is not there is forgotten, and somebody else's is
left alone and named.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from components.kubernetes import MANAGER, STACK_LABEL
from ops.arguments import add_stack, stack_file
from stacks.cluster import api_client
from stacks.config import StackConfig
from stacks.refusals import NAMESPACE
from stacks.stackfile import RequestError

_LOCKED = re.compile(r"created by (?P<user>\S+)@(?P<host>\S+) \(pid (?P<pid>\d+)\) at (?P<at>\S+)")
# The provider outlives a killed engine by seconds and may still send the create that it was at.
_SETTLE_SECONDS = 3.0

Look = Callable[[dict[str, Any]], "dict[str, Any] | None"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser)
    parser.add_argument("--force", action="store_true", help="remove the lock even where its owner may be alive")


def run(args: argparse.Namespace) -> int:
    """0 when the stack can go on, 1 when something that is not ours stands in the way."""
    config = stack_file(args).config()
    _unlock(args.stack, force=args.force)
    state = json.loads(_pulumi("stack", "export", "-s", args.stack))
    pending = state["deployment"].get("pending_operations") or []
    if not pending:
        print(f"{args.stack}: nothing is pending")
        return 0
    lines, foreign = adopt(state, args.stack, _looker(config, args.stack))
    _pulumi("stack", "import", "-s", args.stack, given=json.dumps(state))
    print("\n".join(lines))
    return 1 if foreign else 0


def adopt(state: dict[str, Any], stack: str, look: Look) -> tuple[list[str], bool]:
    """Settle the pending creates of Kubernetes objects in `state`, in place; their lines, and whether one is foreign.

    `look` gives the live object of a manifest, or None. Pending updates and deletes stay: the engine repeats them.
    """
    deployment = state["deployment"]
    lines, kept, foreign = [], [], False
    for operation in deployment.get("pending_operations") or []:
        resource = operation["resource"]
        manifest = resource.get("inputs") or {}
        if operation["type"] != "creating":
            kept.append(operation)
            continue
        if not resource["type"].startswith("kubernetes:") or "kind" not in manifest:
            # Only its own plugin could look it up, and the engine asks none of them for a thing that it has no id of.
            lines.append(
                f"{resource['type']} {resource['urn'].rpartition('::')[2]}: whether it was made is unknown; forgotten: "
                "the next up makes it; if that says that it exists, `pulumi import` it, or remove it there"
            )
            continue
        metadata = manifest["metadata"]
        what = f"{manifest['kind']} {metadata.get('namespace', 'default')}/{metadata['name']}"
        live = look(manifest)
        if live is None:
            lines.append(f"{what}: was not made; forgotten")
        elif _ours(live, stack):
            lines.append(f"{what}: was made; taken into the state")
            _enter(deployment, resource)
        else:
            foreign = True
            lines.append(f"{what}: is there but not this stack's; left alone: rename the service, or remove the object")
    deployment["pending_operations"] = kept
    lines += [
        f"{operation['resource']['urn'].rpartition('::')[2]}: {operation['type']} was cut off; "
        "the next up or destroy repeats it"
        for operation in kept
    ]
    return lines, foreign


def _enter(deployment: dict[str, Any], resource: dict[str, Any]) -> None:
    """Add the object to the state. As it counts as not initialised, the next `up` updates it and waits for it."""
    metadata = resource["inputs"]["metadata"]
    namespace = metadata.get("namespace")
    entry = {key: value for key, value in resource.items() if key != "delete"} | {
        "id": f"{namespace}/{metadata['name']}" if namespace else metadata["name"],
        "outputs": resource["inputs"],
        "initErrors": ["its creation was interrupted"],
    }
    resources = [other for other in deployment.get("resources") or [] if other["urn"] != entry["urn"]]
    deployment["resources"] = [*resources, entry]


def _ours(live: dict[str, Any], stack: str) -> bool:
    found = live["metadata"].get("labels") or {}
    return found.get("app.kubernetes.io/managed-by") == MANAGER and found.get(STACK_LABEL) == stack


def _unlock(stack: str, *, force: bool) -> None:
    """Remove the lock of a dead run. Raises RequestError where its owner lives, or may live, elsewhere."""
    state = _pulumi("stack", "export", "-s", stack)
    # Importing a state into itself changes nothing but, unlike exporting it, asks for the lock.
    said = subprocess.run(
        ["pulumi", "stack", "import", "-s", stack, "--non-interactive"], input=state, text=True, capture_output=True
    )
    if said.returncode == 0:
        return
    lock = _LOCKED.search(said.stderr)
    if lock is None:
        raise RequestError(f"pulumi stack import: {said.stderr.strip()}")
    owner = f"{lock['user']}@{lock['host']} (pid {lock['pid']}), since {lock['at']}"
    if not force and (lock["host"] != socket.gethostname() or _alive(int(lock["pid"]))):
        raise RequestError(
            f"stack {stack}: is locked by {owner}, which may be alive: wait for it; if you know that it "
            f"is dead: python -m ops recover {stack} --force"
        )
    time.sleep(_SETTLE_SECONDS)
    _pulumi("cancel", "--yes", "-s", stack)
    print(f"{stack}: removed the lock of {owner}")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _looker(config: StackConfig, stack: str) -> Look:
    """Looks objects up in the stack's cluster, through its kubeconfig if that is a secret of the stack."""
    from kubernetes.client import ApiException
    from kubernetes.dynamic import DynamicClient
    from kubernetes.dynamic.exceptions import ResourceNotFoundError

    secret = subprocess.run(
        ["pulumi", "config", "get", f"{NAMESPACE}:kubeconfig", "-s", stack], capture_output=True, text=True
    )
    cluster = DynamicClient(api_client(config.cluster.context, secret.stdout if secret.returncode == 0 else None))

    def look(manifest: dict[str, Any]) -> dict[str, Any] | None:
        metadata = manifest["metadata"]
        try:
            kind = cluster.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
            return kind.get(name=metadata["name"], namespace=metadata.get("namespace")).to_dict()
        except ResourceNotFoundError:
            return None
        except ApiException as error:
            if error.status == 404:
                return None
            raise RequestError(
                f"the cluster does not answer for {manifest['kind']} {metadata['name']}: {error.status} {error.reason}"
            ) from None

    return look


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

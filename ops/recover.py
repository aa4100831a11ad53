"""`recover STACK`: what a killed `pulumi up` or `destroy` left behind, put right, so that the next one just goes on.

A run that dies leaves a lock, plugins that finish what they were at, operations marked pending, and objects that are in
no state, or are gone and still in it. Here the lock of a dead process is removed, its plugins are ended once Helm has
finished, and what each pending operation was about is read in the cluster. An object that was made, and carries this
stack's labels, is taken into the state as not yet ready: the next `up` updates it and waits, a `destroy` deletes it.
One that is gone leaves the state, one whose update was cut off is updated again, and somebody else's is left alone and
named.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from components.kubernetes import MANAGER, STACK_LABEL
from ops import orphans
from ops.arguments import add_stack, stack_file
from ops.releases import Release, Releases
from stacks.cluster import api_client
from stacks.config import StackConfig
from stacks.refusals import NAMESPACE
from stacks.stackfile import RequestError

_LOCKED = re.compile(r"created by (?P<user>\S+)@(?P<host>\S+) \(pid (?P<pid>\d+)\) at (?P<at>\S+)")
_RELEASE = "kubernetes:helm.sh/v3:Release"
# What was told to go may take as long as its pods are given to end.
_GONE_SECONDS = 60.0
_POLL_SECONDS = 0.5

Resource = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What is in the cluster where an operation was cut off."""

    ours: bool
    going: bool = False


Look = Callable[[Resource], "Found | None"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser)
    parser.add_argument("--force", action="store_true", help="remove the lock even where its owner may be alive")


def run(args: argparse.Namespace) -> int:
    """0 when the stack can go on, 1 when something that is not ours stands in the way."""
    config = stack_file(args).config()
    # Before the lock goes, whose time tells which of Helm's releases the run has made.
    cluster = _Cluster(config, args.stack)
    if torn := drop_torn_attributes(json.loads(_pulumi("whoami", "--verbose", "--json"))["url"], args.stack):
        print(f"{args.stack}: removed {torn.name}, which the kill had left empty: the state beside it is whole")
    cluster.since = _unlock(args.stack, force=args.force)
    state = json.loads(_pulumi("stack", "export", "-s", args.stack))
    pending = _pending(state)
    left = orphans.plugins(Path.cwd())
    if left:
        cluster.await_helm([each["resource"] for each in pending], lambda: orphans.alive(left))
        orphans.end(left)
        print(f"{args.stack}: ended {len(left)} plugin{'s'[: len(left) != 1]} that the run had left")
    if not pending:
        print(f"{args.stack}: nothing is pending")
        return 0
    lines, foreign = settle(state, cluster.look)
    _pulumi("stack", "import", "-s", args.stack, given=json.dumps(state))
    print("\n".join(lines))
    return 1 if foreign else 0


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


def settle(state: dict[str, Any], look: Look) -> tuple[list[str], bool]:
    """Bring `state` in line with the cluster, in place; a line for each operation, and whether something is foreign.

    `look` says what there is of a resource, None for nothing. Operations of the clouds' resources stay as they were
    where the engine repeats them: only their own plugins could look them up, and it asks none of them for a thing that
    it has no id of.
    """
    deployment = state["deployment"]
    lines, kept, foreign = [], [], False
    for operation in _pending(state):
        resource, kind = operation["resource"], operation["type"]
        if not resource["type"].startswith("kubernetes:"):
            if kind == "creating":
                lines.append(
                    f"{resource['type']} {_name(resource)}: whether it was made is unknown; forgotten: the next up "
                    "makes it; if that says that it exists, `pulumi import` it, or remove it there"
                )
            else:
                kept.append(operation)
                lines.append(f"{_name(resource)}: {kind} was cut off; the next up or destroy repeats it")
            continue
        what, found = _what(resource), look(resource)
        if kind == "creating":
            if found is None:
                lines.append(f"{what}: was not made; forgotten")
            elif found.ours:
                lines.append(f"{what}: was made; taken into the state")
                _enter(deployment, resource)
            else:
                foreign = True
                lines.append(
                    f"{what}: is there but not this stack's; left alone: rename the service, or remove the object"
                )
        elif found is None:
            lines.append(f"{what}: is gone; taken out of the state")
            _drop(deployment, resource)
        elif kind == "updating":
            lines.append(f"{what}: its update was cut off; the next up repeats it")
            _mark(deployment, resource, "its update was interrupted")
        elif found.going:
            lines.append(f"{what}: is still being deleted; kept in the state: destroy, or recover once it is gone")
        else:
            lines.append(f"{what}: is still there; kept in the state")
            _mark(deployment, resource, "its deletion was interrupted")
    deployment["pending_operations"] = kept
    return lines, foreign


def _pending(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    return state["deployment"].get("pending_operations") or []


def _name(resource: Resource) -> str:
    return resource["urn"].rpartition("::")[2]


def _what(resource: Resource) -> str:
    about = _about(resource)
    kind = resource["type"].rpartition(":")[2]
    return f"{kind} {about.get('namespace', 'default')}/{about.get('name', _name(resource))}"


def _about(resource: Resource) -> dict[str, Any]:
    """Where its name and namespace stand: a release has no metadata."""
    inputs = resource.get("inputs") or {}
    return inputs if resource["type"] == _RELEASE else inputs.get("metadata") or {}


def _enter(deployment: dict[str, Any], resource: Resource) -> None:
    """Add the object to the state. As it counts as not initialised, the next `up` updates it and waits for it."""
    about = _about(resource)
    namespace = about.get("namespace")
    entry = {key: value for key, value in resource.items() if key != "delete"} | {
        "id": f"{namespace}/{about['name']}" if namespace else about["name"],
        "outputs": resource["inputs"],
        "initErrors": ["its creation was interrupted"],
    }
    resources = [other for other in deployment.get("resources") or [] if other["urn"] != entry["urn"]]
    deployment["resources"] = [*resources, entry]


def _drop(deployment: dict[str, Any], resource: Resource) -> None:
    deployment["resources"] = [other for other in deployment.get("resources") or [] if not _is_same(other, resource)]


def _mark(deployment: dict[str, Any], resource: Resource, why: str) -> None:
    """Let the next `up` write the object again, even where the program is what it was before the cut-off change."""
    for other in deployment.get("resources") or []:
        if _is_same(other, resource):
            other["initErrors"] = [why]


def _is_same(one: Resource, other: Resource) -> bool:
    keys = ("urn", "id", "delete")
    return all((one.get(key) or None) == (other.get(key) or None) for key in keys)


def _unlock(stack: str, *, force: bool) -> str | None:
    """Remove the lock of a dead run; gives the time since which it held it. Raises RequestError where its owner lives,
    or may live, elsewhere."""
    state = _pulumi("stack", "export", "-s", stack)
    # Importing a state into itself changes nothing but, unlike exporting it, asks for the lock.
    said = subprocess.run(
        ["pulumi", "stack", "import", "-s", stack, "--non-interactive"], input=state, text=True, capture_output=True
    )
    if said.returncode == 0:
        return None
    lock = _LOCKED.search(said.stderr)
    if lock is None:
        raise RequestError(f"pulumi stack import: {said.stderr.strip()}")
    owner = f"{lock['user']}@{lock['host']} (pid {lock['pid']}), since {lock['at']}"
    if not force and (lock["host"] != socket.gethostname() or psutil.pid_exists(int(lock["pid"]))):
        raise RequestError(
            f"stack {stack}: is locked by {owner}, which may be alive: wait for it; if you know that it "
            f"is dead: python -m ops recover {stack} --force"
        )
    _pulumi("cancel", "--yes", "-s", stack)
    print(f"{stack}: removed the lock of {owner}")
    return lock["at"]


class _Cluster:
    """The stack's cluster, through its kubeconfig if that is a secret of the stack."""

    since: str | None = None
    """When the run began."""

    def __init__(self, config: StackConfig, stack: str) -> None:
        """Raises RequestError where nobody answers."""
        from kubernetes.client import ApiException
        from kubernetes.dynamic import DynamicClient
        from urllib3.exceptions import HTTPError

        secret = subprocess.run(
            ["pulumi", "config", "get", f"{NAMESPACE}:kubeconfig", "-s", stack], capture_output=True, text=True
        )
        kubeconfig = secret.stdout if secret.returncode == 0 else None
        try:
            self._client = DynamicClient(api_client(config.cluster.context, kubeconfig))
        except (ApiException, HTTPError) as error:
            why = getattr(error, "reason", None) or type(error).__name__
            raise RequestError(
                f"the cluster of context {config.cluster.context} does not answer ({why}); nothing was changed"
            ) from None
        self._releases = Releases(self._client)
        self._stack = stack

    def await_helm(self, resources: list[Resource], go_on: Callable[[], bool]) -> None:
        """Wait until Helm, in a plugin that is still there, has finished with these: cut off, it leaves a release that
        it would not touch again."""
        for resource in resources:
            if resource["type"] != _RELEASE:
                continue
            end = time.monotonic() + (resource["inputs"].get("timeout") or 0)
            while go_on() and time.monotonic() < end and (found := self._release(resource)) and found.is_pending:
                time.sleep(_POLL_SECONDS)

    def look(self, resource: Resource) -> Found | None:
        """What there is of a resource. Raises RequestError where the cluster does not answer."""
        if resource["type"] == _RELEASE:
            release = self._release(resource)
            if release is None:
                return None
            ours = release.is_of(f"{MANAGER} stack {self._stack}", self.since)
            if ours and release.is_pending:
                self._releases.fail(release)
            return Found(ours)
        end = time.monotonic() + _GONE_SECONDS
        while (live := self._object(resource["inputs"])) and live["metadata"].get("deletionTimestamp"):
            if time.monotonic() > end:
                return Found(self._is_ours(live), going=True)
            time.sleep(_POLL_SECONDS)
        return Found(self._is_ours(live)) if live else None

    def _is_ours(self, live: dict[str, Any]) -> bool:
        found = live["metadata"].get("labels") or {}
        return found.get("app.kubernetes.io/managed-by") == MANAGER and found.get(STACK_LABEL) == self._stack

    def _release(self, resource: Resource) -> Release | None:
        inputs = resource["inputs"]
        return self._releases.newest(inputs["namespace"], inputs["name"])

    def _object(self, manifest: dict[str, Any]) -> dict[str, Any] | None:
        from kubernetes.client import ApiException
        from kubernetes.dynamic.exceptions import ResourceNotFoundError

        metadata = manifest["metadata"]
        try:
            kind = self._client.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
            return kind.get(name=metadata["name"], namespace=metadata.get("namespace")).to_dict()
        except ResourceNotFoundError:
            return None
        except ApiException as error:
            if error.status == 404:
                return None
            raise RequestError(
                f"the cluster does not answer for {manifest['kind']} {metadata['name']}: {error.status} {error.reason}"
            ) from None


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

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
import enum
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from components.kubernetes import MANAGER, STACK_LABEL
from ops import clouds, orphans
from ops.arguments import add_stack, stack_file
from ops.releases import Release, Releases, moment
from stacks.cluster import api_client
from stacks.config import StackConfig
from stacks.refusals import NAMESPACE
from stacks.stackfile import RequestError

_LOCKED = re.compile(r"created by (?P<user>\S+)@(?P<host>\S+) \(pid (?P<pid>\d+)\) at (?P<at>\S+)")
_RELEASE = "kubernetes:helm.sh/v3:Release"
# What was told to go may take as long as its pods are given to end.
_GONE_SECONDS = 60.0
_POLL_SECONDS = 0.5
_PROVIDER = "pulumi:providers:"
# What the API server itself changes at every writing, that of a dry run too.
_COUNTED = ("generation", "managedFields", "resourceVersion")
# What the engine marks a secret with in a state (pulumi/pulumi, sdk/go/common/resource/sig).
_SECRET_MARK = "4dabf18193072939515e22adb298388d"

Resource = dict[str, Any]


class UnreadError(Exception):
    """A thing could not be looked up; the text is why, in one line."""


@dataclass(frozen=True)
class Found:
    """What there is of a resource.

    `id` is what a state knows it by. A `setting` is written anew by creating it again. A `lost` one is of no use: what
    only its maker was told is gone. Of an `unlisted` one nobody can say whether it is there.
    """

    ours: bool = True
    id: str = ""
    going: bool = False
    setting: bool = False
    lost: bool = False
    unlisted: bool = False


class Verdict(enum.Enum):
    """What became of an operation that was cut off, as it is told."""

    NOT_MADE = "was not made; forgotten"
    MADE = "was made; taken into the state"
    FOREIGN = (
        "is there but not this stack's; left alone: write another name, remove it, or take it over with `pulumi import`"
    )
    WRITTEN_AGAIN = "is a setting, which the next up writes again; forgotten"
    LOST = "was made, and what only its maker was told is lost; the next up or destroy deletes it"
    UNLISTED = "may have been made, and what only its maker was told is lost; it goes with its user at a destroy"
    GONE = "is gone; taken out of the state"
    CHANGED = "its update was cut off; the next up repeats it"
    GOING = "is still being deleted; kept in the state: destroy, or recover once it is gone"
    KEPT = "is still there; kept in the state"
    REPEATED = "its deletion was cut off; the next up or destroy repeats it"
    UNREAD = "could not be looked up"
    DIFFERS = "is not what the state says; the next up writes it again"


_UNSOLVED = (Verdict.FOREIGN, Verdict.UNREAD)
Look = Callable[[Resource], "Found | None"]


def verdict(operation: str, found: Found | None) -> Verdict:
    """What became of an operation, one of creating, updating and deleting, of which `found` is left."""
    if operation != "creating":
        if found is None:
            return Verdict.GONE
        if found.unlisted:
            return Verdict.REPEATED
        if operation == "updating":
            return Verdict.CHANGED
        return Verdict.GOING if found.going else Verdict.KEPT
    if found is None:
        return Verdict.NOT_MADE
    if found.unlisted:
        return Verdict.UNLISTED
    if found.setting:
        return Verdict.WRITTEN_AGAIN
    if not found.ours:
        return Verdict.FOREIGN
    return Verdict.LOST if found.lost else Verdict.MADE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser)
    parser.add_argument("--force", action="store_true", help="remove the lock even where its owner may be alive")


def run(args: argparse.Namespace) -> int:
    """0 when the stack can go on, 1 when something is in the way, or could not be looked up."""
    config = stack_file(args).config()
    # Before the lock goes, whose time tells which of Helm's releases the run has made.
    cluster = _Cluster(config, args.stack)
    if torn := drop_torn_attributes(json.loads(_pulumi("whoami", "--verbose", "--json"))["url"], args.stack):
        print(f"{args.stack}: removed {torn.name}, which the kill had left empty: the state beside it is whole")
    exported = _pulumi("stack", "export", "-s", args.stack)
    state = json.loads(exported)
    cluster.since = _unlock(args.stack, state, force=args.force)
    pending = _pending(state)
    left = orphans.plugins(Path.cwd())
    if left:
        cluster.await_helm([each["resource"] for each in pending], lambda: orphans.alive(left))
        orphans.end(left)
        print(f"{args.stack}: ended {len(left)} plugin{'s'[: len(left) != 1]} that the run had left")
    cloud = _Clouds(state, cluster.since)

    def look(resource: Resource) -> Found | None:
        return (cluster if _is_in_cluster(resource) else cloud).look(resource)

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
    return 1 if any(outcome.verdict in _UNSOLVED for outcome in outcomes) else 0


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


@dataclass(frozen=True)
class Outcome:
    """What became of one resource, and why if that is not plain."""

    resource: Resource
    verdict: Verdict
    why: str = ""

    @property
    def line(self) -> str:
        """As it is told."""
        return f"{_what(self.resource)}: {self.verdict.value}{f' ({self.why})' if self.why else ''}"

    @property
    def is_reread(self) -> bool:
        """Whether the state needs what only the cloud's plugin can tell."""
        return self.verdict in (Verdict.MADE, Verdict.CHANGED) and not _is_in_cluster(self.resource)


def settle(state: dict[str, Any], look: Look) -> list[Outcome]:
    """Bring `state` in line with what there is, in place; an outcome for each operation that was pending.

    `look` says what there is of a resource, None for nothing, or raises UnreadError: then its operation stays pending.
    """
    deployment = state["deployment"]
    outcomes, kept = [], []
    for operation in _pending(state):
        resource = operation["resource"]
        if not _is_real(resource):
            continue
        try:
            found = look(resource)
        except UnreadError as error:
            kept.append(operation)
            outcomes.append(Outcome(resource, Verdict.UNREAD, str(error)))
            continue
        outcome = Outcome(resource, verdict(operation["type"], found))
        outcomes.append(outcome)
        match outcome.verdict:
            case Verdict.MADE if found:
                _enter(deployment, resource, found.id)
            case Verdict.LOST if found:
                _enter(deployment, resource, found.id, delete=True)
            case Verdict.GONE:
                _drop(deployment, resource)
            case Verdict.CHANGED | Verdict.KEPT if _is_in_cluster(resource):
                _mark(deployment, resource, "it was cut off")
    deployment["pending_operations"] = kept
    return outcomes


def compare(state: dict[str, Any], shown: dict[str, Any], look: Callable[[Resource], Verdict | None]) -> list[Outcome]:
    """Mark, in place, what the cluster has otherwise than `state` says, as an interrupted update leaves it.

    `shown` is the same state with its secrets in plain. `look` gives GONE, DIFFERS or None.
    """
    deployment = state["deployment"]
    # One that is still to be deleted has the URN of the one in its place.
    told = {each["urn"]: each for each in shown["deployment"].get("resources") or [] if not each.get("delete")}
    outcomes = []
    for resource in list(deployment.get("resources") or []):
        if not _is_in_cluster(resource) or resource.get("delete") or resource.get("initErrors"):
            continue
        plain = told.get(resource["urn"])
        try:
            found = look(_revealed(plain)) if plain else None
        except UnreadError as error:
            outcomes.append(Outcome(resource, Verdict.UNREAD, str(error)))
            continue
        if found is Verdict.GONE:
            _drop(deployment, resource)
        elif found is Verdict.DIFFERS:
            _mark(deployment, resource, "an update was interrupted")
        if found:
            outcomes.append(Outcome(resource, found))
    return outcomes


def _revealed(value: Any) -> Any:
    """A value of a state without its secret marks."""
    if isinstance(value, dict):
        if "plaintext" in value and _SECRET_MARK in value:
            return json.loads(value["plaintext"])
        return {key: _revealed(item) for key, item in value.items()}
    return [_revealed(item) for item in value] if isinstance(value, list) else value


def _is_real(resource: Resource) -> bool:
    """Whether there is anything of it outside of the state: of a component and a provider there is not."""
    return resource.get("custom", False) and not resource["type"].startswith(_PROVIDER)


def _is_in_cluster(resource: Resource) -> bool:
    return resource["type"].startswith("kubernetes:")


def _pending(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    return state["deployment"].get("pending_operations") or []


def _name(resource: Resource) -> str:
    return resource["urn"].rpartition("::")[2]


def _what(resource: Resource) -> str:
    kind = resource["type"].rpartition(":")[2]
    if not _is_in_cluster(resource):
        return f"{kind} {_name(resource)}"
    about = _about(resource)
    return f"{kind} {about.get('namespace', 'default')}/{about.get('name', _name(resource))}"


def _about(resource: Resource) -> dict[str, Any]:
    """Where its name and namespace stand: a release has no metadata."""
    inputs = resource.get("inputs") or {}
    return inputs if resource["type"] == _RELEASE else inputs.get("metadata") or {}


def _enter(deployment: dict[str, Any], resource: Resource, id: str, *, delete: bool = False) -> None:
    """Add what was made to the state, or as something to delete. An object of the cluster counts as not initialised:
    the next `up` updates it and waits for it."""
    entry = {key: value for key, value in resource.items() if key != "delete"}
    entry |= {"id": id, "outputs": resource["inputs"]}
    if delete:
        entry["delete"] = True
    elif _is_in_cluster(resource):
        entry["initErrors"] = ["its creation was interrupted"]
    others = [
        other
        for other in deployment.get("resources") or []
        if other["urn"] != entry["urn"] or delete and other.get("id") != id
    ]
    deployment["resources"] = [*others, entry]


def _drop(deployment: dict[str, Any], resource: Resource) -> None:
    """Take it out of the state, which may name nothing that is not in it."""
    left = [other for other in deployment.get("resources") or [] if not _is_same(other, resource)]
    urn = resource["urn"]
    if all(other["urn"] != urn for other in left):
        for other in left:
            lists = [other.get("dependencies"), *(other.get("propertyDependencies") or {}).values()]
            for each in filter(None, lists):
                each[:] = [named for named in each if named != urn]
            if other.get("deletedWith") == urn:
                del other["deletedWith"]
    deployment["resources"] = left


def _mark(deployment: dict[str, Any], resource: Resource, why: str) -> None:
    """Let the next `up` write the object again, even where the program is what it was before the cut-off change."""
    for other in deployment.get("resources") or []:
        if _is_same(other, resource):
            other["initErrors"] = [why]


def _is_same(one: Resource, other: Resource) -> bool:
    keys = ("urn", "id", "delete")
    return all((one.get(key) or None) == (other.get(key) or None) for key in keys)


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
        """What there is of a resource. Raises UnreadError where the cluster does not say."""
        about = _about(resource)
        namespace = about.get("namespace")
        id = f"{namespace}/{about['name']}" if namespace else about["name"]
        if resource["type"] == _RELEASE:
            release = self._release(resource)
            if release is None:
                return None
            ours = release.is_of(f"{MANAGER} stack {self._stack}", self.since)
            if ours and release.is_pending:
                self._releases.fail(release)
            return Found(ours, id)
        end = time.monotonic() + _GONE_SECONDS
        while (live := self._object(resource["inputs"])) and live["metadata"].get("deletionTimestamp"):
            if time.monotonic() > end:
                return Found(self._is_ours(live), id, going=True)
            time.sleep(_POLL_SECONDS)
        return Found(self._is_ours(live), id) if live else None

    def compare(self, resource: Resource) -> Verdict | None:
        """GONE, DIFFERS, or None for what is as the resource, its secrets in plain, says.

        The API server says what it would make of the resource's inputs now: its defaults and its webhooks are in both.
        """
        if resource["type"] == _RELEASE:
            release = self._release(resource)
            if release is None:
                return Verdict.GONE
            if release.has(resource["inputs"]):
                return None
            if release.is_pending:
                self._releases.fail(release)
            return Verdict.DIFFERS
        manifest = resource["inputs"]
        live = self._object(manifest)
        if live is None:
            return Verdict.GONE
        if live["metadata"].get("deletionTimestamp"):
            return None
        wanted = self._as_written(manifest, (resource.get("outputs") or {}).get("__fieldManager"))
        ignored = resource.get("ignoreChanges") or []
        return None if wanted is None or _content(wanted, ignored) == _content(live, ignored) else Verdict.DIFFERS

    def _as_written(self, manifest: dict[str, Any], manager: str | None) -> dict[str, Any] | None:
        """The object that writing the manifest would make; None where the cluster refuses it."""
        from kubernetes.client import ApiException

        metadata = manifest["metadata"]
        kind = self._client.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
        try:
            return kind.server_side_apply(
                body=manifest,
                name=metadata["name"],
                namespace=metadata.get("namespace"),
                field_manager=manager or "pulumi-kubernetes",
                force_conflicts=True,
                dry_run="All",
            ).to_dict()
        except ApiException:
            return None

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
            raise UnreadError(f"the cluster answers {error.status} {error.reason}") from None


def _content(live: dict[str, Any], ignored: Sequence[str]) -> dict[str, Any]:
    """What somebody wrote, of an object: without what the API server counts, and `ignored` paths."""
    metadata = {key: value for key, value in live["metadata"].items() if key not in _COUNTED}
    content = {key: value for key, value in live.items() if key != "status"} | {"metadata": metadata}
    for path in ignored:
        *parents, last = path.split(".")
        place: Any = content
        for name in parents:
            place = place.get(name) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.pop(last, None)
    return content


class _Clouds:
    """The clouds of the stack's pending operations, asked once and only where there are some."""

    def __init__(self, state: dict[str, Any], since: str | None) -> None:
        self._since = moment(since) if since else None
        resources = state["deployment"].get("resources") or []
        self._ids = {(each["urn"], each.get("id")) for each in resources}
        places = {
            each["urn"]: each["inputs"].get("region", "") for each in resources if each["type"].startswith(_PROVIDER)
        }
        asked = [each["resource"] for each in _pending(state) if each["resource"]["type"] in clouds.KINDS]
        regions = {each["urn"]: places.get(each["provider"].rpartition("::")[0], "") for each in asked}
        self._answers = clouds.find(asked, regions)

    def look(self, resource: Resource) -> Found | None:
        """What there is of a resource. Raises UnreadError where the cloud does not say, or nothing is known of it."""
        kind, urn, id = clouds.KINDS.get(resource["type"]), resource["urn"], resource.get("id")
        if kind is None:
            raise UnreadError(f"nobody knows how to look up a {resource['type']}")
        if kind.lookup is None:
            return Found(unlisted=True)
        answer = self._answers[urn]
        if isinstance(answer, str):
            raise UnreadError(answer)
        # One that has an id was made before the run; of those without, the state's own are others.
        items = [each for each in answer if (each.id == id if id else (urn, each.id) not in self._ids)]
        if not items:
            return None
        item = items[0]
        ours = kind.named or self._since is not None and item.is_since(self._since)
        return Found(ours, item.id, setting=kind.written_again, lost=kind.secret)


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

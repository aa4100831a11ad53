"""`rotate STACK`: replaces the bucket's access keys with new ones, without interrupting whoever reads the bucket.

The stack file lists the generations of keys that exist, the one in use first (`weights.bucket.keys`). With both in it,
`pulumi up` creates the new users and keys and switches the Secrets; once nobody reads with the old key, the file names
only the new generation, and `pulumi up` deletes the old users with their keys. So file and state are true at every
step, and a killed rotation resumes where it stopped. A key that a killed run created, and that nobody knows, is deleted
with its user. Keys never pass through this command: only the engine and the cloud's plugin see them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from config.errors import NAMESPACE
from config.stack import StackConfig, made_keys, own_bucket
from config.stack_file import RequestError
from config.weights import BucketWeights
from ops import recover
from ops.arguments import add_stack, not_negative, stack_file
from planning.catalog import fact
from watch.outcomes import pending_operations, resources_of
from watch.rollout import is_ready

State = Mapping[str, Any]
Object = Mapping[str, Any]

_KEYS = f"{NAMESPACE}:weights.bucket.keys"
_SECRET = "kubernetes:core/v1:Secret"
_POLL_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser)
    parser.add_argument(
        "--pause",
        type=not_negative,
        default=fact("fluid", "fluid", "secretSeconds"),
        metavar="SECONDS",
        help="how long pods that mount a Secret may take to see the new key",
    )
    parser.add_argument(
        "--limit",
        type=not_negative,
        default=3600,
        metavar="SECONDS",
        help="how long to wait for pods that still load weights by the old key",
    )


def run(args: argparse.Namespace) -> int:
    """0 when the old keys are gone, 1 when somebody still reads with them. Raises RequestError if there is nothing to
    rotate, or something else has to happen first."""
    file = stack_file(args)
    config, stack = file.config(), args.stack
    keys = generations(config, file.encrypted)
    recover.make_readable(stack)
    state = _state(stack)
    begun = len(keys) > 1 or outlived(state, keys[0])
    if begun or pending_operations(state):
        if recover.repair(config, stack):
            raise RequestError(f"{stack}: was left by a run that was killed, and is not recovered; nothing was rotated")
        state = _state(stack)
    if len(keys) == 1 and outlived(state, keys[0]):
        return _finish(stack, keys[0])
    if len(keys) == 1:
        _require_settled(stack)
        keys = (keys[0] + 1, keys[0])
        _write(stack, keys)
    elif lost(state, keys[0]):
        # A user has at most two keys, and nobody may know one of them: a new generation means new users.
        keys = (keys[0] + 1, keys[1])
        _write(stack, keys)
    print(f"{stack}: keys of generation {keys[0]} come beside those of {keys[1]}", flush=True)
    _up(stack)
    secrets = key_secrets(_state(stack))
    left = _await_readers(config, stack, secrets, args.limit)
    if left:
        print(f"{stack}: {', '.join(left)} still load weights by the old key; both stay: rotate again once they are up")
        return 1
    if config.cache.engine == "fluid":
        print(f"{stack}: {args.pause:.0f} s for the cache's pods to see the new key", flush=True)
        time.sleep(args.pause)
    _write(stack, keys[:1])
    return _finish(stack, keys[0])


def _finish(stack: str, generation: int) -> int:
    """Delete all keys except those of the one generation that the file names."""
    _up(stack)
    print(f"{stack}: only keys of generation {generation} are left; commit the stack file, which names it")
    return 0


def generations(config: StackConfig, secrets: Collection[str]) -> tuple[int, ...]:
    """The generations of keys that the stack file names. Raises RequestError if none can be rotated."""
    bucket = own_bucket(config)
    users = made_keys(config, frozenset(secrets))
    if bucket is None or not users:
        raise RequestError("the stack makes no access keys: there is nothing to rotate")
    weights = config.weights
    mounts = isinstance(weights, BucketWeights) and weights.read == "volume" and config.cache.engine == "none"
    if mounts and "reader" in users:
        raise RequestError(
            "the mounts of running pods keep the key that they were made with, and would break: "
            "write cluster.oidc, so that they take a role"
        )
    return bucket.keys


def lost(state: State, generation: int) -> set[str]:
    """The users of a generation, by logical name, that have no key in the state."""
    users, keys = (set(_names(state, kind)) for kind in ("User", "AccessKey"))
    return {name for name in users - keys if _generation(name) == generation}


def outlived(state: State, generation: int) -> set[str]:
    """Users of other generations, by logical name, that still exist."""
    return {name for name in _names(state, "User") if _generation(name) != generation}


def _generation(name: str) -> int:
    last = name.rpartition("-")[2]
    return int(last) if last.isdigit() else 1


def _names(state: State, kind: str) -> Iterator[str]:
    for each in resources_of(state):
        if each["type"].endswith(f":{kind}") and not each.get("delete"):
            yield each["urn"].rpartition("::")[2]


def key_secrets(state: State) -> set[str]:
    """The cluster's Secrets, by name, that hold keys of the stack's own users."""
    return {
        each["outputs"]["metadata"]["name"]
        for each in resources_of(state)
        if each["type"] == _SECRET and any(":AccessKey::" in urn for urn in each.get("dependencies") or [])
    }


def readers(pods: Sequence[Object], secrets: Collection[str]) -> dict[str, str]:
    """The pods, by uid, that still depend on what a Secret held when they started; each with its name.

    A container reads its variables when it starts. A ready engine has its weights already; a Job reads until it ends.
    """
    names = {}
    for pod in pods:
        owners = pod["metadata"].get("ownerReferences") or []
        ready = is_ready(pod) and not any(owner["kind"] == "Job" for owner in owners)
        for kind in ("initContainer", "container"):
            started = {
                each["name"]
                for each in pod["status"].get(f"{kind}Statuses") or []
                if "running" in (each.get("state") or {})
            }
            for container in pod["spec"].get(f"{kind}s") or []:
                if container["name"] in started and _names_one(container, secrets) and not ready:
                    names[pod["metadata"]["uid"]] = pod["metadata"]["name"]
    return names


def _names_one(container: Object, secrets: Collection[str]) -> bool:
    sources = [(each.get("valueFrom") or {}).get("secretKeyRef") for each in container.get("env") or []]
    return any(source and source.get("name") in secrets for source in sources)


def _await_readers(config: StackConfig, stack: str, secrets: Collection[str], limit: float) -> list[str]:
    """Waits for the pods that read with the old key; returns the names of those that still do at the time limit."""
    from watch.client import dynamic_client, errors

    kubeconfig = recover.kubeconfig(stack)
    began, waited = time.monotonic(), None
    while True:
        try:
            api = dynamic_client(config.cluster.context, kubeconfig).resources.get(api_version="v1", kind="Pod")
            pods = [each.to_dict() for each in api.get(namespace=config.cluster.namespace).items]
        except errors() as error:
            why = getattr(error, "reason", None) or type(error).__name__
            raise RequestError(f"the cluster of context {config.cluster.context} does not answer ({why})") from None
        there = readers(pods, secrets)
        waited = there if waited is None else {uid: name for uid, name in waited.items() if uid in there}
        if not waited or time.monotonic() - began > limit:
            return sorted(waited.values())
        print(f"{stack}: waiting for {', '.join(sorted(waited.values()))} to load by the old key", flush=True)
        time.sleep(_POLL_SECONDS)


def _state(stack: str) -> State:
    return json.loads(recover.pulumi("stack", "export", "-s", stack))


def _require_settled(stack: str) -> None:
    """A rotation must not bring along any other change."""
    command = ["pulumi", "preview", "-s", stack, "--expect-no-changes", "--non-interactive"]
    said = subprocess.run(command, capture_output=True, text=True)
    if said.returncode:
        print(said.stdout + said.stderr, file=sys.stderr, end="")
        raise RequestError(f"stack {stack} is not what its file says: run `pulumi up -s {stack}` first")


def _write(stack: str, keys: Sequence[int]) -> None:
    """Writes these generations to the stack file, in one write."""
    if len(keys) == 1:
        recover.pulumi("config", "rm", "-s", stack, "--path", f"{_KEYS}[1]")
        return
    values = [word for place, key in enumerate(keys) for word in ("--plaintext", f"{_KEYS}[{place}]={key}")]
    recover.pulumi("config", "set-all", "-s", stack, "--path", *values)


def _up(stack: str) -> None:
    done = subprocess.run(["pulumi", "up", "-s", stack, "--yes", "--skip-preview", "--non-interactive"])
    if done.returncode:
        raise RequestError(f"pulumi up failed: mend that, then run `python -m ops rotate {stack}` again, which goes on")

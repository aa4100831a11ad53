"""`render STACK`: every Kubernetes object that the program would register, as YAML documents.

It runs the program of `pulumi up` with a recorder instead of Pulumi's engine, so the output is what would be applied,
except for secrets: this command never has their values.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
from typing import Any, NoReturn

import pulumi
import yaml

from components.weights import oss_bucket, tos_bucket
from config.errors import NAMESPACE
from config.plans import checked
from config.secrets import SECRETS
from config.stack_file import StackFile
from ops.arguments import add_stack, stack_file
from stacks.program import build


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON list")


def run(args: argparse.Namespace) -> int:
    """Prints the objects. Raises ConfigError if the stack file is refused."""
    file = stack_file(args)
    objects = render(file, args.stack)
    if args.json:
        print(json.dumps(objects, indent=2))
    else:
        # Otherwise one non-ASCII character turns a whole script into a single quoted line.
        unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        yaml.dump_all(objects, sys.stdout, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=unicode)
    return 0


def render(file: StackFile, stack: str) -> list[dict[str, Any]]:
    """The objects of a stack in a fixed order, custom resources after the built-in objects that they may refer to."""
    return sorted(registered(file, stack).objects, key=_order)


def registered(file: StackFile, stack: str) -> Recorder:
    """What the program would register, without engine or cluster."""
    config, plans = checked(file, with_cluster=False)
    recorder = Recorder()
    # The SDK needs a current event loop, and a plain command has none.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pulumi.runtime.set_mocks(recorder, project=NAMESPACE, stack=stack, preview=True)
    secrets = {f"{NAMESPACE}:{key}": f"<{key}>" for key in SECRETS if key in file.encrypted}
    pulumi.runtime.set_all_config(secrets, list(secrets))

    @pulumi.runtime.test
    def program() -> pulumi.Output[Any]:
        return pulumi.Output.from_input(build(config, plans))

    try:
        program()
    finally:
        loop.close()
        asyncio.set_event_loop(None)
    return recorder


def _order(manifest: dict[str, Any]) -> tuple[bool, str, str]:
    group = manifest["apiVersion"].rpartition("/")[0]
    built_in = "." not in group or (group.endswith(".k8s.io") and not group.endswith("x-k8s.io"))
    return not built_in, manifest["kind"], manifest["metadata"]["name"]


# Each cloud's name for a key's secret and for a bucket's name.
_KEYS = {oss_bucket.ACCESS_KEY: "secret", tos_bucket.ACCESS_KEY: "secretAccessKey"}
_BUCKETS = {oss_bucket.BUCKET: "bucket", tos_bucket.BUCKET: "bucketName"}


class Recorder(pulumi.runtime.Mocks):
    """Keeps the inputs of Kubernetes objects, and of all others by type and name; answers as if each had been made."""

    def __init__(self) -> None:
        self.objects: list[dict[str, Any]] = []
        self.others: dict[tuple[str, str], dict[str, Any]] = {}

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        if "kind" in args.inputs and args.typ.startswith("kubernetes:"):
            self.objects.append(_plain(args.inputs))
        else:
            self.others[args.typ, args.name] = _unwrapped(args.inputs)
        return _id(args), args.inputs | _made(args)

    def call(self, args: pulumi.runtime.MockCallArgs) -> NoReturn:
        raise ValueError(f"{args.token}: a look-up, which a rendering cannot make")


def _id(args: pulumi.runtime.MockResourceArgs) -> str:
    """The id of a created resource; objects refer to others by it."""
    if "kind" not in args.inputs:
        return "<access key id>" if args.typ in _KEYS else args.name
    metadata = args.inputs["metadata"]
    return "/".join(metadata[key] for key in ("namespace", "name") if key in metadata)


def _made(args: pulumi.runtime.MockResourceArgs) -> dict[str, Any]:
    """Outputs that only the cloud or the cluster knows, for a resource that is created, or looked up by its id."""
    if args.typ in _KEYS:
        return {_KEYS[args.typ]: "<access key secret>"}
    if args.typ in _BUCKETS and args.resource_id:
        return {_BUCKETS[args.typ]: args.resource_id}
    if args.typ.endswith(":DataLoad"):
        return {"status": {"phase": "Complete"}}
    if args.typ.endswith(":Service"):
        return {"status": {"loadBalancer": {"ingress": [{"ip": "<address>"}]}}}
    return {}


def _plain(inputs: dict[str, Any]) -> dict[str, Any]:
    """The manifest as a person writes it: identity first, whole numbers as integers, secrets as placeholders."""
    manifest = _unwrapped(inputs)
    if manifest["kind"] == "Secret":
        data = manifest.pop("data", {})
        manifest["stringData"] = {key: base64.b64decode(value).decode() for key, value in data.items()}
    first = ("apiVersion", "kind", "metadata")
    return {key: manifest[key] for key in (*first, *(key for key in manifest if key not in first))}


def _unwrapped(value: Any) -> Any:
    if isinstance(value, dict):
        if pulumi.runtime.rpc._special_sig_key in value:
            return _unwrapped(value["value"])
        return {key: _unwrapped(child) for key, child in sorted(value.items())}
    if isinstance(value, list):
        return [_unwrapped(child) for child in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Dumper(yaml.SafeDumper):
    """Writes scripts as block text, and no anchors, which some readers of manifests do not support."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)

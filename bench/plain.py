"""The alternative for a user: a plain Pulumi program that declares the same objects with the typed SDK."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pprint import pformat
from typing import Any

_HEAD = """\
import pulumi
import pulumi_kubernetes as k8s

on = pulumi.ResourceOptions(provider=k8s.Provider("cluster", context="rehearsal"))
"""


def source(objects: Iterable[Mapping[str, Any]]) -> str:
    """The text of such a program: one call per object, with its content as literals."""
    return _HEAD + "".join(map(_call, objects))


def _call(manifest: Mapping[str, Any]) -> str:
    group, _, version = manifest["apiVersion"].rpartition("/")
    built_in = "." not in group or (group.endswith(".k8s.io") and not group.endswith("x-k8s.io"))
    given = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind")}
    if built_in:
        called = f"k8s.{group.partition('.')[0] or 'core'}.{version}.{manifest['kind']}"
    else:
        called = "k8s.apiextensions.CustomResource"
        given = {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], **given}
    name = f"{manifest['kind']}-{manifest['metadata']['name']}".lower()
    arguments = "".join(f"    {_snake(key)}={pformat(value, width=110)},\n" for key, value in given.items())
    return f"{called}(\n    {name!r},\n{arguments}    opts=on,\n)\n"


def _snake(key: str) -> str:
    return re.sub(r"[A-Z]", lambda upper: f"_{upper[0].lower()}", key)

"""A bucket's access key, and the Secret objects that carry it into the cluster. Each reader wants other names for the
same two values: they are given once, as a KeyPair."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from components.cluster.kubernetes import Manifest, labels


@dataclass(frozen=True)
class KeyPair:
    """An access key of the cloud. Both are secret Outputs: the id names an account's user, the secret signs for it."""

    id: pulumi.Output[str]
    secret: pulumi.Output[str]


@dataclass(frozen=True)
class SecretKey:
    """One value of a Secret object, by the object's name and the field in it."""

    secret: str
    field: str


def key_secret(
    name: str, stack: str, namespace: str, instance: str, values: Mapping[str, pulumi.Output[str]]
) -> Manifest:
    """The Secret called `name` of the part `instance` of the stack: field to secret value, such as `akId` to an id."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": name, "namespace": namespace, "labels": labels(stack, instance)},
        "data": {field: _secret(value).apply(_encoded) for field, value in values.items()},
    }


def _secret(value: pulumi.Input[str]) -> pulumi.Output[str]:
    return pulumi.Output.secret(value)


def _encoded(value: str) -> str:
    return base64.b64encode(value.encode()).decode()

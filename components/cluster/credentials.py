"""A bucket's access key, and the Secret objects that carry it into the cluster. Each reader wants different field names
for the same two values, so the values travel as one KeyPair. Pods that take a role of the cloud need no key."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from components.cluster.kubernetes import Manifest, labels


@dataclass(frozen=True)
class KeyPair:
    """A cloud access key. Both are secret Outputs: the id identifies an account's user, the secret signs requests."""

    id: pulumi.Output[str]
    secret: pulumi.Output[str]


@dataclass(frozen=True)
class Oidc:
    """Who vouches for a cluster's pods: the `provider`'s ARN in the cloud, and the `issuer` of the pods' tokens."""

    provider: str
    issuer: str


@dataclass(frozen=True)
class Role:
    """A role of the cloud that pods take in place of a key, `name` known when it may be taken."""

    name: pulumi.Output[str]


@dataclass(frozen=True)
class SecretKey:
    """One value of a Secret object, by the object's name and the field in it."""

    secret: str
    field: str


def key_secret(
    name: str, stack: str, namespace: str, instance: str, values: Mapping[str, pulumi.Output[str]]
) -> Manifest:
    """The Secret `name` of the stack's part `instance`. `values` maps a field, such as `akId`, to its secret value."""
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

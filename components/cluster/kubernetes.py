"""Registers a Kubernetes manifest, and the cluster's provider, as resources under the official SDK's type tokens.

Owns that mapping and the labels of every object of ours. It does not import the SDK: the top level alone takes 0.05 s
at every preview, and `core.v1` more than the rest of the program. Tests check each manifest against the API's own
schema, which is stricter than the SDK's types. The SDK stays installed, because Pulumi learns from installed packages
which plugins a program needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

PLUGIN_VERSION = "4.34.2"  # of the pulumi-kubernetes in requirements.txt
MANAGER = "modelserve"
STACK_LABEL = "modelserve.dev/stack"
RELEASE = "kubernetes:helm.sh/v3:Release"

Manifest = dict[str, Any]


def labels(stack: str, service: str) -> dict[str, str]:
    """Labels of every object. They name the owner: after an interrupted `up`, only own objects are adopted."""
    return {"app.kubernetes.io/managed-by": MANAGER, "app.kubernetes.io/instance": service, STACK_LABEL: stack}


def stack_of(labels: Mapping[str, str] | None) -> str | None:
    """The stack that an object with these labels belongs to; None for somebody else's object."""
    labels = labels or {}
    return labels.get(STACK_LABEL) if labels.get("app.kubernetes.io/managed-by") == MANAGER else None


def release_description(stack: str) -> str:
    """Description of a Helm release. It names the stack, because a release has no labels of ours."""
    return f"{MANAGER} stack {stack}"


def kubernetes_provider(name: str, context: str, kubeconfig: pulumi.Output[str] | None) -> pulumi.ProviderResource:
    """The provider for one kubeconfig context; `kubeconfig` is content, or None for this machine's files."""
    return pulumi.ProviderResource(
        "kubernetes",
        name,
        {
            # Empty, not absent: without it the path from KUBECONFIG is recorded, which differs between machines.
            "kubeconfig": kubeconfig if kubeconfig is not None else "",
            "context": context,
            # A new certificate or address of the same cluster must not replace every object.
            "clusterIdentifier": context,
            # Else a rotated key would replace its Secret, and what mounts the cache behind it.
            "enableSecretMutable": "true",
        },
        pulumi.ResourceOptions(version=PLUGIN_VERSION),
    )


class KubernetesObject(pulumi.CustomResource):
    """An object of the cluster."""

    status: pulumi.Output[Any]
    """The object's status when Pulumi's wait for it ended."""


def kubernetes_object(name: str, manifest: Mapping[str, Any], opts: pulumi.ResourceOptions) -> KubernetesObject:
    """The resource of one manifest (camelCase; leaves may be Outputs). `name` is its logical name.

    Annotations and `opts` decide about waiting and replacement, not this function.
    """
    group_version = manifest["apiVersion"]
    token = f"kubernetes:{group_version if '/' in group_version else f'core/{group_version}'}:{manifest['kind']}"
    if manifest["kind"] == "Secret":
        opts = pulumi.ResourceOptions.merge(
            opts, pulumi.ResourceOptions(additional_secret_outputs=["data", "stringData"])
        )
    # An input of None makes the SDK return the output of that name.
    return KubernetesObject(token, name, {**manifest, "status": None}, opts)

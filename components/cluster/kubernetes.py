"""Registers a Kubernetes manifest, and the cluster's provider, as resources under the official SDK's type tokens.

Owns that mapping and what every object of ours carries. The SDK itself is left aside on purpose: its top level alone
costs a twentieth of a second at every preview, `core.v1` more than the rest of the program, and a manifest checked
against the API's own schema (tests do that) is typed better than by them. It stays installed, because the engine learns
from installed packages which plugin a program needs.
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
    """Labels of every object: whose they are decides what may be taken over after an interrupted `up`."""
    return {"app.kubernetes.io/managed-by": MANAGER, "app.kubernetes.io/instance": service, STACK_LABEL: stack}


def stack_of(labels: Mapping[str, str] | None) -> str | None:
    """The stack that an object with these labels belongs to, None for somebody else's object."""
    found = labels or {}
    return found.get(STACK_LABEL) if found.get("app.kubernetes.io/managed-by") == MANAGER else None


def release_description(stack: str) -> str:
    """What tells whose a Helm release is, which has no labels of ours."""
    return f"{MANAGER} stack {stack}"


def kubernetes_provider(name: str, context: str, kubeconfig: pulumi.Output[str] | None) -> pulumi.ProviderResource:
    """The provider for one kubeconfig context; `kubeconfig` is content, or None for this machine's files."""
    return pulumi.ProviderResource(
        "kubernetes",
        name,
        {
            # Empty, not absent: absent records the path in KUBECONFIG, which differs from machine to machine.
            "kubeconfig": kubeconfig if kubeconfig is not None else "",
            "context": context,
            # A new certificate or address of the same cluster must not replace every object.
            "clusterIdentifier": context,
        },
        pulumi.ResourceOptions(version=PLUGIN_VERSION),
    )


class KubernetesObject(pulumi.CustomResource):
    """An object of the cluster."""

    status: pulumi.Output[Any]
    """The object's status when the wait for it was over."""


def kubernetes_object(name: str, manifest: Mapping[str, Any], opts: pulumi.ResourceOptions) -> KubernetesObject:
    """The resource of one manifest (camelCase; leaves may be Outputs). `name` is its logical name.

    Nothing is decided here about waiting or replacement: annotations and `opts` say that.
    """
    group_version = manifest["apiVersion"]
    token = f"kubernetes:{group_version if '/' in group_version else f'core/{group_version}'}:{manifest['kind']}"
    if manifest["kind"] == "Secret":
        opts = pulumi.ResourceOptions.merge(
            opts, pulumi.ResourceOptions(additional_secret_outputs=["data", "stringData"])
        )
    # An absent input is what asks the SDK for the output of that name.
    return KubernetesObject(token, name, {**manifest, "status": None}, opts)

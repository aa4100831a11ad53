"""Registers a Kubernetes manifest as a resource, under the type token of the official SDK.

Owns that mapping and what every object of ours carries. The SDK's typed classes are left aside on purpose: importing
`core.v1` alone costs more CPU time than the rest of the program, and a manifest checked against the API's own schema
(tests do that) is typed better than by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

MANAGER = "modelserve"
STACK_LABEL = "modelserve.dev/stack"

Manifest = dict[str, Any]


def labels(stack: str, service: str) -> dict[str, str]:
    """Labels of every object: whose they are decides what may be taken over after an interrupted `up`."""
    return {"app.kubernetes.io/managed-by": MANAGER, "app.kubernetes.io/instance": service, STACK_LABEL: stack}


def kubernetes_object(name: str, manifest: Mapping[str, Any], opts: pulumi.ResourceOptions) -> pulumi.CustomResource:
    """The resource of one manifest (camelCase; leaves may be Outputs). `name` is its logical name.

    Nothing is decided here about waiting or replacement: annotations and `opts` say that.
    """
    group_version = manifest["apiVersion"]
    token = f"kubernetes:{group_version if '/' in group_version else f'core/{group_version}'}:{manifest['kind']}"
    if manifest["kind"] == "Secret":
        opts = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(
            additional_secret_outputs=["data", "stringData"]))
    return pulumi.CustomResource(token, name, dict(manifest), opts)

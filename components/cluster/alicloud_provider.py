"""The provider of Alibaba Cloud, under the official SDK's name and version.

Resources are registered by type token, as for Kubernetes (kubernetes.py), and the SDK is never imported: loading its
modules takes longer than the rest of a preview. Tests check every argument against the SDK's own classes.
"""

from __future__ import annotations

import pulumi

PLUGIN_VERSION = "4.0.0"  # of the pulumi-alicloud in requirements.txt


def alicloud_provider(name: str, region: str) -> pulumi.ProviderResource:
    """The provider for one region. Its credentials come from the environment (ALICLOUD_ACCESS_KEY,
    ALICLOUD_SECRET_KEY): as arguments they would be in the state in plain text."""
    return pulumi.ProviderResource("alicloud", name, {"region": region}, pulumi.ResourceOptions(version=PLUGIN_VERSION))

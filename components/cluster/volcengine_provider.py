"""The provider of Volcengine, under the official SDK's name and version.

Resources are registered by type token, as for Alibaba Cloud (alicloud_provider.py), and the SDK is never imported. Here
the reason is not only speed: the SDK's Provider class copies the keys from the environment into its arguments, and so
into the state. Tests check every argument against the SDK's own classes.
"""

from __future__ import annotations

import pulumi

PLUGIN_VERSION = "0.0.47"  # of the pulumi-volcengine in requirements.txt
PLUGIN_SERVER = "github://api.github.com/volcengine"
"""Where Pulumi downloads the plugin: the vendor publishes it there, not with Pulumi's own plugins."""


def volcengine_provider(name: str, region: str) -> pulumi.ProviderResource:
    """The provider for one region. Its credentials come from the environment (VOLCENGINE_ACCESS_KEY,
    VOLCENGINE_SECRET_KEY), which the plugin reads: as arguments they would be in the state in plain text."""
    opts = pulumi.ResourceOptions(version=PLUGIN_VERSION, plugin_download_url=PLUGIN_SERVER)
    return pulumi.ProviderResource("volcengine", name, {"region": region}, opts)

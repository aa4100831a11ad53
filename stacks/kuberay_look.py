"""Whether somebody else's KubeRay runs in the cluster already: two operators would fight over every RayCluster."""

from __future__ import annotations

from components.aibrix import other_kuberay
from planning.errors import Problem
from stacks.cluster import api_client
from stacks.config import StackConfig, aibrix_choice, installs_aibrix
from stacks.refusals import ConfigError

_TIMEOUT_SECONDS = (3, 10)


def check(config: StackConfig, kubeconfig: str | None) -> None:
    """Raises ConfigError where AIBrix's KubeRay would be the second. What cannot be read is not judged."""
    kuberay = aibrix_choice(config).kuberay
    if not installs_aibrix(config) or kuberay != "aibrix":
        return
    import urllib3
    from kubernetes import client
    from kubernetes import config as files

    try:
        api = api_client(config.cluster.context, kubeconfig)
        found = client.AppsV1Api(api).list_deployment_for_all_namespaces(_request_timeout=_TIMEOUT_SECONDS)
    except (client.ApiException, files.ConfigException, urllib3.exceptions.HTTPError):
        return
    other = other_kuberay([api.sanitize_for_serialization(each) for each in found.items])
    if other:
        why = f"another KubeRay operator runs in this cluster, {other}, and two fight over every RayCluster"
        raise ConfigError([Problem("addons.aibrix.kuberay", kuberay, why, "write kuberay: none, or remove that one")])

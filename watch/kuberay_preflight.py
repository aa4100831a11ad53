"""Whether somebody else's KubeRay runs in the cluster already: two operators would fight over every RayCluster."""

from __future__ import annotations

from components.cluster.aibrix import other_kuberay
from config.errors import ConfigError
from config.stack import StackConfig, aibrix_choice, installs_aibrix
from planning.problems import Problem
from watch import client


def check(config: StackConfig, kubeconfig: str | None) -> None:
    """Raises ConfigError where AIBrix's KubeRay would be the second. What cannot be read is not judged."""
    kuberay = aibrix_choice(config).kuberay
    if not installs_aibrix(config) or kuberay != "aibrix":
        return
    from kubernetes.client import AppsV1Api

    try:
        api = client.api_client(config.cluster.context, kubeconfig)
        found = AppsV1Api(api).list_deployment_for_all_namespaces()
    except client.errors():
        return
    other = other_kuberay([api.sanitize_for_serialization(each) for each in found.items])
    if other:
        why = f"another KubeRay operator runs in this cluster, {other}, and two fight over every RayCluster"
        raise ConfigError([Problem("addons.aibrix.kuberay", kuberay, why, "write kuberay: none, or remove that one")])

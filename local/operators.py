"""What a control plane gets, at its start or for one cloud: CRDs, and operators that really run."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

from local import processes
from local.api import Api, load_documents
from local.toolchain import module

SELDOM = {"AIBRIX_POD_METRIC_REFRESH_INTERVAL_MS": "1000"}
"""AIBrix's programs read the metrics of all engines every 50 ms, which keeps a core busy that tests need."""
POD_PROXY = "pod-proxy"
"""The file in a control plane's folder with the URL by which pods' addresses are reached."""


@dataclass(frozen=True)
class Operator:
    """An operator, run as a process on this machine. `arguments` receives `ports` free ports, the first for webhooks.

    `webhooks` is a file in `module`; its configurations are pointed at the process. `pod_label` limits those on pods.
    `reads_pods`: it asks pods at their own addresses.
    """

    name: str
    program: str
    module: str
    ports: int
    arguments: Callable[[Path, tuple[int, ...]], list[str]]
    webhooks: str = ""
    pod_label: str = ""
    reads_pods: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def _lws_arguments(folder: Path, ports: tuple[int, ...]) -> list[str]:
    webhook, health = ports
    settings = {
        "apiVersion": "config.lws.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"host": "127.0.0.1", "port": webhook, "certDir": str(folder / "webhook-pki")},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
    }
    file = folder / "lws-manager.json"
    file.write_text(json.dumps(settings))
    return [f"--config={file}"]


def _aibrix_arguments(_: Path, __: tuple[int, ...]) -> list[str]:
    # Its webhooks listen on a fixed port, which two control planes cannot share.
    addresses = ["-metrics-bind-address=0", "-health-probe-bind-address=0"]
    return ["-disable-webhook", "-leader-elect=false", *addresses]


def _kuberay_arguments(_: Path, __: tuple[int, ...]) -> list[str]:
    return ["-enable-leader-election=false", "-metrics-addr=0", "-health-probe-bind-address=0"]


@dataclass(frozen=True)
class Equipment:
    """What a control plane gets. `players` are modules of this package; each plays a controller, in its own process.

    `crds` pairs a module with its CustomResourceDefinition files, also for operators that do not run here.
    `programs` maps a player to the programs that it starts: the player's option to the program's name.
    """

    operators: tuple[Operator, ...]
    players: tuple[str, ...]
    crds: tuple[tuple[str, str], ...]
    programs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


# What every control plane starts with. Of CRDs whose operator does not run here it takes only the kinds that a workload
# creates: the rest is megabytes of schema, which every start and every run of the kubernetes plugin would read.
BASIC = Equipment(
    operators=(
        Operator(
            name="lws-manager",
            program="lws-manager",
            module="sigs.k8s.io/lws",
            ports=2,
            arguments=_lws_arguments,
            webhooks="config/webhook/manifests.yaml",
            pod_label="leaderworkerset.sigs.k8s.io/name",
        ),
    ),
    players=("engines", "fluid", "jobs"),
    crds=(
        ("sigs.k8s.io/lws", "config/crd/bases/*.yaml"),
        *(
            ("github.com/fluid-cloudnative/fluid", f"config/crd/bases/*_{plural}.yaml")
            for plural in ("dataloads", "datasets", "jindoruntimes")
        ),
        *(
            ("github.com/prometheus-operator/prometheus-operator", f"example/prometheus-operator-crd/*_{plural}.yaml")
            for plural in ("podmonitors", "servicemonitors", "prometheusrules")
        ),
    ),
)
# What the first rehearsal of a cloud adds. Building it takes minutes, so the other rehearsals do not wait for it.
CLOUDS = {
    "volcengine": Equipment(
        operators=(
            Operator(
                name="aibrix-controllers",
                program="aibrix-controllers",
                module="github.com/vllm-project/aibrix",
                ports=0,
                arguments=_aibrix_arguments,
                reads_pods=True,
                environment=SELDOM,
            ),
            Operator(
                name="kuberay",
                program="kuberay",
                module="github.com/ray-project/kuberay/ray-operator",
                ports=0,
                arguments=_kuberay_arguments,
                # As AIBrix's manifests set it: the injected probes call wget, which engine images lack.
                environment={"ENABLE_PROBES_INJECTION": "false"},
            ),
        ),
        players=("gateway",),
        programs={"gateway": {"envoy": "envoy", "plugin": "aibrix-plugins"}},
        crds=(
            ("github.com/vllm-project/aibrix", "config/crd/*/*aibrix.ai_*.yaml"),
            ("github.com/ray-project/kuberay/ray-operator", "config/crd/bases/*.yaml"),
            ("sigs.k8s.io/gateway-api", "config/crd/standard/*.yaml"),
            *(
                ("github.com/envoyproxy/gateway", f"charts/gateway-helm/crds/generated/*_{plural}.yaml")
                for plural in ("clienttrafficpolicies", "envoyextensionpolicies", "envoypatchpolicies", "envoyproxies")
            ),
        ),
    ),
}


def crd_files(equipment: Equipment) -> list[Path]:
    """The equipment's CRD files, from the Go module cache."""
    found: list[Path] = []
    for path, pattern in equipment.crds:
        files = sorted(module(path).glob(pattern))
        if not files:
            raise FileNotFoundError(f"no CRDs in {path} at {pattern}")
        found += files
    return found


def launch(operator: Operator, folder: Path, program: Path, ports: tuple[int, ...]) -> None:
    """Starts the operator's process. Its webhooks use the API server's own certificate, which names 127.0.0.1."""
    pki = folder / "webhook-pki"
    pki.mkdir(exist_ok=True)
    for link, target in (("tls.crt", "admin.crt"), ("tls.key", "admin.key")):
        if not (pki / link).is_symlink():
            (pki / link).symlink_to(folder / "pki" / target)
    arguments = [f"--kubeconfig={folder / 'kubeconfig'}", *operator.arguments(folder, ports)]
    proxy = {"HTTP_PROXY": (folder / POD_PROXY).read_text()} if operator.reads_pods else {}
    processes.launch(folder, operator.name, [program, *arguments], {**operator.environment, **proxy})


def webhook_configurations(operator: Operator, folder: Path, port: int) -> list[dict[str, Any]]:
    """The operator's own webhook configurations, calling its process instead of a Service."""
    authority = base64.b64encode((folder / "pki" / "ca.crt").read_bytes()).decode()
    found = load_documents(module(operator.module) / operator.webhooks)
    for configuration in found:
        configuration["metadata"]["name"] = f"{operator.name}-{configuration['metadata']['name']}"
        for webhook in configuration["webhooks"]:
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": authority}
            if any("pods" in rule["resources"] for rule in webhook["rules"]):
                # Otherwise no pod at all could be created while this one operator is down.
                exists = {"key": operator.pod_label, "operator": "Exists"}
                webhook["objectSelector"] = {"matchExpressions": [exists]}
    return found


def install_webhooks(operator: Operator, api: Api, folder: Path, port: int) -> list[str]:
    """Applies the webhook configurations and returns the addresses that they call."""
    urls = []
    for configuration in webhook_configurations(operator, folder, port):
        plural = configuration["kind"].lower() + "s"
        api.apply(f"/apis/admissionregistration.k8s.io/v1/{plural}/{configuration['metadata']['name']}", configuration)
        urls += [webhook["clientConfig"]["url"] for webhook in configuration["webhooks"]]
    return urls


def answers(url: str, folder: Path) -> bool:
    """Whether the webhook is being served: its server opens the port some time before it registers the webhook."""
    with urllib3.PoolManager(ca_certs=str(folder / "pki" / "ca.crt"), retries=False, timeout=5) as pool:
        return pool.request("POST", url, body=b"{}").status != 404

"""A real Kubernetes control plane on this machine: etcd, API server, controllers and scheduler, started by kwokctl.

Owns the folder `clusters/NAME` in the work folder, everything in it, and the processes recorded there. Several control
planes can run side by side, on free ports. stages/ says what the fake nodes do with pods, operators.py which operators
run for which cloud; standins/ plays those that cannot run here.
"""

from __future__ import annotations

import base64
import fcntl
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3
import yaml

from local import aibrix_manifests, charts, definitions, object_store, operators, processes
from local.api import Api, ApiError, wait_until
from local.nodes import NodePool
from local.operators import Equipment, Operator
from local.paths import ROOT, work_dir
from local.toolchain import ensure, module

Say = Callable[[str], None]

# Program → the prefix of kwokctl's options for it.
_OPTIONS = {
    "etcd": "etcd",
    "kube-apiserver": "kubeApiserver",
    "kube-controller-manager": "kubeControllerManager",
    "kube-scheduler": "kubeScheduler",
    "kwok": "kwokController",
}
_KWOK_CRDS = ["Stage", "Logs", "PortForward"]
_STAGES = ROOT / "local" / "stages"
# The only stage of Services must not come last: kwok may overlook the newest kind until another stage comes. It is told
# of a stage before its cache has it (withCache in pkg/config/resources/cache.go sets the compared version later).
_OWN_STAGES = (_STAGES / "services.yaml", _STAGES / "pods.yaml")
# On the loopback: a stack's webhooks call a Service, and the API server really dials it. Any other address would leave
# this machine, and each write would wait for an answer.
_SERVICES = "127.96.0.0/16"
# A quarter of what an idle control plane does is to count the objects of each kind, and to list their keys, for metrics
# and limits that nobody here has.
_API_SERVER = {
    "service-cluster-ip-range": _SERVICES,
    "etcd-count-metric-poll-period": "0",
    "feature-gates": "SizeBasedListCostEstimate=false",
}
_ATTEMPTS = 3
# Seconds that a step of a start may take: usually ten, but minutes if several start on a busy machine.
_PATIENCE = 180
_TWO_NODES = NodePool()


class ControlPlaneError(Exception):
    """A control plane does not start; the text is one line: what, why, what to do."""


# Any of these can mean that another program took a port meanwhile.
_FAILURES = (ControlPlaneError, TimeoutError, subprocess.TimeoutExpired, ApiError, urllib3.exceptions.HTTPError)


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane. `kubeconfig` has one context, always named `rehearsal`."""

    name: str
    folder: Path
    kubeconfig: Path

    @property
    def api(self) -> Api:
        """A client with all rights, the same one each time, for any number of threads."""
        return _client(self.kubeconfig.read_text(), self.folder / "pki")


# Keyed by the file's content: a restarted control plane has other ports and certificates.
@functools.lru_cache(maxsize=4)
def _client(kubeconfig: str, pki: Path) -> Api:
    return Api(yaml.safe_load(kubeconfig)["clusters"][0]["cluster"]["server"], pki)


def find(name: str) -> ControlPlane:
    """The control plane of that name, running or not. Raises ControlPlaneError if the name is not valid."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name):
        raise ControlPlaneError(
            f"{name!r} is not a name for a control plane: use lower-case letters, digits and hyphens"
        )
    folder = work_dir() / "clusters" / name
    return ControlPlane(name, folder, folder / "kubeconfig")


def ailments(plane: ControlPlane) -> list[str]:
    """What is wrong with the control plane; nothing if it works."""
    if not plane.folder.exists():
        return ["it is not running"]
    if not (plane.folder / "complete").exists():
        return ["its start was cut short"]  # whatever of it has ended since
    if ended := _ended(plane):
        return [f"{name} ended" for name in ended]
    try:
        plane.api.get("/readyz")
    except (ApiError, urllib3.exceptions.HTTPError):
        return ["the API server does not answer"]
    return []


def start(
    name: str = "local",
    *,
    nodes: NodePool = _TWO_NODES,
    load_seconds: float = 10,
    clouds: Sequence[str] = (),
    say: Say = print,
) -> ControlPlane:
    """Starts the control plane `name`, or keeps the running one; adds what stacks on `clouds` need.

    `load_seconds` is how long a pod with GPUs runs before it is ready, unless its annotation says otherwise. `clouds`
    are keys of operators.CLOUDS. A control plane that a crash left half dead is removed and started again. Raises
    ControlPlaneError or ToolchainError.
    """
    plane = find(name)
    with _lock(name):
        if plane.folder.exists() and (ailing := ailments(plane)):
            say(f"control plane {name} was left half dead ({', '.join(ailing)}): starting it anew")
            _remove(plane.folder)
        if not plane.folder.exists():
            _start_somewhere(plane, nodes, load_seconds, say)
        for cloud in clouds:
            if not is_equipped(plane, cloud):
                _equip(plane, cloud, say)
        return plane


def is_equipped(plane: ControlPlane, cloud: str) -> bool:
    """Whether it has all that stacks on that cloud need."""
    return _equipped(plane, cloud).exists()


def stop(name: str = "local", say: Say = print) -> None:
    """Ends the processes of the control plane `name` and removes its folder; says so if there is none."""
    folder = find(name).folder
    with _lock(name):
        if not folder.exists():
            say(f"control plane {name} is not running")
            return
        _remove(folder)
        say(f"control plane {name} is gone")


def running() -> list[str]:
    """Names of the control planes that have a running process, even if others of their processes ended."""
    folders = (work_dir() / "clusters").glob("[!.]*")
    return sorted(folder.name for folder in folders if processes.alive(folder))


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """Allows one start or stop of a control plane at a time; the system frees the lock of a killed process."""
    file = work_dir() / "clusters" / f".{name}.lock"
    file.parent.mkdir(exist_ok=True)
    while True:
        with file.open("w") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            # The owner before may have removed the file: then nobody else will open the file that this lock is on.
            if not file.exists() or not os.path.samestat(os.fstat(opened.fileno()), file.stat()):
                continue
            try:
                yield
            finally:
                file.unlink()
            return


def _last_words(plane: ControlPlane, name: str) -> str:
    lines = (plane.folder / "logs" / f"{name}.log").read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def _remove(folder: Path) -> None:
    processes.end(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _equipped(plane: ControlPlane, cloud: str) -> Path:
    return plane.folder / f"equipped-{cloud}"


def _start_somewhere(plane: ControlPlane, nodes: NodePool, load_seconds: float, say: Say) -> None:
    tools = ("kwokctl", "rclone")
    programs = ensure(*_OPTIONS, *tools, *(each.program for each in operators.BASIC.operators), say=say)
    say(f"starting control plane {plane.name}: etcd, API server, controllers, scheduler, operators (about 15 s)")
    reason = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            say(f"control plane {plane.name} did not come up ({reason}): trying again on other ports")
        try:
            with ExitStack() as undo:
                undo.callback(_remove, plane.folder)
                _start(plane, programs, nodes, load_seconds)
                undo.pop_all()
                return
        except _FAILURES as error:
            reason = str(error)
    raise ControlPlaneError(f"control plane {plane.name} does not come up: {reason}")


def _equip(plane: ControlPlane, cloud: str, say: Say) -> None:
    """Adds what stacks on a cloud need; continues where an earlier attempt ended."""
    equipment = operators.CLOUDS[cloud]
    started = {program for options in equipment.programs.values() for program in options.values()}
    programs = ensure("kustomize", *(each.program for each in equipment.operators), *sorted(started), say=say)
    names = ", ".join((*(each.name for each in equipment.operators), *equipment.players))
    say(f"adding to control plane {plane.name} what stacks on {cloud} need: {names}")
    made = aibrix_manifests.install(programs["kustomize"])
    reason = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            say(f"control plane {plane.name} did not take it ({reason}): trying again")
        try:
            _add(plane, equipment, programs)
            break
        except _FAILURES as error:
            reason = str(error)
    else:
        raise ControlPlaneError(f"control plane {plane.name} cannot be made fit for {cloud}: {reason}")
    link = plane.folder / aibrix_manifests.FOLDER
    link.unlink(missing_ok=True)
    link.symlink_to(made)
    _equipped(plane, cloud).touch()


def _add(plane: ControlPlane, equipment: Equipment, programs: dict[str, Path]) -> None:
    _create_kinds(plane.api, equipment)
    running = processes.alive(plane.folder)
    options: dict[str, list[str | Path]] = {
        player: [word for option, name in wanted.items() for word in (f"--{option}", programs[name])]
        for player, wanted in equipment.programs.items()
    }
    _play(plane, [each for each in equipment.players if each not in running], options)
    proxy = plane.folder / operators.POD_PROXY
    wait_until(proxy.exists, _PATIENCE, lambda: _last_words(plane, "gateway"))
    for url in _start_operators(plane, [each for each in equipment.operators if each.name not in running], programs):
        _await_webhook(plane, url)
    wait_until(lambda: not _unready(plane, plane.api), _PATIENCE, lambda: ", ".join(_unready(plane, plane.api)))


def _start(plane: ControlPlane, programs: dict[str, Path], nodes: NodePool, load_seconds: float) -> None:
    _create(plane, programs)
    api = plane.api
    # Do not give it work before it is ready: it would slow down so much that the controllers, which wait ten seconds,
    # give up.
    wait_until(lambda: api.get("/readyz") == "ok", _PATIENCE, lambda: "the API server is not ready")
    # On a busy machine they may give up anyway. A kubelet would restart them.
    if _ended(plane):
        _kwokctl(plane, programs, "start")
    with ThreadPoolExecutor(4) as threads:
        # The operators' caches need their kinds first; the rest may come in any order.
        kinds = threads.submit(_create_kinds, api, operators.BASIC)
        others = [
            threads.submit(_apply_stages, api, load_seconds, [*_kwok_stages(), *_OWN_STAGES]),
            threads.submit(_apply_nodes, api, nodes),
            threads.submit(_apply_storage, api),
            threads.submit(charts.install),
        ]
        kinds.result()
        urls = _start_operators(plane, operators.BASIC.operators, programs)
        for each in others:
            each.result()
    (port,) = free_ports(1)
    store = object_store.launch(plane.folder, programs["rclone"], port)
    options: dict[str, list[str | Path]] = {
        "fluid": ["--load-seconds", str(load_seconds)],
        "jobs": ["--rclone", programs["rclone"], "--store", store],
    }
    _play(plane, operators.BASIC.players, options)
    for url in urls:
        _await_webhook(plane, url)
    wait_until(lambda: not _unready(plane, api), _PATIENCE, lambda: f"not ready: {', '.join(_unready(plane, api))}")
    (plane.folder / "complete").touch()


def _create(plane: ControlPlane, programs: dict[str, Path]) -> None:
    """etcd, API server, controllers, scheduler and kwok, and our kubeconfig for them."""
    plane.folder.mkdir(parents=True)
    ports = dict(zip((*_OPTIONS.values(), "etcdPeer"), free_ports(len(_OPTIONS) + 1), strict=True))
    options = (
        {"runtime": "binary", "bindAddress": "127.0.0.1", "enableCRDs": _KWOK_CRDS, "disableQPSLimits": True}
        | {f"{option}Port": port for option, port in ports.items()}
        | {f"{option}Binary": str(programs[program]) for program, option in _OPTIONS.items()}
    )
    # Nobody competes for the lease here, and waiting for it costs seconds.
    alone = [{"key": "leader-elect", "value": "false"}]
    settings = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokctlConfiguration",
        "options": options,
        "componentsPatches": [
            # A claim created just before its volume waits for the next sync, which by default is 15 s later.
            {
                "name": "kube-controller-manager",
                "extraArgs": [*alone, {"key": "pvclaimbinder-sync-period", "value": "1s"}],
            },
            {"name": "kube-scheduler", "extraArgs": alone},
            # With the default settings, a third of its work while CRDs are created is garbage collection.
            {
                "name": "kube-apiserver",
                "extraArgs": [{"key": key, "value": value} for key, value in _API_SERVER.items()],
                "extraEnvs": [{"name": "GOGC", "value": "300"}, {"name": "GOMEMLIMIT", "value": "2GiB"}],
            },
        ],
    }
    file = plane.folder / "kwokctl.json"
    file.write_text(json.dumps(settings))
    _kwokctl(plane, programs, "create", "--config", file, "--kubeconfig", "")
    _write_kubeconfig(plane, ports["kubeApiserver"])


def _kwokctl(plane: ControlPlane, programs: dict[str, Path], verb: str, *options: str | Path) -> None:
    command = [programs["kwokctl"], verb, "cluster", "--name", plane.name, *options]
    if processes.run(plane.folder, "kwokctl", command, {"KWOK_WORKDIR": str(work_dir())}, seconds=_PATIENCE):
        raise ControlPlaneError(f"kwokctl: {_last_words(plane, 'kwokctl')}")


def _write_kubeconfig(plane: ControlPlane, port: int) -> None:
    def inline(file: str) -> str:
        return base64.b64encode((plane.folder / "pki" / file).read_bytes()).decode()

    # Every run of the kubernetes plugin reads the schema of all kinds, megabytes that never leave this machine.
    place = {"server": f"https://127.0.0.1:{port}", "disable-compression": True}
    cluster = {**place, "certificate-authority-data": inline("ca.crt")}
    user = {"client-certificate-data": inline("admin.crt"), "client-key-data": inline("admin.key")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "rehearsal", "cluster": cluster}],
        "users": [{"name": "rehearsal", "user": user}],
        "contexts": [{"name": "rehearsal", "context": {"cluster": "rehearsal", "user": "rehearsal"}}],
        "current-context": "rehearsal",
    }
    plane.kubeconfig.touch(mode=0o600)
    plane.kubeconfig.write_text(yaml.safe_dump(config))


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of 127.0.0.1 that are free now. Another program may take one first, hence the attempts."""
    with ExitStack() as sockets:
        taken = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in taken)


def _kwok_stages() -> list[Path]:
    """The stages that keep fake nodes ready, from kwok's own module."""
    folder = module("sigs.k8s.io/kwok") / "kustomize" / "stage" / "node"
    return [
        folder / "fast" / "node-initialize.yaml",
        folder / "heartbeat-with-lease" / "node-heartbeat-with-lease.yaml",
    ]


def _create_kinds(api: Api, equipment: Equipment) -> None:
    api.create_kinds(definitions.read(operators.crd_files(equipment)))


def _apply_stages(api: Api, load_seconds: float, files: list[Path]) -> None:
    for file in files:
        text = file.read_text().replace("LOAD_SECONDS", str(float(load_seconds)))
        for stage in yaml.safe_load_all(text):
            api.apply(f"/apis/kwok.x-k8s.io/v1alpha1/stages/{stage['metadata']['name']}", stage)


def _apply_nodes(api: Api, nodes: NodePool) -> None:
    for node in nodes.manifests():
        api.apply(f"/api/v1/nodes/{node['metadata']['name']}", node)


def _apply_storage(api: Api) -> None:
    """A volume with weights that exists before the program runs, as on a platform with a file store."""
    access = {"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": "model-weights"}
    claim = {"metadata": {"name": "model-weights"}, "spec": access | {"resources": {"requests": {"storage": "1Ti"}}}}
    volume = {
        "metadata": {"name": "model-weights"},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "capacity": {"storage": "1Ti"},
            "claimRef": {"namespace": "default", "name": "model-weights"},
            "hostPath": {"path": "/models"},
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
        },
    }
    head = {"apiVersion": "v1"}
    api.apply("/api/v1/persistentvolumes/model-weights", head | {"kind": "PersistentVolume"} | volume)
    path = "/api/v1/namespaces/default/persistentvolumeclaims/model-weights"
    api.apply(path, head | {"kind": "PersistentVolumeClaim"} | claim)


def _start_operators(plane: ControlPlane, wanted: Sequence[Operator], programs: dict[str, Path]) -> list[str]:
    """Starts operators; returns the URLs of their webhooks."""
    urls = []
    for operator in wanted:
        ports = free_ports(operator.ports)
        operators.launch(operator, plane.folder, programs[operator.program], ports)
        if operator.webhooks:
            urls += operators.install_webhooks(operator, plane.api, plane.folder, ports[0])
    return urls


def _await_webhook(plane: ControlPlane, url: str) -> None:
    wait_until(lambda: operators.answers(url, plane.folder), _PATIENCE, lambda: f"{url} does not answer")


def _play(plane: ControlPlane, players: Sequence[str], options: Mapping[str, Sequence[str | Path]]) -> None:
    """Starts the stand-ins that play a controller; `options` maps a name to further arguments."""
    for name in players:
        command: list[str | Path] = [sys.executable, "-m", f"standins.{name}"]
        command += ["--kubeconfig", plane.kubeconfig, "--folder", plane.folder, *options.get(name, ())]
        processes.launch(plane.folder, name, command, {"PYTHONPATH": str(ROOT)})


def _ended(plane: ControlPlane) -> list[str]:
    return sorted(processes.recorded(plane.folder).keys() - processes.alive(plane.folder).keys())


def _unready(plane: ControlPlane, api: Api) -> list[str]:
    """What a first pod would still wait for. Raises ControlPlaneError if a process ended meanwhile."""
    if ended := _ended(plane):
        raise ControlPlaneError(f"{', '.join(ended)} ended: {_last_words(plane, ended[0])}")
    found = []
    for node in api.get("/api/v1/nodes")["items"]:
        conditions = {each["type"]: each["status"] for each in node.get("status", {}).get("conditions", [])}
        taints = [taint["key"] for taint in node["spec"].get("taints", [])]
        if conditions.get("Ready") != "True" or taints:
            found.append(f"node {node['metadata']['name']}")
    # Without it the API server refuses every pod of the namespace.
    if not api.get("/api/v1/namespaces/default/serviceaccounts")["items"]:
        found.append("service account default")
    claim = api.get("/api/v1/namespaces/default/persistentvolumeclaims/model-weights")
    if claim["status"].get("phase") != "Bound":
        found.append("volume claim model-weights")
    return found

"""Runs for real what the fake pods of a model sync, a schedule or a check would run: the pod's own program, as a
process on this machine.

`python -m standins.jobs --kubeconfig F --folder D --rclone R --store URL`, one process per control plane. The
rehearsal's model hub, token service and bucket gate are threads of it. Volumes become folders, and Secrets become
variables. The file `addresses.json`, the rehearsal's DNS, maps the hosts of clouds and hubs to loopback; the name of a
Service leads to an engine of one of its ready pods, and the address of a Gateway to its proxy. The program's exit code
ends the pod, and the real Job controller counts it.
Does not own the stages before that: a container starts when the cluster says that it runs.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from local import faults
from local.api import ApiError
from planning.catalog import fact
from standins import watching
from standins.gateway import FILE as GATEWAYS
from standins.hub import Hub
from standins.members import Log
from standins.object_gate import Gate
from standins.sts import STS, Claims, claims_of
from standins.watching import WatchingApi, follow

_COMPONENT = "app.kubernetes.io/component"
_INSTANCE = "app.kubernetes.io/instance"
# The API server's name in every cluster, which its certificate has too.
_API_HOST = "kubernetes.default.svc"
_STS_HOSTS = ("sts.aliyuncs.com", "sts.*.aliyuncs.com", "sts-vpc.*.aliyuncs.com")
_STORE_HOSTS = ("*.aliyuncs.com", "*.volces.com", "*.ivolces.com")
_HUB_HOSTS = ("modelscope.cn", "*.modelscope.cn", "huggingface.co", "hf-mirror.com")
_NOBODY_ANSWERS = "http://127.0.0.1:9"
# A rehearsal's files are small, and its faults should show soon.
_PACE = {"MODELSERVE_PROGRESS_SECONDS": "1", "MODELSERVE_PAUSE_SECONDS": "0.2"}
_GRACE_SECONDS = 2
_CANNOT_START = 128


def write_addresses(folder: Path, store: str, hub: str, sts: str = _NOBODY_ANSWERS, api: str = _NOBODY_ANSWERS) -> None:
    """Writes the address book: maps a host, or a pattern of hosts, to a URL. The first match wins."""
    book = {_API_HOST: api}
    book |= dict.fromkeys(_STS_HOSTS, sts) | dict.fromkeys(_STORE_HOSTS, store) | dict.fromkeys(_HUB_HOSTS, hub)
    fresh = folder / "addresses.json.new"
    fresh.write_text(json.dumps(book, indent=2))
    fresh.replace(folder / "addresses.json")


def translated(value: str, book: Mapping[str, str]) -> str:
    """Translates a URL or bare host through the address book; returns anything else unchanged."""
    try:
        parts = urlsplit(value if "://" in value else f"//{value}")
    except ValueError:
        return value
    for pattern, url in book.items():
        if parts.hostname and fnmatch(parts.hostname, pattern):
            return url + parts.path
    return value


def volume_folder(folder: Path, namespace: str, claim: str) -> Path:
    """The folder under the control plane's that stands for the volume of a claim."""
    return folder / "volumes" / namespace / claim


@dataclass
class Run:
    """One container of a sync, run as a process."""

    process: subprocess.Popen[str] | None = None
    gone: bool = False


class Jobs:
    """All pods of one control plane that sync a model."""

    def __init__(self, api: WatchingApi, folder: Path, rclone: Path) -> None:
        self._api, self._folder, self._rclone = api, folder, rclone
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()

    def see(self, pod: dict[str, Any]) -> None:
        """Records the current state of a pod."""
        metadata = pod["metadata"]
        if (metadata.get("labels") or {}).get(_COMPONENT) not in ("sync", "schedule", "verify"):
            return
        if "deletionTimestamp" in metadata:
            self._end(metadata["uid"])
            return
        states = [status.get("state") or {} for status in pod["status"].get("containerStatuses") or []]
        with self._lock:
            if metadata["uid"] in self._runs or not any("running" in state for state in states):
                return
            run = self._runs[metadata["uid"]] = Run()
        threading.Thread(target=self._run, args=(pod, run), daemon=True).start()

    def forget(self, uid: str) -> None:
        """Removes everything that simulates a deleted pod."""
        self._end(uid)
        with self._lock:
            self._runs.pop(uid, None)
        shutil.rmtree(self._folder / "pod-logs" / uid, ignore_errors=True)

    def keep_only(self, pods: Sequence[dict[str, Any]]) -> None:
        """Forgets every pod that is not among `pods`."""
        for uid in self._runs.keys() - {pod["metadata"]["uid"] for pod in pods}:
            self.forget(uid)

    def _end(self, uid: str) -> None:
        with self._lock:
            run = self._runs.get(uid)
            if run is None:
                return
            run.gone = True
            process = run.process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()

    def _run(self, pod: dict[str, Any], run: Run) -> None:
        """The container's life, from its start to the exit code in the pod's status."""
        uid, container = pod["metadata"]["uid"], pod["spec"]["containers"][0]
        log, room = Log(self._folder / "pod-logs" / uid), self._folder / "sync-pods" / uid
        log.begin()
        self._show(pod, container["name"], log)
        try:
            code = self._live(pod, container, run, log, room)
        except (ApiError, KeyError, OSError) as error:
            # A kubelet does not start a container whose Secret or ConfigMap is missing; kwok does.
            log.write([f"Error: {error}"])
            code = _CANNOT_START
        finally:
            shutil.rmtree(room, ignore_errors=True)
        if not run.gone:
            self._report(pod, code)

    def _live(self, pod: dict[str, Any], container: dict[str, Any], run: Run, log: Log, room: Path) -> int:
        fault = self._fault(pod)
        if fault is not None and fault != "hub-down":
            what = pod["metadata"]["labels"][_COMPONENT]
            log.write([f"modelserve: {what}: failed: the rehearsal was told to let this fail"])
            return 1
        book = json.loads((self._folder / "addresses.json").read_text())
        if fault == "hub-down":
            book |= dict.fromkeys(_HUB_HOSTS, _NOBODY_ANSWERS)
        mounts = self._volumes(pod, container, room)
        variables = self._variables(pod, container, mounts, book)
        if fault == "hub-down":
            variables["MODELSERVE_ATTEMPTS"] = "2"
        with self._lock:
            if run.gone:
                return _CANNOT_START
            # Same process group as this process, so that a signal that ends the control plane ends it too.
            run.process = subprocess.Popen(
                [sys.executable if part == "python3" else part for part in container["command"]],
                cwd=_on_host(container["workingDir"], mounts),
                env=os.environ | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        with run.process as process:
            for line in process.stdout or ():
                log.write([line.rstrip("\n")])
        return process.returncode

    def _fault(self, pod: dict[str, Any]) -> str | None:
        labels = pod["metadata"]["labels"]
        return faults.of(self._folder, "Job", labels.get("batch.kubernetes.io/job-name", labels.get(_INSTANCE, "")))

    def _volumes(self, pod: dict[str, Any], container: dict[str, Any], room: Path) -> dict[str, Path]:
        """Maps each mount path to the folder that stands for it."""
        namespace, names = pod["metadata"]["namespace"], {}
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["spec"]["volumes"]
            if "persistentVolumeClaim" in volume
        }
        for number, mount in enumerate(container["volumeMounts"]):
            # Keep the last part of the path as in the pod: Python packages are imported by it.
            where = room / str(number) / mount["mountPath"].strip("/")
            if claim := claims.get(mount["name"]):
                # The contents of a volume outlive the pod.
                where = volume_folder(self._folder, namespace, claim)
            where.mkdir(parents=True, exist_ok=True)
            names[mount["name"]] = mount["mountPath"], where
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume and volume["name"] in names:
                path = f"/api/v1/namespaces/{namespace}/configmaps/{volume['configMap']['name']}"
                for name, text in self._api.get(path)["data"].items():
                    (names[volume["name"]][1] / name).write_text(text)
            for source in volume.get("projected", {}).get("sources", ()) if volume["name"] in names else ():
                (path, text) = self._projected(pod, source)
                (names[volume["name"]][1] / path).write_text(text)
        for helper in pod["spec"].get("initContainers") or []:
            # Stands for the init container that copies rclone out of its image.
            for mount in helper.get("volumeMounts") or []:
                if mount["name"] in names and any(part.endswith("/rclone") for part in helper["command"]):
                    (names[mount["name"]][1] / "rclone").symlink_to(self._rclone)
        return dict(names.values())

    def _projected(self, pod: dict[str, Any], source: Mapping[str, Any]) -> tuple[str, str]:
        """The file of a source of a projected volume: its path and its text."""
        if token := source.get("serviceAccountToken"):
            return token["path"], self._token(pod, token)
        config, (item, *_) = source["configMap"]["name"], source["configMap"]["items"]
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/configmaps/{config}"
        return item["path"], self._api.get(path)["data"][item["key"]]

    def _token(self, pod: dict[str, Any], asked: Mapping[str, Any]) -> str:
        """Gets a token for the pod's service account from the API server, with the request that a kubelet sends."""
        account = pod["spec"]["serviceAccountName"]
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/serviceaccounts/{account}/token"
        audiences = [asked["audience"]] if "audience" in asked else []  # without one it is the API server's own
        spec = {"audiences": audiences, "expirationSeconds": asked["expirationSeconds"]}
        return self._api.request("POST", path, {"spec": spec})["status"]["token"]

    def _variables(
        self, pod: dict[str, Any], container: dict[str, Any], mounts: Mapping[str, Path], book: Mapping[str, str]
    ) -> dict[str, str]:
        found = {}
        for each in container["env"]:
            if "value" in each:
                found[each["name"]] = translated(self._served(_on_host(each["value"], mounts)), book)
                continue
            reference = each["valueFrom"]["secretKeyRef"]
            path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/secrets/{reference['name']}"
            found[each["name"]] = base64.b64decode(self._api.get(path)["data"][reference["key"]]).decode()
        return found | _PACE

    def _served(self, value: str) -> str:
        """A URL of a Service, with the address of an engine behind it, or of a Gateway, with that of its proxy;
        anything else unchanged. As kube-proxy, which refuses connections to a Service without a ready pod."""
        parts = urlsplit(value)
        if parts.scheme == "http" and (self._folder / GATEWAYS).exists():
            proxies = json.loads((self._folder / GATEWAYS).read_text())
            for each in self._api.get("/apis/gateway.networking.k8s.io/v1/gateways")["items"]:
                place = f"{each['metadata']['namespace']}/{each['metadata']['name']}"
                addresses = [one["value"] for one in (each.get("status") or {}).get("addresses") or []]
                if parts.hostname in addresses and place in proxies:
                    return proxies[place] + parts.path
        name, _, rest = (parts.hostname or "").partition(".")
        namespace = rest.removesuffix(".svc")
        if not rest.endswith(".svc"):
            return value
        selector = self._api.get(f"/api/v1/namespaces/{namespace}/services/{name}")["spec"].get("selector")
        if not selector:
            return value  # the API server's own, whose address the rehearsal's DNS has
        chosen = quote(",".join(f"{key}={label}" for key, label in selector.items()))
        for pod in self._api.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={chosen}")["items"]:
            path = f"/apis/kwok.x-k8s.io/v1alpha1/namespaces/{namespace}/portforwards/{pod['metadata']['name']}"
            with contextlib.suppress(ApiError):
                target = self._api.get(path)["spec"]["forwards"][0]["target"]
                return f"http://{target['address']}:{target['port']}{parts.path}"
        return _NOBODY_ANSWERS

    def _show(self, pod: dict[str, Any], container: str, log: Log) -> None:
        """Makes the log readable through the API server."""
        metadata = pod["metadata"]
        owner = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        manifest = {
            "apiVersion": "kwok.x-k8s.io/v1alpha1",
            "kind": "Logs",
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "ownerReferences": [owner]},
            "spec": {"logs": [{"containers": [container], "logsFile": str(log.current)}]},
        }
        path = f"/apis/kwok.x-k8s.io/v1alpha1/namespaces/{metadata['namespace']}/logs/{metadata['name']}"
        try:
            self._api.apply(path, manifest)
        except ApiError as error:
            print(f"{metadata['namespace']}/{metadata['name']}: {error}", flush=True)

    def _report(self, pod: dict[str, Any], code: int) -> None:
        """Writes the end into the pod's status, as a kubelet would."""
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
        try:
            status = self._api.get(path)["status"]
            self._api.merge(f"{path}/status", {"status": ended(status, code, datetime.now(timezone.utc))})
        except ApiError as error:
            print(f"{path}: {error}", flush=True)


def ended(status: dict[str, Any], code: int, at: datetime) -> dict[str, Any]:
    """The changes to a pod's status when its container exits with `code`."""
    now, reason = at.strftime("%Y-%m-%dT%H:%M:%SZ"), "Completed" if code == 0 else "Error"
    # If a signal ended the process, its code is negative here, and 128 + signal in a container.
    state = {"exitCode": code if code >= 0 else 128 - code, "reason": reason, "finishedAt": now}
    containers = [
        each
        | {
            "ready": False,
            "started": False,
            "state": {"terminated": state | {"startedAt": each["state"]["running"]["startedAt"]}},
        }
        for each in status["containerStatuses"]
    ]
    conditions = [
        each | ({"status": "False", "reason": "PodCompleted"} if each["type"] in ("Ready", "ContainersReady") else {})
        for each in status["conditions"]
    ]
    phase = "Succeeded" if code == 0 else "Failed"
    return {"phase": phase, "conditions": conditions, "containerStatuses": containers}


def _on_host(path: str, mounts: Mapping[str, Path]) -> str:
    """Where a path of the pod lies on this machine, whether it is below a mount or above one."""
    for mount, where in mounts.items():
        if path == mount or path.startswith(f"{mount}/"):
            return str(where) + path[len(mount) :]
        if path and mount.startswith(f"{path}/"):
            return str(where).removesuffix(mount[len(path) :])
    return path


def main(argv: Sequence[str]) -> None:
    """Runs until it is stopped or its control plane is gone."""
    parser = watching.parser("python -m standins.jobs", __doc__)
    parser.add_argument("--rclone", type=Path, required=True)
    parser.add_argument("--store", required=True, help="URL of the control plane's object store")
    options = parser.parse_args(argv)
    api = WatchingApi.of(options.kubeconfig, options.folder)

    def review(token: str) -> Claims | None:
        body = {"spec": {"token": token, "audiences": [fact("oss", "rrsa", "audience")]}}
        found = api.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)["status"]
        return claims_of(token) if found.get("authenticated") else None

    sts = STS(options.folder / "cloud", review)
    gate = Gate(options.folder / "cloud", options.store, sts.sessions.get)
    write_addresses(options.folder, gate.url, Hub().url, sts.url, api.server)
    follow(api, "/api/v1/pods", Jobs(api, options.folder, options.rclone), options.folder)


if __name__ == "__main__":
    main(sys.argv[1:])

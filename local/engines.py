"""Puts a simulated engine behind every fake pod that would run vLLM.

`python -m local.engines --kubeconfig F --folder D`, one process a control plane. For each such pod it writes the log
that a start would write, in step with what the pod's status says, and, as long as a leader is Ready, serves vLLM's HTTP
with the pod's own arguments and API key. kwok's `Logs` and `PortForward` objects of the pod's name make both reachable
through the real API server. Does not own the pods' status: the stages of `stages/pods.yaml` move it, and a pod is ready
here exactly when the cluster says so.
"""

from __future__ import annotations

import argparse
import base64
import re
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from local import vllm_log
from local.api import Api, ApiError
from local.vllm import Arguments, Engine, Simulator, newest_release, release_of
from local.watching import WatchingApi, follow

_TICK_SECONDS = 0.25
_GROUP = "leaderworkerset.sigs.k8s.io/"
_READY_AFTER = "rehearsal.modelserve.dev/ready-after"
_FAIL = "rehearsal.modelserve.dev/fail"
# What a start is taken to last where the pod does not say; at Ready the rest of the log follows at once.
_START_SECONDS = 10.0
_RAY_REPEAT_SECONDS = 5.0


def engine_container(pod: dict[str, Any]) -> dict[str, Any] | None:
    """The container that would run vLLM: by our launch script, or as `vllm serve` itself."""
    for container in pod["spec"]["containers"]:
        command = container.get("command") or []
        if command[-1:] and command[-1].endswith("/launch.sh") or command[:2] == ["vllm", "serve"]:
            return container
    return None


def start_seconds(pod: dict[str, Any]) -> float:
    """How long this pod's start is meant to last, in seconds."""
    text = (pod["metadata"].get("annotations") or {}).get(_READY_AFTER, "")
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    return sum(float(number) * units[unit] for number, unit in parts) or _START_SECONDS


@dataclass
class Log:
    """The log of one container, in the form that a container runtime writes and a kubelet reads."""

    folder: Path

    @property
    def current(self) -> Path:
        """The running or last container's log."""
        return self.folder / "current.log"

    @property
    def previous(self) -> Path:
        """The log of the container before."""
        return self.folder / "previous.log"

    def begin(self) -> None:
        """Starts the log of a new container."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.current.exists():
            self.current.replace(self.previous)
        self.current.touch()

    def write(self, lines: Sequence[str]) -> None:
        """Appends lines; `{now}` in one becomes vLLM's own time stamp. A log that is gone takes no more."""
        stamp = datetime.now(timezone.utc)
        mark, now = stamp.strftime("%Y-%m-%dT%H:%M:%S.%f000Z"), stamp.strftime("%m-%d %H:%M:%S")
        text = "".join(f"{mark} stdout F {line.replace('{now}', now)}\n" for line in lines)
        try:
            with self.current.open("r+b") as file:
                file.seek(0, 2)
                file.write(text.encode())
        except FileNotFoundError:
            return


@dataclass
class Member:
    """One pod that would run vLLM, as it was last seen, and what stands behind it."""

    pod: dict[str, Any]
    container: dict[str, Any]
    log: Log
    simulator: Simulator | None = None
    # The container whose log is being written, by the time it started; empty before the first.
    run: str = ""
    begun: float = 0.0
    script: list[tuple[float, str]] = field(default_factory=list)
    formed_at: float | None = None
    said_at: float = 0.0
    said: str = ""
    # Whether its last words are written.
    doomed: bool = False

    @property
    def labels(self) -> dict[str, str]:
        """The pod's labels."""
        return self.pod["metadata"].get("labels") or {}

    @property
    def leads(self) -> bool:
        """Whether this pod is the one that serves: the leader of its group, or a pod without one."""
        return self.labels.get(f"{_GROUP}worker-index", "0") == "0"

    @property
    def group(self) -> tuple[str, ...]:
        """What the pods of one group have in common."""
        metadata = self.pod["metadata"]
        name = self.labels.get(f"{_GROUP}name", metadata["name"])
        return metadata["namespace"], name, self.labels.get(f"{_GROUP}group-index", "")

    @property
    def ready(self) -> bool:
        """Whether the cluster calls the pod ready."""
        conditions = self.pod["status"].get("conditions") or []
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    @property
    def state(self) -> dict[str, Any]:
        """The container's state: one of waiting, running, terminated; empty before any."""
        for status in self.pod["status"].get("containerStatuses") or []:
            if status["name"] == self.container["name"]:
                return status.get("state") or {}
        return {}

    @property
    def running(self) -> bool:
        """Whether the container runs."""
        return "running" in self.state

    @property
    def crashes(self) -> bool:
        """Whether the stages will make this container fail."""
        return (self.pod["metadata"].get("annotations") or {}).get(_FAIL) == "crash"

    def variable(self, name: str, default: str = "") -> str:
        """An environment variable that the pod's spec gives a plain value."""
        found = (each.get("value") for each in self.container.get("env") or [] if each["name"] == name)
        return next((value for value in found if value), default)

    @property
    def nodes(self) -> int:
        """Pods of the group."""
        return int(self.variable("MODELSERVE_NODES", self.variable("LWS_GROUP_SIZE", "1")))

    @property
    def gpus(self) -> int:
        """GPUs of this pod."""
        return int(self.variable("MODELSERVE_GPUS_PER_NODE", "8"))

    @property
    def leader_address(self) -> str:
        """Where a worker looks for its leader."""
        return self.variable("LWS_LEADER_ADDRESS", "the-leader")

    @property
    def arguments(self) -> Arguments:
        """The engine's argument list."""
        command = self.container.get("command") or []
        return Arguments.parse([*command[2:], *(self.container.get("args") or [])])

    @property
    def release(self) -> str:
        """The vLLM release to play."""
        return release_of(self.container.get("image", "")) or newest_release()


class Engines:
    """All pods of one control plane that would run vLLM."""

    def __init__(self, api: Api, folder: Path) -> None:
        self._api, self._folder = api, folder
        self._members: dict[str, Member] = {}
        self._groups: dict[tuple[str, ...], dict[str, Member]] = {}
        self._lock = threading.RLock()

    def see(self, pod: dict[str, Any]) -> None:
        """Takes in a pod as it is now."""
        container = engine_container(pod)
        if container is None:
            return
        uid = pod["metadata"]["uid"]
        with self._lock:
            member = self._members.get(uid)
            if member is None:
                member = self._members[uid] = Member(pod, container, Log(self._folder / uid))
                self._groups.setdefault(member.group, {})[uid] = member
            member.pod, member.container = pod, container
            if member.running and member.run != member.state["running"]["startedAt"]:
                self._begin(member)
            if member.running and member.ready and member.simulator is None and member.leads:
                self._serve(member)
            elif member.simulator and not (member.running and member.ready):
                self._unserve(member)
            self._tell(member)

    def forget(self, uid: str) -> None:
        """Removes whatever stands behind a pod that is gone."""
        with self._lock:
            member = self._members.pop(uid, None)
            if member is None:
                return
            group = self._groups[member.group]
            del group[uid]
            if not group:
                del self._groups[member.group]
            self._unserve(member)
            self._remove("logs", member)
            shutil.rmtree(member.log.folder, ignore_errors=True)

    def keep_only(self, uids: set[str]) -> None:
        """Forgets every pod that is not among `uids`."""
        for uid in self._members.keys() - uids:
            self.forget(uid)

    def tick(self) -> None:
        """Lets the logs of starting pods grow."""
        with self._lock:
            for member in self._members.values():
                if not member.ready or member.formed_at is None:  # a worker without a probe is ready at once
                    self._tell(member)

    def _begin(self, member: Member) -> None:
        member.log.begin()
        member.run, member.begun = member.state["running"]["startedAt"], time.monotonic()
        member.formed_at, member.said, member.said_at, member.doomed = None, "", 0.0, False
        member.script = vllm_log.engine(member.arguments, member.release) if member.leads else []
        if member.nodes == 1:
            member.formed_at = member.begun
            member.log.write([vllm_log.one_node(member.gpus)])
        log = {"containers": [member.container["name"]], "logsFile": str(member.log.current)}
        log |= {"previousLogsFile": str(member.log.previous)} if member.log.previous.exists() else {}
        self._apply("Logs", member, {"logs": [log]})

    def _tell(self, member: Member) -> None:
        """Writes the lines that are due."""
        if not member.running or member.doomed:
            return
        if member.crashes:
            # Now, not at the end: LeaderWorkerSet deletes the pod, and with it the log, as soon as that is known.
            member.doomed = True
            member.log.write(_last_words(member))
            return
        if member.formed_at is None:
            self._tell_ray(member)
        if member.formed_at is None or not member.script:
            return
        # What Ray took is part of the start: the engine has what is left of it.
        left = max(start_seconds(member.pod) - (member.formed_at - member.begun), 0.1)
        share = 1.0 if member.ready else min((time.monotonic() - member.formed_at) / left, vllm_log.HELD_BACK)
        due = [line for at, line in member.script if at <= share]
        if due:
            member.script = member.script[len(due) :]
            member.log.write(due)

    def _tell_ray(self, member: Member) -> None:
        mates = [each for each in self._groups[member.group].values() if each.running]
        now = time.monotonic()
        if member.leads:
            wanted = member.nodes * member.gpus
            joined = wanted if member.ready else min(sum(each.gpus for each in mates), wanted)
            line, done = vllm_log.ray_waits(joined, wanted), joined == wanted
            after = [vllm_log.RAY_FORMED]
        else:
            line, done = vllm_log.worker_waits(member.leader_address), any(each.leads for each in mates)
            after = vllm_log.worker_joins(member.leader_address, member.gpus)
        if line != member.said or now - member.said_at >= _RAY_REPEAT_SECONDS:
            member.said, member.said_at = line, now
            if member.leads or not done:
                member.log.write([line])
        if done:
            member.log.write(after)
            member.formed_at = now

    def _serve(self, member: Member) -> None:
        try:
            keys = self._api_keys(member)
        except ApiError as error:
            # A kubelet does not start a container without its Secret; the fake one did.
            member.log.write([f"Error: {error}"])
            return
        log = member.log
        simulator = Simulator(
            Engine(member.arguments, member.release, keys),
            access=lambda line: log.write([f"INFO:     {line.removesuffix(' -')}"]),
        )
        member.simulator = simulator
        target = {"address": "127.0.0.1", "port": simulator.port}
        self._apply("PortForward", member, {"forwards": [{"ports": [member.arguments.port], "target": target}]})

    def _unserve(self, member: Member) -> None:
        if member.simulator:
            threading.Thread(target=member.simulator.stop, daemon=True).start()
            member.simulator = None
            self._remove("portforwards", member)

    def _api_keys(self, member: Member) -> tuple[str, ...]:
        """The key that the pod's environment gives the engine. Raises ApiError where its Secret is missing."""
        for each in member.container.get("env") or []:
            if each["name"] != "VLLM_API_KEY":
                continue
            if "value" in each:
                return (each["value"],)
            reference = each["valueFrom"]["secretKeyRef"]
            path = f"/api/v1/namespaces/{member.pod['metadata']['namespace']}/secrets/{reference['name']}"
            data = self._api.get(path).get("data") or {}
            if reference["key"] in data:
                return (base64.b64decode(data[reference["key"]]).decode(),)
        return ()

    def _apply(self, kind: str, member: Member, spec: dict[str, Any]) -> None:
        metadata = member.pod["metadata"]
        owner = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        manifest = {
            "apiVersion": "kwok.x-k8s.io/v1alpha1",
            "kind": kind,
            # The owner takes it along even where this process was killed before it could.
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "ownerReferences": [owner]},
            "spec": spec,
        }
        plural = {"Logs": "logs", "PortForward": "portforwards"}[kind]
        try:
            self._api.apply(_path(plural, metadata), manifest)
        except ApiError as error:
            # A namespace on its way out takes nothing in; the pod follows it.
            print(f"{metadata['namespace']}/{metadata['name']}: {error}", flush=True)

    def _remove(self, plural: str, member: Member) -> None:
        try:
            self._api.delete(_path(plural, member.pod["metadata"]))
        except ApiError as error:
            if error.code != 404:
                raise


def _path(plural: str, metadata: dict[str, Any]) -> str:
    return f"/apis/kwok.x-k8s.io/v1alpha1/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"


def _last_words(member: Member) -> list[str]:
    """What a container that will end in failure writes."""
    if member.leads:
        wanted = member.nodes * member.gpus
        formed = [vllm_log.ray_waits(wanted, wanted), vllm_log.RAY_FORMED] if member.nodes > 1 else []
        return [*formed, *vllm_log.leader_crash()]
    return vllm_log.worker_crash(member.leader_address, member.variable("MODELSERVE_RAY_SECONDS", "600"))


def main(argv: Sequence[str]) -> None:
    """Runs until it is ended or its control plane is gone."""
    parser = argparse.ArgumentParser(prog="python -m local.engines", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="the control plane's folder")
    options = parser.parse_args(argv)
    api = WatchingApi.of(options.kubeconfig, options.folder)
    engines = Engines(api, options.folder / "pod-logs")

    def tick() -> None:
        while True:
            time.sleep(_TICK_SECONDS)
            engines.tick()

    threading.Thread(target=tick, daemon=True).start()
    follow(api, "/api/v1/pods", engines, options.folder)


if __name__ == "__main__":
    main(sys.argv[1:])

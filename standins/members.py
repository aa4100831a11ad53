"""A fake pod that would run vLLM: what its spec says about the engine, and the log that it writes.

Pure except for the log files. `engines.py` decides when things happen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from standins import vllm_log
from standins.engine_process import EngineProcess
from standins.vllm import newest_release, release_of
from standins.vllm_arguments import Arguments, refusal

FAIL = "rehearsal.modelserve.dev/fail"
_GROUP = "leaderworkerset.sigs.k8s.io/"
_RAY = "ray.io/"
_FLEET = "orchestration.aibrix.ai/raycluster-fleet-name"
_CRASH = "rehearsal.modelserve.dev/crash"
_NO_HOOK = "rehearsal.modelserve.dev/no-prestop"
_READY_AFTER = "rehearsal.modelserve.dev/ready-after"
# Assumed length of a start if the pod does not give one. Once the pod is Ready, the rest of the log follows at once.
_START_SECONDS = 10.0


def engine_container(pod: dict[str, Any]) -> dict[str, Any] | None:
    """The container that would run vLLM, through our launch script or as `vllm serve` directly."""
    for container in pod["spec"]["containers"]:
        command = container.get("command") or []
        ours = bool(command) and command[-1].endswith(("/launch.sh", "/launch_data.sh"))
        if ours or command[:2] == ["vllm", "serve"]:
            return container
    return None


def fate(pod: dict[str, Any], fault: str | None) -> str | None:
    """The value of the pod's fail annotation that makes its fleet fail as `fault` says; None if none is needed."""
    if (pod["metadata"].get("annotations") or {}).get(FAIL):
        return None
    worker = (pod["metadata"].get("labels") or {}).get(f"{_RAY}node-type") == "worker"
    return {"never-ready": None if worker else "never-ready", "worker-missing": "image-pull" if worker else None}.get(
        fault or ""
    )


def fleet(pod: dict[str, Any]) -> str | None:
    """The RayClusterFleet that the pod belongs to, from AIBrix's own label."""
    return (pod["metadata"].get("labels") or {}).get(_FLEET)


def start_seconds(pod: dict[str, Any]) -> float:
    """How long this pod's start should take, in seconds."""
    text = (pod["metadata"].get("annotations") or {}).get(_READY_AFTER, "")
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    return sum(float(number) * units[unit] for number, unit in parts) or _START_SECONDS


@dataclass
class Log:
    """The log of one container, in the format that a container runtime writes and a kubelet reads."""

    folder: Path

    @property
    def current(self) -> Path:
        """The log of the current container, or of the last one if none runs."""
        return self.folder / "current.log"

    @property
    def previous(self) -> Path:
        """The log of the container before that."""
        return self.folder / "previous.log"

    def begin(self) -> None:
        """Starts the log of a new container."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.current.exists():
            self.current.replace(self.previous)
        self.current.touch()

    def write(self, lines: Sequence[str]) -> None:
        """Appends lines; `{now}` in a line becomes vLLM's own time stamp. Does nothing if the log has been deleted."""
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
    """One pod that would run vLLM: its last observed state, and what simulates it."""

    pod: dict[str, Any]
    container: dict[str, Any]
    log: Log
    process: EngineProcess | None = None
    # UIDs of the pods whose GPUs the serving engine uses.
    mates: set[str] = field(default_factory=set)
    # Start time of the container whose log is being written, as its identity; empty before the first container.
    run: str = ""
    begun: float = 0.0
    script: list[tuple[float, str]] = field(default_factory=list)
    formed_at: float | None = None
    said_at: float = 0.0
    said: str = ""
    # The last log lines of an engine that rejects its arguments.
    refusal: list[str] = field(default_factory=list)
    # Whether the last log lines of a failing container have been written.
    doomed: bool = False
    # Whether the pod has been told to terminate, and whether its container has terminated because of that.
    ending: bool = False
    over: bool = False
    # The container's variables and its folder of mounted files, as they were when the container started.
    given: tuple[dict[str, str], Path] | None = None

    @property
    def uid(self) -> str:
        """Distinguishes the pod from others with the same name."""
        return self.pod["metadata"]["uid"]

    @property
    def hook(self) -> list[str] | None:
        """The command of the container's preStop hook; empty if an annotation disables it, None if there is no hook."""
        lifecycle = self.container.get("lifecycle") or {}
        command = ((lifecycle.get("preStop") or {}).get("exec") or {}).get("command")
        return [] if command and _NO_HOOK in (self.pod["metadata"].get("annotations") or {}) else command

    @property
    def labels(self) -> dict[str, str]:
        """The pod's labels."""
        return self.pod["metadata"].get("labels") or {}

    @property
    def leads(self) -> bool:
        """Whether this is the serving pod: the leader of its group, Ray's head, or a pod that belongs to neither."""
        if kind := self.labels.get(f"{_RAY}node-type"):
            return kind == "head"
        return self.labels.get(f"{_GROUP}worker-index", "0") == "0"

    @property
    def group(self) -> tuple[str, ...]:
        """The key that all pods of one group share."""
        metadata = self.pod["metadata"]
        name = self.labels.get(f"{_GROUP}name") or self.labels.get(f"{_RAY}cluster") or metadata["name"]
        return metadata["namespace"], name, self.labels.get(f"{_GROUP}group-index", "")

    @property
    def ready(self) -> bool:
        """Whether the cluster reports the pod as ready."""
        conditions = self.pod["status"].get("conditions") or []
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    @property
    def state(self) -> dict[str, Any]:
        """The container's state: waiting, running or terminated; empty before it has one."""
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
        return (self.pod["metadata"].get("annotations") or {}).get(FAIL) == "crash"

    @property
    def crash(self) -> str:
        """How this container fails, if it does."""
        return (self.pod["metadata"].get("annotations") or {}).get(_CRASH, vllm_log.WORKSPACE)

    @property
    def writer(self) -> vllm_log.Writer:
        """The writer of the engine's log lines."""
        return vllm_log.Writer(self.arguments, self.release)

    def variable(self, name: str, default: str = "") -> str:
        """An environment variable that the pod's spec sets to a literal value."""
        found = (each.get("value") for each in self.container.get("env") or [] if each["name"] == name)
        return next((value for value in found if value), default)

    @property
    def nodes(self) -> int:
        """Number of pods in the group."""
        return int(self.variable("MODELSERVE_NODES", self.variable("LWS_GROUP_SIZE", "1")))

    @property
    def gpus(self) -> int:
        """Number of GPUs of this pod."""
        return int(self.variable("MODELSERVE_GPUS_PER_NODE", "8"))

    @property
    def launcher(self) -> str:
        """What connects the pods of the group: ray or native."""
        return self.variable("MODELSERVE_LAUNCHER", "ray")

    @property
    def leader_address(self) -> str:
        """The address at which a worker looks for its leader."""
        return self.variable("LWS_LEADER_ADDRESS", self.variable("FQ_RAY_IP", "the-leader"))

    @property
    def join_port(self) -> str:
        """The leader's port that a worker waits for."""
        return self.variable("MODELSERVE_DATA_PORT", self.variable("MODELSERVE_JOIN_PORT", "6379"))

    @property
    def runs_vllm(self) -> bool:
        """Whether this pod runs vLLM itself, not just Ray."""
        return self.leads or self.launcher == "native"

    @property
    def words(self) -> list[str]:
        """The engine's argument list, including what the launch script adds."""
        command = self.container.get("command") or []
        words = [*command[2:], *(self.container.get("args") or [])]
        if self.nodes == 1 or self.launcher != "native":
            return words
        index = self.labels.get(f"{_GROUP}worker-index", "0")
        by_nodes = ["--nnodes", str(self.nodes), "--node-rank", index, "--master-addr", self.leader_address]
        if engines := self.variable("MODELSERVE_ENGINES"):
            address = self.variable("VLLM_HOST_IP", "10.0.0.1") if self.leads else self.leader_address
            place, first = ["--data-parallel-rpc-port", self.join_port], list[str]()
            if engines == "0":
                place += [*by_nodes, "--master-port", self.variable("MODELSERVE_MASTER_PORT")]
            else:
                place = ["--data-parallel-size-local", engines, *place]
                first = ["--data-parallel-start-rank", str(int(index) * int(engines))]
            place += ["--data-parallel-address", address]
            return [*words, *place, *([] if self.leads else [*first, "--headless"])]
        place = [*by_nodes, "--master-port", self.join_port]
        return [*words, *place, *([] if self.leads else ["--headless"])]

    def refuses(self) -> list[str]:
        """The last log lines of an engine that rejects its arguments; empty if it accepts them.

        An image whose tag names no release accepts any arguments: nobody knows what it supports.
        """
        release = release_of(self.container.get("image", "")) if self.runs_vllm else None
        return refusal(self.words, release, serves=self.leads) if release else []

    @property
    def arguments(self) -> Arguments:
        """What the simulator uses of the engine's argument list."""
        return Arguments.parse(self.words)

    @property
    def release(self) -> str:
        """The vLLM release to play."""
        return release_of(self.container.get("image", "")) or newest_release()


def script(member: Member) -> list[tuple[float, str]]:
    """The lines of a pod's start after its group has formed."""
    if member.leads:
        return member.writer.engine()
    if member.runs_vllm:
        return member.writer.headless(member.leader_address, member.join_port)
    return []


def last_words(member: Member) -> list[str]:
    """The last lines that a failing container writes."""
    if not member.leads and not member.refusal:
        seconds = member.variable("MODELSERVE_JOIN_SECONDS", "600")
        return vllm_log.worker_crash(member.launcher, member.leader_address, member.join_port, seconds)
    formed, wanted = [], member.nodes * member.gpus
    joins = member.nodes > 1 and member.formed_at is None
    if joins and member.launcher == "native":
        formed = [vllm_log.native_leads(member.nodes, member.leader_address, member.join_port)]
        if not member.leads:
            formed = vllm_log.worker_joins("native", member.leader_address, member.gpus)
    elif joins:
        formed = [vllm_log.ray_waits(wanted, wanted), vllm_log.RAY_FORMED]
    return [*formed, *(member.refusal or member.writer.crash(member.crash, member.script))]

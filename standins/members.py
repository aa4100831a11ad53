"""A fake pod that would run vLLM: what its spec says of the engine, and the log that it writes.

Pure but for the log's files. Does not decide when anything happens: `engines.py` does.
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
# What a start is taken to last where the pod does not say; at Ready the rest of the log follows at once.
_START_SECONDS = 10.0


def engine_container(pod: dict[str, Any]) -> dict[str, Any] | None:
    """The container that would run vLLM: by our launch script, or as `vllm serve` itself."""
    for container in pod["spec"]["containers"]:
        command = container.get("command") or []
        if (command[-1:] and command[-1].endswith("/launch.sh")) or command[:2] == ["vllm", "serve"]:
            return container
    return None


def fate(pod: dict[str, Any], fault: str | None) -> str | None:
    """What a pod's annotation has to say so that its fleet fails as `fault` says; None for nothing."""
    if (pod["metadata"].get("annotations") or {}).get(FAIL):
        return None
    worker = (pod["metadata"].get("labels") or {}).get(f"{_RAY}node-type") == "worker"
    return {"never-ready": None if worker else "never-ready", "worker-missing": "image-pull" if worker else None}.get(
        fault or ""
    )


def fleet(pod: dict[str, Any]) -> str | None:
    """The RayClusterFleet that a pod is of, by AIBrix's own label."""
    return (pod["metadata"].get("labels") or {}).get(_FLEET)


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
    process: EngineProcess | None = None
    # The pods, by uid, whose GPUs the engine that serves has.
    mates: set[str] = field(default_factory=set)
    # The container whose log is being written, by the time it started; empty before the first.
    run: str = ""
    begun: float = 0.0
    script: list[tuple[float, str]] = field(default_factory=list)
    formed_at: float | None = None
    said_at: float = 0.0
    said: str = ""
    # The last words of an engine that does not take its arguments.
    refusal: list[str] = field(default_factory=list)
    # Whether its last words are written.
    doomed: bool = False
    # Whether it was told to end, and whether its container has ended so.
    ending: bool = False
    over: bool = False

    @property
    def uid(self) -> str:
        """What tells the pod from others of its name."""
        return self.pod["metadata"]["uid"]

    @property
    def hook(self) -> list[str] | None:
        """The command of the container's preStop hook; empty where an annotation takes it away, None without any."""
        lifecycle = self.container.get("lifecycle") or {}
        command = ((lifecycle.get("preStop") or {}).get("exec") or {}).get("command")
        return [] if command and _NO_HOOK in (self.pod["metadata"].get("annotations") or {}) else command

    @property
    def labels(self) -> dict[str, str]:
        """The pod's labels."""
        return self.pod["metadata"].get("labels") or {}

    @property
    def leads(self) -> bool:
        """Whether this pod is the one that serves: the leader of its group, Ray's head, or a pod without either."""
        if kind := self.labels.get(f"{_RAY}node-type"):
            return kind == "head"
        return self.labels.get(f"{_GROUP}worker-index", "0") == "0"

    @property
    def group(self) -> tuple[str, ...]:
        """What the pods of one group have in common."""
        metadata = self.pod["metadata"]
        name = self.labels.get(f"{_GROUP}name") or self.labels.get(f"{_RAY}cluster") or metadata["name"]
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
        return (self.pod["metadata"].get("annotations") or {}).get(FAIL) == "crash"

    @property
    def crash(self) -> str:
        """How this container fails, where it does."""
        return (self.pod["metadata"].get("annotations") or {}).get(_CRASH, vllm_log.WORKSPACE)

    @property
    def writer(self) -> vllm_log.Writer:
        """What writes the engine's lines."""
        return vllm_log.Writer(self.arguments, self.release)

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
    def launcher(self) -> str:
        """What joins the pods of the group: ray or native."""
        return self.variable("MODELSERVE_LAUNCHER", "ray")

    @property
    def leader_address(self) -> str:
        """Where a worker looks for its leader."""
        return self.variable("LWS_LEADER_ADDRESS", self.variable("FQ_RAY_IP", "the-leader"))

    @property
    def join_port(self) -> str:
        """The leader's port that a worker waits for."""
        return self.variable("MODELSERVE_JOIN_PORT", "6379")

    @property
    def runs_vllm(self) -> bool:
        """Whether vLLM's own program runs in this pod, and not only Ray's."""
        return self.leads or self.launcher == "native"

    @property
    def words(self) -> list[str]:
        """The engine's argument list, with what the launch script adds."""
        command = self.container.get("command") or []
        words = [*command[2:], *(self.container.get("args") or [])]
        if self.nodes == 1 or self.launcher != "native":
            return words
        place = ["--nnodes", str(self.nodes), "--node-rank", self.labels.get(f"{_GROUP}worker-index", "0")]
        place += ["--master-addr", self.leader_address, "--master-port", self.join_port]
        return [*words, *place, *([] if self.leads else ["--headless"])]

    def refuses(self) -> list[str]:
        """The last words of an engine that does not take its arguments; none where it does.

        An image whose tag names no release takes what it is given: nobody knows what it knows.
        """
        release = release_of(self.container.get("image", "")) if self.runs_vllm else None
        return refusal(self.words, release, serves=self.leads) if release else []

    @property
    def arguments(self) -> Arguments:
        """What the simulator takes from the engine's argument list."""
        return Arguments.parse(self.words)

    @property
    def release(self) -> str:
        """The vLLM release to play."""
        return release_of(self.container.get("image", "")) or newest_release()


def script(member: Member) -> list[tuple[float, str]]:
    """The lines of a pod's start once its group has formed."""
    if member.leads:
        return member.writer.engine()
    if member.runs_vllm:
        return member.writer.headless(member.leader_address, member.join_port)
    return []


def last_words(member: Member) -> list[str]:
    """What a container that will end in failure writes."""
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

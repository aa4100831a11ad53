"""Puts a simulated engine behind every fake pod that would run vLLM.

`python -m standins.engines --kubeconfig F --folder D`, one process per control plane. For each such pod it writes the
log of a start, in step with the pod's status. While a leader is Ready, it serves vLLM's HTTP API with the pod's own
arguments and API key. kwok's `Logs` and `PortForward` objects with the pod's name make both reachable through the real
API server. Does not own the pods' status: the stages of `stages/pods.yaml` change it, and a pod counts as ready here
exactly when the cluster says so. If an engine rejects its arguments, this process marks its pod to fail.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from local import faults
from local.api import Api, ApiError
from standins import vllm_log, watching
from standins.engine_process import EngineProcess, run_hook
from standins.members import FAIL, Log, Member, engine_container, fate, fleet, last_words, script, start_seconds
from standins.watching import WatchingApi, follow

_TICK_SECONDS = 0.25
_REPEAT_SECONDS = 5.0
_KWOK = "/apis/kwok.x-k8s.io/v1alpha1"


class Engines:
    """All pods of one control plane that would run vLLM."""

    def __init__(self, api: Api, folder: Path) -> None:
        self._api, self._folder = api, folder
        self._members: dict[str, Member] = {}
        self._groups: dict[tuple[str, ...], dict[str, Member]] = {}
        self._lock = threading.RLock()

    def see(self, pod: dict[str, Any]) -> None:
        """Records the current state of a pod."""
        container = engine_container(pod)
        if container is None:
            return
        uid = pod["metadata"]["uid"]
        with self._lock:
            member = self._members.get(uid)
            if member is None:
                member = self._members[uid] = Member(pod, container, Log(self._folder / uid))
                self._groups.setdefault(member.group, {})[uid] = member
                self._doom(pod)
            member.pod, member.container = pod, container
            if member.running and member.run != member.state["running"]["startedAt"]:
                self._begin(member)
            for each in list(self._groups[member.group].values()):
                self._settle(each)
            self._tell(member)
            if watching.deleting(pod) and not member.ending and member.hook is not None:
                member.ending = True
                # If nothing runs, it ends at once: a kubelet has nothing to wait for.
                threading.Thread(target=self._end, args=(member,), daemon=True).start()

    def _settle(self, member: Member) -> None:
        """Lets a leader serve while it is ready and its group is complete."""
        mates = {uid: each for uid, each in self._groups[member.group].items() if each.running and not each.over}
        if member.process is None:
            # A terminating group may exist beside its successor. The successor cannot use the pods of the old group.
            fresh = {uid for uid, each in mates.items() if not watching.deleting(each.pod)}
            if member.leads and member.ready and member.uid in fresh and len(fresh) >= member.nodes:
                member.mates = fresh
                self._serve(member)
        elif not member.ready or not member.mates <= mates.keys():
            self._unserve(member)

    def _doom(self, pod: dict[str, Any]) -> None:
        """Marks a new pod to fail if its fleet should fail."""
        name = fleet(pod)
        if how := fate(pod, faults.of(self._folder.parent, "RayClusterFleet", name) if name else None):
            self._mark(pod, how)

    def forget(self, uid: str) -> None:
        """Removes everything that simulates a deleted pod."""
        with self._lock:
            member = self._members.pop(uid, None)
            if member is None:
                return
            group = self._groups[member.group]
            del group[uid]
            for each in group.values():
                self._settle(each)
            if not group:
                del self._groups[member.group]
            self._unserve(member)
            self._remove("logs", member)
            shutil.rmtree(member.log.folder, ignore_errors=True)

    def keep_only(self, pods: Sequence[dict[str, Any]]) -> None:
        """Forgets every pod that is not among `pods`, and removes what an earlier process left behind for others."""
        for uid in self._members.keys() - {pod["metadata"]["uid"] for pod in pods}:
            self.forget(uid)
        names = {(pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in pods}
        for plural in ("logs", "portforwards"):
            for each in self._api.get(f"{_KWOK}/{plural}")["items"]:
                metadata = each["metadata"]
                if (metadata["namespace"], metadata["name"]) not in names:
                    self._delete(plural, metadata)

    def tick(self) -> None:
        """Writes more of the logs of starting pods."""
        with self._lock:
            for member in self._members.values():
                # A worker without a probe is ready at once, with lines still to write.
                if not member.ready or member.formed_at is None or member.script:
                    self._tell(member)

    def _begin(self, member: Member) -> None:
        member.log.begin()
        member.run, member.begun = member.state["running"]["startedAt"], time.monotonic()
        member.formed_at, member.said, member.said_at, member.doomed = None, "", 0.0, False
        member.script = script(member)
        member.refusal = member.refuses()
        # Read now what the shutdown needs: it may be deleted before the pod.
        with contextlib.suppress(ApiError):
            member.given = self._environment(member), self._mount(member)
        if member.nodes == 1:
            member.formed_at = member.begun
            member.log.write([vllm_log.one_node(member.gpus)])
        log = {"containers": [member.container["name"]], "logsFile": str(member.log.current)}
        log |= {"previousLogsFile": str(member.log.previous)} if member.log.previous.exists() else {}
        self._apply("Logs", member, {"logs": [log]})
        if member.refusal:
            self._mark(member.pod, "crash")

    def _tell(self, member: Member) -> None:
        """Writes the lines that are due."""
        if not member.running or member.doomed:
            return
        if member.crashes or member.refusal:
            # Write now, not at the end: as soon as LeaderWorkerSet sees the failure, it deletes the pod and its log.
            member.doomed = True
            member.log.write(last_words(member))
            return
        if member.formed_at is None:
            self._tell_join(member)
        if member.formed_at is None or not member.script:
            return
        # Joining is part of the start: the engine gets the time that is left.
        left = max(start_seconds(member.pod) - (member.formed_at - member.begun), 0.1)
        share = min((time.monotonic() - member.formed_at) / left, vllm_log.HELD_BACK)
        if member.ready and member.leads:
            share = 1.0
        due = [line for at, line in member.script if at <= share]
        if due:
            member.script = member.script[len(due) :]
            member.log.write(due)

    def _tell_join(self, member: Member) -> None:
        mates = [each for each in self._groups[member.group].values() if each.running]
        now = time.monotonic()
        if member.leads:
            wanted = member.nodes * member.gpus
            joined = wanted if member.ready else min(sum(each.gpus for each in mates), wanted)
            line, done, after = vllm_log.ray_waits(joined, wanted), joined == wanted, [vllm_log.RAY_FORMED]
            if member.launcher == "native":
                line, after = vllm_log.native_leads(member.nodes, member.leader_address, member.join_port), []
        else:
            line = vllm_log.worker_waits(member.launcher, member.leader_address, member.join_port)
            done = any(each.leads for each in mates)
            after = vllm_log.worker_joins(member.launcher, member.leader_address, member.gpus)
        if line != member.said or now - member.said_at >= _REPEAT_SECONDS:
            member.said, member.said_at = line, now
            if member.leads or not done:
                member.log.write([line])
        if done:
            member.log.write(after)
            member.formed_at = now

    def _mark(self, pod: dict[str, Any], how: str) -> None:
        """Tells the stages to make the pod fail."""
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        try:
            self._api.merge(path, {"metadata": {"annotations": {FAIL: how}}})
        except ApiError as error:
            if error.code != 404:  # gone in the meantime
                raise

    def _serve(self, member: Member) -> None:
        try:
            env, launch = member.given or (self._environment(member), self._mount(member))
        except ApiError as error:
            # A kubelet does not start a container whose Secret is missing; kwok does.
            member.log.write([f"Error: {error}"])
            return
        process = EngineProcess(member.log.folder, launch, member.release, member.words, env)
        member.process = process
        target = {"address": "127.0.0.1", "port": process.port}
        self._apply("PortForward", member, {"forwards": [{"ports": [member.arguments.port], "target": target}]})

    def _unserve(self, member: Member) -> None:
        if member.process:
            threading.Thread(target=member.process.kill, daemon=True).start()
            member.process = None
            self._remove("portforwards", member)

    def _end(self, member: Member) -> None:
        """Terminates a pod as a kubelet does: preStop hook, SIGTERM, SIGKILL after the grace; then deletes it.

        One whose node is gone stays until the cluster forgets the node:
        https://kubernetes.io/docs/concepts/architecture/nodes/#node-status"""
        metadata = member.pod["metadata"]
        if (metadata.get("annotations") or {}).get(FAIL) == "node-gone":
            return
        grace = metadata.get("deletionGracePeriodSeconds") or 0
        begun = time.monotonic()
        try:
            hook = member.hook
            if hook and member.running and member.given:
                with self._lock:
                    mates = self._groups.get(member.group, {}).values()
                    leader = next((each.process for each in mates if each.leads and each.process), None)
                env, launch = member.given
                run_hook(hook, member.log.folder, launch, env, leader, grace)
            if member.process:
                # The kubelet leaves at least two seconds, however long the hook took.
                member.process.term(max(grace - (time.monotonic() - begun), 2))
            with self._lock:
                member.over = True
                for each in list(self._groups.get(member.group, {}).values()):
                    self._settle(each)
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
            self._api.request("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}})
        except ApiError as error:
            if error.code not in (404, 409):  # gone in the meantime
                raise

    def _environment(self, member: Member) -> dict[str, str]:
        """The container's variables, including those from Secrets. Raises ApiError if a Secret is missing."""
        found = {}
        for each in member.container.get("env") or []:
            reference = (each.get("valueFrom") or {}).get("secretKeyRef")
            if reference:
                path = f"/api/v1/namespaces/{member.pod['metadata']['namespace']}/secrets/{reference['name']}"
                data = self._api.get(path).get("data") or {}
                found[each["name"]] = base64.b64decode(data.get(reference["key"], "")).decode()
            elif "value" in each:
                found[each["name"]] = each["value"]
        return found

    def _mount(self, member: Member) -> Path:
        """The folder with the files of the pod's launch ConfigMap; empty if the pod has none."""
        folder = member.log.folder / "launch"
        volumes = member.pod["spec"].get("volumes") or []
        name = next((each["configMap"]["name"] for each in volumes if each["name"] == "launch"), None)
        folder.mkdir(parents=True, exist_ok=True)
        if name and not any(folder.iterdir()):
            path = f"/api/v1/namespaces/{member.pod['metadata']['namespace']}/configmaps/{name}"
            for file, text in (self._api.get(path).get("data") or {}).items():
                (folder / file).write_text(text)
        return folder

    def _apply(self, kind: str, member: Member, spec: dict[str, Any]) -> None:
        metadata = member.pod["metadata"]
        # The pod must not own this object: LeaderWorkerSet deletes leaders in the foreground, so what they own goes
        # first, but a pod's log stays readable until the pod itself is gone.
        manifest = {
            "apiVersion": "kwok.x-k8s.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
            "spec": spec,
        }
        plural = {"Logs": "logs", "PortForward": "portforwards"}[kind]
        try:
            self._api.apply(_path(plural, metadata), manifest)
        except ApiError as error:
            # A terminating namespace accepts no new objects; the pod will be gone soon too.
            print(f"{metadata['namespace']}/{metadata['name']}: {error}", flush=True)

    def _remove(self, plural: str, member: Member) -> None:
        metadata = member.pod["metadata"]
        heirs = [each.pod["metadata"] for each in self._members.values() if each is not member]
        if (metadata["namespace"], metadata["name"]) not in {(each["namespace"], each["name"]) for each in heirs}:
            self._delete(plural, metadata)

    def _delete(self, plural: str, metadata: dict[str, Any]) -> None:
        try:
            self._api.delete(_path(plural, metadata))
        except ApiError as error:
            if error.code != 404:
                raise


def _path(plural: str, metadata: dict[str, Any]) -> str:
    return f"{_KWOK}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"


def main(argv: Sequence[str]) -> None:
    """Runs until it is stopped or its control plane is gone."""
    options = watching.parser("python -m standins.engines", __doc__).parse_args(argv)
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

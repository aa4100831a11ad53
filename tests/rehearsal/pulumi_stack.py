"""Runs the project on a rehearsal with the plain pulumi CLI, as a user would, each time with a separate stack."""

from __future__ import annotations

import base64
import copy
import functools
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from kubernetes import client, config

from local import charts, faults, pulumi_home
from local.api import ApiError
from local.control_plane import ControlPlane
from local.paths import PROGRAM, ROOT
from tests.support.patience import PATIENCE_SECONDS

API_KEY = "sk-canary-1f6b0e9d"
_NAME = "first-of-all"
LWS = ("leaderworkerset.x-k8s.io", "v1", "default", "leaderworkersets")
# A start takes a second or two here, and ten times that on a machine that is slow. Tests of starts that fail wait for
# the limit that derives from this.
STARTUP_SECONDS = 30

_OURS = "app.kubernetes.io/managed-by=modelserve"
_FLUID = "/apis/data.fluid.io/v1alpha1/namespaces/default"
_FLEETS = "/apis/orchestration.aibrix.ai/v1alpha1/namespaces/default"
_GATEWAY = "/apis/gateway.networking.k8s.io"
_SYSTEMS = ("lws-system", "fluid-system", "envoy-gateway-system")
# The API path and selector of each kind that a stack creates; owners come before the objects deleted with them. Fluid's
# own claims carry no label, nor do the objects that AIBrix and KubeRay make for a fleet. AIBrix has its own namespace.
_STANDING = (
    ("PodAutoscaler", "/apis/autoscaling.aibrix.ai/v1alpha1/namespaces/default/podautoscalers", ""),
    ("ScaledObject", "/apis/keda.sh/v1alpha1/namespaces/default/scaledobjects", _OURS),
    ("TriggerAuthentication", "/apis/keda.sh/v1alpha1/namespaces/default/triggerauthentications", _OURS),
    ("HorizontalPodAutoscaler", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", ""),
    ("RayClusterFleet", f"{_FLEETS}/rayclusterfleets", ""),
    ("RayClusterReplicaSet", f"{_FLEETS}/rayclusterreplicasets", ""),
    ("RayCluster", "/apis/ray.io/v1/namespaces/default/rayclusters", ""),
    ("Pod", "/api/v1/namespaces/default/pods", "ray.io/cluster"),
    ("Service", "/api/v1/namespaces/default/services", "ray.io/cluster"),
    ("HTTPRoute", f"{_GATEWAY}/v1/namespaces/aibrix-system/httproutes", ""),
    ("ReferenceGrant", f"{_GATEWAY}/v1beta1/namespaces/default/referencegrants", ""),
    ("ServiceMonitor", "/apis/monitoring.coreos.com/v1/namespaces/default/servicemonitors", _OURS),
    ("PrometheusRule", "/apis/monitoring.coreos.com/v1/namespaces/default/prometheusrules", _OURS),
    ("Gateway", f"{_GATEWAY}/v1/namespaces/aibrix-system/gateways", ""),
    ("GatewayClass", f"{_GATEWAY}/v1/gatewayclasses", _OURS),
    *(
        (kind, f"/apis/{group}/v1/{kind.lower()}s", _OURS)
        for group, kind in (
            ("rbac.authorization.k8s.io", "ClusterRole"),
            ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
            ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
            ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
        )
    ),
    ("Namespace", "/api/v1/namespaces", _OURS),
    ("Proxy", "/api/v1/namespaces/envoy-gateway-system/services", "gateway.envoyproxy.io/owning-gateway-name"),
    ("LeaderWorkerSet", "/apis/leaderworkerset.x-k8s.io/v1/namespaces/default/leaderworkersets", _OURS),
    ("DataLoad", f"{_FLUID}/dataloads", _OURS),
    ("JindoRuntime", f"{_FLUID}/jindoruntimes", _OURS),
    ("Dataset", f"{_FLUID}/datasets", _OURS),
    ("CronJob", "/apis/batch/v1/namespaces/default/cronjobs", _OURS),
    ("Job", "/apis/batch/v1/namespaces/default/jobs", _OURS),
    ("Pod", "/api/v1/namespaces/default/pods", "leaderworkerset.sigs.k8s.io/name"),
    ("Pod", "/api/v1/namespaces/default/pods", "batch.kubernetes.io/job-name"),
    ("Service", "/api/v1/namespaces/default/services", _OURS),
    ("Secret", "/api/v1/namespaces/default/secrets", _OURS),
    ("ServiceAccount", "/api/v1/namespaces/default/serviceaccounts", _OURS),
    ("ConfigMap", "/api/v1/namespaces/default/configmaps", _OURS),
    *(
        (kind, f"/apis/rbac.authorization.k8s.io/v1/namespaces/default/{kind.lower()}s", _OURS)
        for kind in ("Role", "RoleBinding")
    ),
    ("NetworkPolicy", "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", _OURS),
    ("PersistentVolumeClaim", "/api/v1/namespaces/default/persistentvolumeclaims", ""),
    ("PersistentVolume", "/api/v1/persistentvolumes", ""),
    *(("Release", f"/api/v1/namespaces/{place}/secrets", "owner=helm") for place in _SYSTEMS),
    *(("Deployment", f"/apis/apps/v1/namespaces/{place}/deployments", "") for place in _SYSTEMS),
)
_NO_STEPS = ("same", "read", "refresh")
# The rehearsal's own volume, which exists before any stack.
_GIVEN = "model-weights"
# Other places that can repeat a secret.
_TELLING = (
    "/api/v1/namespaces/default/events",
    "/apis/apps/v1/namespaces/default/statefulsets",
    "/apis/apps/v1/namespaces/default/controllerrevisions",
    "/api/v1/namespaces/aibrix-system/configmaps",
    "/apis/apps/v1/namespaces/aibrix-system/deployments",
)


@dataclass(frozen=True)
class _First:
    """A stack that `pulumi stack init` and `config set` make once, because running them for each test takes seconds."""

    state: Path
    settings: dict[str, Any]
    api_key: dict[str, Any]

    def copy(self, state: Path, name: str) -> None:
        """Copies its state under another stack name."""
        for file in self.state.rglob("*"):
            if file.is_file():
                target = state / str(file.relative_to(self.state)).replace(_NAME, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(file.read_text().replace(f"/{_NAME}", f"/{name}"))


@functools.cache
def _first(plane: ControlPlane) -> _First:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        environment = pulumi_home.environment(plane, folder / "state")
        (folder / "Pulumi.yaml").symlink_to(ROOT / "Pulumi.yaml")
        for command in (["stack", "init", _NAME], ["config", "set", "--secret", "modelserve:apiKey", "-s", _NAME]):
            subprocess.run(
                ["pulumi", *command],
                cwd=folder,
                env=environment,
                input=API_KEY,
                text=True,
                check=True,
                timeout=PATIENCE_SECONDS,
            )
        settings = yaml.safe_load((folder / f"Pulumi.{_NAME}.yaml").read_text())
        kept = Path(tempfile.mkdtemp(dir=plane.folder)) / "state"
        shutil.copytree(folder / "state", kept)
        return _First(kept, settings, settings.pop("config")["modelserve:apiKey"])


@dataclass(frozen=True)
class Step:
    """One step of a run; `begun` and `done` order it among the others. `done` is None if the step failed."""

    operation: str
    begun: int
    done: int | None


@dataclass
class Stack:
    """One stack in its own folder: state, stack file, and links to the program. Tests may change `config`.

    It starts from the project's `Pulumi.<start>.yaml`, on this control plane. `hidden` are the secrets that it knows
    of, `said` collects what the runs and the cluster have printed.
    """

    plane: ControlPlane
    folder: Path
    start: str = "local"
    name: str = field(default_factory=lambda: f"t{secrets.token_hex(3)}")
    said: list[str] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)
    _cut: dict[str, Step] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole = yaml.safe_load((ROOT / f"Pulumi.{self.start}.yaml").read_text())
        self._settings = {key: value for key, value in whole.items() if key != "config"}
        self.config = {key: value for key, value in whole["config"].items() if key != "modelserve:apiKey"}
        self.config["modelserve:cluster"]["context"] = "rehearsal"
        if self.start != "local":
            self.config["modelserve:addons"]["charts"] = str(charts.folder())
        if self.start == "local":
            self.config["modelserve:services"]["ds"]["startupSeconds"] = STARTUP_SECONDS
        self.env = pulumi_home.environment(self.plane, self.folder / "state")
        self.env["PULUMI_DEBUG_COMMANDS"] = "1"  # enables --event-log
        for part in PROGRAM:
            (self.folder / part).symlink_to(ROOT / part)
        made = _first(self.plane)
        made.copy(self.folder / "state", self.name)
        self._settings |= made.settings
        self.config["modelserve:apiKey"] = made.api_key
        self.hidden.add(API_KEY)
        self.write()

    def renew(self, *given: str) -> None:
        """Replace the stack file by one that `ops new` makes like the project's own, with these values, and that `ops
        check` accepts. Secrets stay."""
        self.config = {key: each for key, each in self.config.items() if isinstance(each, dict) and "secure" in each}
        self.write()
        (self.folder / f"Pulumi.{self.start}.yaml").symlink_to(ROOT / f"Pulumi.{self.start}.yaml")
        values = [word for each in given for word in ("--set", each)]
        self.ops("new", self.name, "--like", self.start, *values)
        assert self.ops("check", self.name).startswith(f"{self.name}: 1 service, 16 GPUs: fine")
        self.config = yaml.safe_load(self.file.read_text())["config"]

    def set_api_key(self, key: str) -> None:
        """Encrypt the API key into the stack file."""
        self.set_secret("apiKey", key)

    def set_secret(self, key: str, value: str) -> None:
        """Encrypt a value into the stack file."""
        self.hidden.add(value)
        self.run("config", "set", "--secret", f"modelserve:{key}", given=value)
        self._settings = yaml.safe_load(self.file.read_text())
        self.config[f"modelserve:{key}"] = self._settings.pop("config")[f"modelserve:{key}"]

    def fault(self, target: str, how: str | None) -> None:
        """Make KIND/NAME fail from now on; None stops that."""
        kind, _, name = target.partition("/")
        faults.put(self.plane.folder, kind, name, how)

    @property
    def file(self) -> Path:
        """The stack file."""
        return self.folder / f"Pulumi.{self.name}.yaml"

    @property
    def services(self) -> dict[str, Any]:
        """The stack file's services, which tests may change."""
        return self.config["modelserve:services"]

    def write(self) -> None:
        """Write `config` to the stack file."""
        self.file.write_text(yaml.safe_dump({"config": self.config, **self._settings}, sort_keys=False))

    def up(self, *args: str, ok: bool = True) -> str:
        """Run `pulumi up` with the current config; returns its output. Fails if the result differs from `ok`."""
        return self._deploy("up", "--skip-preview", "--yes", *args, ok=ok)

    def preview(self, *args: str, ok: bool = True) -> str:
        """`pulumi preview`."""
        return self._deploy("preview", *args, ok=ok)

    def refresh(self, *args: str, ok: bool = True) -> str:
        """`pulumi refresh`."""
        return self._deploy("refresh", "--skip-preview", "--yes", *args, ok=ok)

    def destroy(self, *args: str, ok: bool = True) -> str:
        """`pulumi destroy`."""
        return self._deploy("destroy", "--skip-preview", "--yes", *args, ok=ok)

    def recover(self) -> str:
        """`python -m ops recover` after a killed run; nothing is pending afterwards."""
        said = self.ops("recover", self.name)
        assert self.pending() == []
        return said

    def pending(self) -> list[str]:
        """The operations of which a killed run has not recorded the outcome."""
        return [
            f"{operation['type']} {operation['resource']['type'].rpartition(':')[2]}"
            for operation in self.state()["deployment"].get("pending_operations") or []
        ]

    def through_a_kill(self, moment: str, *command: str) -> str:
        """Kill a run when the step of this `Kind/name` begins, recover, and run the command again, to its end. Returns
        what that printed; `in_order` is about both runs."""
        assert self.kill_at(moment, *command)
        cut = self.steps()
        said = self.go_on(*command)
        self._cut = cut
        return said

    def go_on(self, *command: str) -> str:
        """After a killed run: recover, and run the command again, to its end. It creates what is missing and nothing
        else. Returns what it printed."""
        self.recover()
        there = Cluster(self.plane).ours()
        said = self._deploy(*command, "--skip-preview", "--yes", ok=True)
        created = {name for name, step in self.steps().items() if step.operation == "create"}
        # Before 4.29 the official plugin adopts what exists; later versions refuse it. Neither may happen.
        assert not created & set(there), "made what was there"
        return said

    def ops(self, *args: str, code: int = 0, seconds: float = PATIENCE_SECONDS) -> str:
        """`python -m ops COMMAND …` for this stack file."""
        done = subprocess.run(
            [sys.executable, "-m", "ops", *args],
            cwd=self.folder,
            env=self.env,
            text=True,
            stdin=subprocess.DEVNULL,  # `new` would ask a terminal
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
        )
        self.said.append(done.stdout)
        assert done.returncode == code, done.stdout
        return done.stdout

    def begin(self, command: str, *args: str) -> subprocess.Popen[str]:
        """A `pulumi up` or `destroy` in its own process group, so that a test can interrupt it."""
        self.write()
        return self._begin("pulumi", command, *args, "-s", self.name, "--skip-preview", "--yes")

    def begin_ops(self, *args: str) -> subprocess.Popen[str]:
        """`python -m ops COMMAND …`, whose lines a test reads while it runs."""
        self.write()
        return self._begin(sys.executable, "-m", "ops", *args)

    def _begin(self, *command: str) -> subprocess.Popen[str]:
        self._forget_steps()
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**self.env, "PULUMI_OPTION_EVENT_LOG": str(self._events)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def interrupt(self, process: subprocess.Popen[str], number: signal.Signals) -> str:
        """Send a signal to the CLI, not to its plugins, as a terminal's Ctrl-C or a kill would; returns the run's
        output. A rotation gets it first, then the CLI that it runs."""
        pids = [process.pid]
        if "rotate" in process.args:  # type: ignore[operator]
            pids += map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        for pid in pids:
            os.kill(pid, number)
        said = process.communicate(timeout=PATIENCE_SECONDS)[0]
        self.said.append(said)
        return said

    def kill_at(self, moment: int | str, command: str, *args: str) -> bool:
        """Kill a run at a point in its event log: when this many steps have begun or ended, or when the step of this
        `Kind/name` begins. Returns whether the run reached that point."""
        run = self.begin(command, *args)
        if isinstance(moment, str):
            return self._kill_when(run, lambda moments: f"{moment} begun" in moments)
        return self._kill_when(run, lambda moments: len(moments) >= moment)

    def kill_at_news(self, seen: set[str], command: str, *args: str) -> bool:
        """Kill a run at the first begin or end of a step that is not in `seen`, and add it there. Returns whether the
        run reached such a point."""
        return self._kill_at_news(self.begin(command, *args), seen)

    def kill_rotation_at_news(self, seen: set[str]) -> bool:
        """Likewise `python -m ops rotate`, which goes on from the stack file that it has written."""
        return self._kill_at_news(self.begin_ops("rotate", self.name, "--pause", "0"), seen)

    def _kill_at_news(self, run: subprocess.Popen[str], seen: set[str]) -> bool:
        def news(moments: set[str]) -> bool:
            # Each lost key makes another generation, whose steps are no news.
            new = {re.sub(r"-\d+ ", " ", moment) for moment in moments} - seen
            seen.update(new)
            return bool(new)

        return self._kill_when(run, news)

    def _kill_when(self, run: subprocess.Popen[str], reached: Callable[[set[str]], bool]) -> bool:
        while run.poll() is None:
            if reached(self._moments()):
                self.interrupt(run, signal.SIGKILL)
                return True
            time.sleep(0.01)
        said = run.communicate()[0]
        self.said.append(said)
        assert run.returncode == 0, said
        return False

    def _moments(self) -> set[str]:
        """The steps that have begun and ended so far in the run."""
        return {
            moment
            for name, step in self.steps().items()
            for moment in (f"{name} begun", *([f"{name} done"] if step.done is not None else []))
        }

    def state(self) -> dict[str, Any]:
        """The exported state."""
        return json.loads(self.run("stack", "export"))

    def has_resources(self) -> bool:
        """Whether the state contains anything; does not run the engine."""
        (file,) = (self.folder / "state").rglob(f"stacks/*/{self.name}.json")
        latest = json.loads(file.read_text())["checkpoint"].get("latest") or {}
        return bool(latest.get("resources"))

    def run(self, *args: str, given: str | None = None) -> str:
        """Any pulumi command that must succeed."""
        named = args if self.name in args else (*args, "-s", self.name)
        done = subprocess.run(
            ["pulumi", *named],
            cwd=self.folder,
            env=self.env,
            text=True,
            capture_output=True,
            input=given,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _deploy(self, *args: str, ok: bool) -> str:
        self.write()
        self._forget_steps()
        done = subprocess.run(
            ["pulumi", *args, "-s", self.name, "--non-interactive", "--event-log", str(self._events)],
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE_SECONDS,
        )
        # The first event repeats the stack file, in which a test may have written a key in plain text.
        events = [line for line in self._events.read_text().splitlines() if '"preludeEvent"' not in line]
        self.said += [done.stdout, *events]
        self.look_around()
        assert (done.returncode == 0) is ok, done.stdout
        return done.stdout

    def _forget_steps(self) -> None:
        self._events.write_text("")  # a run that never begins writes no events
        self._cut = {}

    @property
    def _events(self) -> Path:
        return self.folder / "events.json"

    def steps(self) -> dict[str, Step]:
        """What the last run changed: `Kind/name` to its step."""
        found: dict[str, Step] = {}
        # The last line may be incomplete.
        for event in map(json.loads, self._events.read_text().rpartition("\n")[0].splitlines()):
            for phase in ("resourcePreEvent", "resOutputsEvent"):
                about = (event.get(phase) or {}).get("metadata")
                # A component can share name and kind with an object inside it; the engine does nothing to a component.
                if about is None or about["op"] in _NO_STEPS or about["type"].startswith("modelserve:"):
                    continue
                key = f"{about['type'].split(':')[-1]}/{about['urn'].split('::')[-1]}"
                begun = event["sequence"] if key not in found else found[key].begun
                found[key] = Step(about["op"], begun, event["sequence"] if phase == "resOutputsEvent" else None)
        return found

    def in_order(self, *names: str) -> bool:
        """Whether each of these steps of the last run, with a killed one before it, was done before the next one began.
        What the killed run began and never ended was settled by `recover`."""
        asked = [self.times()[name] for name in names]
        return all(done is not None and done < then for (_, done), (then, _) in itertools.pairwise(asked))

    def times(self) -> dict[str, tuple[int, int | None]]:
        """When each step of the last run, with a killed one before it, began and was done."""
        found: dict[str, tuple[int, int | None]] = {}
        long_ago = 1 + max((step.done or step.begun for step in self._cut.values()), default=0)
        for name, step in self._cut.items():
            found[name] = (step.begun - long_ago, -1 if step.done is None else step.done - long_ago)
        for name, step in self.steps().items():
            found[name] = (found.get(name, (step.begun,))[0], step.done)
        return found

    def look_around(self) -> None:
        """Record what anybody may read in the cluster and logs, and which keys the cloud has created."""
        self.said.append(public(self.plane))
        cloud = self.plane.folder / "cloud" / "cloud.json"
        keys = json.loads(cloud.read_text()).get("keys", {}) if cloud.exists() else {}
        self.hidden |= {key["secret"] for key in keys.values()}

    def leaks(self) -> list[str]:
        """The places where a secret appears in plain text: in outputs, or in the backend's files of the stack."""
        kept = [path for path in (self.folder / "state").rglob("*") if path.is_file()]
        told = {"told": "\n".join(self.said)} | {path.name: path.read_text(errors="replace") for path in kept}
        forms = [form for secret in self.hidden for form in (secret, base64.b64encode(secret.encode()).decode())]
        return [f"{form} in {where}" for where, text in told.items() for form in forms if form in text]


@dataclass
class Cluster:
    """The objects in the rehearsal's namespace `default`."""

    plane: ControlPlane

    def __post_init__(self) -> None:
        api = config.new_client_from_config(str(self.plane.kubeconfig), "rehearsal")
        self.core, self.custom = client.CoreV1Api(api), client.CustomObjectsApi(api)
        self.network = client.NetworkingV1Api(api)

    def group(self, name: str = "ds") -> dict[str, Any]:
        """The LeaderWorkerSet of a service."""
        return self.custom.get_namespaced_custom_object(*LWS, name)

    def pods(self, name: str = "ds") -> dict[str, str]:
        """Names and uids of a service's pods."""
        found = self.core.list_namespaced_pod("default", label_selector=f"leaderworkerset.sigs.k8s.io/name={name}")
        return {pod.metadata.name: pod.metadata.uid for pod in found.items}

    def ready(self, name: str = "ds") -> bool:
        """Whether all pods of a service are ready."""
        found = self.core.list_namespaced_pod("default", label_selector=f"leaderworkerset.sigs.k8s.io/name={name}")
        return bool(found.items) and all(
            any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or []) for pod in found.items
        )

    def sync_log(self) -> str:
        """The log of the newest pod of a sync."""
        found = self.core.list_namespaced_pod("default", label_selector="app.kubernetes.io/component=sync").items
        newest = max(found, key=lambda pod: pod.metadata.creation_timestamp)
        return self.core.read_namespaced_pod_log(newest.metadata.name, "default")

    def ours(self) -> list[str]:
        """Every object that a stack created, or that controllers created for it."""
        return sorted({f"{kind}/{name}" for kind, _, name in self._standing()})

    def clear(self, but: Sequence[str] = ()) -> None:
        """Delete every object of ours `but` some, so that one test's failure does not fail the next one."""
        for kind, path, name in list(self._standing()):
            if f"{kind}/{name}" not in but:
                try:
                    self.plane.api.delete(f"{path}/{name}")
                except ApiError as error:
                    if error.code not in (404, 409):  # deleted with its owner, or being deleted
                        raise
        self.wait_for_end(but)

    def wait_for_end(self, but: Sequence[str] = ()) -> None:
        """Wait until no object of ours `but` some is left; fails with a list of the others."""

        def standing(kinds: Sequence[str] | None = None) -> list[tuple[str, str]]:
            return sorted({(kind, name) for kind, _, name in self._standing(kinds) if f"{kind}/{name}" not in but})

        left = standing()

        def gone() -> bool:
            # While objects are left, list only their kinds: listing all kinds takes 36 requests.
            left[:] = standing([kind for kind, _ in left]) or standing()
            return not left

        try:
            self.wait("nothing of ours is left", gone)
        except AssertionError:
            raise AssertionError(f"still there: {', '.join('/'.join(each) for each in left)}") from None

    def _standing(self, kinds: Sequence[str] | None = None) -> Iterator[tuple[str, str, str]]:
        """Kind, path and name of each object of ours, or of some kinds only. Volumes bound to claims in other
        namespaces belong to other tests."""
        for kind, path, selector in _STANDING:
            if kinds is not None and kind not in kinds:
                continue
            for item in _items(self.plane, path, selector):
                elsewhere = kind == "PersistentVolume" and (
                    item["spec"].get("claimRef", {}).get("namespace") != "default"
                )
                if _name(item) != _GIVEN and not elsewhere:
                    yield kind, path, _name(item)

    def object(self, kind: str, name: str) -> dict[str, Any] | None:
        """An object of one of the kinds that stacks create; None if it does not exist."""
        path = next(path for listed, path, _ in _STANDING if listed == kind)
        try:
            return self.plane.api.get(f"{path}/{name}")
        except ApiError as error:
            if error.code != 404:
                raise
            return None

    def wait(self, what: str, test: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until `test` holds; fails with `what` if it does not within `seconds`."""
        end = time.monotonic() + seconds
        while not test():
            assert time.monotonic() < end, f"not in {seconds} s: {what}"
            time.sleep(0.2)


def public(plane: ControlPlane) -> str:
    """Everything readable in the cluster without permission to read Secrets, and the logs of its pods."""
    paths = dict.fromkeys((*(path for _, path, _ in _STANDING), *_TELLING))
    shown = [
        json.dumps([item | {"data": None} for item in _items(plane, path, "")])
        if path.endswith("/secrets")
        else _of_kind(plane, path, plane.api.text) or ""
        for path in paths
    ]
    logs = [file.read_text(errors="replace") for file in (plane.folder / "pod-logs").rglob("*") if file.is_file()]
    return "\n".join([*shown, *logs])


def _items(plane: ControlPlane, path: str, selector: str) -> list[dict[str, Any]]:
    """The objects at a path; none if this control plane lacks the kind."""
    listed = _of_kind(plane, f"{path}?labelSelector={quote(selector)}", plane.api.get)
    return listed["items"] if listed else []


def _of_kind(plane: ControlPlane, path: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(path)
    except ApiError as error:
        if error.code != 404:
            raise
        return None


def _name(item: dict[str, Any]) -> str:
    return item["metadata"]["name"]


def one_node(service: dict[str, Any]) -> dict[str, Any]:
    """A copy of a service on a single node of 8 GPUs."""
    service = copy.deepcopy(service)
    service["layout"] = {"nodes": 1, "gpusPerNode": 8, "tensor": 8, "pipeline": 1}
    return service

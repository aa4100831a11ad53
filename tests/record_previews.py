"""Records what the report's tests read: `python -m tests.record_previews [NAME...]`, on a rehearsal of its own.

`python -m tests.record_previews comments` writes the comments beside the records anew, and records nothing. Read them.

One stack on ACS comes up once; then each change is previewed, and each drift is planted, read and taken back. What
tells of the machine, the day or the run is taken out. `tests/data/previews/*.json.xz` are the previews,
`tests/data/drift/*.json.xz` what `pulumi refresh --preview-only --json` found.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import gzip
import json
import lzma
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from local import charts, control_plane, pulumi_home
from local.nodes import NodePool
from local.paths import ROOT
from report import drift_report, pages
from tests.rehearsal.clouds import Cloud
from tests.rehearsal.pulumi_stack import Stack, one_node
from tests.support import reports

DATA = ROOT / "tests" / "data"
STACK = "prod"
PLANE = "previews"
# What differs between two records of the same thing, and says nothing.
_PASSING = ("created", "modified", "sourcePosition", "stackTrace", "duration", "timestamp", "durationSeconds")
_LWS = "/apis/leaderworkerset.x-k8s.io/v1/namespaces/default/leaderworkersets"
_RUNTIME = "/apis/data.fluid.io/v1alpha1/namespaces/default/jindoruntimes/deepseek-r1"
# Of which the shorter form is recorded.
_DIGESTS = ("image", "service-gone", "bucket-public", "fluid-requests")
Config = dict[str, Any]


def base(stack: Stack) -> None:
    """Two services, with prices, on the add-ons that the rehearsal has."""
    stack.config["modelserve:prices"] = {
        "currency": "CNY",
        "perGpuHour": 30,
        "perCacheWorkerHour": 4,
        "perGibMonth": 0.12,
        "asOf": "2026-11-01",
    }
    stack.services["ds"]["startupSeconds"] = 1200
    stack.services["qwen"] = _qwen(stack.services["ds"])


def _qwen(like: Config) -> Config:
    service = one_node(like)
    service |= {"model": "Qwen3-8B", "maxModelLen": 32768, "startupSeconds": 300}
    service["engine"] = {"image": "vllm/vllm-openai:v0.9.2", "version": "0.9.2"}
    service["resources"] = {"cpu": 64, "memory": "128Gi", "shm": "16Gi"}
    return service


def _new_image(config: Config) -> None:
    config["modelserve:services"]["ds"]["engine"]["image"] = "vllm/vllm-openai:v0.7.2"


def _layout(config: Config) -> None:
    config["modelserve:services"]["ds"]["layout"] |= {"tensor": 16, "pipeline": 1}


def _rdma(config: Config) -> None:
    config["modelserve:cloud"]["rdma"] = True


def _cache_off(config: Config) -> None:
    config["modelserve:cache"] = {"engine": "none"}
    del config["modelserve:prices"]["perCacheWorkerHour"]


def _public(config: Config) -> None:
    config["modelserve:services"]["qwen"]["expose"] = {"to": "public", "allowList": "acl-abc123"}


def _bucket(config: Config) -> None:
    config["modelserve:weights"]["bucket"]["name"] = "modelserve-llm-weights-2"


def _replicas(config: Config) -> None:
    config["modelserve:services"]["qwen"]["replicas"] = 3


def _addon(config: Config) -> None:
    config["modelserve:addons"]["lws"]["version"] = "0.10.0"


def _added(config: Config) -> None:
    services = config["modelserve:services"]
    services["qwen-large"] = copy.deepcopy(services["qwen"]) | {"model": "Qwen3-32B"}


def _removed(config: Config) -> None:
    del config["modelserve:services"]["qwen"]


def _refused(config: Config) -> None:
    config["modelserve:services"]["ds"]["layout"]["tensor"] = 4


CHANGES: dict[str, Callable[[Config], None]] = {
    "no-op": lambda config: None,
    "image": _new_image,
    "layout": _layout,
    "rdma": _rdma,
    "cache-off": _cache_off,
    "public-endpoint": _public,
    "bucket-renamed": _bucket,
    "protected-bucket-renamed": _bucket,
    "replicas": _replicas,
    "addon-version": _addon,
    "model-added": _added,
    "model-removed": _removed,
    "key-rotated": lambda config: None,  # below: it is a secret
    "refused": _refused,
}


class Recorder:
    """The stack that is recorded, and where it stands."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.api = stack, stack.plane.api
        self.cloud = Cloud(stack.plane.folder, {})

    def preview(self, name: str) -> None:
        """Record the preview of a change, which is taken back then."""
        if name == "bucket-renamed":
            with self._unprotected():
                self._preview(name)
        else:
            self._preview(name)

    @contextlib.contextmanager
    def _unprotected(self) -> Iterator[None]:
        """With a bucket that the stack need not keep, as far as the state goes."""
        bucket = self.stack.config["modelserve:weights"]["bucket"]
        for keep in (False, True):
            bucket["keep"] = keep
            self.up()
            if not keep:
                yield

    def _preview(self, name: str) -> None:
        before, settings = copy.deepcopy(self.stack.config), copy.deepcopy(self.stack._settings)
        CHANGES[name](self.stack.config)
        if name == "key-rotated":
            self.stack.set_api_key("sk-another-0c21")
        self.stack.write()
        self._keep("previews", name, self._pulumi("preview", "--json"))
        self.stack.config, self.stack._settings = before, settings
        self.stack.write()

    def update(self, name: str, change: Callable[[Config], None]) -> None:
        """Record the events of an update, which is taken back then."""
        before = copy.deepcopy(self.stack.config)
        change(self.stack.config)
        self.up()
        self.events(name)
        self.stack.config = before
        self.up()

    def drift(self, name: str) -> None:
        """Record what a refresh finds of a planted drift, which is taken back then."""
        with DRIFT[name](self):
            short = name in _DIGESTS
            said = self._pulumi("refresh", "--preview-only", "--json", events=not short)
            self._keep("drift", f"{name}-digest" if short else name, said)

    def events(self, name: str) -> None:
        """Record the event log of the last run."""
        self._keep("previews", name, self.stack._events.read_text())

    def up(self) -> None:
        """Bring the stack up; its event log is that of the last run then. A busy machine gets another try."""
        self.stack.write()
        for last in (False, False, True):
            self.stack._events.write_text("")
            self._pulumi("up", "--skip-preview", "--yes", "--event-log", str(self.stack._events), ok=last)
            if '"result":"succeeded"' in self.stack._events.read_text():
                break

    def _pulumi(self, *args: str, ok: bool = False, events: bool = False) -> str:
        """What a command prints, a preview as events if wanted. It takes as long as the machine needs."""
        done = subprocess.run(
            ["pulumi", *args, "-s", STACK, "--non-interactive"],
            cwd=self.stack.folder,
            env=self.stack.env | ({"PULUMI_ENABLE_STREAMING_JSON_PREVIEW": "true"} if events else {}),
            text=True,
            stdout=subprocess.PIPE,
            timeout=1800,
        )
        assert not ok or done.returncode == 0, done.stdout
        return done.stdout

    def _keep(self, folder: str, name: str, said: str) -> None:
        for place, plain in {
            str(self.stack.folder): "/stack",
            str(charts.folder()): "charts",
            str(ROOT): "/program",
            str(Path.home()): "/home",
        }.items():
            said = said.replace(place, plain)
        said = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:6443", said)
        for secret in self.stack.hidden:
            assert secret not in said, f"{name} shows a secret"
        documents = [json.loads(said)] if said.startswith("{\n") else [*map(json.loads, said.splitlines())]
        documents = [each for each in documents if not _is_noise(each)]
        text = "\n".join(json.dumps(_still(each), sort_keys=True, separators=(",", ":")) for each in documents)
        (DATA / folder).mkdir(parents=True, exist_ok=True)
        (DATA / folder / f"{name}.json.xz").write_bytes(lzma.compress(text.encode()))
        print(f"{folder}/{name}")


def _is_noise(event: Any) -> bool:
    said = event.get("diagnosticEvent") or {}
    return said.get("severity") == "debug" or bool(said.get("ephemeral"))


def _still(value: Any) -> Any:
    """A document without what differs from run to run."""
    if isinstance(value, dict):
        return {key: _still(below) for key, below in value.items() if key not in _PASSING}
    return [_still(each) for each in value] if isinstance(value, list) else value


@contextlib.contextmanager
def _nothing(recorder: Recorder) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _image(recorder: Recorder) -> Iterator[None]:
    """Somebody sets another image by hand, and owns the field from then on: no update of it would pass."""
    path = f"{_LWS}/qwen"
    template = recorder.api.get(path)["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
    container = template["spec"]["containers"][0]

    def write(image: str) -> None:
        change = {"spec": {"containers": [container | {"image": image}]}}
        recorder.api.merge(path, {"spec": {"leaderWorkerTemplate": {"leaderTemplate": change}}})

    write("vllm/vllm-openai:v0.9.1")
    try:
        yield
    finally:
        write(container["image"])


@contextlib.contextmanager
def _gone(recorder: Recorder) -> Iterator[None]:
    """Somebody deletes a Service."""
    services = "/api/v1/namespaces/default/services"
    kept = recorder.api.get(f"{services}/qwen-leader")
    recorder.api.delete(f"{services}/qwen-leader")
    try:
        yield
    finally:
        kept["metadata"] = {key: kept["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
        kept["spec"] = {key: kept["spec"][key] for key in ("ports", "selector", "type")}
        recorder.api.request("POST", services, kept)


@contextlib.contextmanager
def _opened(recorder: Recorder) -> Iterator[None]:
    """Somebody lets everybody in."""
    path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/ds"
    rules = recorder.api.get(path)["spec"]["ingress"]
    recorder.api.merge(path, {"spec": {"ingress": [*rules, {}]}})
    try:
        yield
    finally:
        recorder.api.merge(path, {"spec": {"ingress": rules}})


@contextlib.contextmanager
def _published(recorder: Recorder) -> Iterator[None]:
    """Somebody opens the bucket to the public."""
    before = recorder.cloud.tables()["buckets"]
    recorder.cloud.change(buckets={name: {**bucket, "acl": "public-read"} for name, bucket in before.items()})
    try:
        yield
    finally:
        recorder.cloud.change(buckets=before)


@contextlib.contextmanager
def _interrupted(recorder: Recorder) -> Iterator[None]:
    """An update is cut off by Ctrl-C, and its change taken back in the stack file."""
    stack, path = recorder.stack, f"{_LWS}/qwen"
    before = copy.deepcopy(stack.config)
    generation = recorder.api.get(path)["metadata"]["generation"]
    stack.services["qwen"]["engine"]["image"] = "vllm/vllm-openai:v0.9.1"
    run = stack.begin("up")
    end = time.monotonic() + 120
    while recorder.api.get(path)["metadata"]["generation"] == generation and time.monotonic() < end:
        time.sleep(0.05)
    stack.interrupt(run, signal.SIGINT)
    recorder.events("up-interrupted")
    stack.config = before
    stack.write()
    try:
        yield
    finally:
        # An `up` alone finds nothing to do: the state has what the program says.
        recorder._pulumi("refresh", "--skip-preview", "--yes", ok=True)
        recorder.up()


@contextlib.contextmanager
def _requests(recorder: Recorder) -> Iterator[None]:
    """Fluid raises the workers' requests to their quota, as its controller does by itself."""
    before = recorder.api.get(_RUNTIME)["spec"]["worker"]["resources"]["requests"]
    change = {"spec": {"worker": {"resources": {"requests": {**before, "memory": "1Gi"}}}}}
    recorder.api.merge(_RUNTIME, change)
    try:
        yield
    finally:
        recorder.api.merge(_RUNTIME, {"spec": {"worker": {"resources": {"requests": before}}}})


@contextlib.contextmanager
def _release(recorder: Recorder) -> Iterator[None]:
    """Helm's own record of a release changes."""
    path = "/api/v1/namespaces/lws-system/secrets"
    (found,) = recorder.api.get(f"{path}?labelSelector=owner%3Dhelm%2Cname%3Dlws")["items"]
    told = json.loads(gzip.decompress(base64.b64decode(base64.b64decode(found["data"]["release"]))))
    told["info"]["status"] = "failed"
    changed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(told).encode()))).decode()
    recorder.api.merge(f"{path}/{found['metadata']['name']}", {"data": {"release": changed}})
    try:
        yield
    finally:
        recorder.api.merge(f"{path}/{found['metadata']['name']}", {"data": found["data"]})


DRIFT: dict[str, Callable[[Recorder], contextlib.AbstractContextManager[None]]] = {
    "none": _nothing,
    "interrupted": _interrupted,
    "service-gone": _gone,
    "network-open": _opened,
    "bucket-public": _published,
    "fluid-requests": _requests,
    "helm-status": _release,
    "image": _image,
}


def comments() -> None:
    """Write each record's comment beside it, as it is to be from now on."""
    for file in sorted((DATA / "previews").glob("*.json.xz")):
        name = file.name.removesuffix(".json.xz")
        file.with_name(f"{name}.md").write_text(pages.markdown(reports.judged(name)))
    for file in sorted((DATA / "drift").glob("*.json.xz")):
        name = file.name.removesuffix(".json.xz")
        run = reports.recorded(name, reports.DRIFT)
        file.with_name(f"{name}.md").write_text(drift_report.markdown(drift_report.look(run)))


def main(wanted: list[str]) -> int:
    """Record those of that name, or all."""
    if wanted == ["comments"]:
        comments()
        return 0
    with tempfile.TemporaryDirectory() as place:
        runs = PLANE in control_plane.running()
        plane = control_plane.start(PLANE, load_seconds=1, nodes=NodePool(count=3))
        try:
            pulumi_home.install()
            stack = Stack(plane, Path(place), "acs", STACK)
            base(stack)
            recorder = Recorder(stack)
            recorder.up()
            for name in CHANGES:
                if not wanted or name in wanted:
                    recorder.preview(name)
            if not wanted or "up-image" in wanted:
                recorder.update("up-image", _new_image)
            for name in DRIFT:
                if not wanted or name in wanted:
                    recorder.drift(name)
        finally:
            if not runs:
                control_plane.stop(PLANE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

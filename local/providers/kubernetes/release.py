"""`kubernetes:helm.sh/v3:Release`: a chart installed, upgraded and removed by the helm program, as one resource.

Where `MODELSERVE_CHARTS` names a folder of charts (local/charts.py), charts are taken from there.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pulumi.runtime.proto import provider_pb2

from local import charts
from local.providers.kubernetes.client import Api, Unreachable
from local.providers.kubernetes.diff import prune, walk
from local.providers.kubernetes.waits import Say
from local.providers.reporting import Incomplete, Refusal
from local.providers.wire import UNKNOWN, Properties, Secret, decode, encode, has_unknowns, mark_like, plain

_INPUTS = "__inputs"
_DEFAULT_SECONDS = 300
_POLL_SECONDS = 0.2
_FLAGS = """allowNullValues atomic cleanupOnFail createNamespace dependencyUpdate devel disableCRDHooks
    disableOpenapiValidation disableWebhooks forceUpdate lint recreatePods renderSubchartNotes replace resetValues
    reuseValues skipAwait skipCrds verify waitForJobs""".split()
_TEXTS = ("description", "keyring", "postrender", "version")
_DEFAULTS: Properties = dict.fromkeys(_FLAGS, False) | dict.fromkeys(_TEXTS, "") | {"timeout": 0, "values": {}}
_KNOWN = {*_DEFAULTS, "chart", "maxHistory", "name", "namespace", "repositoryOpts"}
_REPOSITORY: Properties = dict.fromkeys(("caFile", "certFile", "keyFile", "password", "repo", "username"), "")
_COMPUTED = ("status", "resourceNames")
# The official plugin hands these to either command, or to one of them.
_BOTH = {"atomic": "--atomic", "devel": "--devel", "renderSubchartNotes": "--render-subchart-notes"}
_INSTALL = {
    "createNamespace": "--create-namespace",
    "dependencyUpdate": "--dependency-update",
    "disableOpenapiValidation": "--disable-openapi-validation",
    "disableWebhooks": "--no-hooks",
    "replace": "--replace",
    "skipCrds": "--skip-crds",
}
_UPGRADE = {
    "cleanupOnFail": "--cleanup-on-fail",
    "disableCRDHooks": "--no-hooks",
    "forceUpdate": "--force",
    "resetValues": "--reset-values",
    "reuseValues": "--reuse-values",
}


@dataclass(frozen=True)
class Cluster:
    """What helm has to know of the provider: entries of a kubeconfig, and the namespace of what names none."""

    cluster: dict[str, Any]
    user: dict[str, Any]
    namespace: str

    def write(self, file: Path, namespace: str) -> None:
        context = {"cluster": "it", "user": "it", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": self.cluster}],
            "users": [{"name": "it", "user": self.user}],
            "contexts": [{"name": "it", "context": context}],
            "current-context": "it",
        }
        file.touch(mode=0o600)
        file.write_text(json.dumps(config))


@dataclass(frozen=True)
class Releases:
    """The requests about releases. `api` is a function because nobody may be there to answer."""

    api: Callable[[], Api]
    cluster: Callable[[], Cluster]
    cancelled: threading.Event

    def check(self, request: Any) -> Any:
        """Fills in name, namespace, timeout, the chart's version and every default."""
        olds, inputs = plain(decode(request.olds)), decode(request.news)
        if not inputs.get("name"):
            inputs["name"] = olds.get("name") or f"{request.urn.rpartition('::')[2]}-{os.urandom(4).hex()}"
        inputs["namespace"] = inputs.get("namespace") or self.cluster().namespace
        if not inputs.get("skipAwait") and "timeout" not in inputs:
            inputs["timeout"] = _DEFAULT_SECONDS
        if isinstance(inputs.get("repositoryOpts"), dict):
            inputs["repositoryOpts"] = _REPOSITORY | inputs["repositoryOpts"]
        # The rest, such as `compat` of the typed SDKs, is not the release's.
        inputs = _DEFAULTS | {key: value for key, value in inputs.items() if key in _KNOWN}
        failures = []
        if not has_unknowns(inputs):
            try:
                inputs["version"] = self._locate(plain(inputs))[1]
            except Refusal as error:
                reason = f"{error}; check the chart name and repository configuration."
                failures.append(provider_pb2.CheckFailure(property="chart", reason=reason))
        return provider_pb2.CheckResponse(inputs=encode(inputs), failures=failures)

    def diff(self, request: Any) -> Any:
        state, news = plain(decode(request.olds)), plain(decode(request.news))
        old_inputs = state.get(_INPUTS) or {}
        changes = list(walk(prune(state, old_inputs), news))
        details = {}
        for path, kind in changes:
            number = {"add": 0, "delete": 2, "update": 4}[kind] + (path in ("name", "namespace"))
            details[path] = provider_pb2.PropertyDiff(kind=number, inputDiff=kind == "delete")
        return provider_pb2.DiffResponse(
            changes=2 if changes else 1,
            diffs=sorted({re.split(r"[.\[]", path)[0] for path in details}),
            replaces=[path for path in details if path in ("name", "namespace")],
            hasDetailedDiff=bool(details),
            detailedDiff=details,
        )

    def create(self, request: Any, say: Say) -> Any:
        inputs = decode(request.properties)
        if request.preview:
            return provider_pb2.CreateResponse(properties=encode(_checkpoint(inputs, _unknown(inputs))))
        self._reach("create")
        release = plain(inputs)
        name = _id(release)
        try:
            self._install(["install", *_options(release, _BOTH | _INSTALL)], release, say)
        except Refusal as error:
            live = None if "cannot re-use a name" in str(error) else self._live(release)
            if live is None:
                raise
            say(
                "warning!",
                f'Helm release "{release["name"]}" was created but has a failed status. Use the `helm` command to '
                f"investigate the error, correct it, then retry. Reason: {error}",
            )
            reason = f'Helm release "{name}" was created, but failed to initialize completely. {_late(name, error)}'
            raise Incomplete(name, _checkpoint(inputs, _with(release, live)), inputs, [reason]) from error
        live = self._live(release)
        return provider_pb2.CreateResponse(id=name, properties=encode(_checkpoint(inputs, _with(release, live))))

    def update(self, request: Any, say: Say) -> Any:
        inputs = decode(request.news)
        if request.preview:
            return provider_pb2.UpdateResponse(properties=encode(_checkpoint(inputs, _unknown(inputs))))
        self._reach("update")
        release = plain(inputs)
        name, before = _id(release), self._live(release)
        command = ["upgrade", *_options(release, _BOTH | _UPGRADE), "--history-max", str(release.get("maxHistory", 0))]
        try:
            self._install(command, release, say)
        except Refusal as error:
            live = self._live(release)
            if live is None or before is None or live["version"] == before["version"]:
                raise
            reason = f'Helm release "{name}" failed to initialize completely. {_late(name, error)}'
            raise Incomplete(name, _checkpoint(inputs, _with(release, live)), inputs, [reason]) from error
        outputs = _checkpoint(inputs, _with(release, self._live(release)))
        return provider_pb2.UpdateResponse(properties=encode(outputs))

    def read(self, request: Any) -> Any:
        """What is installed under the id; without a state, as on import, with the inputs that this gives."""
        state = decode(request.properties)
        known = plain(state)
        namespace, _, name = request.id.rpartition("/")
        place = {"name": known.get("name") or name, "namespace": known.get("namespace") or namespace}
        live = self._live(place)
        if live is None:
            return provider_pb2.ReadResponse()
        kept = state.get(_INPUTS)
        if kept is not None:
            inputs = kept.value if isinstance(kept, Secret) else kept
            outputs = {key: value for key, value in known.items() if key != _INPUTS}
        else:
            # Helm does not keep where a chart came from.
            outputs = _DEFAULTS | place | {"chart": live["chart"]["metadata"]["name"], "timeout": _DEFAULT_SECONDS}
            installed = {"values": live.get("config") or {}, "version": live["chart"]["metadata"]["version"]}
            inputs = outputs = outputs | installed
        checkpoint = _checkpoint(inputs, _with(outputs, live))
        return provider_pb2.ReadResponse(id=request.id, properties=encode(checkpoint), inputs=encode(inputs))

    def delete(self, request: Any, say: Say) -> None:
        self._reach("delete")
        release = plain(decode(request.properties))
        waits = release.get("atomic") or not release.get("skipAwait")
        options = ["--wait", "--timeout", _seconds(release)] if waits else []
        told = self._helm(["uninstall", release["name"], *options], release["namespace"]).strip().splitlines()
        if len(told) > 1:  # the last line only says that it is done
            kept = json.dumps("\n".join(told[:-1]) + "\n")
            say("warning!", f"Helm uninstall returned information: {kept}")

    def _locate(self, release: Properties) -> tuple[list[str], str, str]:
        """The chart as helm's arguments, its version, and where the rehearsal has it from. Raises Refusal."""
        chart, version = release.get("chart", ""), release.get("version", "")
        folder, is_path = os.environ.get(charts.VARIABLE), chart.startswith((".", "/"))
        if is_path and not Path(chart).exists():
            raise Refusal(f'path "{chart}" not found')
        if folder and not is_path:
            try:
                archive, version, origin = charts.find(Path(folder), chart, version)
            except charts.NoChart as error:
                raise Refusal(str(error)) from error
            return [str(archive)], version, origin
        repo = (release.get("repositoryOpts") or {}).get("repo")
        arguments = [chart, *(["--repo", repo] if repo else []), *(["--version", version] if version else [])]
        return arguments, yaml.safe_load(self._run(["show", "chart", *arguments]))["version"], ""

    def _install(self, command: list[str], release: Properties, say: Say) -> None:
        chart, version, origin = self._locate(release)
        if origin:
            found = f"chart {version} comes from {origin}, without CRDs and webhooks"
            say("info!", f"{release['chart']} is not asked: {found}")
        verb, *options = command
        self._helm([verb, release["name"], *chart, *options], release["namespace"], release.get("values") or {})

    def _helm(self, command: list[str], namespace: str, values: Properties | None = None) -> str:
        """What helm printed. Kubeconfig and values go by files that only we can read: both may hold secrets."""
        with tempfile.TemporaryDirectory() as folder:
            kubeconfig, file = Path(folder) / "kubeconfig", Path(folder) / "values.json"
            self.cluster().write(kubeconfig, namespace)
            if values is not None:
                file.touch(mode=0o600)
                file.write_text(json.dumps(values))
                command = [*command, "--values", str(file)]
            return self._run([*command, "--kubeconfig", str(kubeconfig), "--namespace", namespace])

    def _run(self, command: list[str]) -> str:
        """Raises Refusal with helm's words, without what only its command line puts before them."""
        settings = os.environ | {"HELM_DRIVER": "secret"}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # A Ctrl-C in the terminal reaches it as our Cancel, when the engine says so.
        with subprocess.Popen([_program(), *command], env=settings, start_new_session=True, **pipes) as helm:
            while True:
                try:
                    told, complaints = helm.communicate(timeout=_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    if self.cancelled.is_set():
                        helm.terminate()  # which marks the release as failed
        if helm.returncode:
            _, _, error = complaints.rpartition("Error: ")
            raise Refusal(re.sub(r"^(INSTALLATION|UPGRADE) FAILED: ", "", error.strip()))
        return told

    def _live(self, release: Properties) -> dict[str, Any] | None:
        """The newest revision, as helm keeps it in Secrets; None where there is none."""
        path = f"/api/v1/namespaces/{release['namespace']}/secrets"
        found = self.api().request("GET", path, labelSelector=f"owner=helm,name={release['name']}")["items"]
        if not found:
            return None
        newest = max(found, key=lambda item: int(item["metadata"]["labels"]["version"]))
        return json.loads(gzip.decompress(base64.b64decode(base64.b64decode(newest["data"]["release"]))))

    def _reach(self, what: str) -> None:
        try:
            self.api().request("GET", "/version")
        except Unreachable as error:
            reason = f'. Reason: "{error}"' if what == "delete" else f": {error}"
            raise Refusal(f"can't {what} Helm Release with unreachable cluster{reason}") from error


def _program() -> str:
    folder = os.environ.get(charts.VARIABLE)
    found = charts.helm(Path(folder)) if folder else shutil.which("helm")
    if found is None:
        raise Refusal("the kubernetes provider stand-in needs helm for releases: install Helm 3 and put it on PATH")
    return str(found)


def _id(release: Properties) -> str:
    return f"{release['namespace']}/{release['name']}"


def _seconds(release: Properties) -> str:
    return f"{release.get('timeout') or _DEFAULT_SECONDS}s"


def _options(release: Properties, flags: dict[str, str]) -> list[str]:
    options = [flag for key, flag in flags.items() if release.get(key)]
    if not release.get("skipAwait"):
        options += ["--wait", *(["--wait-for-jobs"] if release.get("waitForJobs") else [])]
    return [*options, "--timeout", _seconds(release)]


def _late(name: str, error: Refusal) -> str:
    why = f"failed to become available within allocated timeout. Error: Helm Release {name}: {error}"
    return f"Use Helm CLI to investigate: {why}"


def _unknown(inputs: Properties) -> Properties:
    """The outputs at a preview."""
    return plain(inputs) | dict.fromkeys(_COMPUTED, UNKNOWN)


def _with(release: Properties, live: dict[str, Any]) -> Properties:
    """The outputs of an installed release."""
    chart = live["chart"]["metadata"]
    status = {key: live[key] for key in ("name", "namespace")} | {
        "appVersion": chart.get("appVersion", ""),
        "chart": chart["name"],
        "revision": live["version"],
        "status": live["info"]["status"],
        "version": chart["version"],
    }
    installed = {"values": _merged(release.get("values") or {}, live.get("config") or {}), "version": chart["version"]}
    return release | installed | {"status": status, "resourceNames": _resource_names(live.get("manifest", ""))}


def _merged(base: Properties, over: Properties) -> Properties:
    both = {key: _merged(base[key], over[key]) for key in base.keys() & over.keys() if _maps(base[key], over[key])}
    return base | over | both


def _maps(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


def _resource_names(manifest: str) -> dict[str, list[str]]:
    """Kind to names, as `Deployment.apps/apps/v1` and `namespace/name`."""
    names: dict[str, set[str]] = {}
    for item in yaml.load_all(manifest, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(item, dict) and "kind" in item:
            group = item["apiVersion"].rpartition("/")[0]
            kind = f"{item['kind']}.{group}" if group else item["kind"]
            metadata = item["metadata"]
            place = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
            names.setdefault(f"{kind}/{item['apiVersion']}", set()).add(f"{place}{metadata['name']}")
    return {kind: sorted(found) for kind, found in sorted(names.items())}


def _checkpoint(inputs: Properties, outputs: Properties) -> Properties:
    """What the state keeps: all inputs once more, secret as a whole, beside what is secret in them."""
    return mark_like(outputs, inputs) | {_INPUTS: Secret(inputs)}

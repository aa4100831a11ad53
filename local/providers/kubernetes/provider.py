"""The plugin's requests: what check, diff, create, read, update and delete of a Kubernetes object do."""

from __future__ import annotations

import base64
import functools
import os
import threading
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2, provider_pb2_grpc

from local.providers.kubernetes import failures, kubeconfig, ownership
from local.providers.kubernetes.client import Api, ApiError, Manifest, NoMatch, Unreachable
from local.providers.kubernetes.diff import annotation, compare, prune
from local.providers.kubernetes.waits import NotReady, Say, Wait, succeeded
from local.providers.reporting import Incomplete, Refusal, reported
from local.providers.wire import UNKNOWN, Properties, Secret, decode, encode, has_unknowns, mark_like, plain

if TYPE_CHECKING:
    from local.providers.kubernetes.release import Releases

VERSION = "4.34.2"
_FIELD_MANAGER, _INITIAL_API_VERSION, _INPUTS = "__fieldManager", "__initialApiVersion", "__inputs"
_RETRY_SECONDS = (1, 2, 4, 8, 16, 32)
_SEVERITIES = {"info": engine_pb2.INFO, "warning": engine_pb2.WARNING}
_CHANGES = {"add": 0, "delete": 2, "update": 4}  # of PropertyDiff.Kind; one more where the change replaces


class Provider(provider_pb2_grpc.ResourceProviderServicer):
    """One provider instance; the engine starts a plugin process for each, and configures it before anything else."""

    def __init__(self, engine: str) -> None:
        self._engine = engine_pb2_grpc.EngineStub(grpc.insecure_channel(engine))
        self._cancelled = threading.Event()
        self._api: Api | None = None
        self._no_api = ""
        self._entries: tuple[dict[str, Any], dict[str, Any], str] = ({}, {}, "default")
        self._namespace = "default"
        self._delete_unreachable = False

    def _say(self, urn: str) -> Say:
        """Messages are progress, gone when the operation ends; a severity with `!` keeps its message."""

        def say(severity: str, text: str) -> None:
            level, kept = _SEVERITIES[severity.rstrip("!")], severity.endswith("!")
            try:
                self._engine.Log(engine_pb2.LogRequest(severity=level, message=text, urn=urn, ephemeral=not kept))
            except grpc.RpcError:
                return  # an engine that is gone hears nothing; the operation itself goes on

        return say

    @property
    def api(self) -> Api:
        if self._api is None:
            raise Unreachable(self._no_api)
        return self._api

    def _wait(self, request: Any, *, update: bool = False) -> Wait:
        return Wait(self.api, self._cancelled, self._say(request.urn), getattr(request, "timeout", 0), update)

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version=VERSION)

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Empty:
        self._cancelled.set()
        return Empty()

    @reported
    def CheckConfig(self, request: Any) -> Any:
        kubeconfig.check(decode(request.news))
        return provider_pb2.CheckResponse(inputs=request.news)

    @reported
    def DiffConfig(self, request: Any) -> Any:
        changed, replaces = kubeconfig.compare(decode(request.old_inputs), decode(request.news))
        return provider_pb2.DiffResponse(changes=2 if changed else 1, diffs=changed, replaces=replaces)

    @reported
    def Configure(self, request: Any) -> Any:
        settings = plain(decode(request.args))
        switch = settings.get("deleteUnreachable", os.environ.get("PULUMI_K8S_DELETE_UNREACHABLE", ""))
        self._delete_unreachable = str(switch).lower() in ("true", "1")
        try:
            self._entries = kubeconfig.resolve(settings.get("kubeconfig"), settings.get("context"))
            self._api = Api(*self._entries)
            self._namespace = settings.get("namespace") or self._api.namespace
        except (Refusal, OSError, LookupError, ValueError) as error:
            self._no_api = (
                "configured Kubernetes cluster is unreachable: "
                f"unable to load Kubernetes client configuration from kubeconfig file: {error}"
            )
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    @functools.cached_property
    def _releases(self) -> Releases:
        from local.providers.kubernetes.release import Cluster, Releases  # few programs have a release

        return Releases(lambda: self.api, lambda: Cluster(*self._entries[:2], self._namespace), self._cancelled)

    @reported
    def Check(self, request: Any) -> Any:
        """Fills in name, namespace and Secret data."""
        if _is_release(request):
            return self._releases.check(request)
        olds, inputs = plain(decode(request.olds)), decode(request.news)
        if _is_secret_kind(inputs):
            _encode_texts(inputs)
        given = inputs.get("metadata") or {}
        metadata = dict(given.value if isinstance(given, Secret) else given)
        _autoname(metadata, olds, request.urn.rpartition("::")[2])
        if not metadata.get("namespace") and self._is_namespaced(plain(inputs), olds):
            metadata["namespace"] = self._namespace
        inputs["metadata"] = Secret(metadata) if isinstance(given, Secret) else metadata
        return provider_pb2.CheckResponse(inputs=encode(inputs))

    def _is_namespaced(self, manifest: Manifest, olds: Properties) -> bool:
        if olds:
            return "namespace" in olds["metadata"]
        try:
            return self.api.is_namespaced(manifest)
        except (NoMatch, Unreachable):
            return True  # its CRD may be created in the same run; create asks again

    @reported
    def Diff(self, request: Any) -> Any:
        if _is_release(request):
            return self._releases.diff(request)
        state, news = plain(decode(request.olds)), plain(decode(request.news))
        live = {key: value for key, value in state.items() if not key.startswith("__")}
        changes, same_name = compare(live, plain(decode(request.old_inputs)), news)
        details = {
            change.path: provider_pb2.PropertyDiff(
                kind=_CHANGES[change.kind] + change.replaces, inputDiff=change.kind == "delete"
            )
            for change in changes
        }
        replaces = [change.path for change in changes if change.replaces] + self._unready(request.urn, live, news)
        return provider_pb2.DiffResponse(
            changes=2 if changes or replaces else 1,
            diffs=sorted({path.split(".")[0].split("[")[0] for path in details}),
            replaces=replaces,
            deleteBeforeReplace=same_name and bool(replaces),
            hasDetailedDiff=True,
            detailedDiff=details,
        )

    def _unready(self, urn: str, old: Manifest, news: Manifest) -> list[str]:
        """What replaces a Job that asks for it and has not succeeded: the cluster is looked at, not the state."""
        if annotation(news, "replaceUnready") != "true":
            return []
        if news["kind"] != "Job":
            self._say(urn)("warning!", "replaceUnready annotation is not supported for this resource")
            return []
        try:
            ready = succeeded(self.api.get(old))
        except Unreachable:
            self._say(urn)("warning!", "Cluster is unreachable, skipping replaceUnready check")
            return []
        except ApiError:
            return []  # whatever is wrong with it shows where it is worked on
        return [] if ready else ['.metadata.annotations["pulumi.com/replaceUnready"]']

    @reported
    def Create(self, request: Any) -> Any:
        if _is_release(request):
            return self._releases.create(request, self._say(request.urn))
        inputs = decode(request.properties)
        manifest = plain(inputs)
        if request.preview and has_unknowns(manifest):
            return provider_pb2.CreateResponse(properties=request.properties)
        marks = _marks({}, manifest)
        try:
            live = self._create_with_retries(request, manifest)
            if not request.preview:
                live = self._wait(request).until_ready(manifest, live)
        except NotReady as error:
            reasons = failures.not_live(failures.CREATED.format(urn=request.urn), error)
            raise Incomplete(_id(error.live), _outputs(inputs, error.live, marks), inputs, reasons) from error
        except Refusal as error:
            if request.preview and _previews_fine(error):
                return provider_pb2.CreateResponse(properties=request.properties)
            raise failures.not_created(request.urn, manifest, error) from error
        outputs = encode(_outputs(inputs, live, marks))
        return provider_pb2.CreateResponse(id="" if request.preview else _id(live), properties=outputs)

    def _create_with_retries(self, request: Any, manifest: Manifest) -> Manifest:
        """A missing namespace or kind is tried again for 63 seconds, whatever the custom timeout says."""
        query = {"fieldManager": ownership.CREATE_MANAGER} | ({"dryRun": "All"} if request.preview else {})
        for attempt, pause in enumerate(_RETRY_SECONDS):
            try:
                return self.api.request("POST", self.api.path(manifest, collection=True), manifest, **query)
            except ApiError as error:
                if not (request.preview and isinstance(error, NoMatch)):
                    self._say(request.urn)("info", f"Retry #{attempt}; creation failed: {error}")
                if request.preview or error.code != 404:
                    raise
                last = error
            if self._cancelled.wait(pause):
                raise Unreachable("context canceled")
        raise last

    @reported
    def Update(self, request: Any) -> Any:
        if _is_release(request):
            return self._releases.update(request, self._say(request.urn))
        inputs = decode(request.news)
        manifest = plain(inputs)
        if request.preview and has_unknowns(manifest):
            return provider_pb2.UpdateResponse(properties=request.news)
        marks = _marks(plain(decode(request.olds)), manifest)
        try:
            live = self._update_live(request, manifest, marks[_FIELD_MANAGER])
        except Refusal as error:
            if request.preview and (error.code == 403 or isinstance(error, NoMatch | Unreachable)):
                return provider_pb2.UpdateResponse(properties=request.news)
            if isinstance(error, Unreachable):
                raise
            live = self._after_failure(request, manifest, error)
            reasons = failures.not_live(failures.UPDATED.format(id=_id(manifest)), error)
            raise Incomplete(_id(live), _outputs(inputs, live, marks), inputs, reasons) from error
        return provider_pb2.UpdateResponse(properties=encode(_outputs(inputs, live, marks)))

    def _update_live(self, request: Any, manifest: Manifest, manager: str) -> Manifest:
        live = self.api.get(manifest)
        patch, force = manifest, annotation(manifest, "patchForce") == "true"
        if request.ignoreChanges:
            patch = ownership.respect_ignored(manifest, live, list(request.ignoreChanges), manager)
        query = {"fieldManager": manager}
        if request.preview:
            force, query["dryRun"] = force or ownership.has_create_entry(live), "All"
        else:
            ownership.take_over(self.api, live, manager)
        query["force"] = str(force).lower()
        try:
            live = self.api.request("PATCH", self.api.path(manifest), patch, "application/apply-patch+yaml", **query)
        except ApiError as error:
            if error.code == 409 and str(error).startswith("Apply failed with"):
                raise Refusal(failures.CONFLICT.format(manager=manager, error=error)) from error
            raise
        return live if request.preview else self._wait(request, update=True).until_ready(manifest, live)

    def _after_failure(self, request: Any, manifest: Manifest, error: Refusal) -> Manifest:
        """The live object, which goes into the state with the error. Raises the error when there is none to be had."""
        try:
            if self._cancelled.is_set():
                raise Unreachable("client rate limiter Wait returned an error: context canceled")
            return self.api.get(manifest)
        except (ApiError, Unreachable) as gone:
            text = f'update of resource "{request.urn}" failed: {error}\nunable to get cluster state: {gone}'
            raise Refusal(text) from error

    @reported
    def Read(self, request: Any) -> Any:
        """The live object, cut to the fields of the known inputs; nothing when it is gone."""
        if _is_release(request):
            return self._releases.read(request)
        known, state = decode(request.inputs), decode(request.properties)
        manifest = _identity(request.urn, request.id, plain(state))
        try:
            if self.api.is_namespaced(manifest) != ("/" in request.id):
                return provider_pb2.ReadResponse()
            live = self.api.get(manifest)
        except Unreachable as error:
            self._give_up(request.urn, error, "failed to read resource state due to unreachable cluster")
            return provider_pb2.ReadResponse()
        except ApiError as error:
            if error.code == 404:
                return provider_pb2.ReadResponse()
            raise
        inputs = _hide_data(mark_like(prune(live, plain(known)), known) if known else dict(manifest))
        outputs = _outputs(inputs, live, _marks(plain(state), live))
        problems = self._wait(request, update=True).problems_now(live)
        if problems:
            raise Incomplete(_id(live), outputs, inputs, problems)
        return provider_pb2.ReadResponse(id=_id(live), properties=encode(outputs), inputs=encode(inputs))

    @reported
    def Delete(self, request: Any) -> Empty:
        """Waits until the object is gone. One that is gone already is fine."""
        if _is_release(request):
            self._releases.delete(request, self._say(request.urn))
            return Empty()
        state = plain(decode(request.properties))
        manifest = _identity(request.urn, request.id, state)
        settings = {"metadata": state.get("metadata", {})}
        policy = (annotation(settings, "deletionPropagationPolicy") or "").capitalize()
        body = {"propagationPolicy": policy if policy in ("Background", "Orphan") else "Foreground"}
        try:
            deleted = self.api.request("DELETE", self.api.path(manifest), body)
        except Unreachable as error:
            self._give_up(request.urn, error, "configured Kubernetes cluster is unreachable")
            return Empty()
        except ApiError as error:
            if error.code == 404:
                return Empty()
            raise
        self._say(request.urn)("info", "Resource scheduled for deletion")
        if deleted["kind"] != "Status":  # the answer when it is gone at once
            self._wait(request).until_gone(settings, deleted)
        return Empty()

    def _give_up(self, urn: str, error: Unreachable, what: str) -> None:
        """Returns where an object of an unreachable cluster is to be taken as gone, else raises."""
        if not self._delete_unreachable:
            self._say(urn)("warning!", str(error))
            raise Refusal(f"{what}. {failures.DELETE_HINT}") from error
        option = "configured Kubernetes cluster is unreachable and the `deleteUnreachable` option is enabled"
        self._say(urn)("info!", f"{option}. Deleting the unreachable resource from Pulumi state")


def _is_release(request: Any) -> bool:
    return _type_token(request.urn) == "helm.sh/v3:Release"


def _type_token(urn: str) -> str:
    """`apps/v1:Deployment` of the URN's own type; a parent's type stands before a dollar sign."""
    return urn.split("::")[2].rpartition("$")[2].partition(":")[2]


def _id(manifest: Manifest) -> str:
    return "/".join(manifest["metadata"][key] for key in ("namespace", "name") if manifest["metadata"].get(key))


def _identity(urn: str, resource_id: str, state: Properties) -> Manifest:
    """Kind and name of a resource that is known by URN and id, and perhaps by its state."""
    version, _, kind = _type_token(urn).rpartition(":")
    namespace, _, name = resource_id.rpartition("/")
    return {
        "apiVersion": state.get("apiVersion") or version.removeprefix("core/"),
        "kind": state.get("kind") or kind,
        "metadata": {"name": name} | ({"namespace": namespace} if namespace else {}),
    }


def _autoname(metadata: Properties, olds: Properties, name: str) -> None:
    if metadata.get("name"):
        return
    reused = olds["metadata"]["name"] if annotation(olds, "autonamed") == "true" else None
    metadata["name"] = reused or f"{name}-{_random()}"
    annotations = metadata.get("annotations") or {}
    if isinstance(annotations, dict):
        metadata["annotations"] = {**annotations, "pulumi.com/autonamed": "true"}


def _random() -> str:
    return os.urandom(4).hex()


def _is_secret_kind(properties: Properties) -> bool:
    return properties.get("kind") == "Secret" and properties.get("apiVersion") == "v1"


def _encode_texts(inputs: Properties) -> None:
    """stringData becomes data, as the server would make it, and all of it secret."""
    data, texts = plain(inputs.get("data")), plain(inputs.pop("stringData", None))
    if isinstance(texts, dict):
        encoded = {k: v if v == UNKNOWN else base64.b64encode(v.encode()).decode() for k, v in texts.items()}
        data = {**(data if isinstance(data, dict) else {}), **encoded}
    elif texts is not None:
        data = texts  # unknown as a whole
    if data is not None:
        inputs["data"] = Secret(data)


def _hide_data(properties: Properties) -> Properties:
    if not _is_secret_kind(properties):
        return properties
    hidden = ("data", "stringData")
    return {key: Secret(plain(value)) if key in hidden else value for key, value in properties.items()}


def _marks(state: Properties, manifest: Manifest) -> Properties:
    """What the plugin keeps with an object: the field manager of its updates, and the version it was made with."""
    return {
        _FIELD_MANAGER: state.get(_FIELD_MANAGER) or f"{ownership.CREATE_MANAGER}-{_random()}",
        _INITIAL_API_VERSION: state.get(_INITIAL_API_VERSION) or manifest["apiVersion"],
    }


def _outputs(inputs: Properties, live: Manifest, marks: Properties) -> Properties:
    """The outputs of a live object, secret where the inputs are."""
    return {**_hide_data(mark_like(live, inputs)), **marks, _INPUTS: inputs}


def _previews_fine(error: Refusal) -> bool:
    """What a preview of a create lets through."""
    no_namespace = error.code == 404 and error.details.get("kind") == "namespaces"
    no_dry_run = "does not support dry run" in str(error)
    refused = error.reason == "AlreadyExists" or error.code == 403 or no_namespace or no_dry_run
    return refused or isinstance(error, NoMatch | Unreachable)

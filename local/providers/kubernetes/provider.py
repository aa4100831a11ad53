"""What check, diff, create, read, update and delete of a Kubernetes object do. Knows no gRPC."""

from __future__ import annotations

import base64
import secrets
import threading
from dataclasses import dataclass
from typing import Any

from local.providers.kubernetes import client, ownership
from local.providers.kubernetes.client import Api, ApiError, Manifest, NoMatch, Unreachable
from local.providers.kubernetes.diff import Diff, annotation, compare, is_autonamed, prune
from local.providers.kubernetes.options import Options
from local.providers.kubernetes.waitfor import WaitForError
from local.providers.kubernetes.waits import NotReady, Say, Wait
from local.providers.kubernetes.wire import Secret, has_secrets, has_unknowns, mark_like, plain

Properties = dict[str, Any]

_FIELD_MANAGER, _INITIAL_API_VERSION, _INPUTS = "__fieldManager", "__initialApiVersion", "__inputs"
_RETRY_SECONDS = (1, 2, 4, 8, 16, 32)
# Only asked while the server is out of reach, for a resource that is not in the state yet.
_CLUSTER_SCOPED = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PriorityClass",
    "StorageClass",
    "ValidatingWebhookConfiguration",
}
_ALREADY_EXISTS_HELP = """

The resource already exists in the cluster. This can happen when:

  - Renaming a Pulumi resource: use an alias to preserve the identity,
    or use deleteBeforeReplace if the resource needs replacement.
  - Managing an existing resource: use a Patch resource (e.g. NamespacePatch)
    to manage specific fields without owning the resource lifecycle.
  - Adopting a resource into Pulumi: use `pulumi import`. Note that
    protected resources (e.g. kube-system) cannot be deleted on destroy.
  - Intentional upsert: set upsertExistingObjects on the provider to allow
    server-side apply to update existing objects on create."""
_CONFLICT_HELP = (
    "server-side apply field conflict detected, see https://www.pulumi.com/registry/packages/kubernetes/how-to-guides/"
    "managing-resources-with-server-side-apply/#handle-field-conflicts-on-existing-resources for troubleshooting help\n"
)
_DELETE_HINT = (
    "If the cluster was deleted, you can remove this resource from Pulumi state by rerunning the operation with the "
    'PULUMI_K8S_DELETE_UNREACHABLE environment variable set to "true"'
)
_NOT_LIVE = "failed to fully initialize or become live"


class Rejected(Exception):
    """The operation did nothing to the state."""


@dataclass
class Incomplete(Exception):
    """The object is there and goes into the state, with `reasons` as its initErrors."""

    id: str
    outputs: Properties
    inputs: Properties
    reasons: list[str]


@dataclass(frozen=True)
class Call:
    """What the operations have in common."""

    urn: str
    say: Say
    preview: bool = False
    timeout: float = 0


class Provider:
    """The objects of one cluster. `cancelled` ends every wait."""

    def __init__(self, options: Options, cancelled: threading.Event) -> None:
        self._options = options
        self.cancelled = cancelled
        self._api: Api | None = None
        self._reason = ""
        self._namespace = options.namespace or "default"
        try:
            target = options.target()
            self._namespace = options.namespace or target.namespace
            self._api = Api(target)
        except (client.KubeconfigError, OSError, KeyError, ValueError) as error:
            self._reason = (
                "configured Kubernetes cluster is unreachable: "
                f"unable to load Kubernetes client configuration from kubeconfig file: {error}"
            )

    @property
    def api(self) -> Api:
        if self._api is None:
            raise Unreachable(self._reason)
        return self._api

    def _unreachable(self) -> str:
        return self.api.unreachable() if self._api else self._reason

    def _require_cluster(self) -> None:
        reason = self._unreachable()
        if reason:
            raise Rejected(reason)

    # check and diff

    def check(self, call: Call, name: str, olds: Properties, news: Properties) -> tuple[Properties, str]:
        """The inputs with name, namespace and Secret data filled in, and what is wrong with them."""
        if "/" not in _type_token(call.urn):
            raise Rejected(f'apiVersion does not have both a group and a version: "{news.get("apiVersion")}"')
        if olds and self._options.skip_update_unreachable and self._unreachable():
            text = "Cluster is unreachable but skipUpdateUnreachable flag is set to true, skipping..."
            call.say("warning!", text)
            return olds, ""
        inputs = dict(news)
        if inputs.get("kind") == "Secret" and str(inputs.get("apiVersion")) == "v1":
            _hide_data(inputs)
        metadata = inputs.get("metadata", {})
        secret = isinstance(metadata, Secret)
        metadata = metadata.value if secret else metadata
        if metadata is None or isinstance(metadata, dict):
            metadata = dict(metadata or {})
            if metadata.get("generateName"):
                return inputs, "the `.metadata.generateName` field is not supported in Server-Side Apply mode"
            _autoname(metadata, plain(olds), name)
            if not metadata.get("namespace") and self._is_namespaced(inputs, plain(olds)):
                metadata["namespace"] = self._namespace
            inputs["metadata"] = Secret(metadata) if secret else metadata
        return inputs, ""

    def _is_namespaced(self, inputs: Properties, olds: Properties) -> bool:
        if self._unreachable():
            if olds:
                return "namespace" in olds.get("metadata", {})
            return inputs.get("kind") not in _CLUSTER_SCOPED
        try:
            return self.api.kind(plain(inputs["apiVersion"]), plain(inputs["kind"])).namespaced
        except NoMatch:
            return True  # its CRD may be created in the same run; create asks again

    def diff(self, state: Properties, old_inputs: Properties, news: Properties) -> Diff:
        live = {key: value for key, value in plain(state).items() if not key.startswith("__")}
        return compare(live, plain(old_inputs), plain(news), self._options.mutable_kinds)

    # create

    def create(self, call: Call, inputs: Properties) -> tuple[str, Properties]:
        """The new object's id and outputs."""
        manifest = plain(inputs)
        if call.preview and self._no_dry_run(manifest):
            return "", inputs
        self._require_cluster()
        manager = f"{ownership.CREATE_MANAGER}-{secrets.token_hex(4)}"
        try:
            live = self._create_with_retries(call, manifest, manager)
        except (ApiError, NoMatch) as error:
            if call.preview and _previews_fine(error):
                return "", inputs
            raise Rejected(_not_created(call.urn, manifest, error, manager)) from error
        outputs = _checkpoint(inputs, live, manager, manifest["apiVersion"])
        if call.preview:
            return "", outputs
        try:
            live = self._wait(call).until_ready(manifest, live)
        except WaitForError as error:
            raise Rejected(_not_created(call.urn, manifest, error, manager)) from error
        except NotReady as error:
            first, *others = error.reasons
            text = (
                f'resource "{call.urn}" was successfully created, but the Kubernetes API server reported that it '
                f"{_NOT_LIVE}: {first}"
            )
            outputs = _checkpoint(inputs, error.live, manager, manifest["apiVersion"])
            raise Incomplete(_id(error.live), outputs, inputs, [text, *others]) from error
        return _id(live), _checkpoint(inputs, live, manager, manifest["apiVersion"])

    def _create_with_retries(self, call: Call, manifest: Manifest, manager: str) -> Manifest:
        """A missing namespace or kind is tried again for 63 seconds, whatever the custom timeout says."""
        for attempt, pause in enumerate(_RETRY_SECONDS):
            try:
                return self._create_once(manifest, manager, call.preview)
            except (ApiError, NoMatch) as error:
                call.say("info", f"Retry #{attempt}; creation failed: {error}")
                if call.preview or (isinstance(error, ApiError) and error.code != 404):
                    raise
                last = error
            if self.cancelled.wait(pause):
                raise Rejected("context canceled")
        raise last

    def _create_once(self, manifest: Manifest, manager: str, preview: bool) -> Manifest:
        if self._options.upsert_existing_objects:
            return self._apply(manifest, manager, self._forced(manifest), preview)
        dry_run = {"dryRun": "All"} if preview else {}
        path = self.api.path(manifest, collection=True)
        return self.api.request("POST", path, manifest, fieldManager=ownership.CREATE_MANAGER, **dry_run)

    def _apply(self, manifest: Manifest, manager: str, force: bool, preview: bool) -> Manifest:
        query = {"fieldManager": manager, "force": str(force).lower()} | ({"dryRun": "All"} if preview else {})
        return self.api.request("PATCH", self.api.path(manifest), manifest, "application/apply-patch+yaml", **query)

    def _forced(self, manifest: Manifest) -> bool:
        return self._options.enable_patch_force or annotation(manifest, "patchForce") == "true"

    def _no_dry_run(self, manifest: Manifest) -> bool:
        if has_unknowns(manifest) or self._unreachable():
            return True
        try:
            self.api.kind(manifest["apiVersion"], manifest["kind"])
        except NoMatch:
            return True
        return False

    def _wait(self, call: Call, update: bool = False) -> Wait:
        return Wait(self.api, self.cancelled, call.say, call.timeout, update)

    # update

    def update(self, call: Call, state: Properties, inputs: Properties, ignored: list[str]) -> Properties:
        """The updated object's outputs."""
        manifest = plain(inputs)
        if call.preview and self._no_dry_run(manifest):
            return inputs
        self._require_cluster()
        manager = plain(state.get(_FIELD_MANAGER)) or f"{ownership.CREATE_MANAGER}-{secrets.token_hex(4)}"
        initial = plain(state.get(_INITIAL_API_VERSION)) or manifest["apiVersion"]
        try:
            live = self._update_live(call, manifest, manager, ignored)
        except (ApiError, NoMatch, NotReady, WaitForError) as error:
            if call.preview and isinstance(error, ApiError) and error.code == 403:
                return inputs
            raise self._not_updated(call, inputs, manifest, manager, initial, error) from error
        return _checkpoint(inputs, live, manager, initial)

    def _update_live(self, call: Call, manifest: Manifest, manager: str, ignored: list[str]) -> Manifest:
        live = self.api.get(manifest)
        force = self._forced(manifest)
        patch = ownership.respect_ignored(manifest, live, ignored, manager) if ignored else manifest
        if call.preview:
            return self._apply(patch, manager, force or ownership.has_create_entry(live), True)
        ownership.take_over(self.api, live, manager)
        live = self._apply(patch, manager, force, False)
        return self._wait(call, update=True).until_ready(manifest, live)

    def _not_updated(
        self, call: Call, inputs: Properties, manifest: Manifest, manager: str, initial: str, error: Exception
    ) -> Exception:
        try:
            if self.cancelled.is_set():
                raise Unreachable("client rate limiter Wait returned an error: context canceled")
            live = self.api.get(manifest)
        except (ApiError, NoMatch, Unreachable) as gone:
            text = error.reasons[0] if isinstance(error, NotReady) else error
            return Rejected(f'update of resource "{call.urn}" failed: {text}\nunable to get cluster state: {gone}')
        reasons = list(error.reasons) if isinstance(error, NotReady) else [_apply_error(error, manager)]
        reasons[0] = f'the Kubernetes API server reported that "{_id(manifest)}" {_NOT_LIVE}: {reasons[0]}'
        return Incomplete(_id(live), _checkpoint(inputs, live, manager, initial), inputs, reasons)

    # read

    def read(
        self, call: Call, resource_id: str, inputs: Properties, state: Properties
    ) -> tuple[str, Properties, Properties]:
        """Id, outputs and inputs of the live object; an empty id when it is gone."""
        known = inputs or state.get(_INPUTS) or {}
        unreachable = self._unreachable()
        if unreachable:
            return self._read_unreachable(call, resource_id, inputs, state, unreachable)
        manifest = _identity(call.urn, resource_id, plain(state))
        try:
            if self.api.kind(manifest["apiVersion"], manifest["kind"]).namespaced != ("/" in resource_id):
                return "", {}, {}
            live = self.api.get(manifest)
        except NoMatch:
            return "", {}, {}
        except ApiError as error:
            if error.code == 404:
                return "", {}, {}
            raise Rejected(str(error)) from error
        manager = plain(state.get(_FIELD_MANAGER)) or f"{ownership.CREATE_MANAGER}-{secrets.token_hex(4)}"
        initial = plain(state.get(_INITIAL_API_VERSION)) or live["apiVersion"]
        new_inputs = mark_like(prune(live, plain(known)), known) if known else dict(manifest)
        _hide_secret_kind(new_inputs)
        outputs = _checkpoint(new_inputs, live, manager, initial)
        problems = self._wait(call, update=True).problems_now(live)
        if problems:
            raise Incomplete(_id(live), outputs, new_inputs, problems)
        return _id(live), outputs, new_inputs

    def _read_unreachable(
        self, call: Call, resource_id: str, inputs: Properties, state: Properties, reason: str
    ) -> tuple[str, Properties, Properties]:
        if self._options.delete_unreachable:
            call.say("info!", _UNREACHABLE_DELETED)
            return "", {}, {}
        if self._options.skip_update_unreachable:
            call.say(
                "info!",
                "configured Kubernetes cluster is unreachable and the `skipUnreachable` option is enabled. "
                "Returned data could not reflect the actual cluster configuration.",
            )
            return resource_id, state, inputs
        call.say("warning!", reason)
        raise Rejected(f"failed to read resource state due to unreachable cluster. {_DELETE_HINT}")

    # delete

    def delete(self, call: Call, resource_id: str, state: Properties) -> None:
        """Deletes the object and waits until it is gone. An object that is gone already is fine."""
        unreachable = self._unreachable()
        if unreachable:
            if self._options.delete_unreachable:
                call.say("info!", _UNREACHABLE_DELETED)
                return
            call.say("warning!", unreachable)
            raise Rejected(f"configured Kubernetes cluster is unreachable. {_DELETE_HINT}")
        manifest = _identity(call.urn, resource_id, plain(state))
        settings = {**manifest, "metadata": {**plain(state).get("metadata", {}), **manifest["metadata"]}}
        policy = (annotation(settings, "deletionPropagationPolicy") or "").capitalize()
        body = {"propagationPolicy": policy if policy in ("Background", "Orphan") else "Foreground"}
        try:
            live = self.api.get(manifest)
            self.api.request("DELETE", self.api.path(manifest), body)
            call.say("info", "Resource scheduled for deletion")
            self._wait(call).until_gone(settings, live)
        except NoMatch:
            return
        except NotReady as error:
            raise Rejected(error.reasons[0]) from error
        except ApiError as error:
            if error.code != 404:
                raise Rejected(str(error)) from error


_UNREACHABLE_DELETED = (
    "configured Kubernetes cluster is unreachable and the `deleteUnreachable` option is enabled. "
    "Deleting the unreachable resource from Pulumi state"
)


def _type_token(urn: str) -> str:
    """`apps/v1:Deployment` of the URN's own type; a parent's type stands before a dollar sign."""
    return urn.split("::")[2].rpartition("$")[2].partition(":")[2]


def _id(manifest: Manifest) -> str:
    metadata = manifest["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}" if metadata.get("namespace") else metadata["name"]


def _identity(urn: str, resource_id: str, state: Properties) -> Manifest:
    """Kind and name of a resource that is known by URN and id, and perhaps by its state."""
    version, _, kind = _type_token(urn).rpartition(":")
    namespace, _, name = resource_id.rpartition("/")
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": state.get("apiVersion") or version.removeprefix("core/"),
        "kind": state.get("kind") or kind,
        "metadata": metadata,
    }


def _autoname(metadata: Properties, olds: Properties, name: str) -> None:
    if metadata.get("name"):
        return
    reused = olds["metadata"]["name"] if is_autonamed(olds) else None
    metadata["name"] = reused or f"{name}-{secrets.token_hex(4)}"
    annotations = metadata.get("annotations") or {}
    if isinstance(annotations, dict):
        metadata["annotations"] = {**annotations, "pulumi.com/autonamed": "true"}


def _encoded(value: Any) -> Any:
    if isinstance(value, Secret):
        return Secret(_encoded(value.value))
    return base64.b64encode(value.encode()).decode() if isinstance(value, str) else value


def _hide_data(inputs: Properties) -> None:
    """stringData becomes data, as the server would make it, and all of it secret."""
    texts = inputs.pop("stringData", None)
    texts = texts.value if isinstance(texts, Secret) else texts
    data = inputs.get("data")
    data = data.value if isinstance(data, Secret) else data
    if isinstance(texts, dict):
        data = {**(data if isinstance(data, dict) else {}), **{key: _encoded(text) for key, text in texts.items()}}
    elif texts is not None:
        data = texts  # unknown as a whole
    if data is not None:
        inputs["data"] = Secret(plain(data))


def _hide_secret_kind(properties: Properties) -> None:
    if properties.get("kind") == "Secret" and properties.get("apiVersion") == "v1":
        for key in ("data", "stringData"):
            if key in properties and not isinstance(properties[key], Secret):
                properties[key] = Secret(properties[key])


def _checkpoint(inputs: Properties, live: Manifest, manager: str, initial_api_version: str) -> Properties:
    """The outputs of a live object, secret where the inputs are."""
    outputs = mark_like(live, inputs)
    _hide_secret_kind(outputs)
    applied = "kubectl.kubernetes.io/last-applied-configuration"
    annotations = live["metadata"].get("annotations", {})
    if applied in annotations and has_secrets([inputs, outputs]):
        # Holds the whole manifest as text.
        outputs["metadata"] = mark_like(live["metadata"], {"annotations": {applied: Secret("")}})
    outputs[_FIELD_MANAGER], outputs[_INITIAL_API_VERSION] = manager, initial_api_version
    outputs[_INPUTS] = inputs
    return outputs


def _previews_fine(error: ApiError | NoMatch) -> bool:
    """What a preview of a create lets through."""
    if isinstance(error, NoMatch):
        return True
    no_namespace = error.code == 404 and error.details.get("kind") == "namespaces"
    dry_run_disabled = "does not support dry run" in str(error)
    return error.reason == "AlreadyExists" or error.code == 403 or no_namespace or dry_run_disabled


def _not_created(urn: str, manifest: Manifest, error: Exception, manager: str) -> str:
    if isinstance(error, NoMatch):
        return (
            f'creation of resource "{urn}" with kind {manifest["apiVersion"]}/{manifest["kind"]} failed because the '
            "Kubernetes API server reported that the apiVersion for this resource does not exist. Verify that any "
            f"required CRDs have been created: {error}"
        )
    exists = isinstance(error, ApiError) and error.reason == "AlreadyExists"
    text = _apply_error(error, manager)
    return f'resource "{urn}" was not successfully created by the Kubernetes API server: {text}' + (
        _ALREADY_EXISTS_HELP if exists else ""
    )


def _apply_error(error: Exception, manager: str) -> str:
    if isinstance(error, ApiError) and error.code == 409 and str(error).startswith("Apply failed with"):
        return f'{_CONFLICT_HELP}The resource managed by field manager "{manager}" had an apply conflict: {error}'
    return str(error)

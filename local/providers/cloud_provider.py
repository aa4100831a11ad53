"""A cloud plugin's requests, the same for every kind of every cloud: check, diff, create, read, update and delete.

Each cloud's plugin says which kinds it has, where its credentials are, and how it words what went wrong.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

from local.providers.cloud import Cloud, CloudError, opened
from local.providers.kinds import Kind
from local.providers.reporting import Refusal, reported
from local.providers.wire import UNKNOWN, Properties, Secret, decode, encode, has_unknowns, mark_like, plain

RETRY_VARIABLE = "MODELSERVE_CLOUD_RETRY_SECONDS"
"""How long a patient plugin tries a refused deletion again, in the environment; the real one takes 15 minutes."""
UNKNOWN_KEY = "denied"
"""As an access key: one that the cloud does not know. Any other is taken."""
_RETRY_SECONDS = 2.0
_RETRY_PAUSE_SECONDS = 0.1
_EMPTY = (None, "", False, 0, [], {})


class CloudProvider(provider_pb2_grpc.ResourceProviderServicer):
    """One provider instance; the engine starts a plugin process for each, and configures it before anything else."""

    name: str
    title: str
    """What people call the cloud."""
    version: str
    kinds: Mapping[str, Kind]
    regions: Collection[str]
    region_variable: str
    """Where the environment names a region, of which the stack's configuration comes first."""
    key_variables: Sequence[Sequence[str]]
    """Names of the variable with the access key, and of the one with its secret: the first is what people are told."""

    def __init__(self, engine: str) -> None:
        self._region, self._key = "", ""

    def unknown_key(self, service: str) -> CloudError:
        """How the service refuses an access key that the cloud does not know."""
        raise NotImplementedError

    def failure(self, request: str, urn: str, kind: Kind, name: str, error: CloudError) -> str:
        """What the plugin makes of a refused `request`, one of creating, reading, updating and deleting."""
        raise NotImplementedError

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version=self.version)

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Empty:
        return Empty()  # no request takes longer than a deletion is tried again

    @reported
    def CheckConfig(self, request: Any) -> Any:
        return provider_pb2.CheckResponse(inputs=request.news)

    @reported
    def DiffConfig(self, request: Any) -> Any:
        olds, news = plain(decode(request.old_inputs)), plain(decode(request.news))
        changed = sorted(key for key in olds.keys() | news.keys() if olds.get(key) != news.get(key))
        return provider_pb2.DiffResponse(changes=2 if changed else 1, diffs=changed)

    @reported
    def Configure(self, request: Any) -> Any:
        region = plain(decode(request.args)).get("region") or os.environ.get(self.region_variable, "")
        if region not in self.regions:
            raise Refusal(f"Invalid {self.title} region: {region}")
        keys = [next((os.environ[name] for name in names if os.environ.get(name)), "") for names in self.key_variables]
        if not all(keys):
            names = " and ".join(names[0] for names in self.key_variables)
            raise Refusal(f"no valid credentials for {self.title}: set {names} in the environment")
        self._region, self._key = region, keys[0]
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    @contextmanager
    def _asking(self, request: str, urn: str, kind: Kind, name: str) -> Iterator[Cloud]:
        """The cloud for one request; its refusals are told with what was asked for."""
        folder = os.environ.get("MODELSERVE_CLOUD")
        if not folder:
            raise Refusal("MODELSERVE_CLOUD names no folder for the cloud: `python -m local env` prints what to set")
        try:
            with opened(Path(folder), self._region) as cloud:
                if self._key == UNKNOWN_KEY:
                    raise self.unknown_key(kind.service)
                yield cloud
        except CloudError as error:
            raise Refusal(self.failure(request, urn, kind, name, error)) from error

    @reported
    def Check(self, request: Any) -> Any:
        kind, inputs = self._kind(request.urn), decode(request.news)
        failures = [provider_pb2.CheckFailure(reason=reason) for reason in _problems(kind, request.urn, plain(inputs))]
        return provider_pb2.CheckResponse(inputs=encode({**kind.defaults, **inputs}), failures=failures)

    @reported
    def Diff(self, request: Any) -> Any:
        kind, olds, news = self._kind(request.urn), plain(decode(request.olds)), plain(decode(request.news))
        watched = sorted(kind.arguments - set(request.ignoreChanges))
        changed = [key for key in watched if _changes(kind, key, olds.get(key), news.get(key))]
        replacing = [key for key in changed if key in kind.replacing]
        details = {}
        for key in changed:
            change = 0 if olds.get(key) in _EMPTY else 2 if news.get(key) in _EMPTY else 4
            details[key] = provider_pb2.PropertyDiff(kind=change + (key in replacing))
        return provider_pb2.DiffResponse(
            changes=2 if changed else 1,
            diffs=changed,
            replaces=replacing,
            hasDetailedDiff=True,
            detailedDiff=details,
        )

    @reported
    def Create(self, request: Any) -> Any:
        kind, inputs = self._kind(request.urn), decode(request.properties)
        if request.preview:
            known = kind.outputs | (kind.computed - inputs.keys())
            outputs = {**inputs, **{key: Secret(UNKNOWN) if key in kind.secrets else UNKNOWN for key in known}}
            return provider_pb2.CreateResponse(properties=encode(outputs))
        state = plain(inputs)
        with self._asking("creating", request.urn, kind, "") as cloud:
            made = kind.create(cloud, state)
            outputs = kind.read(cloud, made, state) or {}
        return provider_pb2.CreateResponse(id=made, properties=encode(_marked(kind, outputs, inputs)))

    @reported
    def Update(self, request: Any) -> Any:
        kind, inputs, olds = self._kind(request.urn), decode(request.news), decode(request.olds)
        ignored = {key: olds[key] for key in request.ignoreChanges if key in olds}
        news = {**{key: olds[key] for key in olds.keys() - kind.arguments}, **ignored, **inputs}
        if request.preview:
            return provider_pb2.UpdateResponse(properties=encode(news))
        if kind.update is None:
            raise Refusal(f"{kind.label} has no update")
        with self._asking("updating", request.urn, kind, request.id) as cloud:
            kind.update(cloud, request.id, plain(news))
            outputs = kind.read(cloud, request.id, plain(news)) or {}
        return provider_pb2.UpdateResponse(properties=encode(_marked(kind, outputs, inputs)))

    @reported
    def Read(self, request: Any) -> Any:
        """Inputs as the cloud has them now: those that are known, or for an import all but the defaults."""
        kind, inputs, state = self._kind(request.urn), decode(request.inputs), plain(decode(request.properties))
        with self._asking("reading", request.urn, kind, request.id) as cloud:
            live = kind.read(cloud, request.id, state)
        if live is None:
            return provider_pb2.ReadResponse()
        wanted = inputs.keys() if inputs else {k for k in live if live[k] not in (*_EMPTY, kind.defaults.get(k))}
        now = {key: live.get(key, kind.defaults.get(key)) for key in kind.arguments & wanted}
        now = {key: value for key, value in now.items() if value is not None}
        outputs = _marked(kind, live, inputs)
        return provider_pb2.ReadResponse(
            id=request.id, properties=encode(outputs), inputs=encode(mark_like(now, inputs))
        )

    @reported
    def Delete(self, request: Any) -> Empty:
        kind, state = self._kind(request.urn), plain(decode(request.properties))
        until = time.monotonic() + (float(os.environ.get(RETRY_VARIABLE, _RETRY_SECONDS)) if kind.patient else 0)
        while True:
            try:
                with self._asking("deleting", request.urn, kind, request.id) as cloud:
                    kind.delete(cloud, request.id, state)
                return Empty()
            except Refusal:
                if time.monotonic() >= until:
                    raise
            # Not while the cloud is locked: what is in the way can only go meanwhile.
            time.sleep(_RETRY_PAUSE_SECONDS)

    def _kind(self, urn: str) -> Kind:
        token = urn.split("::")[2].rpartition("$")[2]
        if token not in self.kinds:
            rules = f"local/providers/{self.name}/RULES.md"
            raise Refusal(f"the rehearsal's {self.name} plugin has no {token}: {rules} lists its types")
        return self.kinds[token]


def _problems(kind: Kind, urn: str, inputs: Properties) -> Iterator[str]:
    """What is wrong with the arguments, in the words of the official plugin."""
    name = urn.rpartition("::")[2]
    for key in sorted(kind.required - inputs.keys()):
        problem = f'Missing required argument. The argument "{key}" is required, but no definition was found.'
        yield f"{problem}. Examine values at '{name}.{key}'."
    for key in sorted(inputs.keys() - kind.arguments):
        yield f"Invalid or unknown key. Examine values at '{name}.{key}'."
    for key, value in sorted(inputs.items()):
        if has_unknowns(value):
            continue
        choices, (least, most) = kind.choices.get(key), kind.lengths.get(key, (0, 1 << 30))
        if choices and value not in choices:
            quoted = " ".join(f'"{choice}"' for choice in choices)
            yield f"expected {key} to be one of [{quoted}], got {value}. Examine values at '{name}.{key}'."
        elif key in kind.lengths and not least <= len(value) <= most:
            problem = f"expected length of {key} to be in the range ({least} - {most}), got {value}"
            yield f"{problem}. Examine values at '{name}.{key}'."


def _changes(kind: Kind, key: str, old: Any, new: Any) -> bool:
    if old in _EMPTY and new in _EMPTY or new is None and key in kind.computed:
        return False
    if key in kind.documents and not has_unknowns(new) and old is not None and new is not None:
        return json.loads(old) != json.loads(new)
    return old != new


def _marked(kind: Kind, outputs: Properties, inputs: Properties) -> Properties:
    """Outputs with the kind's own secrets, and what was secret among the inputs."""
    marked = mark_like(outputs, inputs)
    return {key: Secret(plain(value)) if key in kind.secrets else value for key, value in marked.items()}

"""A cloud plugin's requests, the same for every kind of every cloud: check, diff, create, read, update and delete.

Each cloud's plugin defines its kinds, where it finds its credentials, and how it words errors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

from local import faults
from standins.providers.cloud import Cloud, CloudError, opened
from standins.providers.kinds import Function, Kind
from standins.providers.reporting import Refusal, reported
from standins.providers.wire import UNKNOWN, Properties, Secret, decode, encode, has_unknowns, mark_like, plain

RETRY_VARIABLE = "MODELSERVE_CLOUD_RETRY_SECONDS"
"""Environment variable: seconds for which a patient plugin retries a refused deletion; the real one: 15 minutes."""
UNKNOWN_KEY = "denied"
"""The one access key that the cloud does not know; it accepts any other."""
_RETRY_SECONDS = 2.0
_RETRY_PAUSE_SECONDS = 0.1
# The value in the control plane's faults.json that keeps back the cloud's answer to a creation, and for how long.
_LATE, _LATE_SECONDS = "late", 60.0
_EMPTY: tuple[Any, ...] = (None, "", False, 0, [], {})


class CloudProvider(provider_pb2_grpc.ResourceProviderServicer):
    """One provider instance. The engine starts a plugin process for each, and configures it before anything else."""

    name: str
    version: str
    kinds: Mapping[str, Kind]
    functions: Mapping[str, Function]
    region_variable: str
    """The environment variable that names a region; the region in the stack's configuration takes precedence."""
    default_region: str
    key_variables: Sequence[Sequence[str]]
    """Per credential (access key, then secret), the names of its environment variables."""
    no_keys: str
    """The plugin's message if a credential is missing."""

    def __init__(self, engine: str) -> None:
        self._region, self._key = "", ""

    def check_region(self, region: str) -> None:
        """Raises Refusal for a region that the plugin itself refuses."""

    def unknown_key(self, service: str) -> CloudError:
        """The service's error for an access key that the cloud does not know."""
        raise NotImplementedError

    def heard(self, kind: Kind, error: CloudError) -> CloudError:
        """The error that reaches the plugin when the cloud refuses a read."""
        return error

    def failure(self, request: str, kind: Kind, name: str, error: CloudError) -> str:
        """The plugin's message for a refused `request`: creating, reading, updating or deleting."""
        raise NotImplementedError

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version=self.version)

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Empty:
        return Empty()  # no request lasts longer than the retries of a deletion

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
        keys = [next((os.environ[name] for name in names if os.environ.get(name)), "") for names in self.key_variables]
        if not all(keys):
            raise Refusal(self.no_keys)
        named = plain(decode(request.args)).get("region") or os.environ.get(self.region_variable)
        self._region, self._key = named or self.default_region, keys[0]
        self.check_region(self._region)
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    @contextmanager
    def _telling(self, request: str, urn: str, kind: Kind, name: str) -> Iterator[None]:
        """Reports refusals of the cloud together with the request that caused them."""
        try:
            yield
        except CloudError as error:
            verb = "refreshing" if request == "reading" else request
            told = self.failure(request, kind, name, error)
            raise Refusal(f"{verb} {urn}: 1 error occurred:\n\t* {told}") from error

    @contextmanager
    def _cloud(self, kind: Kind | Function) -> Iterator[Cloud]:
        """Opens the cloud for one request."""
        folder = os.environ.get("MODELSERVE_CLOUD")
        if not folder:
            raise Refusal("MODELSERVE_CLOUD names no folder for the cloud: `python -m local env` prints what to set")
        with opened(Path(folder), self._region, self._key) as cloud:
            if self._key == UNKNOWN_KEY:
                raise self.unknown_key(kind.service)
            yield cloud

    @reported
    def Check(self, request: Any) -> Any:
        kind, inputs = self._kind(request.urn), decode(request.news)
        failures = [provider_pb2.CheckFailure(reason=reason) for reason in _problems(kind, request.urn, plain(inputs))]
        return provider_pb2.CheckResponse(inputs=encode({**kind.defaults, **inputs}), failures=failures)

    @reported
    def Diff(self, request: Any) -> Any:
        kind, olds, news = self._kind(request.urn), plain(decode(request.olds)), plain(decode(request.news))
        watched = sorted(kind.arguments - set(request.ignoreChanges))
        pairs = {key: (olds.get(key), news.get(key)) for key in watched}
        changed = [key for key, (old, new) in pairs.items() if old != new and not (old in _EMPTY and new in _EMPTY)]
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
            outputs = {**inputs, **{key: Secret(UNKNOWN) if key in kind.secrets else UNKNOWN for key in kind.outputs}}
            return provider_pb2.CreateResponse(properties=encode(outputs))
        state = plain(inputs)
        with self._telling("creating", request.urn, kind, ""), self._cloud(kind) as cloud:
            made = kind.create(cloud, state)
            outputs = kind.read(cloud, made, state)
            plane = cloud.folder.parent
        *_, token, name = request.urn.split("::")
        until = time.monotonic() + _LATE_SECONDS
        while faults.of(plane, token.rpartition(":")[2], name) == _LATE and time.monotonic() < until:
            time.sleep(_RETRY_PAUSE_SECONDS)
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
        with self._telling("updating", request.urn, kind, request.id), self._cloud(kind) as cloud:
            kind.update(cloud, request.id, plain(news))
            outputs = kind.read(cloud, request.id, plain(news))
        return provider_pb2.UpdateResponse(properties=encode(_marked(kind, outputs, inputs)))

    @reported
    def Read(self, request: Any) -> Any:
        """Returns the inputs that the program gave, with the cloud's current values."""
        kind, inputs, state = self._kind(request.urn), decode(request.inputs), plain(decode(request.properties))
        with self._telling("reading", request.urn, kind, request.id):
            try:
                live = self._look(kind, request.id, state)
            except CloudError as error:
                if not (error.gone and kind.forgets):
                    raise
                return provider_pb2.ReadResponse()
        now = {key: value for key in inputs if (value := live.get(key, kind.defaults.get(key))) is not None}
        outputs = _marked(kind, live, inputs)
        return provider_pb2.ReadResponse(
            id=request.id, properties=encode(outputs), inputs=encode(mark_like(now, inputs))
        )

    @reported
    def Delete(self, request: Any) -> Empty:
        kind, state = self._kind(request.urn), plain(decode(request.properties))
        until = time.monotonic() + float(os.environ.get(RETRY_VARIABLE, _RETRY_SECONDS))
        with self._telling("deleting", request.urn, kind, request.id):
            while kind.delete:
                try:
                    with self._cloud(kind) as cloud:
                        kind.delete(cloud, request.id, state)
                    break
                except CloudError:
                    if kind.forgiving and self._is_gone(kind, request.id, state):
                        break
                    if not kind.patient or time.monotonic() >= until:
                        raise
                # Wait without the cloud's lock: only another request can remove what blocks the deletion.
                time.sleep(_RETRY_PAUSE_SECONDS)
        return Empty()

    @reported
    def Invoke(self, request: Any) -> Any:
        function = self.functions.get(request.tok)
        if function is None:
            raise Refusal(f"the rehearsal's {self.name} plugin has no {request.tok}: {self._rules} lists its functions")
        asked = plain(decode(request.args))
        if unknown := sorted(asked.keys() - function.arguments):
            raise Refusal(f"invoking {request.tok}: Invalid or unknown key: {', '.join(unknown)}")
        with self._cloud(function) as cloud:
            answer = function.answer(cloud, asked)
        return provider_pb2.InvokeResponse(**{"return": encode(answer)})

    def _is_gone(self, kind: Kind, name: str, state: Properties) -> bool:
        """Whether a read says that it is gone. Raises CloudError if the read is refused for another reason."""
        try:
            self._look(kind, name, state)
        except CloudError as error:
            if not error.gone:
                raise
            return True
        return False

    def _look(self, kind: Kind, name: str, state: Properties) -> Properties:
        try:
            with self._cloud(kind) as cloud:
                return kind.read(cloud, name, state)
        except CloudError as error:
            raise self.heard(kind, error) from error

    def _kind(self, urn: str) -> Kind:
        token = urn.split("::")[2].rpartition("$")[2]
        if token not in self.kinds:
            raise Refusal(f"the rehearsal's {self.name} plugin has no {token}: {self._rules} lists its types")
        return self.kinds[token]

    @property
    def _rules(self) -> str:
        return f"standins/providers/{self.name}/RULES.md"


def _problems(kind: Kind, urn: str, inputs: Properties) -> Iterator[str]:
    """What is wrong with the arguments, in the official plugin's words."""
    name = urn.rpartition("::")[2]
    for key in sorted(kind.required - inputs.keys()):
        problem = f'Missing required argument. The argument "{key}" is required, but no definition was found.'
        yield f"{problem}. Examine values at '{name}.{key}'."
    for key in sorted(inputs.keys() - kind.arguments):
        yield f"Invalid or unknown key. Examine values at '{name}.{key}'."
    for key, value in sorted(inputs.items()):
        if has_unknowns(value):
            continue
        choices = kind.choices.get(key)
        if choices and value not in choices:
            quoted = " ".join(f'"{choice}"' for choice in choices)
            yield f"expected {key} to be one of [{quoted}], got {value}. Examine values at '{name}.{key}'."


def _marked(kind: Kind, outputs: Properties, inputs: Properties) -> Properties:
    """The outputs, with secret marks on the kind's own secrets and on inputs that were secret."""
    marked = mark_like(outputs, inputs)
    return {key: Secret(plain(value)) if key in kind.secrets else value for key, value in marked.items()}

"""An engine simulator: speaks vLLM's HTTP on a loopback port and invents its answers, with no model behind them.

Owns the protocol that clients, probes and Prometheus see: paths, status codes, the shapes of answers and errors, the
metric names of the release that it plays, and working counters. Does not own pods: `engines.py` decides when one
serves. Left out: sampling parameters, tools, embeddings, LoRA, metric labels except the model's name, the engine and
the finish reason.

With --data-parallel-size several engines answer on one port. A request goes to the engine with the fewest, as
DPLBAsyncMPClient of vllm/v1/engine/core_client.py does from the counts that it knows; each metric has one series an
engine, with the label `engine` (vllm/v1/metrics/loggers.py, 0.9.1:159 to 0.33.0:499; 0.9.0 not read).

Answers of 0.25.1 and later follow measurements of that release (`vllm serve` on H200, 2026-11-28). Releases between
0.10.1 and 0.25.1 are played like the older ones.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import math
import re
import socket
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from planning import routes
from planning.catalog import entries
from standins.vllm_arguments import Arguments

# Releases from this one on wrap an error in "error" (https://github.com/vllm-project/vllm/pull/22099).
_NESTED_ERRORS = (0, 10, 1)
_MEASURED = (0, 25, 1)
_LABELLED = (0, 9, 1)
_EMPTY_CONVERSATION = "Cannot apply chat template to an empty conversation. Provide at least one message."


def _absent(names: str) -> dict[str, None]:
    return dict.fromkeys(names.split())


# Fields that an answer also has, from _MEASURED on, besides those that the simulator fills in.
_MESSAGE = _absent("refusal annotations audio function_call reasoning")
_CHOICE = _absent("stop_reason token_ids routed_experts")
_PROMPT = _absent("prompt_token_ids prompt_text")
_TAIL = _absent("kv_transfer_params metrics")
_PERMISSION = {
    "object": "model_permission", "allow_create_engine": False, "allow_sampling": True, "allow_logprobs": True,
    "allow_search_indices": False, "allow_view": True, "allow_fine_tuning": False, "organization": "*", "group": None,
    "is_blocking": False,
}  # fmt: skip
_ANSWER = (
    "This is a simulated answer . The model {model} has no weights here , but the request went the whole way : through "
    "the port , the check of the key and the stream of tokens , and it comes back as the engine would send it ."
)
_BUCKETS = (0.001, 0.01, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0)


def release_of(image: str) -> str | None:
    """The release in an image's tag, such as 0.7.3 in vllm/vllm-openai:v0.7.3; None if the tag names no release."""
    match = re.search(r":(?:.*?[^\d.])?(\d+\.\d+\.\d+)", image.rpartition("/")[2].partition("@")[0])
    return match[1] if match else None


def newest_release() -> str:
    """The newest release whose metric names are known here."""
    return max((kind["first"] for kind in _metric_table().values()), key=_numbers)


@functools.cache
def _metric_table() -> dict[str, dict[str, str]]:
    return entries("vllm_metrics")["metrics"]


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))


class Metrics:
    """The engine's metrics, with the names of one release. Metrics without observations are exported as zero."""

    def __init__(self, release: str, model: str, engines: int = 1) -> None:
        known = _metric_table()
        self.types = {
            name: kind["type"]
            for name, kind in known.items()
            # A release older than the oldest known one gets the oldest names.
            if (_numbers(kind["first"]) <= _numbers(release) or kind["first"] == "0.6.6")
            and _numbers(release) <= _numbers(kind.get("last", "999.0.0"))
        }
        model_label = f'model_name="{model}"'
        self._labels = [model_label]
        if _numbers(release) >= _LABELLED:
            self._labels = [f'engine="{engine}",{model_label}' for engine in range(engines)]
        self._lock = threading.Lock()
        self._values: dict[tuple[str, int], float] = defaultdict(float)
        self._finished: Counter[tuple[str, int]] = Counter()
        self._observed: dict[tuple[str, int], Counter[float]] = defaultdict(Counter)

    def add(self, name: str, amount: float, engine: int = 0) -> None:
        """Adds to the counter or gauge vllm:NAME."""
        with self._lock:
            self._values[f"vllm:{name}", engine] += amount

    def set(self, name: str, value: float, engine: int = 0) -> None:
        """Sets the gauge vllm:NAME."""
        with self._lock:
            self._values[f"vllm:{name}", engine] = value

    def observe(self, name: str, value: float, engine: int = 0) -> None:
        """Records one value of the histogram vllm:NAME."""
        with self._lock:
            bound = next((bound for bound in _BUCKETS if value <= bound), math.inf)
            self._observed[f"vllm:{name}", engine][bound] += 1
            self._values[f"vllm:{name}", engine] += value

    def finish(self, reason: str, engine: int = 0) -> None:
        """Counts one request that ended for `reason`: stop, length or abort."""
        with self._lock:
            self._finished[reason, engine] += 1

    def text(self) -> str:
        """All metrics in Prometheus' text format."""
        lines = []
        with self._lock:
            for name, kind in self.types.items():
                lines.append(f"# TYPE {name} {kind}")
                for engine, label in enumerate(self._labels):
                    if name == "vllm:request_success_total":
                        lines += [
                            f'{name}{{finished_reason="{reason}",{label}}} {float(self._finished[reason, engine])}'
                            for reason in ("stop", "length", "abort")
                        ]
                    elif kind == "histogram":
                        lines += self._histogram(name, engine, label)
                    else:
                        lines.append(f"{name}{{{label}}} {float(self._values[name, engine])}")
        return "\n".join(lines) + "\n"

    def _histogram(self, name: str, engine: int, label: str) -> list[str]:
        counts, below, lines = self._observed[name, engine], 0, []
        for bound in (*_BUCKETS, math.inf):
            below += counts[bound]
            lines.append(f'{name}_bucket{{le="{"+Inf" if bound == math.inf else bound}",{label}}} {float(below)}')
        total = self._values[name, engine]
        return [*lines, f"{name}_count{{{label}}} {float(below)}", f"{name}_sum{{{label}}} {total}"]


class ApiError(Exception):
    """A request that vLLM refuses; `kind` is vLLM's name for the refusal."""

    def __init__(self, status: int, kind: str, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.parameter = status, kind, parameter


def _invalid(path: str, kind: str, place: tuple[str | int, ...], text: str) -> ApiError:
    """FastAPI's refusal of a request whose fields do not match its schema."""
    problem = {"type": kind, "loc": place, "msg": text}
    message = f"1 validation error:\n  {problem}\n\n    POST {path} [{problem}]"
    return ApiError(400, "Bad Request", message, ".".join(map(str, place)))


@dataclass
class Generation:
    """One answer while it is generated."""

    prompt_tokens: int
    limit: int
    words: list[str]
    made: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def finish_reason(self) -> str:
        """stop if the answer reached its end, length if max_tokens cut it off."""
        return "length" if self.limit < len(self.words) else "stop"

    @property
    def usage(self) -> dict[str, int]:
        """Token counts as the API reports them."""
        both = self.prompt_tokens + self.made
        return {"prompt_tokens": self.prompt_tokens, "total_tokens": both, "completion_tokens": self.made}


class Engine:
    """Invents answers, at `token_seconds` per token, and counts them."""

    def __init__(
        self,
        arguments: Arguments,
        release: str,
        api_keys: Sequence[str] = (),
        token_seconds: float = 0.01,
        switched_on: Collection[str] = (),
    ) -> None:
        """`api_keys` are accepted in addition to those in the argument list, such as VLLM_API_KEY; `switched_on` names
        what enables more routes, as `planning.routes.switches` does."""
        self.arguments, self.release, self.token_seconds = arguments, release, token_seconds
        self.measured = _numbers(release) >= _MEASURED
        self.api_keys = (*arguments.api_keys, *api_keys)
        self.aborting = False
        self.routes = {
            path: methods
            for path, methods in routes.routes(release).items()
            if set(routes.switches(path, release)) <= {*switched_on}
        }
        self._running = [0] * arguments.data_parallel
        self._held = [0] * arguments.data_parallel
        self.metrics = Metrics(release, arguments.served_names[0], arguments.data_parallel)
        for engine in range(arguments.data_parallel):
            self.metrics.add("cache_config_info", 1, engine)

    def begin(self, request: Mapping[str, Any], prompt: str) -> Generation:
        """Accepts a request, or raises ApiError with vLLM's reason."""
        name = request.get("model") or self.arguments.served_names[0]
        if name not in self.arguments.served_names:
            raise self._refusal(404, "NotFoundError", f"The model `{name}` does not exist.", "model")
        longest = self.arguments.max_model_len
        given = count_tokens(prompt)
        wanted = request.get("max_completion_tokens") or request.get("max_tokens")
        if wanted is not None and (not isinstance(wanted, int) or wanted < 1):
            raise self._refusal(
                400, "BadRequestError", f"max_tokens must be at least 1, got {wanted}.", "max_tokens", wanted
            )
        if self.measured and wanted and wanted > longest:
            text = f"max_tokens={wanted} cannot be greater than max_model_len=max_total_tokens={longest}."
            text += " Please request fewer output tokens."
            raise self._refusal(400, "BadRequestError", text, "max_tokens", wanted)
        if given >= longest or (wanted and given + wanted > longest):
            least = longest - (wanted or 0) + 1
            raise self._refusal(400, "BadRequestError", self._too_long(given, wanted or 0), "input_tokens", least)
        words = _ANSWER.format(model=name).split(" ")
        return Generation(given, min(wanted or longest, longest - given), words)

    def _too_long(self, given: int, wanted: int) -> str:
        longest = self.arguments.max_model_len
        head = f"This model's maximum context length is {longest} tokens. However, you requested"
        if self.measured:
            # vLLM stops counting one token past the limit.
            least = longest - wanted + 1
            return (
                f"{head} {wanted} output tokens and your prompt contains at least {least} input tokens, for a total of "
                f"at least {least + wanted} tokens. Please reduce the length of the input prompt or the number of "
                "requested output tokens."
            )
        if given >= longest:
            return f"{head} {given} tokens in the messages, Please reduce the length of the messages."
        parts = f"({given} in the messages, {wanted} in the completion)"
        return f"{head} {given + wanted} tokens {parts}. Please reduce the length of the messages or completion."

    def _refusal(self, status: int, kind: str, text: str, parameter: str, value: Any = None) -> ApiError:
        if not self.measured:
            return ApiError(status, kind, text)
        named = "" if value is None else f" (parameter={parameter}, value={value})"
        return ApiError(status, kind, f"{text}{named}", parameter)

    async def tokens(self, generation: Generation) -> AsyncGenerator[str, None]:
        """Yields the answer piece by piece, in time; counts what was generated even if the client disconnects."""
        metrics, ended = self.metrics, "abort"
        engine = self._running.index(min(self._running))
        self._running[engine] += 1
        metrics.add("num_requests_running", 1, engine)
        metrics.add("prompt_tokens_total", generation.prompt_tokens, engine)
        self._hold(generation.prompt_tokens, engine)
        last = generation.started
        try:
            for word in generation.words[: generation.limit]:
                await asyncio.sleep(self.token_seconds)
                if self.aborting:
                    return
                now = time.monotonic()
                if generation.made:
                    metrics.observe("time_per_output_token_seconds", now - last, engine)
                    metrics.observe("inter_token_latency_seconds", now - last, engine)
                else:
                    metrics.observe("time_to_first_token_seconds", now - generation.started, engine)
                last = now
                generation.made += 1
                self._hold(1, engine)
                metrics.add("generation_tokens_total", 1, engine)
                yield word if generation.made == 1 or word in ".,:" else f" {word}"
            ended = generation.finish_reason
        finally:
            self._running[engine] -= 1
            self._hold(-generation.prompt_tokens - generation.made, engine)
            metrics.add("num_requests_running", -1, engine)
            metrics.observe("e2e_request_latency_seconds", time.monotonic() - generation.started, engine)
            metrics.observe("request_prompt_tokens", generation.prompt_tokens, engine)
            metrics.observe("request_generation_tokens", generation.made, engine)
            metrics.finish(ended, engine)

    def _hold(self, tokens: int, engine: int) -> None:
        """Takes tokens into an engine's KV cache, or out of it. Nobody waits for room here: it is full at most."""
        self._held[engine] += tokens
        for name in ("kv_cache_usage_perc", "gpu_cache_usage_perc"):
            self.metrics.set(name, min(self._held[engine] / self.arguments.kv_tokens, 1.0), engine)


def count_tokens(text: str) -> int:
    """Roughly what a tokenizer would count: words and punctuation."""
    return len(re.findall(r"\w+|[^\w\s]", text))


_METRICS = {old: f"text/plain; version={form}; charset=utf-8" for old, form in ((False, "0.0.4"), (True, "1.0.0"))}
_INFO = {"title": "FastAPI", "version": "0.1.0"}


class Application:
    """vLLM's ASGI application: every route of the release, with the same access rules."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Routes with a path parameter come after literal routes.
        has = sorted(engine.routes.items(), key=lambda each: "{" in each[0])
        self._routes = [
            (re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), path, methods) for path, methods in has
        ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (kind := (await receive())["type"]) != "lifespan.shutdown":
                await send({"type": f"{kind}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "http":
            await _Request(self._engine, scope, receive, send).answer(*self._find(scope["path"]))
        else:
            await send({"type": "websocket.close"})

    def _find(self, asked: str) -> tuple[str, list[str]]:
        """The route that matches a path, and its methods."""
        return next(((path, methods) for known, path, methods in self._routes if known.fullmatch(asked)), ("", []))


class _Request:
    def __init__(self, engine: Engine, scope: Any, receive: Any, send: Any) -> None:
        self._engine, self._scope, self._receive, self._send_message = engine, scope, receive, send
        self._headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}

    async def answer(self, path: str, methods: list[str]) -> None:
        engine, method = self._engine, self._scope["method"]
        known = {f"Bearer {key}" for key in engine.api_keys}
        guarded = self._scope["path"].startswith(routes.guarded(engine.release))
        if known and guarded and method != "OPTIONS" and self._headers.get("authorization") not in known:
            return await self._json(401, {"error": "Unauthorized"})
        if not path:
            return await self._json(404, {"detail": "Not Found"})
        if method not in methods:
            return await self._json(405, {"detail": "Method Not Allowed"}, {"allow": ", ".join(methods)})
        self._body = b""
        more = True
        while more:
            part = await self._receive()
            self._body, more = self._body + part.get("body", b""), part.get("more_body", False)
        try:
            await self._answers(path)
        except ApiError as error:
            await self._json(error.status, self._error(error))

    async def _answers(self, path: str) -> None:
        engine = self._engine
        if path in ("/health", "/ping"):
            await self._send(200, b"")
        elif path == "/metrics":
            await self._send(200, engine.metrics.text().encode(), _METRICS[engine.measured])
        elif path == "/v1/chat/completions":
            await self._chat()
        elif path == "/v1/completions":
            await self._completion()
        elif path == "/invocations":
            await (self._chat() if "messages" in self._request() else self._completion())
        elif path == "/tokenize":
            await self._tokenize()
        else:
            bodies = {
                "/version": {"version": engine.release},
                "/v1/models": self._models(),
                "/load": {"server_load": 0},
                "/openapi.json": {"openapi": "3.1.0", "info": _INFO, "paths": {}},
            }
            # The simulator answers the other routes, but does not play what they do.
            await self._json(200, bodies.get(path, {"simulated": path}))

    def _error(self, error: ApiError) -> dict[str, Any]:
        body = {"message": str(error), "type": error.kind, "param": error.parameter, "code": error.status}
        if _numbers(self._engine.release) >= _NESTED_ERRORS:
            return {"error": body}
        return {"object": "error"} | body

    def _models(self) -> dict[str, Any]:
        arguments = self._engine.arguments
        shared = {"object": "model", "created": int(time.time()), "owned_by": "vllm", "root": arguments.model}
        shared |= {"parent": None, "max_model_len": arguments.max_model_len}
        if self._engine.measured:
            permission = {"id": f"modelperm-{uuid.uuid4().hex[:16]}", "created": int(time.time())} | _PERMISSION
            shared["permission"] = [permission]
        return {"object": "list", "data": [{"id": name} | shared for name in arguments.served_names]}

    async def _tokenize(self) -> None:
        request, longest = self._request(), self._engine.arguments.max_model_len
        count = count_tokens(str(request.get("prompt")))
        body = {"count": count, "max_model_len": longest, "tokens": list(range(count)), "token_strs": None}
        await self._json(200, body)

    def _request(self) -> dict[str, Any]:
        measured, path = self._engine.measured, self._scope["path"]
        if measured and self._headers.get("content-type", "text/plain").partition(";")[0].strip() != "application/json":
            text = "Unsupported Media Type: Only 'application/json' is allowed"
            raise ApiError(400, "Bad Request", f'1 validation error:\n  {text} ["{text}"]')
        try:
            request = json.loads(self._body)
        except ValueError as error:
            if measured and isinstance(error, json.JSONDecodeError):
                raise _invalid(path, "json_invalid", ("body", error.pos), "JSON decode error") from None
            raise ApiError(400, "BadRequestError", f"Invalid JSON: {error}") from None
        if not isinstance(request, dict):
            if measured:
                text = f"'{type(request).__name__}' object has no attribute 'get'"
                raise ApiError(500, "InternalServerError", text)
            raise ApiError(400, "BadRequestError", "Input should be a valid dictionary")
        return request

    def _missing(self, field: str) -> ApiError:
        """The refusal of a request that lacks a required field."""
        if not self._engine.measured:
            return ApiError(400, "BadRequestError", f"{field}: Field required")
        if field == "messages":
            return _invalid("/v1/chat/completions", "missing", ("body", "messages"), "Field required")
        text = "Value error, Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
        error = _invalid("/v1/completions", "value_error", ("body",), text)
        error.parameter = "prompt"
        return error

    async def _chat(self) -> None:
        request = self._request()
        messages = request.get("messages")
        measured = self._engine.measured
        if measured and messages == []:
            raise ApiError(400, "BadRequestError", _EMPTY_CONVERSATION)
        if not isinstance(messages, list) or not messages:
            raise self._missing("messages")
        prompt = "\n".join(str(message.get("content")) for message in messages if isinstance(message, dict))
        role = {"role": "assistant", "content": ""}
        more, choice, tail = (
            (_MESSAGE, _CHOICE, _absent("prompt_logprobs") | _PROMPT | _TAIL) if measured else ({}, {}, {})
        )
        await self._generate(
            request, prompt, "chat.completion", "chatcmpl", first={"delta": role},
            piece=lambda text: {"delta": {"content": text}},
            whole=lambda text: {"message": role | {"content": text} | more}, choice=choice, tail=tail,
        )  # fmt: skip

    async def _completion(self) -> None:
        request = self._request()
        if not isinstance(request.get("prompt"), str):
            raise self._missing("prompt")
        # The completions API stops after 16 tokens by default.
        request.setdefault("max_tokens", 16)
        measured = self._engine.measured
        await self._generate(
            request, request["prompt"], "text_completion", "cmpl", first=None, piece=_text, whole=_text,
            choice=_CHOICE | _absent("prompt_logprobs prompt_token_ids") if measured else {},
            tail=_TAIL if measured else {},
        )  # fmt: skip

    async def _generate(
        self, request: dict[str, Any], prompt: str, kind: str, prefix: str, *,
        first: Any, piece: Any, whole: Any, choice: dict[str, Any], tail: dict[str, Any],
    ) -> None:  # fmt: skip
        """`choice` and `tail` are the null fields of a complete answer: those of its choice, and those at its end."""
        engine = self._engine
        generation = engine.begin(request, prompt)
        streamed, chat, measured = bool(request.get("stream")), prefix == "chatcmpl", engine.measured
        head = {
            "id": f"{prefix}-{uuid.uuid4().hex[: 16 if measured else 32]}",
            "object": f"{kind}.chunk" if streamed and chat else kind,
            "created": int(time.time()),
            "model": request.get("model") or engine.arguments.served_names[0],
        }
        print_of = {"system_fingerprint": f"vllm-{engine.release}-00000000"} if measured else {}

        def one(content: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
            return head | {"choices": [{"index": 0, **content, "logprobs": None, "finish_reason": reason}]}

        if not streamed:
            text = "".join([token async for token in engine.tokens(generation)])
            usage = generation.usage | (_absent("prompt_tokens_details") if measured else {})
            tier = _absent("service_tier") if measured else {}
            body = one(whole(text) | choice, generation.finish_reason)
            await self._json(200, body | tier | print_of | {"usage": usage} | tail)
            return
        await self._start(200, {"content-type": "text/event-stream; charset=utf-8"})
        gone = asyncio.create_task(self._receive())
        tokens = engine.tokens(generation)
        counted = bool((request.get("stream_options") or {}).get("include_usage"))
        # A chat stream gives the stop reason only in its last chunk, a completion stream in every chunk.
        each = _absent("token_ids" if chat else "stop_reason prompt_token_ids token_ids") if measured else {}
        try:
            if first:
                await self._event(one(first) | (_PROMPT if measured else {}))
            async for token in tokens:
                if gone.done():
                    return
                last = generation.made == min(generation.limit, len(generation.words))
                ends = _absent("stop_reason") if last and measured else {}
                reason = generation.finish_reason if last else None
                await self._event(one(piece(token) | each | ends, reason) | (print_of if last and not counted else {}))
            if counted:
                await self._event(head | {"choices": [], "usage": generation.usage} | print_of)
            await self._chunk(b"data: [DONE]\n\n")
            await self._chunk(b"")
        finally:
            gone.cancel()
            await tokens.aclose()

    async def _event(self, body: Mapping[str, Any]) -> None:
        await self._chunk(f"data: {_compact(body)}\n\n".encode())

    async def _chunk(self, data: bytes) -> None:
        await self._send_message({"type": "http.response.body", "body": data, "more_body": bool(data)})

    async def _json(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        await self._send(status, _compact(body).encode(), "application/json", headers)

    async def _send(
        self, status: int, body: bytes, kind: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        named = {**(headers or {}), **({"content-type": kind} if kind else {}), "content-length": str(len(body))}
        await self._start(status, named)
        await self._send_message({"type": "http.response.body", "body": body})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        given = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send_message({"type": "http.response.start", "status": status, "headers": given})


def _compact(body: Mapping[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


def _text(piece: str) -> dict[str, Any]:
    return {"text": piece}


def served(engine: Engine, access: Callable[[str], None]) -> Any:
    """What a server runs: the application inside its middlewares. The last one named is outermost, as in vLLM."""
    application: Any = Application(engine)
    for name in engine.arguments.middlewares:
        module, _, attribute = name.rpartition(".")
        application = getattr(importlib.import_module(module), attribute)(application)

    async def logged(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                client = "{}:{}".format(*scope["client"])
                access(f'{client} - "{scope["method"]} {scope["path"]} HTTP/1.1" {message["status"]}')
            await send(message)

        await application(scope, receive, sending if scope["type"] == "http" else send)

    return logged


class Server(uvicorn.Server):
    """uvicorn, with connections that can be cut."""

    def __init__(self, engine: Engine, access: Callable[[str], None]) -> None:
        super().__init__(uvicorn.Config(served(engine, access), log_config=None, access_log=False))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Remembers its event loop."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def cut(self) -> None:
        """Stops at once, from another thread: a process that dies does not finish its answers."""
        while not self.started:
            time.sleep(0.01)
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        self.should_exit = self.force_exit = True
        for connection in list(self.server_state.connections):
            if connection.transport:
                connection.transport.abort()

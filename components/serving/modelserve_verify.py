"""Asks a served model for a real, streamed chat completion. `ops verify` imports it; a Job runs it, with Python alone,
as the last step of `pulumi up`.

The Job's settings are variables; among them the API key, from the service's Secret. The key is never printed.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any

_QUESTION = "Say in one sentence what you are."
# Enough for a sentence. A reasoning model is cut off while it thinks, which still shows that it serves.
_SENTENCE = {"max_tokens": 64}
_HEALTH_SECONDS = 5.0
_PAUSE_SECONDS = 2.0
# Of a proxy that does not know the new pods yet, or of an engine that is about to serve.
_PASSING = (502, 503, 504)


@dataclass(frozen=True)
class Answer:
    """A completion: seconds to its first and its last token, how many tokens, and tokens a second after the first."""

    model: str
    first_token_seconds: float
    tokens: int
    tokens_per_second: float | None
    text: str
    seconds: float = 0.0
    prompt_tokens: int | None = None


@dataclass(frozen=True)
class Expected:
    """What is known of a stack's own service: it answers as the model that was asked for, and a reasoning parser keeps
    the `tags` of its thoughts out of the answer's text."""

    tags: tuple[str, ...] = ()


class NoAnswer(Exception):
    """The model did not answer, or not as it is to. `str()` is one line. `passing`: it may be better in a while."""

    def __init__(self, why: str, *, passing: bool = False) -> None:
        super().__init__(why)
        self.passing = passing


def ask(
    url: str,
    model: str | None,
    api_key: str | None,
    timeout: float,
    question: str = _QUESTION,
    sampling: Mapping[str, Any] = _SENTENCE,
    expected: Expected | None = None,
) -> Answer:
    """One streamed chat completion from the endpoint at `url`, within `timeout` seconds. Raises NoAnswer.

    Without `model` the first one that the endpoint lists is asked.
    """
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise NoAnswer("the API key has a character that no HTTP header may carry, such as a line break")
    endpoint = _Endpoint(url, api_key, time.monotonic() + timeout)
    try:
        name = model or endpoint.models()[0]
        request = {
            "model": name,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            **sampling,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return endpoint.complete(name, request, expected)
    except TimeoutError:
        raise NoAnswer(f"no answer within {timeout:g} s{endpoint.meanwhile()}") from None
    except ConnectionRefusedError:
        raise NoAnswer(f"nobody listens at {endpoint.address}", passing=True) from None
    except (OSError, HTTPException) as error:
        why = str(error) or type(error).__name__
        raise NoAnswer(f"the connection to {endpoint.address} broke: {why}", passing=True) from None


def refuses_strangers(url: str, model: str, timeout: float) -> bool:
    """Whether the endpoint refuses a request without its API key."""
    endpoint = _Endpoint(url, None, time.monotonic() + timeout)
    asked = {"model": model, "messages": [{"role": "user", "content": _QUESTION}], "max_tokens": 1}
    try:
        return endpoint.status("POST", "/v1/chat/completions", asked) in (401, 403)
    except (OSError, HTTPException):
        return True  # who gives no answer gives no tokens


class _Endpoint:
    """An OpenAI-compatible API, asked until `deadline` (monotonic seconds)."""

    def __init__(self, url: str, api_key: str | None, deadline: float) -> None:
        parts = urllib.parse.urlsplit(url)
        self._scheme, self._host, self._port = parts.scheme, parts.hostname or "", parts.port
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._key, self._deadline = api_key, deadline
        self.address = f"{parts.scheme}://{parts.netloc}"
        self._pieces: list[str] = []

    def meanwhile(self) -> str:
        """What else is known of an engine that did not answer in time."""
        if self._pieces:
            return ": it is slow, a part of its answer came"
        self._deadline = time.monotonic() + _HEALTH_SECONDS
        try:
            healthy = self.status("GET", "/health") == 200
        except (OSError, HTTPException):
            return ", and /health does not answer either"
        return ", although /health says that it is well: it hangs, or its queue is long" if healthy else ""

    def models(self) -> list[str]:
        """Names of the models it serves."""
        listed = self._document(self._send("GET", "/v1/models")).get("data") or []
        names = [model["id"] for model in listed if "id" in model]
        if not names:
            raise NoAnswer(f"{self.address} serves no model")
        return names

    def complete(self, model: str, request: dict[str, Any], expected: Expected | None) -> Answer:
        """The streamed answer to a chat completion."""
        begun = time.monotonic()
        answer = self._send("POST", "/v1/chat/completions", request)
        pieces = self._pieces
        content, thought = "", False
        first = last = 0.0
        tokens = prompt_tokens = None
        for event in self._events(answer):
            if expected and event.get("model", model) != model:
                raise NoAnswer(f"{event['model']} answers, and not {model}")
            usage = event.get("usage") or {}
            tokens = usage.get("completion_tokens", tokens)
            prompt_tokens = usage.get("prompt_tokens", prompt_tokens)
            for choice in event.get("choices") or []:
                delta = choice.get("delta") or {}
                # A reasoning parser puts thoughts into a field of their own; vLLM renamed that field once.
                thoughts = delta.get("reasoning_content") or delta.get("reasoning")
                content, thought = content + (delta.get("content") or ""), thought or bool(thoughts)
                if piece := delta.get("content") or thoughts:
                    last = time.monotonic()
                    first = first or last
                    pieces.append(piece)
        text = "".join(pieces)
        if not text.strip():
            raise NoAnswer(f"{model} sent an empty answer")
        tag = next((tag for tag in expected.tags if tag in content), None) if expected and not thought else None
        if tag:
            raise NoAnswer(
                f"{tag} is in the answer's text, and none of its thoughts are apart: the reasoning parser does not work"
            )
        count = tokens if tokens is not None else len(pieces)
        rate = (count - 1) / (last - first) if count > 1 and last > first else None
        return Answer(model, first - begun, count, rate, text, last - begun, prompt_tokens)

    def _events(self, answer: HTTPResponse) -> Iterator[dict[str, Any]]:
        while line := answer.readline():
            if time.monotonic() > self._deadline:
                raise TimeoutError
            data = line.decode(errors="replace").strip()
            if data == "data: [DONE]":
                return
            if data.startswith("data:"):
                event = _parsed(data.removeprefix("data:"))
                if "error" in event:
                    raise NoAnswer(f"the stream broke off: {_message(event)}")
                yield event
        raise NoAnswer("the stream ended before the answer did")

    def status(self, method: str, path: str, body: dict[str, Any] | None = None) -> int:
        """The status of one request's response."""
        return self._response(method, path, body).status

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> HTTPResponse:
        """The response to one request. Raises NoAnswer unless its status is 200."""
        answer = self._response(method, path, body)
        if answer.status != 200:
            raise NoAnswer(self._refusal(answer, (body or {}).get("model")), passing=answer.status in _PASSING)
        return answer

    def _response(self, method: str, path: str, body: dict[str, Any] | None) -> HTTPResponse:
        """The response to one request, on a new connection."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        kind = HTTPSConnection if self._scheme == "https" else HTTPConnection
        connection = kind(self._host, self._port, timeout=left)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        connection.request(method, self._path + path, json.dumps(body) if body else None, headers)
        return connection.getresponse()

    def _refusal(self, answer: HTTPResponse, model: str | None) -> str:
        message = _message(self._document(answer))
        if answer.status == 401:
            why = "the API key is wrong" if self._key else "the endpoint wants an API key and none was found"
            return f"401 {answer.reason}: {why}"
        if answer.status == 404 and model:
            return f"404 {answer.reason}: {message or 'no chat completions there'}"
        return f"{answer.status} {answer.reason}: {message or 'no reason given'}"

    def _document(self, answer: HTTPResponse) -> dict[str, Any]:
        return _parsed(answer.read().decode(errors="replace"))


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {"message": " ".join(text.split())[:200]}
    return value if isinstance(value, dict) else {}


def _message(body: dict[str, Any]) -> str:
    """The message of an error, in one of vLLM's two formats or FastAPI's."""
    error = body.get("error", body)
    if isinstance(error, dict):
        return str(error.get("message") or error.get("detail") or "")
    return str(error)


def _said(line: str) -> None:
    print(f"modelserve: verify: {line}", flush=True)


def main() -> int:
    """Returns 0 once the model has answered as it is to, 1 with the reason if it does not within its seconds."""
    url, model = os.environ["MODELSERVE_URL"], os.environ["MODELSERVE_MODEL"]
    key, tags = os.environ.get("MODELSERVE_API_KEY"), os.environ.get("MODELSERVE_TAGS", "").split()
    end = time.monotonic() + float(os.environ["MODELSERVE_SECONDS"])
    while True:
        left = max(end - time.monotonic(), _PAUSE_SECONDS)
        try:
            answer = ask(url, model, key, left, expected=Expected(tuple(tags)))
        except NoAnswer as error:
            if error.passing and time.monotonic() < end:
                _said(f"not yet: {error}")
                time.sleep(_PAUSE_SECONDS)
                continue
            _said(f"failed: {model} did not answer: {error}")
            return 1
        if key and not refuses_strangers(url, model, left):
            _said(f"failed: {model} answers without the API key")
            return 1
        _said(f"{model} answered: first token after {answer.first_token_seconds:.2f} s, {answer.tokens} tokens")
        return 0


if __name__ == "__main__":
    sys.exit(main())

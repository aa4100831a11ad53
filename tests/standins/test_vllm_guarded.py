"""Every release's routes behind the guard, which `--middleware` loads as in vLLM: which ones answer without a key."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from components.serving import modelserve_guard
from planning import routes
from planning.catalog import fact
from standins.vllm import Engine, served
from standins.vllm_arguments import Arguments

KEY = "sk-right"
SWITCHES = {name for path in routes._table()["routes"] for name in routes._table()["routes"][path].get("if", {})}
HEALTH = {"GET /health", "GET /ping", "POST /ping"}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Statuses of every route of a release, each by `METHOD /path`."""
    monkeypatch.syspath_prepend(str(Path(modelserve_guard.__file__).parent))
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    monkeypatch.setenv("MODELSERVE_DRAIN_FILE", str(tmp_path / "drain"))

    def every(release: str, *middlewares: str, key: str = "") -> dict[str, int]:
        monkeypatch.setenv("MODELSERVE_PATHS", " ".join(routes.let_through(release)))
        arguments = Arguments.parse(["m", *(word for name in middlewares for word in ("--middleware", name))])
        engine = Engine(arguments, release, (KEY,), token_seconds=0, switched_on=SWITCHES)
        application = served(engine, lambda line: None)
        asked = {f"{method} {path}" for path, methods in routes.routes(release).items() for method in methods}
        return {line: asyncio.run(_status(application, *line.split(), key)) for line in sorted(asked)}

    yield every
    sys.modules.pop("modelserve_guard", None)


async def _status(application: Any, method: str, path: str, key: str) -> int:
    given = [(b"content-type", b"application/json")]
    given += [(b"authorization", f"Bearer {key}".encode())] if key else []
    body = b'{"messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}'
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": given, "client": ("10.0.0.9", 1), "server": ("10.0.0.1", 8000)}
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        statuses.append(message.get("status"))

    await application(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize("release", fact("vllm", "releases", "known"))
def test_without_a_key_health_answers_and_metrics_inside_the_cluster_and_nothing_else(ask: Any, release: str) -> None:
    answers = {line for line, status in ask(release, "modelserve_guard.Guard").items() if status not in (401, 404)}
    assert answers == {"GET /metrics"} | HEALTH & {
        f"{m} {p}" for p, each in routes.routes(release).items() for m in each
    }
    # And it is the guard that protects the others: the release itself answers them for anybody.
    alone = ask(release)
    opened = {line for line, status in alone.items() if status == 200} - answers
    assert "POST /tokenize" in opened and ("POST /invocations" in opened) == (release != "0.6.6")


@pytest.mark.parametrize("release", ["0.7.2", "0.25.1", "0.33.0"])
def test_with_the_key_the_listed_routes_answer_and_the_others_do_not(ask: Any, release: str) -> None:
    listed = set(routes.let_through(release))
    for line, status in ask(release, "modelserve_guard.Guard", key=KEY).items():
        assert status == (200 if line in listed else 404), line

"""The HTTP routes of each release, and which of them are let through."""

from __future__ import annotations

import pytest

from planning import routes
from planning.catalog import fact
from planning.flags import within

RELEASES = fact("vllm", "releases", "known")


def test_each_route_and_switch_is_a_span_of_known_releases():
    table = routes._table()
    spans = [span for entry in table["routes"].values() for name, span in entry.items() if name != "if"]
    spans += [span for entry in table["routes"].values() for span in entry.get("if", {}).values()]
    for end in (end for span in spans for part in span.split() for end in part.split("-")):
        assert end in RELEASES
    named = {*table["open"], *table["closed"]}
    assert named <= table["routes"].keys() and not set(table["open"]) & table["closed"].keys()


@pytest.mark.parametrize("version", ["0.6.6", "0.7.2", "0.9.9", "0.33.0", "0.99.0"])
def test_a_release_lets_through_what_it_has_and_no_more(version: str):
    has = routes.routes(version)
    through = routes.let_through(version, ["/tokenize"])
    assert {"GET /health", "GET /metrics", "GET /v1/models", "POST /v1/completions", "POST /tokenize"} <= {*through}
    assert ("POST /v1/responses" in through) == ("/v1/responses" in has) == (version not in ("0.6.6", "0.7.2", "0.9.9"))
    assert ("POST /ping" in through) == (version != "0.6.6")
    assert all(method in has[path] for method, path in (line.split() for line in through))


def test_what_may_be_let_through_is_judged_by_the_release():
    assert routes.problem("/v1/messages", "0.33.0") is None and routes.problem("/tokenize", "0.6.6") is None
    assert routes.problem("/v1/messages", "0.7.3") == ("vLLM 0.7.3 has no such path", "leave it out")
    for path in [
        *routes._table()["closed"],
        "/sleep",
        "/collective_rpc",
        "/start_profile",
        "/v1/*",
        "/health",
        "/nope",
    ]:
        assert routes.problem(path, "0.33.0"), path
    # Before this route became development-only, anybody could stop the engine with it.
    assert within("0.12.0", "0.12.0") and routes.switches("/pause", "0.12.0") == []


def test_the_engine_itself_guards_prefixes_that_grew():
    grown = [routes.guarded(version) for version in ("0.7.2", "0.25.1", "0.33.0")]
    assert grown == [("/v1",), ("/v1", "/v2", "/inference"), ("/v1", "/v2", "/inference", "/cohere")]

"""Requests through the gateway that the program installs: AIBrix's own objects, rewritten, in a real Envoy, with
AIBrix's real plugin and simulated engines behind it. No control plane."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pulumi
import pytest
import yaml

from components.cluster import aibrix
from components.cluster.aibrix import AibrixArgs
from components.serving import modelserve_guard
from components.serving.model_route import ModelRouteArgs, http_route
from local import aibrix_manifests
from local.toolchain import ensure
from planning import routes, timeouts
from planning.catalog import fact
from standins import envoy_config
from standins.envoy_config import Objects
from standins.gateway_model import Thing
from standins.gateway_plane import Address, Envoy, Plugin
from standins.vllm import Engine
from standins.vllm_arguments import Arguments
from tests.support.patience import PATIENCE_SECONDS
from tests.support.simulator import Simulator

MODEL, KEY, RELEASE = "deepseek-r1-671b", "sk-right", "0.7.3"
CHAT = "/v1/chat/completions"
MIB = 2**20
WAYS: dict[str, dict[str, str]] = {"plugin": {}, "pod": {"routing-strategy": "random"}, "ours": {"model": MODEL}}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, **more}


@dataclass
class Way:
    """The proxy with its backends. `reached` holds the requests to a server that no route may lead to. `ask_plugin` is
    told which plugin Envoy asks from now on."""

    proxy: Address
    foreign: Address
    reached: list[str]
    envoy: Envoy
    plugin: Plugin
    ask_plugin: Callable[[Plugin], None]

    def ask(
        self,
        method: str = "POST",
        path: str = CHAT,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = KEY,
    ) -> tuple[int, bytes]:
        """Status and whole body; raises if the answer is cut off."""
        given = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        connection = http.client.HTTPConnection(*self.proxy, timeout=PATIENCE_SECONDS)
        content = None if method == "GET" else json.dumps(chat() if body is None else body)
        connection.request(method, path, content, {**given, **(headers or {})})
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            connection.close()

    def status(self, *args: Any, **more: Any) -> int:
        return self.ask(*args, **more)[0]

    @property
    def at_the_foreign(self) -> str:
        return ":".join(map(str, self.foreign))


def installed(core: Sequence[Thing], *, key: bool, seconds: int = 3600) -> list[Thing]:
    args = AibrixArgs(
        stack="test",
        version="0.7.0",
        documents={"core": core, "crds": [], "dependency": []},
        request_seconds=3600,
        drain_seconds=2 * PATIENCE_SECONDS,  # nothing waits for it in vain
        api_key=cast("pulumi.Output[str]", KEY) if key else None,
    )
    route = ModelRouteArgs(
        stack="test",
        namespace="default",
        aibrix_version=args.version,
        model_name=MODEL,
        head_selector={},
        member_selector={},
        gateway_address="",
        request_seconds=seconds,
    )
    return [*aibrix.objects(args), http_route(MODEL, route)]


@pytest.fixture(scope="module")
def core() -> list[Thing]:
    folder = aibrix_manifests.install(ensure("kustomize")["kustomize"])
    (file,) = folder.glob("aibrix-core-v*.yaml")
    return list(yaml.safe_load_all(file.read_text()))


@pytest.fixture(scope="module")
def monkeymodule() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def way(core: list[Thing], tmp_path_factory: pytest.TempPathFactory, monkeymodule: pytest.MonkeyPatch) -> Iterator[Way]:
    """The gateway as the program installs it: it requires the key and removes the header."""
    yield from running(installed(core, key=True), tmp_path_factory.mktemp("plane"), monkeymodule)


def running(
    objects: Sequence[Thing], folder: Path, patch: pytest.MonkeyPatch, token_seconds: float = 0.001
) -> Iterator[Way]:
    patch.syspath_prepend(str(Path(modelserve_guard.__file__).parent))
    patch.setenv("VLLM_API_KEY", KEY)
    patch.setenv("MODELSERVE_DRAIN_FILE", str(folder / "drain"))
    patch.setenv("MODELSERVE_PATHS", " ".join(routes.let_through(RELEASE)))
    words = ["m", "--served-model-name", MODEL, "--middleware", "modelserve_guard.Guard"]
    engine = Simulator(Engine(Arguments.parse(words), RELEASE, (KEY,), token_seconds))
    reached: list[str] = []
    other = Simulator(Engine(Arguments.parse(["m"]), RELEASE, (), token_seconds=0.001), reached.append)
    programs = ensure("envoy", "aibrix-plugins")
    plugin = Plugin(folder, programs["aibrix-plugins"])
    behind = {MODEL: [("127.0.0.1", engine.port)]}
    (folder / "key").mkdir()
    (folder / "key" / "apiKey").write_text(KEY)
    proxy = Envoy(folder, "proxy", programs["envoy"], ["http"])
    taken = of(objects, folder / "key")

    def ask_plugin(plugin: Plugin) -> None:
        behind["aibrix-gateway-plugins"] = [plugin.address]
        plugin.know({MODEL: behind[MODEL]})
        proxy.be(envoy_config.translate(taken, lambda _, to: behind.get(to["name"], ()), proxy.places))

    ask_plugin(plugin)
    try:
        found = Way(proxy.places["http"], ("127.0.0.1", other.port), reached, proxy, plugin, ask_plugin)
        until_it_answers(found)
        yield found
    finally:
        proxy.stop()
        plugin.stop()
        engine.stop()
        other.stop()
        sys.modules.pop("modelserve_guard", None)


def of(objects: Sequence[Thing], key: Path) -> Objects:
    """The objects of the one Gateway, with the key's Secret mounted in a folder."""

    def all_of(kind: str) -> list[Thing]:
        return [each for each in objects if each["kind"] == kind]

    (gateway,), (clients,) = all_of("Gateway"), all_of("ClientTrafficPolicy")
    patches = json.loads(json.dumps(all_of("EnvoyPatchPolicy")).replace("/etc/modelserve", str(key)))
    processors = [each for each in all_of("EnvoyExtensionPolicy") if each["spec"].get("extProc")]
    return Objects(gateway=gateway, routes=all_of("HTTPRoute"), clients=clients, extensions=processors, patches=patches)


def until_it_answers(way: Way) -> None:
    for _ in range(600):
        try:
            if way.status() == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.1)
    raise AssertionError("neither the model nor a reason within a minute")


@pytest.mark.parametrize("headers", WAYS.values(), ids=WAYS)
def test_a_request_with_the_key_is_answered_by_each_of_the_three_ways(way: Way, headers: dict[str, str]):
    status, body = way.ask(headers=headers)
    assert (status, json.loads(body)["model"]) == (200, MODEL)


@pytest.mark.parametrize("headers", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("key", [None, "sk-wrong", f"{KEY}x", KEY[:-1], ""])
def test_nothing_without_the_key_gets_past_the_gateway_whatever_its_path(
    way: Way, headers: dict[str, str], key: str | None
):
    for path in (CHAT, "/v1/models", "/v1/files", "/invocations", "/health", "/"):
        for method in ("POST", "GET"):
            assert way.status(method, path, headers=headers, key=key) == 401, (method, path)


ATTACKS: list[tuple[str, str, str]] = [("GET", "/version", "random"), ("POST", CHAT, "")]


@pytest.mark.parametrize(("method", "path", "strategy"), ATTACKS, ids=["no body", "empty strategy"])
def test_no_client_sends_a_request_to_an_address_of_its_own(way: Way, method: str, path: str, strategy: str):
    way.reached.clear()
    headers = {"routing-strategy": strategy, "target-pod": way.at_the_foreign}
    assert way.status(method, path, headers=headers) == 503
    assert way.reached == []


def test_without_the_policy_and_the_key_a_client_reaches_any_address(
    core: list[Thing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The reason for the two tests above: AIBrix's objects as released."""
    objects = installed(core, key=False)
    for each in objects:
        if each["kind"] == "ClientTrafficPolicy":
            each["spec"].pop("headers")
    for way in running(objects, tmp_path, monkeypatch):
        for method, path, strategy in ATTACKS:
            way.reached.clear()
            headers = {"routing-strategy": strategy, "target-pod": way.at_the_foreign}
            with contextlib.suppress(http.client.IncompleteRead):  # the plugin may lose the body
                way.ask(method, path, headers=headers, key=None)
            assert len(way.reached) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", f"{CHAT}?x=1", None, {}, 501),
        ("POST", f"{CHAT}/", None, {}, 501),
        ("POST", "//v1//chat/completions", None, {}, 200),
        ("POST", CHAT, {"model": MODEL}, {}, 400),
        ("POST", "/v1/completions", {"model": MODEL, "prompt": ["a", "b"]}, {}, 400),
        ("POST", CHAT, None, {"routing-strategy": "nonsense"}, 400),
        ("POST", CHAT, chat(model="nobody"), {}, 400),
        ("GET", CHAT, None, {}, 502),
        ("POST", CHAT, chat(messages=[{"role": "user", "content": "x" * 4 * MIB}]), {}, 413),
        ("POST", CHAT, chat(messages=[{"role": "user", "content": "x" * (4 * MIB - 1000)}]), {}, 200),
        ("POST", CHAT, None, {"x_under": "score"}, 400),
    ],
    ids="query slash slashes no-messages prompts strategy model GET 4-MiB under-4-MiB underscore".split(),
)  # fmt: skip
def test_what_the_real_gateway_makes_of_unusual_requests(
    way: Way, method: str, path: str, body: Any, headers: dict[str, str], status: int
):
    assert way.status(method, path, body, headers) == status


def test_the_limit_that_the_plan_tells_is_the_gateways(way: Way):
    limit = fact("aibrix", "gateway", "bodyMib") * MIB
    empty = len(json.dumps(chat(messages=[{"role": "user", "content": ""}])))
    for more, whole in ((-100, True), (1, False)):
        body = chat(messages=[{"role": "user", "content": "x" * (limit - empty + more)}])
        assert (way.status(body=body) == 200) is whole
    assert way.status(body=body, headers={"model": MODEL}) == 200  # a request that bypasses the plugin has no limit


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/rerank"])
def test_every_path_of_ours_gets_to_the_engine_without_a_header(way: Way, path: str):
    """The engine of this release lacks them, and says so itself."""
    body = {"model": MODEL, "max_tokens": 3, "input": "hi", "query": "q", "documents": ["d"], **chat()}
    status, said = way.ask(path=path, body=body)
    assert (b"unknown request path" not in said and b"detail" in said) or status == 200


def test_an_engines_error_reaches_the_client_whole_through_the_plugin(way: Way):
    for body in (chat(max_tokens=-5), chat(max_tokens=10**9)):
        for _ in range(15):
            status, said = way.ask(body=body)
            assert status == 400 and b"max" in said


@pytest.fixture
def slow(core: list[Thing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """A gateway of its own for each test, with a model whose answers take some seconds."""
    yield from running(installed(core, key=True), tmp_path, monkeypatch, token_seconds=0.1)


def test_an_answer_that_takes_longer_than_the_route_allows_is_a_504_and_a_shorter_one_is_not(
    core: list[Thing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for way in running(installed(core, key=True, seconds=1), tmp_path, monkeypatch, token_seconds=0.05):
        told = [way.status(body=chat(max_tokens=tokens), headers=WAYS["ours"]) for tokens in (4, 60)]
        assert told == [200, 504]


@contextlib.contextmanager
def streamed(way: Way) -> Iterator[dict[str, str]]:
    """Streams an answer by each of the three ways, which all have begun inside the block; afterwards they have ended,
    and the yielded dict says how: `whole` or `cut`."""
    ended: dict[str, str] = {}
    begun = threading.Semaphore(0)

    def stream(name: str) -> None:
        connection = http.client.HTTPConnection(*way.proxy, timeout=PATIENCE_SECONDS)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}", **WAYS[name]}
        try:
            connection.request("POST", CHAT, json.dumps(chat(stream=True, max_tokens=40)), headers)
            answer = connection.getresponse()
            answer.readline()
            begun.release()
            ended[name] = "whole" if b"[DONE]" in answer.read() else "cut"
        except (OSError, http.client.HTTPException):
            ended[name] = "cut"
        finally:
            connection.close()

    threads = [threading.Thread(target=stream, args=(name,), daemon=True) for name in WAYS]
    for each in threads:
        each.start()
    assert all(begun.acquire(timeout=PATIENCE_SECONDS) for _ in threads)
    yield ended
    for each in threads:
        each.join(PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("part", "cut"), [("envoy", {"plugin", "pod", "ours"}), ("plugin", {"plugin", "pod"})], ids=["proxy", "plugin"]
)
def test_a_kill_cuts_the_answers_that_go_through_what_is_killed(slow: Way, part: str, cut: set[str]):
    with streamed(slow) as ended:
        getattr(slow, part).stop()
    assert {name for name, how in ended.items() if how == "cut"} == cut


def test_a_proxy_that_is_told_to_end_gives_its_answers_first(core: list[Thing], slow: Way):
    """Plays the preStop hook of Envoy Gateway (internal/cmd/envoy/shutdown_manager.go at v1.2.8) with our limit, and
    with a tenth of its shortest wait of 10 s: Envoy counts its connections ten times as often here."""
    (proxy,) = (each for each in installed(core, key=True) if each["kind"] == "EnvoyProxy")
    seconds = int(proxy["spec"]["shutdown"]["drainTimeout"].removesuffix("s"))
    admin = f"http://{slow.envoy.admin[0]}:{slow.envoy.admin[1]}"

    def connections() -> int:
        with urllib.request.urlopen(f"{admin}/stats?filter=^server.total_connections$&format=json") as told:
            return json.load(told)["stats"][0]["value"]

    with streamed(slow) as ended:
        urllib.request.urlopen(f"{admin}/healthcheck/fail", data=b"").close()
        assert slow.status() == 200  # Nodes may send requests until they know that it is no endpoint any more
        end = time.monotonic() + seconds
        time.sleep(1)
        while connections() and time.monotonic() < end:
            time.sleep(0.2)
        slow.envoy.stop(signal.SIGTERM)
    assert ended == dict.fromkeys(WAYS, "whole")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the hook reads it")
def test_a_plugin_that_is_told_to_end_gives_its_answers_first(core: list[Thing], slow: Way, tmp_path: Path):
    """Runs the real hook against the real plugin; it only settles sooner, while all answers are running."""
    (hook,) = (
        container["lifecycle"]["preStop"]["exec"]["command"][-1]
        for each in installed(core, key=True)
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "aibrix-gateway-plugins"
        for container in each["spec"]["template"]["spec"]["containers"]
    )
    port = fact("aibrix_install", "gateway", "plugin")["port"]
    for here, there in {
        "/modelserve-tools/busybox ": "",
        f"sleep {timeouts.SETTLE_SECONDS}": "sleep 1",
        f":{port:04X}": f":{slow.plugin.address[1]:04X}",
    }.items():
        hook = hook.replace(here, there)
    other = Plugin(tmp_path / "other", ensure("aibrix-plugins")["aibrix-plugins"])
    try:
        with streamed(slow) as ended:
            slow.ask_plugin(other)
            subprocess.run(["sh", "-c", hook], check=True, timeout=PATIENCE_SECONDS)
            slow.plugin.stop(signal.SIGTERM)
            assert slow.status() == 200
        assert ended == dict.fromkeys(WAYS, "whole")
    finally:
        other.stop()

"""For any change to a stack file, either the check refuses it or all of its services are rendered; the program itself
never fails."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.weights import oss_bucket, tos_bucket
from config.json_schema import schema
from config.judge import parse
from config.plans import plan_services
from config.secrets import SECRETS
from config.stack import StackConfig
from planning.problems import Refused
from stacks.program import build
from tests.support import volcengine, ways
from tests.support.kubernetes_rules import broken
from tests.support.program import run_program
from tests.support.recorder import Recorder
from tests.support.stack_files import StackFile, whole_file
from tests.support.volcengine import GATEWAY, GATEWAY_TYPE, SERVICE
from watch.cache_state import CacheReader

Path = tuple[str, ...]

RELEASE = "kubernetes:helm.sh/v3:Release"

_LOCAL, _ACS, _SYNC, _CLAIM = StackFile("local"), StackFile("acs"), ways.SYNC, ways.CLAIM
# Values that rules depend on: spellings at their limits, and values that once escaped refusal or caused a traceback.
TEXTS = (
    *("", " ", "auto", "none", "a; b: c", "<yours>", "x" * 70, "9" * 5000),
    *("H20-96:abc", "H20-96:96GiB", "H20-96:44.42", "H100-80", "DeepSeek-R1", "Qwen3-8B", "x.json"),
    *("100Mi", "1Gi", "1093Gi", "1024Gi", "1Ti", "512Gi", "0Gi"),
    *("json", ".json", "../x", "a/./b", "/mnt/./x", "/mnt/nvme1", "./x", "lws", "default", "image:v1", "rdma"),
    *("https://u:secret@h.example/x", "https://h.example/@x", "https://h.example", "oci://h.example/c"),
    *("2026-11-01", "2026-02-30", "2026-11-01 00:00:00 +0000 UTC", "owner/name", "modelscope"),
    *("Up/x:1", "https://h.example/x:1", "a b", "-", "kube-system", "cn-beijing", "a/b"),
    *("0.9.0", "v0.9.0", "0.5.0", "0.19.0", "0.11.1", "1.0"),
)
NUMBERS = (0, 1, 2, 3, 4, 8, 16, 64, -1, 128, 8265, 52365, 65535, 10**9, 10**30, 0.0, 0.5, 0.95, 1.0, 1e300)
OTHERS = (True, False, None, [], {}, ["a"], [1], ["--flag"], {"a": "b"}, {"a b": "c d"}, {"a": 1}, {"secure": "v1:x"})
# These need AIBrix's manifests, which a check of the file does not have.
_APART = ("images", "manifests")


def _fields(node: dict[str, Any], whole: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, tuple[Any, ...]]]:
    """Every key that a stack file may have, with the values that the schema itself names."""
    while "$ref" in node:
        if "/kubernetes." in node["$ref"]:  # has its own test
            return
        node = whole["$defs"][node["$ref"].rpartition("/")[2]]
    branches = [*node.get("oneOf", ()), *node.get("anyOf", ())]
    named = [*node.get("enum", ()), *([node["const"]] if "const" in node else [])]
    named += [
        value for each in branches for value in [*each.get("enum", ()), *([each["const"]] if "const" in each else [])]
    ]
    if path and path[-1] not in _APART:
        yield path, tuple(named)
        for each in branches:
            yield from ((below, values) for below, values in _fields(each, whole, path) if below != path)
        if isinstance(node.get("additionalProperties"), dict):
            yield from _fields(node["additionalProperties"], whole, (*path, "*"))
    if not path or path[-1] not in _APART:
        for key, below in node.get("properties", {}).items():
            yield from _fields(below, whole, (*path, key.removeprefix("modelserve:")))


_WHOLE = schema()
_EDITOR = jsonschema.Draft202012Validator(_WHOLE)
FIELDS = [(path, named) for path, named in _fields(_WHOLE["properties"]["config"], _WHOLE) if path[0] not in SECRETS]


@st.composite
def mutations(draw: st.DrawFn) -> tuple[Path, Any]:
    path, named = draw(st.sampled_from(FIELDS))
    pools = [st.sampled_from(pool) for pool in (named or TEXTS, TEXTS, NUMBERS, OTHERS)]
    return path, draw(st.one_of(*pools, st.text(max_size=5)))


def mutated(file: dict[str, Any], changes: list[tuple[Path, Any]]) -> dict[str, Any]:
    """A copy with values set; `*` stands for the first existing key."""
    made = copy.deepcopy(file)
    for path, value in changes:
        place = made
        *way, last = (*path,)
        for step in way:
            key = next(iter(place), "a") if step == "*" else step
            if not isinstance(place.get(key), dict):
                place[key] = {}
            place = place[key]
        place[next(iter(place), "a") if last == "*" else last] = copy.deepcopy(value)
    return made


def accepted(raw: dict[str, Any], secrets: tuple[str, ...]) -> StackConfig | None:
    """The config of a file that `check` accepts; None if it refuses the file and says why."""
    try:
        config = parse(raw, secrets=secrets)
        plan_services(config)
        return config
    except Refused as error:
        assert error.problems and all(problem.why and problem.instead for problem in error.problems)
        return None


def tried(examples: int) -> Callable[[Any], Any]:
    """A test that gets so many files, each with one or two changes, with or without secrets."""
    unhurried = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    chosen = settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=unhurried
    )
    made = given(st.sampled_from(sorted(ways.WAYS)), st.lists(mutations(), min_size=1, max_size=2), st.booleans())
    return lambda test: chosen(made(test))


@tried(150)
def test_every_service_of_a_file_that_is_accepted_is_rendered_as_kubernetes_takes_it_and_editors_accept_it(
    monkeypatch, way, changes, keys
):
    is_rendered_if_accepted(monkeypatch, way, changes, keys)


@pytest.mark.soak
@tried(3000)
def test_every_service_of_many_files_that_are_accepted_is_rendered(monkeypatch, way, changes, keys):
    is_rendered_if_accepted(monkeypatch, way, changes, keys)


def is_rendered_if_accepted(monkeypatch, way, changes, keys):
    secrets = ways.secrets(way) if keys else ()
    raw = mutated(ways.WAYS[way], changes)
    config = accepted(raw, secrets)
    if config is None:
        return
    assert [error.message for error in _EDITOR.iter_errors(whole_file(raw, secrets))] == []
    monkeypatch.setattr(CacheReader, "_read", lambda *_: None)
    engine = Recorder(preview=True)
    engine.found |= {GATEWAY_TYPE: GATEWAY, RELEASE: {"status": {}}, oss_bucket.BUCKET: {}, tos_bucket.BUCKET: {}}
    with volcengine.apart():
        run_program(engine, raw, secrets=secrets, made={})
    workloads = [name for kind, name in engine.names() if kind in ("LeaderWorkerSet", "RayClusterFleet")]
    assert len(workloads) == len(config.services)
    assert [wrong for made in engine.objects() for wrong in broken(made)] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"metadata": {"name": "a_b"}},
        {"metadata": {"labels": {"a": "b c"}}},
        {"spec": {"selector": {"matchLabels": {"a b": "c"}}}},
        {"metadata": {"annotations": {"a b": "c"}}},
        {"spec": {"containers": [{"image": "A:1"}]}},
        {"spec": {"containers": [{"env": [{"name": "1A", "value": "x"}]}]}},
        {"spec": {"replicas": 2**31}},
    ],
)
def test_what_kubernetes_refuses_is_seen_in_an_object(wrong):
    assert len(list(broken(wrong))) == 1


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        (
            _ACS,
            {"addons/lws/chart": "lws"},
            "addons.lws.repo: lws is neither a URL nor a path; write its repository's URL as repo",
        ),
        (_ACS, {"addons/lws/repo": "https://h.example"}, "addons.lws.repo: https://h.example: the catalog's chart"),
        (
            _ACS,
            {"addons/fluid": {"chart": "oci://h.example/c", "repo": "https://h.example"}},
            "addons.fluid.repo: https://h.example: oci://h.example/c is a full URL; leave repo out",
        ),
        (_ACS, {"weights/sync/from": "https://u:canary@h.example"}, "weights.sync.from: contains credentials"),
        (_ACS, {"cache/memory": "100Mi"}, "cache.memory: 100Mi: is not a whole number of Gi; write 1Gi"),
        (_ACS, {"cache/memory": "1Gi"}, "cache.memory: 1Gi: a quota of 0 GiB holds nothing"),
        (
            volcengine.FILE,
            {"weights/download/suffixes": ["json", ".json"]},
            "weights.download.suffixes[1]: .json: is not",
        ),
        (volcengine.FILE, {"weights/download/nodePath": "/mnt/./x"}, "weights.download.nodePath: /mnt/./x: is not an"),
        (
            volcengine.FILE,
            {f"{SERVICE}/port": 52365},
            f"{SERVICE.replace('/', '.')}.port: 52365: Ray's dashboard-agent",
        ),
        (
            volcengine.FILE,
            {"weights": {"source": "huggingface", "endpoint": "https://h.example/u:canary@x"}},
            "weights.endpoint: is not an http or https URL without credentials",
        ),
        (
            volcengine.FILE,
            {
                "weights": _CLAIM
                | {"create": {"storageClass": "n", "size": "1Ti", "accessMode": "ReadOnlyMany"}, "sync": _SYNC}
            },
            "weights.create.accessMode: ReadOnlyMany: is not one of the known values",
        ),
    ],
)
def test_a_rule_of_a_component_is_one_of_the_stack_file_too(file, values, said):
    (line,) = file.lines(file.changed(**values))
    assert line.startswith(f"modelserve:{said}") and "canary" not in line


def test_one_node_alone_mounts_a_claim_of_one_node(monkeypatch):
    single = {"storageClass": "n", "size": "1Ti", "accessMode": "ReadWriteOnce"}
    raw = volcengine.FILE.changed(weights=_CLAIM | {"create": single, "sync": _SYNC})
    raw["services"] = {"one": copy.deepcopy(raw["services"][volcengine.MODEL])}
    raw["services"]["one"] |= {"layout": {"nodes": 1, "tensor": 8, "pipeline": 1}, "model": "Qwen3-32B"}
    assert accepted(raw, ())
    raw["services"]["two"] = copy.deepcopy(raw["services"]["one"])
    assert "services.one and services.two may run on more than one node" in volcengine.FILE.lines(raw)[0]


def test_a_service_that_is_neither_planned_nor_refused_ends_the_program():
    with pytest.raises(RuntimeError, match="neither planned nor refused: ds"):
        build(parse(_LOCAL.whole), {})

"""The stack file's rules: what is refused, in which words, and that all refusals come at once."""

from __future__ import annotations

import copy
import datetime
from typing import Any

import pytest

from config.errors import ConfigError
from config.judge import parse
from config.stack import ending, name_limit
from planning.catalog import fact
from planning.schedule import DAYS
from tests.support.stack_files import with_values

GOOD: dict[str, Any] = {
    "cloud": {"kind": "local", "gpu": "H20-96"},
    "cluster": {"context": "here"},
    "weights": {"source": "pvc", "claim": "weights"},
    "services": {
        "ds": {
            "model": "DeepSeek-R1",
            "engine": {"image": "vllm/vllm-openai:v0.7.3", "version": "0.7.3", "gpuMemoryUtilization": 0.95},
            "layout": {"nodes": 2, "tensor": 8, "pipeline": 2},
            "resources": {"cpu": 64, "memory": "512Gi"},
        }
    },
}


def on(timezone: str = "Asia/Shanghai", more: dict[str, Any] | None = None, **window: Any) -> dict[str, Any]:
    """A schedule for Mondays, changed."""
    first = {"days": ["mon"], "from": "08:00", "to": "20:00"} | window
    return {"timezone": timezone, "on": [first, *([more] if more else [])]}


def changed(path: str, value: object) -> dict[str, Any]:
    """A valid stack file with one value set, or removed if `value` is Ellipsis."""
    return with_values(GOOD, {path: value})


def lines(raw: dict[str, Any], **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(raw, **more)
    return str(caught.value).splitlines()


def test_a_good_file_is_accepted_with_every_default_in_one_place():
    service = parse(GOOD).services["ds"]
    assert (service.replicas, service.port, service.layout.gpus_per_node) == (1, 8000, 8)
    assert service.startup_policy == "LeaderCreated"


@pytest.mark.parametrize(
    ("today", "said"),
    [
        ("2026-11-22", ""),
        ("2026-11-23", "in 7 days"),
        ("2026-11-29", "in 1 day,"),
        ("2026-11-30", "today"),
        ("2026-12-01", ""),
    ],
)
def test_a_stack_that_ends_soon_warns_until_its_last_day(today, said):
    lines = ending(parse(GOOD | {"expires": "2026-11-30"}), datetime.date.fromisoformat(today))
    assert [said in line for line in lines] == [True] * bool(said)
    assert ending(parse(GOOD), datetime.date.fromisoformat(today)) == []


@pytest.mark.parametrize("key", ["layout", "maxModelLen"])
def test_auto_and_an_absent_key_are_the_same(key):
    service = parse(changed(f"services/ds/{key}", "auto")).services["ds"]
    absent = copy.deepcopy(GOOD)
    absent["services"]["ds"].pop(key, None)
    assert service == parse(absent).services["ds"]


def test_a_date_is_read_alike_whether_yaml_took_it_for_one_or_not():
    for day in ("2026-11-01", "2026-11-01 00:00:00 +0000 UTC", "2026-11-01 10:00:00.5 +0800 +0800"):
        assert parse(changed("prices/asOf", day)).prices.as_of == "2026-11-01"


@pytest.mark.parametrize(
    ("path", "value", "key", "said"),
    [
        ("servces", {}, "servces", "unknown key; did you mean services?"),
        ("cloud/knd", "x", "cloud.knd", "unknown key; did you mean kind?"),
        ("services/ds/replcas", 2, "services.ds.replcas", "unknown key; did you mean replicas?"),
        ("services/ds/layout/tenser", 8, "services.ds.layout.tenser", "unknown key; did you mean tensor?"),
        ("services/ds/engine/zzz", 8, "services.ds.engine.zzz", "unknown key; known here: env, extraArgs"),
        ("catalog", {"models": {"R9": {"layers": "61"}}}, "catalog.models.R9.layers: 61", "is not a whole number"),
        ("catalog", {"models": {"R9": {"moe": {"experts": 0}}}}, "catalog.models.R9.moe.experts: 0", "greater than 0"),
        ("catalog", {"gpuPods": {"X": 5}}, "catalog.gpuPods.X: 5", "is not a map"),
        ("services/ds/replicas", "1", "services.ds.replicas", "is not a whole number; write the number of copies"),
        ("services/ds/replicas", -1, "services.ds.replicas", "greater than or equal to 0"),
        ("services/ds/paths", ["/invocations"], "services.ds.paths[0]: /invocations", "is every other kind of request"),
        ("services/ds/paths", ["/sleep"], "services.ds.paths[0]: /sleep", "is only for development; leave it out"),
        ("services/ds/paths", ["/tokenize", "/v1/*"], "services.ds.paths[1]: /v1/*", "write one such as /tokenize"),
        ("services/ds/paths", ["/tokenise"], "services.ds.paths[0]: /tokenise", "no such path; write /tokenize"),
        ("services/ds/paths", ["/v1/responses"], "services.ds.paths[0]: /v1/responses", "vLLM 0.7.3 has no such path"),
        ("services/ds/paths", ["/health"], "services.ds.paths[0]: /health", "is already let through; leave it out"),
        ("services/ds/clients", [], "services.ds.clients: []", "names no client; write one client"),
        ("services/ds/clients", [{}], "services.ds.clients[0].cidr", "nothing else says who the client is"),
        ("services/ds/clients", [{"cidr": "10.0.0.1/8"}], "services.ds.clients[0].cidr: 10.0.0.1/8", "is not a range"),
        (
            "services/ds/clients",
            [{"cidr": "::/0", "podLabels": {"a": "b"}}],
            "services.ds.clients[0].cidr: ::/0",
            "two",
        ),
        ("services/ds/drainSeconds", 0, "services.ds.drainSeconds: 0", "greater than 0"),
        (
            "services/ds/engine/extraArgs",
            ["--shutdown-timeout", "5"],
            "services.ds.engine.extraArgs[0]: --shutdown-timeout",
            "use drainSeconds",
        ),
        ("services/ds/replicas", True, "services.ds.replicas", "is not a whole number"),
        ("services/ds/schedule", on(timezone="Asia/Shangai"), "services.ds.schedule.timezone", "write Asia/Shanghai"),
        (
            "services/ds",
            GOOD["services"]["ds"] | {"schedule": on(), "verifyAfterUp": True},
            "services.ds.verifyAfterUp: true",
            "leave one of the two out",
        ),
        ("services/ds/schedule", on(days=[]), "services.ds.schedule.on[0].days: []", "names no day"),
        ("services/ds/schedule", on(days=["monday"]), "services.ds.schedule.on[0].days[0]", "write one of sun, mon"),
        ("services/ds/schedule", on(to="8:00"), "services.ds.schedule.on[0].to: 8:00", "is not a time of day"),
        ("services/ds/schedule", on(to="08:00"), "services.ds.schedule.on[0].to: 08:00", "so it never opens"),
        ("services/ds/schedule", on() | {"on": []}, "services.ds.schedule.on: []", "never opens; write one with days"),
        ("services/ds/schedule", on(days=[*DAYS], to="07:59") | {"x": 1}, "services.ds.schedule.x", "unknown key"),
        (
            "services/ds/schedule",
            on(days=[*DAYS], **{"from": "00:00", "to": "24:00"}),
            "services.ds.schedule.on",
            "never closes; leave the schedule out",
        ),
        (
            "services/ds/schedule",
            on(more={"days": ["mon"], "from": "19:59", "to": "21:00"}),
            "services.ds.schedule.on[1]",
            "overlaps on[0]",
        ),
        (
            "services/ds",
            GOOD["services"]["ds"] | {"replicas": 0, "schedule": on()},
            "services.ds.schedule",
            "replicas is 0, so it starts nothing; write replicas: 1, or leave it out",
        ),
        ("services/ds/layout/nodes", 1.5, "services.ds.layout.nodes", "is not a whole number"),
        ("services/ds/engine/version", 0.7, "services.ds.engine.version", "YAML reads it so without quotes"),
        ("services/ds/engine", [], "services.ds.engine", "is not a map"),
        ("services/ds/engine/extraArgs", "--x", "services.ds.engine.extraArgs", "is not a list"),
        ("cloud/kind", "aws", "cloud.kind", "is not one of the known values; write local"),
        (
            "services/ds/layout/tensor",
            4,
            "services.ds.layout.tensor",
            "tensor 4 x pipeline 2 = 8 ranks, but nodes 2 x "
            "gpusPerNode 8 = 16 GPUs; write pipeline: 4, or change nodes",
        ),
        ("services/ds/layout/gpusPerNode", 6, "services.ds.layout.gpusPerNode", "no pod of 6 GPUs; write one of 1, 2"),
        ("services/ds/resources/memory", "512G", "services.ds.resources.memory", "write 512Gi"),
        ("services/ds/resources/memory", "0.5Ti", "services.ds.resources.memory", "not a whole number of Mi, Gi or Ti"),
        (
            "services/ds/resources/shm",
            "512Gi",
            "services.ds.resources.shm",
            "counts towards the pod's memory of 512Gi",
        ),
        ("services/ds/startupPolicy", "LeaderReady", "services.ds.startupPolicy", "a deadlock; write LeaderCreated"),
        ("services/ds/port", 10250, "services.ds.port", "local reserves it for the kubelet; write 8000"),
        ("services/ds/port", 6379, "services.ds.port", "the same pod uses it for Ray's GCS"),
        ("services/ds/port", 70000, "services.ds.port", "less than 65536"),
        ("cluster/context", "<your-context>", "cluster.context", "is a placeholder that was left in"),
        ("services/ds/engine/image", "<registry>/vllm:1", "services.ds.engine.image", "is a placeholder"),
        ("services/ds/engine/image", "vllm:latest", "services.ds.engine.image", "has no fixed tag"),
        ("services/ds/engine/image", "host:5000/vllm", "services.ds.engine.image", "has no fixed tag"),
        (
            "services/ds/engine/extraArgs",
            ["--enforce-eager", "--tensor_parallel_size=4"],
            "services.ds.engine.extraArgs[1]",
            "use layout.tensor",
        ),
        ("services/ds/engine/extraArgs", ["-tp", "8"], "services.ds.engine.extraArgs[0]", "use layout.tensor"),
        ("services/ds/engine/image", "lmsysorg/sglang:v0.5.9", "services.ds.engine.image", "is SGLang, and only vLLM"),
        ("services/ds/engine/extraArgs", ["-dp=2"], "services.ds.engine.extraArgs[0]", "use layout.data"),
        ("services/ds/engine/extraArgs", ["--api-key", "k"], "services.ds.engine.extraArgs[0]", "modelserve:apiKey"),
        (
            "services/ds/engine/extraArgs",
            ["--swop-space", "4"],
            "services.ds.engine.extraArgs[0]",
            "vLLM 0.7.3 has no such argument; did you mean --swap-space?",
        ),
        ("services/ds/engine/extraArgs", ["--enable-eplb"], "services.ds.engine.extraArgs[0]", "does not know it yet"),
        (
            "services/ds/engine/env",
            {"VLLM_API_KEY": "k"},
            "services.ds.engine.env.VLLM_API_KEY",
            "is set by the program",
        ),
        (
            "services/ds/engine/env",
            {"MODELSERVE_NODES": "9"},
            "services.ds.engine.env.MODELSERVE_NODES",
            "leave it out",
        ),
        ("services/ds/engine/gpuMemoryUtilization", 1.0, "services.ds.engine.gpuMemoryUtilization", "less than 1"),
        ("services/ds/podLabels", {"pulumi.com/x": "1"}, "services.ds.podLabels.pulumi.com/x", "leave it out"),
        ("services/ds/model", "deepseek-ai/DeepSeek-R1", "services.ds.model", "without its owner"),
        ("weights/prefix", "/models", "weights.prefix", "without a leading /"),
        ("weights/prefix", "a/../b", "weights.prefix", "not a relative path"),
        ("cluster/namespace", "Prod", "cluster.namespace", "is not a namespace's name"),
        ("weights/claim", "Weights", "weights.claim", "is not a claim's name"),
        ("services", {}, "services", "at least 1"),
    ],
)
def test_bad_input_is_one_line_with_key_value_why_and_remedy(path, value, key, said):
    found = lines(changed(path, value))
    assert len(found) == 1, found
    assert found[0].startswith(f"modelserve:{key}: ")
    assert said in found[0]
    assert ";" in found[0], "no remedy"


@pytest.mark.parametrize(
    "path", ["cloud", "cloud/gpu", "cluster", "weights", "services", "services/ds/engine", "services/ds/layout/tensor"]
)
def test_a_missing_key_is_named_with_what_to_write(path):
    found = lines(changed(path, ...))
    assert found == [line for line in found if f"modelserve:{path.replace('/', '.')}: is missing; write " in line]
    assert len(found) == 1


def test_everything_wrong_is_said_at_once_whatever_else_is_wrong_beside_it():
    raw = changed("services/ds/layout/tensor", 9)
    raw["services"]["ds"] |= {"startupPolicy": "LeaderReady", "port": 10250, "replicas": "x", "unknown": 1}
    raw["services"]["ds"]["resources"] = {"cpu": "64", "memory": "512G"}
    raw["services"]["Bad_Name"] = {}
    raw["cluster"] = {"context": "<context>"}
    raw["typo"] = 1
    keys = {line.split(": ")[0].removeprefix("modelserve:") for line in lines(raw, plain_secrets={"apiKey": "k"})}
    assert keys >= {
        "services.ds.layout.tensor",
        "services.ds.startupPolicy",
        "services.ds.port",
        "services.ds.replicas",
        "services.ds.unknown",
        "services.ds.resources.cpu",
        "services.ds.resources.memory",
        "services.Bad_Name",
        "services.Bad_Name.model",
        "cluster.context",
        "typo",
        "apiKey",
    }


def test_an_api_key_in_plain_text_is_refused_without_repeating_it():
    found = lines(GOOD, plain_secrets={"apiKey": "sk-canary"})
    assert found == [line for line in found if "pulumi config set --secret modelserve:apiKey" in line]
    assert "sk-canary" not in "".join(found)


@pytest.mark.parametrize("name", ["DS", "1ds", "d_s", "ds-", "-ds", "d.s"])
def test_a_service_name_that_is_not_dns_1035_is_refused(name):
    raw = copy.deepcopy(GOOD)
    raw["services"] = {name: raw["services"]["ds"]}
    assert any("is not a DNS-1035 name" in line for line in lines(raw))


@pytest.mark.parametrize("replicas", [1, 10, 11, 101])
def test_a_name_is_refused_exactly_when_the_labels_built_from_it_would_pass_63(replicas):
    limit = name_limit(replicas)
    hash_length = fact("engines", "leaderWorkerSet", "revisionHashLength")
    assert len(f"{'a' * limit}-{replicas - 1}-{'h' * hash_length}") == 63
    raw = copy.deepcopy(GOOD)
    raw["services"] = {"a" * limit: raw["services"]["ds"] | {"replicas": replicas}}
    assert parse(raw).services
    raw["services"] = {"a" * (limit + 1): raw["services"]["a" * limit]}
    assert any(f"write at most {limit}" in line for line in lines(raw))


def test_a_service_cannot_take_the_name_of_another_ones_kubernetes_service():
    raw = copy.deepcopy(GOOD)
    raw["services"]["ds-leader"] = raw["services"]["ds"]
    assert lines(raw) == [
        "modelserve:services.ds-leader: ds-leader: is the name of another service's Kubernetes Service; rename it or ds"
    ]


def test_the_config_cannot_be_changed_afterwards():
    config = parse(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        config.services["ds"].port = 1

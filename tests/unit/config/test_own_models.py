"""A service whose model the catalog does not have: planned where its config.json is understood, else deployed on the
user's word, with what follows from the bytes alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from config.errors import ConfigError
from config.judge import parse
from config.plans import plan_services
from config.stack import repository
from ops.page import page
from ops.plan import table
from planning.alert_limits import limits
from stacks.plan_summary import briefly, summary, verdict
from tests.unit.config.test_plans import ONE_NODE, on
from tests.unit.planning.test_config_json import CONFIGS, REFUSED, SMALL, config

NEW = {**SMALL, "architectures": ["NewForCausalLM"], "surprise": 7}


def own(path: Path | str | None = None, size: int = 400 * 10**9, context: int = 4096, **more: Any) -> dict[str, Any]:
    """A stack file whose service describes its model."""
    told = {"repository": "acme/Acme-400B", "fileBytes": size, "context": context}
    told |= {} if path is None else {"config": str(path)}
    engine = {"image": "vllm/vllm-openai:v0.25.1", "version": "0.25.1"}
    return on("H20-141", model=told, layout=ONE_NODE, engine=engine, **more)


def planned(raw: dict[str, Any]) -> Any:
    return plan_services(parse(raw))["ds"]


def refusals(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plan_services(parse(raw))
    return [line.removeprefix("modelserve:") for line in caught.value.lines]


def written(folder: Path, raw: object) -> Path:
    path = folder / "config.json"
    path.write_text(raw if isinstance(raw, str) else json.dumps(raw))
    return path


def strange() -> dict[str, dict[str, Any]]:
    """Configs that are sound and not understood: those kept here, a new class, new keys, formats and layers."""
    known = config("GLM-5")
    return {name: config(name) for name in REFUSED} | {
        "class": NEW,
        "key": {**known, "compress_ratios": [4]},
        "format": {**SMALL, "quantization_config": {"quant_method": "quark"}},
        "tower": {**SMALL, "vision_config": {"depth": 2}},
        "layers": {**SMALL, "layer_types": ["linear_attention"] * 4},
        "dense": {**SMALL, "mlp_only_layers": [2]},
        "blocks": {**config("MiMo-V2-Flash"), "swa_head_dim": 128},
    }


@pytest.mark.parametrize("name", strange())
def test_a_model_that_is_not_understood_is_deployed_on_the_users_word_and_refused_without(name, tmp_path):
    path = written(tmp_path, strange()[name])
    [line] = refusals(own(path))
    assert line.startswith("services.ds.model: Acme-400B: ") and "write unproven: true" in line
    found = planned(own(path, unproven=True))
    assert not found.plan.fits and found.max_model_len == 4096
    assert found.warnings[0].startswith("deployed unproven: whether it fits is unknown: ")


BROKEN = {
    "cut": json.dumps(NEW)[:-20],
    "no object": "[1]",
    "text for a number": {**NEW, "hidden_size": "1024"},
    "text for a number in a known class": {**SMALL, "surprise": 7, "hidden_size": "1024"},
    "no heads": {**NEW, "num_attention_heads": 0},
    "no text": {**NEW, "text_config": None},
    "no class": {**NEW, "architectures": None},
    "a wrong tower": {**config("Kimi-K2.5"), "vision_config": {"patch_size": "14"}},
    "layers that contradict": {**SMALL, "surprise": 7, "layer_types": ["full_attention"]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_config_file_is_refused_whatever_the_user_says(name, tmp_path):
    assert refusals(own(written(tmp_path, BROKEN[name]), unproven=True))


def test_a_config_file_that_is_not_there_is_refused():
    [line] = refusals(own("nowhere/config.json", unproven=True))
    assert "cannot be read" in line


def test_an_understood_config_that_agrees_with_the_bytes_is_planned_as_any_model():
    path = CONFIGS / "Kimi-Linear-48B-A3B-Instruct" / "config.json"
    found = planned(own(path, size=98_245_528_576, context=1048576))
    assert found.plan.fits and found.plan.request.model.name == "Acme-400B" and not found.warnings
    [line] = refusals(own(path, size=98_245_528_576, context=2**21))
    assert line.startswith("services.ds.model.context: 2097152: ") and line.endswith("write at most 1048576")
    [line] = refusals(own(path, size=50 * 10**9))
    assert "makes 98.25 GB of weights, its files have 50.00" in line and "write unproven: true" in line


def test_timeouts_follow_the_bytes():
    small, large = (planned(own(size=size, unproven=True)) for size in (10**9, 1000 * 10**9))
    assert large.startup_seconds > small.startup_seconds + 60
    assert large.plan.file_bytes == 1000 * 10**9
    assert large.plan.fit.stages[0].weights_gib == pytest.approx(1000e9 / 8 / 2**30)


def test_what_is_unknown_is_called_so_everywhere():
    found = planned(own(unproven=True))
    [first, *_] = briefly("ds", found)
    assert first.startswith("ds: is not known to fit: Acme-400B") and "an unknown KV cache" in first
    assert verdict({"ds": found}) == "ds is not known to fit, deployed unproven"
    said = summary(found)
    assert (said["fits"], said["kvTokens"], said["maxConcurrency"]) == (False, None, None)
    assert "is not known to fit" in table(found.plan) and "KV cache unknown" in table(found.plan)
    shown = found.plan.to_json()
    assert shown["unknown"] == "no config.json is given" and shown["kv_tokens"] is None
    assert {shown["stages"][0][key] for key in ("overhead_gib", "kv_gib", "peak_gib")} == {None}
    assert limits(found.plan, 600, 60, 0).at_once >= 128
    assert "Is not known to fit" in page("x", {"ds": shown}) and "Nothing is left" not in page("x", {"ds": shown})


def test_no_layout_is_chosen_for_a_model_that_is_not_understood():
    raw = own(unproven=True)
    raw["services"]["ds"]["layout"] = "auto"
    [line] = refusals(raw)
    assert line.startswith("services.ds.layout: auto: ") and "write a map with nodes, tensor and pipeline" in line


def test_a_layout_that_is_no_product_of_its_gpus_is_refused_for_any_model():
    raw = own(unproven=True)
    raw["services"]["ds"]["layout"] = {"nodes": 1, "tensor": 4, "pipeline": 1}
    assert any(line.startswith("services.ds.layout") for line in refusals(raw))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"repository": "acme/Acme", "context": 4096}, "services.ds.model.fileBytes: is missing"),
        ({"repository": "Acme", "fileBytes": 1, "context": 4096}, "services.ds.model.repository: Acme: is not owner"),
        ({"repository": "a/B", "fileBytes": 0, "context": 4096}, "services.ds.model.fileBytes: 0: "),
        ({"repository": "a/B", "fileBytes": "1", "context": 4096}, "services.ds.model.fileBytes: 1: is not a whole"),
        ({"repository": "a/B", "fileBytes": 1, "context": 4096, "size": 2}, "services.ds.model.size: 2: unknown key"),
        ({"repository": "a/B", "fileBytes": 1, "context": 1, "config": "x"}, "services.ds.model.config: x: is not"),
        ({"repository": "acme/deepseek-R1", "fileBytes": 1, "context": 4096}, "services.ds.model: acme/deepseek-R1: "),
        (5, "services.ds.model: 5: is a number"),
    ],
)
def test_a_description_that_is_wrong_is_refused_at_its_key(told, said):
    assert [line for line in refusals(on("H20-141", model=told, layout=ONE_NODE, unproven=True)) if said in line]


def test_services_that_share_a_model_describe_it_alike():
    raw = own(unproven=True)
    raw["services"]["two"] = raw["services"]["ds"] | {
        "model": {"repository": "other/Acme-400B", "fileBytes": 1, "context": 4096}
    }
    with pytest.raises(ConfigError, match=r"services.two.model: Acme-400B: is described otherwise than in services.ds"):
        parse(raw)


def test_the_weights_come_from_the_repository_that_the_service_names():
    assert repository(parse(own(unproven=True)), {}, "Acme-400B") == "acme/Acme-400B"

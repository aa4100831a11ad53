"""`ops model`: a model's own headers, from both hubs and from a folder, on the screen and in a stack file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.paths import ROOT
from ops.__main__ import main
from planning import engine, models
from planning.config_json import find
from planning.layout import Layout
from planning.stage_weights import stage_weights
from standins.hub import Fault, Hub, safetensors

NAME, TOKEN = "Owner/Tiny-MoE", "hf-token-0123456789"
CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 3200,
    "max_position_embeddings": 4096,
}


def layer(number: int) -> dict[str, tuple[int, ...]]:
    attention = {"q_proj": (256, 256), "k_proj": (128, 256), "v_proj": (128, 256), "o_proj": (256, 256)}
    experts = {
        f"mlp.experts.{each}.{part}.weight": (128, 256)
        for each in range(4)
        for part in ("gate_proj", "up_proj", "down_proj")
    }
    inside = {f"self_attn.{name}.weight": shape for name, shape in attention.items()} | experts
    inside |= {"mlp.gate.weight": (4, 256), "input_layernorm.weight": (256,), "post_attention_layernorm.weight": (256,)}
    return {f"model.layers.{number}.{name}": shape for name, shape in inside.items()}


def repository(config: dict[str, Any] | None = None, **more: Any) -> dict[str, bytes]:
    """Files of a model: the layers in two shards, and what a repository has beside them."""
    ends = {"model.embed_tokens.weight": (3200, 256), "lm_head.weight": (3200, 256), "model.norm.weight": (256,)}
    shards: dict[str, dict[str, tuple[int, ...]]] = {
        "model-1-of-2.safetensors": {**ends, **layer(0), **layer(1)},
        "model-2-of-2.safetensors": {**layer(2), **layer(3), **more},
    }
    index = {"weight_map": {tensor: file for file, tensors in shards.items() for tensor in tensors}}
    files = {file: safetensors(tensors) for file, tensors in shards.items()}
    return files | {
        "config.json": json.dumps(CONFIG | (config or {})).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
        "original/model.safetensors": b"no header, and none of the files that an engine reads",
    }


def written(files: dict[str, bytes], folder: Path) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        (folder / path).write_bytes(data)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub({NAME: repository(), "Owner/no-weights": {"config.json": b"{}"}}, token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    yield made
    made.stop()


def test_a_hub_and_a_folder_say_the_same_and_a_hub_is_asked_for_headers_only(hub, tmp_path, capsys):
    assert main(["model", NAME, "--json"]) == 0
    far = capsys.readouterr()
    assert main(["model", str(written(repository(), tmp_path / "Tiny-MoE")), "--json"]) == 0
    near = json.loads(capsys.readouterr().out)
    found = json.loads(far.out)
    assert TOKEN not in far.out + far.err
    assert {**found, "source": ""} == {**near, "source": ""} and hub.url in found["source"]
    assert not any("original" in path for path in hub.fetched())
    size = sum(len(data) for path, data in repository().items() if path.startswith("model-"))
    assert sum(each.sent for each in hub.seen) < size / 5
    assert found["facts"]["fileBytes"] == found["bytes"] == pytest.approx(size, rel=0.01)


def test_modelscope_is_asked_in_its_own_words(hub, monkeypatch, capsys):
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", TOKEN)
    hubs = {"modelscope": {"kind": "modelscope", "url": hub.url, "revision": "master"}}
    known = {key: {"value": value} for key, value in hubs.items()}
    from planning.catalog import entries

    monkeypatch.setitem(entries("sync"), "hubs", known)
    assert main(["model", NAME, "--from", "modelscope", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] > 0
    assert any(each.path.startswith(f"/models/{NAME}/resolve/master/") for each in hub.seen)


def test_a_request_that_breaks_off_is_made_again(hub, capsys):
    hub.faults += [Fault("1-of-2", cut=100), Fault("2-of-2", reset=100), Fault("resolve.*config", status=503)]
    assert main(["model", NAME, "--json"]) == 0


@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 4)])
def test_the_weights_of_each_stage_are_the_files_own(tensor, pipeline, tmp_path, capsys):
    folder = written(repository(), tmp_path)
    assert main(["model", str(folder), "--tensor", str(tensor), "--pipeline", str(pipeline), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    layout, model, first = Layout(1, tensor * pipeline, tensor, pipeline), find(str(folder / "config.json")), 0
    assert [stage["layers"] for stage in found["stages"]] == [4 // pipeline] * pipeline
    for stage in found["stages"]:
        planned = stage_weights(model, layout, engine.find(None), first, stage["layers"]).total - 4096 * 64 * 2
        assert stage["bytes_per_gpu"] == pytest.approx(planned, rel=0.01)
        first += stage["layers"]
    if tensor == 1:
        assert sum(stage["bytes_per_gpu"] for stage in found["stages"]) == found["bytes"]


STACK = """# of the team
config:
  pulumi:disable-default-providers: [kubernetes]
  modelserve:cloud: {kind: local, gpu: H20-96}  # the rehearsal
  modelserve:cluster: {context: rehearsal, namespace: default}
  modelserve:weights: {source: pvc, claim: model-weights}
  modelserve:services:
    tiny:
      model: Tiny-MoE
      engine: {image: "vllm/vllm-openai:v0.19.0", version: "0.19.0"}
      layout: {nodes: 1, gpusPerNode: 2, tensor: 2, pipeline: 1}
      resources: {cpu: 8, memory: 64Gi, shm: 8Gi}
"""
PLACES = {
    "no catalog": "",
    "an empty one": "  modelserve:catalog:\n",
    "other facts": "  modelserve:catalog:\n    gpus: {}  # none\n",
    "other models": "  modelserve:catalog:\n    models:\n      # ours\n      Other:\n        layers: 3  # few\n\n"
    "    regions: []\n",
    "braces": "  modelserve:catalog: {models: {Other: {layers: 3}}, regions: []}\n",
    "an older entry": "  modelserve:catalog:\n    models:\n      # why\n      tiny-moe: {layers: 3}\n"
    "      Other: {layers: 3}\n",
}


@pytest.mark.parametrize("tail", ["", "encryptionsalt: v1:x\n", "# the end"])
@pytest.mark.parametrize("place", PLACES)
def test_the_facts_are_written_and_every_other_line_stays(place, tail, tmp_path, monkeypatch, capsys):
    written(repository(), tmp_path / "Tiny-MoE")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text(before := STACK + PLACES[place] + tail)
    assert main(["model", "Tiny-MoE", "--write", "dev"]) == 0
    after = path.read_text()
    [said] = [line for line in after.splitlines() if "# Tiny-MoE: the files of the folder" in line]
    assert ", read 20" in said
    changed = {"  modelserve:catalog:", "      tiny-moe: {layers: 3}", *PLACES["braces"].splitlines()}
    assert [line for line in before.splitlines() if line not in changed and line not in after.splitlines()] == []
    model = models.find("tiny-moe", yaml.safe_load(after)["config"]["modelserve:catalog"]["models"])
    assert (model.moe.experts, model.file_bytes) == (4, json.loads(shown(tmp_path, capsys))["bytes"])
    assert main(["model", "Tiny-MoE", "--write", "dev"]) == 0 and path.read_text() == after


def shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["model", str(folder / "Tiny-MoE"), "--json"]) == 0
    return capsys.readouterr().out


def test_a_stack_plans_with_what_was_written(tmp_path, monkeypatch, capsys):
    written(repository(), tmp_path / "Tiny-MoE")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Pulumi.dev.yaml").write_text(STACK)
    assert main(["model", "Tiny-MoE", "--write", "dev"]) == 0
    assert main(["plan", "dev", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["fits"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "does not exist"),
        ("config: {modelserve:cloud: {kind: local, gpu: H20-96}}\n", "config: is no block of lines"),
        ("config:\n  modelserve:catalog: {models: {  # ours\n    A: {}}}\n", "has comments within braces"),
        ("config:\n  modelserve:catalog: [1]\n", "catalog: is not a map"),
        ("config:\n  modelserve:catalog: {models: [1]}\n", "is not a map of maps"),
        ("config: [\n", "is not YAML"),
    ],
)
def test_a_stack_file_that_cannot_take_the_facts_stays_as_it_is(text, said, tmp_path, monkeypatch, capsys):
    written(repository(), tmp_path / "Tiny-MoE")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "Pulumi.dev.yaml"
    if text is not None:
        path.write_text(text)
    assert main(["model", "Tiny-MoE", "--write", "dev"]) == 2
    assert said in capsys.readouterr().err
    assert text is None or path.read_text() == text


def without(name: str) -> dict[str, bytes]:
    return {path: data for path, data in repository().items() if path != name}


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (without("config.json"), "has no config.json"),
        (without("model-2-of-2.safetensors"), "names files that are not there: model-2-of-2.safetensors"),
        (
            {**repository(), INDEX: b'{"weight_map": {"a": "model-1-of-2.safetensors"}}'},
            "names tensors that are not in",
        ),
        ({**repository(), INDEX: b'{"weight_map": 3}'}, "no map weight_map"),
        ({**repository(), INDEX: b"{"}, "is not JSON"),
        ({**repository(), "config.json": json.dumps(CONFIG).encode()[:-20]}, "is not JSON"),
        ({**repository(), "config.json": b"\xff\xfe{"}, "is not JSON"),
        ({**repository(), "model-1-of-2.safetensors": b"\xff" * 500}, "says that its header has"),
        ({"config.json": json.dumps(CONFIG).encode(), "model.bin": b"x"}, "has no .safetensors files"),
    ],
)
def test_files_that_cannot_be_read_are_refused_in_one_line(files, said, tmp_path, capsys):
    assert main(["model", str(written(files, tmp_path))]) == 2
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1 and said in told.err and not told.out


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectures": ["NewForCausalLM"]}, "the architecture NewForCausalLM is not understood"),
        ({"num_attention_heads": 0}, "num_attention_heads 0 is not a whole number from 1 up"),
        ({"num_hidden_layers": "4"}, 'num_hidden_layers "4" is not a whole number'),
        ({"text_config": None}, "text_config is no map"),
        ({"compress_ratios": [4]}, "compress_ratios is not understood"),
        ({"moe_intermediate_size": 160}, "the planner computes"),
    ],
)
def test_a_model_that_is_not_understood_shows_its_bytes_and_is_not_written(config, said, tmp_path, monkeypatch, capsys):
    written(repository(config), tmp_path / "Tiny-MoE")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Pulumi.dev.yaml").write_text(STACK)
    assert main(["model", "Tiny-MoE", "--write", "dev"]) == 1
    told = capsys.readouterr()
    assert said in told.err and "experts" in told.out and (tmp_path / "Pulumi.dev.yaml").read_text() == STACK


def test_a_vision_tower_of_any_kind_is_counted_by_its_bytes(tmp_path, capsys):
    tower = {"model.visual.blocks.0.attn.qkv.weight": (300, 256)}
    folder = written(repository({"vision_config": {"new": 1}}, **tower), tmp_path)
    assert main(["model", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["otherBytes"] == 2 * 300 * 256


def test_a_config_alone_says_what_is_understood(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["model", "tests/data/configs/GLM-5.1-NVFP4/config.json", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["bytes"], found["stages"], found["kv_bytes_per_token_and_layer"]) == (None, [], 576 * 2 + 132)
    assert found["facts"]["sixteenBit"] == ["attention", "draft", "indexer", "mlp", "output", "shared"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Owner/absent"], "does not know Owner/absent"),
        (["Owner/no-weights"], "has no .safetensors files"),
        (["NoOwner"], "is not owner/name"),
        (["a/b/c"], "is neither a folder nor a repository"),
        ([NAME, "--from", "https://me:hunter2@hub"], "contains credentials"),
        ([NAME, "--from", "gitlab"], "is not a hub"),
        ([NAME, "--pipeline", "9"], "the model has 4 layers"),
    ],
)
def test_a_request_that_leads_nowhere_is_refused_in_one_line(words, said, hub, capsys):
    assert main(["model", *words]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1 and said in told and "hunter2" not in told


def test_a_token_that_is_refused_is_not_shown(hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf-wrong-0123456789")
    assert main(["model", NAME]) == 2
    told = capsys.readouterr().err
    assert "401" in told and "HF_TOKEN" in told and "hf-wrong" not in told


def test_an_endpoint_that_is_no_hub_is_refused(hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/nothing")
    assert main(["model", NAME]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1

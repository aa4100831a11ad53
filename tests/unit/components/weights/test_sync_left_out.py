"""Which files of a repository a sync leaves out, according to the catalog's rule and the engine's arguments."""

from __future__ import annotations

import pytest

from components.weights.sync.manifest import File, LeftOut
from planning.files import Needed, needed

META = ["config.json", "tokenizer.json", "generation_config.json", "README.md"]
SHARDS = ["model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
# As https://discuss.huggingface.co/t/173329 lists openai/gpt-oss-20b.
GPT_OSS = [*META, *SHARDS, "metal/model.bin", "original/config.json", "original/dtypes.json"]
GPT_OSS += ["original/model.safetensors"]
LLAMA = [*META, *SHARDS, "original/consolidated.00.pth", "original/params.json", "original/tokenizer.model"]
BOTH = [*META, *SHARDS, "consolidated.safetensors", "params.json", "tekken.json"]
MISTRAL = [*META, "consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors", "params.json"]
OLD = [*META, "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"]
MANY = [*META, *SHARDS, "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model-q4.gguf", "onnx/model.onnx"]
LOADS_MISTRAL = {"--load-format": "mistral", "--config-format": "mistral", "--tokenizer-mode": "mistral"}


def left_out(paths: list[str], *engines: dict[str, str | None]) -> set[str]:
    rule = needed(engines or [{}])
    return set(LeftOut(rule.weights, rule.leaves).of([File(path, 1) for path in paths]))


@pytest.mark.parametrize(
    ("paths", "gone"),
    [
        (GPT_OSS, {path for path in GPT_OSS if "/" in path}),
        (LLAMA, {path for path in LLAMA if "/" in path}),
        (BOTH, {"consolidated.safetensors"}),
        (MANY, set(MANY) - {*META, *SHARDS}),
        ([*META, *SHARDS, "inference/model.py", "modeling_x.py", "figures/a.jpg"], set()),
    ],
    ids=["gpt-oss", "llama", "both formats", "every format", "one format"],
)
def test_of_a_model_that_is_there_in_several_formats_only_the_one_that_engines_read_is_copied(paths, gone):
    assert left_out(paths) == gone


@pytest.mark.parametrize(
    "paths", [MISTRAL, OLD, [*META, "original/model.safetensors"], [*META, "model-16/a.safetensors", "original/a.pth"]]
)
def test_where_the_usual_format_is_not_there_nothing_is_left_out(paths):
    assert left_out(paths) == set()


@pytest.mark.parametrize("asks", [LOADS_MISTRAL, {"--load-format": "mistral"}, {"--config-format": "mistral"}])
def test_an_engine_that_asks_for_mistrals_format_gets_it_and_not_the_other(asks):
    assert left_out(BOTH, asks) == set(SHARDS)
    assert left_out(MISTRAL, asks) == set() == left_out(GPT_OSS, asks)


def test_services_of_one_model_in_two_formats_get_both_which_the_plan_counts_as_two_copies():
    assert left_out([*BOTH, "original/x.pth"], {}, LOADS_MISTRAL) == {"original/x.pth"}
    assert needed([{}, LOADS_MISTRAL]).copies == 2 and needed([{}, {"--load-format": "safetensors"}]).copies == 1


@pytest.mark.parametrize("asked", ["pt", "npcache", "gguf", "tensorizer", "a-plugins-own"])
def test_a_format_that_reads_files_of_its_own_gets_every_file(asked):
    assert needed([{}, {"--load-format": asked}]) == Needed() and left_out(MANY, {"--load-format": asked}) == set()

"""The same types describe the catalog's entries in the program's own data files and in the stack file's section."""

from __future__ import annotations

from typing import Any

import pytest

from config.facts import Catalog, GpuFacts, GpuPods, ModelFacts
from config.judge import parse
from config.plans import plan_services
from planning import gpus, models
from planning.catalog import entries, fact
from tests.support.stack_files import StackFile

LOCAL, ACS = StackFile("local"), StackFile("acs")
SHAPE = {
    "layers": 28,
    "hidden": 1024,
    "heads": 16,
    "kvHeads": 8,
    "headDim": 128,
    "intermediate": 3072,
    "vocab": 151936,
    "maxContext": 40960,
}
SERVED = {"services/ds/model": "R9", "services/ds/layout": "auto", "services/ds/maxModelLen": "auto"}


def of_model(**facts: Any) -> dict[str, Any]:
    """A stack file whose model is described; a fact that is Ellipsis is left out."""
    given = {key: value for key, value in {**SHAPE, **facts}.items() if value is not ...}
    return LOCAL.changed(**SERVED, catalog={"models": {"R9": given}})


def of_gpu(name: str = "Own", **facts: Any) -> dict[str, Any]:
    given = {key: value for key, value in {"usableGib": 95.0, "link": "nvlink", **facts}.items() if value is not ...}
    return LOCAL.changed(cloud__gpu="Own", catalog={"gpus": {name: given}})


def of_pods(**facts: Any) -> dict[str, Any]:
    given = {key: value for key, value in {"gpus": [8], **facts}.items() if value is not ...}
    return ACS.changed(cloud__gpuSeries="GU9", cloud__gpu="H20-96", catalog={"gpuPods": {"GU9": given}})


def test_the_data_files_are_of_the_stack_files_own_types():
    listed = {
        "models": {name: entry["value"] for name, entry in entries("models")["models"].items()},
        "gpus": {name: entry["value"] for name, entry in entries("gpus")["gpus"].items()},
        "gpuPods": fact("clouds", "acs", "gpuPods"),
        "regions": [*fact("oss", "regions", "known"), *fact("tos", "regions", "known")],
    }
    typed = Catalog.model_validate(listed)
    assert typed.models.keys() == listed["models"].keys() and typed.gpus.keys() == listed["gpus"].keys()
    for names in (entries("models")["models"], entries("gpus")["gpus"]):
        everyone = [
            each.lower() for key, entry in names.items() for each in (key, *entry["value"].get("alsoNamed", ()))
        ]
        assert len(set(everyone)) == len(everyone)


@pytest.mark.parametrize(
    ("kind", "facts"), [(ModelFacts, models.CONFIG_WORDS.values()), (GpuFacts, ["link"]), (GpuPods, ["gpus"])]
)
def test_what_a_foreign_word_is_called_here_is_a_key_of_ours(kind: Any, facts: Any):
    ours = {field.alias for field in kind.model_fields.values()}
    assert {name.partition(".")[0] for name in facts if " " not in name} <= ours


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (of_model(layers="80"), "catalog.models.R9.layers: 80: is not a whole number; write the number of layers"),
        (of_model(layers=10**9), "catalog.models.R9.layers: 1000000000: input should be less than or equal to 1000"),
        (of_model(kvHeads=0), "catalog.models.R9.kvHeads: 0: input should be greater than 0"),
        (of_model(kvHeads=32), "catalog.models.R9: kvHeads 32 is more than heads 16; correct one of them"),
        (of_model(kvHeads=...), "catalog.models.R9: the plan also needs kvHeads; add them"),
        (of_model(slidingWindow={"tokens": 128}), "catalog.models.R9: the plan also needs slidingWindow.layers"),
        (of_model(moe={"experts": 4, "perToken": 8, "intermediate": 8}), "catalog.models.R9: moe.perToken 8 is more"),
        (
            of_model(quantization="fp8"),
            "catalog.models.R9.quantization: fp8: unknown key; write quantisation",
        ),
        (
            of_model(num_hidden_layers=80),
            "catalog.models.R9.num_hidden_layers: 80: unknown key; write layers",
        ),
        (of_model(n_routed_experts=8), "catalog.models.R9.n_routed_experts: 8: unknown key; write moe.exp"),
        (of_model(quantisation="awq"), "catalog.models.R9.quantisation: awq: is not a format of weights; write int4"),
        (
            of_model(quantisation="fp9"),
            "catalog.models.R9.quantisation: fp9: is not a format of weights; write one of none",
        ),
        (of_model(quantisation={"quant_method": "fp8"}), "catalog.models.R9.quantisation: {quant_method}: is not text"),
        (
            LOCAL.changed(catalog={"models": {"owner/R9": SHAPE}}),
            "catalog.models.owner/R9: owner/R9: is not a repository's name",
        ),
        (LOCAL.changed(catalog={"models": {"R9": SHAPE, "r9": SHAPE}}), "catalog.models.r9: is also given as R9"),
        (of_gpu(usableGib="118GiB"), "catalog.gpus.Own.usableGib: 118GiB: is not a number; write the memory that"),
        (of_gpu(usableGib=...), "catalog.gpus.Own: the plan also needs usableGib; add them"),
        (of_gpu(link="nvlnk"), "catalog.gpus.Own.link: nvlnk: is not one of the known values; write nvlink or pcie"),
        (of_gpu(name="Own:95"), "catalog.gpus.Own:95: Own:95: is not a GPU's name; write one such as H20-96, and its"),
        (of_pods(gpus=...), "catalog.gpuPods.GU9.gpus: is missing; write a list of how many GPUs a pod may have"),
        (of_pods(gpus=8), "catalog.gpuPods.GU9.gpus: 8: is not a list; write a list of how many GPUs a pod may have"),
        (of_pods(memoryGib={"64Gi": [512]}), "catalog.gpuPods.GU9.memoryGib.64Gi: 64Gi: is not a number of vCPU"),
        (
            of_pods(memoryGib={"64": 512}),
            "catalog.gpuPods.GU9.memoryGib.64: 512: is not a list of sizes; write whole GiB",
        ),
        (of_pods(memoryGib={"64": []}), "catalog.gpuPods.GU9.memoryGib.64: []: is not a list of sizes"),
        (ACS.changed(catalog={"gpuPods": {"a b": {"gpus": [8]}}}), "catalog.gpuPods.a b: a b: is not a GPU series"),
        (ACS.changed(catalog={"regions": ["CN"]}), "catalog.regions[0]: CN: is not a region's id"),
    ],
)
def test_a_wrong_fact_is_one_line_at_its_key(raw: dict[str, Any], said: str):
    found = LOCAL.lines(raw)
    (line,) = [line for line in found if line.startswith("modelserve:catalog.")]
    assert line.removeprefix("modelserve:").startswith(said)
    # Only names that nothing is known by may be missed elsewhere for it.
    assert all("is not in the catalog" in each or "does not know" in each for each in found if each != line)


def test_a_described_model_is_planned_by_what_is_said_of_it():
    def weights(**facts: Any) -> float:
        return plan_services(parse(of_model(**facts)))["ds"].plan.fit.stages[0].weights_gib

    assert weights(quantisation="fp8") < weights()


def test_facts_are_overruled_one_by_one_also_inside_a_map():
    found = models.find("DeepSeek-R1", {"deepseek-r1": {"moe": {"experts": 128}}})
    assert found.moe and (found.moe.experts, found.moe.per_token, found.layers) == (128, 8, 61)


def test_an_entry_speaks_of_every_name_that_the_catalog_has_for_it():
    """A cloud's series is another name for its GPU; using it must not lose what the stack file says about the GPU."""
    assert gpus.find("GU8TF", {"H20-96": {"usableGib": 94.5}}).usable_gib == 94.5
    assert gpus.find("H20-96", {"gu8tf": {"usableGib": 94.5}}).usable_gib == 94.5
    assert gpus.find("mine", {"Own": {"usableGib": 40.0, "link": "pcie", "alsoNamed": ["Mine"]}}).usable_gib == 40.0
    both = {"H20-96": {"usableGib": 94.5}, "GU8TF": {"usableGib": 93.5}}
    assert [gpus.find(name, both).usable_gib for name in ("H20-96", "GU8TF")] == [94.5, 93.5]
    assert models.find("DeepSeek-V3.1-Terminus", {"DeepSeek-V3.1": {"maxContext": 8192}}).max_context == 8192


def test_what_is_said_of_a_series_overrules_the_catalog_fact_by_fact():
    known = ACS.changed(cloud__rdma=True, catalog={"gpuPods": {"GU8TF": {"rdma": True}}})
    assert not [each for each in plan_services(parse(known))["ds"].warnings if "RDMA" in each]
    known["services"]["ds"]["resources"]["memory"] = "500Gi"
    assert "series GU8TF has no pod of 64 vCPU with that memory" in ACS.lines(known)[0]

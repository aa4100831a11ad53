"""The cached volume: what the program asks of Fluid, in which order, what replaces what, and what counts as success."""

from __future__ import annotations

from typing import Any

import pulumi
import pytest

from components.weights.fluid_cache import FluidCache, FluidCacheArgs, data_load, failure, jindo_runtime
from planning.problems import Refused
from tests.support.recorder import Recorder, inputs, is_secret
from tests.support.schemas import problems
from tests.support.weights import PLACE, key

ACS = {"alibabacloud.com/compute-class": "performance", "alibabacloud.com/compute-qos": "default"}


def arguments(**changes: Any) -> FluidCacheArgs:
    given: dict[str, Any] = {
        **PLACE,
        "key": None,  # an Output needs an engine's loop
        "workers": 7,
        "quota_gib": 120,
        "limit_gib": 128,
        "cpu": 16,
        "high": 0.95,
        "low": 0.9,
        "ready_seconds": 600,
        "load_seconds": 1800,
        "pod_labels": ACS,
        "worker_annotations": {"kubernetes.io/resource-type": "serverless"},
    }
    return FluidCacheArgs(**given | changes)


def cache(name: str = "m", shortfall: Any = None, **changes: Any) -> FluidCache:
    return FluidCache(name, arguments(key=key(), **changes), shortfall=shortfall)


def annotations(manifest: dict[str, Any]) -> dict[str, str]:
    return manifest["metadata"]["annotations"]


def test_every_object_passes_strict_validation_against_its_real_schema(engine: Recorder):
    engine.run(lambda: cache("deepseek-r1", attempt=2))
    found = {made["kind"]: problems(made) for made in engine.objects()}
    assert found == {"Secret": [], "Dataset": [], "JindoRuntime": [], "DataLoad": []}


def test_the_dataset_is_the_models_prefix_at_the_root_with_the_key_by_reference(engine: Recorder):
    engine.run(cache)
    spec, secret = inputs(engine.one("Dataset"))["spec"], inputs(engine.one("Secret"))
    (mount,) = spec["mounts"]
    assert mount["mountPoint"] == "oss://weights/models/DeepSeek-R1/" and mount["path"] == "/"
    assert mount["options"] == {"fs.oss.endpoint": "oss-cn-hangzhou-internal.aliyuncs.com"}
    references = [each["valueFrom"]["secretKeyRef"] for each in mount["encryptOptions"]]
    assert {each["name"] for each in references} == {secret["metadata"]["name"]}
    assert {each["key"] for each in references} == set(secret["data"])
    assert all(is_secret(value) for value in secret["data"].values())
    assert (spec["placement"], spec["accessModes"]) == ("Shared", ["ReadOnlyMany"])
    assert sum("c2VjcmV0LTE=" in text or "secret-1" in text for text in engine.wire()) == 1


def test_every_part_carries_the_pod_labels_and_the_workers_the_annotation():
    spec = jindo_runtime("m", arguments())["spec"]
    assert [spec[part]["podMetadata"]["labels"] for part in ("master", "worker", "fuse")] == [ACS] * 3
    assert [part for part in ("master", "worker", "fuse") if "annotations" in spec[part]["podMetadata"]] == ["worker"]
    assert data_load("m", arguments())["spec"]["podMetadata"]["labels"] == ACS
    bare = jindo_runtime("m", arguments(worker_annotations={}))
    assert "annotations" not in bare["spec"]["worker"]["podMetadata"]


def test_requests_are_the_limits_and_the_quota_is_in_gi_in_memory():
    spec = jindo_runtime("m", arguments())["spec"]
    for part in ("master", "worker"):
        assert spec[part]["resources"]["requests"] == spec[part]["resources"]["limits"]
    assert spec["worker"]["resources"]["limits"] == {"cpu": "16", "memory": "128Gi"}
    assert "resources" not in spec["fuse"]
    assert spec["tieredstore"]["levels"] == [
        {
            "mediumtype": "MEM",
            "path": "/dev/shm",
            "volumeType": "emptyDir",
            "quota": "120Gi",
            "high": "0.95",
            "low": "0.9",
        }
    ]
    assert spec["networkmode"] == "ContainerNetwork" and spec["replicas"] == 7


def test_the_dataset_waits_for_nothing_and_every_link_is_deleted_in_the_background(engine: Recorder):
    engine.run(cache)
    links = [annotations(inputs(engine.one(kind))) for kind in ("Dataset", "JindoRuntime", "DataLoad")]
    assert ["pulumi.com/waitFor" in each for each in links] == [False, True, True]
    assert {each["pulumi.com/deletionPropagationPolicy"] for each in links} == {"background"}


def test_the_links_depend_on_each_other_in_the_order_that_deletion_needs(engine: Recorder):
    engine.run(cache)
    secret, files, runtime, load = (engine.one(kind) for kind in ("Secret", "Dataset", "JindoRuntime", "DataLoad"))
    assert engine.urn(secret) in files.dependencies
    assert engine.urn(files) in runtime.dependencies and engine.urn(runtime) in load.dependencies
    assert list(runtime.replace_with) == [engine.urn(files)]
    # Load and workload are replaced with the key, so that only the runtime is left when the Dataset is replaced.
    assert list(load.replace_with) == [engine.urn(secret), engine.urn(files), engine.urn(runtime)]
    assert list(secret.replaceOnChanges) == ['metadata.annotations["modelserve.dev/mount"]']
    for request in (secret, files, runtime, load):
        assert request.deleteBeforeReplace
    assert runtime.customTimeouts.create == runtime.customTimeouts.update == "600s"
    assert load.customTimeouts.create == load.customTimeouts.update == "1800s"


def test_only_what_fluid_carries_over_to_running_workers_is_not_replaced(engine: Recorder):
    engine.run(cache)
    runtime = engine.one("JindoRuntime")
    replaced = {path.removeprefix("spec.").partition(".")[0] for path in runtime.replaceOnChanges}
    assert replaced == set(inputs(runtime)["spec"]) - {"replicas"} | {"imagePullSecrets"}
    assert not any("resources" in path for path in runtime.replaceOnChanges)
    assert list(engine.one("Dataset").replaceOnChanges) == ["spec.mounts"]
    assert list(engine.one("DataLoad").replaceOnChanges) == [
        "spec",
        'metadata.annotations["modelserve.dev/attempt"]',
        'metadata.annotations["modelserve.dev/loads"]',
    ]


def test_only_a_second_attempt_is_written_down_and_other_workers_are_another_load():
    assert "modelserve.dev/attempt" not in annotations(data_load("m", arguments()))
    assert annotations(data_load("m", arguments(attempt=3)))["modelserve.dev/attempt"] == "3"
    loads = [annotations(data_load("m", arguments(workers=workers)))["modelserve.dev/loads"] for workers in (7, 8)]
    assert loads[0] != loads[1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"quota_gib": 129}, "quota 129 GiB: is over the limit of 128 GiB"),
        ({"quota_gib": 1024, "limit_gib": 1100}, "JindoCache reads a whole number of TiB"),
        ({"low": 0.95}, "0 < low < high <= 1"),
        ({"high": 1.1}, "0 < low < high <= 1"),
        ({"workers": 0}, "a cache without workers"),
    ],
)
def test_sizes_that_jindocache_refuses_or_misreads_are_refused(change, why):
    with pytest.raises(Refused, match=why):
        arguments(**change)


def test_a_name_that_is_too_long_for_the_workers_labels_is_refused():
    jindo_runtime("m" * 37, arguments())
    with pytest.raises(Refused, match="has 38 characters, and Fluid's workers can be named by at most 37"):
        jindo_runtime("m" * 38, arguments())


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"phase": "Complete", "conditions": [{"status": "True", "reason": "CompletionsReached"}]}, None),
        ({"phase": ""}, "Fluid calls the load not begun"),
        (None, None),
        ({"phase": "Failed", "conditions": []}, "Fluid calls the load Failed"),
        (
            {
                "phase": "Failed",
                "conditions": [{"status": "True", "reason": "BackoffLimitExceeded", "message": "limit"}],
            },
            "Fluid calls the load Failed (BackoffLimitExceeded: limit)",
        ),
    ],
)
def test_a_load_is_judged_by_its_phase_and_told_in_fluids_words(status, said):
    assert failure(status) == said


def outcome(engine: Recorder, status: dict[str, Any], lacking: str | None) -> list[str]:
    """The claim, as passed to what mounts it, after a load that ended with `status`."""
    claims: list[str] = []

    async def shortfall() -> str | None:
        return lacking

    def program() -> None:
        engine.mocks.new_resource = lambda args: (  # the recorder echoes only inputs, and a status is not an input
            f"{args.name}-id",
            {**args.inputs, "status": status},
        )
        cache(shortfall=shortfall).claim.apply(claims.append)

    engine.run(program)
    return claims


@pytest.mark.parametrize(
    ("phase", "lacking", "said"),
    [("Failed", None, "m: Fluid calls the load Failed"), ("Complete", "half is missing", "m: half is missing")],
)
def test_the_claim_is_not_known_after_a_load_without_success(engine: Recorder, phase, lacking, said):
    with pytest.raises(pulumi.RunError, match=said):
        outcome(engine, {"phase": phase, "conditions": []}, lacking)


def test_the_claim_is_the_datasets_name_once_nothing_is_missing(engine: Recorder):
    assert outcome(engine, {"phase": "Complete"}, None) == ["m"]


def test_two_models_fit_in_one_stack(engine: Recorder):
    engine.run(lambda: [cache(name) for name in ("r1", "r1-cache")])
    names = engine.names()
    assert len(names) == len(set(names)) == 8

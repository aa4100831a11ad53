"""The uncached volume: what it mounts, under which names, and that its key stays secret."""

from __future__ import annotations

import dataclasses
from typing import Any

import pulumi
import pytest

from components.cluster.credentials import Role
from components.weights.model_volume import ModelVolume, ModelVolumeArgs, claim_name, volume_name
from tests.support.recorder import Recorder, inputs, is_secret, unmarked
from tests.support.schemas import problems
from tests.support.weights import PLACE, key


def arguments(**changes: Any) -> ModelVolumeArgs:
    given: dict[str, Any] = {
        **PLACE,
        "key": None,  # an Output needs an engine's loop
        "size_gib": 642,
    }
    return ModelVolumeArgs(**given | changes)


def volume(name: str = "deepseek-r1") -> ModelVolume:
    return ModelVolume(name, arguments(key=key()))


def test_every_object_passes_strict_validation_against_its_real_schema(engine: Recorder):
    engine.run(volume)
    assert {found["kind"]: problems(found) for found in engine.objects()} == {
        "Secret": [],
        "PersistentVolume": [],
        "PersistentVolumeClaim": [],
    }


def test_the_volume_is_the_models_prefix_with_the_key_of_its_own_namespace(engine: Recorder):
    engine.run(volume)
    spec = inputs(engine.one("PersistentVolume"))["spec"]
    assert spec["csi"]["volumeAttributes"] == {
        "bucket": "weights",
        "url": "oss-cn-hangzhou-internal.aliyuncs.com",
        "path": "/models/DeepSeek-R1",
        "otherOpts": "-o umask=022 -o max_stat_cache_size=0 -o allow_other",
    }
    assert spec["csi"]["driver"] == "ossplugin.csi.alibabacloud.com"
    secret = inputs(engine.one("Secret"))
    reference = {key: secret["metadata"][key] for key in ("name", "namespace")}
    assert spec["csi"]["nodePublishSecretRef"] == reference and reference["namespace"] == "models"
    assert spec["persistentVolumeReclaimPolicy"] == "Retain" and spec["accessModes"] == ["ReadOnlyMany"]


def test_the_claim_finds_its_own_volume_and_nobody_elses(engine: Recorder):
    engine.run(volume)
    made, claim = inputs(engine.one("PersistentVolume")), inputs(engine.one("PersistentVolumeClaim"))
    wanted = claim["spec"]["selector"]["matchLabels"].items()
    assert wanted <= made["metadata"]["labels"].items() and dict(wanted)["modelserve.dev/namespace"] == "models"
    assert claim["spec"]["storageClassName"] == "" and "storageClassName" not in made["spec"]
    assert made["spec"]["claimRef"] == {"namespace": "models", "name": claim["metadata"]["name"]}
    assert claim["spec"]["resources"]["requests"] == made["spec"]["capacity"] == {"storage": "642Gi"}


@pytest.mark.preview_too
def test_the_key_travels_as_a_secret_and_in_the_secret_alone(engine: Recorder):
    engine.run(volume)
    request = engine.one("Secret")
    data = inputs(request)["data"]
    assert all(is_secret(value) for value in data.values())
    assert unmarked(data) == {"akId": "aWQtMQ==", "akSecret": "c2VjcmV0LTE="}
    assert sorted(request.additionalSecretOutputs) == ["data", "stringData"]
    assert sum("aWQtMQ==" in text or "id-1" in text for text in engine.wire()) == 1


@pytest.mark.parametrize(
    "change", [{"prefix": "models/other"}, {"endpoint": "other"}, {"size_gib": 643}, {"bucket": "other"}]
)
def test_what_a_volume_cannot_change_gives_it_and_its_claim_a_new_name(change):
    before, after = arguments(), arguments(**change)
    for name_of in (claim_name, volume_name):
        assert name_of("m", before, before.bucket) != name_of("m", after, after.bucket)


def test_no_two_places_share_a_volumes_name_and_a_claim_is_not_called_like_a_caches():
    args = arguments()
    places = [("a-b", "c"), ("a", "b-c"), ("a", "B_c.d")]
    names = {
        volume_name("m", dataclasses.replace(args, namespace=namespace, stack=stack), "b")
        for namespace, stack in places
    }
    assert len(names) == len(places) and claim_name("m", args, "b") != "m"


def test_two_models_fit_in_one_stack(engine: Recorder):
    engine.run(lambda: [volume(name) for name in ("r1", "r1-volume")])
    names = engine.names()
    assert len(names) == len(set(names)) == 6


def test_a_volume_that_takes_a_role_has_no_key_and_lies_beside_the_one_with_a_key(engine: Recorder):
    engine.run(lambda: ModelVolume("r1", arguments(key=Role(pulumi.Output.from_input("modelserve-reader-weights")))))
    csi = inputs(engine.one("PersistentVolume"))["spec"]["csi"]
    assert csi["volumeAttributes"].items() >= {"authType": "rrsa", "roleName": "modelserve-reader-weights"}.items()
    assert "nodePublishSecretRef" not in csi and "fuseType" not in csi["volumeAttributes"]
    assert [found["kind"] for found in engine.objects()] == ["PersistentVolume", "PersistentVolumeClaim"]
    assert claim_name("r1", arguments(key=Role(None)), "weights") != claim_name("r1", arguments(), "weights")

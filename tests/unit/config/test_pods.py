"""What a stack file may set on pods: with Kubernetes' types, on every kind of pod, and never in conflict with our own
settings."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from config.abilities import CLOUDS
from config.json_schema import schema
from planning import kubernetes_pods
from tests.support import schemas, volcengine
from tests.support.program import run_program
from tests.support.recorder import Recorder
from tests.support.stack_files import StackFile, with_values
from tests.support.volcengine import GATEWAY, GATEWAY_TYPE, SERVICE
from tests.support.ways import WAYS, secrets
from watch.cache_state import CacheReader

ACS = StackFile("acs")
NODES = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [
            {"matchExpressions": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["x"]}]}
        ]
    }
}
ADDRESS = "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type"
SERIES = "alibabacloud.com/gpu-model-series"
PLACED = {
    "imagePullSecrets": [{"name": "pull"}],
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "nodeSelector": {"pool": "llm"},
}
WHOLE = PLACED | {
    "affinity": {"podAntiAffinity": {}},
    "priorityClassName": "production",
    "serviceAccountName": "llm",
    "schedulerName": "volcano",
    "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
    "volumes": [{"name": "ca", "configMap": {"name": "company-ca"}}],
    "volumeMounts": [{"name": "ca", "mountPath": "/etc/company", "readOnly": True}],
}
WORKLOADS = ("LeaderWorkerSet", "RayClusterFleet", "Job")
MARKED = {"labels": {"team": "llm"}, "annotations": {"note": "mine"}}


def test_the_catalogs_types_are_those_of_the_pinned_kubernetes():
    roots = ("LocalObjectReference", "Toleration", "Affinity", "Volume", "VolumeMount")
    found = schemas.types(*roots, "PodSecurityContext", "SecurityContext")
    assert found == kubernetes_pods.types()
    for dotted in kubernetes_pods.values():
        name, field = dotted.split(".")
        assert field in [key.removesuffix("!") for key in found[name]], dotted


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        ({"imagePullSecrets": [{"nam": "x"}]}, "imagePullSecrets[0].nam: x: unknown key; did you mean name?"),
        ({"imagePullSecrets": [{}]}, "imagePullSecrets[0].name: is missing; write a Secret's name"),
        (
            {"tolerations": [{"operator": "Exist"}]},
            "tolerations[0].operator: Exist: is not one of the known values; wri",
        ),
        ({"tolerations": [{"tolerationSeconds": "5"}]}, "tolerations[0].tolerationSeconds: 5: is not a whole number"),
        ({"nodeSelector": {"a": 1}}, "nodeSelector.a: 1: is a number, not text"),
        (
            {"nodeSelector": {SERIES: "x"}},
            f"nodeSelector.{SERIES}: x: is a label by which the program chooses nodes; leave",
        ),
        ({"affinity": {"nodeAffinty": {}}}, "affinity.nodeAffinty: {}: unknown key; did you mean nodeAffinity?"),
        ({"priorityClassName": "High"}, "priorityClassName: High: is not a PriorityClass's name (DNS-1123: lower-case"),
        ({"securityContext": {"runAsUser": "0"}}, "securityContext.runAsUser: 0: is not a whole number"),
        ({"hostNetwork": True}, "hostNetwork: true: unknown key; known here: affinity"),
        (
            {"volumes": [{"name": "shm", "emptyDir": {}}], "volumeMounts": [{"name": "shm", "mountPath": "/x"}]},
            "volumes[0].name: shm: is the name of one of the program's volumes; write another name",
        ),
        (
            {"volumes": [{"name": "a"}], "volumeMounts": [{"name": "a", "mountPath": "/x"}]},
            "volumes[0]: a: has 0 sources; write one, such as configMap",
        ),
        (
            {
                "volumes": [{"name": "a", "emptyDir": {"sizeLimit": "1024Mi"}}],
                "volumeMounts": [{"name": "a", "mountPath": "/x"}],
            },
            "volumes[0].emptyDir.sizeLimit: 1024Mi: Kubernetes spells it differently; write 1Gi",
        ),
        (
            {"volumes": [{"name": "a", "emptyDir": {}}]},
            "volumeMounts: volume a is not mounted; add a map with name",
        ),
        *(
            (
                {"volumes": [{"name": "a", "emptyDir": {}}], "volumeMounts": [{"name": "a", "mountPath": path}]},
                f"volumeMounts[0].mountPath: {path}: {said}",
            )
            for path, said in (
                ("/weights/x", "the program uses /weights; write another path"),
                ("/dev", "the program uses /dev/shm; write another path"),
                ("x", "is not an absolute path; write one such as /etc/company"),
            )
        ),
        ({"volumeMounts": [{"name": "b", "mountPath": "/x"}]}, "volumeMounts[0].name: b: is not one of this section's"),
    ],
)
def test_a_mistake_in_a_pod_is_one_line_with_its_remedy(pod: dict[str, Any], said: str):
    (line,) = ACS.lines(ACS.changed(services__ds__pod=pod))
    assert line.startswith(f"modelserve:services.ds.pod.{said}")


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        (
            ACS,
            {"weights/sync/pod": {"securityContext": {"runAsUser": 5}}},
            "weights.sync.pod.securityContext.runAsUser",
        ),
        (
            ACS,
            {"weights/sync/pod": {"annotations": {"pulumi.com/x": "1"}}},
            "weights.sync.pod.annotations.pulumi.com/x",
        ),
        (ACS, {"cache/pod": {"affinity": {}}}, "cache.pod.affinity: {}: unknown key"),
        (
            ACS,
            {"services/ds/serviceAnnotations": {"pulumi.com/skipAwait": "x"}},
            "services.ds.serviceAnnotations.pulumi",
        ),
        (
            ACS,
            {"services/ds/serviceAnnotations": {ADDRESS: "x"}},
            f"services.ds.serviceAnnotations.{ADDRESS}: x: is set by the program from expose",
        ),
        (
            volcengine.FILE,
            {f"{SERVICE}/pod": {"affinity": {"nodeAffinity": NODES}}},
            "services.deepseek-r1-671b.pod.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
            ".nodeSelectorTerms[0].matchExpressions[0].key: node.kubernetes.io/instance-type: is a label by",
        ),
        (
            volcengine.FILE,
            {f"{SERVICE}/pod": {"securityContext": {"runAsNonRoot": True}}},
            "services.deepseek-r1-671b.pod.securityContext.runAsNonRoot: true: in the same pod, root checks",
        ),
        (
            volcengine.FILE,
            {f"{SERVICE}/pod": {"containerSecurityContext": {"capabilities": {"drop": ["IPC_LOCK"]}}}},
            "services.deepseek-r1-671b.pod.containerSecurityContext.capabilities.drop: IPC_LOCK: RDMA needs it",
        ),
    ],
)
def test_what_fights_with_the_programs_own_is_refused(file: StackFile, values: dict[str, Any], said: str):
    (line,) = file.lines(file.changed(**values))
    assert line.startswith(f"modelserve:{said}")


def _asking(way: str) -> dict[str, Any]:
    """The way's file with every setting on every kind of pod that it has."""
    file = WAYS[way]
    (name,) = file["services"]
    values: dict[str, object] = {f"services/{name}/pod": WHOLE}
    if "sync" in file["weights"]:
        values["weights/sync/pod"] = WHOLE | MARKED
    if file.get("cache", {}).get("engine") == "fluid":
        values["cache/pod"] = PLACED | MARKED
    return with_values(file, values)


@functools.cache
def _objects(way: str, asked: bool) -> list[dict[str, Any]]:
    engine = Recorder(preview=True)
    engine.found |= {GATEWAY_TYPE: GATEWAY}
    with pytest.MonkeyPatch.context() as patch, volcengine.apart():
        patch.setattr(CacheReader, "_read", lambda *_: None)
        run_program(engine, _asking(way) if asked else WAYS[way], secrets=secrets(way), made={})
    return engine.objects()


def _templates(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if isinstance(value.get("spec"), dict) and "containers" in value["spec"]:
            yield value
        for below in value.values():
            yield from _templates(below)
    elif isinstance(value, list):
        for below in value:
            yield from _templates(below)


def _ours(way: str, asked: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod templates that we build ourselves, without AIBrix's."""
    for made in _objects(way, asked):
        if made["kind"] in WORKLOADS:
            yield from ((made["kind"], template) for template in _templates(made))


ASKED = ["local", "acs", "acs, stream", "volcengine", "volcengine, lws", "volcengine, claim", "volcengine, disk"]


@pytest.mark.parametrize("way", ASKED)
def test_every_pod_of_a_stack_has_what_its_cluster_asks_and_is_still_one(way: str):
    found = list(_ours(way, asked=True))
    assert len(found) > len(WAYS[way]["services"])
    for _, template in found:
        spec = template["spec"]
        for key in ("imagePullSecrets", "tolerations", "affinity", "priorityClassName", "serviceAccountName"):
            assert spec[key] == WHOLE[key], key
        assert spec["nodeSelector"].items() >= WHOLE["nodeSelector"].items()
        assert spec["securityContext"].items() >= WHOLE["securityContext"].items()
        assert WHOLE["volumes"][0] in spec["volumes"]
        assert WHOLE["volumeMounts"][0] in spec["containers"][0]["volumeMounts"]
    made_here = [made for made in _objects(way, asked=True) if made["kind"] in (*WORKLOADS, "JindoRuntime", "DataLoad")]
    assert [problem for made in made_here for problem in schemas.problems(made)] == []
    for made in made_here:
        if made["kind"] == "DataLoad":
            assert made["spec"]["tolerations"] == PLACED["tolerations"]
        if made["kind"] == "JindoRuntime":
            worker = made["spec"]["worker"]
            assert made["spec"]["imagePullSecrets"] == PLACED["imagePullSecrets"]
            assert worker["tolerations"] == PLACED["tolerations"] and worker["nodeSelector"] == PLACED["nodeSelector"]
            assert worker["podMetadata"]["labels"].items() >= MARKED["labels"].items()
            assert worker["podMetadata"]["annotations"].items() >= MARKED["annotations"].items()


@pytest.mark.parametrize("way", WAYS)
def test_every_volume_and_folder_of_ours_is_known_to_be_ours(way: str):
    for kind, template in _ours(way, asked=False):
        owned = kubernetes_pods.SYNC if kind == "Job" else kubernetes_pods.ENGINE
        spec = template["spec"]
        assert {volume["name"] for volume in spec["volumes"]} <= set(owned.volumes)
        mounts = [m for each in (*spec["containers"], *spec.get("initContainers", [])) for m in each["volumeMounts"]]
        assert [
            m["mountPath"] for m in mounts if not any(kubernetes_pods.hidden(f, m["mountPath"]) for f in owned.folders)
        ] == []
        assert set(spec.get("nodeSelector", {})) <= {label for can in CLOUDS.values() for label in can.node_labels}


def test_an_editor_knows_kubernetes_types_too():
    judge = Draft202012Validator(schema())
    asked = _asking("acs")
    file = {"config": {f"modelserve:{key}": value for key, value in asked.items()}}
    assert [error.message for error in judge.iter_errors(file)] == []
    asked["services"]["ds"]["pod"] = {"tolerations": [{"operatr": "Exists"}]}
    assert not judge.is_valid({"config": {f"modelserve:{key}": value for key, value in asked.items()}})


def test_a_services_annotations_are_on_its_service_and_leave_ours():
    mine = {"example.com/a": "b"}
    for way in ("local", "volcengine"):
        (name,) = WAYS[way]["services"]
        file = with_values(WAYS[way], {f"services/{name}/serviceAnnotations": mine})
        engine = Recorder(preview=True)
        engine.found |= {GATEWAY_TYPE: GATEWAY}
        with volcengine.apart():
            run_program(engine, file, secrets=secrets(way), made={})
        services = [each for each in engine.objects() if each["kind"] == "Service"]
        (front,) = [each for each in services if each["metadata"]["labels"]["app.kubernetes.io/instance"] == name]
        assert front["metadata"]["annotations"] == {**mine, "pulumi.com/skipAwait": "true"}

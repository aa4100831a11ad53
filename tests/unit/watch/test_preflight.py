"""Which objects in a cluster the preflight refuses, which owner it names, and that missing answers cause no refusal."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from components.cluster.cluster_addons import Addon
from components.cluster.kubernetes import labels
from config.errors import ConfigError
from config.judge import parse
from tests.support import volcengine
from tests.support.program import merged
from tests.support.recorder import STACK, Recorder
from tests.support.stack_files import StackFile
from tests.unit.config.test_bucket_auth import OIDC
from tests.unit.stacks import test_acs as acs
from watch import preflight
from watch.api_server import IDENTITY, UnansweredError
from watch.preflight import Wanted, check, elsewhere, plural, wanted_of

ACS = parse(StackFile("acs").whole)
MODEL = "deepseek-r1"
CONFIG = Wanted("v1", "ConfigMap", "default", "ds-launch", "ds")
SERVICE = Wanted("v1", "Service", "default", "ds-leader", "ds")
VOLUME = Wanted("v1", "PersistentVolume", None, "models", MODEL)
DATASET = Wanted("data.fluid.io/v1alpha1", "Dataset", "default", MODEL, MODEL)
JOB = Wanted("batch/v1", "Job", "default", f"{MODEL}-sync", f"{MODEL}-sync")
LWS = Addon(name="lws", chart="./lws-0.9.0.tgz", version="0.9.0", namespace="lws-system")
KUBERAY = "/apis/apps/v1/deployments"
GATEWAY = "/apis/gateway.networking.k8s.io/v1/namespaces/aibrix-system/gateways/aibrix-eg"
POLICIES = "/apis/gateway.envoyproxy.io/v1alpha1/namespaces/aibrix-system/clienttrafficpolicies"


class Cluster:
    """Stands in for the API server. `objects` by the path of their list; a path in `refused` is answered with that."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {}
        self.single: dict[str, dict[str, Any]] = {}
        self.refused: dict[str, UnansweredError] = {}
        self.asked: list[str] = []
        self.state: set[str] = set()

    def put(self, wanted: Wanted, **metadata: Any) -> None:
        self.objects.setdefault(wanted.place, []).append({"metadata": {"name": wanted.name, **metadata}})

    def release(self, description: str, version: str = "0.9.0", app_version: str = "v0.9.0", number: int = 1) -> None:
        chart = {"metadata": {"version": version, "appVersion": app_version}}
        record = {"info": {"description": description}, "chart": chart}
        packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(record).encode()))).decode()
        secret = {"metadata": {"labels": {"version": str(number)}}, "data": {"release": packed}}
        self.objects.setdefault("/api/v1/namespaces/lws-system/secrets", []).append(secret)

    def __call__(self, context: str, kubeconfig: str | None) -> Cluster:
        return self

    def answers(self, questions: list[tuple[str, str]]) -> list[Mapping[str, Any] | UnansweredError]:
        self.asked += [path for path, _ in questions if path != IDENTITY[0]]
        return [self._answer(urlsplit(path).path, parse_qs(urlsplit(path).query)) for path, _ in questions]

    def _answer(self, path: str, query: Mapping[str, list[str]]) -> Mapping[str, Any] | UnansweredError:
        if path in self.refused:
            return self.refused[path]
        if path in self.single:
            return self.single[path]
        named = query.get("fieldSelector", ["metadata.name="])[0].removeprefix("metadata.name=")
        found = [each for each in self.objects.get(path, ()) if named in ("", each["metadata"].get("name"))]
        return {"items": found or None}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(preflight, "ApiServer", made)
    monkeypatch.setattr(preflight, "in_state", lambda stack: made.state)
    return made


def lines(*wanted: Wanted, addons: Collection[Addon] = (), config: Any = ACS) -> list[str]:
    """The refusals as printed, and the messages about what could not be read."""
    refused, unread, _ = check(config, STACK, None, wanted, list(addons))
    return [*(ConfigError(refused).lines if refused else ()), *([unread] if unread else ())]


@pytest.mark.parametrize(
    ("recorded", "seen", "refused"),
    [("a", "b", True), ("a", "a", False), (None, "b", False), ("a", None, False)],
)
def test_only_a_cluster_that_is_known_to_be_another_is_refused_by_name(recorded, seen, refused):
    wrong = elsewhere(ACS, STACK, recorded, seen)
    assert (wrong is not None) is refused
    if wrong:
        assert (wrong.key, wrong.why) == ("cluster.context", f"is the cluster b, and stack {STACK} is in a")


def test_a_check_tells_which_cluster_it_has_asked(cluster: Cluster):
    cluster.single[IDENTITY[0]] = {"metadata": {"uid": "of-this-one"}}
    assert check(ACS, STACK, None, [], [])[2] == "of-this-one"
    cluster.refused[IDENTITY[0]] = UnansweredError("HTTP 403", 403)
    assert check(ACS, STACK, None, [], [])[2] is None


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        ({"labels": labels("other", "ds")}, "stack other"),
        (
            {"annotations": {"meta.helm.sh/release-name": "r", "meta.helm.sh/release-namespace": "n"}},
            "Helm release n/r",
        ),
        ({"ownerReferences": [{"kind": "Fleet", "name": "f", "controller": True}]}, "Fleet f"),
        ({"labels": {"app.kubernetes.io/managed-by": "argo"}}, "argo, by its label"),
        ({"managedFields": [{"manager": "kubectl"}, {"manager": "argo"}, {}]}, "field manager argo and kubectl"),
        ({"labels": {"modelserve.dev/stack": STACK}}, "an unknown owner"),
        ({}, "an unknown owner"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_who_holds_a_name_is_told_by_what_tells_it_best(cluster: Cluster, metadata: dict[str, Any], owner: str):
    cluster.put(CONFIG, **metadata)
    (line,) = lines(CONFIG)
    assert line.startswith(
        f"modelserve:services.ds: ConfigMap default/ds-launch: exists already, held by {owner}; "
        "give the service another name, "
    )


def test_one_owner_of_one_part_is_one_line_whatever_he_has_of_it(cluster: Cluster):
    more = [replace(CONFIG, name=f"ds-{number}") for number in range(3)]
    for each in (*more, SERVICE):
        cluster.put(each, labels=labels("other", "ds"))
    for each in (VOLUME, DATASET):
        cluster.put(each)
    cluster.put(JOB, labels=labels("other", "x"))
    assert lines(*more, SERVICE, VOLUME, DATASET, JOB) == [
        "modelserve:services.ds: ConfigMap default/ds-0, ConfigMap default/ds-1, ConfigMap default/ds-2 and 1 more: "
        "exist already, held by stack other; give the service another name, or take it out there",
        f"modelserve:services.ds.model: Dataset default/{MODEL}, PersistentVolume models: exist already, held by an "
        "unknown owner; write another cluster.namespace, remove them, or take them over with `pulumi import`",
        f"modelserve:services.ds.model: Job default/{MODEL}-sync: exists already, held by stack other; write another "
        "cluster.namespace, or take it out there",
    ]


def test_what_is_ours_by_label_or_in_our_state_or_only_a_neighbour_is_not_in_the_way(cluster: Cluster):
    cluster.put(CONFIG, labels=labels(STACK, "ds"))
    cluster.put(SERVICE)
    cluster.put(replace(SERVICE, name="neighbour"))
    cluster.put(VOLUME)
    cluster.release("Upgrade complete")
    cluster.state = {"Service default/ds-leader", "PersistentVolume models", "Release lws-system/lws"}
    assert lines(CONFIG, SERVICE, replace(SERVICE, name="another"), VOLUME, addons=[LWS]) == []


def test_a_kind_and_namespace_is_asked_for_once_and_by_name_where_that_is_one(cluster: Cluster):
    lines(CONFIG, replace(CONFIG, name="b"), replace(CONFIG, namespace="far"), VOLUME)
    assert cluster.asked == [
        "/api/v1/namespaces/default/configmaps",
        "/api/v1/namespaces/far/configmaps?fieldSelector=metadata.name%3Dds-launch",
        "/api/v1/persistentvolumes?fieldSelector=metadata.name%3Dmodels",
    ]


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ({}, []),
        ({DATASET.place: UnansweredError("HTTP 404", 404)}, []),
        (
            {CONFIG.place: UnansweredError("HTTP 403", 403), DATASET.place: UnansweredError("HTTP 403", 403)},
            [
                "the cluster of context acs does not tell configmaps in default (HTTP 403), datasets in default "
                "(HTTP 403): whether names of this stack are taken there is unknown"
            ],
        ),
        (
            {each.place: UnansweredError("Connection refused") for each in (CONFIG, DATASET)},
            [
                "the cluster of context acs does not answer (Connection refused): whether names of this stack are "
                "taken there is unknown"
            ],
        ),
    ],
    ids=["free", "unknown kind", "forbidden", "unreachable"],
)
def test_what_cannot_be_read_is_a_line_and_no_reason_to_refuse(
    cluster: Cluster, refused: dict[str, UnansweredError], said: list[str]
):
    cluster.refused = refused
    assert lines(CONFIG, DATASET, config=parse(merged(StackFile("acs").whole, {"cluster": {"context": "acs"}}))) == said


@pytest.mark.parametrize(
    ("addon", "found", "said"),
    [
        (LWS, {}, ""),
        (LWS, {"description": f"modelserve stack {STACK}"}, ""),
        (
            LWS,
            {"description": "modelserve stack other"},
            "addons.lws: Release lws-system/lws: exists already, held by stack other; write install: adopt or false",
        ),
        (
            replace(LWS, name="envoy-gateway", version="1.2.8"),
            {"description": "Install complete"},
            "addons.aibrix: Release lws-system/envoy-gateway: exists already, held by somebody else; write install: f",
        ),
        (replace(LWS, adopt=True), {"description": "Install complete"}, ""),
        (
            replace(LWS, adopt=True),
            {"description": "", "version": "0.1.0", "app_version": "v0.5.1"},
            "addons.lws.version: 0.9.0: the adopted release lws-system/lws holds v0.5.1, the stack says 0.9.0; write",
        ),
        (
            replace(LWS, adopt=True),
            {},
            "addons.lws.install: adopt: the cluster has no release lws-system/lws that is deployed; write true",
        ),
    ],
)
def test_a_release_of_an_add_on_is_ours_or_adopted_as_it_is_or_refused(
    cluster: Cluster, addon: Addon, found: dict[str, str], said: str
):
    if found:
        cluster.release("Install complete", "0.0.1", "v0.0.1")
        cluster.release(**found, number=12)  # type: ignore[arg-type]
    refused = lines(addons=[addon])
    assert [line.startswith(f"modelserve:{said}") for line in refused] == [True] * bool(said), refused


def test_a_release_that_cannot_be_read_is_not_judged(cluster: Cluster):
    secret = {"metadata": {"labels": {"version": "1"}}, "data": {"release": "bm8="}}
    cluster.objects["/api/v1/namespaces/lws-system/secrets"] = [secret]
    assert lines(addons=[LWS, replace(LWS, adopt=True)]) == []


@pytest.mark.parametrize(
    ("said", "known"),
    [
        (
            [
                {"type": "kubernetes:core/v1:Service", "inputs": {"metadata": {"namespace": "default", "name": "a"}}},
                {"type": "kubernetes:core/v1:PersistentVolume", "inputs": {"metadata": {"name": "b"}}},
                {"type": "kubernetes:helm.sh/v3:Release", "inputs": {"namespace": "lws-system", "name": "lws"}},
                {"type": "pulumi:providers:kubernetes", "inputs": {}},
            ],
            {"Service default/a", "PersistentVolume b", "Release lws-system/lws"},
        ),
        (None, set()),
    ],
    ids=["read", "empty"],
)
def test_the_state_is_what_pulumi_exports_of_this_stack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: object, known: set[str]
):
    tool = tmp_path / "pulumi"
    tool.write_text(
        f"#!/bin/sh\n[ \"$4\" = mine ] && cat <<'END'\n{json.dumps({'deployment': {'resources': said}})}\nEND\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert preflight.in_state("mine") == known
    assert preflight.in_state("another") == set()
    monkeypatch.setenv("PATH", "")
    assert preflight.in_state("mine") == set()


def deployment(namespace: str) -> dict[str, Any]:
    container = {"name": "c", "image": "quay.io/kuberay/operator:v1.3.0"}
    spec = {"replicas": 1, "template": {"spec": {"containers": [container]}}}
    return {"metadata": {"name": "operator", "namespace": namespace}, "spec": spec}


def test_another_kuberay_operator_is_refused_with_its_place_and_its_own_is_not(cluster: Cluster):
    config = parse(StackFile("volcengine").whole)
    for places, refused in (
        (["aibrix-system"], False),
        (["aibrix-system", "ray-system"], True),
    ):
        cluster.objects = {KUBERAY: [deployment(place) for place in places]}
        said = "aibrix: another KubeRay operator runs in this cluster, ray-system/operator, and two fight"
        assert [said in line for line in lines(config=config)] == [True] * refused
    assert cluster.asked == [KUBERAY] * 2


ROLES = StackFile("acs").changed(cache={"engine": "none"}, cluster__oidc=OIDC)


@pytest.mark.parametrize(
    ("image", "refused"),
    [
        ("registry-cn-hangzhou.ack.aliyuncs.com/acs/csi-plugin:v1.30.3-921e63a-aliyun", True),
        ("registry-cn-hangzhou.ack.aliyuncs.com/acs/csi-plugin:v1.30.4-0f5ba8c-aliyun", False),
        ("registry.example/csi-plugin:mine", False),
    ],
)
@pytest.mark.parametrize("kind", ["deployments", "daemonsets"])
def test_a_driver_whose_mounts_take_no_role_is_refused_where_the_cluster_shows_it(
    cluster: Cluster, kind: str, image: str, refused: bool
):
    found = deployment("kube-system")
    found["spec"]["template"]["spec"]["containers"] = [
        {"name": "sidecar", "image": "a/b:v1.0.0"},
        {"name": "c", "image": image},
    ]
    cluster.objects = {f"/apis/apps/v1/namespaces/kube-system/{kind}": [found]}
    said = lines(config=parse(ROLES))
    assert len(said) == refused and all("weights.bucket.auth: rrsa: the cluster's CSI driver" in line for line in said)


def test_a_driver_that_nobody_may_look_at_is_no_reason_to_refuse_and_is_asked_for_only_where_mounts_take_roles(
    cluster: Cluster,
):
    places = [f"/apis/apps/v1/namespaces/kube-system/{kind}" for kind in ("deployments", "daemonsets")]
    cluster.refused = dict.fromkeys(places, UnansweredError("Forbidden", 403))
    assert lines(config=parse(ROLES)) == [] and set(places) <= set(cluster.asked)
    cluster.asked = []
    assert lines(config=ACS) == [] and not set(places) & set(cluster.asked)


@pytest.mark.parametrize("aibrix", [{"install": False}, {"kuberay": "none"}])
def test_who_brings_no_kuberay_asks_for_none(aibrix: dict[str, Any], cluster: Cluster):
    cluster.objects = {KUBERAY: [deployment("ray-system")]}
    cluster.refused = {GATEWAY: UnansweredError("HTTP 404", 404)}
    assert lines(config=parse(StackFile("volcengine").changed(addons__aibrix=aibrix))) == []
    assert KUBERAY not in cluster.asked


SAID = (
    "modelserve:addons.aibrix.install: false: the gateway aibrix-system/aibrix-eg sends a request wherever its client "
    "says by the header target-pod; "
)
SPEC = "headers: {earlyRequestHeaders: {remove: [target-pod]}}"
ELSE = ", or take gateway out of the services"


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ([{"headers": {"earlyRequestHeaders": {"remove": ["x-other", "Target-Pod"]}}}], []),
        ([{"connection": {}}], [f"{SAID}add in the cluster to the spec of its ClientTrafficPolicy aibrix-system/p0: "]),
        ([], [f"{SAID}write in the cluster a ClientTrafficPolicy for it in aibrix-system, with "]),
        (
            UnansweredError("HTTP 404", 404),
            [f"{SAID}write in the cluster a ClientTrafficPolicy for it in aibrix-system, with "],
        ),
        (
            UnansweredError("HTTP 403", 403),
            [
                "the cluster of context vke does not tell clienttrafficpolicies in aibrix-system (HTTP 403): whether "
                "clients of its gateway can send requests anywhere is unknown"
            ],
        ),
    ],
    ids=["taken", "not taken", "no policy", "no such kind", "forbidden"],
)
def test_a_model_is_not_put_behind_somebody_elses_gateway_whose_clients_steer_it(
    cluster: Cluster, policies: list[dict[str, Any]] | UnansweredError, said: list[str]
):
    cluster.single = {GATEWAY: {"metadata": {"name": "aibrix-eg"}, "spec": {"listeners": [{"name": "http"}]}}}
    if isinstance(policies, UnansweredError):
        cluster.refused = {POLICIES: policies}
    else:
        target = {"targetRefs": [{"kind": "Gateway", "name": "aibrix-eg"}]}
        cluster.objects = {
            POLICIES: [
                {"metadata": {"name": f"p{place}"}, "spec": target | spec} for place, spec in enumerate(policies)
            ]
        }
    file = StackFile("volcengine")
    expected = [f"{line}{SPEC}{ELSE}" if line.startswith(SAID) else line for line in said]
    assert lines(config=parse(file.changed(addons__aibrix={"install": False}))) == expected
    cluster.asked.clear()
    assert lines(config=parse(file.whole)) == []  # its own, which the program writes the policy of
    service = "services__deepseek-r1-671b"
    alone = {f"{service}__gateway": "none", f"{service}__routing": ..., "monitoring": ...}
    assert lines(config=parse(file.changed(addons__aibrix={"install": False}, **alone))) == []
    assert not {GATEWAY, POLICIES} & {*cluster.asked}


@pytest.mark.parametrize(
    ("engine", "path", "said"),
    [
        (
            "keda",
            "/apis/keda.sh/v1alpha1",
            "keda: the cluster has no ScaledObject, a kind of KEDA's; install KEDA in",
        ),
        ("hpa", "/apis/custom.metrics.k8s.io", "hpa: nothing in the cluster hands it Prometheus' metrics; install a"),
    ],
)
def test_an_autoscaler_that_the_cluster_lacks_is_refused_by_name(cluster: Cluster, engine: str, path: str, said: str):
    scaled = {"engine": engine, "maximum": 2, **({"prometheus": "http://p.m:9090"} if engine == "keda" else {})}
    config = parse(StackFile("acs").changed(services__ds__autoscaling=scaled, monitoring={"enabled": True}))
    assert lines(config=config) == [] and path in cluster.asked
    cluster.refused[path] = UnansweredError("HTTP 403", 403)
    (unread,) = lines(config=config)
    assert "does not tell" in unread
    cluster.refused[path] = UnansweredError("HTTP 404", 404)
    (line,) = lines(config=config)
    assert line.startswith(f"modelserve:services.ds.autoscaling.engine: {said}")
    assert lines() == []  # nobody asks for it


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ScaledObject", "scaledobjects"),
        ("HorizontalPodAutoscaler", "horizontalpodautoscalers"),
        ("LeaderWorkerSet", "leaderworkersets"),
        ("JindoRuntime", "jindoruntimes"),
        ("NetworkPolicy", "networkpolicies"),
        ("EnvoyPatchPolicy", "envoypatchpolicies"),
        ("GatewayClass", "gatewayclasses"),
        ("EnvoyProxy", "envoyproxies"),
    ],
)
def test_paths_name_kinds_as_the_api_server_does(kind: str, name: str):
    assert plural(kind) == name


def test_every_object_of_ours_is_told_from_others_and_its_refusal_names_a_key_of_the_stack_file(engine: Recorder):
    acs.run(engine)
    made = engine.objects()
    other = Recorder(preview=False)
    volcengine.run(other)
    for config, objects in ((ACS, made), (parse(volcengine.stack_file()), other.objects())):
        assert len(objects) > 5
        for manifest in objects:
            wanted = wanted_of(manifest)
            assert wanted is not None
            ours, theirs = ({wanted: each} for each in (manifest["metadata"], {"name": wanted.name}))
            assert preflight.problems(config, STACK, preflight.Findings(ours), []) == [], wanted
            (problem,) = preflight.problems(config, STACK, preflight.Findings(theirs), [])
            whole = "cluster.namespace" if wanted.part == "monitoring" else ("services.", "addons.aibrix")
            assert problem.key.startswith(whole), (wanted, problem.key)

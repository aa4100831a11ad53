"""AIBrix's objects: which ones the program takes from its manifests, how it rewrites them, and the order in which it
creates and deletes them."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml

from components.cluster.aibrix import (
    Aibrix,
    AibrixArgs,
    crds,
    gateway_addon,
    images,
    inner_headers,
    kinds_addon,
    kinds_chart,
    objects,
    other_kuberay,
)
from components.cluster.cluster_addons import ClusterAddons, ClusterAddonsArgs, release_inputs
from components.cluster.kubernetes import Manifest, labels
from local.paths import ROOT
from planning.aibrix_features import route_paths
from planning.catalog import fact
from planning.images import Images
from planning.problems import Refused
from tests.support.recorder import Recorder, inputs

DATA = ROOT / "tests" / "data" / "aibrix"
PRIVATE = fact("aibrix_install", "gateway", "volcenginePrivate")


def manifest(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((DATA / f"{name}.yaml").read_text()))


NEW = AibrixArgs(
    stack="test",
    version="0.7.0",
    documents={part: manifest(f"{part}-0.7.0") for part in ("core", "crds", "dependency")},
    request_seconds=3600,
    drain_seconds=420,
)
OLD = replace(NEW, version="0.2.1", documents={"core": manifest("core-0.2.1")})


def one(args: AibrixArgs, kind: str, name: str = "") -> Manifest:
    (found,) = (each for each in objects(args) if each["kind"] == kind and name in each["metadata"]["name"])
    return found


def container(args: AibrixArgs, deployment: str) -> dict[str, Any]:
    return one(args, "Deployment", deployment)["spec"]["template"]["spec"]["containers"][0]


def names(manifests: Sequence[Manifest]) -> set[str]:
    return {each["metadata"]["name"] for each in manifests}


def pulled(args: AibrixArgs) -> set[str]:
    """The images of all objects, wherever they stand."""

    def below(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(below, value))
        if not isinstance(value, dict):
            return set()
        own = {value["image"]} if "image" in value else set()
        return own.union(*map(below, value.values()))

    return below(objects(args))


@pytest.mark.parametrize("args", [OLD, NEW], ids=["old", "new"])
def test_kinds_are_apart_and_of_the_dependencies_only_rays_are_taken(args: AibrixArgs):
    assert names(crds(args)) == {"rayclusterfleets.orchestration.aibrix.ai", "rayclusters.ray.io"}
    assert not [each for each in objects(args) if each["kind"] == "CustomResourceDefinition"]
    assert "envoy-gateway-system" not in names(objects(args))


def test_a_kind_is_as_released_without_what_only_the_server_writes():
    (fleet,) = (each for each in crds(NEW) if each["spec"]["group"] != "ray.io")
    assert fleet["metadata"] == {"name": "rayclusterfleets.orchestration.aibrix.ai"}
    assert "status" not in fleet


def test_every_object_says_whose_it_is_and_selectors_stay():
    for each in objects(NEW):
        assert each["metadata"]["labels"].items() >= labels("test", "aibrix").items(), each["metadata"]["name"]
    service = one(NEW, "Service")
    assert service["metadata"]["labels"]["app"] == "redis"
    assert service["spec"]["selector"] == {"app": "redis"}
    template = one(NEW, "Deployment", "redis")["spec"]["template"]
    assert template["metadata"] == {"labels": {"app": "redis"}}


def test_the_documents_that_were_given_are_left_as_they_are():
    before = manifest("core-0.7.0")
    objects(replace(NEW, registry="r.example", service_annotations=PRIVATE))
    assert NEW.documents["core"] == before


def test_a_cluster_wide_object_has_no_namespace():
    assert "namespace" not in one(NEW, "GatewayClass")["metadata"]
    assert one(NEW, "Gateway")["metadata"]["namespace"] == "aibrix-system"


def test_all_images_come_from_the_registry_under_their_own_names():
    assert pulled(replace(NEW, registry="r.example/mirror/")) == {
        "r.example/mirror/aibrix/controller-manager:v0.7.0",
        "r.example/mirror/aibrix/gateway-plugins:v0.7.0",
        "r.example/mirror/aibrix/kuberay-operator:v1.2.1-patch-20250726",
        "r.example/mirror/busybox:1.37.0",
        "r.example/mirror/redis:7.4",
        "r.example/mirror/envoyproxy/envoy:v1.33.2",
        "r.example/mirror/envoyproxy/gateway:v1.2.8",
    }


def test_an_old_release_that_leaves_envoys_image_to_its_gateway_gets_it_from_the_registry_too():
    proxy = one(replace(OLD, registry="r.example"), "EnvoyProxy")
    deployment = proxy["spec"]["provider"]["kubernetes"]["envoyDeployment"]
    assert deployment["container"]["image"] == "r.example/envoyproxy/envoy:distroless-v1.31.0"
    assert deployment["container"]["resources"] == {"requests": {"cpu": 1}}


def test_what_a_release_leaves_unpinned_is_pinned_and_an_image_may_be_any_other():
    args = replace(NEW, images={"redis": "mine.example/redis@sha256:1", "envoyproxy/gateway": "g.example/eg:1"})
    assert pulled(args) >= {"mine.example/redis@sha256:1", "busybox:1.37.0", "aibrix/controller-manager:v0.7.0"}
    assert "g.example/eg:1" in pulled(args)
    assert "envoyproxy/gateway" in {name.rpartition(":")[0].removeprefix("docker.io/") for name in images(OLD)}


def test_an_image_that_aibrix_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(Refused, match=r"image postgres: AIBrix has no such image; write one of aibrix/contr.*, redis"):
        replace(NEW, images={"postgres": "x"})
    with pytest.raises(Refused, match="image aibrix/kuberay-operator: "):
        replace(NEW, images={"aibrix/kuberay-operator": "x"}, kuberay="none")


def test_what_aibrix_fills_in_is_neither_sent_nor_looked_at():
    assert "data" not in one(NEW, "Secret")
    (webhook,) = one(NEW, "MutatingWebhookConfiguration")["webhooks"]
    assert webhook["clientConfig"] == {"service": {"name": "aibrix-webhook-service", "namespace": "aibrix-system"}}
    recorder, _ = run(NEW)
    assert list(recorder.one("Secret").ignoreChanges) == ["data"]
    assert list(recorder.one("MutatingWebhookConfiguration").ignoreChanges) == ["webhooks[*].clientConfig.caBundle"]


@pytest.mark.parametrize(
    ("args", "gates"),
    [(OLD, "RayClusterStatusConditions=true"), (NEW, "Another=true,RayClusterStatusConditions=true")],
    ids=["old", "new"],
)
def test_the_ray_operator_reports_conditions_and_injects_no_probes(args: AibrixArgs, gates: str):
    operator = container(args, "kuberay")
    assert [each for each in operator["args"] if each.startswith("--feature-gates=")] == [f"--feature-gates={gates}"]
    assert operator["env"] == [{"name": "ENABLE_PROBES_INJECTION", "value": "false"}]
    assert container(NEW, "kuberay")["args"][1:] == ["--enable-leader-election=true"]


def test_without_its_ray_operator_nothing_of_it_is_left_and_rays_kinds_are_somebody_elses():
    args = replace(NEW, kuberay="none")
    gone = {"aibrix-kuberay-operator", "aibrix-rayservice-viewer-role"}
    assert names(objects(NEW)) - names(objects(args)) == gone
    assert names(crds(NEW)) - names(crds(args)) == {"rayclusters.ray.io"}


def test_a_request_may_last_as_long_as_asked_for_on_every_way_through_the_gateway():
    route, cluster, listener = (
        each["operation"]["value"] for each in one(NEW, "EnvoyPatchPolicy")["spec"]["jsonPatches"]
    )
    assert route["route"] == {
        "cluster": "original_destination_cluster",
        "timeout": "3600s",
        "idle_timeout": "3600s",
    }
    assert cluster["connect_timeout"] == "6s" and listener is False
    assert container(NEW, "controller")["env"] == [
        {"name": "OTHER", "value": "stays"},
        {"name": "AIBRIX_GATEWAY_TIMEOUT_SECONDS", "value": "3600"},
    ]
    assert "env" not in container(OLD, "controller")
    with pytest.raises(Refused, match="request_seconds 0: is too little"):
        replace(NEW, request_seconds=0)


@pytest.mark.parametrize("args", [OLD, NEW], ids=["old", "new"])
def test_no_client_says_which_address_the_gateway_sends_its_request_to(args: AibrixArgs):
    spec = one(args, "ClientTrafficPolicy")["spec"]
    assert spec["headers"] == {"earlyRequestHeaders": {"remove": ["target-pod"]}}
    assert [target["name"] for target in spec["targetRefs"]] == [one(args, "Gateway")["metadata"]["name"]]


def _policy(name: str, removes: bool, target: dict[str, Any], age: str = "2026-01-01", **more: Any) -> dict[str, Any]:
    headers = {"earlyRequestHeaders": {"remove": ["target-pod"]}} if removes else {}
    return {"metadata": {"name": name, "creationTimestamp": age}, "spec": {**target, "headers": headers}, **more}


_WHOLE = {"targetRef": {"kind": "Gateway", "name": "aibrix-eg"}}
_HTTP = {"targetRefs": [{"kind": "Gateway", "name": "aibrix-eg", "sectionName": "http"}]}
_OTHER = {"targetRefs": [{"kind": "Gateway", "name": "another"}]}
_LABELLED = {"targetSelectors": [{"kind": "Gateway", "matchLabels": {"app": "aibrix"}}]}
_REFUSED = {"ancestors": [{"conditions": [{"type": "Accepted", "status": "False"}]}]}


@pytest.mark.parametrize(
    ("policies", "blamed"),
    [
        ([_policy("a", True, _WHOLE)], "nobody"),
        ([_policy("a", True, _HTTP), _policy("b", False, _WHOLE)], "nobody"),
        ([_policy("a", True, _LABELLED)], "nobody"),
        ([_policy("b", False, _WHOLE, "2026-02-01"), _policy("a", True, _WHOLE)], "nobody"),
        ([_policy("b", True, _WHOLE, "2026-02-01"), _policy("a", False, _WHOLE)], "a"),
        ([_policy("a", False, _HTTP, "2026-02-01"), _policy("b", True, _WHOLE)], "a"),
        ([_policy("a", True, _WHOLE, status=_REFUSED)], "a"),
        ([_policy("a", True, _OTHER)], None),
        ([], None),
    ],
)
def test_the_policy_that_a_gateway_takes_has_to_take_the_header_from_clients(
    policies: list[dict[str, Any]], blamed: str | None
):
    gateway = {
        "metadata": {"name": "aibrix-eg", "labels": {"app": "aibrix", "more": "x"}},
        "spec": {"listeners": [{"name": "http"}]},
    }
    assert inner_headers(gateway, policies) == ({} if blamed == "nobody" else {"target-pod": blamed})


def test_a_proxy_ends_when_its_answers_are_given_and_one_is_left_when_a_node_goes():
    for args in (NEW, OLD):
        proxy = one(args, "EnvoyProxy")["spec"]
        assert proxy["shutdown"] == {"drainTimeout": "420s"}
        assert proxy["provider"]["kubernetes"]["envoyDeployment"]["replicas"] == 2
    platform = one(NEW, "EnvoyProxy")["spec"]["provider"]["kubernetes"]
    assert platform["envoyPDB"] == {"minAvailable": 1}
    # A budget that keeps one proxy of one would block every drain of its node.
    assert "envoyPDB" not in one(replace(NEW, replicas=1), "EnvoyProxy")["spec"]["provider"]["kubernetes"]
    for replicas in (1, 2):
        budget = one(replace(NEW, replicas=replicas), "PodDisruptionBudget")["spec"]
        assert (budget.get("minAvailable"), budget["maxUnavailable"]) == (None, 1)


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_plugins_share_what_they_know_and_end_when_envoy_has_let_go_of_them(replicas: int):
    args = replace(NEW, replicas=replicas, registry="r.example")
    spec = one(args, "Deployment", "gateway-plugins")["spec"]
    assert spec["replicas"] == replicas
    (plugin,), (_, tools) = (spec["template"]["spec"][kind] for kind in ("containers", "initContainers"))
    shared = {"name": "AIBRIX_STATESYNC_ENABLED", "value": "true" if replicas > 1 else "false"}
    assert plugin["env"] == [shared]
    assert tools["image"] == "r.example/busybox:1.37.0"
    shell, *command = plugin["lifecycle"]["preStop"]["exec"]["command"]
    (volume,) = spec["template"]["spec"]["volumes"]
    for mount in (*tools["volumeMounts"], *plugin["volumeMounts"]):
        assert (
            (mount["name"], f"{mount['mountPath']}/busybox")
            == (volume["name"], shell)
            == (volume["name"], tools["command"][-1])
        )
    assert command[:2] == ["sh", "-c"]
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > 420


@pytest.mark.parametrize("clients", [0, 1, 2])
def test_the_plugins_hook_waits_for_its_connections_and_no_longer_than_the_longest_answer(clients: int, tmp_path: Path):
    """Really runs the hook, with a shell that counts seconds instead of waiting; one client leaves each second."""
    connected, listening = "0100007F:C384 0100007F:9C40 01 00000000", "00000000:C384 00000000:0000 0A 00000000"
    other = "0100007F:1F90 0100007F:C384 01 00000000"
    table, slept = tmp_path / "tcp", tmp_path / "slept"
    table.write_text("\n".join([listening, other, *[connected] * clients]) + "\n")
    shell = tmp_path / "busybox"
    shell.write_text(
        f"#!/bin/sh\n"
        f'if [ "$1" = sleep ]; then echo "$2" >> {slept}; [ "$2" = 1 ] && sed -i "$ d" {table}; exit 0; fi\n'
        f'exec "$@"\n'
    )
    shell.chmod(0o755)
    *_, hook = container(NEW, "gateway-plugins")["lifecycle"]["preStop"]["exec"]["command"]
    hook = hook.replace("/modelserve-tools/busybox", str(shell)).replace("/proc/net/tcp6", "/dev/null")
    for limit in (420, 1):
        slept.unlink(missing_ok=True)
        table.write_text("\n".join([listening, other, *[connected] * clients]) + "\n")
        subprocess.run(
            ["sh", "-c", hook.replace("left=420", f"left={limit}").replace("/proc/net/tcp", str(table))], check=True
        )
        assert slept.read_text().split() == ["5", *["1"] * min(clients, limit)]


def test_the_plugin_sees_requests_for_every_path_of_ours_and_those_of_the_release_stay():
    before = next(each for each in NEW.documents["core"] if each["kind"] == "HTTPRoute")
    matches = one(NEW, "HTTPRoute")["spec"]["rules"][0]["matches"]
    given = before["spec"]["rules"][0]["matches"]
    assert matches[: len(given)] == given
    values = [match["path"]["value"] for match in matches]
    assert {*route_paths("0.7.0")} <= {*values}
    assert len(values) == len({*values})


def test_a_route_that_takes_every_path_is_left_as_it_is():
    route = {
        "kind": "HTTPRoute",
        "metadata": {"name": "aibrix-reserved-router", "namespace": "aibrix-system"},
        "spec": {"rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]},
    }
    args = replace(OLD, documents={"core": [*OLD.documents["core"], route]})
    assert one(args, "HTTPRoute")["spec"] == route["spec"]


@pytest.mark.parametrize("args", [OLD, NEW], ids=["old", "new"])
def test_with_a_key_the_first_that_a_proxy_does_is_to_ask_for_it_and_only_a_secret_has_it(args: AibrixArgs):
    assert not [each for each in objects(args) if each["metadata"]["name"].endswith("-key")]
    recorder, _ = run(args, "the-key")
    secret = inputs(recorder.one("Secret", "aibrix-gateway-key"))
    place = secret["metadata"]["namespace"], secret["metadata"]["name"]
    assert place == ("envoy-gateway-system", "modelserve-gateway-key")
    ((field, _),) = secret["data"].items()
    assert "data" not in recorder.one("Secret", "aibrix-gateway-key").ignoreChanges
    deployment = inputs(recorder.one("EnvoyProxy"))["spec"]["provider"]["kubernetes"]["envoyDeployment"]
    (volume,) = deployment["pod"]["volumes"]
    (mount,) = deployment["container"]["volumeMounts"]
    assert (volume["name"], volume["secret"]["secretName"]) == (mount["name"], place[1])
    policy = inputs(recorder.one("EnvoyPatchPolicy", "aibrix-envoypatchpolicy-aibrix-eg-key"))
    (patch,) = policy["spec"]["jsonPatches"]
    assert patch["name"] == "aibrix-system/aibrix-eg/http"
    assert patch["operation"]["path"].endswith("/http_filters/0")
    code = patch["operation"]["value"]["typed_config"]["default_source_code"]["inline_string"]
    assert f'io.open("{mount["mountPath"]}/{field}"' in code
    assert "pulumi.com/waitFor" in policy["metadata"]["annotations"]
    everything = json.dumps([inputs(request) for request in recorder.seen.values()], default=str)
    assert "the-key" not in everything
    assert after(recorder, "envoyproxy-aibrix-custom-proxy-config", "aibrix-gateway-key")


@pytest.mark.parametrize("args", [OLD, NEW], ids=["old", "new"])
def test_the_plugin_has_a_minute_for_each_message(args: AibrixArgs):
    assert one(args, "EnvoyExtensionPolicy")["spec"]["extProc"][0]["messageTimeout"] == "60s"


@pytest.mark.parametrize("args", [OLD, NEW], ids=["old", "new"])
def test_the_load_balancer_is_private_where_asked_for(args: AibrixArgs):
    proxy = one(replace(args, service_annotations=PRIVATE), "EnvoyProxy")
    given = {"given": "stays"} if args is NEW else {}
    assert proxy["spec"]["provider"]["kubernetes"]["envoyService"]["annotations"] == {**given, **PRIVATE}
    untouched = one(args, "EnvoyProxy")["spec"]["provider"]["kubernetes"].get("envoyService", {}).get("annotations", {})
    assert untouched == given


def test_a_release_that_cannot_be_installed_or_misses_a_manifest_is_refused():
    with pytest.raises(Refused, match=r"AIBrix 0\.6\.0: its manifests install the images of 0\.5\.0; write 0\.2\.1"):
        replace(NEW, version="0.6.0")
    with pytest.raises(Refused, match=r"AIBrix 0\.9\.0: the catalog does not know which Envoy Gateway it needs"):
        replace(NEW, version="0.9.0")
    with pytest.raises(Refused, match=r"AIBrix 0\.7\.0: the manifest crds is missing"):
        replace(NEW, documents={"core": NEW.documents["core"], "dependency": []})


@pytest.mark.parametrize(("version", "pinned"), [("0.2.1", "v1.1.0"), ("0.7.0", "v1.2.8")])
def test_envoy_gateway_is_the_releases_own_and_takes_patches(version: str, pinned: str):
    addon = gateway_addon(version)
    assert (addon.id, addon.version, addon.operator) == ("envoy-gateway-system/eg", pinned, pinned)
    assert addon.values == {"config": {"envoyGateway": {"extensionApis": {"enableEnvoyPatchPolicy": True}}}}


def test_envoy_gateways_image_comes_from_the_registry_too():
    addon = gateway_addon("0.2.1", Images(registry="r.example"))
    assert addon.values["global"] == {"images": {"envoyGateway": {"image": "r.example/envoyproxy/gateway:v1.1.0"}}}
    assert "config" in addon.values


def deployment(image: str, namespace: str = "kuberay", replicas: int = 1) -> dict[str, Any]:
    spec = {"replicas": replicas, "template": {"spec": {"containers": [{"name": "m", "image": image}]}}}
    return {"metadata": {"name": "op", "namespace": namespace}, "spec": spec}


@pytest.mark.parametrize(
    "image", ["quay.io/kuberay/operator:v1.3.0", "cr.example:5000/vke/kuberay-operator@sha256:1", "kuberay/operator"]
)
def test_another_ray_operator_is_named(image: str):
    assert other_kuberay([deployment("nginx"), deployment(image)]) == "kuberay/op"


@pytest.mark.parametrize(
    "found",
    [
        deployment("aibrix/kuberay-operator:v1.2.1-patch", "aibrix-system"),
        deployment("kuberay/operator:v1.3.0", replicas=0),
        deployment("rayproject/ray:2.40.0"),
        {"metadata": {"name": "bare", "namespace": "x"}},
    ],
)
def test_aibrixs_own_operator_and_one_that_does_not_run_are_no_others(found: dict[str, Any]):
    assert other_kuberay([found]) is None


def run(args: AibrixArgs, key: str | None = None) -> tuple[Recorder, Aibrix]:
    recorder, made = Recorder(preview=True), []

    def program() -> None:
        made.append(Aibrix("aibrix", replace(args, api_key=pulumi.Output.secret(key) if key else None)))

    recorder.run(program)
    return recorder, made[0]


def after(recorder: Recorder, later: str, earlier: str) -> bool:
    """Whether the first (`kind-name`, its end is enough) depends on the second, directly or indirectly.

    As in the engine, everything in a component depends on what the component depends on.
    """
    by_urn = {recorder.urn(request): request for request in recorder.seen.values()}
    (target,) = (urn for urn, request in by_urn.items() if request.name.endswith(earlier))
    left = [request for request in recorder.seen.values() if request.name.endswith(later)]
    seen: set[str] = set()
    while left:
        request = left.pop()
        for urn in ({*request.dependencies, request.parent} & by_urn.keys()) - seen:
            seen.add(urn)
            left.append(by_urn[urn])
    return target in seen


def test_objects_come_in_the_order_in_which_they_need_each_other_and_go_in_the_opposite_one():
    recorder, _ = run(NEW)
    chain = (
        "namespace-aibrix-system",
        "serviceaccount-aibrix-controller-manager",
        "deployment-aibrix-controller-manager",
        "envoyproxy-aibrix-custom-proxy-config",
        "gatewayclass-aibrix-eg",
        "gateway-aibrix-eg",
        "httproute-aibrix-reserved-router",
        "clienttrafficpolicy-aibrix-client-connection-buffersize",
        "envoypatchpolicy-aibrix-epp",
    )
    for earlier, later in itertools.pairwise(chain):
        assert after(recorder, later, earlier), (later, earlier)
    assert after(recorder, "aibrix-mutating-webhook-configuration", "deployment-aibrix-controller-manager")


def test_what_is_to_be_outlived_depends_on_controllers_or_gateway():
    recorder = Recorder(preview=True)

    def program() -> None:
        kinds = ClusterAddons("addons", ClusterAddonsArgs(stack="test", addons=[kinds_addon(NEW, "./kinds")]))
        aibrix = Aibrix("aibrix", NEW, pulumi.ResourceOptions(depends_on=kinds.releases))
        for name, parts in (("fleet", aibrix.controllers), ("route", aibrix.parts)):
            pulumi.CustomResource("kubernetes:core/v1:ConfigMap", name, {}, pulumi.ResourceOptions(depends_on=parts))

    recorder.run(program)
    assert after(recorder, "fleet", "deployment-aibrix-kuberay-operator")
    assert not after(recorder, "fleet", "gateway-aibrix-eg")
    assert after(recorder, "route", "gateway-aibrix-eg") and after(recorder, "route", "deployment-aibrix-redis-master")
    for later in ("fleet", "route", "namespace-aibrix-system", "deployment-aibrix-controller-manager"):
        assert after(recorder, later, "addons-aibrix-kinds"), later


def test_the_gateway_is_waited_for_until_it_has_an_address_and_takes_the_patches():
    recorder, component = run(NEW)
    gateway = inputs(recorder.one("Gateway"))
    assert gateway["metadata"]["annotations"]["pulumi.com/waitFor"] == "condition=Programmed"
    patches = inputs(recorder.one("EnvoyPatchPolicy", "aibrix-envoypatchpolicy-aibrix-epp"))["metadata"]["annotations"][
        "pulumi.com/waitFor"
    ]
    assert patches == 'jsonpath={.status.ancestors[*].conditions[?(@.type=="Programmed")].status}=True'
    assert recorder.one("Gateway").customTimeouts.create == "600s"
    assert isinstance(component.gateway, pulumi.CustomResource)


@pytest.mark.parametrize("args", [OLD, NEW, replace(NEW, kuberay="none")], ids=["old", "new", "no ray"])
def test_the_chart_holds_the_kinds_where_helm_never_deletes_them_and_nothing_else(args: AibrixArgs):
    files = kinds_chart(args)
    about = json.loads(files.pop("Chart.yaml"))
    assert (about["apiVersion"], about["name"], about["version"]) == ("v2", "aibrix-kinds", args.version)
    assert [json.loads(text) for text in files.values()] == crds(args)
    assert set(files) == {f"crds/{name}.yaml" for name in names(crds(args))}
    groups = {json.loads(text)["spec"]["group"] for text in files.values()}
    assert groups == {"orchestration.aibrix.ai"} | ({"ray.io"} if args.kuberay == "aibrix" else set())


def test_the_kinds_chart_has_nothing_of_it_that_goes_with_the_release():
    files = kinds_chart(NEW)
    about = json.loads(files.pop("Chart.yaml"))
    assert about["version"] == NEW.version and all(name.startswith("crds/") for name in files)
    assert sorted(map(json.loads, files.values()), key=str) == sorted(crds(NEW), key=str)


def test_the_kinds_are_one_release_of_the_local_chart_in_a_namespace_that_outlives_them():
    addon = kinds_addon(OLD, "./made/kinds")
    assert (addon.name, addon.chart, addon.version, addon.repo) == ("aibrix-kinds", "./made/kinds", "0.2.1", None)
    assert addon.namespace == gateway_addon("0.2.1").namespace != "aibrix-system"
    assert release_inputs("test", addon)["skipCrds"] is False


def test_no_kind_is_a_resource_and_none_of_the_resources_outlives_the_stack():
    recorder, _ = run(NEW)
    kinds = {request.type.rpartition(":")[2] for request in recorder.seen.values()}
    assert "Deployment" in kinds and "CustomResourceDefinition" not in kinds
    assert not [request.name for request in recorder.seen.values() if request.retainOnDelete]

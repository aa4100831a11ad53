"""Every key of the stack file has an effect: the program makes something different with it, or refuses it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from config.judge import parse
from tests.support import volcengine
from tests.support.keys import Key, accepted, made_of, optional_keys, with_key
from tests.support.stack_files import StackFile
from tests.support.volcengine import SERVICE
from tests.support.ways import WAYS, secrets

# Values for keys whose types suggest none, or whose first guess every way refuses.
SAMPLES: dict[str, Any] = {
    "model": "DeepSeek-R1",
    "namespace": "team",
    "version": ("0.9.0", "1.0.12"),
    "chart": "oci://mirror.example/lws",
    "charts": "oci://mirror.example/charts",
    "repo": "https://mirror.example/charts",
    "images": {"redis": "mirror.example/redis:7"},
    "gatewayChart": "oci://mirror.example/gateway",
    "registry": "mirror.example",
    "sync.from": "huggingface",
    "repositories": {"DeepSeek-R1": "mine/R1"},
    "region": "cn-shanghai",
    "provider": "acs:ram::1:oidc-provider/ack-rrsa-c1",
    "issuer": "https://oidc.example/c1",
    "bucket.keys": [2],
    "endpoint": "https://hf-mirror.com",
    "suffixes": ["json"],
    "nodePath": "/mnt/nvme1/models",
    "storageClass": "other",
    "create.size": "2Ti",
    "bucket.name": "other-bucket",
    "prefix": "other",
    "cpu": 128,
    "memory": "64Gi",
    "quota": "50Gi",
    "high": 0.8,
    "workers": 20,
    "shm": "16Gi",
    "ephemeralStorage": "20Gi",
    "cloud.gpu": ("H20-96", "H20-96:90"),
    "cloud.nodes": 1,
    "rdmaDevices": 7,
    "layout": ({"nodes": 2, "tensor": 8, "pipeline": 2}, {"nodes": 2, "tensor": 16, "pipeline": 1}),
    "gpuMemoryUtilization": 0.9,
    "reasoningParser": "none",
    "extraArgs": ["--enforce-eager"],
    "maxModelLen": 4096,
    "expose.to": "private",
    "allowList": "acl-abc",
    "routing.strategy": "random",
    "autoscaling.engine": "hpa",
    "autoscaling.prometheus": "http://other.monitoring:9090",
    "autoscaling.prometheusAuth": {"mode": "bearer", "secret": "prometheus-token"},
    "autoscaling.strategy": ("KPA", "HPA"),
    "autoscaling.minimum": 2,
    "autoscaling.maximum": 3,
    "autoscaling.target": 0.6,
    "cooldownSeconds": 9000,
    "schedules": [{"at": "8"}],
    "schedule.timezone": "Asia/Tokyo",
    "schedule.on": [{"days": ["mon"], "from": "08:00", "to": "20:00"}],
    "rollout.strategy": ("RollingUpdate", "blueGreen"),
    "currency": "CNY",
    "asOf": "2026-11-02",
    "imagePullSecrets": [{"name": "pull"}],
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "securityContext": {"fsGroupChangePolicy": "Always"},
    "containerSecurityContext": {"runAsUser": 5},
    "cache.pod": {"nodeSelector": {"a": "b"}},
    "cache.compile": {"claim": "kernels"},
    "compile.claim": "other-kernels",
}
# Keys that are useful only together are tried together, listed under the key that comes last.
TOGETHER: dict[str, dict[str, Any]] = {
    "volumeMounts": {
        "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "volumeMounts": [{"name": "ca", "mountPath": "/etc/company"}],
    },
    "maxSurge": {"strategy": "RollingUpdate", "maxSurge": 1},
    "startupPolicy": {"startupPolicy": "LeaderReady", "readinessProbe": False},
    "perGpuHour": {"perGpuHour": 1.0, "currency": "CNY", "asOf": "2026-11-02"},
    "perGibMonth": {"perGibMonth": 1.0, "currency": "CNY", "asOf": "2026-11-02"},
    "perCacheWorkerHour": {"perCacheWorkerHour": 1.0, "perGpuHour": 1.0, "currency": "CNY", "asOf": "2026-11-02"},
    "repo": {"chart": "lws", "repo": "https://mirror.example/charts"},
}
# FACTS: statements of fact that a stack may not use yet, and keys that need files other than the stack's own.
# JUDGED: keys that only decide what is accepted: the release of an existing LeaderWorkerSet; that a foreign bucket
# exists.
JUDGED = {"local": ("addons.lws",), "volcengine, s3": ("weights.bucket.create",)}
# A stack's owner and expiry only become outputs (tests/unit/stacks/test_program.py). What becomes of a cache shows only
# while its services are paused (tests/unit/stacks/test_acs.py).
FACTS = ("charts", "unproven", "imageHasRay", "cloud.nodes", "catalog", "manifests", "owner", "expires", "whilePaused")
# A way takes half a minute of one core, and several times that with AIBrix. So `make check` tries all keys in two ways
# and `make soak` in the others.
SHORT = ("local", "acs, claim")
MARKS = {way: (() if way in SHORT else (pytest.mark.soak,)) for way in WAYS}


def keys_of(way: str) -> list[Key]:
    (name,) = WAYS[way]["services"]
    told = optional_keys(SAMPLES, TOGETHER, name)
    left_out = (*FACTS, *(key for start, keys in JUDGED.items() if way.startswith(start) for key in keys))
    return [key for key in told if not any(f".{each}." in f".{key.dotted}." for each in left_out)]


def outcome(way: str, key: Key) -> str:
    """The verdict on the key: `alive`, `refused`, or `dead`."""
    known, without = secrets(way), json.dumps(with_key(WAYS[way], key))
    outcomes = set()
    for sample in key.samples:
        with_it = json.dumps(with_key(WAYS[way], key, sample))
        if accepted(with_it, known) is None:
            outcomes.add("refused")
        elif accepted(without, known) is None or made_of(with_it, known) != made_of(without, known):
            return "alive"
        # Writing the default value explicitly is allowed.
        elif accepted(with_it, known) != accepted(without, known):
            outcomes.add("dead")
    return "dead" if "dead" in outcomes else "refused"


def test_what_is_made_of_a_file_is_the_same_every_time_and_of_another_is_not():
    for way in SHORT:
        text = json.dumps(WAYS[way])
        # A different spelling of the same content, so that no cached result is used.
        one, two = made_of(text, secrets(way)), made_of(f" {text}", secrets(way))
        assert one == two
        other = json.dumps({**WAYS[way], "cluster": {"context": "other"}})
        assert made_of(other, secrets(way)) != one


def test_the_way_through_aibrix_has_keys_of_each_part_that_only_aibrix_has():
    parts = {part for key in keys_of("volcengine, scaled") for part in key.dotted.split(".")}
    assert parts >= {"aibrix", "workload", "gateway", "routing", "autoscaling", "rollout"}


@pytest.mark.parametrize("way", [pytest.param(way, marks=MARKS[way]) for way in WAYS])
def test_every_key_changes_what_is_made_or_is_refused(way: str):
    assert [key.dotted for key in keys_of(way) if outcome(way, key) == "dead"] == []


_LOCAL, _ACS, _VKE = StackFile("local"), StackFile("acs"), volcengine.FILE
_AT = SERVICE.replace("/", ".")
_LWS = {f"{SERVICE}/workload": "lws"}
_ALONE = {f"{SERVICE}/gateway": "none", f"{SERVICE}/routing": ..., "monitoring": ...}


@pytest.mark.parametrize(
    ("file", "values", "given", "said"),
    [
        (_LOCAL, {"services/ds/rollout": {"strategy": "Recreate"}}, (), "services.ds.rollout.strategy: Recreate: a Le"),
        (_VKE, {f"{SERVICE}/restartPolicy": "None"}, (), f"{_AT}.restartPolicy: None: a fleet has no such setting; l"),
        (_VKE, {f"{SERVICE}/startupPolicy": "LeaderReady"}, (), f"{_AT}.startupPolicy: LeaderReady: a fleet has no su"),
        (_ACS, {"services/ds/routing": {"requestSeconds": 60}}, (), "services.ds.routing: only a Kubernetes Service"),
        (
            _ACS,
            {"services/ds/expose": {"to": "cluster", "allowList": "acl-a"}},
            (),
            "services.ds.expose.allowList: acl-a: only pods of the cluster reach the service",
        ),
        (_ACS, {"addons/aibrix": {"install": True}}, (), "addons.aibrix: nothing on acs uses it; leave it out"),
        (_LOCAL, {"addons": {"fluid": {}}}, (), "addons.fluid: nothing on local uses it; leave it out"),
        (_LOCAL, {"addons": {"lws": {"chart": "oci://a/b"}}}, (), "addons.lws.chart: oci://a/b: a stack on local inst"),
        (_LOCAL, {"addons": {"charts": "charts"}}, (), "addons.charts: charts: a stack on local installs nothing"),
        (_ACS, {"addons/lws": {"install": False, "values": {"a": 1}}}, (), "addons.lws.values: the stack does not"),
        (_VKE, {"addons/aibrix": {"install": False, "address": "private"}}, (), "addons.aibrix.address: private: the"),
        (
            _VKE,
            {**_LWS, **_ALONE, "addons/aibrix": {"install": False}},
            (),
            "addons.aibrix: nothing in this stack uses it: no service is a fleet or behind its gateway; leave it out",
        ),
        (_ACS, {"cache": {"engine": "none", "quota": "5Gi"}}, (), "cache.quota: 5Gi: nothing is cached: cache.engine"),
        (_ACS, {"weights/download": {"threads": 4}}, (), "weights.download: nothing is copied to the pods: read is vo"),
        (_ACS, {"weights/bucket/endpoint": "https://a.example"}, (), "weights.bucket.endpoint: https://a.example: the"),
        (_ACS, {"weights/bucket": {"name": "abc", "create": False, "keep": False}}, (), "weights.bucket.keep: false:"),
        (
            _LOCAL,
            {"weights/create": {"storageClass": "nas", "size": "1Ti"}},
            (),
            "weights.create: a stack on local creates no claim; leave it out, and create the claim yourself",
        ),
        (_VKE, {"weights": {"source": "nvme", "path": "/mnt/a", "prefix": "b"}}, (), "weights.prefix: b: there is no"),
        (_LOCAL, {"monitoring": {"labels": {"a": "b"}}}, (), "monitoring.labels: monitoring is not enabled; write"),
        (
            _LOCAL,
            {"monitoring": {"enabled": True, "alerts": {"enabled": False, "idleSeconds": 5}}},
            (),
            "monitoring.alerts.idleSeconds: 5: there are no alerts; write enabled: true, or leave it out",
        ),
        (
            _VKE,
            {"monitoring": {"enabled": True, "prometheusNamespace": "m", "alerts": {"instance": "w1"}}},
            (),
            "monitoring.alerts.groupPolicy: is missing: vmp reads no PrometheusRules, and has rules of its own; write",
        ),
        (
            _ACS,
            {"monitoring": {"enabled": True, "alerts": {"instance": "c1", "groupPolicy": "g1"}}},
            (),
            "monitoring.alerts.groupPolicy: ",
        ),
        (
            _VKE,
            {"monitoring": {"enabled": True, "prometheus": "operator", "alerts": {"instance": "w1"}}},
            (),
            "monitoring.alerts.instance: w1: operator has no such thing; leave it out",
        ),
        (
            _ACS,
            {"monitoring": {"enabled": True, "alerts": {"instance": "my cluster"}}},
            (),
            "monitoring.alerts.instance: my cluster: is not an id",
        ),
        (
            _ACS,
            {"monitoring": {"enabled": True, "prometheus": "vmp"}},
            (),
            "monitoring.prometheus: vmp: is not to be had on acs; write arms or operator",
        ),
        (
            _LOCAL,
            {"prices": {"perCacheWorkerHour": 1.0, "currency": "CNY", "asOf": "2026-11-01"}},
            (),
            "prices.perCacheWorkerHour: 1: this stack has no cache workers; leave it out",
        ),
        (_LOCAL, {"catalog": {"models": {"DeepSek-R1": {"layers": 61}}}}, (), "catalog.models.DeepSek-R1: nothing in"),
        (_LOCAL, {"catalog": {"gpuPods": {"A": {"gpus": [8]}}}}, (), "catalog.gpuPods.A: nothing in this stack has th"),
        (_LOCAL, {}, ("hubToken",), "hubToken: nothing reads this secret: no hub is asked; run: pulumi config rm mode"),
        (_LOCAL, {}, ("accessKey", "secretKey"), "accessKey: nothing reads this secret: no bucket is read; run: pulum"),
    ],
)  # fmt: skip
def test_a_key_that_nothing_takes_notice_of_is_refused_with_what_to_do(file, values, given, said):
    line, *_ = file.lines(file.changed(**values), secrets=("apiKey", *given))
    assert line.startswith(f"modelserve:{said}")


def test_prometheus_is_named_only_where_somebody_is_kept_out():
    open_to_all = _LOCAL.changed(monitoring={"enabled": True, "prometheusNamespace": "m"})
    (line,) = _LOCAL.lines(open_to_all)
    assert line.startswith("modelserve:monitoring.prometheusNamespace: m: everybody in the cluster reaches")
    assert parse(open_to_all, secrets=["apiKey"])


def test_an_allow_list_reaches_the_load_balancer_of_each_cloud_that_has_one():
    for way in ("acs, claim", "volcengine, fleet alone"):
        (name,) = WAYS[way]["services"]
        key = Key(("services", name, "expose", "allowList"), (), {"to": "public"})
        made = made_of(json.dumps(with_key(WAYS[way], key, {"to": "public", "allowList": "acl-abc"})), secrets(way))
        assert any("acl-abc" in request and "acl-type" in request for request in made)


def test_an_add_on_that_the_file_names_is_installed_though_nothing_needs_it_yet():
    raw = _ACS.changed(cache={"engine": "none"})
    assert parse(raw).addons.fluid is not None
    made = made_of(json.dumps(raw), ("apiKey",))
    assert any('"ack-fluid"' in request for request in made)

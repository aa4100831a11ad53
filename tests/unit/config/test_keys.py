"""The description of the keys agrees with what the types and rules do."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from config.abilities import NEEDS
from config.judge import judge
from config.keys import keys_of, parts
from tests.support.ways import WAYS, secrets

# For each key that only some clouds use: where it is, and a value that its own rules accept.
EXAMPLES: dict[str, tuple[str, Any]] = {
    "Cache.engine": ("cache/engine", "fluid"),
    **{
        f"Cache.{key}": ("cache", {"engine": "fluid", key: value})
        for key, value in {
            "workers": 9,
            "cpu": 8,
            "memory": "128Gi",
            "quota": "100Gi",
            "high": 0.9,
            "low": 0.5,
            "whilePaused": "drop",
            "pod": {"labels": {"a": "b"}},
        }.items()
    },
    "CompileCache.nodePath": ("cache/compile", {"nodePath": "/mnt/nvme0/kernels"}),
    "Addons.charts": ("addons/charts", "charts"),
    "Addons.fluid": ("addons/fluid", {"install": False}),
    "Addons.aibrix": ("addons/aibrix", {"install": False}),
    "AddonChoice.chartVersion": ("addons/lws", {"chartVersion": "0.9.0"}),
    "AddonChoice.chart": ("addons/lws", {"chart": "oci://example.com/lws"}),
    "AddonChoice.repo": ("addons/lws", {"chart": "lws", "repo": "https://example.com"}),
    "AddonChoice.namespace": ("addons/lws", {"namespace": "lws"}),
    "AddonChoice.values": ("addons/lws", {"values": {"a": 1}}),
    "PvcWeights.create": (
        "weights",
        {"source": "pvc", "claim": "w", "create": {"storageClass": "s", "size": "2Ti"}, "sync": {"from": "modelscope"}},
    ),
    "PvcWeights.sync": ("weights", {"source": "pvc", "claim": "w", "sync": {"from": "modelscope"}}),
    "BucketWeights.download": ("weights/download", {"threads": 4}),
    "Bucket.store": ("weights/bucket", {"name": "team-weights", "store": "s3", "create": False}),
    "Bucket.region": (
        "weights/bucket",
        {"name": "team-weights", "store": "s3", "create": False, "region": "us-east-1"},
    ),
    "Bucket.endpoint": (
        "weights/bucket",
        {"name": "team-weights", "store": "s3", "create": False, "endpoint": "https://s3.example.com"},
    ),
    "Service.routing": ("services/*/routing", {"requestSeconds": 60}),
    "Autoscaling.strategy": ("services/*/autoscaling", {"maximum": 2, "strategy": "APA"}),
    "Autoscaling.schedules": ("services/*/autoscaling", {"maximum": 2, "schedules": []}),
    **{
        f"Rollout.{key}": ("services/*/rollout", {"strategy": "blueGreen", "canary": [10], **more})
        for key, more in {"canary": {}, "stepSeconds": {"stepSeconds": 9}}.items()
    },
    "Rollout.maxSurge": ("services/*/rollout", {"strategy": "RollingUpdate", "maxSurge": 1}),
    "Service.expose": ("services/*/expose", {"to": "private"}),
    "Catalog.gpuPods": ("catalog/gpuPods", {"Own": {"gpus": [8]}}),
    "Monitoring.prometheus": ("monitoring", {"enabled": True, "prometheus": "operator"}),
    "Alerts.groupPolicy": ("monitoring", {"enabled": True, "alerts": {"instance": "w1", "groupPolicy": "g1"}}),
    "Prices.perCacheWorkerHour": ("prices", {"perCacheWorkerHour": 1.0, "currency": "CNY", "asOf": "2026-11-01"}),
}


def refused(way: str, path: str, value: Any) -> list[str]:
    """The refusals at this key, or below it, in a stack file with that value."""
    raw = copy.deepcopy(WAYS[way])
    if "store" in str(value) or "download" in path:
        raw["weights"].pop("sync", None)
    *above, last = [next(iter(raw["services"])) if step == "*" else step for step in path.split("/")]
    place = raw
    for step in above:
        place = place.setdefault(step, {})
    place[last] = value
    key = ".".join((*above, last))
    _, problems = judge(raw, secrets=(*secrets(way), "accessKey", "secretKey"))
    return [problem.key for problem in problems if f"{problem.key}.".startswith(f"{key}.")]


@pytest.mark.parametrize("entry", NEEDS)
def test_a_key_is_refused_on_the_clouds_that_are_said_to_have_no_use_for_it_and_there_alone(entry: str):
    part, _, name = entry.partition(".")
    path, value = EXAMPLES[entry]
    told = {key.name: key.clouds for key in parts()[part].keys}
    clouds = told[name] if name else next(iter(told.values()))
    found = {raw["cloud"]["kind"] for way, raw in WAYS.items() if not refused(way, path, value)}
    assert found == set(clouds)


def test_every_key_of_every_part_says_what_it_takes():
    bare = [f"{part.name}.{key.name}" for part in parts().values() for key in part.keys if not key.kind]
    assert bare == []


@pytest.mark.parametrize(
    ("part", "key", "kind", "default", "unit"),
    [
        ("Service", "port", "whole number from 1 to 65535", 8000, ""),
        ("Service", "maxModelLen", "whole number from 1 or `auto`", "auto", "tokens"),
        ("Service", "drainSeconds", "whole number from 1", None, "s"),
        ("Resources", "shm", "quantity", "32Gi", "Mi, Gi, Ti"),
        ("Engine", "gpuMemoryUtilization", "number above 0 below 1", None, ""),
        ("Monitoring", "dashboardLabels", "map of name to text", {"grafana_dashboard": "1"}, ""),
        ("AddonChoice", "install", "`true` or `false` or `adopt`", True, ""),
        ("EnginePod", "tolerations", "list of Kubernetes `Toleration`", [], ""),
        ("GpuPods", "memoryGib", "map of name to list of whole numbers from 1", None, "GiB"),
    ],
)
def test_a_key_has_the_kind_default_and_unit_of_its_type(part: str, key: str, kind: str, default: Any, unit: str):
    found = next(each for each in keys_of(part) if each.name == key)
    assert (found.kind, found.default, found.unit) == (kind, default, unit)

"""Compares docs/volcengine-parity.md with what the Volcengine stack renders: each field of the article's files is
rendered alike or has a row."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from local.paths import ROOT
from tests.support.parity import Parity, complaints, flat
from tests.support.recorder import Recorder, inputs
from tests.support.volcengine import MODEL, SERVICE, rendered, run

FLEET = f"RayClusterFleet/{MODEL}"
# The unchanged stack file, and what each variant changes.
VARIANTS: dict[str, dict[str, Any]] = {
    "bucket": {},
    "hub": {"weights": {"source": "huggingface"}},
    "claim": {"weights": {"source": "pvc", "claim": "deepseekr1"}},
    "disk": {"weights": {"source": "nvme", "path": "/mnt/nvme0/models"}},
    "autoscaled": {f"{SERVICE}/autoscaling": {"maximum": 4, "target": 0.5}},
}


@functools.cache
def fields(variant: str) -> dict[str, dict[str, str]]:
    """Kind/name to fields, of every object of the variant, of its dashboard, and of what installs AIBrix's parts."""
    objects = rendered(**VARIANTS[variant])
    found = {f"{each['kind']}/{each['metadata']['name']}": dict(flat(each)) for each in objects}
    (board,) = (
        json.loads(text)
        for each in objects
        if each["kind"] == "ConfigMap"
        for name, text in each["data"].items()
        if name.endswith("engines.json")
    )
    engine = Recorder(preview=False)
    run(engine, **VARIANTS[variant])
    for name in ("envoy-gateway", "aibrix-kinds"):
        release = inputs(engine.one("Release", f"addons-{name}"))
        # A local chart's folder name ends in a digest of its content, here of a few of AIBrix's objects.
        chart = re.sub(r"-[0-9a-f]{8}$", "", release["chart"])
        found[f"Release/{name}"] = {"applied by": "Helm", "file": chart, "version": release["version"]}
    panels = [panel for panel in board["panels"] if "targets" in panel]
    return found | {
        "Dashboard/": {
            "uid": board["uid"],
            "panels.datasource.uid": " ".join(sorted({panel["datasource"]["uid"] for panel in panels})),
        }
    }


PARITY = Parity(
    document=ROOT / "docs" / "volcengine-parity.md",
    columns=("object", "field", "the article", "here", "why"),
    objects=json.loads((ROOT / "tests" / "data" / "volcengine-article.json").read_text())["objects"],
    rendered=fields,
    here={
        "AIBrix/dependency": ("bucket", "Release/envoy-gateway"),
        "AIBrix/core": ("bucket", "Release/aibrix-kinds"),
        "Deployment/aibrix-controller-manager": ("bucket", "Deployment/aibrix-controller-manager"),
        "Deployment/aibrix-kuberay-operator": ("bucket", "Deployment/aibrix-kuberay-operator"),
        "Deployment/aibrix-redis-master": ("bucket", "Deployment/aibrix-redis-master"),
        "EnvoyExtensionPolicy/aibrix-gateway-plugins-extension-policy": ("bucket", "EnvoyExtensionPolicy/aibrix-gate"),
        "EnvoyPatchPolicy/aibrix-epp": ("bucket", "EnvoyPatchPolicy/aibrix-epp"),
        FLEET: ("bucket", FLEET),
        f"{FLEET} from the hub": ("hub", FLEET),
        f"{FLEET} on a claim": ("claim", FLEET),
        f"{FLEET} on a local disk": ("disk", FLEET),
        f"PodAutoscaler/{MODEL}-autoscaling": ("autoscaled", "PodAutoscaler/"),
        f"Service/{MODEL}": ("bucket", f"Service/{MODEL}"),
        f"NetworkPolicy/{MODEL}": ("bucket", "NetworkPolicy/"),
        f"HTTPRoute/{MODEL}-router": ("bucket", f"HTTPRoute/{MODEL}"),
        "ServiceMonitor/deepseek-r1-svc-discover": ("bucket", "ServiceMonitor/"),
        "Dashboard/AIBrix Engine Dashboard": ("bucket", "Dashboard/"),
    },
    renamed={
        "[ray-head]": "[vllm]",
        "[ray-worker]": "[vllm]",
        "[init-model]": "[weights]",
        "[models]": "[weights]",
        "[shared-mem]": "[shm]",
    },
)


def test_every_field_of_the_article_is_rendered_alike_or_is_a_true_row_and_every_row_is_needed():
    said = complaints(PARITY.differences(), PARITY.rows())
    assert not said, "\n".join(said)


def test_every_object_of_the_article_has_its_like_here_and_every_renaming_is_used():
    assert not PARITY.unused()

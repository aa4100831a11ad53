"""Compare docs/acs-parity.md with the ACS stack's rendering: each field of the guide is rendered alike or has a row."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

from config.stack_file import read
from local.paths import ROOT
from ops.render import render
from tests.support.parity import Parity, complaints, flat

GROUP = "LeaderWorkerSet/deepseek-r1-671b-fp8-distrubution"
# The unchanged stack file, and what each variant changes.
VARIANTS: dict[str, dict[str, Any]] = {
    "fluid": {},
    "volume": {"cache": {"engine": "none"}},
    "rdma": {"cloud": {"rdma": True}},
}


@functools.cache
def rendered(variant: str) -> dict[str, dict[str, str]]:
    """Kind/name to fields, of every object of the variant."""
    file = read(ROOT / "Pulumi.acs.yaml")
    raw = {key: VARIANTS[variant].get(key, value) for key, value in file.raw.items()}
    raw["cloud"] = file.raw["cloud"] | VARIANTS[variant].get("cloud", {})
    objects = render(replace(file, raw=raw), "acs")
    return {f"{each['kind']}/{each['metadata']['name']}": dict(flat(each)) for each in objects}


PARITY = Parity(
    document=ROOT / "docs" / "acs-parity.md",
    columns=("object", "field", "the guide", "here", "why"),
    objects=json.loads((ROOT / "tests" / "data" / "acs-guide.json").read_text())["objects"],
    rendered=rendered,
    here={
        "Secret/oss-secret": ("volume", "Secret/deepseek-r1-volume-key"),
        "PersistentVolume/llm-model": ("volume", "PersistentVolume/"),
        "PersistentVolumeClaim/llm-model": ("volume", "PersistentVolumeClaim/"),
        "Secret/mysecret": ("fluid", "Secret/deepseek-r1-cache-key"),
        "Dataset/deepseek": ("fluid", "Dataset/"),
        "JindoRuntime/deepseek": ("fluid", "JindoRuntime/"),
        "DataLoad/deepseek": ("fluid", "DataLoad/"),
        GROUP: ("volume", "LeaderWorkerSet/"),
        f"{GROUP} with Fluid": ("fluid", "LeaderWorkerSet/"),
        f"{GROUP} with RDMA": ("rdma", "LeaderWorkerSet/"),
        "Service/ds-leader": ("fluid", "Service/ds-leader"),
    },
    renamed={
        "[deepseek-r1-671b-leader]": "[vllm]",
        "[deepseek-r1-671b-worker]": "[vllm]",
        "[llm-model]": "[weights]",
        "[deepseek]": "[deepseek-r1]",
    },
)


def test_every_field_of_the_guide_is_rendered_alike_or_is_a_true_row_and_every_row_is_needed():
    said = complaints(PARITY.differences(), PARITY.rows())
    assert not said, "\n".join(said)


def test_every_object_of_the_guide_has_its_like_here_and_every_renaming_is_used():
    assert not PARITY.unused()

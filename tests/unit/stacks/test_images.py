"""One registry for a whole stack."""

from __future__ import annotations

import pytest

from config.judge import parse
from planning.images import pulled
from stacks import addon_charts
from tests.support import volcengine
from tests.support.stack_files import StackFile
from tests.support.volcengine import SERVICE

OURS = "registry.example.com/llm"


@pytest.mark.parametrize(
    ("image", "found"),
    [
        ("vllm/vllm-openai:v0.7.3", f"{OURS}/vllm/vllm-openai:v0.7.3"),
        ("python:3.12-slim", f"{OURS}/python:3.12-slim"),
        ("docker.io/vllm/vllm-openai:v1", "docker.io/vllm/vllm-openai:v1"),
        ("localhost/vllm:v1", "localhost/vllm:v1"),
        ("host:5000/vllm@sha256:0", "host:5000/vllm@sha256:0"),
    ],
)
def test_an_image_that_names_no_registry_comes_from_the_stacks(image: str, found: str):
    assert pulled(image, OURS) == found and pulled(image, None) == image


def _images(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {value["image"]} if isinstance(value.get("image"), str) else set()
        return own.union(*map(_images, value.values()))
    return set().union(*map(_images, value)) if isinstance(value, list) else set()


def test_every_image_of_a_stack_comes_from_its_registry():
    engine = {"image": "vllm/vllm-openai:v0.7.3", "version": "0.7.3"}
    made = volcengine.rendered(registry=OURS, **{f"{SERVICE}/engine": engine, "addons/aibrix/registry": ...})
    found = _images(made)
    assert {image.partition(f"{OURS}/")[2].partition(":")[0] for image in found} >= {
        *("vllm/vllm-openai", "rclone/rclone", "python", "aibrix/runtime", "aibrix/controller-manager", "redis")
    }
    assert [image for image in found if not image.startswith(f"{OURS}/")] == []


def test_the_images_of_add_ons_come_from_it_too():
    acs = parse(StackFile("acs").changed(registry=OURS))
    (group,) = [addon for addon in addon_charts.wanted(acs) if addon.name == "lws"]
    assert group.values["image"]["manager"]["repository"] == f"{OURS}/lws/lws"
    vke = parse(volcengine.stack_file(registry=OURS, **{"addons/aibrix/registry": ...}))
    (gateway,) = [addon for addon in addon_charts.wanted(vke) if addon.name == "envoy-gateway"]
    assert gateway.values["global"]["images"]["envoyGateway"]["image"].startswith(f"{OURS}/envoyproxy/gateway:")


def test_aibrix_may_have_a_mirror_of_its_own():
    made = volcengine.rendered(registry=OURS)
    found = {image for image in _images(made) if "aibrix/controller-manager" in image or "rclone" in image}
    assert {image.partition("/")[0] for image in found} == {"aibrix-cn-beijing.cr.volces.com", "registry.example.com"}


@pytest.mark.parametrize(
    "name", ["https://a.example", "a.example/", "a", "A b.example", "a.example/X", "a.example:tag/x"]
)
def test_what_is_no_registry_is_refused(name: str):
    file = StackFile("local")
    (line,) = file.lines(file.changed(registry=name))
    assert line.startswith(f"modelserve:registry: {name}: is not a registry; write its host and folder")

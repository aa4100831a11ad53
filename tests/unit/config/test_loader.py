"""`weights.loader`: which engines cannot load so, in which words, and what the accepted ones get."""

from __future__ import annotations

from typing import Any

import pytest

from config.judge import parse
from config.plans import plan_services
from planning import flags, loaders
from tests.support.stack_files import StackFile
from tests.unit.config.test_stack import GOOD, lines, with_values

OURS, MINE = "vllm/vllm-openai", "registry.example/team/vllm"


def with_loader(loader: str | None, version: str, *args: str, image: str = OURS, **more: Any) -> dict[str, Any]:
    launcher = "native" if flags.has("--nnodes", version) else "ray"
    engine = {"image": f"{image}:v{version}", "version": version, "extraArgs": list(args), "launcher": launcher}
    chosen = {} if loader is None else {"weights/loader": loader}
    return with_values(GOOD, {"services/ds/engine": engine, **chosen, **more})


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (
            with_loader("instanttensor", "0.12.0"),
            "weights.loader: instanttensor: services.ds: vLLM 0.12.0 does not know instanttensor yet: it came with "
            "0.18.0; write default, or take a newer engine",
        ),
        (with_loader("fastsafetensors", "0.7.3"), "does not know fastsafetensors yet: it came with 0.8.5"),
        (
            with_loader("fastsafetensors", "0.19.0"),
            "services.ds: vLLM's own image has fastsafetensors from 0.20.0 on, and this is 0.19.0; write default, or",
        ),
        (with_loader("instanttensor", "0.28.0", image="mirror.example/vllm-openai"), "instanttensor from 0.29.0 on"),
        (
            with_loader("fastsafetensors", "0.16.0", image=MINE),
            "on a second node fastsafetensors looks for GPUs that only the first has, up to the release before 0.18.1",
        ),
        (
            with_loader(None, "0.33.0", "--load-format", "instanttensor"),
            "engine.extraArgs: --load-format instanttensor: is set by the program from another key; use weights.loader",
        ),
        (with_loader("default", "0.33.0", "--load-format=auto"), "--load-format auto: is set by the program"),
        (
            with_loader("runai_streamer", "0.33.0", "--load_format", "mistral"),
            "--load-format mistral: weights.loader sets it; leave one of them out",
        ),
        (with_loader("tensorizer", "0.33.0"), "weights.loader: tensorizer"),
        (
            StackFile("acs-next").changed(
                weights__read="stream", weights__loader="instanttensor", cache={"engine": "none"}
            ),
            "weights.loader: instanttensor: read: stream streams by runai_streamer; leave it out",
        ),
    ],
)
def test_what_cannot_load_so_is_refused_in_one_line(raw: dict[str, Any], said: str):
    found = lines(raw)
    assert len(found) == 1 and said in found[0]


@pytest.mark.parametrize(
    ("raw", "doubts"),
    [
        (with_loader(None, "0.33.0"), []),
        (with_loader("default", "0.33.0", image=MINE), []),
        (with_loader("auto", "0.33.0", "--load-format", "mistral", image=MINE), []),
        (with_loader("fastsafetensors", "0.33.0"), []),
        (with_loader("fastsafetensors", "0.16.0", image=MINE, **{
            "services/ds/layout": {"nodes": 1, "tensor": 8, "pipeline": 1}, "cloud/gpu": "H200-141",
        }), ["needs the package fastsafetensors"]),
        (with_loader("instanttensor", "0.33.0"), ["opens files with O_DIRECT"]),
        (with_loader("instanttensor", "0.33.0", image=MINE), ["needs the package instanttensor", "opens files with"]),
    ],
)  # fmt: skip
def test_what_is_not_known_of_a_loader_is_a_warning(raw: dict[str, Any], doubts: list[str]):
    said = [line for line in plan_services(parse(raw))["ds"].warnings if "weights.loader" in line]
    assert [doubt in line for doubt, line in zip(doubts, said, strict=True)] == [True] * len(doubts)


def test_a_chosen_layout_is_judged_with_the_nodes_that_it_has():
    raw = with_loader("fastsafetensors", "0.13.0", image=MINE, **{"services/ds/layout": "auto"})
    with pytest.raises(Exception, match="layout: auto: the layout that fits has 2 nodes, and on a second node"):
        plan_services(parse(raw))


def test_every_loader_of_the_key_has_a_package_and_a_measured_rate():
    offered = ["default", *loaders.known()]
    assert all(loaders.gb_per_second(each, gpus) > 0 for each in offered for gpus in (1, 4, 8, 16))
    assert set(offered) == {parse(with_loader(each, "0.33.0")).weights.loader for each in offered}

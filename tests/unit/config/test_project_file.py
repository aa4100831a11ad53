"""What the project file says for all stacks. tests/rehearsal/test_pulumi_yaml.py compares with the engine itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.project_file import steps
from config.stack_file import read

STACK = """
config:
  modelserve:cloud: {kind: local, gpu: H20-96}
  modelserve:weights: {source: pvc, claim: weights}
  services:
    ds:
      model: DeepSeek-R1
      engine: {image: "vllm/vllm-openai:v0.7.3", version: "0.7.3"}
      layout: {nodes: 2, tensor: 8, pipeline: 2}
      resources: {cpu: 64, memory: 512Gi}
"""
PROJECT = """
name: modelserve
config:
  modelserve:cluster: {value: {context: here}}
  modelserve:cluster.namespace: {value: models}
  modelserve:prices: {default: {perGpuHour: 2, currency: CNY, asOf: "2026-11-01"}}
  modelserve:cloud: {type: object, value: {kind: acs}}
  modelserve:services.ds.port: {value: "8001"}
  alicloud:region: cn-hangzhou
"""


@pytest.fixture
def both(tmp_path: Path):
    def write(stack: str, project: str | None) -> Path:
        (tmp_path / "Pulumi.dev.yaml").write_text(stack)
        if project is not None:
            (tmp_path / "Pulumi.yaml").write_text(project)
        return tmp_path / "Pulumi.dev.yaml"

    return write


def test_the_project_fills_what_a_stack_leaves_open_and_never_what_it_says(both):
    file = read(both(STACK, PROJECT))
    config = file.config(with_cluster=False)
    assert (config.cloud.kind, config.cluster.context, config.cluster.namespace) == ("local", "here", "models")
    assert (config.prices.currency, config.services["ds"].port) == ("CNY", 8001)
    assert file.foreign == {"alicloud:region": "cn-hangzhou"}
    assert read(both(STACK, PROJECT), with_project=False).raw.keys() == {"cloud", "weights", "services"}


def test_a_stack_of_which_the_project_says_everything_may_be_empty(both):
    everything = "name: modelserve\nconfig:\n" + "".join(
        f"  modelserve:{key}: {{value: {{{value}}}}}\n"
        for key, value in {
            "cloud": "kind: local, gpu: H20-96",
            "cluster": "context: here",
            "weights": "source: pvc, claim: weights",
            "services": "ds: {model: DeepSeek-R1, engine: {image: 'vllm/vllm-openai:v0.7.3', version: 0.7.3}, "
            "resources: {cpu: 64, memory: 512Gi}}",
        }.items()
    )
    assert read(both("encryptionsalt: v1:x\n", everything)).config(with_cluster=False).services.keys() == {"ds"}


@pytest.mark.parametrize(
    ("project", "said"),
    [
        (PROJECT + "  modelserve:apiKey: {value: sk-1}\n", "modelserve:apiKey: (plain text)"),
        (PROJECT.replace("currency: CNY", "curency: CNY"), "modelserve:prices.curency: CNY: unknown key"),
        (PROJECT + "  modelserve:regist: {value: x.example.com}\n", "modelserve:regist: x.example.com: unknown key"),
        (
            PROJECT + "  modelserve:weights.claim.name: {value: x}\n  modelserve:monitoring: {value: 5}\n",
            "modelserve:monitoring: 5: is not a map",
        ),
    ],
)
def test_what_a_project_says_is_judged_like_what_a_stack_says(both, project, said):
    path = both(STACK, project)
    with pytest.raises(Exception, match=r"\A.*") as caught:
        read(path).config(with_cluster=False)
    assert said in str(caught.value)


@pytest.mark.parametrize("project", [None, "", "[]", "config: [1]", "config: {a: b", "name: modelserve\n"])
def test_a_project_that_says_nothing_changes_nothing(both, project):
    path = both(STACK, project)
    assert read(path) == read(path, with_project=False)


def test_a_section_that_an_environment_may_have_is_missing_here_only(both):
    with pytest.raises(Exception, match="modelserve:cluster: is missing here, and what the stack's environment says"):
        read(both(f"environment: [dev]\n{STACK}", None)).config(with_cluster=False)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("cluster.context", ["cluster", "context"]),
        ('weights.sync.repositories["DeepSeek-V3.1"]', ["weights", "sync", "repositories", "DeepSeek-V3.1"]),
        ("services.ds.paths[0]", ["services", "ds", "paths", 0]),
        ("", None),
        (".a", None),
        ("a[", None),
        ("a..b", None),
        ('a["b', None),
    ],
)
def test_a_path_is_read_as_pulumi_spells_it(path, found):
    assert steps(path) == found

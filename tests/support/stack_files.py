"""Stack files for tests that change one."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest
import yaml

from config.errors import ConfigError
from config.judge import judge, parse
from config.plans import judge_services, plan_services
from config.secrets import SECRETS
from local.paths import ROOT
from planning.problems import Problem

TEXT = """config:
  modelserve:cloud: {kind: local, gpu: H20-96}
  modelserve:cluster: {context: here}
  modelserve:weights: {source: pvc, claim: weights}
  modelserve:services:
    ds:
      model: DeepSeek-R1
      engine: {image: "vllm/vllm-openai:v0.7.3", version: "0.7.3", gpuMemoryUtilization: 0.95}
      layout: {nodes: 2, tensor: 8, pipeline: 2}
      resources: {cpu: 64, memory: 512Gi}
"""
"""The least stack file that is accepted, as YAML."""


def with_values(raw: Mapping[str, Any], values: Mapping[str, object]) -> dict[str, Any]:
    """A copy of a stack file with values set by path (`services/ds/replicas`), or removed where one is Ellipsis."""
    made: dict[str, Any] = copy.deepcopy(dict(raw))
    for path, value in values.items():
        *way, last = path.split("/")
        place = made
        for key in way:
            place = place.setdefault(key, {})
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return made


def problems(raw: Mapping[str, Any], **more: Any) -> list[Problem]:
    """All problems of a file: in the file itself and in its plans."""
    config, found = judge(raw, **more)
    return sorted({*found, *judge_services(config)[1]})


def whole_file(raw: Mapping[str, Any], secrets: Collection[str] = ()) -> dict[str, Any]:
    """A complete stack file as an editor shows it, with these values and secrets."""
    ours = dict(raw) | {key: {"secure": "v1:nonce:secret"} for key in secrets}
    return {"config": {f"modelserve:{key}": value for key, value in ours.items()}}


class StackFile:
    """A committed stack file without its secrets; tests set values by path, such as `services__ds__replicas`."""

    def __init__(self, stack: str) -> None:
        text = (ROOT / f"Pulumi.{stack}.yaml").read_text()
        self.whole: dict[str, Any] = {
            key.removeprefix("modelserve:"): value
            for key, value in yaml.safe_load(text)["config"].items()
            if key.startswith("modelserve:") and key.removeprefix("modelserve:") not in SECRETS
        }

    def changed(self, **values: object) -> dict[str, Any]:
        """The file with values set; Ellipsis removes."""
        return with_values(self.whole, {path.replace("__", "/"): value for path, value in values.items()})

    def lines(self, raw: dict[str, Any], **more: Any) -> list[str]:
        """The refusals of a file, one per line."""
        with pytest.raises(ConfigError) as caught:
            plan_services(parse(raw, **more))
        return str(caught.value).splitlines()


def besides_trust(warnings: Sequence[str]) -> tuple[str, ...]:
    """A plan's warnings, except the one about the flag that the stacks in the documents set."""
    return tuple(line for line in warnings if not line.startswith("--trust-remote-code runs Python code"))

"""Runs the jobs of .github/workflows locally: their `run:` steps, in order, with the env that the file gives them.

It skips steps that use an action or set up Python. Of GitHub's expressions it supports only names, such as
`matrix.stack`; of conditions, only that a step also runs after a failure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
_EXPRESSION = re.compile(r"\$\{\{ ([^}]+?) \}\}")
_AFTER_FAILURE = "always() && !cancelled()"

Execute = Callable[[str, dict[str, str]], int]
"""Runs one line of shell in an environment; gives its exit code."""


@dataclass(frozen=True)
class Step:
    """One step, with its position."""

    file: str
    job: str
    given: Mapping[str, Any]


def load(file: Path) -> dict[str, Any]:
    """A workflow. YAML 1.1 reads `on` as true."""
    found = yaml.safe_load(file.read_text())
    return {"on" if key is True else key: value for key, value in found.items()}


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every job of every workflow: file, name, job."""
    for file in FILES:
        for name, job in load(file)["jobs"].items():
            yield file.name, name, job


def steps() -> Iterator[Step]:
    """Every step of every job."""
    for file, name, job in jobs():
        for given in job["steps"]:
            yield Step(file, name, given)


def run(file: str, job: str, names: Mapping[str, str], environment: Mapping[str, str], execute: Execute) -> bool:
    """Whether every step of the job succeeded. `names` maps the names in expressions to their values.

    A step with an id passes its outputs to later steps through the file GITHUB_OUTPUT, as on the runner.
    """
    described = load(FOLDER / file)["jobs"][job]
    names = dict(names)
    outputs = Path(environment["GITHUB_OUTPUT"])
    good = True
    for step in described["steps"]:
        line = step.get("run", "")
        if not line or line.startswith("make ") or not (good or step.get("if") == _AFTER_FAILURE):
            continue
        outputs.write_text("")
        own = {**described.get("env", {}), **step.get("env", {})}
        good &= execute(line, {**environment, **{name: _filled(value, names) for name, value in own.items()}}) == 0
        for written in outputs.read_text().splitlines():
            name, _, value = written.partition("=")
            names[f"steps.{step['id']}.outputs.{name}"] = value
    return good


def _filled(value: str, names: Mapping[str, str]) -> str:
    # As on GitHub, an unset name is empty.
    return _EXPRESSION.sub(lambda found: names.get(found[1], ""), value)

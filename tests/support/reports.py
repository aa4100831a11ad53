"""Recorded and made-up runs of Pulumi, for the tests of reports."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

from local.paths import ROOT
from ops import report
from report import run_file
from report.judgement import Judgement
from report.run_file import Run

PREVIEWS = ROOT / "tests" / "data" / "previews"
DRIFT = ROOT / "tests" / "data" / "drift"
URN = "urn:pulumi:prod::modelserve::"


def text_of(file: Path) -> str:
    """What Pulumi printed."""
    return lzma.decompress(file.read_bytes()).decode()


def recorded(name: str, folder: Path = PREVIEWS) -> Run:
    """A recorded run, read."""
    return run_file.read(text_of(folder / f"{name}.json.xz"), name)


def judged(name: str, **given: Any) -> Judgement:
    """A recorded preview, judged as the command does."""
    return report.judged(recorded(name), **given)


def step(kind: str, name: str, operation: str, old: Any = None, new: Any = None, **more: Any) -> dict[str, Any]:
    """A step of a preview's JSON. `kind` is a type token, prefixed with its parents' tokens and `$` if it has any."""
    urn = f"{URN}{kind}::{name}"
    sides = {
        side: {"urn": urn, "type": kind, "inputs": inputs, "outputs": {}, **more}
        for side, inputs in (("oldState", old), ("newState", new))
        if inputs is not None
    }
    return {"op": operation, "urn": urn, "detailedDiff": None, **sides}


def preview(*steps: dict[str, Any], **more: Any) -> str:
    """A preview's JSON."""
    stack = {"op": "same", "urn": f"{URN}pulumi:pulumi:Stack::modelserve-prod", "detailedDiff": None}
    return json.dumps({"steps": [stack, *steps], **more})

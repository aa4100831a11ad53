"""Replaces `__main__.py` in the bench's project: the same program, with a clock around each step.

Writes the CPU seconds of each step and of the whole process as JSON to the file that BENCH_STEPS names. So the program
itself needs no clock.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi

_STEPS = {"interpreter and SDK": time.process_time()}
# Functions that `stacks.program.run` calls, and the step that each belongs to.
_CALLS = {
    "_load": "config",
    "judge_services": "plan",
    "_look_around": "looks at the cluster",
    "_attempts": "looks at the cluster",
    "build": "builder",
}


def _timed(step: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **named: Any) -> Any:
        begun = time.process_time()
        try:
            return call(*args, **named)
        finally:
            _STEPS[step] = _STEPS.get(step, 0) + time.process_time() - begun

    return timed


def _write() -> None:
    whole = time.process_time()
    # After its last line the program still serializes and sends its resources, and receives the answers.
    steps = {**_STEPS, "registration": whole - sum(_STEPS.values())}
    Path(os.environ["BENCH_STEPS"]).write_text(json.dumps({"steps": steps, "whole": whole}))


def _main() -> None:
    atexit.register(_write)
    begun = time.process_time()
    gc.freeze()  # as __main__.py does
    gc.set_threshold(100_000)
    from stacks import program

    _STEPS["imports"] = time.process_time() - begun
    for name, step in _CALLS.items():
        setattr(program, name, _timed(step, getattr(program, name)))
    for name, value in program.run().items():
        pulumi.export(name, value)


_main()

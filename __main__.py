"""Serves the models of the selected stack. The work is in `stacks`."""

import gc

import pulumi

# Nearly all that a run makes lives to its end: looking for garbage in it, again and again, takes a quarter of its time.
gc.freeze()
gc.set_threshold(100_000)

from stacks.program import run  # noqa: E402 - the collector first

for name, value in run().items():
    pulumi.export(name, value)

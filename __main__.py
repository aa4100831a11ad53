"""Serves the models of the selected stack. The work is in `stacks`."""

import gc

import pulumi

# Nearly all objects of a run live to its end, and collecting garbage among them would take a quarter of its time.
gc.freeze()
gc.set_threshold(100_000)

from stacks.program import run  # noqa: E402 - the collector first

for name, value in run().items():
    pulumi.export(name, value)

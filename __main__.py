"""Serves the models of the selected stack. The work is in `stacks`."""

import pulumi

from stacks.program import run

for name, value in run().items():
    pulumi.export(name, value)

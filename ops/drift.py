"""`drift FILE`: what the cluster and the cloud have otherwise than the stack's state says.

FILE is what `pulumi refresh --preview-only --json` prints.
"""

from __future__ import annotations

import argparse

from ops.report import add_file, load, told
from report import drift


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_file(parser)


def run(args: argparse.Namespace) -> int:
    """0 without drift, 1 with it, 2 where nobody can tell, because the refresh failed. Raises what `report` does."""
    seen = drift.look(load(args))
    print(told(args.format, drift, seen))
    return seen.exit_code

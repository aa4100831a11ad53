"""`drift FILE`: what the cluster and the cloud have otherwise than the stack's state says.

FILE is what `pulumi refresh --preview-only --json` prints.
"""

from __future__ import annotations

import argparse

from ops.report import add_file, load, told
from planning.problems import Problem, Refused, printable
from report import drift_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_file(parser)


def run(args: argparse.Namespace) -> int:
    """0 without drift, 1 with it, 2 where nobody can tell, because the refresh failed. Raises what `report` does."""
    read = load(args)
    if read.refreshed is False:
        instead = "give it to `python -m ops report`, and here what `pulumi refresh --preview-only --json` prints"
        raise Refused(Problem(printable(args.file), "", "is of a preview or an update", instead))
    seen = drift_report.look(read)
    print(told(args.format, drift_report, seen))
    return seen.exit_code

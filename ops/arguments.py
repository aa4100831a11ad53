"""Arguments that several commands take."""

from __future__ import annotations

import argparse
from pathlib import Path

from config.stack_file import StackFile, path_of, read


def add_stack(parser: argparse.ArgumentParser) -> None:
    """STACK and --config FILE, which reads another file in its place."""
    parser.add_argument("stack", metavar="STACK", help="names Pulumi.<STACK>.yaml")
    parser.add_argument("--config", metavar="FILE", type=Path, help="read this stack file instead")


def stack_file(args: argparse.Namespace) -> StackFile:
    """The stack file that was asked for. Raises RequestError where there is none."""
    return read(args.config or path_of(args.stack))

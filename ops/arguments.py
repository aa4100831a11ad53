"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from config.stack_file import RequestError, StackFile, path_of, read


def add_stack(parser: argparse.ArgumentParser, more: str = "") -> None:
    """STACK, or --config FILE, or both: that file for that stack."""
    parser.add_argument("stack", metavar="STACK", nargs="?", help=f"names Pulumi.<STACK>.yaml{more}")
    parser.add_argument("--config", metavar="FILE", type=Path, help="read this stack file instead")


def stack_file(args: argparse.Namespace) -> StackFile:
    """Reads the requested stack file and sets `args.stack` to the stack's name. Raises RequestError if there is
    none."""
    if args.stack is None and args.config is None:
        raise RequestError("write a STACK, or --config FILE")
    file = read(args.config or path_of(args.stack))
    args.stack = args.stack or file.name
    return file


def positive(text: str) -> float:
    """Argument type: a number above 0."""
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: is not a number above 0")
    return number


def not_negative(text: str) -> float:
    """Argument type: a number of at least 0."""
    number = _number(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: is not a number of at least 0")
    return number


def count(text: str) -> int:
    """Argument type: a whole number above 0."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise argparse.ArgumentTypeError(f"{text}: is not a whole number above 0")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan

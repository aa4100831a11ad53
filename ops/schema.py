"""`schema`: the JSON Schema of stack files, generated from the config's types, so that editors complete and check."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from config.json_schema import schema

FILE = Path("stack.schema.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--write", action="store_true", help=f"write {FILE} instead of printing")


def run(args: argparse.Namespace) -> int:
    """Print the schema, or write it to its file."""
    text = json.dumps(schema(), indent=2) + "\n"
    if args.write:
        FILE.write_text(text)
    else:
        print(text, end="")
    return 0

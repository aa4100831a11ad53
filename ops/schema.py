"""`schema`: the JSON Schema of stack files, generated from the config's types, for completion and checks in editors."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from config.json_schema import schema
from config.stack_file import RequestError

FILE = Path("stack.schema.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--write", action="store_true", help=f"write {FILE} instead of printing")


def run(args: argparse.Namespace) -> int:
    """Prints the schema, or writes it to its file."""
    text = json.dumps(schema(), indent=2) + "\n"
    if args.write:
        try:
            FILE.write_text(text)
        except OSError as error:
            raise RequestError(f"{FILE}: cannot be written ({error.strerror})") from None
    else:
        print(text, end="")
    return 0

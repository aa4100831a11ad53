"""`schema`: what the config's types say of stack files: their JSON Schema, for completion and checks in editors, and
with --docs the page docs/config.md."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from config.json_schema import schema
from config.stack_file import RequestError
from ops import key_tables

FILE = Path("stack.schema.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--docs", action="store_true", help="the page docs/config.md instead")
    parser.add_argument("--write", action="store_true", help=f"write {FILE}, or the page, instead of printing")


def run(args: argparse.Namespace) -> int:
    """Prints the schema or the page, or writes it to its file."""
    file = key_tables.PAGE if args.docs else FILE
    text = key_tables.page(_read(file)) if args.docs else json.dumps(schema(), indent=2) + "\n"
    if args.write:
        try:
            file.write_text(text)
        except OSError as error:
            raise RequestError(f"{file}: cannot be written ({error.strerror})") from None
    else:
        print(text, end="")
    return 0


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise RequestError(f"{file}: cannot be read ({error.strerror})") from None

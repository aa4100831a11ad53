"""`schema`: the JSON Schema of stack files, generated from the config's types, so that editors complete and check."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from config.errors import NAMESPACE
from config.pods import KUBERNETES, json_schemas
from config.stack import SECRETS, StackConfig

FILE = Path("stack.schema.json")


_KUBERNETES = "kubernetes."


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


def schema() -> dict[str, Any]:
    """The schema of a whole stack file: our keys typed, secrets encrypted, other namespaces left to their owners."""
    ours = _with_references(StackConfig.model_json_schema())
    definitions = ours.pop("$defs")
    definitions |= {f"{_KUBERNETES}{name}": _with_references(each) for name, each in json_schemas().items()}
    secret = {
        "type": "object",
        "properties": {"secure": {"type": "string"}},
        "required": ["secure"],
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A stack file of modelserve",
        "type": "object",
        "properties": {
            "config": {
                "type": "object",
                "properties": {
                    **{f"{NAMESPACE}:{key}": value for key, value in ours["properties"].items()},
                    **{f"{NAMESPACE}:{key}": {**secret, "description": text} for key, text in SECRETS.items()},
                },
                "required": [f"{NAMESPACE}:{key}" for key in ours["required"]],
                "patternProperties": {f"^(?!{NAMESPACE}:).*": {}},
                "additionalProperties": False,
            }
        },
        "required": ["config"],
        "$defs": definitions,
    }


def _with_references(value: Any) -> Any:
    """With a reference wherever one of Kubernetes' types is named."""
    if isinstance(value, dict):
        if name := value.get(KUBERNETES):
            return {"$ref": f"#/$defs/{_KUBERNETES}{name}"}
        return {key: _with_references(below) for key, below in value.items()}
    return [_with_references(below) for below in value] if isinstance(value, list) else value

"""`check STACK`: everything that is wrong in a stack file. Starts no engine and imports no Pulumi."""

from __future__ import annotations

import argparse
import json
import sys

from ops.arguments import add_stack, stack_file
from stacks.refusals import NAMESPACE, ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """0 when the file is accepted; 2 with one line a refusal when not."""
    try:
        config = stack_file(args).config()
    except ConfigError as error:
        if args.json:
            print(json.dumps({"ok": False, "refusals": [
                {"key": f"{NAMESPACE}:{r.path}", "value": r.value, "why": r.why, "instead": r.instead}
                for r in error.refusals]}))
        else:
            print(error, file=sys.stderr)
        return 2
    gpus = sum(service.layout.gpus * service.replicas for service in config.services.values())
    if args.json:
        print(json.dumps({"ok": True, "services": list(config.services), "gpus": gpus, "refusals": []}))
    else:
        print(f"{args.stack}: {len(config.services)} service{'s'[: len(config.services) != 1]}, {gpus} GPUs: fine")
    return 0

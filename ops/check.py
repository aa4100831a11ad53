"""`check STACK`: everything that is wrong in a stack file. Starts no engine and imports no Pulumi."""

from __future__ import annotations

import argparse
import json

from ops.arguments import add_stack, stack_file
from stacks.service_plans import briefly, checked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """0 when the file is accepted. Raises ConfigError with all that is wrong in it."""
    config, plans = checked(stack_file(args))
    if config.addons.charts:
        from stacks import addon_charts

        addon_charts.require_charts(config)
    gpus = sum(planned.layout.gpus * planned.service.replicas for planned in plans.values())
    if args.json:
        print(json.dumps({"ok": True, "services": list(plans), "gpus": gpus, "refusals": []}))
    else:
        print(f"{args.stack}: {len(plans)} service{'s'[: len(plans) != 1]}, {gpus} GPUs: fine")
        print("\n".join(line for name, planned in plans.items() for line in briefly(name, planned)))
    return 0

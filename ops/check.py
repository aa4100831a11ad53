"""`check STACK`: everything that is wrong in a stack file. Starts no engine and imports no Pulumi."""

from __future__ import annotations

import argparse
import json
import sys

from config.errors import NAMESPACE, ConfigError
from ops.arguments import add_stack, stack_file
from stacks.service_plans import briefly, checked, summary, verdict, warnings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """0 when the file is accepted, whatever it is warned of, as a preview would; 2 with one line a refusal when not."""
    try:
        file = stack_file(args)
        config, plans = checked(file)
        if config.addons.charts:
            from stacks import addon_charts

            addon_charts.require_charts(config)
    except ConfigError as error:
        if args.json:
            print(
                json.dumps(
                    {
                        "ok": False,
                        "refusals": [
                            {"key": f"{NAMESPACE}:{r.key}", "value": r.value, "why": r.why, "instead": r.instead}
                            for r in error.problems
                        ],
                    }
                )
            )
        else:
            print(error, file=sys.stderr)
        return 2
    gpus, most = (
        sum(planned.layout.gpus * getattr(planned.service, replicas) for planned in plans.values())
        for replicas in ("first_replicas", "most_replicas")
    )
    said = warnings(plans, file.encrypted, file.plain)
    if args.json:
        found = {
            "ok": True,
            "services": list(plans),
            "gpus": gpus,
            "mostGpus": most,
            "refusals": [],
            "fits": all(planned.plan.fits for planned in plans.values()),
            "warnings": said,
            "plans": {name: summary(planned) for name, planned in plans.items()},
        }
        print(json.dumps(found))
    else:
        counted = f"{gpus} to {most}" if most > gpus else str(gpus)
        print(f"{args.stack}: {len(plans)} service{'s'[: len(plans) != 1]}, {counted} GPUs: {verdict(plans)}")
        print("\n".join(line for name, planned in plans.items() for line in briefly(name, planned)))
        print("".join(f"warning: {line}\n" for line in said), end="")
    return 0

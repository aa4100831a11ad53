"""`check STACK`: reports what is wrong in a stack file, and the policies that it breaks. Does not import Pulumi."""

from __future__ import annotations

import argparse
import json

from config.plans import checked
from ops.arguments import add_stack, stack_file
from ops.outline import findings
from stacks.plan_summary import briefly, of_access, summary, verdict, warnings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Returns 0 if the file is accepted, even with warnings, and 1 if it breaks a mandatory policy.

    Raises ConfigError with everything that is wrong, and Refused for a wrong config of the policy pack.
    """
    file = stack_file(args)
    config, plans = checked(file)
    if config.addons.charts:
        from stacks import addon_charts

        addon_charts.require_charts(config)
    gpus, most = (
        sum(planned.layout.gpus * getattr(planned.service, replicas) for planned in plans.values())
        for replicas in ("first_replicas", "most_replicas")
    )
    warned = warnings(config, plans, file.encrypted, file.plain)
    if file.environment:
        warned.append("environment: its values are not seen here; only the Pulumi Cloud backend has environments")
    against = findings(config, plans, args.stack)
    broken = [finding for finding in against if finding.severity == "mandatory"]
    if args.json:
        result = {
            "ok": not broken,
            "services": list(plans),
            "gpus": gpus,
            "mostGpus": most,
            "refusals": [],
            "fits": all(planned.plan.fits for planned in plans.values()),
            "warnings": warned,
            "policy": [finding.plain() for finding in against],
            "plans": {name: summary(planned) for name, planned in plans.items()},
        }
        print(json.dumps(result))
    else:
        counted = f"{gpus} to {most}" if most > gpus else str(gpus)
        print(f"{args.stack}: {len(plans)} service{'s'[: len(plans) != 1]}, {counted} GPUs: {verdict(plans)}")
        print("\n".join(line for name, planned in plans.items() for line in briefly(name, planned)))
        print("".join(f"{line}\n" for line in of_access(config)), end="")
        print("".join(f"warning: {line}\n" for line in warned), end="")
        print("".join(f"policy: {finding}\n" for finding in broken), end="")
        if advised := list(dict.fromkeys(each.id for each in against if each not in broken)):
            print(f"policy: also advised: {', '.join(advised)} (docs/policy.md; --json says of what)")
    return int(bool(broken))

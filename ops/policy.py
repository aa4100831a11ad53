"""`policy STATE.json`: what the policy pack finds in a stack that is there, from its state alone.

The state is what `pulumi stack export` prints. Rules and config are the pack's (`policy/`); nothing is asked of cloud
or cluster.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

from config.errors import NAMESPACE
from policy import pack_config, rules, state
from policy.rule_types import Stack


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("state", metavar="STATE.json", type=Path, help="what `pulumi stack export` printed")
    parser.add_argument("--config", metavar="FILE", type=Path, help="the pack's config, policy/config.json if absent")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json prints one list of findings")


def run(args: argparse.Namespace) -> int:
    """1 where a mandatory rule is broken, else 0. Raises Refused for a state or a config that is none."""
    told = pack_config.read(args.config)
    stack = Stack(state.read(args.state, NAMESPACE), datetime.date.today())
    findings = rules.judge(stack, told.values, told.levels)
    if args.format == "json":
        print(json.dumps([finding.plain() for finding in findings], indent=2, ensure_ascii=False))
    else:
        print("".join(f"{finding}\n" for finding in findings), end="")
        mandatory = sum(finding.severity == "mandatory" for finding in findings)
        print(f"{args.state}: {mandatory} mandatory, {len(findings) - mandatory} advisory")
    return int(any(finding.severity == "mandatory" for finding in findings))

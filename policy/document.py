"""The table of docs/policy.md, generated from the rules. `python -m policy.document` writes it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from policy.rule_types import Rule
from policy.rules import RULES

PAGE = Path(__file__).parents[1] / "docs" / "policy.md"
_BETWEEN = re.compile(r"(?<=<!-- rules -->\n).*(?=<!-- end of rules -->)", re.DOTALL)


def table() -> str:
    """One row per rule."""
    head = "| rule | severity | `check` | why | what to do | settings |\n| --- | --- | --- | --- | --- | --- |\n"
    return head + "".join(map(_row, RULES.values()))


def page(text: str) -> str:
    """The page with its table brought up to date."""
    return _BETWEEN.sub(lambda _: table(), text)


def _row(rule: Rule) -> str:
    settings = "; ".join(f"`{key}`: {each.about} ({_shown(each.default)})" for key, each in rule.settings.items())
    early = "yes" if rule.early else "no"
    return f"| `{rule.id}` | {rule.severity} | {early} | {rule.reason} | {rule.remedy} | {settings} |\n"


def _shown(default: object) -> str:
    return "none" if default in (None, [], {}) else f"`{json.dumps(default)}`"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))

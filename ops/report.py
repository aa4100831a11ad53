"""`report FILE`: what the run that FILE tells of does to the models, the money and the data, for a pull request.

FILE is what `pulumi preview --json` prints or, as events, what `pulumi up --json` does and `--event-log` writes; `-` is
the standard input. The numbers before the change are those that the last `up` exported. The numbers after it are
planned here, from the config that the run itself says it had, and the policies judge that config as `check` does.
Starts no engine and imports no Pulumi.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config.errors import NAMESPACE
from config.judge import decoded
from config.judge import judge as judge_config
from config.plans import Planned, judge_services
from config.secrets import SECRETS, is_empty
from config.stack_file import RequestError
from ops import outline
from planning import answers
from planning.problems import Problem, Refused, printable
from planning.startup import FILL, WARM
from report import judgement, pages, run_file
from report.judgement import Finding, Judgement
from report.run_file import Run
from stacks.plan_summary import summary

FORMATS = ("markdown", "text", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_file(parser)
    parser.add_argument(
        "--allow", metavar="LABEL", nargs="*", default=[], help="labels of the pull request; others' are passed over"
    )
    parser.add_argument("--findings", metavar="FILE", type=Path, help="what other policies found, a JSON list")


def add_file(parser: argparse.ArgumentParser) -> None:
    """FILE, and how it is told."""
    parser.add_argument("file", metavar="FILE", help="what pulumi printed with --json; - is the standard input")
    parser.add_argument(
        "--events", action="store_true", default=None, help="FILE has events, as `up --json` prints them"
    )
    parser.add_argument("--format", choices=FORMATS, default="markdown", help="markdown if left out")


def run(args: argparse.Namespace) -> int:
    """0, or 1 where data goes or a policy forbids it and no label allows that, and where the run failed.

    Raises Refused or RequestError for a file that tells of no run, or of another project's.
    """
    read = load(args)
    if read.refreshed:
        raise Refused(Problem(printable(args.file), "", "is of a refresh", "give it to `python -m ops drift`"))
    seen = judged(read, labels=args.allow, findings=_findings(args.findings))
    print(told(args.format, pages, seen))
    return seen.exit_code


def judged(run: Run, *, labels: Sequence[str] = (), findings: Sequence[Finding] = ()) -> Judgement:
    """The judgement on a run. Adds to `findings` what our own policies find in the config that the run had."""
    after, own, unplanned = _by_config(run)
    return judgement.judge(run, after=after, findings=[*own, *findings], labels=labels, unplanned=unplanned)


def told(form: str, page: Any, seen: Any) -> str:
    """What `page`, which has a function for each format, makes of what was seen."""
    if form == "json":
        return json.dumps(page.to_json(seen))
    return page.text(seen) if form == "text" else page.markdown(seen)


def load(args: argparse.Namespace) -> Run:
    """The run that was asked for."""
    name = "standard input" if args.file == "-" else args.file
    try:
        text = sys.stdin.read() if args.file == "-" else Path(args.file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RequestError(printable(f"{name}: {error.strerror}; name a file that can be read")) from None
    except UnicodeDecodeError:
        raise RequestError(printable(f"{name}: is no text; name a file that pulumi wrote")) from None
    return run_file.read(text, printable(name), events=args.events, project=NAMESPACE)


def _by_config(run: Run) -> tuple[dict[str, Any], list[Finding], str]:
    """By the config that the run had: each service's plan, as the stack exports it and a little more, and what the
    policies find; or why neither is known."""
    prefix = f"{NAMESPACE}:"
    ours = {key.removeprefix(prefix): value for key, value in run.config.items() if key.startswith(prefix)}
    if not ours:
        return {}, [], "the file says nothing of the stack's config"
    raw = {key: decoded(value) for key, value in ours.items() if key not in SECRETS}
    kept = {key for key in ours.keys() & SECRETS if not is_empty(ours[key])}
    config, wrong = judge_config(raw, secrets=kept)
    if wrong:
        return {}, [], f"the config is refused: {printable(str(wrong[0]))}"
    plans, unfit = judge_services(config)
    if unfit:
        return {}, [], f"the config is refused: {printable(str(min(unfit)))}"
    broken = [Finding(**each.plain()) for each in outline.findings(config, plans, run.stack)]
    return {name: _numbers(each) for name, each in plans.items()}, broken, ""


def _numbers(planned: Planned) -> Mapping[str, Any]:
    path = planned.plan.startup
    return {
        **summary(planned),
        "restartSeconds": planned.startup_seconds,
        "loadSeconds": round(path.seconds(WARM)),
        "fillSeconds": round(path.seconds(FILL)),
        "longestAnswerSeconds": answers.longest_seconds(planned.max_model_len),
    }


def _findings(file: Path | None) -> list[Finding]:
    if file is None:
        return []
    instead = "give a list of objects with id, severity, resource, reason and remedy"
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        return [
            Finding(
                str(each["id"]),
                str(each["severity"]),
                str(each["resource"]),
                str(each["reason"]),
                str(each.get("remedy", "")),
            )
            for each in listed
        ]
    except OSError as error:
        raise RequestError(f"--findings {file}: {error.strerror}; name a file that can be read") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Refused(Problem("--findings", str(file), "is no list of findings", instead)) from None

"""The command line: one module per command, imported only when that command runs, to keep `check` quick."""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import sys
from typing import Any, NoReturn

_NO_PACKAGES = "{python} has no {name}: run .venv/bin/python, which `make up` makes, or install requirements.txt"

try:
    from config.errors import ConfigError
    from config.stack_file import RequestError
    from planning.problems import Problem, Refused
except ModuleNotFoundError as missing:
    sys.exit(_NO_PACKAGES.format(python=sys.executable, name=missing.name))

_COMMANDS = {
    "render": "every Kubernetes object of a stack as YAML, without engine or cluster",
    "check": "what is wrong in a stack file, all at once",
    "plan": "will a model fit, when will it answer, what will it cost",
    "model": "what a model's own files say, without its weights; into a stack file if told to",
    "verify": "ask the served models for a completion",
    "audit": "what of a stack exists in its cluster and its cloud, and what it costs",
    "destroy": "pulumi destroy, only in the stack's own cluster and account, and then an audit",
    "recover": "finish what an interrupted pulumi run left behind",
    "policy": "what the policy pack finds in the state of a stack",
    "new": "a new stack file with every key, made like another stack's",
    "rotate": "new access keys for the bucket in place of the old ones",
    "report": "what a preview does to the models, the money and the data, as a comment",
    "drift": "what the cluster has otherwise than the state says, of a refresh's JSON",
    "ci": "the steps of the team's workflows: preview, comment, up, drift, expire",
    "schema": "the JSON Schema of stack files for editors, and the page of all keys",
}


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command, without printing the usage."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{self.prog}: {message}; {self.prog} --help says what it takes")


def main(argv: list[str]) -> int:
    """Runs one command and returns its exit code."""
    parser = _Parser(prog="python -m ops", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == asked:
            importlib.import_module(f"ops.{name}").add_arguments(command)
    try:
        args = parser.parse_args(argv)
        return importlib.import_module(f"ops.{args.command}").run(args)
    except (Refused, RequestError) as error:
        if {"--json", "--format=json"} & {*argv} or ("--format", "json") in itertools.pairwise(argv):
            print(json.dumps(refused(error)))
        print(error, file=sys.stderr)
        return 2
    except ModuleNotFoundError as missing:
        print(_NO_PACKAGES.format(python=sys.executable, name=missing.name), file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def refused(error: Refused | RequestError) -> dict[str, Any]:
    """What a command with --json prints for a request that it refuses. `fits` is for readers of plans."""
    keyed: list[tuple[str, Problem]] = [("", Problem("", "", str(error)))]
    if isinstance(error, ConfigError):
        keyed = error.keyed
    elif isinstance(error, Refused):
        keyed = [(problem.key, problem) for problem in error.problems]
    refusals = [
        {"key": key, "value": problem.value, "why": problem.why, "instead": problem.instead} for key, problem in keyed
    ]
    return {"ok": False, "fits": False, "refusals": refusals}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

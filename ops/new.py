"""`new STACK --like OTHER`: writes a stack file with every key and another stack's values, except what must be its own.

Writes one file. Does not touch the state: `pulumi stack init` creates the stack.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from config import project_file, pulumi_yaml
from config.errors import NAMESPACE, join
from config.judge import PLACEHOLDER
from config.keys import ROOT, Key, keys_of
from config.plans import judge_services
from config.project_file import at, steps
from config.secrets import SECRETS
from config.stack import SECTIONS
from config.stack_file import RequestError, StackFile, path_of, read
from ops import stack_text
from planning.catalog import fact
from planning.problems import Problem, Refused, printable

_WORKFLOWS = Path(".github/stacks.json")
_Path = list[str | int]

# What the command asks for at a terminal, if the other stack has it. True: the other stack's value is not acceptable,
# because nobody would notice a stack that uses another one's cluster, bucket or last day by mistake.
_ASKED = {
    "owner": False,
    "expires": True,
    "cloud.region": False,
    "cloud.gpuSeries": False,
    "cloud.instanceType": False,
    "cluster.context": True,
    "cluster.namespace": False,
    "weights.bucket.name": True,
    "weights.claim": False,
    "weights.path": False,
    "weights.download.nodePath": False,
    "monitoring.prometheusNamespace": False,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("stack", metavar="STACK", help="the new stack's name")
    parser.add_argument("--like", metavar="STACK", required=True, help="the stack whose values it takes")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="a value of its own; null takes a key out"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the stack file. Raises RequestError if it exists or the name is invalid, Refused with what is missing or
    wrong in the values."""
    path = Path(f"Pulumi.{args.stack}.yaml")
    kept = _kept(args.stack, path)
    like = read(path_of(args.like), with_project=False)
    raw = {key: value for key, value in like.raw.items() if key in SECTIONS}
    given = [_assignment(text) for text in args.set]
    for where, value in given:
        _assign(raw, where, value)
    answered = {join(where) for where, _ in given}
    _fill_in(raw, answered, _prompt if sys.stdin.isatty() else None)
    _judge(raw, like, path)
    secret = dict(kept.get("config") or {})
    cloud = raw["cloud"]["kind"]
    heading = f"Stack {args.stack}, made like {args.like} by `python -m ops new`."
    others = {key: value for key, value in {**like.foreign, **secret}.items() if value is not None}
    rest = {key: value for key, value in kept.items() if key != "config"}
    try:
        path.write_text(stack_text.written(heading, raw, others, rest, cloud), encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror})") from None
    print(f"{path}: written; it has every key, those that have a default or are not needed as comments")
    for line in _next(args.stack, like, secret, cloud):
        print(f"next: {line}")
    return 0


def _kept(stack: str, path: Path) -> dict[str, Any]:
    """What a file of this name already has, if that is only what `pulumi stack init` and secrets write. Raises
    RequestError if it has more, or the name is invalid."""
    if not re.fullmatch(fact("pulumi", "stack", "namePattern"), stack):
        raise RequestError(f"stack {stack}: is not a stack's name; write at most 100 letters, digits, dots, - and _")
    if not path.exists():
        return {}
    there = read(path, with_project=False)
    if there.raw or there.foreign or there.plain_secrets:
        raise RequestError(f"stack {stack}: {path} exists already; take another name")
    return pulumi_yaml.read_file(path).value or {}


def _assignment(text: str) -> tuple[_Path, Any]:
    key, sign, value = text.partition("=")
    path = steps(key.strip().removeprefix(f"{NAMESPACE}:"))
    if path is None or not sign:
        raise RequestError(f"--set {text}: is no assignment; write one such as --set cluster.context=dev")
    if str(path[0]) in SECRETS:
        secret = f"pulumi config set --secret {NAMESPACE}:{path[0]}"
        raise RequestError(f"--set {path[0]}: is a secret; once the file is there, run: {secret}")
    return path, _value(join(path), value)


def _value(key: str, text: str) -> Any:
    """The text as a value of a stack file."""
    try:
        document = pulumi_yaml.read(text)
    except pulumi_yaml.UnreadableError:
        raise RequestError(f"{key}: {printable(text)}: is not YAML; put it in quotes") from None
    if document.problems:
        raise RequestError(f"{key}: {printable(text)}: {document.problems[0][1].why}; put it in quotes")
    return document.value


def _assign(raw: dict[str, Any], path: _Path, value: Any) -> None:
    if value is None:
        *above, last = path
        place = at(raw, above)
        if isinstance(place, dict):
            place.pop(last, None)
        return
    try:
        project_file.put(raw, path, value)
    except (TypeError, IndexError):
        raise RequestError(f"--set {join(path)}: leads through something that is no map or list") from None


def _fill_in(raw: dict[str, Any], answered: set[str], ask: Callable[[str, str], str] | None) -> None:
    """Ask for what must be the stack's own, and offer what may be. Raises Refused with what is missing if there is no
    terminal, or its input ends."""
    missing = []
    for key, path, must in list(_questions(raw)):
        if join(path) in answered:
            continue
        if ask is None:
            missing += [(key, path)] if must else []
            continue
        offered = "" if must else str(at(raw, path))
        answer = ask(f"{join(path)}: {key.description}", offered)
        if answer:
            _assign(raw, path, _value(join(path), answer))
        elif must:
            missing.append((key, path))
    if missing:
        why = "is missing, and must be the stack's own"
        problems = [
            Problem(f"{NAMESPACE}:{join(path)}", "", why, f"write --set {join(path)}=…: {key.description}")
            for key, path in missing
        ]
        raise Refused(*problems)


def _questions(raw: Mapping[str, Any]) -> Iterator[tuple[Key, _Path, bool]]:
    """Keys to ask for, with their paths, and whether an answer is required."""
    for text, own in _ASKED.items():
        path = steps(text)
        assert path is not None
        if at(raw, path) is not None and (key := _key(raw, path)):
            mine = own and at(raw, ["cloud", "kind"]) != "local"
            mine = mine and not (text == "weights.bucket.name" and at(raw, ["weights", "bucket", "create"]) is False)
            yield key, path, mine or _is_placeholder(at(raw, path))
    for path in _placeholders(raw, []):
        if join(path) not in _ASKED and (key := _key(raw, path)):
            yield key, path, True


def _placeholders(value: Any, path: _Path) -> Iterator[_Path]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _placeholders(below, [*path, key])
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _placeholders(below, [*path, index])
    elif _is_placeholder(value):
        yield path


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, str) and re.search(PLACEHOLDER, value) is not None


def _key(raw: Mapping[str, Any], path: _Path) -> Key | None:
    """The key at a path, or the nearest above it; None if there is none."""
    part: str | None = ROOT
    found: Key | None = None
    value: Any = raw
    for step in path:
        value = at(value, [step])
        if part is None:
            break
        key = next((key for key in keys_of(part) if key.name == step), None)
        if key is None:
            continue  # a name in a map, or an index
        found, part = key, key.part
        if key.parts:
            tag = next((word for word in (value or {}).values() if isinstance(word, str) and word in key.parts), None)
            part = key.parts[tag] if tag else None
    return found


def _prompt(question: str, offered: str) -> str:
    """What a person types; the offered value if they only press Enter."""
    try:
        return input(f"{question}{f' [{offered}]' if offered else ''}\n> ").strip() or offered
    except EOFError:
        return ""


def _judge(raw: Mapping[str, Any], like: StackFile, path: Path) -> None:
    """Refuse values that a check would refuse, as if the other stack's secrets were set here as well."""
    config = project_file.fill({f"{NAMESPACE}:{key}": value for key, value in raw.items()}, project_file.shared(Path()))
    ours = {key.removeprefix(f"{NAMESPACE}:"): value for key, value in config.items() if key.startswith(NAMESPACE)}
    file = replace(like, name=path.name, raw=ours, roots=(), problems=())
    judged, wrong = file.judged(with_cluster=False)
    _, unfit = judge_services(judged)
    file.require_none([*wrong, *unfit])


def _next(stack: str, like: StackFile, secret: Mapping[str, Any], cloud: str) -> Iterator[str]:
    """What remains to be done."""
    yield f"pulumi stack select --create {stack}"
    for key in SECRETS:
        if key in like.encrypted and f"{NAMESPACE}:{key}" not in secret:
            yield f"pulumi config set --secret {NAMESPACE}:{key} -s {stack}"
    yield f"python -m ops check {stack}"
    if _WORKFLOWS.is_file():
        try:
            listed = json.loads(_WORKFLOWS.read_text())
        except ValueError:
            listed = None
        if isinstance(listed, list):
            yield f"write {json.dumps([*listed, stack])} into {_WORKFLOWS}, and the workflows look after the stack"

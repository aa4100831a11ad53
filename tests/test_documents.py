"""The documents are true: links lead somewhere, commands are taken, files and keys are there. Nothing is run here; the
README's commands run in tests/rehearsal/test_readme.py."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from config import facts
from config.stack import SECRETS, StackConfig
from local import __main__ as local_main
from ops import __main__ as ops_main
from tests.support import documents
from tests.support.documents import PAGES, ROOT

PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
TARGETS = set(re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


@PAGE
def test_links_lead_to_files_and_every_block_says_whether_it_is_to_be_run(page: Path):
    assert [str(target) for target in documents.links(page) if not target.exists()] == []
    assert documents.untagged(page) == []


@PAGE
def test_every_command_that_a_page_shows_is_one_that_the_program_takes(page: Path):
    assert [line for line in documents.commands(page) if not taken(line)] == []


@pytest.mark.parametrize(
    "line", ["make upp", "python -m ops chek local", "python -m local fail Pod/x", "python -m ops check local --now"]
)
def test_a_command_that_the_program_does_not_take_is_noticed(line: str):
    assert not taken(line)


def taken(line: str) -> bool:
    """Whether make, `ops` or `local` would take it; anything else is somebody else's."""
    if line.startswith("make "):
        return {word for word in line.split()[1:] if "=" not in word and not word.startswith("-")} <= TARGETS
    for module, parse in (("ops", parse_ops), ("local", parse_local)):
        if line.startswith(f"python -m {module} "):
            with contextlib.redirect_stderr(io.StringIO()):
                try:
                    parse(shlex.split(line)[3:])
                except SystemExit:
                    return False
    return True


def parse_ops(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for name in ops_main._COMMANDS:
        importlib.import_module(f"ops.{name}").add_arguments(commands.add_parser(name))
    parser.parse_args(argv)


def parse_local(argv: list[str]) -> None:
    parser = local_main._parser()
    args = parser.parse_args(argv)
    if args.run in (local_main.fail, local_main.heal):
        local_main._check_fault(parser, args)


def test_a_reader_who_follows_the_links_begins_with_make_up_meets_each_cloud_and_ends_with_make_down():
    lines = [line.partition(" #")[0].strip() for section in documents.sections() for line in section.commands]
    ups = [line for line in lines if line == "make up" or line.startswith("pulumi up")]
    assert ups == ["make up", "pulumi up -s trial --yes", "pulumi up -s fleet --yes"]
    assert (lines[0], lines[-1]) == ("make up", "make down")


@pytest.mark.parametrize(
    "page", [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"], ids=lambda page: page.name
)
def test_the_files_that_the_guides_name_are_there(page: Path):
    named = documents.named_files(page)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_docs_config_names_every_key_of_the_stack_file():
    """But for the facts of models and GPUs, which planning/catalog shows."""
    text = (ROOT / "docs" / "config.md").read_text()
    keys = {*SECRETS, *(key for model in models(StackConfig) for key in model_keys(model))}
    assert sorted(key for key in keys if not re.search(rf"\b{key}\b", text)) == []


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model of the stack file below this type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation.__module__ == facts.__name__:
            return
        yield annotation
        for field in annotation.model_fields.values():
            yield from models(field.annotation)
    for inner in get_args(annotation):
        yield from models(inner)


def model_keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]

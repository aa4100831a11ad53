"""The documents are true: links lead somewhere, commands are taken, files and keys are there. Nothing is run here; the
README's commands run in tests/rehearsal/test_readme.py."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from local import __main__ as local_main
from ops import __main__ as ops_main
from ops import key_tables
from planning.catalog import entries
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


def test_docs_config_has_every_key_as_the_types_have_it():
    text = (ROOT / key_tables.PAGE).read_text()
    assert text == key_tables.page(text), "run: python -m ops schema --docs --write"


def test_what_the_guide_says_is_in_a_file_is_there():
    rows = [row for guide in guides().values() for row in guide]
    assert len([name for _, names in rows for name in names]) > 20
    lost = [(files, name) for files, names in rows for name in names if not any(has(file, name) for file in files)]
    assert lost == []


def guides() -> dict[str, list[tuple[list[str], list[str]]]]:
    """By heading of CONTRIBUTING.md, the rows of its table: files, and names that are to be in one of them."""
    found = {}
    for part in re.split(r"^## ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines() if line.startswith("| ")]
        codes = [[re.findall(r"`([^`]+)`", cell) for cell in row] for row in rows[2:]]
        found[part.splitlines()[0]] = [
            (
                [code for cell in row for code in cell if documents.is_path(code)],
                [
                    code
                    for cell in row[1:]
                    for code in cell
                    if re.fullmatch(r"\w+", code) and not documents.is_path(code)
                ],
            )
            for row in codes
        ]
    return found


def has(file: str, name: str) -> bool:
    """Whether a file, or any file of a folder, has this word."""
    path = ROOT / file
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.suffix in (".py", ".json", ".md")]
    return any(re.search(rf"\b{re.escape(name)}\b", each.read_text()) for each in files)


def test_the_guide_to_a_cloud_names_every_file_of_the_program_that_lists_clouds():
    named = {file for files, _ in guides()["Add a cloud"] for file in files}
    listing = [
        str(file.relative_to(ROOT))
        for room in ("planning", "config", "components", "stacks", "watch", "ops", "local")
        for file in (ROOT / room).rglob("*.py")
        if {"acs", "volcengine"} <= texts(file) or {"alicloud", "volcengine"} <= texts(file)
    ]
    assert len(listing) > 4
    assert sorted(set(listing) - named) == []


def texts(file: Path) -> set[str]:
    """The texts in a file's code."""
    nodes = ast.walk(ast.parse(file.read_text()))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_the_guide_to_a_model_names_every_part_of_the_catalog_that_has_something_of_each_model():
    (_, named), *_ = [row for row in guides()["Add a model"] if "planning/catalog/models.json" in row[0]]
    model = "DeepSeek-R1"
    having = {part for part, found in entries("models").items() if model in found or model in every_value(found)}
    assert having == {*named} >= {"models", "owners"}


def every_value(found: dict[str, Any]) -> set[str]:
    return {key for entry in found.values() for key in entry["value"]}

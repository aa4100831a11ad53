"""The rooms: who may import whom, and what a quick command must not load."""

from __future__ import annotations

import ast
import graphlib
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]
# Each room, and the rooms of ours that it may import.
ALLOWED = {
    "planning": {"planning"},
    "config": {"config", "planning"},
    "components": {"components", "planning"},
    "watch": {"watch", "config", "components", "planning"},
    "stacks": {"stacks", "watch", "config", "components", "planning"},
    "policy": {"policy", "planning"},
    "ci": {"ci", "planning"},
    "report": {"report", "planning"},
    "ops": {"ops", "ci", "report", "policy", "stacks", "watch", "config", "components", "planning"},
    "local": {"local", "planning"},
    "standins": {"standins", "local", "planning"},
    "bench": {"bench", "local", "stacks", "planning"},
}


def imported(room: str) -> dict[str, set[str]]:
    """Top-level packages that each file of a room imports anywhere in it."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / room).rglob("*.py"):
        names = found.setdefault(str(file.relative_to(ROOT)), set())
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    assert found, f"{room} has no Python file"
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_go_one_way(room):
    wrong = {file: names & ALLOWED.keys() - ALLOWED[room] for file, names in imported(room).items()}
    assert not {file: names for file, names in wrong.items() if names}


def names_of(room: str, word: str) -> bool:
    """Whether a file of a room has a variable, field, argument or parameter of that name."""
    fields = {ast.Name: "id", ast.Attribute: "attr", ast.keyword: "arg", ast.arg: "arg"}
    nodes = (node for file in (ROOT / room).rglob("*.py") for node in ast.walk(ast.parse(file.read_text())))
    return any(getattr(node, fields[type(node)]) == word for node in nodes if type(node) in fields)


def test_a_value_goes_from_the_stack_file_into_the_plan_into_the_pods_and_never_back():
    rooms = {room for room in ALLOWED["stacks"] if names_of(room, "tensor")}
    assert rooms == {"config", "planning", "stacks", "components"}
    for room in ("stacks", "components", "watch"):
        for file in (ROOT / room).rglob("*.py"):
            source = file.read_text()
            asked = re.findall(r"from planning.planner import (.*)", source)
            assert asked in ([], ["Plan"]), f"{file} asks the planner: config/plans.py does, before"
            assert not re.search(r"service\.layout\b", source), f"{file} reads the stack file's layout, not the plan's"


CLOUDS = {"acs", "volcengine", "AcsCloud", "VolcengineCloud"}


def branches(source: str) -> list[int]:
    """Lines that compare with the name of a cloud, or ask whether an object is of its type."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        asks = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance"
        for part in (part for each in (node.args[1:] if asks else compared) for part in ast.walk(each)):
            if {getattr(part, "value", None), getattr(part, "id", None)} & CLOUDS:
                lines.append(part.lineno)
    return lines


def test_only_a_clouds_own_builder_branches_on_its_name_so_that_a_third_cloud_falls_through_nothing():
    files = {file for room in ALLOWED.keys() - {"local", "standins"} for file in (ROOT / room).rglob("*.py")}
    files -= {ROOT / "stacks" / f"{kind}.py" for kind in CLOUDS}
    lines = {file: branches(file.read_text()) for file in files}
    assert not {file: found for file, found in lines.items() if found}
    assert branches('if kind == "acs": x\nif isinstance(y, (A, AcsCloud)): x\nif y in ("acs", "b"): x') == [1, 2, 3]


def modules() -> dict[str, Path]:
    """The files of the rooms by their modules' names."""
    files = [file for room in ALLOWED for file in (ROOT / room).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def test_no_file_imports_one_that_imports_it_not_even_later_or_for_its_types():
    files = modules()
    graph: dict[str, set[str]] = {}
    for name, file in files.items():
        told = graph[name] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                told |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                below = {f"{node.module}.{alias.name}" for alias in node.names} & files.keys()
                told |= below or {node.module}
        told &= files.keys() - {name}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_no_file_name_says_two_things_in_two_rooms():
    names = Counter(file.name for file in modules().values() if not file.name.startswith("__"))
    assert not {name for name, count in names.items() if count > 1}


def test_the_planner_knows_no_pulumi_no_cluster_and_no_types_of_files():
    for file, names in imported("planning").items():
        assert not names & {"pulumi", "pulumi_kubernetes", "kubernetes", "pydantic", "yaml", "os"}, file


def test_components_read_no_environment():
    for file, names in imported("components").items():
        # What runs in pods, the engine's and the sync's, is told everything by its environment, and writes to disks.
        assert "os" not in names or file in (
            "components/serving/modelserve_guard.py",
            "components/serving/modelserve_scale.py",
            "components/serving/modelserve_servers.py",
            "components/serving/modelserve_verify.py",
            "components/weights/sync/__main__.py",
            "components/weights/sync/folder.py",
        ), file
        assert "pulumi.Config" not in (ROOT / file).read_text(), file


def test_the_program_itself_stays_a_page():
    assert len((ROOT / "__main__.py").read_text().splitlines()) < 30


def splats(source: str) -> list[int]:
    """Lines of calls that unpack a dict into arguments."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if any(keyword.arg is None for keyword in call.keywords)]


def test_arguments_are_named_so_that_the_type_checker_finds_a_missing_or_misspelt_one():
    # What runs in sync Jobs reads JSON that it wrote itself.
    files = [file for room in ("stacks", "components") for file in (ROOT / room).rglob("*.py")]
    lines = {str(file.relative_to(ROOT)): splats(file.read_text()) for file in files if file.parent.name != "sync"}
    assert not {file: found for file, found in lines.items() if found}
    assert splats("Args(stack=1, **common)") == [1]


def test_no_wait_for_another_process_ends_before_patience_does():
    """A shorter limit fails on a machine that is slower than the one where it was written."""
    short = []
    for file in (ROOT / "tests").rglob("test_*.py"):
        for call in (each for each in ast.walk(ast.parse(file.read_text())) if isinstance(each, ast.Call)):
            limits = [each.value for each in call.keywords if each.arg == "timeout"]
            limits += call.args[1:2] if getattr(call.func, "id", "") == "wait_until" else []
            given = [each.value for each in limits if isinstance(each, ast.Constant)]
            short += [f"{file}:{call.lineno}: {seconds} s" for seconds in given if seconds < PATIENCE_SECONDS]
    assert not short, "write PATIENCE_SECONDS:\n" + "\n".join(short)

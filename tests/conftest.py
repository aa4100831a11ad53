"""Fixtures of every room, and which tests `make check`, `make test` and `make soak` run.

`make check` runs what carries no mark. `make test` adds the mark `rehearsal`: what needs a control plane, or runs other
programs than Python (Pulumi, rclone); all of tests/rehearsal has it by its place, others by hand. `make soak` runs the
mark `soak` alone: tests that take the fixtures `dice` and `budget`, and go on for as long as they are given, and tests
that take minutes, such as the README's commands.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.recorder import Recorder

# A run in the background inherits an ignored SIGINT and would hand it down to every program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


_REHEARSAL = Path(__file__).parent / "rehearsal"
_LONGEST = ("volcengine", "test_stack", "test_acs", "test_interruption", "test_model_bucket", "test_fluid")


def pytest_addoption(parser: pytest.Parser) -> None:
    soak = parser.getgroup("soak")
    soak.addoption("--seed", type=int, default=0, help="what the random choices of soak tests follow from (default: 0)")
    soak.addoption("--budget", type=float, default=60, help="seconds that all soak tests share (default: 60)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "rehearsal: needs a control plane, or runs other programs than Python; not in `make check`"
    )
    config.addinivalue_line("markers", "soak: takes minutes, or as long as it is given; only in `make soak`")
    config.addinivalue_line("markers", "preview_too: also as in a preview, where what the engine tells differs")


def pytest_itemcollected(item: pytest.Item) -> None:
    if _REHEARSAL in item.path.parents:
        item.add_marker(pytest.mark.rehearsal)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The groups that take longest come first: what is left for the end is short, and all workers end together."""

    def place(item: pytest.Item) -> int:
        group = group_of(item.nodeid)
        return _LONGEST.index(group) if group in _LONGEST else len(_LONGEST)

    items.sort(key=place)


def group_of(nodeid: str) -> str:
    """A worker takes a file as a whole, for the sake of what its tests share. All rehearsals with Volcengine's
    operators go to one worker, because to add them to a control plane takes most of a minute."""
    file, _, test = nodeid.partition("::")
    if "/rehearsal/" in file and any(word in f"{Path(file).stem} {test}" for word in ("volcengine", "fleet")):
        return "volcengine"
    return Path(file).stem


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Its own way to group tests, `--dist loadgroup`, writes an attribute that pytest 9.2 no longer has."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Once as in `pulumi up`, and as in `pulumi preview` where a test says that this differs. Whole stacks are rendered
    as in a preview by the tests of the documents beside them."""
    own = any("engine" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "engine" in metafunc.fixturenames and not own:
        marked = metafunc.definition.get_closest_marker("preview_too")
        metafunc.parametrize("engine", ["up", "preview"] if marked else ["up"], indirect=True)


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """A soak test's choices. The run's seed and the test's name decide them: alone it does what it did among others."""
    return random.Random(f"{request.config.getoption('seed')} {request.node.nodeid}")


@pytest.fixture
def budget(request: pytest.FixtureRequest) -> float:
    """Seconds of one soak test that fills its time: its share of what the run was given."""
    items = request.session.items
    return request.config.getoption("budget") / sum("budget" in getattr(item, "fixturenames", ()) for item in items)


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A recorder in place of the engine."""
    # An Output inside an f-string is silently useless text; so it is an error.
    monkeypatch.setenv("PULUMI_ERROR_OUTPUT_STRING", "true")
    return Recorder(preview=request.param == "preview")

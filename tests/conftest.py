"""Fixtures for all tests, and the selection of tests that `make check`, `make test` and `make soak` run.

`make check` runs the tests without a mark. `make test` adds those marked `rehearsal`, which need a control plane or run
programs other than Python (Pulumi, rclone). Every test in tests/rehearsal gets this mark automatically; others set it
explicitly. `make soak` runs only the tests marked `soak`: those that use the fixtures `dice` and `budget` and fill the
time they are given, those that take minutes, such as the README's commands, and the further ways of what `make test`
tries in one way.
"""

from __future__ import annotations

import gc
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.recorder import Recorder

# A background run inherits an ignored SIGINT and would pass it on to every program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


_REHEARSAL = Path(__file__).parent / "rehearsal"
# These need programs, but no control plane. One worker runs them all and starts none before its group is done, which is
# then as long as what the others do. What else needs none is short.
_WITHOUT_A_CONTROL_PLANE = frozenset(
    {
        *("test_model_sync_run", "test_model_sync_hosts", "test_sync_folder", "test_sync_node", "test_model_bucket"),
        *("test_state_bucket", "test_prometheus", "test_alerts", "test_language_host"),
    }
)
_LONGEST = (
    *("volcengine", "no control plane", "test_stack", "test_acs", "test_answers", "test_access", "test_blue_green"),
    *("test_audit", "test_paused", "test_interruption", "test_fluid_controllers", "test_layouts", "test_preflight"),
    *("test_gateway_plane", "test_drift"),
)
_LONG_TESTS = ("test_stack", "test_interruption")


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


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """Without garbage collection: nearly all that collecting makes stays to the end, and each full collection would
    search it again, now and while tests run."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_itemcollected(item: pytest.Item) -> None:
    if _REHEARSAL in item.path.parents:
        item.add_marker(pytest.mark.rehearsal)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest groups first: only short ones remain at the end, and all workers finish together."""

    def place(item: pytest.Item) -> int:
        group = Path(group_of(item.nodeid).partition("::")[0]).stem
        return _LONGEST.index(group) if group in _LONGEST else len(_LONGEST)

    items.sort(key=place)


def group_of(nodeid: str) -> str:
    """What one worker runs: all tests of a file, because they share fixtures, but for files whose tests share only the
    control plane and take long; all rehearsals with Volcengine's operators, because adding these to a control plane
    takes most of a minute; and the files that need none."""
    file, _, test = nodeid.partition("::")
    stem = Path(file).stem
    if "/rehearsal/" in file and any(word in f"{stem} {test}" for word in ("volcengine", "fleet")):
        return "volcengine"
    if stem in _WITHOUT_A_CONTROL_PLANE:
        return "no control plane"
    return nodeid if stem in _LONG_TESTS else stem


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Replace xdist's own grouping, `--dist loadgroup`: it writes an attribute that pytest 9.2 no longer has."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test as in `pulumi up`, and also as in `pulumi preview` where a test says that the two differ. The tests
    of the documents render whole stacks as in a preview."""
    own = any("engine" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "engine" in metafunc.fixturenames and not own:
        marked = metafunc.definition.get_closest_marker("preview_too")
        metafunc.parametrize("engine", ["up", "preview"] if marked else ["up"], indirect=True)


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """A soak test's random choices. They depend only on the run's seed and the test's name, so that a test run alone
    makes the same choices as in a full run."""
    return random.Random(f"{request.config.getoption('seed')} {request.node.nodeid}")


@pytest.fixture
def budget(request: pytest.FixtureRequest) -> float:
    """The seconds that one time-filling soak test may take: its share of the run's time."""
    items = request.session.items
    return request.config.getoption("budget") / sum("budget" in getattr(item, "fixturenames", ()) for item in items)


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A recorder in place of the engine."""
    # An Output inside an f-string silently yields useless text; make it an error.
    monkeypatch.setenv("PULUMI_ERROR_OUTPUT_STRING", "true")
    return Recorder(preview=request.param == "preview")

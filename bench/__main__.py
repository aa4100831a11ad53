"""`python -m bench`: what the program costs, as ratios within one run, on a rehearsal that is deleted afterwards.

1. CPU of a preview of the local stack, over that of an empty Pulumi program.
2. Wall clock of its `up`, over that of an empty `up` plus `kubectl apply --server-side` of what `ops render` prints.
3. CPU of the program's own process in a preview, for each added service, and how the whole process tree grows.
4. Preview and `up`, over those of a plain Pulumi program that declares the same objects with the typed SDK.
5. Where the CPU of one preview and one `up` goes, and what the program spends its own share on: where to cut next.

In every `up` the groups have no replicas, so that nothing waits for a simulated model.
"""

from __future__ import annotations

import argparse
import copy
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bench import plain
from bench.measure import BenchError, Cost, cost, exponent, paired, spread
from local import control_plane, pulumi_home
from local.paths import PROGRAM, ROOT

_PREVIEW, _UP = ["pulumi", "preview", "-s", "bench"], ["pulumi", "up", "-s", "bench", "--yes", "--skip-preview"]
_DESTROY = ["pulumi", "destroy", "-s", "bench", "--yes", "--skip-preview"]
_GOALS = {"preview": 1.25, "up": 1.0, "plain": 0.8, "exponent": 1.05, "service": 0.025}
_PROJECT = "name: {name}\nruntime: {{name: python, options: {{virtualenv: .venv}}}}\n"


class Project:
    """A Pulumi project with a stack `bench` on the same virtual environment. `main` is the text of its program."""

    def __init__(self, folder: Path, plane: control_plane.ControlPlane, main: str) -> None:
        folder.mkdir()
        self.folder, self.env = folder, pulumi_home.environment(plane, folder / "state")
        # As for users: the second run of a program does not compile it again.
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)
        (folder / ".venv").symlink_to(ROOT / ".venv")
        (folder / "__main__.py").write_text(main)
        self.describe()
        self.cost(["pulumi", "stack", "init", "bench"])

    def describe(self) -> None:
        """Writes Pulumi.yaml."""
        (self.folder / "Pulumi.yaml").write_text(_PROJECT.format(name=self.folder.name))

    def cost(self, command: list[str]) -> Cost:
        """What one command costs in this project."""
        return cost(command, self.folder, self.env)

    def preview(self) -> Cost:
        """What a preview costs."""
        return self.cost(_PREVIEW)

    def up(self) -> Cost:
        """What an `up` costs, from nothing to everything; destroys it again."""
        spent = self.cost(_UP)
        self.cost(_DESTROY)
        return spent


class Ours(Project):
    """This program with the local stack; with a clock in it if `timed`."""

    def describe(self) -> None:
        for part in set(PROGRAM) - {"__main__.py", ".venv"}:
            (self.folder / part).symlink_to(ROOT / part)
        shutil.copy(ROOT / "Pulumi.local.yaml", self.folder / "Pulumi.bench.yaml")
        self.env["BENCH_STEPS"] = str(self.folder / "steps.json")

    def services(self, count: int, **changes: Any) -> None:
        """Give the stack file `count` services like its first one, with `changes` to each."""
        path = self.folder / "Pulumi.bench.yaml"
        whole = yaml.safe_load(path.read_text())
        services = whole["config"]["modelserve:services"]
        first = next(iter(services.values())) | changes
        whole["config"]["modelserve:services"] = {f"s{i}": copy.deepcopy(first) for i in range(count)}
        path.write_text(yaml.safe_dump(whole, sort_keys=False))

    def objects(self) -> list[dict[str, Any]]:
        """The objects that the stack creates in the cluster."""
        command = [sys.executable, "-m", "ops", "render", "bench", "--json"]
        return json.loads(
            subprocess.run(command, cwd=self.folder, env=self.env, check=True, capture_output=True).stdout
        )

    def steps(self) -> dict[str, Any]:
        """CPU that the last run's own process took, by step; only for a timed program."""
        return json.loads((self.folder / "steps.json").read_text())


def main(argv: list[str]) -> int:
    """Measure, print, clean up."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What the program costs, as ratios.")
    parser.add_argument("--pairs", type=int, default=5, help="counted pairs of each ratio")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 100, 200], help="numbers of services")
    args = parser.parse_args(argv)
    name = f"bench-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            plane = control_plane.start(name, load_seconds=0)
            pulumi_home.install()
            _measure(Path(folder), plane, args.pairs, args.sizes)
        except BenchError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            control_plane.stop(name)
    return 0


def _measure(folder: Path, plane: control_plane.ControlPlane, pairs: int, sizes: list[int]) -> None:
    ours = Ours(folder / "ours", plane, (ROOT / "__main__.py").read_text())
    timed = Ours(folder / "timed", plane, (ROOT / "bench" / "timed.py").read_text())
    empty = Project(folder / "empty", plane, "")
    for project in (ours, timed):
        project.services(1, replicas=0)
    objects = ours.objects()
    typed = Project(folder / "plain", plane, plain.source(objects))
    _tell("preview ÷ empty preview, CPU", paired(ours.preview, empty.preview, pairs), "cpu", _GOALS["preview"])
    _by_hand(ours, empty, objects, pairs)
    beside = {
        "preview": paired(ours.preview, typed.preview, pairs),
        "up": paired(ours.up, typed.up, pairs),
    }
    for what, found in beside.items():
        for of in ("cpu", "wall"):
            _tell(f"{what} ÷ {what} of the typed program, {of}", found, of, _GOALS["plain"])
    _shares(timed, empty, typed)
    _growth(timed, sizes)


def _by_hand(ours: Project, empty: Project, objects: list[dict[str, Any]], pairs: int) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        print("up ÷ (empty up + kubectl apply --server-side): not measured, there is no kubectl on PATH")
        return
    file = ours.folder / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(objects))

    def by_hand() -> Cost:
        spent = empty.up() + ours.cost([kubectl, "apply", "--server-side", "-f", str(file)])
        ours.cost([kubectl, "delete", "--wait", "-f", str(file)])
        return spent

    _tell("up ÷ (empty up + kubectl apply --server-side), wall", paired(ours.up, by_hand, pairs), "wall", _GOALS["up"])


def _shares(timed: Ours, empty: Project, typed: Project) -> None:
    """Prints where the CPU of one preview and one `up` goes, in milliseconds."""
    steps = {}
    for what, run in (("preview", Project.preview), ("up", Project.up)):
        found = {name: run(project) for name, project in (("ours", timed), ("typed", typed), ("empty", empty))}
        steps[what] = timed.steps()["steps"]
        _table(f"{what}, CPU ms", {name: {**spent.parts, "together": spent.cpu} for name, spent in found.items()})
    _table("of our program's own, CPU ms", steps)


def _table(title: str, columns: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{title:30}" + "".join(f"{name:>9}" for name in columns))
    for row in next(iter(columns.values())):
        print(f"  {row:28}" + "".join(f"{column.get(row, 0) * 1000:9.0f}" for column in columns.values()))
    print(flush=True)


def _growth(timed: Ours, sizes: list[int]) -> None:
    """The first service also pays one-time costs; without it, what is left is the cost of *adding* services."""
    own, whole = [], []
    for size in sizes:
        timed.services(size)
        whole.append(timed.preview())
        own.append(timed.steps()["whole"])
        print(
            f"preview of {size:4} services: CPU {whole[-1].cpu:6.2f} s, of which the program's own process "
            f"{own[-1]:6.2f}; largest process {whole[-1].memory:.0f} MiB",
            flush=True,
        )
    added = [size - sizes[0] for size in sizes[1:]]
    each = (own[-1] - own[0]) / added[-1]
    goal = f"(goal ≤ {_GOALS['service'] * 1000:.0f})"
    print(f"program's own process, CPU for each added service: {each * 1000:.1f} ms {goal}")
    grown = {
        "CPU of the program": [seconds - own[0] for seconds in own[1:]],
        "CPU of all": [spent.cpu - whole[0].cpu for spent in whole[1:]],
        "memory": [max(spent.memory - whole[0].memory, 0.1) for spent in whole[1:]],
    }
    for what, more in grown.items():
        print(f"exponent of {what} over added services: {exponent(added, more):.2f} (goal ≤ {_GOALS['exponent']})")


def _tell(what: str, pairs: list[tuple[Cost, Cost]], of: str, goal: float) -> None:
    low, median, high = spread(pairs, of)
    print(f"{what}: {median:.2f} (from {low:.2f} to {high:.2f}; goal ≤ {goal})", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

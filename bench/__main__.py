"""`python -m bench`: the program's three ratios, on a rehearsal of its own that is gone afterwards.

1. CPU of a preview of the local stack over that of an empty Pulumi program.
2. Wall clock of its `up` over that of an empty `up` plus a server-side apply of what `ops render` prints. The group has
   no replica, so that neither side waits for a simulated model.
3. CPU and memory of a preview for each added service, with the exponent of the fit.
"""

from __future__ import annotations

import argparse
import copy
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from bench.measure import BenchError, Cost, cost, exponent, ratios
from local import control_plane, pulumi_home
from local.paths import ROOT

_PREVIEW, _UP = ["pulumi", "preview", "-s", "bench"], ["pulumi", "up", "-s", "bench", "--yes", "--skip-preview"]
_DESTROY = ["pulumi", "destroy", "-s", "bench", "--yes", "--skip-preview"]
_GOALS = {"preview": 1.25, "up": 1.0, "exponent": 1.05}


class Project:
    """A Pulumi project with a stack `bench`: ours, or an empty program on the same virtual environment."""

    def __init__(self, folder: Path, plane: control_plane.ControlPlane, *, ours: bool) -> None:
        folder.mkdir()
        self.folder, self.env = folder, pulumi_home.environment(plane, folder / "state")
        if ours:
            for part in ("__main__.py", "Pulumi.yaml", "stacks", "components", "planning", "ops", ".venv"):
                (folder / part).symlink_to(ROOT / part)
            shutil.copy(ROOT / "Pulumi.local.yaml", folder / "Pulumi.bench.yaml")
        else:
            (folder / ".venv").symlink_to(ROOT / ".venv")
            (folder / "__main__.py").touch()
            (folder / "Pulumi.yaml").write_text("name: empty\nruntime: {name: python, options: {virtualenv: .venv}}\n")
        self.cost(["pulumi", "stack", "init", "bench"])

    def services(self, count: int, **changes: Any) -> None:
        """Give the stack file `count` services like its first one, with `changes` to each."""
        path = self.folder / "Pulumi.bench.yaml"
        whole = yaml.safe_load(path.read_text())
        services = whole["config"]["modelserve:services"]
        first = next(iter(services.values())) | changes
        whole["config"]["modelserve:services"] = {f"s{i}": copy.deepcopy(first) for i in range(count)}
        path.write_text(yaml.safe_dump(whole, sort_keys=False))

    def cost(self, command: list[str]) -> Cost:
        """What one command costs in this project."""
        return cost(command, self.folder, self.env)


def main(argv: list[str]) -> int:
    """Measure, print, clean up."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="The program's ratios.")
    parser.add_argument("--pairs", type=int, default=5, help="counted pairs of each ratio")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 100, 200], help="numbers of services")
    args = parser.parse_args(argv)
    name = f"bench-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            plane = control_plane.start(name, load_seconds=0)
            pulumi_home.install()
            ours, empty = (Project(Path(folder) / kind, plane, ours=kind == "ours") for kind in ("ours", "empty"))
            _preview(ours, empty, args.pairs)
            _up(ours, empty, args.pairs)
            _growth(ours, empty, args.sizes)
        except BenchError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            control_plane.stop(name)
    return 0


def _preview(ours: Project, empty: Project, pairs: int) -> None:
    found = ratios(lambda: ours.cost(_PREVIEW).cpu, lambda: empty.cost(_PREVIEW).cpu, pairs)
    _tell("preview ÷ empty preview, CPU", found, _GOALS["preview"])


def _up(ours: Project, empty: Project, pairs: int) -> None:
    ours.services(1, replicas=0)
    rendered = ours.folder / "rendered.yaml"
    rendered.write_text(
        subprocess.run(
            [sys.executable, "-m", "ops", "render", "bench"],
            cwd=ours.folder,
            env=ours.env,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    how, apply, delete = _applier(rendered)

    def up() -> float:
        spent = ours.cost(_UP).wall
        ours.cost(_DESTROY)
        return spent

    def by_hand() -> float:
        spent = empty.cost(_UP).wall + ours.cost(apply).wall
        ours.cost(delete)
        empty.cost(_DESTROY)
        return spent

    _tell(f"up ÷ (empty up + {how}), wall", ratios(up, by_hand, pairs), _GOALS["up"])


def _applier(rendered: Path) -> tuple[str, list[str], list[str]]:
    """How the same objects are applied without Pulumi: with kubectl where there is one, else with our own client."""
    if kubectl := shutil.which("kubectl"):
        return (
            "kubectl apply --server-side",
            [kubectl, "apply", "--server-side", "-f", str(rendered)],
            [kubectl, "delete", "--wait", "-f", str(rendered)],
        )
    apply = [sys.executable, "-m", "bench.apply"]
    return "server-side apply", [*apply, str(rendered)], [*apply, "--delete", str(rendered)]


def _growth(ours: Project, empty: Project, sizes: list[int]) -> None:
    base = empty.cost(_PREVIEW)
    costs = []
    for size in sizes:
        ours.services(size)
        whole = ours.cost(_PREVIEW)
        costs.append(Cost(whole.wall - base.wall, whole.cpu - base.cpu, whole.memory))
        print(
            f"preview of {size:4} services: CPU {whole.cpu:6.2f} s, {costs[-1].cpu / size:.3f} s a service over the "
            f"empty program; largest process {whole.memory:.0f} MiB",
            flush=True,
        )
    # The first service also pays what is paid once; the cost of *adding* services is what is left without it.
    added = [size - sizes[0] for size in sizes[1:]]
    more = [one.cpu - costs[0].cpu for one in costs[1:]]
    memory = [max(one.memory - costs[0].memory, 0.1) for one in costs[1:]]
    print(f"exponent of CPU over added services: {exponent(added, more):.2f} (goal ≤ {_GOALS['exponent']})")
    print(
        f"exponent of memory over added services: {exponent(added, memory):.2f} (goal ≤ {_GOALS['exponent']}), "
        f"{memory[-1] / added[-1]:.2f} MiB a service"
    )


def _tell(what: str, found: tuple[float, float, float], goal: float) -> None:
    low, median, high = found
    print(f"{what}: {median:.2f} (from {low:.2f} to {high:.2f}; goal ≤ {goal})", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

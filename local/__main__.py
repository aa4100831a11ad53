"""`python -m local`: builds the rehearsal's programs, brings a control plane up or down, breaks things on request.

Exit 0 fine, 1 it did not work or is not there, 2 the request is wrong.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path

from local import control_plane, faults, operators, processes, pulumi_home, toolchain
from local.api import ApiError
from local.control_plane import ControlPlane, ControlPlaneError
from local.nodes import NodePool
from local.paths import work_dir
from local.toolchain import ToolchainError

_FAIL = "rehearsal.modelserve.dev/fail"
# What can be made to fail, and in which ways. The first way is the default.
_FAULTS = {
    "pod": ("crash", "never-ready", "node-gone"),
    "DataLoad": ("failed", "partial", "stuck"),
    "Dataset": ("failed", "stuck"),
    "JindoRuntime": ("failed", "partial", "stuck"),
    "Job": ("failed", "stuck"),
    "RayClusterFleet": ("never-ready", "worker-missing"),
}


def main(argv: list[str]) -> int:
    """Runs one command and returns its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.run in (fail, heal):
        _check_fault(parser, args)
    try:
        return args.run(args)
    except (ToolchainError, ControlPlaneError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command takes it up again", file=sys.stderr)
        return 130


def build(_: argparse.Namespace) -> int:
    for name, path in toolchain.ensure().items():
        print(f"{name:24} {path}")
    return 0


def up(args: argparse.Namespace) -> int:
    nodes = NodePool(count=args.nodes)
    plane = control_plane.start(args.name, nodes=nodes, load_seconds=args.load_seconds, clouds=args.cloud)
    home = pulumi_home.install()
    state = _own_state(plane)
    file = _environment_file(args.name)
    file.write_text(_exports(pulumi_home.settings(plane, state), pulumi_home.path_start()))
    print(
        f"control plane {plane.name}: {len(processes.alive(plane.folder))} processes, logs in {plane.folder / 'logs'}"
    )
    for label, place in (("kubeconfig", plane.kubeconfig), ("Pulumi home", home), ("state", state)):
        print(f"  {label:12} {place}")
    print(f"for a shell of your own: source {file}")
    return 0


def down(args: argparse.Namespace) -> int:
    control_plane.stop(args.name)
    _environment_file(args.name).unlink(missing_ok=True)
    # The backend's state describes a control plane that is gone; a later run would believe it.
    shutil.rmtree(_state(args.name), ignore_errors=True)
    return 0


def status(args: argparse.Namespace) -> int:
    names = control_plane.running()
    for name in names:
        plane = control_plane.find(name)
        fit = "".join(f", fit for {cloud}" for cloud in operators.CLOUDS if control_plane.is_equipped(plane, cloud))
        print(f"{name}: {plane.folder}{fit}" + "".join(f"\n  {what}" for what in control_plane.ailments(plane)))
        for program, pid in processes.alive(plane.folder).items():
            print(f"  {program:24} {pid}")
    if args.name not in names:
        print(f"control plane {args.name} is not running")
        return 1
    return 1 if control_plane.ailments(control_plane.find(args.name)) else 0


def environment(args: argparse.Namespace) -> int:
    print(_exports(pulumi_home.settings(_running(args.name), _state(args.name)), pulumi_home.path_start()), end="")
    return 0


def kill(args: argparse.Namespace) -> int:
    """Kills a container once, as the kernel's out-of-memory killer would; it is then restarted."""
    plane, path = _running(args.name), _pod_path(args)
    pod = _pod(plane, path, args.target)
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    containers = pod["status"]["containerStatuses"]
    for container in containers:
        since = container["state"].get("running", {}).get("startedAt", now)
        ended = {"exitCode": 137, "reason": "OOMKilled", "startedAt": since, "finishedAt": now}
        container["restartCount"] += 1
        container.update(
            ready=False, started=False, lastState={"terminated": ended}, state={"running": {"startedAt": now}}
        )
    unready = [
        condition | {"status": "False", "reason": "ContainersNotReady", "lastTransitionTime": now}
        if condition["type"] in ("Ready", "ContainersReady")
        else condition
        for condition in pod["status"]["conditions"]
    ]
    plane.api.merge(f"{path}/status", {"status": {"containerStatuses": containers, "conditions": unready}})
    print(f"killed the containers of pod {args.namespace}/{args.target}")
    return 0


def fail(args: argparse.Namespace) -> int:
    """Makes a pod fail from now on, but not its replacement; KIND/NAME fails each time it is created, until healed."""
    plane = _running(args.name)
    if "/" in args.target:
        kind, name = args.target.split("/", 1)
        faults.put(plane.folder, kind, name, args.how)
        print(f"{args.target} fails from now on: {args.how}")
        return 0
    path = _pod_path(args)
    _pod(plane, path, args.target)
    plane.api.merge(path, {"metadata": {"annotations": {_FAIL: args.how}}})
    print(f"pod {args.namespace}/{args.target} fails from now on: {args.how}")
    return 0


def heal(args: argparse.Namespace) -> int:
    """Removes the fault that `fail KIND/NAME` set up."""
    kind, name = args.target.split("/", 1)
    faults.put(_running(args.name).folder, kind, name, None)
    print(f"{args.target} fails no more; what has failed already stays so")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: object, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--name", default="local", help="name of the control plane (default: local)")
        command.set_defaults(run=run)
        return command

    add("build", build, "find or build every program")
    upping = add("up", up, "start the control plane and set up Pulumi for it")
    upping.add_argument("--nodes", type=int, default=2, help="number of 8-GPU nodes (default: 2)")
    upping.add_argument("--load-seconds", type=float, default=10, help="start-up time of GPU pods (default: 10)")
    upping.add_argument(
        "--cloud",
        action="append",
        choices=operators.CLOUDS,
        default=[],
        help="add what a rehearsal of stacks on this cloud needs, also to a control plane that runs",
    )
    add("down", down, "end the control plane, with all that is on it")
    add("status", status, "what runs; exit 1 when the control plane is not whole")
    add("env", environment, 'print the exports for a shell: eval "$(python -m local env)"')
    killing = add("kill", kill, "let the containers of a pod die once")
    killing.add_argument("target", metavar="POD")
    failing = add("fail", fail, "let a pod, or the object KIND/NAME before it exists, fail from now on")
    failing.add_argument("target", metavar="POD|KIND/NAME")
    failing.add_argument("how", nargs="?", help="; ".join(f"{kind}: {', '.join(how)}" for kind, how in _FAULTS.items()))
    failing.add_argument("--how", dest="way", help="the same, for a pod")
    for command in (killing, failing):
        command.add_argument("--namespace", "-n", default="default")
    healing = add("heal", heal, "take back what `fail KIND/NAME` arranged")
    healing.add_argument("target", metavar="KIND/NAME")
    return parser


def _check_fault(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends with exit code 2 unless the target can fail in the given way. The first way is the default."""
    kind, slash, name = args.target.partition("/")
    if not slash and args.run is not heal:
        kind, name = "pod", args.target
    if kind not in _FAULTS or not name:
        parser.error(
            f"{args.target}: write KIND/NAME with one of {', '.join(kind for kind in _FAULTS if kind != 'pod')}"
        )
    if args.run is fail:
        args.how = args.how or args.way or _FAULTS[kind][0]
        if args.how not in _FAULTS[kind]:
            parser.error(f"{args.target} cannot fail as {args.how}; write one of {', '.join(_FAULTS[kind])}")


def _running(name: str) -> ControlPlane:
    plane = control_plane.find(name)
    if ailing := control_plane.ailments(plane):
        raise ControlPlaneError(f"control plane {name}: {', '.join(ailing)}; start it with `python -m local up`")
    return plane


def _pod_path(args: argparse.Namespace) -> str:
    return f"/api/v1/namespaces/{args.namespace}/pods/{args.target}"


def _pod(plane: ControlPlane, path: str, name: str) -> dict:
    try:
        pod = plane.api.get(path)
    except ApiError as error:
        raise ControlPlaneError(str(error)) from None
    if pod["status"].get("phase") != "Running":
        raise ControlPlaneError(f"pod {name} is {pod['status'].get('phase')}, only a Running one can die")
    return pod


def _state(name: str) -> Path:
    return work_dir() / ("state" if name == "local" else f"state-{name}")


def _own_state(plane: ControlPlane) -> Path:
    """The folder of the file backend, emptied if its state describes a control plane that is gone."""
    state = _state(plane.name)
    owner = sha256((plane.folder / "pki" / "ca.crt").read_bytes()).hexdigest()
    mark = state / "control-plane"
    if state.exists() and (not mark.exists() or mark.read_text() != owner):
        print("the stack's state belonged to a control plane that is gone: removed")
        shutil.rmtree(state)
    state.mkdir(parents=True, exist_ok=True)
    mark.write_text(owner)
    return state


def _environment_file(name: str) -> Path:
    return work_dir() / ("env.sh" if name == "local" else f"env-{name}.sh")


def _exports(settings: Mapping[str, str], path_start: Sequence[Path]) -> str:
    """Lines that set up the rehearsal's environment in any shell, even on another day or where it is set up already."""
    first = shlex.quote("".join(f"{each}{os.pathsep}" for each in path_start))
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(settings.items())]
    lines += [f"unset {name}\n" for name in pulumi_home.UNSET]
    return "".join([*lines, f'case "$PATH" in {first}*) ;; *) export PATH={first}"$PATH" ;; esac\n'])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

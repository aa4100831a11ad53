"""A language host for Python programs: what the engine starts, over gRPC, to run a Pulumi program.

Owns: the LanguageRuntime service, the choice of the program's Python (the `virtualenv` option of Pulumi.yaml), and the
processes that it starts: none of them outlives this one. Does not own: running a program, which `executor.py` does in
a fresh interpreter of that Python; installing anything; code generation.

It replaces the official `pulumi-language-python` where that is absent, and behaves like it: the program's environment,
its exit codes and its failure messages. Runs as a script. Imports neither the project nor the `pulumi` package, whose
import costs several times what the host itself does.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# An import leaves hardly any garbage to collect, and the engine waits for this one twice in each run.
gc.disable()
import grpc  # noqa: E402
from google.protobuf import empty_pb2  # noqa: E402

EXECUTOR = Path(__file__).with_name("executor.py")
# The executor's exit code when it has already shown the user the error; the engine reports every other code.
ERROR_SHOWN = 32
# A deployment's config and a policy report can exceed gRPC's default of 4 MiB; the SDK uses the same 400 MiB.
MESSAGE_LIMIT = 400 * 1024 * 1024


def _protocol() -> tuple[Any, Any, Any]:
    """The SDK's generated modules, loaded without running the package's `__init__`, which imports the whole SDK."""
    spec = importlib.util.find_spec("pulumi")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"pulumi-language-python: {sys.executable} has no pulumi package; install requirements.txt")
    folder = Path(spec.submodule_search_locations[0])
    for name in ("pulumi", "pulumi.runtime", "pulumi.runtime.proto", "pulumi.runtime.proto.codegen"):
        stub = types.ModuleType(name)
        stub.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = stub
    from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

    return language_pb2, language_pb2_grpc, plugin_pb2


language_pb2, language_pb2_grpc, plugin_pb2 = _protocol()


class ProgramError(Exception):
    """The program cannot be started the way Pulumi.yaml says; the message says what to do."""


def program_python(info: Any) -> tuple[str, dict[str, str]]:
    """The interpreter of the program that `info` describes, and the environment to start it in."""
    environment = dict(os.environ)
    options = dict(info.options)
    toolchain = options.get("toolchain", "pip")
    if toolchain != "pip":
        raise ProgramError(f"runtime option toolchain: {toolchain} is not known to this language host; leave it out")
    if not options.get("virtualenv"):
        name = os.environ.get("PULUMI_PYTHON_CMD") or "python3"
        if python := shutil.which(name):
            return python, environment
        raise ProgramError(f"{name} is not on PATH; install Python or set the runtime option virtualenv in Pulumi.yaml")
    venv = Path(info.root_directory, options["virtualenv"])
    executable = venv / "bin" / "python"
    if not executable.is_file():
        raise ProgramError(
            f"runtime option virtualenv: {options['virtualenv']}: there is no Python at {executable}; "
            "create it with `python3 -m venv` and install requirements.txt into it"
        )
    environment["VIRTUAL_ENV"] = str(venv)
    environment["PATH"] = f"{executable.parent}{os.pathsep}{environment.get('PATH', '')}"
    environment.pop("PYTHONHOME", None)
    return str(executable), environment


def site_packages(info: Any) -> list[str]:
    """The folders that hold the program's installed packages; empty if its Python is missing."""
    try:
        python, _ = program_python(info)
    except ProgramError:
        return []
    return [str(path) for path in Path(python).parent.parent.glob("lib/python3*/*-packages")]


class Children:
    """Processes started for the engine. Each gets the read end of a pipe, which closes when this process dies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._cancelled = False
        self.lifeline, self._held_open = os.pipe()

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        with self._lock:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[self.lifeline], **options)
            self._running.add(child)
            if self._cancelled:
                child.kill()
        return child

    def wait(self, child: subprocess.Popen[bytes]) -> int:
        code = child.wait()
        with self._lock:
            self._running.discard(child)
        return code

    def kill(self) -> None:
        with self._lock:
            self._cancelled = True
            for child in self._running:
                child.kill()

    @property
    def cancelled(self) -> bool:
        return self._cancelled


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):  # type: ignore[name-defined]  # its stub lacks it
    """Python as the engine sees it. The protocol sets the names of the methods."""

    def __init__(self, engine_address: str) -> None:
        self._engine_address = engine_address
        self.children = Children()

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo()

    def GetRequiredPackages(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Packages in the program's environment that have a resource plugin; the engine finds others on first use."""
        packages = []
        for folder in site_packages(request.info):
            for file in Path(folder).glob("*/pulumi-plugin.json"):
                plugin = json.loads(file.read_text())
                if plugin.get("resource") and plugin.get("name") and plugin.get("version"):
                    packages.append(
                        plugin_pb2.PackageDependency(
                            kind="resource",
                            name=plugin["name"],
                            version=plugin["version"],
                            server=plugin.get("server", ""),
                        )
                    )
        return language_pb2.GetRequiredPackagesResponse(packages=packages)

    def RuntimeOptionsPrompts(self, request: Any, context: grpc.ServicerContext) -> Any:
        return language_pb2.RuntimeOptionsResponse()

    def About(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            python, environment = program_python(request.info)
        except ProgramError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        version = subprocess.run([python, "--version"], env=environment, capture_output=True, text=True, check=False)
        return language_pb2.AboutResponse(executable=python, version=version.stdout.removeprefix("Python ").strip())

    def GetProgramDependencies(self, request: Any, context: grpc.ServicerContext) -> Any:
        import importlib.metadata  # not needed by any preview or update

        found = list(importlib.metadata.distributions(path=site_packages(request.info)))
        required = {_plain_name(name) for found_one in found for name in found_one.requires or ()}
        return language_pb2.GetProgramDependenciesResponse(
            dependencies=[
                language_pb2.DependencyInfo(name=one.metadata["Name"], version=one.version)
                for one in sorted(found, key=lambda one: _plain_name(one.metadata["Name"]))
                if request.transitiveDependencies or _plain_name(one.metadata["Name"]) not in required
            ]
        )

    def Run(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Runs the program to its end. If the program has shown its error itself, returns a bail without a message."""
        try:
            code = self._run(request)
        except (ProgramError, OSError) as error:
            # OSError: the config is larger than the kernel allows for one environment variable (128 KiB on Linux), or
            # there is no permission to execute. The official host passes the config the same way, with the same limit.
            return language_pb2.RunResponse(error=f"could not start the program: {error}")
        if code == ERROR_SHOWN or self.children.cancelled:
            return language_pb2.RunResponse(bail=True)
        if code < 0:
            return language_pb2.RunResponse(error=f"Program exited due to a signal: {signal.Signals(-code).name}")
        return language_pb2.RunResponse(error=f"Program exited with non-zero exit code: {code}" if code else "")

    def _run(self, request: Any) -> int:
        python, environment = program_python(request.info)
        environment["PULUMI_CONFIG"] = json.dumps(dict(request.config))
        environment["PULUMI_CONFIG_SECRET_KEYS"] = json.dumps(list(request.configSecretKeys))
        settings = {
            "engine": self._engine_address,
            "monitor": request.monitor_address,
            "project": request.project,
            "stack": request.stack,
            "organization": request.organization or "organization",
            "root_directory": request.info.root_directory,
            "parallel": request.parallel,
            "dry_run": request.dryRun,
        }
        program = os.path.join(request.info.program_directory, request.info.entry_point)
        lifeline = str(self.children.lifeline)
        command = [python, "-u", str(EXECUTOR), json.dumps(settings), lifeline, program, *request.args]
        return self.children.wait(self.children.start(command, cwd=request.pwd, env=environment))

    def RunPlugin(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Runs a plugin written in Python, such as a policy pack. Streams its output, then its exit code."""
        try:
            python, environment = program_python(request.info)
        except ProgramError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        environment.update(item.split("=", 1) for item in request.env)
        folder = request.info.program_directory
        policy = request.kind == "analyzer"
        target = ["-m", "pulumi.policy", *request.args, folder] if policy else [folder, *request.args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        child = self.children.start([python, "-u", *target], cwd=request.pwd, env=environment, **pipes)
        context.add_callback(child.kill)
        yield from _output(child)
        yield language_pb2.RunPluginResponse(exitcode=self.children.wait(child))

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.children.kill()
        return empty_pb2.Empty()


def _plain_name(requirement: str) -> str:
    """The normalised name at the start of a requirement such as `Some.Package[extra]>=1`."""
    name = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name.group() if name else requirement).lower()


def _output(child: subprocess.Popen[bytes]) -> Iterator[Any]:
    """What the child writes, in order per stream, until it has closed both streams."""
    chunks: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()

    def read(stream: Any, name: str) -> None:
        while data := stream.read1(65536):
            chunks.put((name, data))
        chunks.put((name, b""))

    for stream, name in ((child.stdout, "stdout"), (child.stderr, "stderr")):
        threading.Thread(target=read, args=(stream, name), daemon=True).start()
    open_streams = 2
    while open_streams:
        name, data = chunks.get()
        if data:
            yield language_pb2.RunPluginResponse(**{name: data})
        else:
            open_streams -= 1


def main() -> None:
    """Serves until the engine interrupts this process or goes away, then ends the children too."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    gc.freeze()
    gc.enable()
    host = LanguageHost(sys.argv[-1] if len(sys.argv) > 1 else "")
    options = [("grpc.max_receive_message_length", MESSAGE_LIMIT)]
    server = grpc.server(ThreadPoolExecutor(max_workers=16), options=options)
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)

    def engine_gone() -> None:
        # The engine holds the other end of stdin and never writes to it: end of file means that the engine is gone.
        while os.read(0, 4096):
            pass
        over.set()

    threading.Thread(target=engine_gone, daemon=True).start()
    over.wait()
    host.children.kill()
    server.stop(grace=None)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

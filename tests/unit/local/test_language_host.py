"""The language host through the real engine: tiny programs, file backend, no cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from pulumi.runtime.proto import language_pb2, language_pb2_grpc

from local import pulumi_home
from local.paths import ROOT
from tests.support.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.rehearsal


class Project:
    """A Pulumi project in a folder of its own, with a stack named `dev`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        runtime = {"name": "python", "options": {"virtualenv": sys.prefix}}
        (folder / "Pulumi.yaml").write_text(json.dumps({"name": "tiny", "runtime": runtime}))

    def write(self, program: str, name: str = "__main__.py") -> None:
        (self.folder / name).write_text(program)

    def command(self, *words: str) -> list[str]:
        return ["pulumi", *words, "--stack", "dev", "--non-interactive", "--color", "never"]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


@pytest.fixture(scope="module", autouse=True)
def home() -> None:
    pulumi_home.install()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "project").mkdir()
    no_cluster = SimpleNamespace(kubeconfig=tmp_path / "kubeconfig", folder=tmp_path / "plane")
    project = Project(tmp_path / "project", pulumi_home.environment(no_cluster, tmp_path / "state"))
    project.write("")
    assert project.run("stack", "init").returncode == 0
    return project


def test_preview_up_refresh_and_destroy_of_a_program_succeed(project: Project) -> None:
    project.write("import helper\nimport pulumi\npulumi.export('answer', helper.answer())\n")
    project.write("def answer():\n    return 42\n", "helper.py")
    for words in (["preview"], ["up", "--yes", "--skip-preview"]):
        result = project.run(*words)
        assert result.returncode == 0, result.stdout
    assert json.loads(project.run("stack", "output", "--json").stdout) == {"answer": 42}
    for words in (["refresh", "--yes", "--skip-preview"], ["destroy", "--yes", "--skip-preview"]):
        result = project.run(*words)
        assert result.returncode == 0, result.stdout


def test_program_sees_the_deployment_as_the_official_host_presents_it(project: Project) -> None:
    project.write(
        "import os, sys, pulumi\n"
        "pulumi.export('seen', {'stack': pulumi.get_stack(), 'project': pulumi.get_project(),\n"
        "  'organization': pulumi.get_organization(), 'dry': pulumi.runtime.is_dry_run(),\n"
        "  'root': pulumi.runtime.get_root_directory(), 'cwd': os.getcwd(), 'prefix': sys.prefix,\n"
        "  'venv': os.environ['VIRTUAL_ENV'], 'path': sys.path[0], 'name': __name__})\n"
    )
    assert project.run("up", "--yes", "--skip-preview").returncode == 0
    folder = str(project.folder)
    assert json.loads(project.run("stack", "output", "--json").stdout)["seen"] == {
        "stack": "dev",
        "project": "tiny",
        "organization": "organization",
        "dry": False,
        "root": folder,
        "cwd": folder,
        "prefix": sys.prefix,
        "venv": sys.prefix,
        "path": folder,
        "name": "__main__",
    }


def test_what_a_program_prints_reaches_the_user(project: Project) -> None:
    project.write("import sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)\n")
    output = project.run("preview").stdout
    assert "to stdout" in output
    assert "to stderr" in output


def test_the_engine_does_not_write_in_plain_what_looks_like_a_secret(project: Project) -> None:
    refused = project.run("config", "set", "token", "hf-token-name")
    assert refused.returncode and "looks like a secret; rerun with --secret" in refused.stderr
    assert project.run("config", "set", "tokens", "1048576").returncode == 0


def test_secret_config_stays_secret_and_reads_in_clear_in_the_program(project: Project) -> None:
    project.run("config", "set", "plain", "open")
    project.run("config", "set", "--secret", "token", "s3cr3t-value")
    project.write(
        "import pulumi\nc = pulumi.Config()\npulumi.export('plain', c.require('plain'))\n"
        "pulumi.export('token', c.require_secret('token'))\n"
        "pulumi.export('length', len(c.require('token')))\n"
        "pulumi.export('known', [pulumi.runtime.is_config_secret('tiny:' + key) for key in ('plain', 'token')])\n"
    )
    shown = project.run("up", "--yes", "--skip-preview")
    assert shown.returncode == 0, shown.stdout
    assert "s3cr3t-value" not in shown.stdout + shown.stderr
    outputs = json.loads(project.run("stack", "output", "--json").stdout)
    assert outputs == {"plain": "open", "token": "[secret]", "length": 12, "known": [False, True]}


def test_refusal_of_a_program_is_shown_without_a_traceback(project: Project) -> None:
    project.write("import pulumi\nraise pulumi.RunError('tiny:size: 0: must be positive; write 1')\n")
    result = project.run("preview")
    assert result.returncode != 0
    assert "error: tiny:size: 0: must be positive; write 1" in result.stdout
    assert "Traceback" not in result.stdout


def test_uncaught_exception_shows_the_programs_own_frames_and_nothing_else(project: Project) -> None:
    project.write("import helper\nhelper.fail()\n")
    project.write("def fail():\n    raise ValueError('boom')\n", "helper.py")
    result = project.run("preview")
    assert result.returncode != 0
    assert "error: Program failed with an unhandled exception:" in result.stdout
    assert "ValueError: boom" in result.stdout
    assert "helper.py" in result.stdout
    assert "executor.py" not in result.stdout
    assert "non-zero exit code" not in result.stdout


def test_missing_virtual_environment_is_named_with_what_to_do(project: Project) -> None:
    runtime = {"name": "python", "options": {"virtualenv": "gone"}}
    (project.folder / "Pulumi.yaml").write_text(json.dumps({"name": "tiny", "runtime": runtime}))
    result = project.run("preview")
    assert result.returncode != 0
    assert f"there is no Python at {project.folder / 'gone/bin/python'}" in result.stdout
    assert "python3 -m venv" in result.stdout


def test_config_too_large_for_the_environment_is_an_error_and_not_a_hang(project: Project) -> None:
    project.write("import pulumi\n")
    stack = project.folder / "Pulumi.dev.yaml"
    stack.write_text(stack.read_text() + f"config:\n  tiny:big: {'x' * 200_000}\n")
    result = project.run("preview")
    assert result.returncode != 0
    assert "could not start the program" in result.stdout


SLEEPER = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)\n"


@pytest.fixture
def sleeper(project: Project) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """A preview whose program sleeps: the CLI, the process id of the language host and that of the program."""
    project.write(SLEEPER)
    cli = project.start("preview")
    file = project.folder / "pid"
    wait_for(lambda: file.exists() and file.read_text() != "")
    program = int(file.read_text())
    yield cli, int(ps(program)[0]), program
    cli.kill()
    cli.communicate(timeout=PATIENCE_SECONDS)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def ps(pid: int) -> list[str]:
    """Parent's id and state of a process; nothing when there is none."""
    answer = subprocess.run(["ps", "-o", "ppid=,stat=", "-p", str(pid)], capture_output=True, text=True)
    return answer.stdout.split()


def runs(pid: int) -> bool:
    found = ps(pid)
    return bool(found) and not found[1].startswith("Z")


def test_ctrl_c_ends_host_and_program_and_is_no_failure_of_the_program(sleeper: tuple) -> None:
    cli, host, program = sleeper
    os.killpg(cli.pid, signal.SIGINT)
    output, _ = cli.communicate(timeout=PATIENCE_SECONDS)
    assert cli.returncode != 0
    assert "canceled" in output
    assert "Traceback" not in output
    wait_for(lambda: not runs(host) and not runs(program))


@pytest.mark.parametrize(
    "victims",
    [("cli",), *(pytest.param(each, marks=pytest.mark.soak) for each in (("host",), ("cli", "host")))],
    ids="+".join,
)
def test_kill_9_leaves_no_process_behind(sleeper: tuple, victims: tuple[str, ...]) -> None:
    cli, host, program = sleeper
    for victim in victims:
        os.kill({"cli": cli.pid, "host": host}[victim], signal.SIGKILL)
    wait_for(lambda: not runs(host) and not runs(program))
    cli.communicate(timeout=PATIENCE_SECONDS)
    assert cli.returncode != 0


def test_required_packages_are_those_with_a_plugin_in_the_programs_environment(project: Project) -> None:
    about = json.loads(project.run("about", "--json").stdout)
    named = {(plugin["name"], plugin["kind"]) for plugin in about["plugins"]}
    assert ("kubernetes", "resource") in named


@pytest.fixture
def host() -> Iterator[language_pb2_grpc.LanguageRuntimeStub]:
    """A host without an engine, spoken to directly."""
    command = [sys.executable, str(ROOT / "local" / "language" / "host.py"), "127.0.0.1:1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        with grpc.insecure_channel(f"127.0.0.1:{process.stdout.readline().strip()}") as channel:
            yield language_pb2_grpc.LanguageRuntimeStub(channel)
        process.stdin.close()
        assert process.wait(timeout=PATIENCE_SECONDS) == 0


def plugin_request(folder: Path, program: str) -> language_pb2.RunPluginRequest:
    (folder / "__main__.py").write_text(program)
    info = language_pb2.ProgramInfo(root_directory=str(folder), program_directory=str(folder), entry_point=".")
    info.options.update({"virtualenv": sys.prefix})
    return language_pb2.RunPluginRequest(
        pwd=str(folder), args=["one", "two"], env=["COLOUR=blue"], info=info, kind="resource"
    )


def test_plugin_written_in_python_runs_with_its_output_and_exit_code(
    host: language_pb2_grpc.LanguageRuntimeStub, tmp_path: Path
) -> None:
    program = "import os, sys\nprint(sys.argv[1:], os.environ['COLOUR'])\nsys.stderr.write('bad')\nsys.exit(3)\n"
    seen: dict[str, list[bytes | int]] = {"stdout": [], "stderr": [], "exitcode": []}
    for message in host.RunPlugin(plugin_request(tmp_path, program)):
        kind = message.WhichOneof("output")
        seen[kind].append(getattr(message, kind))
    assert b"".join(seen["stdout"]) == b"['one', 'two'] blue\n"
    assert b"".join(seen["stderr"]) == b"bad"
    assert seen["exitcode"] == [3]


def test_plugin_ends_with_the_call_that_started_it(host: language_pb2_grpc.LanguageRuntimeStub, tmp_path: Path) -> None:
    call = host.RunPlugin(plugin_request(tmp_path, "import os, time\nprint(os.getpid())\ntime.sleep(600)\n"))
    pid = int(next(call).stdout)
    assert runs(pid)
    call.cancel()
    wait_for(lambda: not runs(pid))


def test_unknown_toolchain_is_refused_with_what_to_do(
    host: language_pb2_grpc.LanguageRuntimeStub, tmp_path: Path
) -> None:
    info = language_pb2.ProgramInfo(root_directory=str(tmp_path), program_directory=str(tmp_path), entry_point=".")
    info.options.update({"toolchain": "poetry"})
    answer = host.Run(language_pb2.RunRequest(pwd=str(tmp_path), info=info))
    assert "toolchain: poetry is not known to this language host; leave it out" in answer.error

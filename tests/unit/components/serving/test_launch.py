"""The launch script, really run with bash; Ray and vLLM are fakes on a private PATH that record their calls.

The script's own Python runs too, against a fake `ray` module and a real socket.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

import pytest

from components.serving import engine_pods, modelserve_guard, ray_cluster_fleet, ray_lws_group
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pods import having
from tests.unit.components.serving.test_ray_cluster_fleet import ARGS as FLEET_ARGS
from tests.unit.components.serving.test_ray_lws_group import ARGS

SCRIPT = Path(engine_pods.__file__).with_name("launch.sh")
DATA_SCRIPT = SCRIPT.with_name("launch_data.sh")
VLLM_ARGS = ["/weights/DeepSeek-R1", "--served-model-name", "two words", "--override", '{"a": "$HOME `id` *"}', ""]

# Each call is one line of fields: program, process id, arguments.
_FAKE = """#!{bash}
{{ printf '{name}\\037%s' "$$"; printf '\\037%s' "$@"; printf '\\n'; }} >> '{calls}'
{then}
"""
_RAY_MODULE = """
import pathlib
here = pathlib.Path(__file__).parent
def init(address, **options):
    print("noise of a library")
    assert address == "auto"
    if (here / "silent").exists():
        raise ConnectionError("no head")
def cluster_resources():
    counts = (here / "gpus").read_text().split()
    (here / "gpus").write_text(" ".join(counts[1:] or counts))
    with (here.parent / "calls").open("a") as calls:
        calls.write(f"count\\x1f{counts[0]}\\n")
    return {"CPU": 64.0} if counts[0] == "0" else {"CPU": 64.0, "GPU": float(counts[0])}
"""


@dataclass
class Ended:
    """A finished run of the script."""

    status: int
    output: str
    process: int


@dataclass
class Pod:
    """A folder that stands in for an image, and the environment of a pod."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    script: Path = SCRIPT

    def install(self, name: str, then: str = "exit 0") -> None:
        """Put a fake program on the pod's PATH, which records its call and then runs `then`."""
        self._write(name, _FAKE.format(bash=which("bash"), name=name, calls=self.folder / "calls", then=then))

    def image(self) -> None:
        """Install what every image contains."""
        (self.folder / "modules").mkdir()
        (self.folder / "modules" / "ray.py").write_text(_RAY_MODULE)
        self.joins(16)
        for name in ("sleep", "tail"):
            self._write(name, f'#!/bin/sh\nexec {which(name)} "$@"\n')
        # Without site-packages, so that Python finds only the fake module.
        self._write("python3", f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')

    def joins(self, *gpus: int) -> None:
        """Set the GPUs that Ray reports, one number per query; the last one repeats."""
        (self.folder / "modules" / "gpus").write_text(" ".join(map(str, gpus)))

    def start(self, **env: str | None) -> subprocess.Popen[str]:
        """Start the script. A variable that is None is not set."""
        merged = self.env | env
        bash = which("bash")
        assert bash
        return subprocess.Popen(
            [bash, self.script, *VLLM_ARGS],
            env={key: value for key, value in merged.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
        )

    def run(self, **env: str | None) -> Ended:
        """Run the script to its end."""
        process = self.start(**env)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        return Ended(process.returncode, output, process.pid)

    def calls(self) -> list[list[str]]:
        """Calls so far, in order, each a list of fields."""
        file = self.folder / "calls"
        return [line.split("\x1f") for line in file.read_text().splitlines()] if file.exists() else []

    def called(self) -> list[str]:
        """Names of the programs that ran so far, in order."""
        return [call[0] for call in self.calls()]

    def _write(self, name: str, text: str) -> None:
        file = self.folder / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    """The leader of a group of two nodes with eight GPUs each."""
    made = Pod(
        tmp_path,
        {
            "PATH": str(tmp_path / "bin"),
            "PYTHONPATH": str(tmp_path / "modules"),
            "MODELSERVE_NODES": "2",
            "MODELSERVE_GPUS_PER_NODE": "8",
            "MODELSERVE_POD_INDEX": "0",
            "MODELSERVE_LAUNCHER": "ray",
            "MODELSERVE_JOIN_SECONDS": "20",
            "MODELSERVE_JOIN_PORT": "6379",
            "MODELSERVE_POLL_SECONDS": "0.05",
            "MODELSERVE_LEADER_FILE": str(tmp_path / "leader"),
            "VLLM_HOST_IP": "10.0.0.1",
            "LWS_LEADER_ADDRESS": "ds-0.ds.default",
        },
    )
    made.image()
    made.install("ray")
    made.install("vllm", "exit 7")
    return made


@pytest.fixture
def native(pod: Pod) -> Pod:
    """The same pod where vLLM joins the nodes, in an image without Ray."""
    (pod.folder / "bin" / "ray").unlink()
    pod.env |= {"MODELSERVE_LAUNCHER": "native", "MODELSERVE_JOIN_PORT": "29501"}
    return pod


@pytest.fixture
def leader_port() -> Iterator[int]:
    """A port of this machine with a listener."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    """A port of this machine without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def worker(port: int, launcher: str) -> dict[str, str]:
    """The environment of the second pod, with its leader's address on this machine."""
    return {
        "MODELSERVE_POD_INDEX": "1",
        "LWS_LEADER_ADDRESS": "127.0.0.1",
        "MODELSERVE_JOIN_PORT": str(port),
        "MODELSERVE_LAUNCHER": launcher,
    }


BOTH = pytest.mark.parametrize(("launcher", "becomes"), [("ray", "ray"), ("native", "vllm")], ids=["ray", "native"])


# --- one node


@pytest.mark.parametrize("launcher", ["ray", "native"])
def test_one_node_becomes_vllm_at_once_with_exactly_the_given_arguments(pod: Pod, launcher):
    ended = pod.run(MODELSERVE_NODES="1", LWS_LEADER_ADDRESS=None, MODELSERVE_LAUNCHER=launcher)
    assert pod.calls() == [["vllm", str(ended.process), "serve", *VLLM_ARGS]]
    assert ended.status == 7, "the pod must end as vLLM ended"


@pytest.mark.parametrize("theirs", [None, "/theirs"])
def test_the_engine_finds_the_guard_before_whatever_the_image_has_on_its_path(pod: Pod, theirs):
    pod.install("vllm", 'echo "$PYTHONPATH"')
    found = pod.run(MODELSERVE_NODES="1", PYTHONPATH=theirs).output.splitlines()[-1].split(":")
    assert found == [str(SCRIPT.parent), *([theirs] if theirs else [])]
    assert (SCRIPT.parent / "modelserve_guard.py").exists()
    assert "modelserve_guard.py" in engine_pods.launch_files(ARGS.pods)


def test_one_node_needs_no_ray(pod: Pod):
    (pod.folder / "bin" / "ray").unlink()
    assert pod.run(MODELSERVE_NODES="1").status == 7
    assert pod.called() == ["vllm"]


# --- leader


def test_the_leader_counts_every_gpu_before_it_becomes_vllm(pod: Pod):
    pod.joins(0, 8, 15, 16)
    ended = pod.run()
    head, *counts, engine = pod.calls()
    assert head[0] == "ray" and {"start", "--head", "--port=6379", "--num-gpus=8", "--node-ip-address=10.0.0.1"} <= set(
        head
    )
    assert counts == [["count", "0"], ["count", "8"], ["count", "15"], ["count", "16"]]
    assert engine == ["vllm", str(ended.process), "serve", *VLLM_ARGS], "vLLM must be the pod's first process"
    assert ended.status == 7
    told = [line.removeprefix("modelserve: ray: ") for line in ended.output.splitlines() if "modelserve: ray" in line]
    assert told == [*(f"{have} of 16 GPUs joined" for have in (0, 8, 15, 16)), "formed, starting vLLM"]


def test_a_group_that_never_forms_ends_the_pod_with_the_count_and_never_starts_vllm(pod: Pod):
    pod.joins(8)
    ended = pod.run(MODELSERVE_JOIN_SECONDS="1")
    assert ended.status not in (0, 7)
    assert "vllm" not in pod.called()
    assert ended.output.splitlines()[-1] == "modelserve: ray: 8 of 16 GPUs in 1 s: see the workers' logs"


def test_a_head_that_does_not_start_ends_the_pod(pod: Pod):
    pod.install("ray", "exit 3")
    ended = pod.run()
    assert ended.status not in (0, 7)
    assert pod.called() == ["ray"]
    assert ended.output == "modelserve: ray: the head did not start\n"


def test_a_head_that_dies_ends_the_pod(pod: Pod):
    (pod.folder / "modules" / "silent").touch()
    ended = pod.run()
    assert ended.status not in (0, 7)
    assert pod.called() == ["ray"]
    assert ended.output.splitlines()[-1] == "modelserve: ray: the head does not answer"


@pytest.mark.parametrize("index", ["0", "1"], ids=["leader", "worker"])
def test_an_image_without_ray_is_named_as_the_reason(pod: Pod, index):
    (pod.folder / "bin" / "ray").unlink()
    ended = pod.run(MODELSERVE_POD_INDEX=index)
    assert ended.status not in (0, 7)
    assert pod.calls() == []
    assert ended.output == "modelserve: ray: the image has no Ray, which joins 2 nodes: take an image with Ray\n"


@pytest.mark.parametrize("launcher", ["ray", "native"])
@pytest.mark.parametrize("index", ["0", "1"], ids=["leader", "worker"])
def test_a_pod_outside_a_group_says_in_one_line_what_is_missing(pod: Pod, index, launcher):
    ended = pod.run(MODELSERVE_POD_INDEX=index, LWS_LEADER_ADDRESS=None, MODELSERVE_LAUNCHER=launcher)
    assert ended.status not in (0, 7)
    assert pod.calls() == []
    assert ended.output == "modelserve: LWS_LEADER_ADDRESS is not set: is the LeaderWorkerSet webhook running?\n"


def test_a_pod_that_is_deleted_while_ray_forms_does_not_wait_out_its_grace_period(pod: Pod):
    pod.joins(8)
    process = pod.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while "count" not in pod.called() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_SECONDS)
    # The script must exit by itself: the kernel does not kill a container's first process on an unhandled signal.
    assert process.returncode == 128 + signal.SIGTERM
    assert "vllm" not in pod.called()


# --- worker


def test_a_worker_becomes_ray_and_ends_with_it(pod: Pod, leader_port: int):
    pod.install("ray", "exit 9")
    ended = pod.run(**worker(leader_port, "ray"))
    (call,) = pod.calls()
    assert call[:3] == ["ray", str(ended.process), "start"], "Ray must be the pod's first process"
    assert {"--block", f"--address=127.0.0.1:{leader_port}", "--num-gpus=8", "--node-ip-address=10.0.0.1"} <= set(call)
    assert ended.status == 9


@BOTH
def test_a_worker_waits_for_its_leaders_port(pod: Pod, closed_port: int, launcher, becomes):
    process = pod.start(**worker(closed_port, launcher))
    assert process.stdout
    assert process.stdout.readline() == f"modelserve: {launcher}: waiting for the leader at 127.0.0.1:{closed_port}\n"
    assert pod.calls() == []
    with socket.create_server(("127.0.0.1", closed_port)):
        process.communicate(timeout=PATIENCE_SECONDS)
    assert pod.called() == [becomes]
    assert (pod.folder / "leader").read_text() == "127.0.0.1\n", "its preStop hook asks there, by address"


@BOTH
def test_a_worker_without_a_leader_ends_after_its_deadline(pod: Pod, closed_port: int, launcher, becomes):
    ended = pod.run(**worker(closed_port, launcher), MODELSERVE_JOIN_SECONDS="1")
    assert ended.status not in (0, 7)
    assert pod.calls() == []
    assert ended.output.splitlines()[-1] == f"modelserve: {launcher}: no leader at 127.0.0.1:{closed_port} in 1 s"


# --- without Ray


def test_the_native_leader_becomes_vllm_at_once_with_its_place_after_the_given_arguments(native: Pod):
    ended = native.run()
    place = ["--nnodes", "2", "--node-rank", "0", "--master-addr", "ds-0.ds.default", "--master-port", "29501"]
    assert native.calls() == [["vllm", str(ended.process), "serve", *VLLM_ARGS, *place]]
    assert ended.status == 7, "the pod must end as vLLM ended"
    assert ended.output == "modelserve: native: leading 2 nodes at ds-0.ds.default:29501, starting vLLM\n"


def test_a_native_worker_becomes_vllm_without_http_and_ends_with_it(native: Pod, leader_port: int):
    ended = native.run(**worker(leader_port, "native") | {"MODELSERVE_POD_INDEX": "3", "MODELSERVE_NODES": "4"})
    place = ["--nnodes", "4", "--node-rank", "3", "--master-addr", "127.0.0.1", "--master-port", str(leader_port)]
    assert native.calls() == [["vllm", str(ended.process), "serve", *VLLM_ARGS, *place, "--headless"]]
    assert ended.status == 7
    assert ended.output == "modelserve: native: joining 127.0.0.1 with 8 GPUs\n"


def test_a_native_worker_that_is_deleted_while_it_waits_ends_by_itself(native: Pod, closed_port: int):
    process = native.start(**worker(closed_port, "native"))
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM
    assert native.calls() == []


# --- data-parallel engines


@pytest.fixture
def engines(native: Pod) -> Pod:
    """The leader of four pods with eight engines each."""
    native.script = DATA_SCRIPT
    native.env |= {"MODELSERVE_NODES": "4", "MODELSERVE_ENGINES": "8", "MODELSERVE_DATA_PORT": "29550"}
    return native


def engine_worker(port: int) -> dict[str, str]:
    """The third pod's environment; it must not ask at the port of the hook."""
    return worker(1, "native") | {"MODELSERVE_POD_INDEX": "2", "MODELSERVE_DATA_PORT": str(port)}


def test_the_leader_of_engines_listens_on_its_own_address_and_keeps_its_http(engines: Pod):
    ended = engines.run()
    place = "--data-parallel-size-local 8 --data-parallel-rpc-port 29550 --data-parallel-address 10.0.0.1"
    assert engines.calls() == [["vllm", str(ended.process), "serve", *VLLM_ARGS, *place.split()]]
    assert ended.status == 7, "the pod must end as vLLM ended"
    assert ended.output == "modelserve: native: leading 4 nodes at ds-0.ds.default:29550, starting vLLM\n"


def test_each_other_pod_waits_for_the_leader_and_runs_the_next_engines_without_http(engines: Pod, closed_port: int):
    process = engines.start(**engine_worker(closed_port))
    assert process.stdout
    assert process.stdout.readline() == f"modelserve: native: waiting for the leader at 127.0.0.1:{closed_port}\n"
    with socket.create_server(("127.0.0.1", closed_port)):
        process.communicate(timeout=PATIENCE_SECONDS)
    place = f"--data-parallel-size-local 8 --data-parallel-rpc-port {closed_port} --data-parallel-address 127.0.0.1"
    (call,) = engines.calls()
    assert call[2:] == ["serve", *VLLM_ARGS, *place.split(), "--data-parallel-start-rank", "16", "--headless"]
    assert (engines.folder / "leader").read_text() == "127.0.0.1\n", "its preStop hook asks there, by address"


def test_a_pod_of_an_engine_of_several_pods_says_which_it_is_and_vllm_finds_the_engine(engines: Pod, closed_port: int):
    engines.env |= {"MODELSERVE_ENGINES": "0", "MODELSERVE_MASTER_PORT": "29501"}
    ended = engines.run()
    group = "--nnodes 4 --node-rank {} --master-addr {} --master-port 29501 --data-parallel-address {}"
    place = f"--data-parallel-rpc-port 29550 {group.format(0, 'ds-0.ds.default', '10.0.0.1')}"
    assert engines.calls() == [["vllm", str(ended.process), "serve", *VLLM_ARGS, *place.split()]]
    with socket.create_server(("127.0.0.1", closed_port)):
        engines.run(**engine_worker(closed_port))
    place = f"--data-parallel-rpc-port {closed_port} {group.format(2, '127.0.0.1', '127.0.0.1')} --headless"
    assert engines.calls()[1][2:] == ["serve", *VLLM_ARGS, *place.split()]


def test_engines_without_a_leader_end_after_their_deadline_or_when_they_are_deleted(engines: Pod, closed_port: int):
    ended = engines.run(**engine_worker(closed_port), MODELSERVE_JOIN_SECONDS="1")
    assert ended.status not in (0, 7) and engines.calls() == []
    assert ended.output.splitlines()[-1] == f"modelserve: native: no leader at 127.0.0.1:{closed_port} in 1 s"
    process = engines.start(**engine_worker(closed_port))
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM


def test_engines_outside_a_group_say_what_is_missing(engines: Pod):
    ended = engines.run(LWS_LEADER_ADDRESS=None)
    assert ended.output == "modelserve: LWS_LEADER_ADDRESS is not set: is the LeaderWorkerSet webhook running?\n"


@pytest.mark.parametrize("tensor", [1, 16])
@pytest.mark.parametrize("leader", [True, False], ids=["leader", "worker"])
def test_every_variable_of_the_script_for_engines_is_set_in_its_pod_or_injected_or_has_a_default(leader, tensor):
    data = 32 // tensor
    args = having(ARGS, launcher="native", nodes=4, data=data, tensor=tensor, pipeline=1)
    (container,) = ray_lws_group.pod_template("ds", args, leader=leader)["spec"]["containers"]
    given = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert container["command"] == ["bash", f"/etc/modelserve/{DATA_SCRIPT.name}"]
    assert DATA_SCRIPT.name in engine_pods.launch_config("ds", args.pods)["data"]
    read = set(re.findall(r"\$\{?((?:MODELSERVE|VLLM|LWS)_\w+)", DATA_SCRIPT.read_text()))
    absent = {"MODELSERVE_POLL_SECONDS", "MODELSERVE_LEADER_FILE", "LWS_LEADER_ADDRESS"}
    assert read - given.keys() == absent | ({"MODELSERVE_MASTER_PORT"} if tensor == 1 else set())
    assert (given["MODELSERVE_ENGINES"], given["MODELSERVE_DATA_PORT"]) == ("8" if tensor == 1 else "0", "29550")
    # The port of the engines closes once all have joined; a worker that ends waits for the leader's last answer.
    assert given["MODELSERVE_JOIN_PORT"] == str(args.pods.port)


def test_a_launcher_that_nobody_wrote_is_refused_before_anything_starts(pod: Pod):
    ended = pod.run(MODELSERVE_LAUNCHER="slurm")
    assert ended.status not in (0, 7)
    assert pod.calls() == []
    assert ended.output == "modelserve: MODELSERVE_LAUNCHER is slurm: neither ray nor native\n"


# --- under KubeRay

_FLAGS = "--dashboard-agent-listen-port=52365  --metrics-export-port=8080  --num-cpus=180  --num-gpus=8"
_QUOTED = """--resources='{"a b": 1}'"""
# KubeRay's own build adds --block to the command of every pod; AIBrix's adds it only to pods that ask for it.
BUILDS = pytest.mark.parametrize("block", [" --block ", ""], ids=["KubeRay's build", "AIBrix's build"])


def kuberay(kind: str, block: str) -> dict[str, str | None]:
    """The environment that KubeRay 1.3 gives to a head or a worker, without LeaderWorkerSet's variables."""
    where = "--head " if kind == "head" else "--address=127.0.0.1:6379 "
    return {
        "LWS_LEADER_ADDRESS": None,
        "KUBERAY_GEN_RAY_START_CMD": f"ray start {where}{block} {_FLAGS}  {_QUOTED} ",
    }


@BUILDS
def test_a_head_starts_ray_as_kuberay_says_and_becomes_vllm_once_every_gpu_is_there(pod: Pod, block):
    # As with the real one, a call with --block waits forever.
    pod.install("ray", 'case " $* " in *" --block "*) exec sleep 3600 ;; esac')
    pod.joins(8, 16)
    ended = pod.run(**kuberay("head", block))
    head, *counts, engine = pod.calls()
    assert head[2:] == [
        "start",
        "--head",
        *_FLAGS.split(),
        '--resources={"a b": 1}',
        "--node-ip-address=10.0.0.1",
        "--disable-usage-stats",
    ]
    assert counts == [["count", "8"], ["count", "16"]]
    assert engine == ["vllm", str(ended.process), "serve", *VLLM_ARGS], "vLLM must be the pod's first process"
    assert ended.status == 7
    assert ended.output.splitlines()[-1] == "modelserve: ray: formed, starting vLLM"


@BUILDS
def test_a_head_without_its_workers_ends_with_the_count_and_never_starts_vllm(pod: Pod, block):
    pod.joins(8)
    ended = pod.run(**kuberay("head", block), MODELSERVE_JOIN_SECONDS="1")
    assert ended.status not in (0, 7)
    assert "vllm" not in pod.called()
    assert ended.output.splitlines()[-1] == "modelserve: ray: 8 of 16 GPUs in 1 s: see the workers' logs"


@BUILDS
def test_a_head_whose_ray_does_not_start_ends(pod: Pod, block):
    pod.install("ray", "exit 3")
    ended = pod.run(**kuberay("head", block))
    assert ended.status not in (0, 7)
    assert ended.output == "modelserve: ray: the head did not start\n"


@BUILDS
def test_a_worker_under_kuberay_becomes_ray_in_the_foreground_and_ends_with_it(pod: Pod, leader_port: int, block):
    pod.install("ray", "exit 9")
    changes = worker(leader_port, "ray") | kuberay("worker", block) | {"FQ_RAY_IP": "127.0.0.1"}
    ended = pod.run(**changes)
    (call,) = pod.calls()
    assert call[:3] == ["ray", str(ended.process), "start"], "Ray must be the pod's first process"
    assert call.count("--block") == 1
    assert {"--address=127.0.0.1:6379", '--resources={"a b": 1}', "--node-ip-address=10.0.0.1"} <= set(call)
    assert ended.status == 9


@BUILDS
def test_a_worker_under_kuberay_waits_for_its_head_and_not_for_ever(pod: Pod, closed_port: int, block):
    changes = worker(closed_port, "ray") | kuberay("worker", block) | {"FQ_RAY_IP": "127.0.0.1"}
    ended = pod.run(**changes, MODELSERVE_JOIN_SECONDS="1")
    assert ended.status not in (0, 7)
    assert pod.calls() == []
    assert ended.output.splitlines()[-1] == f"modelserve: ray: no leader at 127.0.0.1:{closed_port} in 1 s"


def test_one_node_under_kuberay_needs_no_ray(pod: Pod):
    (pod.folder / "bin" / "ray").unlink()
    assert pod.run(**kuberay("head", " --block "), MODELSERVE_NODES="1").status == 7
    assert pod.called() == ["vllm"]


# --- together with the manifest


def test_every_variable_that_the_script_reads_is_set_in_its_pod_or_injected_or_has_a_default(pod: Pod):
    template = ray_lws_group.pod_template("ds", ARGS, leader=False)
    given = {entry["name"] for entry in template["spec"]["containers"][0]["env"]}
    read = set(re.findall(r"\$\{?((?:MODELSERVE|VLLM|LWS)_\w+)", SCRIPT.read_text()))
    assert read - given == {"MODELSERVE_POLL_SECONDS", "MODELSERVE_LEADER_FILE", "LWS_LEADER_ADDRESS"}
    assert {"${MODELSERVE_POLL_SECONDS:-5}", f"${{MODELSERVE_LEADER_FILE:-{modelserve_guard.LEADER_FILE}}}"} <= set(
        re.findall(r"\$\{\w+:-[^}]+\}", SCRIPT.read_text())
    )
    assert read <= pod.env.keys()


@pytest.mark.parametrize("head", [True, False], ids=["head", "worker"])
def test_every_variable_that_the_script_reads_under_kuberay_is_set_in_its_pod_or_has_a_default(head):
    template = ray_cluster_fleet.pod_template("ds", FLEET_ARGS, head=head)
    given = {entry["name"] for entry in template["spec"]["containers"][0]["env"]}
    read = set(re.findall(r"\$\{?((?:MODELSERVE|VLLM)_\w+)", SCRIPT.read_text()))
    assert read - given == {"MODELSERVE_POLL_SECONDS", "MODELSERVE_LEADER_FILE"}


# --- limits


def test_the_engine_may_open_as_many_files_as_its_container_permits(pod: Pod):
    pod.install("vllm", then="ulimit -S -n")
    bash = which("bash")
    assert bash
    limited = f"ulimit -S -n 1024 && ulimit -H -n 4096 && exec {bash} {SCRIPT}"
    ended = subprocess.run(
        [bash, "-c", limited], env=pod.env | {"MODELSERVE_NODES": "1"}, capture_output=True, text=True, cwd=pod.folder
    )
    assert ended.stdout.splitlines()[-1:] == ["4096"], ended.stderr

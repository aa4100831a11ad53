"""What is read from a start's log: the cause of a failure, by its form and not by its release, and the progress."""

from __future__ import annotations

import json

import pytest

from local.paths import ROOT
from watch.engine_log import cause, last_words, stage, told

RECORDED: dict[str, list[str]] = json.loads((ROOT / "tests" / "data" / "vllm-starts.json").read_text())["failedStarts"]
CAUSES = {
    "noCache": ("sizing the KV cache", "ValueError: No available memory for the cache blocks."),
    "capture": ("capturing CUDA graphs", "torch.AcceleratorError: CUDA error: out of memory"),
    "workspace": ("capturing CUDA graphs", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.00 GiB."),
}
PARENT = """Traceback (most recent call last):
  File "/usr/local/bin/vllm", line 8, in <module>
    sys.exit(main())
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
FRAMES = '  File "/vllm/worker.py", line 229, in load_model\n    self.model_runner.load_model()\n'
MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.50 GiB."


def prefixed(prefix: str, text: str) -> str:
    return "".join(f"{prefix}{line}\n" for line in text.splitlines())


def traceback(exception: str) -> str:
    return f"Traceback (most recent call last):\n{FRAMES}{exception}\n"


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_failure_is_named_by_the_child_that_failed_and_never_by_the_parent_that_reports_it(name: str):
    found = cause("\n\n".join(RECORDED[name]))
    assert found and found.process == "EngineCore"
    phase, says = CAUSES[name]
    assert found.phase == phase and found.says.startswith(says)
    assert any(hint.startswith("Available KV cache memory: ") for hint in found.hints)


@pytest.mark.parametrize("name", RECORDED)
def test_a_log_cut_anywhere_above_the_last_copy_of_the_cause_has_it_and_any_shorter_one_says_what_it_lacks(name: str):
    lines, says = RECORDED[name], CAUSES[name][1]
    last = max(at for at, line in enumerate(lines) if says in line)
    for begin in range(len(lines)):
        found = cause("\n".join(lines[begin:]))
        assert found
        if begin <= last:
            assert found.says.startswith(says), begin
        else:
            assert not found.complete and "See root cause above" in told(found), begin


# The forms of releases and launchers: 0.7 in vllm-project/vllm#11560, 0.7 with Ray in #13276, 0.8 in #17939,
# 0.10 in #23517, 0.11 in #27508 and #27321, Ray's colours in #16692, torch's rank in #14120.
@pytest.mark.parametrize(
    ("prefix", "process"),
    [
        ("(VllmWorkerProcess pid=23) ERROR 12-29 07:45:20 multiproc_worker_utils.py:236] ", "VllmWorkerProcess"),
        ("(RayWorkerWrapper pid=7, ip=::2) ERROR 02-13 15:44:24 worker_base.py:574] ", "RayWorkerWrapper, ip=::2"),
        ("\x1b[36m(RayWorkerWrapper pid=7, ip=10.0.0.2)\x1b[0m ", "RayWorkerWrapper, ip=10.0.0.2"),
        ("(VllmWorker rank=1 pid=5) ERROR 05-10 16:00:15 [multiproc_executor.py:470] ", "VllmWorker rank=1"),
        ("(EngineCore_0 pid=1) (VllmWorker TP1 pid=9) ERROR 08-25 11:01:23 [executor.py:559] ", "VllmWorker TP1"),
        ("\x1b[1;36m(EngineCore_DP0 pid=2)\x1b[0;0m ERROR 10-25 13:12:42 [core.py:708] ", "EngineCore_DP0"),
        ("(Worker_TP0 pid=6) ERROR 10-25 13:12:42 [multiproc_executor.py:671] ", "Worker_TP0"),
        ("(Worker_DP0_PP1_TP3_EP3 pid=6) ERROR 10-25 13:12:42 [multiproc_executor.py:671] ", "Worker_DP0_PP1_TP3_EP3"),
        ("ERROR 07-10 14:49:36 [core.py:515] ", ""),
        ("[rank0]: ", "rank0"),
        ("", ""),
    ],
)  # fmt: skip
def test_the_cause_is_found_under_the_prefix_of_every_kind_of_process(prefix: str, process: str):
    found = cause(prefixed(prefix, traceback(MEMORY)) + prefixed("(APIServer pid=1) ", PARENT))
    assert found and (found.process, found.phase, found.says) == (process, "loading weights", MEMORY)


def test_of_several_workers_the_first_to_fail_has_the_cause_also_where_their_lines_mix():
    first = prefixed("(Worker_TP1 pid=2) ERROR 10-25 13:12:42 [multiproc_executor.py:671] ", traceback(MEMORY))
    later = prefixed(
        "(Worker_TP0 pid=1) ERROR 10-25 13:12:42 [multiproc_executor.py:671] ",
        traceback("torch.distributed.DistBackendError: NCCL error"),
    )
    mixed = "".join(f"{a}\n{b}\n" for a, b in zip(first.splitlines(), later.splitlines(), strict=True))
    engine = traceback(
        "Exception: WorkerProc initialization failed due to an exception in a background process. "
        "See stack trace for root cause."
    )
    for after in ("", prefixed("(EngineCore_DP0 pid=3) ", engine) + prefixed("(APIServer pid=4) ", PARENT)):
        found = cause(mixed + after)
        assert found and (found.process, found.says) == ("Worker_TP1", MEMORY)


def test_rays_own_exception_carries_that_of_its_worker():
    ray = "ray.exceptions.RayTaskError(OutOfMemoryError): ray::RayWorkerWrapper.execute_method() (pid=7)"
    carried = traceback(f"{ray}\n{FRAMES}{MEMORY}")
    log = prefixed("(EngineCore_DP0 pid=1) ERROR 04-16 11:53:49 [core.py:842] ", carried)
    found = cause(log + PARENT)
    assert found and found.says == MEMORY


def test_of_a_chain_the_innermost_is_the_cause_and_what_it_became_is_told_too():
    link = "\nThe above exception was the direct cause of the following exception:\n\n"
    found = cause(traceback("PermissionError: /weights") + link + traceback("OSError: no config.json in /weights/m"))
    assert found and told(found).endswith("PermissionError: /weights; it became OSError: no config.json in /weights/m")
    found = cause(traceback(MEMORY) + link + PARENT)
    assert found and told(found).endswith(MEMORY)


def test_an_exception_that_says_more_in_indented_lines_is_told_with_them():
    refused = (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "  Value error, User-specified max_model_len (40000) is greater than the derived max_model_len"
    )
    found = cause(prefixed("(APIServer pid=1) ", traceback(refused)))
    assert found and "1 validation error for ModelConfig Value error, User-specified max_model_len" in found.says


def test_what_a_process_survived_is_not_why_it_failed():
    warned = prefixed("(EngineCore pid=2) WARNING 10-25 13:12:42 [interface.py:5] ", traceback("ImportError: vllm._C"))
    asked = prefixed("(APIServer pid=1) ", traceback("AttributeError: 'list' object has no attribute 'get'"))
    answered = (
        '(APIServer pid=1) INFO:     127.0.0.1:4 - "POST /v1/chat/completions HTTP/1.1" 500 Internal Server Error\n'
    )
    assert cause(warned + asked + answered) is None
    failed = prefixed("(EngineCore pid=2) ERROR 10-25 13:12:42 [core.py:9] ", traceback(MEMORY))
    dead = traceback("EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.")
    for log in (warned + asked + answered + failed, warned + asked + failed + prefixed("(APIServer pid=1) ", dead)):
        found = cause(log)
        assert found and found.says == MEMORY


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (PARENT.replace("{}", "{'EngineCore_DP0': -9}"), "in EngineCore_DP0: it was killed by signal 9"),
        ("(Worker_TP0 pid=3) Fatal Python error: Aborted\n" + PARENT, "in Worker_TP0: Fatal Python error: Aborted"),
        ("usage: vllm serve\nvllm serve: error: argument --x: y\n", "the cause: vllm serve: error: argument --x: y"),
        ("(raylet) A worker died or was killed while executing a task\n", "in raylet: A worker died or was killed"),
    ],
)  # fmt: skip
def test_a_process_that_died_without_an_exception_is_named_by_how_it_died(log: str, says: str):
    found = cause(log)
    assert found and says in told(found)


def test_being_told_to_end_is_no_cause():
    assert cause("Loading\n" + traceback("KeyboardInterrupt: terminated")) is None
    assert cause("") is None and cause("ray: no leader in 600 s\n") is None
    assert last_words("usage: vllm serve\n(APIServer pid=1) vllm: error: x\n\n(APIServer pid=1) \n") == "vllm: error: x"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("Loading safetensors checkpoint shards:  42% Completed | 68/163 [00:09<00:12,  7.1it/s]", "loading: 42 %"),
        ("(RayWorkerWrapper pid=5) Loading safetensors using Runai Model Streamer: 2% Completed | 11/603", ": 2 %"),
        ("Multi-thread loading shards:  25% Completed | 1/4 [00:00<00:02,  1.29it/s]", "weights loading: 25 %"),
        ("(Worker_TP0 pid=2) \rLoading pt checkpoint shards:  50% Completed | 1/2\r", "weights loading: 50 %"),
        ("[RunAI Streamer] Overall time to stream 3.9 GiB: 1.24s, 3.1 GiB/s", "weights are loaded"),
        ("(EngineCore pid=1) INFO 11-28 08:01:56 [backends.py:1] Dynamo bytecode transform time: 18 s", "compiling"),
        ("INFO 05-07 02:57:50 [monitor.py:33] torch.compile takes 50.84 s in total", "measuring memory"),
        ("Capturing CUDA graph shapes:  30%|███       | 16/53 [00:00<00:00, 48.52it/s]", "graphs being captured: 30 %"),
        ("Capturing CUDA graphs (decode, FULL):  57%|█████▋    | 20/35 [00:01<00:01, 13.76it/s]", "captured: 57 %"),
        ("INFO:     Application startup complete.", "probe: waiting for /health"),
        ("INFO 11-28 08:01:29 [some.py:1] A line that nobody has seen", "newest line: A line that nobody has seen"),
    ],
)  # fmt: skip
def test_every_line_of_a_start_says_how_far_it_is(line: str, says: str):
    assert says in stage("modelserve: one node, 8 GPUs: starting vLLM\n" * ("nobody" not in line) + line)


def test_only_a_log_without_a_line_says_nothing():
    assert stage("") == stage("\n(EngineCore pid=1) \n") == ""

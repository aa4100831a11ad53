"""What a pod of ours writes while it starts: lines of the launch script, then vLLM's own. Pure text, no clock, no file.

The wording follows public logs of vLLM 0.7 to 0.11; the numbers in them are examples and belong to no model.
"""

from __future__ import annotations

from local.vllm_arguments import Arguments

_SHARDS = 163
_SHARD_LINES = 20
# From this share of the start on only a pod that is ready goes on: one that never gets ready stays behind it.
HELD_BACK = 0.95


def ray_waits(joined: int, wanted: int) -> str:
    """The leader's count of GPUs while the group forms."""
    return f"modelserve: ray: {joined} of {wanted} GPUs joined"


RAY_FORMED = "modelserve: ray: formed, starting vLLM"


def native_leads(nodes: int, leader: str, port: str) -> str:
    """The leader's line where vLLM itself joins the nodes."""
    return f"modelserve: native: leading {nodes} nodes at {leader}:{port}, starting vLLM"


def one_node(gpus: int) -> str:
    """The first line of a group of one, which needs no Ray."""
    return f"modelserve: one node, {gpus} GPUs: starting vLLM"


def worker_waits(launcher: str, leader: str, port: str) -> str:
    """A worker's line while its leader is not there."""
    return f"modelserve: {launcher}: waiting for the leader at {leader}:{port}"


def worker_joins(launcher: str, leader: str, gpus: int) -> list[str]:
    """A worker's lines once it has found the leader; with Ray it stays silent after them."""
    ray = ["Ray runtime started.", "This command will now block forever until terminated by a signal."]
    return [f"modelserve: {launcher}: joining {leader} with {gpus} GPUs", *(ray if launcher == "ray" else [])]


def headless(arguments: Arguments, release: str, leader: str, port: str) -> list[tuple[float, str]]:
    """A native worker's lines, as `engine` gives the leader's: it loads its part and serves nothing."""
    return [
        (0.0, f"INFO {{now}} [serve.py:116] Launching vLLM (v{release}) headless multiproc executor, with head node "
              f"address {leader}:{port} for torch.distributed process group."),
        *_loading(arguments),
    ]  # fmt: skip


def engine(arguments: Arguments, release: str) -> list[tuple[float, str]]:
    """The engine's lines, each with the share of the start after which it is written; `{now}` is for the caller."""
    first = release.split(".")[:2] in (["0", "6"], ["0", "7"])
    longest = arguments.max_model_len
    tokens = longest * 2 + longest // 16
    cache = (
        [f"INFO {{now}} executor_base.py:111] # cuda blocks: {tokens // 16}, # CPU blocks: 7281",
         f"INFO {{now}} executor_base.py:116] Maximum concurrency for {longest} tokens per request: "
         f"{tokens / longest:.2f}x"]
        if first
        else [f"INFO {{now}} [kv_cache_utils.py:864] GPU KV cache size: {tokens:,} tokens",
              f"INFO {{now}} [kv_cache_utils.py:868] Maximum concurrency for {longest:,} tokens per request: "
              f"{tokens / longest:.2f}x"]
    )  # fmt: skip
    lines = [
        (0.0, f"INFO {{now}} api_server.py:840] vLLM API server version {release}"),
        (0.05, f"INFO {{now}} config.py:1444] Defaulting to use {arguments.executor} for distributed inference, world "
               f"size {arguments.tensor_parallel * arguments.pipeline_parallel}"),
        *_loading(arguments),
    ]  # fmt: skip
    lines += [(0.92, line) for line in cache]
    lines.append((HELD_BACK, "INFO {now} model_runner.py:1434] Graph capturing finished in 21 secs, took 0.38 GiB"))
    lines += [
        (1.0, "INFO:     Started server process [1]"),
        (1.0, "INFO:     Waiting for application startup."),
        (1.0, "INFO:     Application startup complete."),
        (1.0, f"INFO:     Uvicorn running on http://0.0.0.0:{arguments.port} (Press CTRL+C to quit)"),
    ]
    return lines


def _loading(arguments: Arguments) -> list[tuple[float, str]]:
    lines = [(0.1, f"INFO {{now}} model_runner.py:1110] Starting to load model {arguments.model}...")]
    for step in range(_SHARD_LINES + 1):
        done = round(_SHARDS * step / _SHARD_LINES)
        share = 0.1 + 0.75 * step / _SHARD_LINES
        percent = 100 * done // _SHARDS
        lines.append((share, f"Loading safetensors checkpoint shards: {percent:3d}% Completed | {done}/{_SHARDS}"))
    return [*lines, (0.87, "INFO {now} model_runner.py:1115] Loading model weights took 41.1312 GB")]


def leader_crash() -> list[str]:
    """The last words of an engine that does not fit; the telling one comes last."""
    return [
        "ERROR {now} engine.py:400] Error in memory profiling",
        "Traceback (most recent call last):",
        '  File "vllm/worker/worker.py", line 229, in determine_num_available_blocks',
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.50 GiB. "
        "GPU 0 has a total capacity of 95.00 GiB of which 1.12 GiB is free.",
    ]


def worker_crash(launcher: str, leader: str, port: str, seconds: str) -> list[str]:
    """The last words of a worker whose leader never came."""
    return [f"modelserve: {launcher}: no leader at {leader}:{port} in {seconds} s"]

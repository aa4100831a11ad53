"""What our pods write while they start: lines of the launch script, then vLLM's own. Pure text: no clock, no files.

Wording and order follow vLLM 0.25.1 as measured on H200 (2026-11-28). For older releases they follow the logs in
vllm-project/vllm#11349 #11560 #13276 (0.7), #17939 (0.8), #21728 #22303 (0.10.0), #23517 (0.10.1), #27508 #29637
(0.11) and #16692 (Ray). The numbers are examples and belong to no model. A failed start ends as in those logs: with
the traceback of a parent that says only that a child has failed, far below the child's own traceback.

With data-parallel engines the first engine of the pod writes; names and lines follow
vllm/v1/executor/multiproc_executor.py:1214, vllm/v1/engine/core.py:1479, vllm/v1/engine/utils.py:1279 and
vllm/entrypoints/cli/serve.py:119 and 224 of 0.33.0.
"""

from __future__ import annotations

from collections.abc import Sequence

from standins.vllm_arguments import Arguments

_SHARDS = 163
_SHARD_LINES = 20
# Only a ready pod gets past this share of its start; a pod that never becomes ready stops here.
HELD_BACK = 0.95
_JOINED, _LOADED, _COMPILED, _SIZED = 0.08, 0.85, 0.9, 0.92
# First release with the V1 engine: it puts brackets around a line's source location, and compiles.
_V1 = (0, 8)
# The name of the engine's own process, by the first release that uses it. Older releases name no process in a line.
_CORES = (((0, 20), "EngineCore"), ((0, 10, 2), "EngineCore_DP0"), ((0, 10, 1), "EngineCore_0"))
# First release that starts as many API servers as there are data-parallel engines (0.16 and 0.17 not read).
_SERVERS = (0, 18)
_BARS = {
    "runai_streamer": "Loading safetensors using Runai Model Streamer",
    "fastsafetensors": "Loading safetensors using Fastsafetensor loader",
    "instanttensor": "Loading safetensors using InstantTensor loader",
}
_ROUTES = {
    "/openapi.json": "GET, HEAD", "/load": "GET", "/version": "GET", "/health": "GET", "/metrics": "GET",
    "/ping": "GET", "/tokenize": "POST", "/v1/models": "GET", "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
}  # fmt: skip

NO_CACHE, CAPTURE, WORKSPACE, KILLED = "no-cache", "capture", "workspace", "killed"
SAMPLER, NCCL = "sampler", "nccl"
"""How a start fails: no memory for the KV cache; none for CUDA graphs (in CUDA's words, in torch's words) or for the
sampler (vllm-project/vllm#17939); GPUs that do not reach each other (#13200); or the process is killed from outside."""
_CAPTURES = ("initialize_from_config", "collective_rpc", "compile_or_warm_up_model", "capture_model")
_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.74 GiB. GPU 0 has a total capacity of 23.57 GiB "
    "of which 605.88 MiB is free."
)
_EXCEPTIONS = {
    NO_CACHE: (
        ("get_kv_cache_configs", "_check_enough_kv_cache_memory"),
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
        "initializing the engine.",
    ),
    CAPTURE: (
        (*_CAPTURES, "capture", "run_pw_graph", "capture_end"),
        "torch.AcceleratorError: CUDA error: out of memory\n"
        "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
        "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n",
    ),
    WORKSPACE: (
        (*_CAPTURES, "_capture_cudagraphs", "_dummy_run", "forward_mqa"),
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4.00 GiB. GPU 0 has a total capacity of "
        "95.00 GiB of which 3.90 GiB is free.",
    ),
    SAMPLER: (
        ("_dummy_sampler_run", "forward", "sample"),
        f"{_MEMORY}\n\nThe above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n"
        '  File "/vllm/vllm.py", line 9, in compile_or_warm_up_model\n    compile_or_warm_up_model()\n'
        '  File "/vllm/vllm.py", line 9, in _dummy_sampler_run\n    _dummy_sampler_run()\n'
        "RuntimeError: CUDA out of memory occurred when warming up sampler with 256 dummy requests. Please try "
        "lowering `max_num_seqs` or `gpu_memory_utilization` when initializing the engine.",
    ),
    NCCL: (
        ("init_device", "init_worker_distributed_environment", "ensure_model_parallel_initialized", "NCCL_CHECK"),
        "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)",
    ),
}
# The frames between the engine's own in a real traceback.
_BETWEEN = ("_wrapped_call_impl", "_call_impl", "decorate_context", "__call__") * 5


def ray_waits(joined: int, wanted: int) -> str:
    """The leader's count of GPUs while the group forms."""
    return f"modelserve: ray: {joined} of {wanted} GPUs joined"


RAY_FORMED = "modelserve: ray: formed, starting vLLM"


def native_leads(nodes: int, leader: str, port: str) -> str:
    """The leader's line if vLLM itself connects the nodes."""
    return f"modelserve: native: leading {nodes} nodes at {leader}:{port}, starting vLLM"


def one_node(gpus: int) -> str:
    """The first line of a group of one pod, which needs no Ray."""
    return f"modelserve: one node, {gpus} GPUs: starting vLLM"


def worker_waits(launcher: str, leader: str, port: str) -> str:
    """A worker's line while it waits for its leader."""
    return f"modelserve: {launcher}: waiting for the leader at {leader}:{port}"


def worker_joins(launcher: str, leader: str, gpus: int) -> list[str]:
    """A worker's lines after it has found the leader. With Ray it writes nothing after them."""
    ray = ["Ray runtime started.", "This command will now block forever until terminated by a signal."]
    return [f"modelserve: {launcher}: joining {leader} with {gpus} GPUs", *(ray if launcher == "ray" else [])]


def worker_crash(launcher: str, leader: str, port: str, seconds: str) -> list[str]:
    """The last lines of a worker whose leader never came."""
    return [f"modelserve: {launcher}: no leader at {leader}:{port} in {seconds} s"]


class Writer:
    """Writes lines as the processes of one engine do; the caller fills in `{now}`."""

    def __init__(self, arguments: Arguments, release: str) -> None:
        self._arguments, self._release = arguments, release
        numbers = tuple(int(part) for part in release.split("."))
        self._v1 = numbers >= _V1
        core = next((name for since, name in _CORES if numbers >= since), "")
        if core and arguments.data_parallel > 1:
            core = f"EngineCore_DP{arguments.first_engine}"
        self._core_name = core
        self._core = f"({core} pid=89) " if core else ""
        self._api = "(APIServer pid=1) " if core else ""
        self._alone = arguments.world_size * arguments.data_parallel == 1
        self._many_servers = numbers >= _SERVERS
        self._worker = self._worker_of(numbers)

    def _worker_of(self, numbers: tuple[int, ...]) -> str:
        """The line prefix of the first worker. If it shares the engine's process, it has the engine's prefix."""
        if self._alone or not self._v1:
            return self._core
        if self._arguments.executor == "ray":
            return f"{self._core}\x1b[36m(RayWorkerWrapper pid=130)\x1b[0m "
        if not self._core:
            return "(VllmWorker rank=0 pid=130) "
        arguments, first = self._arguments, self._arguments.first_engine
        rank = f"_DP{first}" if arguments.data_parallel > 1 else ""
        rank += "_PP0" if arguments.pipeline_parallel > 1 else ""
        rank += "_TP0" if arguments.world_size > 1 else ""
        rank += f"_EP{first * arguments.tensor_parallel}" if arguments.expert_parallel else ""
        return f"{self._core}(VllmWorker TP0 pid=130) " if numbers < (0, 10, 2) else f"(Worker{rank} pid=130) "

    def headless(self, leader: str, port: str) -> list[tuple[float, str]]:
        """A native worker's lines, in the form of `engine`. The worker loads its part and serves nothing."""
        if self._arguments.data_parallel > 1 and not self._arguments.helps:
            text = (
                f"Launching {self._arguments.local_engines} data parallel engine(s) in headless mode, with head node "
                f"address tcp://{leader}:{port}."
            )
            return [(0.0, self._line("", "serve.py:224", text)), *self._loading()]
        text = (
            f"Launching vLLM (v{self._release}) headless multiproc executor, with head node address {leader}:{port} "
            "for torch.distributed process group."
        )
        return [(0.0, self._line("", "serve.py:116", text)), *self._loading()]

    def engine(self) -> list[tuple[float, str]]:
        """The engine's lines, each with the share of the start after which it is due."""
        api, core, engines = self._api, self._core, self._arguments.data_parallel
        world = self._arguments.world_size * engines
        lines = [(0.0, self._line(api, "api_server.py:840", f"vLLM API server version {self._release}"))]
        if engines > 1 and self._many_servers:
            said = f"Defaulting api_server_count to data_parallel_size ({engines})."
            lines.append((0.01, self._line(api, "serve.py:119", said)))
        if engines > 1:
            lines.append((0.02, self._line(api, "utils.py:1279", "Started DP Coordinator process (PID: 77)")))
        if self._v1:
            said = f"Initializing a V1 LLM engine (v{self._release}) with config: model='{self._arguments.model}'"
            joined = (
                f"world_size={world} rank=0 local_rank=0 distributed_init_method=tcp://127.0.0.1:21008 backend=nccl"
            )
            lines.append((0.05, self._line(core, "core.py:114", said)))
            lines.append((0.08, self._line(self._worker, "parallel_state.py:1607", joined)))
        else:
            said = f"Defaulting to use {self._arguments.executor} for distributed inference, world size {world}"
            lines.append((0.05, self._line(core, "config.py:1444", said)))
        lines += [*self._loading(), *self._compiling()]
        lines += [(_SIZED, line) for line in self._cache()]
        lines += [(HELD_BACK, line) for line in self._capturing()]
        lines += [(1.0, line) for line in self._serving()]
        return lines

    def crash(self, how: str, script: Sequence[tuple[float, str]]) -> list[str]:
        """The remaining lines of a start that fails as `how` says; `script` holds the lines not written yet."""
        reached = {NO_CACHE: _COMPILED, KILLED: _LOADED / 2, NCCL: _JOINED}.get(how, _SIZED)
        lines = [line for share, line in script if share <= reached]
        if how == KILLED:
            return lines
        if how == NO_CACHE and self._v1:
            lines.append(self._available("-8.06"))
        functions, exception = _EXCEPTIONS[how]
        return [
            *lines,
            *(self._v1_crash(how, functions, exception) if self._v1 else self._v0_crash(functions, exception)),
        ]

    def _v1_crash(self, how: str, functions: Sequence[str], exception: str) -> list[str]:
        """Tracebacks of the failing worker, the engine process and the server. With one GPU the first two are one."""
        told, above = [], ("run_engine_core", "__init__", "_initialize_kv_caches")
        if self._alone or how == NO_CACHE:
            functions = (*above, *functions)
        else:
            own = f"WorkerProc hit an exception.\n{_traceback(functions, exception)}"
            told = self._logged(self._worker, "multiproc_executor.py:812", own)
            message = exception.partition("\n")[0].partition(": ")[2]
            pointer = f"Worker failed with error '{message}', please check the stack trace above for the root cause"
            functions, exception = (*above, "collective_rpc", "get_response"), f"RuntimeError: {pointer}"
        own = _traceback(functions, exception)
        told += self._logged(self._core, "core.py:1231", f"EngineCore failed to start.\n{own}")
        told += _plain(self._core, f"Process {self._core_name or 'EngineCore_0'}:\n{own}")
        return told + _plain(self._api, _traceback(
            ("<module>", "main", "run_server", "make_async_mp_client", "wait_for_engine_startup"),
            "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
        ))  # fmt: skip

    def _v0_crash(self, functions: Sequence[str], exception: str) -> list[str]:
        own = _traceback(("run_mp_engine", "__init__", "_initialize_kv_caches", *functions), exception)
        message = exception.partition("\n")[0].partition(": ")[2]
        return [
            *self._logged("", "engine.py:400", f"{message}\n{own}"),
            *_plain("", f"Process SpawnProcess-1:\n{own}"),
            *_plain("", _traceback(
                ("<module>", "main", "run_server", "build_async_engine_client"),
                "RuntimeError: Engine process failed to start. See stack trace for the root cause.",
            )),
        ]  # fmt: skip

    def _line(self, process: str, place: str, text: str, level: str = "INFO") -> str:
        return f"{process}{level} {{now}} {f'[{place}]' if self._v1 else f'{place}]'} {text}"

    def _logged(self, process: str, place: str, text: str) -> list[str]:
        # vLLM separates the lines of one record with both characters, \r\n.
        return [f"{self._line(process, place, line, 'ERROR')}\r" for line in text.split("\n")]

    def _available(self, gib: str) -> str:
        return self._line(self._worker, "gpu_worker.py:538", f"Available KV cache memory: {gib} GiB")

    def _loading(self) -> list[tuple[float, str]]:
        several = "Multi-thread loading shards" if self._arguments.threads else "Loading safetensors checkpoint shards"
        bar = _BARS.get(self._arguments.load_format, several)
        begun = f"Starting to load model {self._arguments.model}..."
        lines = [(0.1, self._line(self._worker, "gpu_model_runner.py:5209", begun))]
        for step in range(_SHARD_LINES + 1):
            done = round(_SHARDS * step / _SHARD_LINES)
            share = 0.1 + (_LOADED - 0.1) * step / _SHARD_LINES
            # The progress bar's text ends with a newline, and no process prefixes it with its name.
            lines.append((share, f"{bar}: {100 * done // _SHARDS:3d}% Completed | {done}/{_SHARDS}"))
        took = "Model loading took 41.13 GiB memory and 62.41 seconds"
        if not self._v1:
            took = "Loading model weights took 41.1312 GB"
        return [*lines, (_LOADED + 0.01, self._line(self._worker, "gpu_model_runner.py:5306", took))]

    def _compiling(self) -> list[tuple[float, str]]:
        if not self._v1 or self._arguments.eager:
            return []
        lines = (
            (
                "backends.py:1089",
                "Using cache directory: /root/.cache/vllm/torch_compile_cache for vLLM's torch.compile",
            ),
            ("backends.py:1148", "Dynamo bytecode transform time: 4.31 s"),
            ("backends.py:393", "Compiling a graph for compile range (1, 8192) takes 17.58 s"),
            ("monitor.py:53", "torch.compile took 27.29 s in total"),
            ("monitor.py:81", "Initial profiling/warmup run took 5.75 s"),
        )
        return [
            (_LOADED + 0.01 * (2 + at / 2), self._line(self._worker, place, text))
            for at, (place, text) in enumerate(lines)
        ]

    def _cache(self) -> list[str]:
        longest, tokens = self._arguments.max_model_len, self._arguments.kv_tokens
        times = f"{tokens / longest:.2f}x"
        if not self._v1:
            blocks = f"# cuda blocks: {tokens // 16}, # CPU blocks: 7281"
            most = f"Maximum concurrency for {longest} tokens per request: {times}"
            return [self._line("", "executor_base.py:111", blocks), self._line("", "executor_base.py:116", most)]
        most = f"Maximum concurrency for {longest:,} tokens per request: {times}"
        return [
            self._available("20.46"),
            self._line(self._core, "kv_cache_utils.py:2146", f"GPU KV cache size: {tokens:,} tokens"),
            self._line(self._core, "kv_cache_utils.py:2147", most),
        ]

    def _capturing(self) -> list[str]:
        took = "init engine (profile, create kv cache, warmup model) took 36.26 seconds"
        lines = [self._line(self._core, "core.py:337", took)]
        if self._arguments.eager:
            return lines
        finished = "Graph capturing finished in 21 secs, took 0.38 GiB"
        return [self._line(self._worker, "gpu_model_runner.py:6707", finished), *lines]

    def _serving(self) -> list[str]:
        at = f"http://0.0.0.0:{self._arguments.port}"
        routes = [f"Route: {path}, Methods: {methods}" for path, methods in _ROUTES.items()]
        said = [f"Starting vLLM API server on {at}", "Available routes are:", *routes]
        begun = ("Started server process [1]", "Waiting for application startup.", "Application startup complete.")
        return [
            *(self._line(self._api, "launcher.py:46", line) for line in said),
            *(f"{self._api}INFO:     {line}" for line in begun),
        ]


def _traceback(functions: Sequence[str], exception: str) -> str:
    inner = functions[-1]
    frames = [
        f'  File "/vllm/vllm.py", line 9, in {name}\n    {name}()' for name in (*functions[:-1], *_BETWEEN, inner)
    ]
    return "\n".join(["Traceback (most recent call last):", *frames, exception])


def _plain(process: str, text: str) -> list[str]:
    return [f"{process}{line}" for line in text.split("\n")]

"""The argument list of `vllm serve`, as the simulated engine reads it and as a release's parser refuses it.

Takes facts about flags from planning.flags. Does not check types, nor what vLLM finds out only when it has the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from planning import flags

# vLLM uses the model's own limit, which is unknown here.
_DEFAULT_MAX_MODEL_LEN = 131072
_USAGE = "usage: vllm serve [model_tag] [options]"
_LOADER = "--model-loader-extra-config"
_REASONING = "--reasoning-parser"


@dataclass(frozen=True)
class Arguments:
    """What the simulator uses of the argument list of `vllm serve`."""

    model: str
    served_names: tuple[str, ...]
    port: int = 8000
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    max_model_len: int = _DEFAULT_MAX_MODEL_LEN
    api_keys: tuple[str, ...] = ()
    executor: str = "mp"
    load_format: str = "auto"
    threads: bool = False
    """Whether several threads load the weights."""
    eager: bool = False
    middlewares: tuple[str, ...] = ()
    shutdown_timeout: int = 0
    data_parallel: int = 1
    """Engines of the whole group."""
    local_engines: int = 1
    """Engines of this pod, the first of which is `first_engine`."""
    first_engine: int = 0
    helps: bool = False
    """Whether the pod has only workers of an engine whose own process is in another pod."""
    expert_parallel: bool = False

    @property
    def world_size(self) -> int:
        """Number of GPUs of one engine."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def kv_tokens(self) -> int:
        """Tokens for which one engine has a KV cache: somewhat more than two of the longest requests."""
        return self.max_model_len * 2 + self.max_model_len // 16

    @classmethod
    def parse(cls, words: Sequence[str]) -> Arguments:
        """Reads an argument list; skips flags that the simulator does not use, with their values."""
        found = _flags(words)

        def number(default: int, name: str) -> int:
            read = flags.number(found[name][-1]) if found.get(name) else None
            return default if read is None else read

        engines, nodes = number(1, "--data-parallel-size"), number(1, "--nnodes")
        node = number(0, "--node-rank")
        model = next(iter(found.get("", found.get("--model", ()))), "")
        return cls(
            model=model,
            served_names=tuple(found.get("--served-model-name", ())) or (model,),
            port=number(8000, "--port"),
            tensor_parallel=number(1, "--tensor-parallel-size"),
            pipeline_parallel=number(1, "--pipeline-parallel-size"),
            data_parallel=engines,
            # With --nnodes, vLLM finds the engine by the node's number (arg_utils.py of 0.11.1 to 0.33.0).
            local_engines=number(max(engines // nodes, 1), "--data-parallel-size-local"),
            first_engine=number(node * engines // nodes, "--data-parallel-start-rank"),
            helps=nodes > engines and node % (nodes // engines) > 0,
            expert_parallel="--enable-expert-parallel" in found,
            max_model_len=number(_DEFAULT_MAX_MODEL_LEN, "--max-model-len"),
            api_keys=tuple(found.get("--api-key", ())),
            executor=next(iter(found.get("--distributed-executor-backend", ())), "mp"),
            load_format=next(iter(found.get("--load-format", ())), "auto"),
            threads=bool(re.search(r'"enable_multithread_load": ?true', " ".join(found.get(_LOADER, ())))),
            eager="--enforce-eager" in found,
            middlewares=tuple(each for given in _each(words, "--middleware") for each in given),
            shutdown_timeout=number(0, "--shutdown-timeout"),
        )


def _each(words: Sequence[str], name: str) -> list[list[str]]:
    """The values of each occurrence of a flag, for a flag of which vLLM keeps all occurrences."""
    return [given.values for given in flags.parse(words) if given.spelling == name]


def _flags(words: Sequence[str]) -> dict[str, list[str]]:
    """Maps each flag's long name to its values; the empty name maps to the words before the first flag."""
    found = {"": list(words[: flags.first(words)])} if flags.first(words) else {}
    for given in flags.parse(words):
        negated = given.spelling.startswith("--no-")
        found[given.spelling if negated else flags.canonical(given.spelling)] = given.values
    return found


def refusal(words: Sequence[str], release: str, *, serves: bool = True) -> list[str]:
    """The last log lines of an engine of that release that rejects the argument list; empty if it accepts the list.

    Bad values are reported before unknown flags, as argparse does. Only the API server looks up the name of a reasoning
    parser, which may come from a plugin; `serves` says whether this engine has an API server.
    """
    given = flags.parse(words)
    for each in given:
        known = flags.choices(each.spelling, release)
        if known and flags.enforced(each.spelling, release) and each.values and each.values[0] not in known:
            choose = ", ".join(map(repr, known))
            said = f"invalid choice: {each.values[0]!r} (choose from {choose})"
            return [_USAGE, f"vllm serve: error: argument {each.spelling}: {said}"]
    unknown = [" ".join([each.word, *each.values]) for each in given if flags.problem(each.word, release)]
    if unknown:
        return [_USAGE, f"vllm: error: unrecognized arguments: {' '.join(unknown)}"]
    found = _flags(words)
    for parser in found.get(_REASONING, ()) if serves and f"{_REASONING}-plugin" not in found else ():
        known = flags.choices(_REASONING, release)
        if known and parser not in known:
            return [f"KeyError: 'invalid reasoning parser: {parser} (chose from {{ {','.join(known)} }})'"]
    return []

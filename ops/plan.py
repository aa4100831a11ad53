"""`plan STACK` or `plan --model M --gpu G …`: fit, start, speed and cost of what is asked for. Needs no cloud."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from config.plans import checked
from config.stack_file import RequestError
from ops.arguments import add_stack, count, not_negative, positive, stack_file
from planning.cost import Prices
from planning.planner import Ask, Plan, plan, ranks
from planning.problems import PlanError, Problem
from planning.startup import Supply
from planning.throughput import Load, Range


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_stack(parser, "; every service of it")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write one self-contained page with pictures")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    # No defaults here, so that `run` knows which options were given.
    request = parser.add_argument_group("request, where no stack is named")
    request.add_argument(
        "--model",
        metavar="M",
        help="public repository name without its owner, in any case, or the path of a config.json",
    )
    request.add_argument(
        "--gpu", metavar="G", help="H20-96, H100-80, L40S-48 …, or NAME:GIB as the driver reports it (L40S:44.42)"
    )
    layout = parser.add_argument_group("layout (the cheapest that fits where tensor or pipeline is left out)")
    layout.add_argument("--gpus-per-node", type=count, metavar="N", help="8, or fewer where the ranks are fewer")
    layout.add_argument("--nodes", type=count, metavar="N")
    layout.add_argument("--tensor", type=count, metavar="N", help="tensor parallel size")
    layout.add_argument("--pipeline", type=count, metavar="N", help="pipeline parallel size; 1 if only tensor is given")
    layout.add_argument("--data", type=count, metavar="N", help="data parallel size")
    layout.add_argument("--expert-parallel", action="store_true", default=None)
    layout.add_argument("--decode-context", type=count, metavar="N", help="decode context parallel size")
    engine = parser.add_argument_group("engine (vLLM's own defaults where left out)")
    engine.add_argument("--utilization", type=positive, metavar="X", help="part of a GPU's memory, between 0 and 1")
    engine.add_argument("--max-model-len", metavar="N|auto", help="context in tokens")
    engine.add_argument("--engine-version", metavar="V", help="vLLM release, the newest known if left out")
    engine.add_argument("--kv-dtype", metavar="auto|fp8")
    engine.add_argument("--enforce-eager", action="store_true", default=None, help="no CUDA graphs")
    engine.add_argument("--speculative", action="store_true", default=None, help="load the model's own draft layer")
    engine.add_argument("--max-num-batched-tokens", type=count, metavar="N")
    engine.add_argument("--max-num-seqs", type=count, metavar="N")
    load = parser.add_argument_group("load (tokens a second are planned for 1024 in and 1024 out where left out)")
    load.add_argument("--input", type=count, metavar="N", help="tokens of a request")
    load.add_argument("--output", type=count, metavar="N", help="tokens of an answer")
    load.add_argument("--rate", type=positive, metavar="X", help="requests a second")
    load.add_argument("--concurrency", type=positive, metavar="X", help="requests at once, in place of a rate")
    load.add_argument("--ttft-seconds", type=positive, metavar="X", help="the first token's mean time at most")
    load.add_argument("--tpot-seconds", type=positive, metavar="X", help="the mean time per output token at most")
    start = parser.add_argument_group("start-up and cost")
    start.add_argument(
        "--storage",
        choices=("mount", "cache", "copy"),
        help="nodes read the bucket (if left out), a warmed cache, or download every file first",
    )
    start.add_argument(
        "--link-gbit", type=positive, metavar="X", help="the account's bandwidth out of the bucket, Gbit/s"
    )
    start.add_argument("--price-per-gpu-hour", type=not_negative, metavar="X")
    start.add_argument("--currency", metavar="C")
    start.add_argument("--price-as-of", metavar="DAY", help="the day the price was read, 2026-11-01")


_OF_STACKS = ("command", "stack", "config", "html", "json")


def run(args: argparse.Namespace) -> int:
    """Returns 0 if everything fits, 1 if not, 2 if the request cannot be planned.

    For a stack the JSON is `{"fits": …, "services": {name: plan}}`; without one it is the plan itself.
    """
    of_stack = args.stack is not None or args.config is not None
    if of_stack == (args.model is not None and args.gpu is not None):
        raise RequestError("plan: write a STACK, or --model M with --gpu G")
    options = [name for name, value in vars(args).items() if value is not None and name not in _OF_STACKS]
    if of_stack and options:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in options)
        raise RequestError(f"plan: {flags} and a stack do not go together: its file says it; leave one out")
    try:
        plans = _of_stack(args) if args.model is None else {args.model: plan(_ask(args))}
    except PlanError as error:
        if args.json:
            print(json.dumps(error.to_json()))
        print("\n".join(error.lines), file=sys.stderr)
        return 2
    fits = all(planned.fits for planned in plans.values())
    shown = {name: planned.to_json() for name, planned in plans.items()}
    if args.html:
        from ops.page import page

        try:
            args.html.write_text(page(args.stack or args.model, shown), encoding="utf-8")
        except OSError as error:
            raise RequestError(f"--html {args.html}: {error.strerror}; name a file that can be written") from None
    if args.json:
        print(json.dumps({"fits": fits, "services": shown} if args.model is None else shown[args.model]))
    elif args.html:
        print(f"{args.html}: {'fits' if fits else 'does not fit'}")
    else:
        print(
            "\n\n".join(
                f"{name}: {table(planned)}" if args.model is None else table(planned) for name, planned in plans.items()
            )
        )
    return 0 if fits else 1


def _of_stack(args: argparse.Namespace) -> dict[str, Plan]:
    _, plans = checked(stack_file(args), with_cluster=False, refuse_misfits=False)
    return {name: planned.plan for name, planned in plans.items()}


def _ask(args: argparse.Namespace) -> Ask:
    length: int | None = None
    if args.max_model_len not in (None, "auto"):
        if not (args.max_model_len.isdecimal() and len(args.max_model_len) < 10):
            why = "is no whole number"
            raise PlanError(Problem("max-model-len", args.max_model_len, why, "write tokens, or auto"))
        length = int(args.max_model_len)
    data = args.data or 1
    pipeline = 1 if args.pipeline is None and args.tensor is not None else args.pipeline
    tensor = 1 if args.tensor is None and args.pipeline is not None else args.tensor
    per_node = args.gpus_per_node
    if per_node is None:
        ranks = (tensor or 8) * (pipeline or 1) * data
        per_node = max(1, ranks // args.nodes) if args.nodes and tensor else min(8, max(1, ranks))
    return Ask(
        model=args.model,
        gpu=args.gpu,
        gpus_per_node=per_node,
        nodes=args.nodes,
        tensor=tensor,
        pipeline=pipeline,
        data=data,
        expert_parallel=bool(args.expert_parallel),
        context=args.decode_context or 1,
        utilization=args.utilization,
        max_model_len=length,
        engine_version=args.engine_version,
        kv_dtype=args.kv_dtype or "auto",
        eager=bool(args.enforce_eager),
        speculative=bool(args.speculative),
        batched_tokens=args.max_num_batched_tokens,
        sequences=args.max_num_seqs,
        supply=Supply(args.storage or "mount", args.link_gbit),
        load=_load(args),
        prices=Prices(args.currency, args.price_per_gpu_hour, as_of=args.price_as_of),
    )


def _load(args: argparse.Namespace) -> Load | None:
    options = {
        name: getattr(args, name)
        for name in ("input", "output", "rate", "concurrency", "ttft_seconds", "tpot_seconds")
        if getattr(args, name) is not None
    }
    if options and not {"input", "output"} <= options.keys():
        why = f"{' and '.join(f'--{name}'.replace('_', '-') for name in options)} without the length of requests"
        raise PlanError(Problem("load", "", why, "write --input and --output"))
    return Load(**options) if options else None


def table(planned: Plan) -> str:
    """The plan for a terminal, at most 120 columns wide unless a source is longer."""
    request, fit = planned.request, planned.fit
    verdict = "fits" if planned.fits else "does not fit" if not fit.kv_fits else "does not start"
    verdict = "is not known to fit" if request.model.unknown else verdict
    what = f"{request.model.name} on {request.layout} of {request.gpu.name}, vLLM {request.engine.version}"
    lines = [f"{what}: {verdict}", "", _row("stage", "layers", "weights", "overhead", "KV", "budget", "GiB per GPU")]
    lines += [
        _row(
            number,
            stage.layers,
            f"{stage.weights_gib:.2f}",
            "unknown" if request.model.unknown else f"{stage.overhead:.2f}",
            "unknown" if request.model.unknown else f"{stage.kv:.2f}",
            f"{stage.budget:.2f}",
            "",
        )
        for number, stage in enumerate(fit.stages)
    ]
    lines += [
        f"{'':>10}{each['gpus']} GPUs of stage {number} hold {each['experts']} experts of a layer, "
        f"{each['weights_gib']:.2f} GiB of weights"
        for number, stage in enumerate(fit.stages)
        for each in ranks(request, stage)
        if each["experts"]
    ]
    lines += [
        "",
        f"KV cache unknown, context {fit.max_model_len}"
        if request.model.unknown
        else f"KV cache {fit.kv_tokens} tokens, context {fit.max_model_len}, {fit.max_concurrency:.2f} requests "
        "of that length at once",
        *(f"  {reason}" for reason in planned.reasons),
    ]
    if planned.alternatives:
        lines += [
            "",
            "nearest that fit",
            *(f"  {choice.layout}: {choice.fit.kv_tokens} KV tokens" for choice in planned.alternatives),
        ]
    path = planned.startup
    lines += ["", f"first token after {_time(path.first_token_seconds)}, at best {_time(path.floor_seconds)}"]
    lines += [
        f"  {_time(step.start):>8} {step.name:18}{_time(step.seconds):>8}  {_size(step.bytes):>9}  {step.source}"
        for step in path.steps
    ]
    lines += ["", *_speed(planned), "", _money(planned)]
    return "\n".join(lines)


def _speed(planned: Plan) -> Iterator[str]:
    """Times as «expected (at best to at most)»."""
    speed = planned.throughput
    if speed.points:
        yield _columns("", "at once", "first token s", "ms a token", "tokens/s", "a GPU", "cost of a million in, out")
    for point in speed.points:
        costs = (point.input_cost, point.output_cost)
        yield _columns(
            point.name,
            f"{point.at_once:.0f}",
            _span(point.first, 1),
            _span(point.each, 1e3),
            f"{point.output_tokens:.0f}",
            f"{point.output_tokens / point.gpus:.1f}",
            " and ".join("unknown" if cost is None else f"{cost:.2f}" for cost in costs),
        )
    if speed.load:
        needed = speed.replicas_needed
        yield f"replicas needed for the load: {'no number is enough' if needed is None else needed}"
    yield from map(str, speed.problems)
    yield from (f"  {reason}" for reason in speed.reasons)


def _columns(*cells: str) -> str:
    widths = (5, 8, 24, 22, 9, 7)
    return "".join(f" {cell:>{width}}" for cell, width in zip(cells, widths, strict=False)) + f"  {cells[-1]}"


def _span(times: Range, unit: float) -> str:
    floor, expected, most = (f"{seconds * unit:.3g}" for seconds in (times.floor, times.expected, times.most))
    return f"{expected} ({floor} to {most})"


def _row(*cells: Any) -> str:
    return "".join(f"{cell:>10}" for cell in cells[:-1]) + f"  {cells[-1]}".rstrip()


def _time(seconds: float) -> str:
    return f"{round(seconds) // 60}m{round(seconds) % 60:02d}s"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size else ""


def _money(planned: Plan) -> str:
    cost = planned.cost
    if cost.per_hour is None:
        return "cost unknown: no price given"
    start = "" if cost.cold_start is None else f", one cold start {cost.cold_start:.2f}"
    return f"cost {cost.per_hour:.2f} {cost.currency} an hour{start}, prices of {cost.as_of}"

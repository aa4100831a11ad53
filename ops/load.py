"""A bounded closed loop of requests for `verify --load`: as many at once as asked for, until all have been sent.

The JSON has the field names of GuideLLM's report (vllm-project/guidellm 0.8.1, benchmark/schemas/metrics.py), so that
its tools and a comparison with its runs work. GuideLLM itself is not used: it needs torch, and a tokenizer from the
hub, for what is asked of an endpoint here.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from planning.problems import Problem
from planning.throughput import Point, Range

MOST_REQUESTS, MOST_AT_ONCE = 10_000, 1_000
"""Policy: enough for a look at a service. A benchmark of days has its own tools."""
_WORDS = "the of and to in is you that it he was for on are as with his they at be this have from or one had by".split()
_CELLS = 32


@dataclass(frozen=True, kw_only=True)
class Load:
    """`requests` of about `input` tokens, `concurrency` of them at once, each answered by `output` tokens at most."""

    requests: int
    concurrency: int
    input: int
    output: int
    seed: int

    def problems(self) -> list[Problem]:
        """What is beyond the bounds of a closed loop that ends."""
        wrong = []
        if self.requests > MOST_REQUESTS:
            why = "is more than a look at a service takes"
            wrong.append(Problem("--load", str(self.requests), why, f"write at most {MOST_REQUESTS}"))
        if self.concurrency > min(self.requests, MOST_AT_ONCE):
            why = f"of {self.requests} requests, at most {MOST_AT_ONCE} are sent at once"
            instead = f"write at most {min(self.requests, MOST_AT_ONCE)}"
            wrong.append(Problem("--concurrency", str(self.concurrency), why, instead))
        return wrong

    def prompts(self) -> Iterator[str]:
        """The requests' texts, the same for the same seed. Each begins otherwise, so that no prefix cache answers."""
        chosen = random.Random(self.seed)
        for _ in range(self.requests):
            # A word of these is a token in every usual vocabulary; what it was, the engine's usage tells.
            yield " ".join(chosen.choices(_WORDS, k=self.input))


@dataclass(frozen=True)
class Sample:
    """One answer, in seconds from its request."""

    first: float
    last: float
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True)
class Measured:
    """What a load found. `errors` counts requests by the reason why there was no answer."""

    load: Load
    seconds: float
    samples: tuple[Sample, ...]
    errors: Counter[str]

    def to_json(self) -> dict[str, Any]:
        """Under GuideLLM's names; each distribution is that of successful requests."""
        done, samples = len(self.samples), self.samples
        spans: dict[str, list[float]] = {
            "request_latency": [each.last for each in samples],
            "time_to_first_token_ms": [each.first * 1e3 for each in samples],
            "time_per_output_token_ms": [each.last * 1e3 / each.tokens for each in samples],
            "inter_token_latency_ms": [
                (each.last - each.first) * 1e3 / (each.tokens - 1) for each in samples if each.tokens > 1
            ],
            "prompt_token_count": [float(each.prompt_tokens) for each in samples],
            "output_token_count": [float(each.tokens) for each in samples],
        }
        rates = {
            "requests_per_second": done / self.seconds,
            "output_tokens_per_second": sum(each.tokens for each in samples) / self.seconds,
            "tokens_per_second": sum(each.tokens + each.prompt_tokens for each in samples) / self.seconds,
            "request_concurrency": sum(each.last for each in samples) / self.seconds,
        }
        errored = sum(self.errors.values())
        totals = {"successful": done, "incomplete": 0, "errored": errored, "total": done + errored}
        return {
            "metrics": {
                "request_totals": totals,
                **{name: {"successful": _distribution(values)} for name, values in spans.items()},
                **{name: {"successful": {"mean": rate}} for name, rate in rates.items()},
            },
            "duration": self.seconds,
            "errors": dict(self.errors),
        }


def measure(load: Load, ask: Callable[[str], Sample], no_answer: type[Exception]) -> Measured:
    """Sends the load by `ask`, which raises `no_answer`. If none of the first is answered, no further one is sent."""
    samples: list[Sample] = []
    errors: Counter[str] = Counter()

    def one(prompt: str) -> None:
        if not samples and sum(errors.values()) >= load.concurrency:
            errors["not sent, because none of the first was answered"] += 1
            return
        try:
            samples.append(ask(prompt))
        except no_answer as error:
            errors[str(error)] += 1

    begun = time.monotonic()
    with ThreadPoolExecutor(load.concurrency) as threads:
        list(threads.map(one, load.prompts()))
    return Measured(load, time.monotonic() - begun, tuple(samples), errors)


def told(name: str, measured: Measured, plan: Point | None) -> Iterator[str]:
    """A small picture for a terminal: each span's median, and bars to its 95th and 99th percentile, beside the plan."""
    load, found = measured.load, measured.to_json()["metrics"]
    totals = found["request_totals"]
    yield (
        f"{name}: {totals['successful']} of {totals['total']} requests answered in {measured.seconds:.1f} s, "
        f"{load.concurrency} at once, {_mean(found['prompt_token_count'])} in, {_mean(found['output_token_count'])} out"
    )
    yield from (f"{name}: {count} failed: {why}" for why, count in measured.errors.most_common())
    if not measured.samples:
        return
    yield f"{'':24}{'p50':>9}{'p95':>9}{'p99':>9}  {'plan':22}"
    spans = {
        "first token, ms": ("time_to_first_token_ms", 1.0, plan.first if plan else None),
        "a token, ms": ("inter_token_latency_ms", 1.0, plan.each if plan else None),
        "whole answer, ms": ("request_latency", 1e3, None),
    }
    for words, (key, unit, planned) in spans.items():
        shown = found[key]["successful"]
        if shown is None:
            continue
        values = [shown["percentiles"][each] * unit for each in ("p50", "p95", "p99")]
        wanted = _range(planned) if planned else ""
        numbers = "".join(f"{value:9.4g}" for value in values)
        yield f"  {words:22}{numbers}  {wanted:22}  {_bar(values)}".rstrip()
    rate = found["output_tokens_per_second"]["successful"]["mean"]
    wanted = f"{plan.output_tokens:.0f}" if plan else ""
    yield f"  {'output tokens/s':22}{rate:9.4g}{'':18}  {wanted:22}".rstrip()


def _range(seconds: Range) -> str:
    return f"{seconds.expected * 1e3:.3g} ({seconds.floor * 1e3:.3g} to {seconds.most * 1e3:.3g})"


def _mean(values: dict[str, Any]) -> str:
    shown = values["successful"]
    return f"{shown['mean']:.0f} tokens" if shown else "no tokens"


def _bar(values: Sequence[float]) -> str:
    """Full cells up to the median, lighter ones to the 95th and the 99th percentile, which fills the bar."""
    most = max(values[-1], 1e-9)
    p50, p95, p99 = (round(value / most * _CELLS) for value in values)
    return "█" * p50 + "▓" * (p95 - p50) + "░" * (p99 - p95)


def _distribution(values: Sequence[float]) -> dict[str, Any] | None:
    if not values:
        return None
    ordered = sorted(values)

    def percentile(share: int) -> float:
        return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]

    return {
        "mean": statistics.fmean(ordered),
        "median": statistics.median(ordered),
        "std_dev": statistics.pstdev(ordered),
        "min": ordered[0],
        "max": ordered[-1],
        "count": len(ordered),
        "total_sum": sum(ordered),
        "percentiles": {f"p{share:02d}": percentile(share) for share in (1, 5, 10, 25, 50, 75, 90, 95, 99)},
    }

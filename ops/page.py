"""The plans of a stack as one HTML page: no network, no script, readable on a phone and in dark mode.

Owns how a plan looks. Has no numbers of its own: everything shown is read from `planning.planner.Plan.to_json()`, or is
a sum or a quotient of numbers there. The style is in `page.css`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ops import svg

Json = Mapping[str, Any]

# Shape and word repeat the verdict: not everyone sees the colours.
ICONS = {
    "good": '<circle cx="12" cy="12" r="10"/><path d="M7.5 12.5l3 3 6-6.5"/>',
    "bad": '<rect x="2" y="2" width="20" height="20" rx="3"/><path d="M8 8l8 8M16 8l-8 8"/>',
    "warn": '<path d="M12 2.5L22.5 21h-21zM12 9.5v5M12 17.6v.1"/>',
}
PARTS = (
    ("weights", "weights", "weights_gib"),
    ("non-torch", "non-torch memory", "non_torch_gib"),
    ("activation", "activations", "activation_gib"),
    ("graphs", "CUDA graphs", "graphs_gib"),
    ("kv", "KV cache", "kv_gib"),
)
# All charts refer to these patterns by id.
DEFS = (
    '<svg id="defs" aria-hidden="true"><defs>'
    '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse"><path d="M-1 7L7-1"/></pattern>'
    "</defs></svg>"
)
LEFT, RIGHT, TOP, BOTTOM = 13.0, 86.0, 16, 196  # edges of the KV chart: per cent of the width, pixels of the height


def page(title: str, plans: Mapping[str, Json]) -> str:
    """The document for `plans`, service name to `Plan.to_json()` (or `{"fits": False, "refusals": […]}`)."""
    summary = _summary(plans)
    body = "".join(_service(f"s{number}", name, plan) for number, (name, plan) in enumerate(plans.items()))
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        # Makes the browser enforce «no network».
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{svg.text(summary)} · {svg.text(title)}</title><style>{css}</style></head><body>{DEFS}"
        f"<header><h1>{svg.text(title)}</h1>{_contents(plans)}</header>"
        f"<main>{body}</main></body></html>\n"
    )


def _verdict(plan: Json) -> tuple[str, str]:
    if "refusals" in plan:
        return "bad", "cannot be planned"
    if plan["fits"]:
        return "good", "fits"
    if plan.get("unknown"):
        return "warn", "is not known to fit"
    return ("warn", "does not start") if plan["kv_fits"] else ("bad", "does not fit")


def _summary(plans: Mapping[str, Json]) -> str:
    words = [_verdict(plan)[1] for plan in plans.values()]
    if len(words) == 1:
        return words[0].capitalize()
    wrong = sum(word != "fits" for word in words)
    return f"{wrong} of {len(words)} services cannot run as planned" if wrong else f"All {len(words)} services fit"


def _badge(plan: Json) -> str:
    kind, words = _verdict(plan)
    return (
        f'<span class="verdict"><svg viewBox="0 0 24 24" aria-hidden="true">{ICONS[kind]}</svg>'
        f"{words.capitalize()}</span>"
    )


def _contents(plans: Mapping[str, Json]) -> str:
    if len(plans) < 2:
        return ""
    items = "".join(
        f'<li class="{_verdict(plan)[0]}">{_badge(plan)} <a href="#s{number}">{svg.text(name)}</a></li>'
        for number, (name, plan) in enumerate(plans.items())
    )
    return f'<p class="muted">{svg.text(_summary(plans))}.</p><nav aria-label="Services"><ul>{items}</ul></nav>'


def _service(ref: str, name: str, plan: Json) -> str:
    head = (
        f'<section class="service {_verdict(plan)[0]}" id="{ref}" aria-labelledby="{ref}-name">'
        f'<h2 id="{ref}-name">{_badge(plan)} {svg.text(name)}</h2>'
    )
    if "refusals" in plan:
        return f"{head}{_list(plan['refusals'])}</section>"
    layout = plan["layout"]
    nodes = f"{layout['nodes']} node{'s'[: layout['nodes'] != 1]} of {layout['gpus_per_node']} × {plan['gpu']}"
    what = (
        f"{plan['model']} on {nodes}, tensor {layout['tensor']} × pipeline {layout['pipeline']}"
        f"{_if(layout['data'] > 1, ' × data ' + str(layout['data']))}"
        f"{_if(layout['expert_parallel'], ', expert parallel')}"
        f", vLLM {plan['engine_version']} with {plan['utilization']:g} of each GPU"
    )
    return (
        f'{head}<p class="what">{svg.text(what)}</p><p class="lead">{svg.text(_lead(plan))}</p>{_figures(plan)}'
        f"{_alternatives(plan)}{'' if plan['unknown'] else _memory(ref, plan)}{_startup(ref, plan['startup'])}"
        f"{_speed(ref, plan)}{_tokens(ref, plan)}"
        f"{_cost(plan['cost'])}<h3>Reasons and sources</h3>{_list(plan['reasons'])}</section>"
    )


def _if(condition: bool, words: str) -> str:
    return words if condition else ""


def _list(lines: Sequence[str]) -> str:
    return f'<ul class="reasons">{"".join(f"<li>{svg.text(line)}</li>" for line in lines)}</ul>'


def _gib(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _duration(seconds: float) -> str:
    minutes, remainder = divmod(int(seconds + 0.5), 60)  # the plan tells tenths
    return f"{minutes} min {remainder} s" if minutes else f"{remainder} s"


def _requests(count: float) -> str:
    """Whole requests from ten on; below that two decimals, as in vLLM's log."""
    return f"{count:.2f}" if count < 10 else f"{math.floor(count):,}"


def _money(value: float | None, currency: str | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.2f} {currency}" if value >= 0.1 or value == 0 else f"{value:.3g} {currency}"


def _lead(plan: Json) -> str:
    """The reason for the verdict, in one or two sentences."""
    stages, length, tokens = plan["stages"], plan["max_model_len"], plan["kv_tokens"]
    if plan["fits"]:
        return (
            f"The KV cache holds {tokens:,} tokens: {plan['max_concurrency']:.2f} requests of {length:,} tokens "
            "at once."
        )
    if plan["unknown"]:
        return f"Whether it fits is unknown: {plan['unknown']}."
    lines, missing = [], -min(stage["kv_gib"] for stage in stages)
    if not plan["kv_fits"]:
        lines.append(
            f"Weights and overhead exceed the budget by {_gib(missing)} GiB per GPU."
            if missing >= 0
            else f"One request of {length:,} tokens does not fit into a KV cache of {tokens:,} tokens."
        )
    if not plan["starts"]:
        peak, usable = max(stage["peak_gib"] for stage in stages), plan["usable_gib"]
        lines.append(
            f"Starting takes up to {_gib(peak)} GiB per GPU; {_gib(usable)} GiB are usable"
            f"{_if(peak <= usable, ', too few to spare for capturing graphs')}."
        )
    return " ".join(lines)


def _figures(plan: Json) -> str:
    start, cost, engines = plan["startup"], plan["cost"], plan["layout"]["data"]
    rows = [
        (
            "KV tokens",
            "unknown" if plan["unknown"] else f"{plan['kv_tokens']:,}",
            _if(
                engines > 1 and not plan["unknown"],
                f"in each of {engines} engines, {plan['kv_tokens_all'] or 0:,} in all",
            ),
        ),
        ("Context", f"{plan['max_model_len']:,} tokens", ""),
        ("Requests of that length at once", _at_once(plan), _if(engines > 1, "in each engine")),
        (
            f"First token{_if(not plan['fits'], ', if it ran,')} after",
            _duration(start["first_token_seconds"]),
            f"{_duration(start['floor_seconds'])} at best",
        ),
        *_speed_figures(plan["throughput"]["points"]),
        ("Cost per hour", _money(cost["per_hour"], cost["currency"]), ""),
    ]
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{svg.text(value)}{_if(bool(note), f'<small>{note}</small>')}</dd></div>"
        for name, value, note in rows
    )
    return f'<dl class="figures">{cells}</dl>'


def _at_once(plan: Json) -> str:
    return "unknown" if plan["unknown"] else f"{plan['max_concurrency']:.2f}"


def _speed_figures(points: Sequence[Json]) -> Iterator[tuple[str, str, str]]:
    for point in points:
        if point["name"] == "full":
            tokens, each = point["output_tokens_per_second"], point["tpot_seconds"]["expected"]
            yield (
                "Output tokens a second",
                f"{tokens:,.0f}",
                f"a replica with {point['concurrency']:,.0f} requests at once, {_time(each)} a token",
            )


def _alternatives(plan: Json) -> str:
    if plan["fits"]:
        return ""
    if not plan["alternatives"]:
        return "<h3>What fits instead</h3><p>No layout near this one fits.</p>"
    rows = (
        _row(
            str(other["nodes"]),
            [
                *(str(other[key]) for key in ("data", "tensor", "pipeline")),
                f"{other['kv_tokens']:,}",
                f"{other['max_model_len']:,}",
            ],
        )
        for other in plan["alternatives"]
    )
    return "<h3>What fits instead</h3>" + _table(
        f"The nearest layouts on {plan['gpu']}", ["Nodes", "Data", "Tensor", "Pipeline", "KV tokens", "Context"], rows
    )


def _table(caption: str, heads: Sequence[str], rows: Iterable[str], kind: str = "") -> str:
    columns = "".join(f'<th scope="col">{svg.text(head)}</th>' for head in heads)
    # A table of many stages is wider than a phone: it scrolls separately from the page, also by keyboard.
    scrolls = _if(kind == "memory" and len(heads) > 3, f' tabindex="0" role="region" aria-label="{svg.text(caption)}"')
    return (
        f'<div class="scroll"{scrolls}><table class="{kind}"><caption>{svg.text(caption)}</caption>'
        f"<thead><tr>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(head: str, cells: Iterable[str], kind: str = "", mark: str = "") -> str:
    columns = "".join(f"<td>{svg.text(cell)}</td>" for cell in cells)
    return f'<tr class="{kind}"><th scope="row">{mark}{svg.text(head)}</th>{columns}</tr>'


def _planned(stage: Json) -> float:
    """GiB of the budget, or of weights and overhead if they exceed it."""
    return max(stage["budget_gib"], stage["weights_gib"] + stage["overhead_gib"])


def _beside(stage: Json) -> float:
    """GiB outside of the budget, without CUDA graphs."""
    graphs = 0 if stage["graphs_in_budget"] else stage["graphs_gib"]
    return max(0.0, stage["peak_gib"] - _planned(stage) - graphs)


def _memory(ref: str, plan: Json) -> str:
    stages, usable, layout = plan["stages"], plan["usable_gib"], plan["layout"]
    scale = max(usable, *(max(_planned(stage), stage["peak_gib"]) for stage in stages))
    gpus = layout["tensor"] * layout["data"]
    bars = "".join(_bar(f"{ref}-m{number}", number, stage, usable, scale, gpus) for number, stage in enumerate(stages))
    return (
        '<h3>Memory of each GPU</h3><p class="muted">In GiB. The budget is '
        f"{plan['utilization']:g} of the usable memory; what starting takes beside it must find room as well."
        f"</p>{bars}{_memory_table(stages, usable)}"
    )


def _bar(ref: str, number: int, stage: Json, usable: float, scale: float, gpus: int) -> str:
    parts = [(kind, words, stage[key]) for kind, words, key in PARTS if kind != "graphs" or stage["graphs_in_budget"]]
    drawn, x = [], 0.0
    for kind, words, value in parts:
        width = max(0.0, value) / scale * 100
        drawn.append(svg.rect(kind, x, 20, width, 30))
        if width > 12:
            text = f"{words} {_gib(value)}" if width > 40 else _gib(value)
            drawn.append(svg.label(x, 40, text, "on", dx=8))
        x += width
    budget, planned, outside = (
        value / scale * 100 for value in (stage["budget_gib"], _planned(stage), stage["graphs_gib"])
    )
    if planned > budget:
        drawn.append(svg.rect("over", budget, 51, planned - budget, 5))
    if not stage["graphs_in_budget"]:
        drawn.append(svg.rect("graphs", planned, 20, outside, 30))
        planned += outside
    edge = usable / scale * 100
    drawn += [
        svg.rect("beside", planned, 20, _beside(stage) / scale * 100, 30),
        svg.rect("card", 0, 20, edge, 30),
        svg.mark("", budget, 16, 54),
        svg.mark("", edge, 16, 54),
        svg.label(budget, 11, f"budget {_gib(stage['budget_gib'])}", anchor="end", dx=1),
        svg.label(edge, 68, f"usable {_gib(usable)}", anchor="end", dx=1),
        svg.label(0, 68, "0", "quiet"),
    ]
    excess, spare = -stage["kv_gib"], usable - stage["peak_gib"]
    note = (
        f'<span class="excess">{_gib(excess)} GiB over the budget</span>'
        if excess > 0
        else f'<span class="excess">{_gib(-spare)} GiB more than the card has</span>'
        if spare < 0
        else f"<span>{_gib(spare)} GiB to spare</span>"
    )
    desc = ", ".join(f"{words} {_gib(value)} GiB" for _, words, value in parts)
    desc += f"; budget {_gib(stage['budget_gib'])} GiB, at most {_gib(stage['peak_gib'])} of {_gib(usable)} GiB taken"
    return (
        f'<figure class="stage"><figcaption><span><b>Stage {number}</b> · {stage["layers"]} layers · '
        f"{gpus} GPU{'s'[: gpus != 1]}, each:</span>{note}</figcaption>"
        f"{svg.svg(ref, f'Memory of each GPU of stage {number}', desc, 74, ''.join(drawn))}</figure>"
    )


def _memory_table(stages: Sequence[Json], usable: float) -> str:
    def cells(key: str) -> list[str]:
        return [_gib(stage[key]) for stage in stages]

    def swatch(kind: str) -> str:
        return f'<svg class="swatch" aria-hidden="true"><rect class="{kind}" width="100%" height="100%"/></svg>'

    inside = stages[0]["graphs_in_budget"]
    rows = [_row("layers", [str(stage["layers"]) for stage in stages])]
    for kind, words, key in PARTS:
        if kind == "kv":
            rows.append(_row("= overhead", cells("overhead_gib")))
        if kind != "graphs" or inside:
            rows.append(_row(words, cells(key), mark=swatch(kind)))
    rows.append(_row("= budget", cells("budget_gib"), "sum"))
    if not inside:
        rows.append(_row("CUDA graphs, beside it", cells("graphs_gib"), mark=swatch("graphs")))
    rows += [
        _row("CUDA context and others beside it", [_gib(_beside(stage)) for stage in stages], mark=swatch("beside")),
        _row("most taken while starting", cells("peak_gib"), "sum"),
        _row("usable", [_gib(usable)] * len(stages)),
    ]
    heads = ["Part", *(f"Stage {number}" for number in range(len(stages)))]
    return _table("GiB on each GPU", heads, rows, "memory")


def _startup(ref: str, start: Json) -> str:
    steps, first, floor = start["steps"], start["first_token_seconds"], start["floor_seconds"]
    scale = max([first, 1.0, *(step["start_seconds"] + step["seconds"] for step in steps)])
    ticks = _minutes(scale)
    guides = "".join(svg.line("grid", tick / scale * 100, 0, tick / scale * 100, 40) for tick in ticks)
    marks = svg.mark("floor", floor / scale * 100, 0, 40) + svg.line(
        "mark", first / scale * 100, 0, first / scale * 100, 40
    )
    rows = "".join(_gantt_row(f"{ref}-g{number}", step, scale, guides, marks) for number, step in enumerate(steps))
    at, side = floor / scale * 100, "end" if floor > scale / 2 else "start"
    head = svg.svg(
        f"{ref}-gh",
        "When the first token comes",
        f"After {_duration(first)}; not before {_duration(floor)} at the speed of the links.",
        36,
        svg.label(first / scale * 100, 12, f"first token {_duration(first)}", anchor="end")
        + svg.label(at, 29, f"physical floor {_duration(floor)}", anchor=side),
    )
    # Leave out a last tick close to the end: it would run into the page's edge.
    axis = "".join(
        svg.label(
            tick / scale * 100, 14, f"{tick // 60:g} min" if tick else "0", "quiet", "middle" if tick else "start"
        )
        for tick in ticks
        if tick < scale * 0.95
    )
    return (
        f'<h3>Start-up</h3><p class="muted">From nothing running to the first token, for one replica.</p>'
        f'<figure class="gantt"><div class="axis">{head}</div><ol>{rows}</ol>'
        f'<div class="axis"><svg height="20" aria-hidden="true">{axis}</svg></div>'
        '<ul class="key"><li><svg aria-hidden="true"><rect class="time floor" width="100%" height="100%"/></svg>'
        'cannot be quicker</li><li><svg aria-hidden="true"><rect class="time" width="100%" height="100%"/></svg>'
        f"expected on top</li></ul></figure>{_steps_table(steps)}"
    )


def _minutes(scale: float) -> list[int]:
    """Ticks in seconds, at whole minutes, at most six after zero."""
    step = next(
        size
        for size in (1, 2, 5, 10, 15, 30, 60, 120, 240, *(10**power for power in range(3, 300)))
        if scale / 60 / size <= 6
    )
    return [tick * step * 60 for tick in range(int(scale // (step * 60)) + 1)]


def _gantt_row(ref: str, step: Json, scale: float, behind: str, marks: str) -> str:
    x, floor = step["start_seconds"] / scale * 100, min(step["floor_seconds"], step["seconds"]) / scale * 100
    desc = (
        f"From {step['start_seconds']:,.1f} s on it takes {step['seconds']:,.1f} s, at best "
        f"{step['floor_seconds']:,.1f} s."
    )
    bar = svg.rect("time", x, 11, step["seconds"] / scale * 100, 18) + svg.rect("time floor", x, 11, floor, 18)
    return (
        f'<li><span class="label"><span>{svg.text(step["name"])}</span><b>{step["seconds"]:,.1f} s</b></span>'
        f"{svg.svg(ref, step['name'], desc, 40, behind + bar + marks)}</li>"
    )


def _steps_table(steps: Sequence[Json]) -> str:
    rows = []
    for step in steps:
        size = f"{step['bytes'] / 1e9:.1f} GB" if step["bytes"] else "–"
        rows += [
            _row(
                step["name"],
                [
                    f"{step['start_seconds']:,.1f} s",
                    f"{step['seconds']:,.1f} s",
                    f"{step['floor_seconds']:,.1f} s",
                    size,
                ],
                "has-source",
            ),
            f'<tr><td class="source" colspan="5">{svg.text(step["source"])}</td></tr>',
        ]
    return _table(
        "The steps and where their numbers come from", ["Step", "Begins", "Takes", "At best", "Reads"], rows, "steps"
    )


NAMES = {"alone": "one request", "full": "a full cache", "load": "the load"}


def _speed(ref: str, plan: Json) -> str:
    speed, currency = plan["throughput"], plan["cost"]["currency"]
    points, load = speed["points"], speed["load"]
    head = "<h3>Tokens a second</h3>"
    if not points:
        return f"{head}{_list([*speed['warnings'], *speed['reasons']])}"
    carried = _if(bool(speed["carried_over"]), ", carried over from other models or GPUs")
    of = f"{points[0]['input']:,} tokens and an answer of {points[0]['output']:,}"
    note = (
        f"One replica with requests of {of}. The line begins at what memory, arithmetic and links allow at best; the "
        f"dot is the estimate from measured engines{carried}; the line ends at what is expected at most."
    )
    charts = _spans(f"{ref}-p", "Time per output token", "tpot_seconds", points) + _spans(
        f"{ref}-f", "Time to the first token", "ttft_seconds", points
    )
    needed = ""
    if load:
        count = load["replicas_needed"]
        words = "No number of replicas is enough" if count is None else f"It needs {count} replica{'s'[: count != 1]}"
        needed = f"<p>The load is {_asked(load)}. {words}; the plan has {load['replicas']}.</p>"
    warnings = _list(speed["warnings"]) if speed["warnings"] else ""
    return (
        f'{head}<p class="muted">{svg.text(note)}</p>{needed}{warnings}'
        f'<div class="spans-side">{charts}</div>{_speed_table(points, currency)}{_list(speed["reasons"])}'
    )


def _asked(load: Json) -> str:
    many = f"{load['rate']:g} requests a second" if load["rate"] else f"{load['concurrency']:g} requests at once"
    limits = [
        f"{_time(load[key])} {words}"
        for key, words in (("ttft_seconds", "to the first token"), ("tpot_seconds", "per output token"))
        if load[key]
    ]
    return svg.text(many + (f", in at most {' and '.join(limits)}" if limits else ""))


def _speed_table(points: Sequence[Json], currency: str | None) -> str:
    def row(words: str, show: Callable[[Json], str]) -> str:
        return _row(words, [show(point) for point in points])

    def times(key: str, end: str) -> Callable[[Json], str]:
        return lambda point: _time(point[key][end])

    ends = (("at best", "floor"), ("expected", "expected"), ("at most", "most"))
    rows = [
        row("requests at once", lambda point: f"{point['concurrency']:,.0f}"),
        *(row(f"a token, {words}", times("tpot_seconds", end)) for words, end in ends),
        *(row(f"first token, {words}", times("ttft_seconds", end)) for words, end in ends),
        row("output tokens a second", lambda point: f"{point['output_tokens_per_second']:,.0f}"),
        row("… and GPU", lambda point: f"{point['output_tokens_per_second_and_gpu']:,.1f}"),
        row("input tokens a second", lambda point: f"{point['input_tokens_per_second']:,.0f}"),
        row("a million input tokens", lambda point: _money(point["cost_per_million_input"], currency)),
        row("a million output tokens", lambda point: _money(point["cost_per_million_output"], currency)),
    ]
    heads = ["One replica with", *(NAMES[point["name"]] for point in points)]
    return _table("Speed and cost", heads, rows)


def _time(seconds: float) -> str:
    """Three digits."""
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * 1e3, "ms")
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _spans(ref: str, title: str, key: str, points: Sequence[Json]) -> str:
    """A line from the least to the most, with a dot where it is expected, for each point on one logarithmic scale."""
    ends = [point[key][end] for point in points for end in ("floor", "most")]
    low, high = math.floor(math.log10(min(ends))), math.ceil(math.log10(max(ends)) + 1e-9)

    def x(seconds: float) -> float:
        return (math.log10(seconds) - low) / max(1, high - low) * 96 + 2

    ticks = [10.0**power for power in range(low, high + 1)]
    grid = "".join(svg.line("grid", x(tick), 0, x(tick), 40) for tick in ticks)
    rows = []
    for point in points:
        span, name = point[key], NAMES[point["name"]]
        at = x(span["expected"])
        drawn = (
            svg.line("pace", x(span["floor"]), 24, x(span["most"]), 24)
            + svg.line("pace end", x(span["floor"]), 18, x(span["floor"]), 30)
            + svg.line("pace end", x(span["most"]), 18, x(span["most"]), 30)
            + f'<circle class="pace dot" cx="{at:.3f}%" cy="24" r="5"/>'
            + svg.label(at, 12, _time(span["expected"]), anchor="middle")
        )
        desc = f"{_time(span['expected'])}; at best {_time(span['floor'])}, at most {_time(span['most'])}."
        picture = svg.svg(f"{ref}-{point['name']}", f"{title}, {name}", desc, 40, grid + drawn)
        rows.append(f'<li><span class="label"><span>{name}</span></span>{picture}</li>')
    axis = "".join(
        svg.label(
            x(tick), 14, _time(tick), "quiet", "start" if tick == ticks[0] else "end" if tick == ticks[-1] else "middle"
        )
        for tick in ticks
    )
    return (
        f'<figure class="gantt spans"><figcaption>{title}, logarithmic</figcaption><ol>{"".join(rows)}</ol>'
        f'<div class="axis"><svg height="20" aria-hidden="true">{axis}</svg></div></figure>'
    )


def _tokens(ref: str, plan: Json) -> str:
    tokens, length = plan["kv_tokens"], plan["max_model_len"]
    head = "<h3>Context and concurrency</h3>"
    if plan["unknown"]:
        return f"{head}<p>Unknown.</p>"
    if tokens < 1:
        return f"{head}<p>Nothing is left for the KV cache: not one request fits.</p>"
    longest = min(tokens, length)
    shortest = min(1024, 2 ** max(0, int(math.log2(longest)) - 4))
    powers = [shortest * 4**power for power in range(20) if shortest * 4**power < longest / 1.6]
    points = [(size, tokens / size) for size in [*powers, longest]]
    note = (
        "How many requests of one length the KV cache "
        f"{_if(plan['layout']['data'] > 1, 'of each engine ')}holds at once. The engine's own limit on requests "
        "can be lower, and so can the number of short requests where layers keep a sliding window."
    )
    rows = (_row(f"{size:,}", [_requests(count)]) for size, count in points)
    return (
        f'{head}<p class="muted">{note}</p><div class="beside-each-other">{_chart(ref, points, tokens, length)}'
        f"{_table('Requests at once', ['Tokens of each', 'Requests'], rows)}</div>"
    )


def _chart(ref: str, points: Sequence[tuple[int, float]], tokens: int, length: int) -> str:
    """The chart of requests over their length. Both axes are logarithmic, so «tokens / length» is a straight line."""
    low, high = points[0][0], max(length, points[-1][0])
    decades = max(1, math.ceil(math.log10(points[0][1])))

    def x(size: float) -> float:
        return LEFT + (RIGHT - LEFT) * (math.log(size / low) / math.log(high / low) if high > low else 1)

    def y(count: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * math.log10(max(count, 1)) / decades, 1)

    (x1, y1), (x2, y2) = ((x(size), y(count)) for size, count in (points[0], points[-1]))
    # A polygon can follow a width in per cent only in a nested drawing that stretches.
    area = (
        f'<svg aria-hidden="true" x="{x1:.3f}%" y="0" width="{x2 - x1:.3f}%" height="{BOTTOM}" '
        f'viewBox="0 0 1 {BOTTOM}" preserveAspectRatio="none">'
        f'<polygon class="area" points="0,{y1} 1,{y2} 1,{BOTTOM} 0,{BOTTOM}"/></svg>'
    )
    drawn = [area]
    for power in range(decades + 1):
        drawn += [
            svg.line("grid", LEFT, y(10**power), RIGHT, y(10**power)),
            svg.label(LEFT, y(10**power) + 4, f"{10**power:,}", "quiet", "end", -8),
        ]
    for size, _ in points[:-1]:
        drawn.append(svg.line("grid", x(size), TOP, x(size), BOTTOM))
        if size < points[-1][0] / 2.4:  # a closer label would touch the last one
            drawn.append(svg.label(x(size), 214, _short(size), "quiet", "middle"))
    drawn += [svg.line("curve", x1, y1, x2, y2), svg.label(x2, 214, _short(points[-1][0]), anchor="middle")]
    drawn += [
        f'<circle class="dot" cx="{x(size):.3f}%" cy="{y(count):g}" r="4"/>'
        + svg.label(x(size), y(count) - 7, _requests(count), dx=7)
        for size, count in points
    ]
    if tokens < length:
        drawn += [
            svg.line("wanted", x(length), TOP, x(length), BOTTOM),
            svg.label(x(length), 10, f"{length:,} asked for", "short", "end", 8),
        ]
    desc = "; ".join(f"{_requests(count)} requests of {size:,} tokens" for size, count in points)
    return (
        f'<figure class="chart">{svg.svg(f"{ref}-k", "Requests at once by their length", desc, 220, "".join(drawn))}'
        "<figcaption>Requests at once over tokens of each (k = 1,024), both logarithmic</figcaption></figure>"
    )


def _short(size: int) -> str:
    return f"{size / 1024:.3g}k" if size >= 1024 else str(size)


def _cost(cost: Json) -> str:
    if all(cost[key] is None for key in ("per_hour", "most_per_hour", "kept_per_hour", "cold_start")):
        return "<h3>Cost</h3><p>Unknown: no price given.</p>"
    rows = (
        ("an hour", "per_hour"),
        ("an hour at the most replicas", "most_per_hour"),
        ("an hour for what stays after a destroy", "kept_per_hour"),
        ("one cold start", "cold_start"),
    )
    return "<h3>Cost</h3>" + _table(
        f"At prices of {cost['as_of']}",
        ["For", "Cost"],
        (_row(words, [_money(cost[key], cost["currency"])]) for words, key in rows),
    )

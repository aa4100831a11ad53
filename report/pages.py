"""Lays a judgement out as Markdown for a comment, as text for a terminal, or as JSON. Pure.

A comment has a marker by which it is found again, and a size limit: what does not fit is dropped from the end, but
never the verdict.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from planning.catalog import fact
from planning.problems import printable
from report import words
from report.differences import lines
from report.judgement import Judgement, Level
from report.run_file import Change
from report.service_changes import Row
from report.words import Part

LIMIT = fact("ci", "github", "commentCharacters") - 100
"""GitHub's limit of a comment in characters, less the hidden line that `ops ci comment` adds; counted here in bytes, of
which there are never fewer."""
_SIGNS = {
    Level.NOTHING: "✅",
    Level.SAFE: "✅",
    Level.RESTART: "🔁",
    Level.STOP: "⚠️",
    Level.DATA: "🛑",
    Level.FAILED: "❌",
}
# Room for the note that something was left out, and for closing an open fold.
_SPARE = 400
_NONE = "–"
_MOST_LINES = 120


def marker(what: str, project: str, stack: str) -> str:
    """The first line of a stack's comment or issue, by which it is found again; GitHub does not show it. `what` is
    report or drift."""
    return f"<!-- modelserve {what} {_comment(project)}/{_comment(stack)} -->"


def markdown(judged: Judgement, limit: int = LIMIT) -> str:
    """One comment."""
    run = judged.run
    level = max(judged.level, Level.STOP) if any(each.opens for each in judged.services) else judged.level
    sign = _SIGNS[max(level, Level.DATA) if judged.open else level]
    head = (
        f"{marker('report', run.project, run.stack)}\n### {sign} {plain(run.stack)}: {plain(words.verdict(judged))}\n"
    )
    blocks = [_block(part) for part in words.parts(judged)]
    return bounded(head, blocks, _folds(judged), limit)


def bounded(
    head: str,
    blocks: Sequence[str],
    folds: Iterable[tuple[str, Iterable[str]]],
    limit: int = LIMIT,
    title: str = "Resources, old → new",
) -> str:
    """As much as fits: what is visible at once comes before what is folded. `folds` are resources by their titles, with
    their differences, which are read only as long as they fit."""
    text, left = visible(head), 0
    for block in map(visible, blocks):
        cut = _cut(block, limit - _SPARE - _size(text))
        text += cut
        left += cut != block
    opened, room, all_fit = "", limit - _SPARE - _size(text), True
    for name, difference in folds:
        fold = visible(_fold(name, [*difference])) if all_fit else ""
        if not fold or _size(fold) > room:
            fold, all_fit = visible(_fold(name, ())), False
            left += 1
        if _size(fold) <= room:
            opened += fold
            room -= _size(fold)
    if opened:
        text += f"\n<details><summary>{title}</summary>\n\n{opened}\n</details>\n"
    if left:
        text += f"\n{left} more would not fit here: `pulumi preview --diff` shows them.\n"
    return text


def text(judged: Judgement) -> str:
    """For a terminal."""
    out = [f"{judged.run.stack}: {words.verdict(judged)}"]
    for part in words.parts(judged):
        out += ["", part.heading]
        out += [f"  {line}" for sentence in part.sentences for line in _bare(sentence).splitlines()]
        out += [f"  {_bare(row.what)}: {row.before or _NONE} -> {row.after or _NONE}" for row in part.rows]
    for change in judged.changes:
        out += ["", _bare(words.title(change)), *(f"  {line}" for line in _difference(change))]
    return visible("\n".join(out))


def to_json(judged: Judgement) -> dict[str, Any]:
    """For scripts. `labels` are those that a pull request should show, `missing` those that it lacks."""
    fates = {each.fate for each in judged.services}
    actions = {each.action for each in judged.data if not each.kept}
    shown = [*(["restart"] if fates & {"replaced", "restarted"} else []), *sorted(actions)]
    return {
        "project": judged.run.project,
        "stack": judged.run.stack,
        "verdict": judged.level.name.lower(),
        "headline": words.verdict(judged),
        "failed": judged.run.failed,
        "labels": shown,
        "missing": sorted({f"allow-{what}:{which}" for what, which in judged.open}),
        "data": [
            {"action": each.action, "holds": each.holds, "name": each.name, "kept": each.kept} for each in judged.data
        ],
        "services": {
            each.name: {
                "fate": each.fate,
                "seconds": judged.restart_seconds(each),
                "changes": [_row(row) for row in [*each.rows, *judged.numbers(each.name)]],
            }
            for each in judged.services
        },
        "findings": [vars(each) for each in judged.findings],
        "warnings": [each.text for each in judged.warnings],
        "errors": [each.text for each in judged.run.errors],
        "resources": [{"urn": each.urn, "action": each.action} for each in judged.changes],
    }


def _fold(title: str, difference: Sequence[str]) -> str:
    """One resource, with its differences."""
    if not difference:
        return f"- {plain(title)}\n"
    more = [f" … {len(difference) - _MOST_LINES} more lines"] if len(difference) > _MOST_LINES else []
    return f"- {plain(title)}\n\n{_fenced([*difference[:_MOST_LINES], *more], 'diff')}\n"


def _folds(judged: Judgement) -> list[tuple[str, Iterable[str]]]:
    if judged.run.failed and judged.run.planned:
        return []  # nothing of it can happen
    return [(words.title(each), _difference(each)) for each in judged.changes]


def _difference(change: Change) -> Iterator[str]:
    """What differs if a change has both an old and a new state: what comes or goes whole is in the stack file."""
    if not change.old or not change.new:
        return
    if found := lines(change.old.inputs, change.new.inputs):
        yield from found
    elif change.old.errors and not change.differing:
        yield " written again, because a run was cut off amid it"
    else:  # what is secret on both sides, and what differs only from the cluster
        yield from (f" {path}: differs" for path in change.differing)


def _row(row: Row) -> dict[str, Any]:
    return {"what": _bare(row.what), "before": row.before, "after": row.after}


def _block(part: Part) -> str:
    out = [f"\n**{plain(part.heading)}**\n"]
    many = len(part.sentences) > 1 or any("\n" in each for each in part.sentences)
    for sentence in part.sentences:
        if "\n" in sentence:
            out.append(f"\n{_fenced(sentence.splitlines())}\n")
        else:
            out.append(f"{'- ' if many else ''}{plain(sentence)}\n")
    if part.rows:
        out.append("\n")
        out += _table(part.rows)
    return "".join(out)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    if all(row.before is None for row in rows):
        yield "| | new |\n| --- | --- |\n"
        yield from (f"| {_cell(row.what, False)} | {_cell(row.after)} |\n" for row in rows)
        return
    yield "| | before | after |\n| --- | --- | --- |\n"
    yield from (f"| {_cell(row.what, False)} | {_cell(row.before)} | {_cell(row.after)} |\n" for row in rows)


def _cell(value: str | None, is_code: bool = True) -> str:
    if value is None:
        return _NONE
    flat = " ".join(value.split()).replace("|", "\\|")
    if not is_code or re.fullmatch(r"[\w ,.;%×/()-]*", flat):
        return plain(flat)
    return f"`{flat.replace('`', chr(39))}`"


def plain(value: str) -> str:
    """One line in which Markdown and HTML have no effect; text between single backticks stays as it is."""
    flat = " ".join(re.sub("``+", "'", value).split())
    pieces = flat.split("`")
    if len(pieces) % 2 == 0:
        pieces = [flat.replace("`", "'")]
    escaped = [
        piece if at % 2 else re.sub(r"([\\*_\[\]#~@])", r"\\\1", html.escape(piece, quote=False))
        for at, piece in enumerate(pieces)
    ]
    return "`".join(escaped)


def visible(value: str) -> str:
    """The lines with characters escaped that move a cursor, or that turn the order of what is read."""
    return "\n".join(line if line.isprintable() else printable(line) for line in value.split("\n"))


def _bare(value: str) -> str:
    return value.replace("`", "")


def _comment(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", value)


def _fenced(found: Sequence[str], language: str = "") -> str:
    longest = max((len(run) for line in found for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}{language}", *found, fence])


def _size(value: str) -> int:
    return len(value.encode())


def _cut(block: str, room: int) -> str:
    """As many whole lines of a block as fit; closes a fence that is left open."""
    if _size(block) <= room:
        return block
    kept, used, fence = [], 0, ""
    for line in block.splitlines(keepends=True):
        used += _size(line)
        if used > room:
            break
        kept.append(line)
        if mark := re.match(r"`{3,}", line):
            fence = "" if fence else mark[0]
    return "".join(kept) + (f"{fence}\n" if fence else "")

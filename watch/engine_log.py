"""Reads from a container's log how far a start is, and why it failed. Works on text only.

vLLM runs several processes, and the last line is the parent's, which only says that a child failed. So this file reads
Python's tracebacks by process: the cause is the innermost exception of the process that failed first. The catalog's
`vllm_log` says what vLLM's messages mean. It works for the log of any Python program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from planning.catalog import fact

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_PROCESS = re.compile(r"\(([^()]*\bpid=\d+[^()]*|raylet[^()]*)\) ?|\[(rank\d+)\]: ?")
_PID = re.compile(r" ?\bpid=\d+")
_LOGGER = re.compile(r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d [\d:]{8} \[?(?P<where>[\w./-]+:\d+)\] ?")
_REPEATED = re.compile(r" \[repeated \d+x across cluster\].*$")
_TRACEBACK = "Traceback (most recent call last):"
_CHAINS = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_FRAME = re.compile(r'\s+File ".*", line \d+, in (\S+)')
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*[a-z]\w*(?:\(\w+\))?(?:: .*|:?$)")
# uvicorn's line for a request: an exception before it ended only a request.
_ANSWERED = re.compile(r'INFO: +\S+ - "[A-Z]+ \S+ HTTP/')
# Not failures: the process was told to end.
_TOLD_TO_END = ("KeyboardInterrupt", "SystemExit")
_SERIOUS = {"", "ERROR", "CRITICAL"}
# Without a frame above it, an exception is recognised by its name.
_NAMED_SO = re.compile(r"[\w.]*(?:Error|Exception)\b")
# Lines kept of an exception that continues in indented lines, as pydantic's do.
_DETAIL_LINES = 3
_LONGEST_LINE = 160
FAILED = "it has failed"
"""The stage of a start that the parent process has given up."""


@dataclass(frozen=True)
class Line:
    """One line without its prefixes: `process` as the log names it, the logger's `level` and place; empty if absent."""

    process: str
    name: str
    level: str
    where: str
    text: str


@dataclass
class Failure:
    """One traceback with its chained ones: `exception` is the innermost, as Python prints it."""

    process: str
    name: str
    level: str
    at: int
    exception: str = ""
    became: str = ""
    functions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Cause:
    """Why a start failed: which process (empty if the log names none), in which phase, and its message."""

    process: str
    phase: str
    says: str
    became: str = ""
    hints: tuple[str, ...] = ()
    complete: bool = True
    """False if the log only refers to a cause that it does not contain."""


def lines(log: str) -> list[Line]:
    """The log's lines that are not blank."""
    return [line for raw in _split(log) if (line := _line(raw))]


def _newest_first(log: str) -> Iterator[Line]:
    return (line for raw in reversed(_split(log)) if (line := _line(raw)))


def _split(log: str) -> list[str]:
    return re.split(r"[\r\n]+", _COLOUR.sub("", log))


def _line(raw: str) -> Line | None:
    process, name, text = "", "", raw
    while match := _PROCESS.match(text):
        process, text = process + match[0], text[match.end() :]
        name = _PID.sub("", match[1] or match[2])
    level, where = "", ""
    if match := _LOGGER.match(text):
        level, where, text = match["level"], match["where"], text[match.end() :]
    return Line(process, name, level, where, _REPEATED.sub("", text.rstrip())) if text.strip() else None


def stage(log: str) -> str:
    """How far a start is, by the newest line that says so; otherwise the newest line. Empty for an empty log."""
    newest = ""
    for line in _newest_first(log):
        newest = newest or f"its newest line: {line.text.strip()[:_LONGEST_LINE]}"
        if _points(line.text):
            return FAILED
        for pattern, text in fact("vllm_log", "start", "stages"):
            if match := re.search(pattern, line.text):
                return text.format(*match.groups())
    return newest


def last_words(log: str) -> str:
    """The last line that is not blank; empty for an empty log."""
    return next((line.text.strip() for line in _newest_first(log)), "")


def cause(log: str) -> Cause | None:
    """Why the program that wrote the log failed; None if the log has no exception and reports no death."""
    read = lines(log)
    lived_on = {line.process: at for at, line in enumerate(read) if _ANSWERED.match(line.text)}
    failures = [
        failure
        for failure in _failures(read)
        if failure.level in _SERIOUS
        and not failure.exception.startswith(_TOLD_TO_END)
        and lived_on.get(failure.process, -1) < failure.at
    ]
    pointing = [failure for failure in failures if _points(failure.exception) or _points(failure.became)]
    telling = [failure for failure in failures if not _points(failure.exception)]
    if pointing:
        parents = {failure.process for failure in pointing if failure.process}
        # A parent may have survived other exceptions, such as those of requests.
        telling = [failure for failure in telling if failure.process not in parents] or telling
    elif len({failure.process for failure in telling}) == 1:
        telling = telling[-1:]
    if telling:
        return _cause(telling[0], read)
    deaths = "|".join(fact("vllm_log", "failure", "deaths"))
    for line in read:
        if re.search(deaths, line.text):
            return Cause(line.name, "", line.text.strip())
    if not pointing:
        return None
    for name, number in re.findall(fact("vllm_log", "failure", "killed"), pointing[0].exception):
        return Cause(name, "", f"it was killed by signal {number}, without a word of its own")
    return Cause(pointing[0].name, "", pointing[0].exception, complete=False)


def told(cause: Cause) -> str:
    """A cause in one line."""
    where = f", in {cause.process}" if cause.process else ""
    phase = f", while {cause.phase}" if cause.phase else ""
    if not cause.complete:
        return f"its cause is not in the log that is left, which only says{where}: {cause.says}"
    became = f"; it became {cause.became}" if cause.became else ""
    hints = "".join(f"; vLLM also says: {hint}" for hint in cause.hints)
    return f"the cause{where}{phase}: {cause.says}{became}{hints}"


def _cause(failure: Failure, read: Sequence[Line]) -> Cause:
    phases = fact("vllm_log", "failure", "phases")
    phase = next((phases[name] for name in reversed(failure.functions) if name in phases), "")
    hints = []
    for about, says in fact("vllm_log", "failure", "hints"):
        matches = [match[0] for line in read[: failure.at] if (match := re.search(says, line.text))]
        if matches and re.search(about, failure.exception):
            hints.append(matches[-1])
    # Many callers only wrap the same message in a type of their own.
    same = failure.became.partition(": ")[2] in failure.exception
    became = "" if same or _points(failure.became) else failure.became
    return Cause(failure.name, phase, failure.exception, became, tuple(hints))


def _points(exception: str) -> bool:
    """Whether an exception only says that the cause is elsewhere."""
    return any(re.search(pattern, exception) for pattern in fact("vllm_log", "failure", "pointers"))


class _Stream:
    """The lines of one process from one logging call, or its plain output. Tracebacks within one stream do not mix."""

    def __init__(self) -> None:
        self.failure: Failure | None = None
        self.in_frames = self.chained = self.begun = False
        self.functions: list[str] = []
        self.details = 0

    def take(self, line: Line, at: int) -> Failure | None:
        """The failure that begins with this line, or None."""
        # A log may begin with a source line whose frame is cut off.
        first, self.begun = not self.begun, self.begun or not line.text[0].isspace()
        if line.text.endswith(_TRACEBACK):
            return self._open(line, at)
        if frame := _FRAME.match(line.text):
            # A log may begin inside a traceback, and Ray prints the worker's traceback below its own exception.
            opened = None if self.in_frames else self._open(line, at)
            self.functions.append(frame[1])
            return opened
        if line.text in _CHAINS:
            self.chained = True
        elif line.text[0].isspace():
            if not self.in_frames and self.details and self.failure:
                self.details -= 1
                self._extend(self.failure, line.text.strip())
        elif (self.in_frames or (first and _NAMED_SO.match(line.text))) and _EXCEPTION.fullmatch(line.text):
            opened = self._open(line, at) if first else None
            assert self.failure
            self._close(self.failure, line.text)
            return opened
        else:
            self.details = 0
        return None

    def _open(self, line: Line, at: int) -> Failure | None:
        nested = self.details == _DETAIL_LINES and line.text[0].isspace()
        chained, self.chained, self.in_frames = self.chained, False, True
        if self.failure and (nested or chained):
            if nested:
                # A traceback printed below an exception belongs to the exception that it carries.
                if self.failure.became:
                    self.failure.became = ""
                else:
                    self.failure.exception, self.functions = "", self.failure.functions
            else:
                self.functions = []
            return None
        self.functions = []
        self.failure = Failure(line.process, line.name, line.level, at)
        return self.failure

    def _close(self, failure: Failure, exception: str) -> None:
        self.in_frames, self.details = False, _DETAIL_LINES
        if failure.exception:
            failure.became = exception
        else:
            failure.exception, failure.functions = exception, self.functions

    @staticmethod
    def _extend(failure: Failure, text: str) -> None:
        if failure.became:
            failure.became += f" {text}"
        else:
            failure.exception += f" {text}"


def _failures(read: Sequence[Line]) -> Iterator[Failure]:
    streams: dict[tuple[str, str], _Stream] = {}
    failures = [
        failure
        for at, line in enumerate(read)
        if (failure := streams.setdefault((line.process, line.where), _Stream()).take(line, at))
    ]
    return (failure for failure in failures if failure.exception)

"""What a container's log says of its start: how far it is, and why it failed. Pure text.

vLLM is several processes, and the last one to speak is the parent, which only says that a child has failed. So a
failure is read as what it is, Python's tracebacks by process: the cause is the innermost exception of the process that
failed first. Which sentences of vLLM's mean what is the catalog's `vllm_log`. Any Python program's log can be read so.
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
# uvicorn's line for a request: what was thrown before it ended only a request.
_ANSWERED = re.compile(r'INFO: +\S+ - "[A-Z]+ \S+ HTTP/')
# Not a failure, but being told to end.
_TOLD_TO_END = ("KeyboardInterrupt", "SystemExit")
_SERIOUS = {"", "ERROR", "CRITICAL"}
# Without a frame above it, by its name alone.
_NAMED_SO = re.compile(r"[\w.]*(?:Error|Exception)\b")
# Of an exception that says more in indented lines, as pydantic's do.
_DETAIL_LINES = 3
_LONGEST_LINE = 160
FAILED = "it has failed"
"""The stage of a start whose parent process has given it up."""


@dataclass(frozen=True)
class Line:
    """One line without its prefixes: `process` as the log names it, the logger's `level` and place, empty without."""

    process: str
    name: str
    level: str
    where: str
    text: str


@dataclass
class Failure:
    """One traceback with those it is chained to: `exception` is the innermost, as Python prints it."""

    process: str
    name: str
    level: str
    at: int
    exception: str = ""
    became: str = ""
    functions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Cause:
    """Why a start failed: what failed (a process, empty where the log names none), doing what, and how it is told."""

    process: str
    phase: str
    says: str
    became: str = ""
    hints: tuple[str, ...] = ()
    complete: bool = True
    """False where the log only points to a cause that is not in it."""


def lines(log: str) -> list[Line]:
    """The log's lines that say anything."""
    return [line for raw in _split(log) if (line := _line(raw))]


def _newest_first(log: str) -> Iterator[Line]:
    return (line for raw in reversed(_split(log)) if (line := _line(raw)))


def _split(log: str) -> list[str]:
    return re.split(r"[\r\n]+", _COLOUR.sub("", log))


def _line(raw: str) -> Line | None:
    process, name, rest = "", "", raw
    while match := _PROCESS.match(rest):
        process, rest = process + match[0], rest[match.end() :]
        name = _PID.sub("", match[1] or match[2])
    level, where = "", ""
    if match := _LOGGER.match(rest):
        level, where, rest = match["level"], match["where"], rest[match.end() :]
    return Line(process, name, level, where, _REPEATED.sub("", rest.rstrip())) if rest.strip() else None


def stage(log: str) -> str:
    """How far a start is, by the newest line that tells; else the newest line itself, empty for an empty log."""
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
    """The last line that says anything, empty for an empty log."""
    return next((line.text.strip() for line in _newest_first(log)), "")


def cause(log: str) -> Cause | None:
    """Why what wrote the log failed; None where it holds no exception and tells of no death."""
    read = lines(log)
    lived_on = {line.process: at for at, line in enumerate(read) if _ANSWERED.match(line.text)}
    failures = [
        each
        for each in _failures(read)
        if each.level in _SERIOUS
        and not each.exception.startswith(_TOLD_TO_END)
        and lived_on.get(each.process, -1) < each.at
    ]
    pointing = [each for each in failures if _points(each.exception) or _points(each.became)]
    telling = [each for each in failures if not _points(each.exception)]
    if pointing:
        parents = {each.process for each in pointing if each.process}
        # A parent may have survived other exceptions, such as those of requests.
        telling = [each for each in telling if each.process not in parents] or telling
    elif len({each.process for each in telling}) == 1:
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
        said = [match[0] for line in read[: failure.at] if (match := re.search(says, line.text))]
        if said and re.search(about, failure.exception):
            hints.append(said[-1])
    # Many wrap what they were told in a type of their own.
    same = failure.became.partition(": ")[2] in failure.exception
    became = "" if same or _points(failure.became) else failure.became
    return Cause(failure.name, phase, failure.exception, became, tuple(hints))


def _points(exception: str) -> bool:
    """Whether an exception only says that the cause stands elsewhere."""
    return any(re.search(each, exception) for each in fact("vllm_log", "failure", "pointers"))


class _Stream:
    """What one call of one process's logger, or its plain output, prints: tracebacks of one do not mix."""

    def __init__(self) -> None:
        self.failure: Failure | None = None
        self.in_frames = self.chained = self.begun = False
        self.functions: list[str] = []
        self.details = 0

    def take(self, line: Line, at: int) -> Failure | None:
        """A failure that begins with this line, or None."""
        # A log may begin with a line of source below a frame that is cut off.
        first, self.begun = not self.begun, self.begun or not line.text[0].isspace()
        if line.text.endswith(_TRACEBACK):
            return self._open(line, at)
        if frame := _FRAME.match(line.text):
            # A log may begin inside a traceback; Ray prints the worker's below its own exception.
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
                # What is printed below an exception as its own traceback is what it carries.
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
    found = [
        failure
        for at, line in enumerate(read)
        if (failure := streams.setdefault((line.process, line.where), _Stream()).take(line, at))
    ]
    return (each for each in found if each.exception)

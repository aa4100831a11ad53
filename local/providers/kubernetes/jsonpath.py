"""RFC 9535 JSONPath as far as `pulumi.com/waitFor` needs it: names, indexes, wildcards, filters."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Nodes = Callable[[list[Any], Any], list[Any]]
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>-?\d+(?:\.\d+)?)"""
    r"""|(?P<operator>&&|\|\||==|!=|<=|>=|[\[\]().*?@$!<>])|(?P<name>[A-Za-z_\u0080-\uffff][\w-]*))"""
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_LITERALS = {"true": True, "false": False, "null": None}


class JsonPathError(Exception):
    """The path does not parse; the text says where."""


class JsonPath:
    """A parsed path, `$` first. Raises JsonPathError."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None:
                raise JsonPathError(f"jsonpath: unexpected '{text[position]}' at position {position + 1}")
            kind = match.lastgroup or ""
            self._tokens.append((kind, match.group(kind), match.start(kind)))
            position = match.end()
        self._tokens.append(("end", "", len(text)))
        self._next = 0
        self._expect("$")
        self._select = self._segments()
        if self._tokens[self._next][0] != "end":
            self._fail()

    def find(self, root: Any) -> list[Any]:
        """Every value that the path selects."""
        return self._select([root], root)

    def _fail(self) -> None:
        kind, token, position = self._tokens[self._next]
        what = "unexpected eof" if kind == "end" else f"unexpected '{token}'"
        raise JsonPathError(f"jsonpath: {what} at position {position + 1}")

    def _accept(self, operator: str) -> bool:
        if self._tokens[self._next][:2] != ("operator", operator):
            return False
        self._next += 1
        return True

    def _expect(self, operator: str) -> None:
        if not self._accept(operator):
            self._fail()

    def _take(self, kind: str) -> str | None:
        if self._tokens[self._next][0] != kind:
            return None
        self._next += 1
        return self._tokens[self._next - 1][1]

    def _segments(self) -> Nodes:
        steps: list[Nodes] = []
        while True:
            if self._accept("."):
                if self._accept("*"):
                    steps.append(_wildcard)
                else:
                    name = self._take("name")
                    if name is None:
                        self._fail()
                    steps.append(_child(name))
            elif self._accept("["):
                steps.append(self._selector())
                self._expect("]")
            else:
                return _chain(steps)

    def _selector(self) -> Nodes:
        if self._accept("*"):
            return _wildcard
        if self._accept("?"):
            condition = self._either()
            return lambda nodes, root: [item for item in _wildcard(nodes, root) if condition(item, root)]
        key: Any = self._take("text")
        if key is not None:
            return _child(_unquote(key))
        key = self._take("number")
        if key is None or "." in key:
            self._fail()
        index = int(key)
        return lambda nodes, root: [
            node[index] for node in nodes if isinstance(node, list) and -len(node) <= index < len(node)
        ]

    def _either(self) -> Callable[[Any, Any], bool]:
        parts = [self._both()]
        while self._accept("||"):
            parts.append(self._both())
        return lambda item, root: any(part(item, root) for part in parts)

    def _both(self) -> Callable[[Any, Any], bool]:
        parts = [self._test()]
        while self._accept("&&"):
            parts.append(self._test())
        return lambda item, root: all(part(item, root) for part in parts)

    def _test(self) -> Callable[[Any, Any], bool]:
        if self._accept("!"):
            inner = self._test()
            return lambda item, root: not inner(item, root)
        if self._accept("("):
            condition = self._either()
            self._expect(")")
            return condition
        left = self._operand()
        for operator, holds in _COMPARE.items():
            if self._accept(operator):
                right = self._operand()
                return lambda item, root: _compare(holds, left(item, root), right(item, root))
        return lambda item, root: bool(left(item, root))

    def _operand(self) -> Callable[[Any, Any], list[Any]]:
        for symbol in "@$":
            if self._accept(symbol):
                select = self._segments()
                return lambda item, root: select([item if symbol == "@" else root], root)
        text, number, name = self._take("text"), self._take("number"), self._take("name")
        if text is not None:
            value: Any = _unquote(text)
        elif number is not None:
            value = float(number) if "." in number else int(number)
        elif name in _LITERALS:
            value = _LITERALS[name]
        else:
            self._fail()
        return lambda item, root: [value]


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def _chain(steps: list[Nodes]) -> Nodes:
    def select(nodes: list[Any], root: Any) -> list[Any]:
        for step in steps:
            nodes = step(nodes, root)
        return nodes

    return select


def _child(name: str) -> Nodes:
    return lambda nodes, root: [node[name] for node in nodes if isinstance(node, dict) and name in node]


def _wildcard(nodes: list[Any], root: Any) -> list[Any]:
    found: list[Any] = []
    for node in nodes:
        found += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    return found


def _compare(holds: Callable[[Any, Any], bool], left: list[Any], right: list[Any]) -> bool:
    if len(left) != 1 or len(right) != 1:
        return holds(left, right) if holds in (_COMPARE["=="], _COMPARE["!="]) else False
    try:
        return holds(left[0], right[0])
    except TypeError:
        return False

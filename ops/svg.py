"""The few shapes of the plan's page, as SVG text. Knows nothing about plans."""

from __future__ import annotations

from html import escape


def text(value: object) -> str:
    return escape(str(value), quote=True)


def svg(ref: str, title: str, desc: str, height: int, content: str) -> str:
    """A drawing without a viewBox: lengths in per cent follow the page's width, and text keeps its size."""
    return (
        f'<svg role="img" aria-labelledby="{ref}-t {ref}-d" height="{height}"><title id="{ref}-t">{text(title)}'
        f'</title><desc id="{ref}-d">{text(desc)}</desc>{content}</svg>'
    )


def rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.3f}%" y="{y:g}" width="{width:.3f}%" height="{height:g}"/>'


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.3f}%" y1="{y1:g}" x2="{x2:.3f}%" y2="{y2:g}"/>'


def label(x: float, y: float, words: str, kind: str = "", anchor: str = "start", dx: int = 0) -> str:
    return f'<text class="{kind}" x="{x:.3f}%" y="{y:g}" dx="{dx}" text-anchor="{anchor}">{text(words)}</text>'


def mark(kind: str, x: float, y1: float, y2: float) -> str:
    """A vertical line with a halo in the page's colour, visible on every colour."""
    return line("halo", x, y1, x, y2) + line(f"mark {kind}".rstrip(), x, y1, x, y2)

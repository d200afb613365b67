"""Lines on logarithmic scales, as SVG."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Final, NamedTuple

WIDTH: Final = 900
HEIGHT: Final = 400
TOP: Final = 84
BOTTOM: Final = 52
LEFT: Final = 62
GAP: Final = 30
# Of Okabe and Ito, told apart by everybody.
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


class Panel(NamedTuple):
    """Some lines of points over one scale, each by its name."""

    title: str
    scale: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def draw(title: str, panels: Sequence[Panel]) -> str:
    """The *panels* side by side, with one vertical scale and one key of colours."""
    heights = [y for panel in panels for line in panel.lines.values() for _, y in line]
    bottom, top = floor(log10(min(heights))), ceil(log10(max(heights)))
    names = list(panels[0].lines)
    width = (WIDTH - LEFT - GAP * len(panels)) / len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 22, title, size=14),
        *_key(names),
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, LEFT + number * (width + GAP), width, bottom, top, numbered=not number)
    return "\n".join([*parts, "</svg>", ""])


def _key(names: Sequence[str]) -> Iterator[str]:
    x = float(LEFT)
    for name, colour in zip(names, COLOURS, strict=False):
        yield f'<path d="M{x:.0f} 44h18" stroke="{colour}" stroke-width="2.5"/>'
        yield _text(x + 24, 48, name)
        x += 52 + 6.3 * len(name)


def _panel(panel: Panel, left: float, width: float, bottom: int, top: int, *, numbered: bool) -> Iterator[str]:
    places = sorted({x for line in panel.lines.values() for x, _ in line})
    first, last = log10(places[0]), log10(places[-1])

    def across(x: float) -> float:
        return left + 14 + (width - 28) * (log10(x) - first) / (last - first)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (log10(y) - bottom) / (top - bottom)

    yield _text(left + width / 2, TOP - 10, panel.title, anchor="middle", weight="bold")
    for power in range(bottom, top + 1):
        y = up(10.0**power)
        yield f'<path d="M{left:.1f} {y:.1f}h{width:.1f}" stroke="#ddd"/>'
        if numbered:
            yield _text(left - 8, y + 4, f"{10.0**power:,g}", anchor="end")
    for x in places:
        yield _text(across(x), HEIGHT - BOTTOM + 20, f"{x:,g}", anchor="middle")
    yield _text(left + width / 2, HEIGHT - 12, panel.scale, anchor="middle")
    for line, colour in zip(panel.lines.values(), COLOURS, strict=False):
        points = [(across(x), up(y)) for x, y in sorted(line)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'

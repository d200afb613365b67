"""A run as tables for people, and as JSON."""

import os
import platform
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any, Final

from .result import ROWS, TARGETS, Cell, Comparison, outcomes
from .stats import Estimate

PACKAGES: Final = (
    "prometheus-client",
    "starlette-exporter",
    "prometheus-fastapi-instrumentator",
    "prometheus-flask-exporter",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-asgi",
    "opentelemetry-instrumentation-wsgi",
    "opentelemetry-exporter-prometheus",
    "starlette",
    "fastapi",
    "flask",
    "uvicorn",
)
METHOD: Final = """\
All in one run, in rounds: in each round every contender serves a block of requests, in an order shuffled anew,
driven without a server. What a contender adds is its CPU time minus the bare application's of the same round; ratios
are taken from pairs of the same round too. Given are medians with their 95 % intervals (order statistics); a number
counts as reached only if the bad end of the interval reaches it, in the worst of its settings. Before the clock runs
each contender has proven that it leaves the response as it is, counts every request, tells the routes apart and shows
exemplars of sampled spans only; after it, that it counted all requests again.

"Fresh": the bucket's exemplar stays; "expired": it may be replaced at every request, if the budget of marks (10 a
second by default) has one left. "No marks": `marks_per_second=0`, so that it is replaced at every request. "Each
taken and marked" has a budget that no default comes near. OpenTelemetry's contenders also make the span; with span
"absent" they make metrics alone. On a warm page every count is new, and up to 150 exemplars, which is what the budget
of marks allows between two scrapes.

Rows for several workers are of processes of their own: eight that have counted, and in each round new ones that
scrape; every page has to tell all that was counted and the newest exemplars. The event loop's gap is the longest of
one scrape, in real time and in CPU time; of both the median over the rounds is given, since a busy machine adds pauses
of its own. Memory is what `tracemalloc` sees of a scrape of `make_asgi_app`, compressed as Prometheus asks for it."""


def conditions(rounds: int, block: int, load_before: float) -> dict[str, Any]:
    """The machine, what ran on it and how. *load_before*: its load average before the run."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_before": round(load_before, 2),
        "rounds": rounds,
        "block": block,
        "packages": {name: version(name) for name in PACKAGES},
    }


def cpu() -> str:
    """The model of the processor."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def as_json(cells: Sequence[Cell], under: dict[str, Any]) -> dict[str, Any]:
    """The whole run as plain data. Every ratio is ours to the peer's: smaller is better; null is beyond measure."""
    return {
        "conditions": under,
        "numbers": [
            {
                "row": each.target.row,
                "what": str(each.target),
                "must": each.target.must,
                "aim": each.target.aim,
                "ratio": finite(each.comparison.ratio),
                "ours": each.comparison.ours,
                "setting": place(each.cell),
                "verdict": each.verdict,
            }
            for each in outcomes(cells)
        ],
        "cells": [
            {
                "row": cell.row,
                "group": cell.group,
                "name": cell.name,
                "unit": cell.unit,
                "bare": cell.bare and finite(cell.bare),
                "cost": {name: finite(value) for name, value in cell.cost.items()},
                "ratios": [
                    {"ours": each.ours, "peer": each.peer, "ratio": finite(each.ratio)}
                    | ({"verdict": each.target.verdict(each.ratio.high)} if each.target else {})
                    for each in cell.comparisons
                ],
            }
            for cell in cells
        ],
    }


def finite(value: Estimate) -> dict[str, float | None]:
    return {name: number if isfinite(number) else None for name, number in value._asdict().items()}


def place(cell: Cell) -> str:
    return ", ".join(filter(None, (cell.group, cell.name)))


def as_markdown(cells: Sequence[Cell], under: dict[str, Any]) -> str:
    """The run as a page of tables."""
    packages = ", ".join(f"{name} {number}" for name, number in under["packages"].items())
    parts = [
        "# What a request and a scrape cost",
        f"{under['date']}, {under['cpu']}, {under['cores']} cores "
        f"(load average before the run {under['load_before']}), {under['system']}, {under['python']}; "
        f"{under['rounds']} rounds, blocks of {under['block']} requests. "
        f"{packages}.",
        METHOD,
        "## Numbers to reach",
        numbers(cells),
    ]
    for row, title in ROWS.items():
        chosen = [cell for cell in cells if cell.row == row]
        for group in dict.fromkeys(cell.group for cell in chosen):
            grouped = [cell for cell in chosen if cell.group == group]
            heading = f"## {title}" + (f": {group}" if group else "")
            parts += [heading, f"In {grouped[0].unit}.", costs(grouped), *ratios(grouped)]
    return "\n\n".join(parts) + "\n"


def numbers(cells: Sequence[Cell]) -> str:
    return table(
        ("", "must", "aim", "contender", "worst setting", "there", "verdict"),
        (
            (
                str(each.target),
                f"{'≥' if each.target.less else '≤'} {each.target.number(each.target.must)}",
                each.target.number(each.target.aim),
                each.comparison.ours,
                place(each.cell),
                reading(each.comparison),
                each.verdict,
            )
            for each in outcomes(cells)
        ),
    )


def costs(cells: Sequence[Cell]) -> str:
    names = dict.fromkeys(name for cell in cells for name in cell.cost)
    rows = [(name, *(interval(cell.cost.get(name)) for cell in cells)) for name in names]
    if cells[0].bare:
        rows.insert(0, ("the bare application itself", *(interval(cell.bare) for cell in cells)))
    return table(("", *(cell.name for cell in cells)), rows)


def ratios(cells: Sequence[Cell]) -> list[str]:
    """A table for each number to reach that *cells* bear on."""
    found = []
    for target in TARGETS:
        bound = {
            (cell.name, each.ours): f"{reading(each)} {target.verdict(each.ratio.high)}"
            for cell in cells
            for each in cell.comparisons
            if each.target is target
        }
        names = list(dict.fromkeys(name for name, _ in bound))
        if bound:
            rows = [(ours, *(bound[name, ours] for name in names)) for ours in dict.fromkeys(o for _, o in bound)]
            found.append(table((str(target), *names), rows))
    return found


def reading(comparison: Comparison) -> str:
    """The ratio as its target reads it, the bad end last."""
    assert comparison.target
    median, low, high = (comparison.target.number(each) for each in comparison.ratio)
    return f"{median} [{low}–{high}]"


def interval(value: Estimate | None) -> str:
    return f"{value.median:.1f} [{value.low:.1f}–{value.high:.1f}]" if value else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that is also aligned for a terminal."""
    cells = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in cells)

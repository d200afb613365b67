"""What the README says of a run: its figures come from here and from nowhere else."""

import re
from pathlib import Path
from typing import Any, Final

README: Final = Path(__file__).parent.parent.parent / "README.md"
_BLOCK: Final = re.compile(r"(?<=<!-- bench -->\n).*?(?=<!-- /bench -->)", re.DOTALL)
_OURS: Final = "exemplars, fresh"


def quote(results: dict[str, Any]) -> str:
    """The block for the README, from the results as JSON has them."""
    cells = {(cell["row"], cell["group"], cell["name"]): cell for cell in results["cells"]}
    one, many = cells["asgi", "Starlette", "1 route, sampled"], cells["asgi", "Starlette", "60 routes, sampled"]
    flask = cells["wsgi", "Flask", "1 route, sampled"]
    page = next(cell for cell in results["cells"] if cell["row"] == "render")
    others = [name for cell in (one, flask) for name in cell["cost"] if "exemplars" not in name]
    lines = [
        "Added to one request with a sampled span, exemplars on, in microseconds of CPU time:",
        "",
        "| | Starlette, 1 route | 60 routes | Flask |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys([_OURS, *others]):
        figures = [_microseconds(cell, name) for cell in (one, many, flask)]
        lines.append(f"| {'**exemplars**' if name == _OURS else name} | {' | '.join(figures)} |")
    cost = {name: each["median"] for name, each in page["cost"].items()}
    theirs = cost["prometheus_client"]
    cold, warm = cost["exemplars, cold"], cost["exemplars, warm, 150 exemplars new"]
    under = results["conditions"]
    lines += [
        "",
        "OpenTelemetry's makes the span as well. A page of 600 label sets, 10,200 lines with exemplars, takes "
        f"{cold:.0f} ms at the first scrape and {warm:.0f} ms at later ones; prometheus_client takes {theirs:.0f} ms.",
        "",
        f"Medians of {under['rounds']} interleaved rounds in one run on {under['cores']} shared cores ({under['cpu']}, "
        f"{under['python']}). What they mean, all settings, intervals and the numbers that we fall short of: "
        "[tests/bench/results.md](tests/bench/results.md) and [docs/performance.md](docs/performance.md). `make bench` "
        "measures again.",
        "",
    ]
    return "\n".join(lines)


def update(results: dict[str, Any]) -> None:
    """Write the block into the README."""
    README.write_text(_BLOCK.sub(lambda _: quote(results), README.read_text()))


def quoted() -> str:
    """The block that is in the README."""
    found = _BLOCK.search(README.read_text())
    return found[0] if found else ""


def _microseconds(cell: dict[str, Any], name: str) -> str:
    cost = cell["cost"].get(name)
    return f"{cost['median']:.0f}" if cost else "–"

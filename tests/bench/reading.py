"""A page as workers and series become many: measured point by point, kept as data, drawn as a picture."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from . import crew, plot
from .observations import memory
from .processes import ROOT, Process
from .subject import NotRecordedError

WORKERS: Final = (1, 2, 4, 8, 16, 32, 64)
SERIES: Final = (100, 300, 1_000, 3_000, 10_000, 30_000)
USUAL_WORKERS: Final = 8
USUAL_SERIES: Final = 600
SCRAPES: Final = 5  # of each kind at each point
COLD: Final = "first scrape of a process"
COUNTS_NEW: Final = "every count new"
NOTHING_NEW: Final = "nothing new"
STEP: Final = "longest step without a turn of the event loop"
DATA: Final = Path(__file__).parent / "reading.json"
PICTURE: Final = ROOT / "docs" / "reading.svg"


class Point(NamedTuple):
    """CPU milliseconds of a page by what is new, the least of some scrapes; each of 15 buckets has an exemplar."""

    workers: int
    series: int
    milliseconds: dict[str, float]


def points(workers: Sequence[int] = WORKERS, series: Sequence[int] = SERIES) -> list[tuple[int, int]]:
    """The two lines that are measured, of workers and of series."""
    return sorted({*((each, USUAL_SERIES) for each in workers), *((USUAL_WORKERS, each) for each in series)})


def measure(at: Sequence[tuple[int, int]], scrapes: int) -> Iterator[Point]:
    """Measure at each of *at*. Raises NotRecordedError unless each page tells all that was counted."""
    for workers, series in at:
        with tempfile.TemporaryDirectory(prefix="exemplars-bench-", dir=memory()) as directory:
            environment = {"EXEMPLARS_DIR": directory}
            with Process(crew.__name__, "filler", str(workers), str(series), environment=environment) as filler:
                yield Point(workers, series, scraped(filler, environment, scrapes))


def scraped(filler: Process, environment: dict[str, str], scrapes: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {COLD: [], COUNTS_NEW: [], NOTHING_NEW: [], STEP: []}

    def ask(scraper: Process, command: str, wanted: Any) -> Any:
        found = scraper.ask(command)
        if {name: found[name] for name in wanted} != wanted:
            raise NotRecordedError(f"the page tells {found}, the workers have {wanted}")
        return found

    for _ in range(scrapes):
        with (
            Process(crew.__name__, "scraper", environment=environment) as one,
            Process(crew.__name__, "scraper", environment=environment) as other,
        ):
            wanted = filler.ask("filled")
            seconds[COLD].append(ask(one, "ours", wanted)["seconds"])
            seconds[STEP].append(ask(other, "ours gap", wanted)["cpu"])
            seconds[COUNTS_NEW].append(ask(one, "ours", filler.ask("counts"))["seconds"])
            seconds[NOTHING_NEW].append(ask(one, "ours", filler.ask("filled"))["seconds"])
    # The least: what comes on top of it is other processes', and differs from point to point.
    return {name: round(min(values) * 1e3, 3) for name, values in seconds.items()}


def keep(measured: Sequence[Point], under: dict[str, Any]) -> None:
    """Write the points, with what they were measured *under*, and the picture of them."""
    data = {"conditions": under, "points": [point._asdict() for point in measured]}
    DATA.write_text(json.dumps(data, indent=1) + "\n")
    PICTURE.write_text(picture(data))


def picture(data: dict[str, Any]) -> str:
    """The picture of what `keep` wrote."""
    measured = [Point(**each) for each in data["points"]]
    panels = [
        plot.Panel(
            f"{USUAL_SERIES} series",
            "workers",
            {
                name: [(p.workers, p.milliseconds[name]) for p in measured if p.series == USUAL_SERIES]
                for name in measured[0].milliseconds
            },
        ),
        plot.Panel(
            f"{USUAL_WORKERS} workers",
            "series",
            {
                name: [(p.series, p.milliseconds[name]) for p in measured if p.workers == USUAL_WORKERS]
                for name in measured[0].milliseconds
            },
        ),
    ]
    return plot.draw("CPU milliseconds of a page, an exemplar in each of 15 buckets", panels)

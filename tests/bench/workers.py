"""The page of several workers: its time and memory, and how long the event loop waits for it."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from . import crew, render
from .observations import memory
from .ours import ALL_NEW, COLD, OURS
from .processes import Process
from .result import GAP, MEMORY, MERGED_COLD, MERGED_COUNTS, Cell, Row, Target, alone, pair
from .stats import estimate
from .subject import NotRecordedError

WORKERS: Final = 8
WEIGHINGS: Final = 3
THEIRS: Final = "prometheus_client"
COUNTS_NEW: Final = f"{OURS}, every count new"
NOTHING_NEW: Final = f"{OURS}, nothing new"
ADOPTING: Final = f"{OURS}, cold, a file adopted"
PEAK: Final = f"{OURS}, at most"
KEPT: Final = f"{OURS}, kept afterwards"
# What is done before each scrape but the first of a process, and how that scrape is called.
LATER: Final = {"counts": COUNTS_NEW, "exemplars": ALL_NEW, "": NOTHING_NEW}
TARGETS: Final[Mapping[str, Target]] = {COLD: MERGED_COLD, ALL_NEW: MERGED_COLD, COUNTS_NEW: MERGED_COUNTS}

OF_CPU: Final = ", CPU time alone"

Costs = dict[str, list[float]]


class Crew:
    """Workers that have counted, each in a process of its own, and those who scrape them."""

    def __init__(self, directory: str, stack: ExitStack) -> None:
        self._ours, self._theirs = os.path.join(directory, "ours"), os.path.join(directory, "theirs")
        os.mkdir(self._ours, 0o700)
        os.mkdir(self._theirs)
        shared = {"EXEMPLARS_DIR": self._ours, "PROMETHEUS_MULTIPROC_DIR": self._theirs}
        self.workers = [
            stack.enter_context(Process(crew.__name__, "worker", str(number), environment=shared))
            for number in range(WORKERS)
        ]
        self.said: list[Any] = []
        self.have("fill")

    def scraper(self) -> Process:
        """Another worker, which has counted nothing and was not scraped yet."""
        return Process(
            crew.__name__, "scraper", environment={"EXEMPLARS_DIR": self._ours, crew.THEIR_FILES: self._theirs}
        )

    def have(self, command: str) -> None:
        """Have each worker do it, one after the other: of a bucket the last one's exemplar is then the newest."""
        if command:
            self.said = [worker.ask(command) for worker in self.workers]

    def ask(self, scraper: Process, command: str, *, alive: bool = True) -> Any:
        """What *scraper* answers. Raises NotRecordedError unless its page tells all that was counted.

        Where the workers are not *alive*, it shows no exemplar: all of theirs were taken in their last moments, and the
        spans behind them may have died unsent.
        """
        found = scraper.ask(command)
        if command.startswith("theirs"):
            wanted = {"counted": sum(each["theirs"] for each in self.said), "exemplars": 0, "traces": 0}
        else:
            buckets = len(render.LABEL_SETS) * len(render.AMOUNTS)
            counted = sum(each["ours"] for each in self.said)
            wanted = {"counted": counted, "exemplars": buckets, "traces": self.said[-1]["traces"]}
            if not alive:
                wanted |= {"exemplars": 0, "traces": 0}
        told = {name: found[name] for name in wanted}
        if told != wanted:
            raise NotRecordedError(f"{command}: the page tells {told}, the workers have {wanted}")
        return found


@contextmanager
def hired() -> Iterator[Crew]:
    with tempfile.TemporaryDirectory(prefix="exemplars-bench-", dir=memory()) as directory, ExitStack() as stack:
        yield Crew(directory, stack)


def measure(rows: Sequence[Row], rounds: int) -> list[Cell]:
    """The rows ``workers`` and ``loop``, as far as they are in *rows*; in ms and MB. Raises NotRecordedError."""
    cells: list[Cell] = []
    with hired() as crew:
        timed, gaps = scrapes(crew, rounds)
        if "workers" in rows:
            cells += [page(timed), weights(crew), start(crew, rounds)]
        if "loop" in rows:
            cells.append(gap(gaps))
    return cells


def scrapes(crew: Crew, rounds: int) -> tuple[Costs, Costs]:
    """Seconds, and longest gaps in seconds, of the scrapes of *rounds* pairs of processes."""
    timed: Costs = {}
    gaps: Costs = {}

    def take(name: str, side: str) -> None:
        timed.setdefault(name, []).append(crew.ask(one, side)["seconds"])
        found = crew.ask(other, f"{side} gap")
        gaps.setdefault(name, []).append(found["seconds"])
        gaps.setdefault(f"{name}{OF_CPU}", []).append(found["cpu"])

    for number in range(rounds):
        with crew.scraper() as one, crew.scraper() as other:
            for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                take(COLD if side == "ours" else THEIRS, side)
            for command, name in LATER.items():
                crew.have(command)
                take(name, "ours")
    return timed, gaps


def page(timed: Costs) -> Cell:
    return Cell(
        row="workers",
        group="time",
        name=f"{WORKERS} workers, {render.LINES:,} lines",
        unit="ms",
        cost=in_thousandths(timed),
        comparisons=[pair(timed, name, THEIRS, TARGETS.get(name)) for name in timed if name != THEIRS],
    )


def weights(crew: Crew) -> Cell:
    """Both are weighed at the first scrape of a process; theirs keeps nothing from one scrape to the next."""
    megabytes: Costs = {}
    for _ in range(WEIGHINGS):
        for side, peak, kept in (("ours", PEAK, KEPT), ("theirs", f"{THEIRS}, at most", f"{THEIRS}, kept afterwards")):
            with crew.scraper() as scraper:
                found = crew.ask(scraper, f"{side} weighed")
            megabytes.setdefault(peak, []).append(found["peak"] / 1e6)
            megabytes.setdefault(kept, []).append(found["kept"] / 1e6)
    return Cell(
        row="workers",
        group="memory of the first scrape",
        name=f"{WORKERS} workers, {render.LINES:,} lines",
        unit="MB",
        cost={name: estimate(values) for name, values in megabytes.items()},
        comparisons=[alone(megabytes, PEAK, MEMORY), alone(megabytes, KEPT, MEMORY)],
    )


def start(crew: Crew, rounds: int) -> Cell:
    """All workers are killed; the next process goes on in the file of one of them, and shows the numbers of all."""
    for worker in crew.workers:
        worker.kill()
    timed: Costs = {}
    for number in range(rounds):
        with crew.scraper() as scraper:
            for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                name = ADOPTING if side == "ours" else THEIRS
                timed.setdefault(name, []).append(crew.ask(scraper, side, alive=False)["seconds"])
    return Cell(
        row="workers",
        group="after a start",
        name=f"{WORKERS} files of workers that were killed",
        unit="ms",
        cost=in_thousandths(timed),
        comparisons=[pair(timed, ADOPTING, THEIRS)],
    )


def gap(gaps: Costs) -> Cell:
    milliseconds = {name: [each * 1e3 for each in values] for name, values in gaps.items()}
    return Cell(
        row="loop",
        group="",
        name=f"{WORKERS} workers, {render.LINES:,} lines",
        unit="ms",
        cost=in_thousandths(gaps),
        comparisons=[alone(milliseconds, name, GAP) for name in gaps if not name.startswith(THEIRS)],
    )


def in_thousandths(costs: Costs) -> dict[str, Any]:
    return {name: estimate([each * 1e3 for each in values]) for name, values in costs.items()}

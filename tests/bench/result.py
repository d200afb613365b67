"""What a run found out, against the numbers to reach."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, Literal, NamedTuple

from .ours import ALL_NEW, COLD, MARK_ALL, OURS
from .peers import BY_HAND
from .stats import Estimate, estimate

Row = Literal["asgi", "wsgi", "render", "shared", "workers", "loop", "cpu"]
ROWS: Final[Mapping[Row, str]] = {
    "asgi": "Added to one ASGI request",
    "wsgi": "Added to one WSGI request",
    "render": "One page of 600 label sets, 10,200 lines with exemplars",
    "shared": "One observation, in private memory and in a file that workers share",
    "workers": "The same page over 8 workers",
    "loop": "Longest time without a turn of the event loop while that page is asked for",
    "cpu": "CPU time of a server for one request",
}


class Target(NamedTuple):
    """
    Ours must cost at most *must* times, and aims for *aim* times, what the *peer* does.

    *less*: better read the other way round, as so many times less. Without a peer the numbers are in the unit of the
    row itself.
    """

    row: Row
    what: str
    peer: str
    must: float
    aim: float
    less: bool = True

    def number(self, ratio: float) -> str:
        """*ratio*, of ours to the peer, as it is best read."""
        if not self.less:
            return f"{ratio:.2f}"
        return f"{1 / ratio:.1f}" if ratio > 0 else "∞"

    def verdict(self, bad_end: float) -> str:
        return "aim reached" if bad_end <= self.aim else "must reached" if bad_end <= self.must else "short"

    def __str__(self) -> str:
        return f"{self.what}, {'× less than' if self.less else '×'} {self.peer}" if self.peer else self.what


PRIVATE: Final = f"{OURS}, private memory"
BARE_SERVER: Final = "the bare application"
COLD_TARGET: Final = Target("render", "page, cold", "prometheus_client", 1 / 5, 1 / 10)
SHARED_TARGET: Final = Target("shared", "observation in a shared file", PRIVATE, 1.25, 1.1, less=False)
MERGED_COLD: Final = Target("workers", "page of 8 workers, all new", "prometheus_client", 1 / 10, 1 / 15)
MERGED_COUNTS: Final = Target("workers", "page of 8 workers, counts new", "prometheus_client", 1 / 30, 1 / 60)
MEMORY: Final = Target("workers", "memory for that page, MB", "", 6.0, 6.0, less=False)
GAP: Final = Target("loop", "longest gap between turns of the event loop, ms", "", 5.0, 2.0, less=False)
CPU: Final = Target("cpu", "CPU time of a request under uvicorn", BARE_SERVER, 1.05, 1.02, less=False)
TARGETS: Final = (
    Target("asgi", "ASGI request", BY_HAND, 0.6, 0.4, less=False),
    Target("asgi", "ASGI request", "starlette_exporter", 1 / 8, 1 / 15),
    Target("wsgi", "WSGI request", "prometheus_flask_exporter", 1 / 10, 1 / 15),
    COLD_TARGET,
    Target("render", "page, warm", "prometheus_client", 1 / 10, 1 / 25),
    SHARED_TARGET,
    MERGED_COLD,
    MERGED_COUNTS,
    MEMORY,
    GAP,
    CPU,
)


@dataclass(frozen=True)
class Comparison:
    """How many times the cost of *peer* *ours* has, from pairs of the same round; without a peer, the cost itself."""

    ours: str
    peer: str
    ratio: Estimate
    target: Target | None


@dataclass(frozen=True)
class Cell:
    """One setting of a row: what each contender costs, in *unit*; on top of the *bare* application if there is one."""

    row: Row
    group: str
    name: str
    unit: str
    cost: Mapping[str, Estimate]
    comparisons: Sequence[Comparison]
    bare: Estimate | None = None


def compare(row: Row, costs: Mapping[str, Sequence[float]], *, binding: bool = True) -> list[Comparison]:
    """
    Each of ours with each peer; *costs* are paired by round.

    The numbers to reach hold where this is *binding*, except for what no default of ours can come to. A page on which
    every exemplar is new has as little to keep as a cold one, and is held to its number.
    """

    def target(ours: str, peer: str) -> Target | None:
        for each in TARGETS:
            fits = row != "render" or (each is COLD_TARGET) == (ours in (COLD, ALL_NEW))
            if (each.row, each.peer) == (row, peer) and fits:
                return each if binding and ours != MARK_ALL else None
        return None

    return [
        pair(costs, ours, peer, target(ours, peer))
        for ours in costs
        if ours.startswith(OURS)
        for peer in costs
        if not peer.startswith(OURS)
    ]


def pair(costs: Mapping[str, Sequence[float]], ours: str, peer: str, target: Target | None = None) -> Comparison:
    """*ours* with *peer*; *costs* are paired by round."""
    ratios = [a / b if b > 0 else inf for a, b in zip(costs[ours], costs[peer], strict=True)]
    return Comparison(ours, peer, estimate(ratios), target)


def alone(costs: Mapping[str, Sequence[float]], ours: str, target: Target) -> Comparison:
    """The cost of *ours*, which is held to a number by itself."""
    return Comparison(ours, "", estimate(costs[ours]), target)


class Outcome(NamedTuple):
    """How far one of ours reaches a number: *comparison* is its worst, found in *cell*."""

    target: Target
    cell: Cell
    comparison: Comparison

    @property
    def verdict(self) -> str:
        return self.target.verdict(self.comparison.ratio.high)


def outcomes(cells: Sequence[Cell]) -> list[Outcome]:
    """The outcomes for each number that *cells* say something about, one for each of ours that is held to it."""
    worst: dict[tuple[int, str], Outcome] = {}
    for cell in cells:
        for comparison in cell.comparisons:
            if comparison.target is not None:
                outcome = Outcome(comparison.target, cell, comparison)
                key = TARGETS.index(comparison.target), comparison.ours
                if key not in worst or worst[key].comparison.ratio.high < comparison.ratio.high:
                    worst[key] = outcome
    return [worst[key] for key in sorted(worst, key=lambda key: key[0])]

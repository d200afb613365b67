"""Pages as the workers answer them, and what must hold of each, and from each to the next."""

import http.client
import time
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from prometheus_client import Metric as MetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exemplars import semconv
from tests.faults.app import WORKER
from tests.faults.load import Load

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
CUMULATIVE: Final = ("_count", "_bucket", "_sum", "_total")  # suffixes of what only rises

Series = tuple[str, tuple[tuple[str, str], ...]]  # name and labels


class Dot(NamedTuple):
    """An exemplar as it is shown."""

    timestamp: float
    value: float
    labels: tuple[tuple[str, str], ...]


class Page(NamedTuple):
    """What one worker answered, and between which moments of the monotonic clock."""

    started: float
    ended: float
    worker: int
    families: dict[str, MetricFamily]

    def counts(self, name: str = semconv.DURATION) -> dict[str, int]:
        """Observations of the histogram *name* by route."""
        found: dict[str, int] = {}
        for sample in self.families[name].samples if name in self.families else ():
            if sample.name.endswith("_count"):
                route = sample.labels.get(semconv.ROUTE, "")
                found[route] = found.get(route, 0) + int(sample.value)
        return found

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples *name* whose labels include *labels*."""
        return sum(
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def scrape(host: str, port: int, *, timeout: float = 30.0, query: str = "") -> Page:
    """The page as any one worker answers it to *query*. Raises ``OSError`` or ``HTTPException`` when it is not whole.

    What is no page of OpenMetrics fails here, in prometheus_client's parser.
    """
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    started = time.monotonic()
    try:
        connection.request("GET", f"/metrics?{query}", headers={"Accept": OPENMETRICS, "Connection": "close"})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    ended = time.monotonic()
    assert response.status == 200, body
    families = text_string_to_metric_families(body.decode())  # type: ignore[no-untyped-call]
    return Page(started, ended, int(response.headers.get(WORKER, 0)), {family.name: family for family in families})


@dataclass
class Rules:
    """What must hold of pages scraped one after the other. Raises ``AssertionError`` where it does not."""

    load: Load
    pages: list[tuple[float, float, dict[str, int]]] = field(default_factory=list)  # started, ended, counts by route
    workers: set[int] = field(default_factory=set)  # that have answered
    exemplars: set[Dot] = field(default_factory=set)  # different ones that were shown
    _numbers: dict[Series, float] = field(default_factory=dict)
    _dots: dict[Series, Dot] = field(default_factory=dict)

    def check(self, page: Page) -> None:
        self.pages.append((page.started, page.ended, page.counts()))
        self.workers.add(page.worker)
        for family in page.families.values():
            below = 0.0
            for sample in family.samples:
                series = sample.name, tuple(sorted(sample.labels.items()))
                if sample.name.endswith(CUMULATIVE):
                    before = self._numbers.get(series, 0.0)
                    assert sample.value >= before, f"{series} fell from {before} to {sample.value}, {page.worker}"
                    self._numbers[series] = sample.value
                bound = float(sample.labels.get("le", "nan"))
                if sample.exemplar is not None:
                    assert sample.exemplar.timestamp is not None
                    shown = tuple(sample.exemplar.labels.items())
                    dot = Dot(float(sample.exemplar.timestamp), sample.exemplar.value, shown)
                    assert below < dot.value <= bound, f"{dot} in the bucket from {below} to {bound}"
                    self._check_dot(series, sample.labels, dot, page.worker)
                below = bound if sample.name.endswith("_bucket") and bound < float("inf") else 0.0

    def _check_dot(self, series: Series, labels: dict[str, str], dot: Dot, worker: int) -> None:
        before = self._dots.get(series)
        if before is not None and dot != before:
            assert dot.timestamp > before.timestamp, f"{series} went back from {before} to {dot}, {worker}"
        self._dots[series] = dot
        self.exemplars.add(dot)
        shown = dict(dot.labels)
        assert shown.keys() == {semconv.TRACE_ID, semconv.SPAN_ID}
        number = self.load.number(shown[semconv.TRACE_ID], shown[semconv.SPAN_ID])
        assert number is not None, f"{dot} at {series} was never handed out"
        assert self.load.route(number) == labels[semconv.ROUTE], f"{dot} at {series} is of {self.load.route(number)}"

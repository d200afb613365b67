"""What a page costs: the same 600 label sets in ours and in prometheus_client's, an exemplar in every bucket."""

import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from time import thread_time
from typing import Any, Final

import prometheus_client
from opentelemetry import trace
from opentelemetry.context import attach, detach
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import exemplars

from . import asgi, byhand
from .ours import ALL_NEW, COLD, LASTING, OURS
from .result import Cell, compare
from .rounds import interleave
from .spans import current
from .stats import estimate
from .subject import NotRecordedError

ACCEPT: Final = "application/openmetrics-text; version=1.0.0"
LABEL_SETS: Final = [
    (method, f"/api/v1/resource{number}/{{item_id}}", status, "http", status if status == "500" else "")
    for number, method, status in product(range(60), ("GET", "POST"), ("200", "201", "400", "404", "500"))
]
AMOUNTS: Final = [bound * 0.9 for bound in byhand.BUCKETS] + [12.5]
NEW: Final = 150
SAMPLED: Final = trace.TraceFlags(trace.TraceFlags.SAMPLED)
LINES: Final = len(LABEL_SETS) * (len(AMOUNTS) + 2)


class Pages:
    """A registry with one histogram of either kind, whose series and buckets are used once `exemplars` was called.

    *traces* are the trace ids of the last exemplars; *seed* makes them other ones.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        observe: Callable[[Any, float, int, int], None],
        page: Callable[[CollectorRegistry], bytes],
        seed: int,
        **options: Any,
    ) -> None:
        self.registry = CollectorRegistry()
        self.histogram = make(
            byhand.DURATION,
            "Duration of HTTP server requests.",
            byhand.LABELS,
            registry=self.registry,
            buckets=byhand.BUCKETS,
            **options,
        )
        self.observe = observe
        self.page = page
        self.observations = 0
        # The same ids for both kinds, new ones for each change.
        self.ids = random.Random(seed)
        self.traces: dict[tuple[tuple[str, ...], float], int] = {}

    def exemplars(self) -> None:
        """Observe once in every bucket, each time with another exemplar."""
        for labels in LABEL_SETS:
            for amount in AMOUNTS:
                self._take(labels, amount)
        self.observations += len(LABEL_SETS) * len(AMOUNTS)

    def counts(self) -> None:
        """Observe once in the first bucket of every series, so that each of its lines changes, but no exemplar."""
        for labels in LABEL_SETS:
            self.histogram.labels(*labels).observe(AMOUNTS[0], exemplar={})
        self.observations += len(LABEL_SETS)

    def usual(self) -> None:
        """Change every line, and as many exemplars as ten marks a second allow in a quarter of a minute."""
        self.counts()
        for labels in self.ids.sample(LABEL_SETS, NEW):
            self._take(labels, self.ids.choice(AMOUNTS))
        self.observations += NEW

    def _take(self, labels: tuple[str, ...], amount: float) -> None:
        trace_id = self.traces[labels, amount] = self.ids.getrandbits(128)
        self.observe(self.histogram.labels(*labels), amount, trace_id, self.ids.getrandbits(64))

    def render(self) -> bytes:
        return self.page(self.registry)

    def seconds(self) -> float:
        """Render the page; return the seconds. Raises NotRecordedError if it is not all there."""
        began = thread_time()
        page = self.render()
        seconds = thread_time() - began
        counted = re.findall(rb"^%b_count{.*} (\d+)" % byhand.DURATION.encode(), page, re.MULTILINE)
        if sum(map(int, counted)) != self.observations:
            raise NotRecordedError("the page does not show every observation")
        return seconds

    def samples(self) -> Iterator[tuple[object, ...]]:
        """What the page says, without the exemplars' timestamps."""
        for family in text_string_to_metric_families(self.render().decode()):  # type: ignore[no-untyped-call]
            for each in family.samples if family.name == byhand.DURATION else ():
                shown = each.exemplar and (each.exemplar.labels["trace_id"], each.exemplar.value)
                yield each.name, tuple(sorted(each.labels.items())), each.value, shown


def theirs(seed: int = 7) -> Pages:
    """Theirs, without observations yet."""

    def observe(series: Any, amount: float, trace_id: int, span_id: int) -> None:
        ids = {"trace_id": trace.format_trace_id(trace_id), "span_id": trace.format_span_id(span_id)}
        series.observe(amount, exemplar=ids)

    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    return Pages(prometheus_client.Histogram, observe, generate_latest, seed)


def ours(seed: int = 7) -> Pages:
    """Ours, without observations yet."""

    def observe(series: Any, amount: float, trace_id: int, span_id: int) -> None:
        span = trace.NonRecordingSpan(trace.SpanContext(trace_id, span_id, False, SAMPLED))
        token = attach(current(span))
        series.observe(amount)
        detach(token)

    # The process's marks are those of the middleware made last: none, so that every sampled span will do.
    exemplars.ASGIMiddleware(asgi.raw(1), registry=CollectorRegistry(), marks_per_second=0.0)
    page = partial(exemplars.render, accept=ACCEPT)
    return Pages(exemplars.Histogram, observe, lambda registry: page(registry)[0], seed, policy=LASTING)


def filled(pages: Pages) -> Pages:
    """*pages* with an exemplar in every bucket."""
    pages.exemplars()
    return pages


def prove() -> None:
    """Raise NotRecordedError unless both pages say the same, in 10,200 lines of which 9,000 bear an exemplar."""
    their_page, our_page = sorted(filled(theirs()).samples(), key=repr), sorted(filled(ours()).samples(), key=repr)
    if their_page != our_page:
        raise NotRecordedError("the pages differ")
    with_exemplar = sum(each[-1] is not None for each in our_page)
    if (len(our_page), with_exemplar) != (LINES, len(LABEL_SETS) * len(AMOUNTS)):
        raise NotRecordedError(f"{len(our_page)} lines, {with_exemplar} exemplars")


def measure(rounds: int) -> Cell:
    """Time the page, in milliseconds. Raises NotRecordedError as `prove` and `Pages.seconds` do."""
    prove()
    their, warm = filled(theirs()), filled(ours())
    warm.seconds()

    def after(change: Callable[[], None]) -> float:
        warm.seconds()
        change()
        return warm.seconds()

    seconds = interleave(
        {
            "prometheus_client": their.seconds,
            COLD: lambda: filled(ours()).seconds(),
            ALL_NEW: lambda: after(warm.exemplars),
            f"{OURS}, warm, {NEW} exemplars new": lambda: after(warm.usual),
            f"{OURS}, warm, no exemplar new": lambda: after(warm.counts),
            f"{OURS}, warm, nothing new": lambda: after(lambda: None),
        },
        rounds,
    )
    return Cell(
        row="render",
        group="",
        name=f"{LINES:,} lines",
        unit="ms",
        cost={name: estimate([each * 1e3 for each in values]) for name, values in seconds.items()},
        comparisons=compare("render", seconds),
    )

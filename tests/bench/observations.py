"""What an observation costs in a file that workers share, against private memory: ours and prometheus_client's."""

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic, thread_time
from typing import Any, Final
from unittest import mock

import prometheus_client
from opentelemetry import trace
from opentelemetry.context import attach, detach
from prometheus_client import CollectorRegistry, values

import exemplars
from exemplars.store import directory, shared
from exemplars.store.layout import Schema
from exemplars.store.reader import Reader

from . import asgi, byhand
from .ours import FRESH
from .render import AMOUNTS, SAMPLED
from .result import PRIVATE, SHARED_TARGET, Cell, pair
from .rounds import interleave
from .spans import current
from .stats import estimate
from .subject import NotRecordedError

SERIES: Final = 60
IN_FILE: Final = "exemplars, shared file"
THEIRS: Final = "prometheus_client, private memory"
THEIR_FILE: Final = "prometheus_client, multiprocess"

Observe = Callable[[float], None]


class Subject:
    """A histogram whose series are observed in turn; *counted* reads how often they were."""

    def __init__(self, name: str, histogram: Any, counted: Callable[[], float]) -> None:
        self.name = name
        self.histogram = histogram  # without it, its series would leave the file
        self.series = [histogram.labels("GET", f"/resource{n}", "200", "http", "") for n in range(SERIES)]
        self.counted = counted
        self.observed = 0

    def observe(self, amounts: Sequence[float]) -> float:
        """Observe *amounts*; return the seconds of one."""
        observes: list[Observe] = [series.observe for series in self.series]
        jobs = [(observes[number % SERIES], amount) for number, amount in enumerate(amounts)]
        began = thread_time()
        for observe, amount in jobs:
            observe(amount)
        seconds = thread_time() - began
        self.observed += len(jobs)
        return seconds / len(jobs)

    def check(self) -> None:
        """Raise NotRecordedError unless each observation stands where it should, once."""
        counted = self.counted()
        if counted != self.observed:
            raise NotRecordedError(f"{self.name}: {self.observed} observations, {counted} counted")


def ours(name: str, file: shared.OwnFile | None) -> Subject:
    """Ours, in *file* if there is one, every bucket with an exemplar that stays."""
    exemplars.ASGIMiddleware(asgi.raw(1), registry=CollectorRegistry(), marks_per_second=0.0)
    histogram = exemplars.Histogram(
        byhand.DURATION,
        "Duration of HTTP server requests.",
        byhand.LABELS,
        registry=CollectorRegistry(),
        buckets=byhand.BUCKETS,
        policy=FRESH,
    )

    def counted() -> float:
        records = [each.record for each in subject.series]
        if file is None:
            return sum(sum(record.counts) for record in records)
        return sum(sum(stored) for stored in in_file(file))

    schema = Schema("", histogram.kind, histogram.name, "", histogram.labelnames, histogram.bounds)
    subject = Subject(name, histogram, counted)
    for number, series in enumerate(subject.series):
        if file is not None:
            series.record = file.place((schema, series.key), FRESH.min_retention)
        for amount in AMOUNTS:
            span = trace.NonRecordingSpan(trace.SpanContext(number + 1, number + 1, False, SAMPLED))
            token = attach(current(span))
            series.observe(amount * 1.05)  # slower than any that follow in its bucket: its exemplar stays
            detach(token)
            subject.observed += 1
        if None in series.record.slots:
            raise NotRecordedError(f"{name}: a bucket has no exemplar")
    return subject


def in_file(file: shared.OwnFile) -> Iterator[Sequence[int]]:
    """The counts of each series, as another process would read them."""
    reader = Reader(file.directory, refuse)
    for _ in reader.refresh():
        pass
    for schema in reader.schemas():
        for series in reader.series(schema):
            yield series.read()[0]


def theirs(name: str, value_class: Callable[..., Any]) -> Subject:
    """prometheus_client's, its numbers kept by *value_class*, which its environment would choose."""
    registry = CollectorRegistry()
    with mock.patch.object(values, "ValueClass", value_class):
        histogram = prometheus_client.Histogram(
            byhand.DURATION,
            "Duration of HTTP server requests.",
            byhand.LABELS,
            registry=registry,
            buckets=byhand.BUCKETS,
        )
        subject = Subject(name, histogram, lambda: sum(sum(each.get() for each in s._buckets) for s in subject.series))
    return subject


def refuse(reason: str, name: str, detail: str) -> None:
    raise NotRecordedError(f"{name}, {reason}: {detail}")


@contextmanager
def subjects() -> Iterator[list[Subject]]:
    with tempfile.TemporaryDirectory(prefix="exemplars-bench-", dir=memory()) as place:
        named = mock.patch.dict(os.environ, PROMETHEUS_MULTIPROC_DIR=place)
        made = directory.of_group(None, ("EXEMPLARS_DIR", place))
        file = shared.OwnFile.obtain(made, monotonic())
        with named:
            multiprocess = theirs(THEIR_FILE, values.MultiProcessValue())  # type: ignore[no-untyped-call]
        try:
            yield [
                ours(PRIVATE, None),
                ours(IN_FILE, file),
                theirs(THEIRS, values.MutexValue),
                multiprocess,
            ]
        finally:
            file.close()
            made.close()


def memory() -> str | None:
    """Where files are in memory, if there is such a place."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def measure(rounds: int, block: int) -> Cell:
    """Time an observation, in microseconds. Raises NotRecordedError as `Subject.check` does."""
    choose = random.Random(3)
    with subjects() as made:
        amounts = [choose.choice(AMOUNTS) for _ in range(10 * block)]
        seconds = interleave({each.name: partial(each.observe, amounts) for each in made}, rounds)
        for each in made:
            each.check()
    return Cell(
        row="shared",
        group="",
        name=f"{SERIES} series",
        unit="µs",
        cost={name: estimate([each * 1e6 for each in found]) for name, found in seconds.items()},
        comparisons=[
            pair(seconds, IN_FILE, PRIVATE, SHARED_TARGET),
            pair(seconds, THEIR_FILE, THEIRS),
            pair(seconds, IN_FILE, THEIR_FILE),
        ],
    )

"""Metrics of every kind with numbers that are known, and the processes that fill them.

`python -m tests.faults.subject fill SEED` fills them, says so in a line, and stays until its input ends. In place of
that, `observe FIRST` observes that number and all that follow in the histogram, and `pages` answers every line of its
input with a page, as a line of JSON.
"""

import itertools
import json
import random
import sys
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from prometheus_client import REGISTRY

from exemplars import Counter, Gauge, Histogram, Policy, make_wsgi_app, render, span

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
BOUNDS: Final = (1.0, 2.0, 4.0, 8.0)
SERIES: Final = 3
_POLICY: Final = Policy(min_retention=0.0, max_age=86_400.0)  # no exemplar vanishes by its age

histogram: Final = Histogram("subject_seconds", "A histogram.", ["series"], buckets=BOUNDS, policy=_POLICY)
counter: Final = Counter("subject", "A counter.", ["series"], policy=_POLICY)
gauge: Final = Gauge("subject_gauge", "A gauge.", ["series"], multiprocess_mode="sum")
make_wsgi_app()  # which brings the library's own metrics to the registry


def observe(number: int, series: str) -> None:
    """Observe *number*, from which value and exemplar follow: by its own labels, by a span, or none."""
    value = value_of(number)
    if number % 3 == 0:
        histogram.labels(series).observe(value, exemplar={"number": str(number)})
        counter.labels(series).inc(exemplar={"number": str(number)})
    else:
        with trace.use_span(NonRecordingSpan(context_of(number))):
            histogram.labels(series).observe(value)
            counter.labels(series).inc()
    gauge.labels(series).inc()


def value_of(number: int) -> int:
    """What is observed for *number*: whole, so that sums are exact, and of any bucket."""
    return number % 10


def trace_of(number: int) -> tuple[int, int]:
    """Trace id and span id of *number*, each long enough to need all of its bytes."""
    return number | 0xABCDEF << 96, number | 0xFEDCBA << 40


def context_of(number: int) -> SpanContext:
    """That of the span of *number*, which is sampled if one is wanted from it."""
    trace_id, span_id = trace_of(number)
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(number % 3 == 1))


def number_of(labels: dict[str, str]) -> int | None:
    """The number whose exemplar has *labels*; ``None`` if there is none."""
    if labels.keys() == {"number"} and labels["number"].isdecimal():
        number = int(labels["number"])
        return number if number % 3 == 0 else None
    if labels.keys() == {"trace_id", "span_id"}:
        trace_id, span_id = int(labels["trace_id"], 16), int(labels["span_id"], 16)
        number = trace_id & (1 << 96) - 1
        return number if number % 3 == 1 and trace_of(number) == (trace_id, span_id) else None
    return None


class _Current(NonRecordingSpan):
    """A span that becomes another, as entering a context takes much longer than an observation does."""

    def show(self, number: int) -> None:
        self._context = context_of(number)


def _main(command: str, argument: str = "0") -> None:
    span.budget(0.0)  # no marks: every sampled span will do
    if command == "fill":
        seed = int(argument)
        choose = random.Random(seed)
        for number in range(seed * 1000, seed * 1000 + choose.randint(100, 300)):
            observe(number, str(choose.randrange(SERIES)))
        print("filled", flush=True)
        sys.stdin.read()
    elif command == "observe":
        print("observing", flush=True)
        series, current = histogram.labels(""), _Current(trace.INVALID_SPAN_CONTEXT)
        with trace.use_span(current):
            for number in itertools.count(int(argument)):
                current.show(number)
                series.observe(value_of(number), exemplar={"number": str(number)} if number % 3 == 0 else None)
    elif command == "pages":
        for _ in sys.stdin:
            page, _content_type = render(REGISTRY, accept=OPENMETRICS)
            print(json.dumps(page.decode()), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""Finding the span of a request, marking it, and the budget of marks."""

import math
import random
import weakref
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
)
from opentelemetry.util.types import AttributeValue

from exemplars import metrics, semconv, span
from exemplars.metrics import Histogram
from exemplars.policy import Policy
from exemplars.span import Budget, Cell, budget, enter, install_processor, leave, mark, process_budget, sampled_context
from tests.measured import Faults
from tests.otel import RecordOnly, Spans, global_spans

SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


def attribute(of: Span) -> object:
    attributes: dict[str, object] = getattr(of, "attributes", None) or {}
    return attributes.get(semconv.MARK)


class Counts:
    """Marks set and refused since it was made."""

    def __init__(self) -> None:
        self._marked, self._refused = span.marked.total, span.refused.total

    @property
    def marked(self) -> int:
        return span.marked.total - self._marked

    @property
    def refused(self) -> int:
        return span.refused.total - self._refused


# What may be shown


@pytest.mark.parametrize(
    "context",
    [
        SpanContext(0, 1, is_remote=False, trace_flags=SAMPLED),
        SpanContext(1, 0, is_remote=False, trace_flags=SAMPLED),
        SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(0)),
        SpanContext(1, 1, is_remote=True, trace_flags=SAMPLED),
    ],
    ids=["no trace", "no span", "not sampled", "remote"],
)
def test_only_a_valid_sampled_span_of_this_process_may_be_shown(context: SpanContext) -> None:
    assert sampled_context(NonRecordingSpan(context)) is None


def test_a_sampled_span_may_be_shown() -> None:
    started = Spans().tracer.start_span("a")
    assert sampled_context(started) is started.get_span_context()


def test_a_span_that_records_without_being_sampled_may_not_be_shown() -> None:
    started = Spans(RecordOnly()).tracer.start_span("a")
    assert started.is_recording()
    assert sampled_context(started) is None


# Marking


def drained(rate: float = 10.0) -> Budget:
    """A budget without marks at 0.0 seconds."""
    empty = Budget(rate)
    while empty.grant(0.0, 0.0, urgent=True):
        pass
    return empty


def test_a_recording_span_is_marked() -> None:
    counts = Counts()
    started = Spans().tracer.start_span("a")
    assert mark(started, Budget(), 0.0, 0.0, urgent=False)
    assert attribute(started) == semconv.MARK_VALUE
    assert (counts.marked, counts.refused) == (1, 0)


def test_without_budget_a_recording_span_is_neither_marked_nor_shown() -> None:
    counts = Counts()
    started = Spans().tracer.start_span("a")
    assert not mark(started, drained(), 0.0, 0.0, urgent=True)
    assert attribute(started) is None
    assert (counts.marked, counts.refused) == (0, 1)


@pytest.mark.parametrize("ended", [False, True])
def test_a_span_that_bears_the_mark_costs_nothing(ended: bool) -> None:
    started = Spans().tracer.start_span("a")
    assert mark(started, Budget(), 0.0, 0.0, urgent=False)
    if ended:
        started.end()

    counts = Counts()
    assert mark(started, drained(), 0.0, 1.0, urgent=False)
    assert (counts.marked, counts.refused) == (0, 0)


def test_a_span_that_ended_with_an_error_needs_no_mark() -> None:
    """The errors policy of any tail sampling keeps it."""
    counts = Counts()
    started = Spans().tracer.start_span("a")
    started.set_status(StatusCode.ERROR)
    started.end()
    assert mark(started, drained(), 0.0, 1.0, urgent=False)
    assert (counts.marked, counts.refused) == (0, 0)


def test_a_span_that_ended_with_an_error_is_shown_in_a_drought_too() -> None:
    histogram = Histogram("duration", "", ("error_type",), registry=None)
    child = histogram.labels("500")
    child.urgent = True
    child.marks = drained()
    ended = Spans().tracer.start_span("a")
    ended.set_status(StatusCode.ERROR)
    ended.end()

    class Source:
        claimed = None

        def span(self) -> Span:
            return ended

    assert not child.marks.grant(0.0, 0.0, urgent=True)
    child.observe_at(0.1, 0.01, Source())
    assert [slot.span_id for slot in child.record.slots if slot is not None] == [ended.get_span_context().span_id]


@pytest.mark.parametrize("status", [StatusCode.UNSET, StatusCode.OK])
def test_a_span_that_ended_without_an_error_cannot_be_marked_any_more(status: StatusCode) -> None:
    counts = Counts()
    started = Spans().tracer.start_span("a")
    started.set_status(status)
    started.end()
    assert not mark(started, Budget(), 0.0, 0.0, urgent=True)
    assert (counts.marked, counts.refused) == (0, 0)


def test_an_ended_span_that_tells_no_status_cannot_be_marked() -> None:
    assert not mark(NonRecordingSpan(SpanContext(1, 1, False, SAMPLED)), Budget(), 0.0, 0.0, urgent=True)


def test_without_marking_every_sampled_span_will_do() -> None:
    counts = Counts()
    started = Spans().tracer.start_span("a")
    assert mark(started, Budget(0.0), 0.0, 1.0, urgent=False)
    assert attribute(started) is None
    started.end()
    assert mark(started, Budget(0.0), 0.0, 1.0, urgent=False)
    assert (counts.marked, counts.refused) == (0, 0)


# The budget

rates = st.floats(0.01, 1000.0)
# Seconds since the last, freshness, error.
asked = st.tuples(st.floats(0.0, 5.0) | st.just(0.0), st.sampled_from([0.0, 0.01, 0.25, 0.5, 1.0]), st.booleans())
histories = st.lists(asked, max_size=200)


@given(rates, histories)
def test_no_stretch_of_time_has_more_marks_than_the_rate_and_one_burst(
    rate: float, history: list[tuple[float, float, bool]]
) -> None:
    marks = Budget(rate)
    now = 1000.0
    granted = []
    for pause, freshness, urgent in history:
        now += pause
        if marks.grant(now, freshness, urgent):
            granted.append(now)
    burst = 2 * max(rate, 1.0)
    for first, start in enumerate(granted):
        for count, end in enumerate(granted[first:], 1):
            assert count <= burst + rate * (end - start) + 1e-6


@given(rates, histories, st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.booleans())
def test_an_older_exemplar_is_replaced_wherever_a_fresher_one_is(
    rate: float, history: list[tuple[float, float, bool]], one: float, other: float, urgent: bool
) -> None:
    older, fresher = sorted((one, other))
    first, second = Budget(rate), Budget(rate)
    now = 0.0
    for pause, freshness, error in history:
        now += pause
        assert first.grant(now, freshness, error) == second.grant(now, freshness, error)
    assert first.grant(now, older, urgent) >= second.grant(now, fresher, urgent)


@given(rates, st.lists(st.tuples(st.floats(0.0, 0.1), st.sampled_from([0.01, 0.5, 1.0])), max_size=300))
def test_what_busy_buckets_take_leaves_half_for_those_that_show_nothing(
    rate: float, history: list[tuple[float, float]]
) -> None:
    marks = Budget(rate)
    now = 0.0
    for pause, freshness in history:
        now += pause
        marks.grant(now, freshness, urgent=False)
    for _ in range(math.floor(max(rate, 1.0))):
        assert marks.grant(now, 0.0, urgent=False)


@given(
    st.floats(2.0, 1000.0),
    st.lists(st.tuples(st.floats(0.0, 0.1), st.sampled_from([0.01, 0.5, 1.0]), st.booleans()), max_size=300),
)
@example(2.2, [(0.0, 0.01, True)] * 10)
def test_errors_leave_one_mark_for_a_bucket_that_shows_nothing(
    rate: float, history: list[tuple[float, float, bool]]
) -> None:
    """However many they are, in buckets that do show something."""
    marks = Budget(rate)
    now = 0.0
    for pause, freshness, urgent in history:
        now += pause
        marks.grant(now, freshness, urgent)
    assert marks.grant(now, 0.0, urgent=False)


def test_an_error_has_the_half_that_others_leave() -> None:
    marks = Budget(10.0)
    while marks.grant(0.0, 0.01, urgent=False):
        pass
    assert not marks.grant(0.0, 0.01, urgent=False)
    assert marks.grant(0.0, 0.01, urgent=True)


@given(rates, histories)
def test_before_the_drought_ends_nothing_is_granted(rate: float, history: list[tuple[float, float, bool]]) -> None:
    marks = Budget(rate)
    now = 0.0
    for pause, freshness, urgent in history:
        now += pause
        dry = now < marks.dry_until - 1e-6
        assert not (marks.grant(now, freshness, urgent) and dry)


@given(rates, histories, asked)
def test_what_was_refused_is_granted_after_the_wait_that_was_told(
    rate: float, history: list[tuple[float, float, bool]], last: tuple[float, float, bool]
) -> None:
    marks = Budget(rate)
    now = 0.0
    for pause, freshness, urgent in history:
        now += pause
        marks.grant(now, freshness, urgent)
    _, freshness, urgent = last
    if not marks.grant(now, freshness, urgent):
        wait = marks.wait(freshness, urgent)
        assert 0.0 < wait <= 2 * max(rate, 1.0) / rate + 1e-6
        assert marks.grant(now + wait * (1 + 1e-9) + 1e-6, freshness, urgent)


@pytest.mark.parametrize("rate", [0.01, 0.5, 1.0, 10.0])
def test_marks_come_back_at_the_rate(rate: float) -> None:
    marks = drained(rate)
    granted = sum(marks.grant(number / (50 * rate), 0.0, urgent=True) for number in range(50 * 200 + 1))
    assert granted == pytest.approx(200, abs=2)


def test_a_clock_that_stands_still_or_goes_back_brings_no_marks() -> None:
    marks = drained()
    assert not marks.grant(0.0, 0.0, urgent=True)
    assert not marks.grant(-100.0, 0.0, urgent=True)
    assert not marks.grant(0.1, 0.0, urgent=True)
    assert marks.grant(0.3, 0.0, urgent=True)


def test_one_rate_has_one_budget_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span, "_budgets", {})
    monkeypatch.setattr(span, "_latest_rate", 10.0)
    assert process_budget().rate == 10.0
    mine = budget(3.0)
    assert budget(3.0) is mine
    assert process_budget() is mine
    assert budget(4.0) is not mine
    assert process_budget() is budget(4.0)


# The promise that marks are kept for


class _Recording(NonRecordingSpan):
    """A sampled span that records its mark, and nothing else, for there are hundreds of thousands."""

    def __init__(self, number: int) -> None:
        super().__init__(SpanContext(number, number, is_remote=False, trace_flags=SAMPLED))
        self.attributes: dict[str, AttributeValue] = {}

    def is_recording(self) -> bool:
        return True

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self.attributes[key] = value


class _Source:
    claimed = None

    def __init__(self, number: int) -> None:
        self._number = number
        self.asked: _Recording | None = None

    def span(self) -> Span:
        self.asked = _Recording(self._number)
        return self.asked


ROUTES: Final = 60
RATE: Final = 1000.0  # requests a second
COLD: Final = 60.0  # seconds until every busy bucket has had its first
END: Final = 240.0
EVERY: Final = 2.0  # seconds between two rare ones
MARKS: Final = 10.0


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("errors", [0.0, 0.01, 0.05])
def test_a_rare_slow_request_gets_its_exemplar_however_busy_the_rest(
    errors: float, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 requests a second over 60 routes and 10 marks a second for them all.

    A slow request is rare where its bucket shows nothing: no other of its route was as slow for as long as an exemplar
    is shown. At least 95 in 100 of them are shown, marked, and all marks together keep to the budget.
    """
    chance = random.Random(seed)
    policy = Policy()
    histogram = Histogram("duration", "", ("route", "error_type"), registry=None, policy=policy)
    marks = Budget(MARKS)
    good = [histogram.labels(str(route), "") for route in range(ROUTES)]
    bad = [histogram.labels(str(route), "500") for route in range(ROUTES)]
    for child in (*good, *bad):
        child.marks = marks
    for child in bad:
        child.urgent = True
    usual = [math.exp(chance.uniform(math.log(0.004), math.log(0.2))) for _ in range(ROUTES)]
    now, number = 0.0, 0
    monkeypatch.setattr(metrics, "wall_clock_ns", lambda: int((1.8e9 + now) * 1e9))
    counts = Counts()
    next_rare = COLD
    slow: dict[tuple[int, int], float] = {}
    shown = []
    while now < END:
        now += chance.expovariate(RATE)
        number += 1
        source = _Source(number)
        if now < next_rare:
            route = chance.randrange(ROUTES)
            seconds = usual[route] * math.exp(chance.gauss(0.0, 0.5))
            (bad if chance.random() < errors else good)[route].observe_at(seconds, now, source)
            continue
        next_rare += chance.expovariate(1 / EVERY)
        while True:
            route, seconds = chance.randrange(ROUTES), chance.uniform(2.6, 14.0)
            bucket = bisect_left(histogram.bounds, seconds)
            if now - slow.get((route, bucket), -math.inf) > policy.max_age:
                break
        slow[route, bucket] = now
        good[route].observe_at(seconds, now, source)
        slot = good[route].record.slots[bucket]
        shown.append(slot is not None and slot.trace_id == number and source.asked is not None)
        if shown[-1]:
            assert source.asked is not None and attribute(source.asked) == semconv.MARK_VALUE

    assert len(shown) > 60
    assert sum(shown) >= 0.95 * len(shown)
    assert counts.marked <= 2 * MARKS + MARKS * END


# Where the span is


@contextmanager
def entered() -> Iterator[Cell]:
    """A cell, as a request has it while it is inside."""
    cell = Cell()
    token = enter(weakref.ref(cell))
    try:
        yield cell
    finally:
        leave(token)


@pytest.fixture
def spans() -> Spans:
    """Spans of a provider that has our processor."""
    found = global_spans()
    install_processor()
    return found


def test_a_server_span_around_us_comes_first(spans: Spans) -> None:
    with spans.tracer.start_as_current_span("around", kind=SpanKind.SERVER) as around, entered() as cell:
        with spans.tracer.start_as_current_span("inside", kind=SpanKind.SERVER):
            cell.at_start = span.current_context()
        assert cell.span() is around


def test_then_the_first_server_span_that_started_inside(spans: Spans) -> None:
    with spans.tracer.start_as_current_span("around"), entered() as cell:
        with spans.tracer.start_as_current_span("child"):
            pass
        with spans.tracer.start_as_current_span("first", kind=SpanKind.SERVER) as first:
            with spans.tracer.start_as_current_span("second", kind=SpanKind.SERVER):
                cell.at_start = span.current_context()
        assert cell.span() is first


def test_then_what_was_current_at_the_response_s_start(spans: Spans) -> None:
    with spans.tracer.start_as_current_span("around"), entered() as cell:
        with spans.tracer.start_as_current_span("child") as child:
            cell.at_start = span.current_context()
        assert cell.span() is child


@pytest.mark.parametrize("responded", [False, True])
def test_then_whatever_is_around_us(spans: Spans, responded: bool) -> None:
    with spans.tracer.start_as_current_span("around") as around, entered() as cell:
        if responded:
            cell.at_start = Context().run(span.current_context)
        assert cell.span() is around


@pytest.mark.parametrize("responded", [False, True])
def test_without_any_span_the_answer_is_the_invalid_one(responded: bool) -> None:
    with entered() as cell:
        if responded:
            cell.at_start = span.current_context()
        assert cell.span() is INVALID_SPAN


def test_a_span_that_is_not_sampled_is_not_passed_over_for_one_of_the_application_s(spans: Spans) -> None:
    """A request that is not sampled has no exemplar, not the next best one."""
    spans.sampler = ALWAYS_OFF
    with entered() as cell, spans.tracer.start_as_current_span("server", kind=SpanKind.SERVER) as server:
        cell.at_start = span.current_context()
        assert cell.span() is server
        assert sampled_context(cell.span()) is None


def test_spans_outside_of_any_request_are_nobody_s(spans: Spans) -> None:
    with entered() as cell:
        pass
    with spans.tracer.start_as_current_span("later", kind=SpanKind.SERVER):
        pass
    assert cell.server_span is None


def test_a_request_within_a_request_has_a_cell_of_its_own(spans: Spans) -> None:
    with entered() as outer:
        with entered() as inner, spans.tracer.start_as_current_span("inner", kind=SpanKind.SERVER) as of_inner:
            pass
        with spans.tracer.start_as_current_span("outer", kind=SpanKind.SERVER) as of_outer:
            pass
    assert inner.server_span is of_inner
    assert outer.server_span is of_outer


def test_a_cell_is_left_from_another_context_without_harm() -> None:
    """As a coroutine that was dropped is closed by the garbage collector, wherever that runs."""
    token = Context().run(enter, weakref.ref(Cell()))
    leave(token)


def test_a_server_span_is_elsewhere_where_none_was_current_at_the_start(spans: Spans) -> None:
    cell = Cell()
    assert cell.is_elsewhere()
    cell.at_start = span.current_context()
    assert cell.is_elsewhere()
    with spans.tracer.start_as_current_span("server", kind=SpanKind.SERVER):
        cell.at_start = span.current_context()
    assert not cell.is_elsewhere()


# The processor


class Provider(TracerProvider):
    """A real one that counts what it is given."""

    def __init__(self) -> None:
        super().__init__(shutdown_on_exit=False)
        self.added: list[SpanProcessor] = []

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        self.added.append(span_processor)
        super().add_span_processor(span_processor)


class Chooser:
    """Which tracer provider is the global one. The real one can be set only once a process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chosen: trace.TracerProvider = ProxyTracerProvider()
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: self.chosen)
        monkeypatch.setattr(span, "_provider", None)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Chooser:
    return Chooser(monkeypatch)


def test_the_processor_is_added_once_for_each_provider(provider: Chooser) -> None:
    first, second = Provider(), Provider()
    for chosen in (first, second):
        provider.chosen = chosen
        for _ in range(3):
            install_processor()
    assert len(first.added) == len(second.added) == 1

    with entered() as cell, second.get_tracer("tests").start_as_current_span("a", kind=SpanKind.SERVER) as server:
        pass
    assert cell.server_span is server


def test_a_provider_that_comes_after_the_proxy_gets_the_processor(provider: Chooser) -> None:
    install_processor()
    provider.chosen = real = Provider()
    install_processor()
    assert len(real.added) == 1


def test_looking_for_a_span_adds_the_processor(provider: Chooser) -> None:
    """At the first request that wants an exemplar, not at the import or the construction."""
    provider.chosen = real = Provider()
    with entered() as cell:
        assert real.added == []
        cell.span()
    assert len(real.added) == 1


def test_the_processor_does_all_that_a_provider_asks_of_one(provider: Chooser) -> None:
    provider.chosen = real = Provider()
    install_processor()
    with real.get_tracer("tests").start_as_current_span("a", kind=SpanKind.SERVER):
        pass
    assert real.force_flush()
    real.shutdown()


def test_a_provider_that_takes_no_processor_is_no_fault(provider: Chooser) -> None:
    faults = Faults()
    with entered() as cell:
        assert cell.span() is INVALID_SPAN
    assert faults.seen == {}


def test_a_provider_that_fails_to_take_the_processor_is_one_fault_and_asked_once(provider: Chooser) -> None:
    class Broken(Provider):
        def add_span_processor(self, span_processor: SpanProcessor) -> None:
            super().add_span_processor(span_processor)
            raise RuntimeError("closed")

    faults = Faults()
    provider.chosen = broken = Broken()
    with broken.get_tracer("tests").start_as_current_span("a", kind=SpanKind.SERVER) as server, entered() as cell:
        install_processor()
        install_processor()
        assert cell.span() is server
    assert len(broken.added) == 1
    assert faults.seen == {"processor": 1}

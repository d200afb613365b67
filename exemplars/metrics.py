"""`Histogram`, `Counter` and `Gauge`: prometheus_client's manners, and exemplars by themselves."""

import math
import re
import sys
import time
import weakref
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from types import FrameType
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from opentelemetry import trace
from opentelemetry.trace import Span, SpanContext
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client import Metric as MetricFamily
from prometheus_client.context_managers import ExceptionCounter, InprogressTracker, Timer
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from exemplars import faults, semconv
from exemplars._lock import lock
from exemplars._types import ExemplarLabels
from exemplars.options import DEFAULT_MAX_SERIES, check_buckets, check_label_name, check_max_series
from exemplars.policy import Policy, Slot, next_timestamp
from exemplars.span import Budget, mark, process_budget, sampled_context
from exemplars.store import layout, worker
from exemplars.store.layout import Schema
from exemplars.store.memory import Reading
from exemplars.tallies import Tally

taken: Final = Tally("exemplars_taken", "Exemplars that a bucket or counter took.")
series_refused: Final = Tally(
    "exemplars_series_refused", "Uses of label sets beyond max_series, which the overflow series took.", "metric", ()
)

monotonic = time.perf_counter
wall_clock_ns = time.time_ns

# https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md#exemplars
MAX_EXEMPLAR_CODE_POINTS: Final = 128
_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_EXEMPLAR_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_LIVE_MODES: Final = ("livemin", "livemax", "livesum", "livemostrecent")
_GAUGE_MODES: Final = ("min", "max", "sum", "mostrecent", *_LIVE_MODES)


class SpanSource(Protocol):
    """Where an observation gets the span that may become its exemplar."""

    @property
    def claimed(self) -> SpanContext | None:
        """The context of a span that was found and marked ahead."""

    def span(self) -> Span: ...


class _CurrentSpan:
    """The span that is current where the observation is made."""

    claimed = None

    def span(self) -> Span:
        return trace.get_current_span()


_CURRENT_SPAN: Final = _CurrentSpan()


def exemplar_labels(slot: Slot) -> dict[str, str]:
    """The labels of the exemplar in *slot*: ``trace_id`` and ``span_id`` in lower-case hex, or the caller's own."""
    if slot.labels is not None:
        return dict(slot.labels)
    return {semconv.TRACE_ID: f"{slot.trace_id:032x}", semconv.SPAN_ID: f"{slot.span_id:016x}"}


def _check_exemplar(labels: ExemplarLabels) -> dict[str, str]:
    """A copy of *labels*. Raises ``ValueError`` or ``TypeError`` unless OpenMetrics allows them on an exemplar."""
    length = 0
    checked = {}
    for name, value in labels.items():
        if not isinstance(name, str) or not _EXEMPLAR_LABEL.fullmatch(name):
            raise ValueError(f"exemplar label name {name!r}: use letters, digits and underscores, no digit first")
        if not isinstance(value, str):
            raise TypeError(f"exemplar label {name} is {value!r}: give a text")
        value.encode()  # a lone surrogate cannot be on a page
        length += len(name) + len(value)
        checked[name] = value
    if length > MAX_EXEMPLAR_CODE_POINTS:
        raise ValueError(f"exemplar labels have {length} characters together: at most {MAX_EXEMPLAR_CODE_POINTS}")
    return checked


class Series(Protocol):
    """What a page shows of one series, whoever counted."""

    @property
    def labels(self) -> tuple[tuple[str, str], ...]: ...

    def read(self) -> Reading: ...


class Child:
    """One series of a metric in this process: its labels and its numbers. What ``labels()`` returns."""

    __slots__ = ("_policy", "labels", "marks", "record", "urgent")

    def __init__(self, metric: "Metric[Any]", labels: tuple[tuple[str, str], ...], buckets: int) -> None:
        self.labels = labels
        self.urgent = False  # whether this is a series of errors, whose exemplars have the first call on marks
        self.marks: Budget | None = None  # None: that of the process
        self._policy = metric.policy
        self.record = worker.record_for(metric, self._key, buckets)

    @property
    def key(self) -> bytes:
        """The labels as a key in a worker's file."""
        return self._key()

    def _key(self) -> bytes:
        if self.labels and self.labels[0][0] == semconv.OVERFLOW:
            return layout.encode_labels(None)
        return layout.encode_labels(tuple([value for _, value in self.labels]))

    def read(self) -> Reading:
        """Counts, sum, slots and the number of their changes, all of one moment."""
        return self.record.read()

    def _offer(self, index: int, amount: float, now: float, slot: Slot | None, source: SpanSource) -> None:
        """Make the span of *source* the exemplar of bucket *index*, if there is one that may be. Never raises."""
        try:
            context = source.claimed or self._claim(index, amount, now, slot, source)
            if context is not None:
                self._keep(index, amount, now, context.trace_id, context.span_id)
        except Exception as error:
            faults.note("span", error)

    def _claim(
        self, index: int, amount: float, now: float, slot: Slot | None, source: SpanSource
    ) -> SpanContext | None:
        """The context of the span of *source*, marked, if it may take the place of what is in *slot*."""
        marks = self.marks or process_budget()
        if now < marks.dry_until and not self.urgent:  # the span of an error may need no mark
            return None
        span = source.span()
        if span is trace.INVALID_SPAN:
            return None
        context = sampled_context(span)
        if context is None:
            return None
        last_ms = slot.timestamp_ms if slot is not None else self.record.last_timestamp(index)
        if next_timestamp(wall_clock_ns() // 1_000_000, last_ms) is None:
            return None  # the wall clock stepped back: a mark would be spent for nothing
        freshness = self._policy.freshness(slot, now)
        if mark(span, marks, now, freshness, self.urgent):
            return context
        if slot is not None and span.is_recording():
            expires = slot.taken_at + self._policy.max_age
            slot.refuse(amount, now, min(marks.wait(freshness, self.urgent), expires - now))
        return None

    def _offer_labels(self, index: int, amount: float, now: float, exemplar: ExemplarLabels) -> None:
        """Make the caller's own *exemplar* that of bucket *index*; count an invalid one as a fault. Never raises."""
        try:
            labels = _check_exemplar(exemplar)
            if labels:
                self._keep(index, amount, now, labels=labels)
        except Exception as error:
            faults.note("exemplar", error)

    def _keep(
        self,
        index: int,
        amount: float,
        now: float,
        trace_id: int = 0,
        span_id: int = 0,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        wall_ms = wall_clock_ns() // 1_000_000
        with lock:
            slot = self.record.slots[index]
            if slot is not None and not slot.welcomes(amount, now):
                return  # another thread was first
            timestamp_ms = next_timestamp(wall_ms, self.record.last_timestamp(index))
            if timestamp_ms is None:
                return
            held_until = now + self._policy.min_retention
            new = Slot(amount, timestamp_ms, now, held_until, trace_id, span_id, labels)
            if self.record.put(index, new, instead_of=slot):
                taken.bump()


ChildT = TypeVar("ChildT", bound=Child)


class Metric(Collector, ABC, Generic[ChildT]):
    """What the three kinds of metric share: names, series by their labels, registration and ``collect``.

    Above *max_series* label sets one more series, without labels but ``otel_metric_overflow="true"``, takes the rest.
    Everything is safe under threads. Raises ``ValueError`` at construction for a bad name or label name, and for a name
    that the registry already knows.
    """

    kind: ClassVar[str]
    _reserved_labels: ClassVar[tuple[str, ...]] = (semconv.OVERFLOW,)

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Iterable[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: CollectorRegistry | None = REGISTRY,
        *,
        policy: Policy | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> None:
        self.name = _full_name(self.kind, name, namespace, subsystem, unit)
        self.documentation = documentation
        self.unit = unit
        if isinstance(labelnames, str):
            raise ValueError(f"labelnames is {labelnames!r}: give a sequence of names")
        self.labelnames = tuple(check_label_name(label, self._reserved_labels) for label in labelnames)
        if len(set(self.labelnames)) < len(self.labelnames):
            raise ValueError(f"labelnames is {self.labelnames!r}: every name once")
        if policy is not None and not isinstance(policy, Policy):
            raise ValueError(f"policy is {policy!r}: give an exemplars.Policy")
        self.policy = policy or Policy()
        self.max_series = check_max_series(max_series)
        # Read without the lock where a series is looked up; changed only with it.
        self.children: dict[tuple[str, ...], ChildT] = {}
        self._overflow: ChildT | None = None
        self.schema: Schema | None = None
        worker.check_configuration()
        if registry is not None:
            registry.register(self)
            self.belong_to(registry)
        worker.enrol(self)
        weakref.finalize(self, worker.release, self.children).atexit = False
        if not self.labelnames:
            self.child(())

    def belong_to(self, registry: CollectorRegistry) -> None:
        """Share the series of this metric with those of other workers in the same registry.

        The constructor does so with the registry it is given; this is for who registers a metric later.
        """
        key = _registry_key(registry)
        if key is not None:
            self.schema = Schema(
                key,
                self.kind,
                self.name,
                self.unit,
                self.labelnames,
                getattr(self, "bounds", ()),
                getattr(self, "multiprocess_mode", ""),
                self.documentation,
                self.policy.max_age,
            )

    def labels(self, *labelvalues: object, **labelkwargs: object) -> ChildT:
        """The series with these label values, each turned into text; made at its first use.

        Raises ``ValueError`` for a wrong number or wrong names of labels.
        """
        if not self.labelnames:
            raise ValueError(f"{self.name} was constructed without label names")
        if labelvalues and labelkwargs:
            raise ValueError(f"{self.name}: give label values by position or by name, not both")
        if labelkwargs:
            if labelkwargs.keys() != set(self.labelnames):
                raise ValueError(f"{self.name} has the labels {self.labelnames}, not {tuple(labelkwargs)}")
            return self.child(tuple([str(labelkwargs[name]) for name in self.labelnames]))
        return self.child(self._key(labelvalues))

    def child(self, key: tuple[str, ...]) -> ChildT:
        """The series whose label values are *key*, in the order of the label names; made at its first use."""
        found = self.children.get(key)
        if found is not None:
            return found
        clean = tuple(map(_clean, key))
        with lock:
            # Whatever is known here, a signal handler or a destructor that comes in may change it before the next call.
            if worker.room(self, lambda: layout.encode_labels(clean), self.max_series, len(self.children)):
                fresh = self._new_child(tuple(zip(self.labelnames, clean, strict=True)))
                return self._first(self.children.setdefault(clean, fresh), fresh)
            found = self.children.get(clean)
            if found is not None:
                return found
            series_refused.bump(self.name)
            if self._overflow is not None:
                return self._overflow
            fresh = self._new_child(((semconv.OVERFLOW, "true"),))
            if self._overflow is None:
                self._overflow = fresh
                weakref.finalize(self, worker.release, {(): fresh}).atexit = False
            return self._first(self._overflow, fresh)

    def _first(self, child: ChildT, fresh: ChildT) -> ChildT:
        """*child*, which is *fresh* itself unless somebody else has made the series in the middle of its making."""
        if child is not fresh:
            worker.join(self, child, fresh)
        return child

    def remove(self, *labelvalues: object) -> None:
        """Forget the series with these label values, if there is one."""
        if not self.labelnames:
            raise ValueError(f"{self.name} was constructed without label names")
        key = tuple(map(_clean, self._key(labelvalues)))
        with lock:
            gone = self.children.pop(key, None)
            worker.drop(self, [gone] if gone is not None else [], [layout.encode_labels(key)])

    def remove_by_labels(self, labels: Mapping[str, object]) -> None:
        """Forget every series that has all of *labels*; none when *labels* is empty."""
        if not self.labelnames:
            raise ValueError(f"{self.name} was constructed without label names")
        unknown = [name for name in labels if name not in self.labelnames]
        if unknown:
            raise ValueError(f"{self.name} has the labels {self.labelnames}, not {unknown}")
        wanted = {(name, _clean(str(value))) for name, value in labels.items()}
        if not wanted:
            return
        with lock:
            gone = [(key, child) for key, child in self.children.items() if wanted.issubset(child.labels)]
            for key, _ in gone:
                del self.children[key]
            left = []
            for encoded in worker.left(self):
                values = layout.decode_labels(encoded, self.schema) if self.schema is not None else None
                if values is not None and wanted.issubset(zip(self.labelnames, values, strict=True)):
                    left.append(encoded)
            worker.drop(self, [child for _, child in gone], left)

    def clear(self) -> None:
        """Forget every series with labels, that of the overflow too."""
        if self.labelnames:
            with lock:
                gone = self.every_child()
                self.children.clear()
                self._overflow = None
                worker.drop(self, gone, worker.left(self))

    def every_child(self) -> list[ChildT]:
        """The series that this process has counted in, oldest first, that of the overflow last."""
        with lock:
            children = list(self.children.values())
            if self._overflow is not None:
                children.append(self._overflow)
            return children

    def series(self) -> Sequence[Series]:
        """The series to show: this process's own, or where workers share, those of all, as of the last refresh.

        What found no room in this worker's file is not among those until it does: other workers' pages could not show
        it, and a number that alternates looks like a restart at each fall.
        """
        shared = worker.merged(self)
        return self.every_child() if shared is None else shared

    def describe(self) -> list[MetricFamily]:
        """The family without samples, by which a registry finds clashes of names."""
        return [MetricFamily(self.name, self.documentation, self.kind, self.unit)]

    def collect(self) -> list[MetricFamily]:
        """The family with its samples and exemplars, for any endpoint of prometheus_client."""
        (family,) = self.describe()
        for _ in worker.refresh():
            pass
        now = monotonic()
        for series in self.series():
            labels = dict(series.labels)
            for suffix, extra, value, slot in self._samples(series.read()):
                exemplar = None
                if slot is not None and not self.policy.expired(slot, now):
                    exemplar = Exemplar(exemplar_labels(slot), slot.value, slot.timestamp_ms / 1000)
                family.add_sample(self.name + suffix, labels | extra, value, exemplar=exemplar)
        return [family]

    def __repr__(self) -> str:
        return f"{type(self).__module__}.{type(self).__qualname__}({self.name})"

    @abstractmethod
    def _new_child(self, labels: tuple[tuple[str, str], ...]) -> ChildT: ...

    @abstractmethod
    def _samples(self, reading: Reading) -> Iterator[tuple[str, dict[str, str], float, Slot | None]]:
        """Suffix of the name, further labels, value and exemplar of each sample of a series that reads *reading*."""

    def _key(self, labelvalues: Sequence[object]) -> tuple[str, ...]:
        if len(labelvalues) != len(self.labelnames):
            raise ValueError(f"{self.name} has the labels {self.labelnames}: {len(labelvalues)} values do not fit")
        return tuple([str(value) for value in labelvalues])

    def _only(self) -> ChildT:
        """The one series of a metric without labels."""
        try:
            return self.children[()]
        except KeyError:
            raise ValueError(f"{self.name} has the labels {self.labelnames}: call labels() first") from None


def _clean(value: str) -> str:
    """*value* without a lone surrogate, as in a header decoded leniently: it cannot be on a page of UTF-8."""
    return value.encode("utf-8", "replace").decode()


def _full_name(kind: str, name: str, namespace: str, subsystem: str, unit: str) -> str:
    if not name:
        raise ValueError(f"{name!r} is no metric name: give one, besides namespace, subsystem and unit")
    full = "_".join(part for part in (namespace, subsystem, name) if part)
    if kind == "counter":
        full = full.removesuffix("_total")
    if unit and not full.endswith("_" + unit):
        full += "_" + unit
    if not _METRIC_NAME.fullmatch(full):
        raise ValueError(f"{full!r} is no metric name: use letters, digits, underscores and colons, no digit first")
    return full


class HistogramChild(Child):
    """One series of a `Histogram`."""

    __slots__ = ("_bounds",)

    def __init__(self, metric: "Histogram", labels: tuple[tuple[str, str], ...]) -> None:
        super().__init__(metric, labels, len(metric.bounds) + 1)
        self._bounds = metric.bounds

    def observe(self, amount: float, exemplar: ExemplarLabels | None = None) -> None:
        """Count *amount* in its bucket. See `Histogram.observe`."""
        amount = float(amount)
        if math.isnan(amount):
            faults.note("observation", detail="a histogram was to observe NaN")
        elif exemplar is None:
            self.observe_at(amount, monotonic(), _CURRENT_SPAN)
        else:
            now = monotonic()
            index = bisect_left(self._bounds, amount)
            with lock:
                slot = self.record.add(index, amount)
            if now >= worker.look_at:
                worker.look_after(now)
            if slot is None or slot.welcomes(amount, now):
                self._offer_labels(index, amount, now, exemplar)

    def observe_at(self, amount: float, now: float, source: SpanSource, ends: "GaugeChild | None" = None) -> None:
        """Count *amount* at *now* (seconds, monotonic) and ask *source* for a span if the bucket wants an exemplar.

        *ends* is the gauge of what goes on, which this observation ends: one taken lock serves both.
        """
        index = bisect_left(self._bounds, amount)
        with lock:
            slot = self.record.add(index, amount)
            if ends is not None:
                ends.record.add(0, -1.0)  # last: whoever sees an exception before it subtracts himself
        if now >= worker.look_at:
            worker.look_after(now)
        if slot is None or now >= slot.held_until or amount > slot.threshold:  # slot.welcomes, without the call
            self._offer(index, amount, now, slot, source)

    def claim_ahead(self, amount: float, now: float, source: SpanSource) -> SpanContext | None:
        """Claim a span for an observation of about *amount* that is still to come. May raise what *source* raises."""
        index = bisect_left(self._bounds, amount)
        slot = self.record.slots[index]
        if slot is not None and not slot.welcomes(amount, now):
            return None
        return self._claim(index, amount, now, slot, source)

    def time(self) -> Timer:
        """A context manager, also a decorator of functions, that observes the seconds that its body took."""
        return Timer(self, "observe")  # type: ignore[no-untyped-call]


class Histogram(Metric[HistogramChild]):
    """A histogram whose buckets each remember a sampled trace.

    *buckets* are upper bounds in the unit of what is observed, strictly rising, OpenTelemetry's for seconds by default;
    ``+Inf`` is added. *policy* says when an exemplar is replaced. The rest is as in prometheus_client.
    """

    kind = "histogram"
    _reserved_labels = ("le", semconv.OVERFLOW)

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Iterable[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: CollectorRegistry | None = REGISTRY,
        *,
        buckets: Iterable[float] = semconv.DURATION_BUCKETS,
        policy: Policy | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> None:
        self.bounds = check_buckets(buckets)
        self.les = (*map(floatToGoString, self.bounds), "+Inf")
        super().__init__(
            name,
            documentation,
            labelnames,
            namespace,
            subsystem,
            unit,
            registry,
            policy=policy,
            max_series=max_series,
        )

    def observe(self, amount: float, exemplar: ExemplarLabels | None = None) -> None:
        """Count *amount* in its bucket.

        *exemplar* ``None``: the current span, if it is sampled and the bucket wants one. ``{}``: none. Else labels of
        the caller's own; invalid ones are dropped and counted, never raised, and the observation counts all the same.
        A value that is not a number (NaN) would spoil the sum for ever: it is not counted, but counted as a fault.
        Raises ``ValueError`` on a metric with labels, and what ``float(amount)`` raises.
        """
        self._only().observe(amount, exemplar)

    def time(self) -> Timer:
        """A context manager, also a decorator of functions, that observes the seconds that its body took.

        On a metric with labels, the context manager's own ``labels()`` must be called before the end.
        """
        return Timer(self, "observe")  # type: ignore[no-untyped-call]

    def _new_child(self, labels: tuple[tuple[str, str], ...]) -> HistogramChild:
        return HistogramChild(self, labels)

    def _samples(self, reading: Reading) -> Iterator[tuple[str, dict[str, str], float, Slot | None]]:
        counts, total, slots, _ = reading
        for le, count, slot in zip(self.les, accumulate(counts), slots, strict=True):
            yield "_bucket", {"le": le}, count, slot
        yield "_count", {}, sum(counts), None
        if self.bounds[0] >= 0:  # with negative values the sum can fall: then OpenMetrics forbids it
            yield "_sum", {}, total, None


class CounterChild(Child):
    """One series of a `Counter`."""

    __slots__ = ()

    def inc(self, amount: float = 1, exemplar: ExemplarLabels | None = None) -> None:
        """Add *amount*. See `Counter.inc`."""
        amount = float(amount)
        if not amount >= 0:
            if math.isnan(amount):
                faults.note("observation", detail="a counter was to be increased by NaN")
                return
            raise ValueError(f"a counter only goes up: {amount!r} was to be added")
        now = monotonic()
        with lock:
            slot = self.record.add(0, amount)
        if now >= worker.look_at:
            worker.look_after(now)
        if slot is None or slot.welcomes(amount, now):
            if exemplar is None:
                self._offer(0, amount, now, slot, _CURRENT_SPAN)
            else:
                self._offer_labels(0, amount, now, exemplar)

    def reset(self) -> None:
        """Start again from 0, as when the process had restarted."""
        with lock:
            self.record.set(0.0)

    def count_exceptions(
        self, exception: type[BaseException] | tuple[type[BaseException], ...] = Exception
    ) -> ExceptionCounter:
        """A context manager, also a decorator of functions, that adds 1 when its body raises *exception*."""
        return ExceptionCounter(self, exception)  # type: ignore[arg-type]  # it wants inc() alone


class Counter(Metric[CounterChild]):
    """A number that only goes up, whose ``_total`` remembers a sampled trace. The rest is as in prometheus_client."""

    kind = "counter"

    def inc(self, amount: float = 1, exemplar: ExemplarLabels | None = None) -> None:
        """Add *amount*; *exemplar* as in `Histogram.observe`.

        Raises ``ValueError`` when *amount* is negative and on a metric with labels; NaN is not added, but counted as a
        fault.
        """
        self._only().inc(amount, exemplar)

    def reset(self) -> None:
        """Start again from 0, as when the process had restarted."""
        self._only().reset()

    def count_exceptions(
        self, exception: type[BaseException] | tuple[type[BaseException], ...] = Exception
    ) -> ExceptionCounter:
        """A context manager, also a decorator of functions, that adds 1 when its body raises *exception*."""
        return self._only().count_exceptions(exception)

    def _new_child(self, labels: tuple[tuple[str, str], ...]) -> CounterChild:
        return CounterChild(self, labels, 1)

    def _samples(self, reading: Reading) -> Iterator[tuple[str, dict[str, str], float, Slot | None]]:
        _, total, slots, _ = reading
        yield "_total", {}, total, slots[0]


class GaugeChild(Child):
    """One series of a `Gauge`."""

    __slots__ = ("_function", "_most_recent")

    def __init__(self, metric: "Gauge", labels: tuple[tuple[str, str], ...]) -> None:
        super().__init__(metric, labels, 1)
        self._function: Callable[[], float] | None = None
        self._most_recent = metric.multiprocess_mode.endswith("mostrecent")

    def inc(self, amount: float = 1) -> None:
        """Add *amount*. Raises ``RuntimeError`` where the most recent value of all workers counts: there is no sum."""
        if self._most_recent:
            raise RuntimeError("a gauge of the mode mostrecent or livemostrecent can only be set: use set()")
        self.add(float(amount))

    def add(self, amount: float) -> None:
        """Add *amount*, which is a float."""
        with lock:
            self.record.add(0, amount)

    def dec(self, amount: float = 1) -> None:
        """Subtract *amount*."""
        self.inc(-amount)

    def set(self, value: float) -> None:
        """Make the gauge *value*."""
        value = float(value)
        at = monotonic() if self._most_recent else 0.0
        with lock:
            self.record.set(value, at)

    def set_to_current_time(self) -> None:
        """Make the gauge the wall clock's time, in seconds since 1970."""
        self.set(wall_clock_ns() / 1e9)

    def track_inprogress(self) -> InprogressTracker:
        """A context manager, also a decorator of functions, that adds 1 while its body runs."""
        return InprogressTracker(self)  # type: ignore[no-untyped-call]

    def time(self) -> Timer:
        """A context manager, also a decorator of functions, that sets the gauge to the seconds that its body took."""
        return Timer(self, "set")  # type: ignore[no-untyped-call]

    def set_function(self, function: Callable[[], float]) -> None:
        """Read the value from *function* at every scrape; one that raises shows as NaN and is counted as a fault.

        Raises ``ValueError`` in a worker that shares its numbers: of a function only the worker that is asked would
        tell.
        """
        if not callable(function):
            raise ValueError(f"set_function was given {function!r}: give a function without arguments")
        if worker.to_be_shared():
            raise ValueError(
                f"set_function was given {function!r} in one of several workers, of which each would answer for "
                "itself: call set() where the value changes, or register a collector of your own"
            )
        self._function = function

    def read(self) -> Reading:
        if self._function is None:
            return self.record.read()
        try:
            value = float(self._function())
        except Exception as error:
            faults.note("collector", error)
            value = math.nan
        return [0], value, [None], 0


class Gauge(Metric[GaugeChild]):
    """A number that goes up and down. As in prometheus_client, without exemplars, which a gauge cannot have.

    *multiprocess_mode*: how the values of several workers become one: ``min``, ``max``, ``sum``, ``mostrecent``, each
    also with ``live`` before it, for the workers that are alive. ``all`` and ``liveall`` would need a label that grows
    with every restart: they raise ``ValueError``.
    """

    kind = "gauge"

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Iterable[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: CollectorRegistry | None = REGISTRY,
        multiprocess_mode: str = "livesum",
        *,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> None:
        if multiprocess_mode not in _GAUGE_MODES:
            raise ValueError(f"multiprocess_mode is {multiprocess_mode!r}: choose from {', '.join(_GAUGE_MODES)}")
        self.multiprocess_mode = multiprocess_mode
        super().__init__(name, documentation, labelnames, namespace, subsystem, unit, registry, max_series=max_series)

    def inc(self, amount: float = 1) -> None:
        """Add *amount*. Like all that follow, raises ``ValueError`` on a metric with labels."""
        self._only().inc(amount)

    def dec(self, amount: float = 1) -> None:
        """Subtract *amount*."""
        self._only().dec(amount)

    def set(self, value: float) -> None:
        """Make the gauge *value*."""
        self._only().set(value)

    def set_to_current_time(self) -> None:
        """Make the gauge the wall clock's time, in seconds since 1970."""
        self._only().set_to_current_time()

    def track_inprogress(self) -> InprogressTracker:
        """A context manager, also a decorator of functions, that adds 1 while its body runs."""
        return self._only().track_inprogress()

    def time(self) -> Timer:
        """A context manager, also a decorator of functions, that sets the gauge to the seconds that its body took.

        On a metric with labels, the context manager's own ``labels()`` must be called before the end.
        """
        return Timer(self, "set")  # type: ignore[no-untyped-call]

    def set_function(self, function: Callable[[], float]) -> None:
        """Read the value from *function* at every scrape; one that raises shows as NaN and is counted as a fault."""
        self._only().set_function(function)

    def _new_child(self, labels: tuple[tuple[str, str], ...]) -> GaugeChild:
        return GaugeChild(self, labels)

    def _samples(self, reading: Reading) -> Iterator[tuple[str, dict[str, str], float, Slot | None]]:
        yield "", {}, reading[1], None


# By which name the registry of a metric is known in all workers.
_registry_keys: "weakref.WeakKeyDictionary[CollectorRegistry, str]" = weakref.WeakKeyDictionary()
_registries_of: Final[dict[str, int]] = {}  # how many were first used there
_set_up = False  # whether the application has been: it serves requests, or pages
_MAX_REGISTRIES: Final = 16  # beside the default one; a file keeps what is written to it


def set_up() -> None:
    """Note that the application has been set up. A registry that is used for the first time from now on is private."""
    global _set_up
    _set_up = True


def _registry_key(registry: CollectorRegistry) -> str | None:
    """The name of *registry* in all workers that run the same code; ``None`` for one too many, or too late.

    Other workers have other objects, so it is named for the function that uses it first, and in which order: that is
    the same in all of them while the application is being set up, not when requests make registries.
    """
    if registry is REGISTRY:
        return ""
    with lock:
        key = _registry_keys.get(registry)
        if key is not None:
            return key
        if _set_up or sum(_registries_of.values()) >= _MAX_REGISTRIES:
            return None
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "exemplars":
            frame = frame.f_back
        site = f"{frame.f_globals.get('__name__')}:{frame.f_code.co_qualname}" if frame is not None else ":"
        number = _registries_of[site] = _registries_of.get(site, 0) + 1
        key = _registry_keys[registry] = f"{site}#{number}"
        return key


_elsewhere: Final[dict[Schema, Metric[Any]]] = {}


def metrics_elsewhere(registry: CollectorRegistry, known: Container[str]) -> list[Metric[Any]]:
    """Metrics that other workers have in *registry*, and this one has not: those whose names are not *known* here."""
    key = _registry_keys.get(registry) if registry is not REGISTRY else ""
    found: dict[str, Metric[Any]] = {}
    schemas = worker.schemas_elsewhere()
    for schema in schemas:
        if schema.registry == key and schema.name not in known and schema.name not in found:
            metric = _elsewhere.get(schema)
            if metric is None:
                try:
                    metric = _elsewhere[schema] = _of_schema(schema)
                except ValueError as error:  # a name or mode of another version
                    faults.note("collector", error, f"{schema.name} of another worker cannot be shown: {error}")
                    continue
            found[schema.name] = metric
    for gone in _elsewhere.keys() - set(schemas):
        _elsewhere.pop(gone, None)
    return list(found.values())


def _of_schema(schema: Schema) -> Metric[Any]:
    """A metric that only shows the series of *schema*."""
    arguments: dict[str, Any] = {"unit": schema.unit, "registry": None}
    metric: Metric[Any]
    if schema.kind == "gauge":
        metric = Gauge(schema.name, schema.documentation, schema.labelnames, multiprocess_mode=schema.mode, **arguments)
    else:
        arguments["policy"] = Policy(min(7.0, schema.max_age), schema.max_age)
        if schema.kind == "counter":
            metric = Counter(schema.name, schema.documentation, schema.labelnames, **arguments)
        else:
            metric = Histogram(schema.name, schema.documentation, schema.labelnames, buckets=schema.bounds, **arguments)
    metric.children.clear()
    metric.name = schema.name  # which may end in what is cut off from one that is given
    metric.schema = schema
    return metric


def same_shape(one: Metric[Any], other: Metric[Any]) -> bool:
    """Tell whether two metrics of one name can be one: same kind, labels, bounds, policy and bound of series."""
    return (
        type(one) is type(other)
        and one.labelnames == other.labelnames
        and getattr(one, "bounds", None) == getattr(other, "bounds", None)
        and one.policy == other.policy
        and one.max_series == other.max_series
    )

"""`Histogram`, `Counter` and `Gauge`: prometheus_client's manners, and exemplars by themselves."""

import math
import re
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
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
from exemplars.store.memory import Record

# Of this process; exemplars_taken_total and exemplars_series_refused_total{metric}.
taken = 0
series_refused: Final[dict[str, int]] = {}

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


class Child:
    """One series of a metric: its labels and its numbers. What ``labels()`` returns."""

    __slots__ = ("_policy", "labels", "marks", "record", "urgent")

    def __init__(self, labels: tuple[tuple[str, str], ...], buckets: int, policy: Policy) -> None:
        self.labels = labels
        self.record = Record(buckets)
        self.urgent = False  # whether this is a series of errors, whose exemplars have the first call on marks
        self.marks: Budget | None = None  # None: that of the process
        self._policy = policy

    def shown(self, slot: Slot | None, now: float) -> bool:
        """Tell whether the exemplar in *slot* is one to expose at *now*."""
        return slot is not None and not self._policy.expired(slot, now)

    def _offer(self, index: int, amount: float, now: float, slot: Slot | None, source: SpanSource) -> None:
        """Make the span of *source* the exemplar of bucket *index*, if there is one that may be. Never raises."""
        try:
            context = source.claimed or self._claim(amount, now, slot, source)
            if context is not None:
                self._keep(index, amount, now, context.trace_id, context.span_id)
        except Exception as error:
            faults.note("span", error)

    def _claim(self, amount: float, now: float, slot: Slot | None, source: SpanSource) -> SpanContext | None:
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
        if slot is not None and next_timestamp(wall_clock_ns() // 1_000_000, slot.timestamp_ms) is None:
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
        global taken
        wall_ms = wall_clock_ns() // 1_000_000
        with lock:
            slot = self.record.slots[index]
            if slot is not None and not slot.welcomes(amount, now):
                return  # another thread was first
            timestamp_ms = next_timestamp(wall_ms, slot.timestamp_ms if slot is not None else None)
            if timestamp_ms is None:
                return
            held_until = now + self._policy.min_retention
            new = Slot(amount, timestamp_ms, now, held_until, trace_id, span_id, labels)
            if self.record.put(index, new, instead_of=slot):
                taken += 1


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
        if not self.labelnames:
            self.child(())
        if registry is not None:
            registry.register(self)

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
            if len(self.children) < self.max_series:
                return self.children.setdefault(clean, self._new_child(tuple(zip(self.labelnames, clean, strict=True))))
            found = self.children.get(clean)
            if found is not None:
                return found
            series_refused[self.name] = series_refused.get(self.name, 0) + 1
            overflow = self._overflow or self._new_child(((semconv.OVERFLOW, "true"),))
            if self._overflow is None:
                self._overflow = overflow
            return self._overflow

    def remove(self, *labelvalues: object) -> None:
        """Forget the series with these label values, if there is one."""
        if not self.labelnames:
            raise ValueError(f"{self.name} was constructed without label names")
        key = tuple(map(_clean, self._key(labelvalues)))
        with lock:
            self.children.pop(key, None)

    def remove_by_labels(self, labels: Mapping[str, object]) -> None:
        """Forget every series that has all of *labels*; none when *labels* is empty."""
        if not self.labelnames:
            raise ValueError(f"{self.name} was constructed without label names")
        unknown = [name for name in labels if name not in self.labelnames]
        if unknown:
            raise ValueError(f"{self.name} has the labels {self.labelnames}, not {unknown}")
        wanted = {(name, _clean(str(value))) for name, value in labels.items()}
        with lock:
            for key, child in list(self.children.items()):
                if wanted and wanted.issubset(child.labels):
                    del self.children[key]

    def clear(self) -> None:
        """Forget every series with labels, that of the overflow too."""
        if self.labelnames:
            with lock:
                self.children.clear()
                self._overflow = None

    def series(self) -> list[ChildT]:
        """The series there are now, oldest first, that of the overflow last."""
        with lock:
            children = list(self.children.values())
            if self._overflow is not None:
                children.append(self._overflow)
            return children

    def describe(self) -> list[MetricFamily]:
        """The family without samples, by which a registry finds clashes of names."""
        return [MetricFamily(self.name, self.documentation, self.kind, self.unit)]

    def collect(self) -> list[MetricFamily]:
        """The family with its samples and exemplars, for any endpoint of prometheus_client."""
        (family,) = self.describe()
        now = monotonic()
        for child in self.series():
            labels = dict(child.labels)
            for suffix, extra, value, slot in self._samples(child):
                exemplar = None
                if slot is not None and child.shown(slot, now):
                    exemplar = Exemplar(exemplar_labels(slot), slot.value, slot.timestamp_ms / 1000)
                family.add_sample(self.name + suffix, labels | extra, value, exemplar=exemplar)
        return [family]

    def __repr__(self) -> str:
        return f"{type(self).__module__}.{type(self).__qualname__}({self.name})"

    @abstractmethod
    def _new_child(self, labels: tuple[tuple[str, str], ...]) -> ChildT: ...

    @abstractmethod
    def _samples(self, child: ChildT) -> Iterator[tuple[str, dict[str, str], float, Slot | None]]:
        """Suffix of the name, further labels, value and exemplar of each sample of *child*."""

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

    def __init__(self, labels: tuple[tuple[str, str], ...], bounds: tuple[float, ...], policy: Policy) -> None:
        super().__init__(labels, len(bounds) + 1, policy)
        self._bounds = bounds

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
        if slot is None or now >= slot.held_until or amount > slot.threshold:  # slot.welcomes, without the call
            self._offer(index, amount, now, slot, source)

    def claim_ahead(self, amount: float, now: float, source: SpanSource) -> SpanContext | None:
        """Claim a span for an observation of about *amount* that is still to come. May raise what *source* raises."""
        slot = self.record.slots[bisect_left(self._bounds, amount)]
        if slot is not None and not slot.welcomes(amount, now):
            return None
        return self._claim(amount, now, slot, source)

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
        return HistogramChild(labels, self.bounds, self.policy)

    def _samples(self, child: HistogramChild) -> Iterator[tuple[str, dict[str, str], float, Slot | None]]:
        counts, total, slots, _ = child.record.read()
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
        return CounterChild(labels, 1, self.policy)

    def _samples(self, child: CounterChild) -> Iterator[tuple[str, dict[str, str], float, Slot | None]]:
        _, total, slots, _ = child.record.read()
        yield "_total", {}, total, slots[0]


class GaugeChild(Child):
    """One series of a `Gauge`."""

    __slots__ = ("_function",)

    def __init__(self, labels: tuple[tuple[str, str], ...], policy: Policy) -> None:
        super().__init__(labels, 1, policy)
        self._function: Callable[[], float] | None = None

    def inc(self, amount: float = 1) -> None:
        """Add *amount*."""
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
        with lock:
            self.record.set(value)

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
        """Read the value from *function* at every scrape; one that raises shows as NaN and is counted as a fault."""
        if not callable(function):
            raise ValueError(f"set_function was given {function!r}: give a function without arguments")
        self._function = function

    def value(self) -> float:
        """What the gauge shows now."""
        if self._function is None:
            return self.record.sum
        try:
            return float(self._function())
        except Exception as error:
            faults.note("collector", error)
            return math.nan


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
        return GaugeChild(labels, self.policy)

    def _samples(self, child: GaugeChild) -> Iterator[tuple[str, dict[str, str], float, Slot | None]]:
        yield "", {}, child.value(), None


def same_shape(one: Metric[Any], other: Metric[Any]) -> bool:
    """Tell whether two metrics of one name can be one: same kind, labels, bounds, policy and bound of series."""
    return (
        type(one) is type(other)
        and one.labelnames == other.labelnames
        and getattr(one, "bounds", None) == getattr(other, "bounds", None)
        and one.policy == other.policy
        and one.max_series == other.max_series
    )

"""The sampled span of a request: finding it, marking it, and the budget of marks."""

import logging
import math
import weakref
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode, TraceFlags

from exemplars import faults, semconv
from exemplars._lock import lock
from exemplars.options import DEFAULT_MARKS_PER_SECOND
from exemplars.tallies import Tally

marked: Final = Tally("exemplars_marked", "Spans marked so that tail sampling keeps their traces.")
refused: Final = Tally("exemplars_marks_refused", "Spans that no budget was left to mark: not shown.")

_runtime_variable: object = getattr(getattr(otel_context, "_RUNTIME_CONTEXT", None), "_current_context", None)
# Called twice a request: OpenTelemetry's own function takes five times as long to reach the same variable.
current_context: Callable[[], Context] = (
    _runtime_variable.get if isinstance(_runtime_variable, ContextVar) else otel_context.get_current
)


class Budget:
    """Marks that may still be set: *rate* a second, twice that in a burst; 0.0 switches marking off.

    A marked trace is kept by tail sampling, and a caller can force sampling by a header: the budget bounds both. One
    half serves everything; the other is kept for buckets that show nothing and for errors. The fewer marks are left,
    the older a shown exemplar must be before another may take its place: so hundreds of busy buckets share what there
    is in turn, and a rare one always finds some.
    """

    __slots__ = ("_at", "_kept", "_shared", "capacity", "dry_until", "rate")

    def __init__(self, rate: float = DEFAULT_MARKS_PER_SECOND) -> None:
        self.rate = rate
        self.capacity = max(rate, 1.0)  # of each half: below one whole mark nothing could ever be marked
        self._shared = self._kept = self.capacity
        self._at = self.dry_until = -math.inf  # before that moment there is not one mark

    def grant(self, now: float, freshness: float, urgent: bool) -> bool:
        """Take a mark at *now* (seconds, monotonic), if this is worth one.

        *freshness* is `Policy.freshness` of the bucket; *urgent* tells an error. Safe under threads.
        """
        with lock:
            if now > self._at:
                refill = min((now - self._at) * self.rate / 2, self.capacity)
                self._shared = min(self._shared + refill, self.capacity)
                self._kept = min(self._kept + refill, self.capacity)
                self._at = now
            needed = self._needed(freshness)
            if (urgent or freshness == 0.0) and self._kept >= needed:
                self._kept -= 1.0
                return True
            if self._shared >= needed:
                self._shared -= 1.0
                return True
            most = max(self._shared, self._kept)
            if most < 1.0:
                self.dry_until = now + (1.0 - most) / (self.rate / 2)
            return False

    def wait(self, freshness: float, urgent: bool) -> float:
        """Seconds for which `grant`, which has just refused, would refuse again for all that time alone can change."""
        level = max(self._shared, self._kept) if urgent or freshness == 0.0 else self._shared
        return (self._needed(freshness) - level) / (self.rate / 2)

    def _needed(self, freshness: float) -> float:
        # One whole mark, where there can be two, stays for a bucket that shows nothing; the square root spreads the
        # ages of busy buckets over the levels, so that an old one is served well before the youngest that are.
        if freshness == 0.0:
            return 1.0
        return min(1.0 + max((self.capacity - 1.0) * math.sqrt(min(freshness, 1.0)), 1.0), self.capacity)


_budgets: dict[float, Budget] = {}
_latest_rate = DEFAULT_MARKS_PER_SECOND


def budget(rate: float) -> Budget:
    """The budget of this process for *rate* marks a second: the same object for the same rate."""
    global _latest_rate
    with lock:
        _latest_rate = rate
        return _budgets.setdefault(rate, Budget(rate))


def process_budget() -> Budget:
    """The budget for metrics that belong to no middleware: that of the middleware constructed last."""
    with lock:
        return _budgets.setdefault(_latest_rate, Budget(_latest_rate))


def sampled_context(span: Span) -> SpanContext | None:
    """The context of *span* if it is valid, sampled and of this process, as an exemplar's must be.

    A remote one is what a header said: nothing here exports it.
    """
    context = span.get_span_context()
    # The flags are an int: asking it is cheaper than asking its property.
    sampled = context.trace_flags & TraceFlags.SAMPLED and context.is_valid and not context.is_remote
    return context if sampled else None


def mark(span: Span, marks: Budget, now: float, freshness: float, urgent: bool) -> bool:
    """Mark *span*, which is sampled, so that tail sampling keeps its trace; tell whether it may be an exemplar.

    One that bears the mark already may, and costs nothing. Any other may not when it is recording and the budget has no
    mark for it, and when it ended without an error, as it can no longer be marked (one that ended with an error is kept
    by every sensible errors policy). Without marking (rate 0) every sampled span will do.
    """
    if marks.rate == 0.0:
        return True
    attributes = getattr(span, "attributes", None)
    if attributes is not None and attributes.get(semconv.MARK) == semconv.MARK_VALUE:
        return True
    if not span.is_recording():
        status = getattr(span, "status", None)
        return status is not None and status.status_code is StatusCode.ERROR
    if not marks.grant(now, freshness, urgent):
        refused.bump()
        return False
    span.set_attribute(semconv.MARK, semconv.MARK_VALUE)
    marked.bump()
    return True


class Cell:
    """Where the span of one request is kept.

    At the request's entry it takes the context that surrounds the request, and with `enter` it is found from inside;
    our span processor puts the first server span into it that starts there; the middleware adds the context at the
    response's start. The span is looked for in these only when an exemplar is wanted.
    """

    # Of the class, as most requests end without a change to them.
    at_start: Context | None = None
    server_span: Span | None = None
    claimed: SpanContext | None = None  # marked ahead of the response's end, where the span ends earlier

    def __init__(self) -> None:
        self.at_entry = current_context()

    def span(self) -> Span:
        """The server span of the request, or the nearest to it that there is; ``INVALID_SPAN`` without any.

        A server span around us, then the first that started within, then what was current at the response's start,
        which may be a span of the application inside a server span that its provider did not show us.
        """
        around: Span = trace.INVALID_SPAN
        if self.at_entry:  # an empty context has no span
            around = trace.get_current_span(self.at_entry)
            if getattr(around, "kind", None) is SpanKind.SERVER:
                return around
        install_processor()
        if self.server_span is not None:
            return self.server_span
        if self.at_start:
            started = trace.get_current_span(self.at_start)
            if started.get_span_context().is_valid:
                return started
        return around

    def is_elsewhere(self) -> bool:
        """Tell whether no span was current at the response's start.

        A server span that started inside is in a task of its own then, as with Starlette's ``BaseHTTPMiddleware``
        between it and us, and may end before we are told that the response did.
        """
        return not self.at_start or trace.get_current_span(self.at_start) is trace.INVALID_SPAN


# Weakly: a task that outlives its request has a copy of its context, and must not keep all of the request with it.
_cell: ContextVar["weakref.ref[Cell] | None"] = ContextVar("exemplars_cell", default=None)


def current_cell() -> Cell | None:
    """The cell of the innermost request that is served in this context, if that still is."""
    cell = _cell.get()
    return cell() if cell is not None else None


# Makes a cell, by a weak reference to it, the one that is found in this context from now on; for `leave`.
enter = _cell.set


def leave(token: "Token[weakref.ref[Cell] | None]") -> None:
    """Undo `enter`. Does nothing in another context than its own, as when a dropped coroutine is collected."""
    try:
        _cell.reset(token)
    except ValueError:
        pass


class _ServerSpans:
    """A span processor that puts the first server span of a request into its cell, and no other span.

    It has the methods of the SDK's ``SpanProcessor``, which is not a dependency.
    """

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        cell = current_cell()
        if cell is not None and cell.server_span is None and span.kind is SpanKind.SERVER:
            cell.server_span = span

    def _on_ending(self, span: Any) -> None:
        pass

    def on_end(self, span: Any) -> None:
        pass

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


_log = logging.getLogger("exemplars")
_processor = _ServerSpans()
_provider: trace.TracerProvider | None = None


def install_processor() -> None:
    """Add our span processor to the global tracer provider, once for each provider that there ever is.

    Where the provider takes none, or adding fails (counted), spans are still found where they are current at the
    request's entry or at the response's start.
    """
    global _provider
    # OpenTelemetry's function reads the environment at each call until a provider is set.
    if _provider is not None and getattr(trace, "_TRACER_PROVIDER", _provider) is None:
        return
    provider = trace.get_tracer_provider()
    if provider is _provider:
        return
    with lock:
        if provider is _provider:
            return
        _provider = provider
    try:
        add: Any = getattr(provider, "add_span_processor", None)
        if add is not None:
            add(_processor)
        else:
            _log.info(
                "%s takes no span processor, so OpenTelemetry's SDK is not set up (yet): requests are measured, and "
                "only spans that are current where one enters or where its response starts become exemplars",
                type(provider).__name__,
            )
    except Exception as error:
        faults.note("processor", error)

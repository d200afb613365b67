"""What is measured for one request, whatever protocol brought it."""

import re
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry

from exemplars import faults, selfmetrics, semconv
from exemplars._lock import lock
from exemplars._types import Carrier, RouteResolver
from exemplars.metrics import Gauge, GaugeChild, Histogram, HistogramChild, Metric, monotonic, same_shape
from exemplars.options import Resolved
from exemplars.span import Budget, budget, current_context, open_cell

MAX_LABEL_LENGTH: Final = 256

_STATUS_TEXT: Final = {status: str(status) for status in range(100, 600)}
_LEFT: Final = frozenset((semconv.CANCELLED, semconv.CLIENT_DISCONNECTED))
# Told by name, as none of their libraries is imported: asyncio's, trio's and gevent's cancellation, a closed coroutine.
_CANCELLATIONS: Final = frozenset(("CancelledError", "Cancelled", "GreenletExit", "GeneratorExit"))
# Starlette's, uvicorn's and Django's word for a client that has gone.
_DISCONNECTIONS: Final = frozenset(("ClientDisconnect", "ClientDisconnected", "RequestAborted"))
_HOST: Final = re.compile(r"([a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::([0-9]{1,5}))?", re.ASCII | re.IGNORECASE)

MetricT = TypeVar("MetricT", bound=Metric[Any])


class _RequestHistogram(Histogram):
    """A histogram of requests: its series know whether they are errors, and which budget their marks come from."""

    def __init__(self, *args: Any, marks: Budget, **kwargs: Any) -> None:
        self.marks = marks
        super().__init__(*args, **kwargs)

    def _new_child(self, labels: tuple[tuple[str, str], ...]) -> HistogramChild:
        child = super()._new_child(labels)
        child.marks = self.marks
        child.urgent = dict(labels).get(semconv.ERROR_TYPE, "") not in ("", *_LEFT)
        return child


_shared: weakref.WeakKeyDictionary[CollectorRegistry, dict[str, Metric[Any]]] = weakref.WeakKeyDictionary()


def _share(registry: CollectorRegistry, metric: MetricT) -> MetricT:
    """*metric* registered, or the one of the same name and shape that another middleware has registered before.

    Raises ``ValueError`` where the name is taken by one of another shape, or by somebody else's metric.
    """
    with lock:
        ours = _shared.setdefault(registry, {})
        try:
            registry.register(metric)
        except ValueError:
            other = ours.get(metric.name)
            if other is None:
                raise ValueError(
                    f"{metric.name} is in the registry already, and not from us: unregister that metric "
                    "(OpenTelemetry's Prometheus reader has one), or give the middleware a registry of its own"
                ) from None
            if not same_shape(metric, other) or getattr(metric, "marks", None) is not getattr(other, "marks", None):
                raise ValueError(
                    f"{metric.name} is in the registry already with other labels, buckets, policy, max_series or "
                    "marks_per_second: give both middlewares the same options, or each a registry of its own"
                ) from None
            assert isinstance(other, type(metric))
            return other
        ours[metric.name] = metric
        return metric


class Recorder:
    """The metrics of one middleware and how a request's labels are found.

    *route* finds the route template in a scope or environ unless the options have their own way; *readers* finds each
    optional label there. Two recorders on one registry share their metrics if their options shape them alike. Raises
    ``ValueError`` if they do not, and where the registry has metrics of these names from elsewhere.
    """

    def __init__(self, options: Resolved, route: RouteResolver, readers: Mapping[str, Callable[[Any], str]]) -> None:
        self.exclude = options.exclude
        self._route = options.route or route
        self._methods = {method: method for method in options.known_methods}
        self._extra: tuple[tuple[str, str | Callable[[Any], str]], ...] = (
            *((name, readers[name]) for name in options.optional_labels),
            *options.labels,
        )
        labelnames = (*semconv.REQUEST_LABELS, *(name for name, _ in self._extra))
        marks = budget(options.marks_per_second)

        def histogram(name: str, documentation: str, unit: str, buckets: tuple[float, ...]) -> Histogram:
            unregistered = _RequestHistogram(
                name,
                documentation,
                labelnames,
                unit=unit,
                registry=None,
                buckets=buckets,
                policy=options.policy,
                max_series=options.max_series,
                marks=marks,
            )
            return _share(options.registry, unregistered)

        self.duration = histogram(semconv.DURATION, "Duration of HTTP server requests.", "seconds", options.buckets)
        self.active: Gauge | None = None
        if "active_requests" in options.measure:
            unregistered = Gauge(
                semconv.ACTIVE_REQUESTS,
                "Number of active HTTP server requests.",
                semconv.ACTIVE_LABELS,
                registry=None,
                max_series=options.max_series,
            )
            self.active = _share(options.registry, unregistered)
        self.request_size: Histogram | None = None
        if "request_body_size" in options.measure:
            self.request_size = histogram(
                semconv.REQUEST_BODY_SIZE, "Size of HTTP server request bodies.", "bytes", semconv.SIZE_BUCKETS
            )
        self.response_size: Histogram | None = None
        if "response_body_size" in options.measure:
            self.response_size = histogram(
                semconv.RESPONSE_BODY_SIZE, "Size of HTTP server response bodies.", "bytes", semconv.SIZE_BUCKETS
            )
        self.response_start: Histogram | None = None
        if "response_start" in options.measure:
            self.response_start = histogram(
                semconv.RESPONSE_START, "Time until HTTP server responses start.", "seconds", options.buckets
            )
        selfmetrics.install(options.registry)

    def excludes(self, path: str) -> bool:
        """Tell whether requests for *path* are not measured."""
        return any(pattern.fullmatch(path) for pattern in self.exclude)

    def method(self, method: str) -> str:
        """*method* if it is a known one, else ``_OTHER``."""
        return self._methods.get(method, semconv.OTHER_METHOD)

    def route(self, carrier: Carrier) -> str:
        """The route template of a request, empty when nothing matched or the resolver failed. Never raises."""
        try:
            route = self._route(carrier)
            if route is None:
                return ""
            if not isinstance(route, str):
                raise TypeError(f"the route is {route!r}: give a text or None")
            return route
        except Exception as error:
            faults.note("route", error)
            return ""

    def extra(self, carrier: Carrier) -> tuple[str, ...]:
        """The values of optional and further labels, empty where a function failed. Never raises."""
        if not self._extra:
            return ()
        values = []
        for name, value in self._extra:
            if not isinstance(value, str):
                try:
                    value = value(carrier)
                    if not isinstance(value, str):
                        raise TypeError(f"label {name} is {value!r}: give a text")
                    value = value[:MAX_LABEL_LENGTH]
                except Exception as error:
                    faults.note("label", error)
                    value = ""
            values.append(value)
        return tuple(values)


def host_of(header: str) -> tuple[str, str]:
    """Address and port in a ``Host`` header, each empty where it has none or is not of the form that RFC 9110 gives."""
    match = _HOST.fullmatch(header)
    return (match[1].lower().strip("[]"), match[2] or "") if match is not None else ("", "")


def content_length(header: str) -> int:
    """The bytes that a ``Content-Length`` header announces; 0 if it is absent or malformed."""
    return int(header) if header.isascii() and header.isdigit() and len(header) <= 18 else 0


def _status_text(status: int | None) -> str:
    return "" if status is None else _STATUS_TEXT.get(status) or str(int(status))


def _error_type(status: int | None) -> str:
    """The error type of a response that was sent whole."""
    return _status_text(status) if status is not None and status >= 500 else ""


class Request:
    """One request from its entry to its end. It is observed once, whatever happens; none of the methods raises.

    A protocol's middleware tells it what happens: `respond` at the response's start, then `finish` or `fail`. Not for
    two threads at once.
    """

    __slots__ = (
        "_active",
        "_extra",
        "_recorder",
        "_route",
        "_scheme",
        "carrier",
        "cell",
        "disconnected",
        "done",
        "method",
        "request_bytes",
        "response_bytes",
        "start",
        "status",
        "token",
    )

    def __init__(self, recorder: Recorder, carrier: Carrier, method: str, scheme: str) -> None:
        self._recorder = recorder
        self.carrier = carrier
        self.method = method = recorder._methods.get(method, semconv.OTHER_METHOD)
        self._scheme = scheme if scheme in semconv.KNOWN_SCHEMES else semconv.OTHER_SCHEME
        self._route: str | None = None
        self._extra: tuple[str, ...] = ()
        self.status: int | None = None
        self.done = False
        self.disconnected = False
        self.request_bytes = 0
        self.response_bytes = 0
        self._active: GaugeChild | None = None
        if recorder.active is not None:
            key = (method, self._scheme)
            self._active = recorder.active.children.get(key) or recorder.active.child(key)
            self._active.inc()
        self.cell, self.token = open_cell(self)
        self.start = monotonic()

    def respond(self, status: int) -> None:
        """Take down what is known at the response's start: *status*, the route, where the span is."""
        self.status = status
        self.cell.at_start = current_context()
        recorder = self._recorder
        self._route = recorder.route(self.carrier)
        if recorder._extra:
            self._extra = recorder.extra(self.carrier)
        if recorder.response_start is not None:
            try:
                now = monotonic()
                series = self._series(recorder.response_start, status, _error_type(status))
                series.observe_at(now - self.start, now, self.cell)
            except Exception as error:
                faults.note("observation", error)

    def claim_ahead(self, status: int) -> None:
        """Mark the span now, if a request that lasted until now and is answered with *status* would become an exemplar.

        For where the span ends before the response does: at the true end only a span that was claimed, or one that
        ended with an error, can be shown. Does nothing where one is claimed already.
        """
        cell = self.cell
        if cell.claimed is not None:
            return
        try:
            if self._route is None:
                self._route = self._recorder.route(self.carrier)
                self._extra = self._recorder.extra(self.carrier)
            if cell.at_start is None:
                cell.at_start = current_context()
            now = monotonic()
            series = self._series(self._recorder.duration, status, _error_type(status))
            cell.claimed = series.claim_ahead(now - self.start, now, cell)
        except Exception as error:
            faults.note("span", error)

    def finish(self, error_type: str | None = None) -> None:
        """Observe the request, unless that was done. *error_type* ``None``: the response was sent whole."""
        if self.done:
            return
        self.done = True
        now = monotonic()
        try:
            recorder = self._recorder
            if self._route is None:  # the response never started
                self._route = recorder.route(self.carrier)
                self._extra = recorder.extra(self.carrier)
            status = self.status
            if error_type is None:
                error_type = _error_type(status)
            self._series(recorder.duration, status, error_type).observe_at(now - self.start, now, self.cell)
            if recorder.request_size is not None:
                self._series(recorder.request_size, status, error_type).observe_at(self.request_bytes, now, self.cell)
            if recorder.response_size is not None:
                self._series(recorder.response_size, status, error_type).observe_at(self.response_bytes, now, self.cell)
        except Exception as error:
            faults.note("observation", error)
        finally:
            if self._active is not None:
                self._active.dec()

    def fail(self, error: BaseException, sent: bool) -> None:
        """Observe that *error* ended the request; *sent* tells whether the response had started on its way."""
        if self.done:
            return
        if self.cell.at_start is None:
            self.cell.at_start = current_context()
        names = {cls.__name__ for cls in type(error).__mro__}
        if not isinstance(error, Exception) and not names.isdisjoint(_CANCELLATIONS):
            error_type = semconv.CLIENT_DISCONNECTED if self.disconnected else semconv.CANCELLED
        elif not names.isdisjoint(_DISCONNECTIONS) or (self.disconnected and isinstance(error, OSError)):
            error_type = semconv.CLIENT_DISCONNECTED
        else:
            error_type = type(error).__qualname__
            if not sent:
                self.status = 500
        if not sent and error_type in _LEFT:
            self.status = None
        self.finish(error_type)

    def _series(self, metric: Histogram, status: int | None, error_type: str) -> HistogramChild:
        key = (self.method, self._route or "", _status_text(status), self._scheme, error_type, *self._extra)
        return metric.children.get(key) or metric.child(key)

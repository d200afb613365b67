"""What is measured for one request, whatever protocol brought it."""

import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry

from exemplars import faults, selfmetrics, semconv
from exemplars._lock import lock
from exemplars._types import Carrier, LabelValue, RouteResolver
from exemplars.metrics import Gauge, GaugeChild, Histogram, HistogramChild, Metric, monotonic, same_shape, set_up
from exemplars.options import Resolved
from exemplars.span import Budget, Cell, budget, current_context, enter, install_processor

MAX_LABEL_LENGTH: Final = 256
# In the scope or environ of a request: the duration metric of whoever measures it, so that nobody further in with the
# same metric counts it again.
MEASURED: Final = "exemplars.measured"

_STATUS_LABELS: Final[dict[int | None, tuple[str, str]]] = {
    None: ("", ""),
    **{status: (str(status), str(status) if status >= 500 else "") for status in range(100, 600)},
}
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
        registry.register(metric)  # outside the lock: it asks other people's collectors, which may wait for it
    except ValueError:
        other = ours.get(metric.name)
        if other is None or other not in selfmetrics.metrics_of(registry):
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
    metric.belong_to(registry)
    ours[metric.name] = metric
    return metric


class Recorder:
    """The metrics of one middleware and how a request's labels are found.

    *route* finds the route template in a scope or environ unless the options have their own way; *readers* finds each
    optional label there. Two recorders on one registry share their metrics if their options shape them alike. Raises
    ``ValueError`` if they do not, and where the registry has metrics of these names from elsewhere.
    """

    def __init__(self, options: Resolved, route: RouteResolver, readers: Mapping[str, Callable[[Any], str]]) -> None:
        self.watches_spans = False
        self.exclude = options.exclude
        self.route = options.route or route
        self.methods = {method: method for method in options.known_methods}
        self.extra: tuple[tuple[str, LabelValue], ...] = (
            *((name, readers[name]) for name in options.optional_labels),
            *options.labels,
        )
        labelnames = (*semconv.REQUEST_LABELS, *(name for name, _ in self.extra))
        marks = budget(options.marks_per_second)

        new: list[Metric[Any]] = []  # of this recorder alone, until it is whole

        def share(metric: MetricT) -> MetricT:
            shared = _share(options.registry, metric)
            if shared is metric:
                new.append(metric)
            return shared

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
            return share(unregistered)

        def asked(
            measure: str, name: str, documentation: str, unit: str, buckets: tuple[float, ...]
        ) -> Histogram | None:
            return histogram(name, documentation, unit, buckets) if measure in options.measure else None

        sizes, seconds = semconv.SIZE_BUCKETS, options.buckets
        try:
            self.duration = histogram(semconv.DURATION, "Duration of HTTP server requests.", "seconds", seconds)
            self.active: Gauge | None = None
            if "active_requests" in options.measure:
                unregistered = Gauge(
                    semconv.ACTIVE_REQUESTS,
                    "Number of active HTTP server requests.",
                    semconv.ACTIVE_LABELS,
                    registry=None,
                    max_series=options.max_series,
                )
                self.active = share(unregistered)
            self.request_size = asked(
                "request_body_size",
                semconv.REQUEST_BODY_SIZE,
                "Size of HTTP server request bodies.",
                "bytes",
                sizes,
            )
            self.response_size = asked(
                "response_body_size",
                semconv.RESPONSE_BODY_SIZE,
                "Size of HTTP server response bodies.",
                "bytes",
                sizes,
            )
            self.response_start = asked(
                "response_start",
                semconv.RESPONSE_START,
                "Time until HTTP server responses start.",
                "seconds",
                seconds,
            )
            selfmetrics.install(options.registry)
        except BaseException:
            for metric in new:
                options.registry.unregister(metric)
            raise
        self.sizes = self.request_size is not None or self.response_size is not None

    def watch_spans(self) -> None:
        """Have server spans shown to their requests. At the first request: a provider may come after the middleware."""
        self.watches_spans = True
        set_up()
        install_processor()

    def excludes(self, path: str) -> bool:
        """Tell whether requests for *path* are not measured."""
        return any(pattern.fullmatch(path) for pattern in self.exclude)


def host_of(header: str) -> tuple[str, str]:
    """Address and port in a ``Host`` header, each empty where it has none or is not of the form that RFC 9110 gives."""
    match = _HOST.fullmatch(header)
    return (match[1].lower().strip("[]"), match[2] or "") if match is not None else ("", "")


def content_length(header: str) -> int:
    """The bytes that a ``Content-Length`` header announces; 0 if it is absent or malformed."""
    return int(header) if header.isascii() and header.isdigit() and len(header) <= 18 else 0


def _status_labels(status: int | None) -> tuple[str, str]:
    """What the table says of a status, for one that it does not have."""
    text = str(int(status or 0))
    return text, text if int(text) >= 500 else ""


class Request(Cell):
    """One request from its entry to its end. It is observed once, whatever happens; none of the methods raises.

    A protocol's middleware tells it what happens: `respond` at the response's start, then `finish` or `fail`; and gives
    `token` back to `span.leave` when the application has returned. Not for two threads at once.
    """

    # Of the class, as most requests end without a change to them.
    status: int | None = None
    done = False
    disconnected = False
    request_bytes = 0
    response_bytes = 0
    _route: str | None = None
    _extra: tuple[str, ...] = ()
    _active: GaugeChild | None = None
    _started = False
    _sent_whole: HistogramChild | None = None  # the series of this request if its response is sent whole, where known

    def __init__(self, recorder: Recorder, carrier: Carrier, method: str, scheme: str) -> None:
        if not recorder.watches_spans:
            recorder.watch_spans()
        self.at_entry = current_context()  # all that the cell's __init__ does
        self._recorder = recorder
        self.carrier = carrier
        self.method = method = recorder.methods.get(method, semconv.OTHER_METHOD)
        self._scheme = scheme = scheme if scheme in semconv.KNOWN_SCHEMES else semconv.OTHER_SCHEME
        gauge = recorder.active
        if gauge is not None:
            key = (method, scheme)
            self._active = active = gauge.children.get(key) or gauge.child(key)
            active.add(1.0)
        self.token = enter(weakref.ref(self))
        self.start = monotonic()

    def respond(self, status: int) -> None:
        """Take down what is known at the response's start: *status*, the route, where the span is."""
        self.status = status
        self.at_start = current_context()
        self._describe()
        recorder = self._recorder
        try:
            text, error_type = _STATUS_LABELS.get(status) or _status_labels(status)
            # Only looked up: how the response ends is not known yet, and a series that stays at 0 would be in the way.
            self._sent_whole = recorder.duration.children.get(self._key(text, error_type))
            if recorder.response_start is not None and not self._started:
                self._started = True
                now = monotonic()
                self._series(recorder.response_start, text, error_type).observe_at(now - self.start, now, self)
        except Exception as error:
            faults.note("observation", error)

    def claim_ahead(self, status: int | None, error_type: str | None = None) -> None:
        """Mark the span now, if a request that ended now, with *status* and *error_type*, would become an exemplar.

        For where the span ends before the response does: at the true end only a span that was claimed, or one that
        ended with an error, can be shown. Does nothing where one is claimed already.
        """
        if self.claimed is not None:
            return
        try:
            if self._route is None:
                self._describe()
            if self.at_start is None:
                self.at_start = current_context()
            series = self._sent_whole
            if series is None or error_type is not None:
                text, of_status = _STATUS_LABELS.get(status) or _status_labels(status)
                series = self._series(self._recorder.duration, text, of_status if error_type is None else error_type)
            now = monotonic()
            self.claimed = series.claim_ahead(now - self.start, now, self)
        except Exception as error:
            faults.note("span", error)

    def finish(self, error_type: str | None = None) -> None:
        """Observe the request, unless that was done. *error_type* ``None``: the response was sent whole."""
        if self.done:
            return
        self.done = True
        active = self._active
        try:
            now = monotonic()
            recorder = self._recorder
            series = self._sent_whole
            if series is not None and error_type is None and not recorder.sizes:
                series.observe_at(now - self.start, now, self, active)
                active = None
                return
            if self._route is None:  # the response never started
                self._describe()
            status, of_status = _STATUS_LABELS.get(self.status) or _status_labels(self.status)
            if error_type is None:
                error_type = of_status
            self._series(recorder.duration, status, error_type).observe_at(now - self.start, now, self)
            for metric, size in (
                (recorder.request_size, self.request_bytes),
                (recorder.response_size, self.response_bytes),
            ):
                if metric is not None:
                    self._series(metric, status, error_type).observe_at(size, now, self)
        except Exception as error:
            faults.note("observation", error)
        finally:
            if active is not None:
                active.add(-1.0)

    @property
    def measures_sizes(self) -> bool:
        """Whether anybody asks how long the bodies are."""
        return self._recorder.sizes

    def close(self) -> None:
        """Observe that the body was closed before its end: there was none to send, or the client has gone."""
        bodiless = self.status in (204, 304) or (self.method == "HEAD" and self.status is not None)
        self.finish(None if bodiless else semconv.CLIENT_DISCONNECTED)

    def fail(self, error: BaseException, sent: bool) -> None:
        """Observe that *error* ended the request; *sent* tells whether the response had started on its way."""
        if self.done:
            return
        left = None
        try:
            if self.at_start is None:
                self.at_start = current_context()
            left = _left(error, self.disconnected)
        except Exception as fault:
            faults.note("observation", fault)
        if not sent:
            self.status = None if left else 500
        self.finish(left or type(error).__qualname__)

    def _describe(self) -> None:
        """Find the route and the further labels, empty where there are none or finding them failed."""
        recorder = self._recorder
        try:
            route = recorder.route(self.carrier)
            if route is not None and not isinstance(route, str):
                raise TypeError(f"the route is {route!r}: give a text or None")
            self._route = route or ""
        except Exception as error:
            faults.note("route", error)
            self._route = ""
        if recorder.extra:
            self._extra = _read(recorder.extra, self.carrier)

    def _key(self, status: str, error_type: str) -> tuple[str, ...]:
        key: tuple[str, ...] = (self.method, self._route or "", status, self._scheme, error_type)
        return key + self._extra if self._extra else key

    def _series(self, metric: Histogram, status: str, error_type: str) -> HistogramChild:
        key = self._key(status, error_type)
        return metric.children.get(key) or metric.child(key)


def _left(error: BaseException, disconnected: bool) -> str | None:
    """The error type of an ending that the client or the server chose; ``None``: *error* is the application's own.

    A group, as trio's nurseries raise, is what all in it are.
    """
    if isinstance(error, BaseExceptionGroup):
        ways = {_left(one, disconnected) for one in error.exceptions}
        if None in ways:
            return None
        return semconv.CLIENT_DISCONNECTED if semconv.CLIENT_DISCONNECTED in ways else semconv.CANCELLED
    names = {cls.__name__ for cls in type(error).__mro__}
    if not isinstance(error, Exception) and not names.isdisjoint(_CANCELLATIONS):
        return semconv.CLIENT_DISCONNECTED if disconnected else semconv.CANCELLED
    if not names.isdisjoint(_DISCONNECTIONS) or (disconnected and isinstance(error, OSError)):
        return semconv.CLIENT_DISCONNECTED
    return None


def _read(extra: Iterable[tuple[str, LabelValue]], carrier: Carrier) -> tuple[str, ...]:
    """The values of the further labels, empty where a function failed."""
    values = []
    for name, value in extra:
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

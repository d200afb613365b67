"""What a careful engineer writes with prometheus_client alone: the same metrics, labels and exemplars as ours."""

from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import Any

from opentelemetry import trace
from prometheus_client import CollectorRegistry, Gauge, Histogram

DURATION = "http_server_request_duration_seconds"
ACTIVE = "http_server_active_requests"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
LABELS = (
    "http_request_method",
    "http_route",
    "http_response_status_code",
    "url_scheme",
    "error_type",
)

Route = Callable[[dict[str, Any]], str]


def exemplar() -> dict[str, str] | None:
    """The labels of the current span, if it is sampled."""
    context = trace.get_current_span().get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return None
    return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}


def metrics(registry: CollectorRegistry) -> tuple[Histogram, Gauge]:
    duration = Histogram(DURATION, "Duration of HTTP server requests.", LABELS, registry=registry, buckets=BUCKETS)
    active = Gauge(ACTIVE, "Requests being served.", ("http_request_method", "url_scheme"), registry=registry)
    return duration, active


class ASGI:
    def __init__(self, app: Any, registry: CollectorRegistry, route: Route) -> None:
        self.app = app
        self.route = route
        self.duration, self.active = metrics(registry)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method, scheme = scope["method"], scope["scheme"]
        active = self.active.labels(method, scheme)
        active.inc()
        status, error, found = "", "", None

        async def wrapped(message: dict[str, Any]) -> None:
            nonlocal status, error, found
            if message["type"] == "http.response.start":
                status = str(message["status"])
                if message["status"] >= 500:
                    error = status
                found = exemplar()
            await send(message)

        began = perf_counter()
        try:
            await self.app(scope, receive, wrapped)
        except Exception as raised:
            status, error = status or "500", type(raised).__qualname__
            raise
        finally:
            seconds = perf_counter() - began
            active.dec()
            labelled = self.duration.labels(method, self.route(scope), status, scheme, error)
            labelled.observe(seconds, exemplar=found)


class WSGI:
    def __init__(self, app: Any, registry: CollectorRegistry, route: Route) -> None:
        self.app = app
        self.route = route
        self.duration, self.active = metrics(registry)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, scheme = environ["REQUEST_METHOD"], environ["wsgi.url_scheme"]
        active = self.active.labels(method, scheme)
        active.inc()
        status, error, route, found = "", "", "", None

        def wrapped(line: str, headers: Any, exc_info: Any = None) -> Any:
            nonlocal status, error, route, found
            status = line[:3]
            if status >= "500":
                error = status
            route = self.route(environ)  # here: Flask forgets its request before the body is closed
            found = exemplar()
            return start_response(line, headers, exc_info)

        def observe() -> None:
            seconds = perf_counter() - began
            active.dec()
            labelled = self.duration.labels(method, route, status, scheme, error)
            labelled.observe(seconds, exemplar=found)

        began = perf_counter()
        try:
            body = self.app(environ, wrapped)
        except Exception as raised:
            status, error = status or "500", type(raised).__qualname__
            observe()
            raise
        return Body(body, observe)


class Body:
    """A response's body that says when it is closed."""

    def __init__(self, body: Iterable[bytes], closed: Callable[[], None]) -> None:
        self.body = body
        self.closed = closed

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.body)

    def close(self) -> None:
        try:
            if hasattr(self.body, "close"):
                self.body.close()
        finally:
            self.closed()

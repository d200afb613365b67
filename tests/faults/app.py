"""The application that the servers of the campaign serve, as WSGI and as ASGI.

It does what the path says. The trace that a request's ``traceparent`` names is its own, so that whoever sent it knows
every exemplar that there can be. Each response bears the pid of its worker and ends its connection, so that the next
one is any worker's.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Iterable
from typing import Any, Final
from urllib.parse import parse_qs

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from exemplars import Counter, Policy, instrument
from exemplars._types import ASGIApp, Environ, Message, Receive, Scope, Send, StartResponse, WSGIApp
from tests.faults import child, exhaustion, stepping

ROUTES: Final = ("/fast", "/slow", "/fail")
SLOW: Final = 0.012  # seconds
WORKER: Final = "x-worker"  # the header with the pid
# Exemplars change often, so that much can go wrong with them; without a budget of marks, as nothing collects spans.
POLICY: Final = Policy(min_retention=0.05, max_age=float(os.environ.get("MAX_AGE", 240)))

logging.basicConfig(level=logging.INFO, format="%(process)d %(levelname)s %(name)s %(message)s")
stepping.step_if_asked()

handled: Final = Counter("handled", "Requests that the application has begun to handle.", ["series"])


def series_of(query: str) -> str:
    """The series of `handled` that a request asks for by its query: that lets a client make many."""
    return parse_qs(query).get("series", [""])[0]


def span_of(traceparent: str) -> trace.Span:
    """The span that *traceparent* names, as one of this process; without one, none."""
    if not traceparent:
        return trace.INVALID_SPAN
    _, trace_id, span_id, flags = traceparent.split("-")
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(int(flags, 16)))
    return NonRecordingSpan(context)


def route_of(path: str) -> str | None:
    return path if path in ROUTES or path.startswith("/child") else None


def status_of(path: str) -> int:
    return 500 if path == "/fail" else 200


def note_scrape(user_agent: str) -> None:
    """Add our pid to the list of who answered Prometheus, if that asks."""
    if user_agent.startswith("Prometheus/") and "SCRAPES" in os.environ:
        with open(os.environ["SCRAPES"], "a", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")


# --- WSGI -------------------------------------------------------------------------------------------------------------


def _wsgi(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    path: str = environ["PATH_INFO"]
    handled.labels(series_of(environ["QUERY_STRING"])).inc(exemplar={})
    with trace.use_span(span_of(environ.get("HTTP_TRACEPARENT", ""))):
        if path == "/slow":
            time.sleep(SLOW)
        body = child.start(path).encode() if path.startswith("/child") else b"done"
        start_response(f"{status_of(path)} As asked", [("Content-Length", str(len(body)))])
        return [body]


_measured_wsgi: Final[WSGIApp] = instrument(
    _wsgi, route=lambda environ: route_of(environ["PATH_INFO"]), policy=POLICY, marks_per_second=0.0
)


def wsgi(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Around the measured application: who answers, and a process out of files where the request asks for one."""
    note_scrape(environ.get("HTTP_USER_AGENT", ""))

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        return start_response(status, [*headers, (WORKER, str(os.getpid()))], exc_info)

    if "no-files" not in environ["QUERY_STRING"]:
        return _measured_wsgi(environ, start)
    with exhaustion.no_files():
        body = _measured_wsgi(environ, start)
        try:
            return list(body)
        finally:
            getattr(body, "close", lambda: None)()


# --- ASGI -------------------------------------------------------------------------------------------------------------


async def _asgi(scope: Scope, receive: Receive, send: Send) -> None:
    path: str = scope["path"]
    handled.labels(series_of(scope["query_string"].decode())).inc(exemplar={})
    headers = dict(scope["headers"])
    with trace.use_span(span_of(headers.get(b"traceparent", b"").decode())):
        if path == "/slow":
            await asyncio.sleep(SLOW)
        body = child.start(path).encode() if path.startswith("/child") else b"done"
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": status_of(path), "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})


_measured_asgi: Final[ASGIApp] = instrument(
    _asgi, route=lambda scope: route_of(scope["path"]), policy=POLICY, marks_per_second=0.0
)


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    """Around the measured application: who answers, and the end of the connection."""
    note_scrape(dict(scope["headers"]).get(b"user-agent", b"").decode())

    def send_with_worker(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            own = [(WORKER.encode(), str(os.getpid()).encode()), (b"connection", b"close")]
            message = {**message, "headers": [*message.get("headers", ()), *own]}
        return send(message)

    # Only where the event loop does nothing else meanwhile, such as to accept a connection.
    if b"no-files" not in scope["query_string"] or scope["path"] in ("/slow", "/metrics"):
        await _measured_asgi(scope, receive, send_with_worker)
    else:
        with exhaustion.no_files():
            await _measured_asgi(scope, receive, send_with_worker)

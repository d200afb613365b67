"""Requests that nobody would send by accident, and applications that do as they say."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import flask
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from exemplars import ASGIMiddleware, WSGIMiddleware, instrument
from exemplars._types import ASGIApp, Environ, Receive, Scope, Send, StartResponse, WSGIApp
from tests.drivers import ASGIExchange, make_environ, make_scope, run_wsgi
from tests.otel import Spans


class Hit(NamedTuple):
    """One request, and how its application ends it."""

    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    ending: str | int  # a status, or a word


class Failure(Exception):
    """The application's own."""


# --- what is drawn ----------------------------------------------------------------------------------------------------

# Of latin-1, as headers and WSGI's paths are, with all that formats of pages hold dear.
nasty = st.text(
    st.sampled_from('"\\\n\r\t{}#,= %_\x00\x7f\x85\xa0äÿ/.;') | st.characters(max_codepoint=255), max_size=12
)
scanned = st.sampled_from(
    (
        "/.env",
        "/wp-login.php",
        "/../../etc/passwd",
        "/%2e%2e/%00",
        "//",
        "",
        "*",
        "/" + "a" * 500,
        "http://example.org/a",
        "/items/1' OR 1=1",
        '/items/"} 1 # {trace_id="x"} 1',
        "/items/\n# EOF\n",
    )
)
segments = st.sampled_from(("items", "sub", "health", "7", "x")) | nasty
paths = st.lists(segments, max_size=4).map(lambda parts: "/" + "/".join(parts)) | scanned
methods = st.sampled_from(("GET", "GET", "POST", "HEAD", "OPTIONS", "PROPFIND", "get", "")) | nasty
header_names = st.sampled_from(("host", "x-tenant", "traceparent", "content-length", "accept")) | nasty
hosts = st.sampled_from(("example.org", "example.org:8080", "[::1]:80", "EXAMPLE.ORG", "a" * 300))
headers = st.lists(st.tuples(header_names, hosts | nasty), max_size=3)
endings: st.SearchStrategy[str | int] = st.sampled_from((200, 204, 302, 404, 500, 599)) | st.sampled_from(
    ("raise", "raise in the body", "leave", "return early", "invent an exception")
)
hits = st.builds(Hit, methods, paths, st.just("") | nasty, headers, endings)

accepts = st.sampled_from(
    (
        "",
        "*/*",
        "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "application/openmetrics-text;version=1.0.0;escaping=dots;q=0.9",
        "application/openmetrics-text;version=1.0.0;escaping=values",
        "application/openmetrics-text;q=0, text/plain",
        "application/openmetrics-text; version=9.9.9",
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
    )
) | st.text(st.characters(max_codepoint=255), max_size=40)
families = st.sampled_from(
    (
        "http_server_request_duration_seconds",
        "http_server_request_duration_seconds_bucket",
        "http_server_active_requests",
        "exemplars_errors",
        "exemplars_errors_total",
    )
)
names = st.lists(families | nasty, max_size=2)


# --- applications -----------------------------------------------------------------------------------------------------


async def obey(scope: Scope, receive: Receive, send: Send) -> None:
    """End as the hit in *scope* says."""
    ending = scope["hit"].ending
    if ending == "raise":
        raise Failure
    if ending == "invent an exception":
        raise type(scope["hit"].path, (Exception,), {})
    if ending == "leave":
        scope["disconnect"]()
        await receive()
        await receive()
        return
    await send({"type": "http.response.start", "status": ending if isinstance(ending, int) else 200, "headers": []})
    await send({"type": "http.response.body", "body": b"part", "more_body": True})
    if ending == "raise in the body":
        raise Failure
    if ending != "return early":
        await send({"type": "http.response.body"})


async def endpoint(request: Request) -> Response:
    class Obeying(Response):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await obey(scope, receive, send)

    return Obeying()


async def plain(request: Request) -> Response:
    return PlainTextResponse("ok")


def starlette_app(registry: CollectorRegistry, options: Any) -> ASGIApp:
    items = Route("/items/{id:path}", endpoint, methods=["GET", "POST"])
    return instrument(
        Starlette(routes=[Route("/", endpoint), Route("/health", plain), items, Mount("/sub/{name}", routes=[items])]),
        registry=registry,
        **options,
    )


def asgi_app(registry: CollectorRegistry, options: Any) -> ASGIApp:
    """One whose labels hold whatever the client sent."""

    def tenant(scope: Scope) -> str:
        sent: bytes = next((value for name, value in scope["headers"] if name == b"x-tenant"), b"")
        return sent.decode("utf-8", "surrogateescape")

    def route(scope: Scope) -> str | None:
        return scope["path"] or None

    return ASGIMiddleware(obey, registry=registry, labels={"tenant": tenant}, route=route, **options)


def obey_wsgi(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    ending = environ["hit"].ending
    if ending == "raise":
        raise Failure
    if ending == "invent an exception":
        raise type(environ["hit"].path, (Exception,), {})
    start_response(f"{ending if isinstance(ending, int) else 200} Said", [])
    if ending == "raise in the body":
        return parts()
    return [b"part", b"part"]


def parts() -> Iterator[bytes]:
    yield b"part"
    raise Failure


def wsgi_app(registry: CollectorRegistry, options: Any) -> WSGIApp:
    """One whose labels hold whatever the client sent."""
    return WSGIMiddleware(
        obey_wsgi,
        registry=registry,
        labels={"tenant": lambda environ: environ.get("HTTP_X_TENANT", "")},
        route=lambda environ: environ["PATH_INFO"],
        **options,
    )


def flask_app(registry: CollectorRegistry, options: Any) -> WSGIApp:
    app = flask.Flask(__name__)
    app.logger.disabled = True

    def view(**_: str) -> Any:
        return lambda environ, start_response: obey_wsgi(flask.request.environ, start_response)

    for rule in ("/", "/items/<path:id>", "/sub/<name>/items/<id>"):
        app.add_url_rule(rule, rule, view, methods=["GET", "POST"])
    return instrument(app, registry=registry, **options)


Answer = Callable[[Hit], None]
APPS: Final = ("Starlette", "ASGI", "WSGI", "Flask")
MAX_SERIES: Final = (1, 5, 40)


def answering(kind: str, registry: CollectorRegistry, spans: Spans, max_series: int) -> Answer:
    """What answers hits, each under a sampled server span of its own."""
    options: dict[str, Any] = {
        "max_series": max_series,
        "buckets": (0.0001, 1.0),  # seconds: between them is what these applications take
        "marks_per_second": 0.0,
        "optional_labels": ("network_protocol_version", "server_address", "server_port"),
        "measure": ("active_requests", "response_start"),
    }
    if kind in ("Starlette", "ASGI"):
        asgi = (starlette_app if kind == "Starlette" else asgi_app)(registry, options)

        def answer(hit: Hit) -> None:
            exchange = ASGIExchange()
            scope = make_scope(method=hit.method, hit=hit, disconnect=exchange.disconnect)
            scope.update(
                path=hit.path.encode("latin-1").decode("utf-8", "replace"),
                raw_path=hit.path.encode("latin-1"),
                query_string=hit.query.encode("latin-1"),
                headers=[(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in hit.headers],
            )
            with spans.tracer.start_as_current_span("hit", kind=SpanKind.SERVER):
                exchange.run(asgi, scope)

    else:
        wsgi = (flask_app if kind == "Flask" else wsgi_app)(registry, options)

        def answer(hit: Hit) -> None:
            environ = make_environ(method=hit.method) | {"hit": hit, "PATH_INFO": hit.path, "QUERY_STRING": hit.query}
            environ |= {"HTTP_" + name.upper().replace("-", "_"): value for name, value in hit.headers}
            with spans.tracer.start_as_current_span("hit", kind=SpanKind.SERVER):
                run_wsgi(wsgi, environ, leave_after=1 if hit.ending == "leave" else None)

    return answer

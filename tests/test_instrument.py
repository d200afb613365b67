"""The one line: what it returns, where the metrics are, and what it refuses, with the way out."""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import flask
import pytest
import starlette.applications
from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from exemplars import ASGIMiddleware, WSGIMiddleware, instrument, semconv
from exemplars._types import ASGIApp, Environ, Receive, Scope, Send, StartResponse, WSGIApp
from tests.drivers import make_environ, make_scope, run_asgi, run_wsgi
from tests.measured import Ending, active, endings, requests


async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"own " + scope["path"].encode()})


def wsgi_app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"own ", environ["PATH_INFO"].encode()]


class ASGIObject:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await asgi_app(scope, receive, send)


class WSGIObject:
    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return wsgi_app(environ, start_response)


class Endpoint(HTTPEndpoint):
    """An ASGI application that is a class."""

    async def get(self, request: Request) -> Response:
        return await endpoint(request)


class WSGIClass:
    """A WSGI application that is a class, as in PEP 3333."""

    def __init__(self, environ: Environ, start_response: StartResponse) -> None:
        self._body = wsgi_app(environ, start_response)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)


class ReturningAnAwaitable:
    """An ASGI application whose call is no coroutine function."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        return asgi_app(scope, receive, send)


async def endpoint(request: Request) -> Response:
    return PlainTextResponse("own " + request.scope["path"])


def starlette_app(*paths: str, **options: Any) -> Starlette:
    return Starlette(routes=[Route(path, endpoint) for path in paths or ("/a",)], **options)


def fastapi_app() -> FastAPI:
    app = FastAPI()
    app.add_api_route("/a", endpoint)
    return app


def flask_app(*paths: str) -> flask.Flask:
    app = flask.Flask(__name__)
    for path in paths or ("/a",):
        app.add_url_rule(path, path, lambda **_: "own " + flask.request.path)
    return app


ASGI: Final[dict[str, Callable[[], Any]]] = {
    "function": lambda: asgi_app,
    "object": ASGIObject,
    "bound method": lambda: ASGIObject().__call__,
    "partial": lambda: functools.partial(asgi_app),
    "class": lambda: Endpoint,
    "returning an awaitable": ReturningAnAwaitable,
    "Starlette": starlette_app,
    "FastAPI": fastapi_app,
}
WSGI: Final[dict[str, Callable[[], Any]]] = {
    "function": lambda: wsgi_app,
    "object": WSGIObject,
    "bound method": lambda: WSGIObject().__call__,
    "partial": lambda: functools.partial(wsgi_app),
    "class": lambda: WSGIClass,
    "Flask": flask_app,
}


def get_asgi(app: ASGIApp, path: str, **scope: Any) -> bytes:
    exchange = run_asgi(app, make_scope(path, **scope))
    assert exchange.exception is None
    return exchange.body


def get_wsgi(app: WSGIApp, path: str) -> bytes:
    result = run_wsgi(app, make_environ(path))
    assert result.exception is None
    return result.body


@pytest.mark.parametrize("kind", ASGI)
def test_an_asgi_application_is_measured_and_scrapes_are_not(registry: CollectorRegistry, kind: str) -> None:
    app = instrument(ASGI[kind](), registry=registry)

    assert get_asgi(app, "/a") == b"own /a"
    page = get_asgi(app, "/metrics")
    assert f'{semconv.DURATION}_count{{http_request_method="GET"'.encode() in page
    assert get_asgi(app, "/metrics").startswith(b"# HELP")

    assert endings(registry) == [Ending("200", "")]
    assert active(registry) == 0.0


@pytest.mark.parametrize("kind", WSGI)
def test_a_wsgi_application_is_measured_and_scrapes_are_not(registry: CollectorRegistry, kind: str) -> None:
    app = instrument(WSGI[kind](), registry=registry)

    assert get_wsgi(app, "/a") == b"own /a"
    page = get_wsgi(app, "/metrics")
    assert f'{semconv.DURATION}_count{{http_request_method="GET"'.encode() in page
    assert get_wsgi(app, "/metrics").startswith(b"# HELP")

    assert endings(registry) == [Ending("200", "")]
    assert active(registry) == 0.0


@pytest.mark.parametrize("make", [starlette_app, fastapi_app, flask_app])
def test_a_framework_gets_its_own_object_back_which_stays_what_it_was(
    registry: CollectorRegistry, make: Callable[[], Any]
) -> None:
    app = make()
    kind = type(app)

    assert instrument(app, registry=registry) is app

    assert isinstance(app, kind)
    assert type(app).__name__ == kind.__name__
    assert type(app).__module__ == kind.__module__


def test_an_unhandled_exception_is_the_500_that_the_client_gets(registry: CollectorRegistry) -> None:
    async def fail(request: Request) -> Response:
        raise LookupError

    def fail_wsgi() -> str:
        raise LookupError

    app = instrument(Starlette(routes=[Route("/a", fail)]), registry=registry)
    exchange = run_asgi(app, make_scope("/a"))
    assert (exchange.status, type(exchange.exception)) == (500, LookupError)
    flask_ = flask.Flask(__name__)
    flask_.add_url_rule("/a", view_func=fail_wsgi)
    assert run_wsgi(instrument(flask_, registry=registry), make_environ("/a")).status == "500 INTERNAL SERVER ERROR"

    assert endings(registry) == [Ending("500", "500")] * 2


@pytest.mark.parametrize(
    ("path", "root_path"), [("/sub/metrics", "/sub"), ("/metrics", "/sub"), ("/metrics", ""), ("/metrics", "/metrics")]
)
def test_the_path_of_the_metrics_is_compared_without_root_path(
    registry: CollectorRegistry, path: str, root_path: str
) -> None:
    app = instrument(asgi_app, registry=registry)

    if root_path != path:
        assert get_asgi(app, path, root_path=root_path).startswith(b"# HELP")
    else:
        assert get_asgi(app, path, root_path=root_path) == b"own /metrics"


@pytest.mark.parametrize("path", ["/metrics/", "/metricsx", "/x/metrics", "/METRICS", "/"])
def test_another_path_is_the_applications(registry: CollectorRegistry, path: str) -> None:
    assert get_asgi(instrument(asgi_app, registry=registry), path) == b"own " + path.encode()
    assert get_wsgi(instrument(wsgi_app, registry=registry), path) == b"own " + path.encode()


def test_a_path_of_ones_own_or_none(registry: CollectorRegistry) -> None:
    for instrumented, get in ((instrument(asgi_app, metrics_path="/m", registry=registry), get_asgi),):
        assert get(instrumented, "/m").startswith(b"# HELP")
        assert get(instrumented, "/metrics") == b"own /metrics"
    assert get_wsgi(instrument(wsgi_app, metrics_path="/m", registry=registry), "/m").startswith(b"# HELP")
    assert get_asgi(instrument(asgi_app, metrics_path=None, registry=registry), "/metrics") == b"own /metrics"
    assert get_wsgi(instrument(wsgi_app, metrics_path=None, registry=registry), "/metrics") == b"own /metrics"


def test_lifespan_and_websocket_pass(registry: CollectorRegistry) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    instrumented = instrument(app, registry=registry)
    run_asgi(instrumented, {"type": "lifespan"})
    run_asgi(instrumented, make_scope("/metrics", type="websocket"))

    assert seen == ["lifespan", "websocket"]
    assert endings(registry) == []


def test_starlettes_own_middleware_may_be_added_afterwards(registry: CollectorRegistry) -> None:
    class Teapot(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            return Response(status_code=418)

    app = instrument(starlette_app(), registry=registry)
    app.add_middleware(Teapot)

    assert run_asgi(app, make_scope("/a")).status == 418
    assert get_asgi(app, "/metrics").startswith(b"# HELP"), "we are outermost"
    assert [ending.status for ending in endings(registry)] == ["418"]


def test_a_mounted_application_has_metrics_below_its_mount(registry: CollectorRegistry) -> None:
    outer = Starlette(
        routes=[Mount("/sub", instrument(starlette_app(), registry=registry)), Route("/metrics", endpoint)]
    )

    assert get_asgi(outer, "/sub/a") == b"own /sub/a"
    assert get_asgi(outer, "/sub/metrics").startswith(b"# HELP")
    assert get_asgi(outer, "/metrics") == b"own /metrics"
    assert [labels[semconv.ROUTE] for labels in requests(registry)] == ["/sub/a"]


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "metrics", "metrics/", 5, True, b"/metrics"])
def test_a_path_that_is_none_is_refused(registry: CollectorRegistry, path: Any) -> None:
    with pytest.raises(ValueError) as refused:
        instrument(asgi_app, metrics_path=path, registry=registry)

    assert f"metrics_path is {path!r}" in str(refused.value)
    assert "give a path such as '/metrics', or None for no endpoint" in str(refused.value)


@pytest.mark.parametrize("make", [starlette_app, fastapi_app, flask_app])
def test_an_application_that_has_started_is_refused(registry: CollectorRegistry, make: Callable[[], Any]) -> None:
    app = make()
    get: Any = get_wsgi if isinstance(app, flask.Flask) else get_asgi
    get(app, "/a")

    with pytest.raises(ValueError) as refused:
        instrument(app, registry=registry)

    assert repr(app) in str(refused.value)
    assert "has started already: call instrument() before its first request" in str(refused.value)


@pytest.mark.parametrize(
    "make",
    [
        *(functools.partial(make) for make in (starlette_app, fastapi_app, flask_app)),
        lambda: asgi_app,
        lambda: wsgi_app,
    ],
    ids=["Starlette", "FastAPI", "Flask", "ASGI", "WSGI"],
)
def test_an_application_that_is_instrumented_is_refused(registry: CollectorRegistry, make: Callable[[], Any]) -> None:
    app = instrument(make(), registry=registry)

    with pytest.raises(ValueError) as refused:
        instrument(app, registry=registry)

    assert repr(app) in str(refused.value)
    assert "is instrumented already: call instrument() once" in str(refused.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda registry: ASGIMiddleware(asgi_app, registry=registry),
        lambda registry: WSGIMiddleware(wsgi_app, registry=registry),
    ],
    ids=["ASGIMiddleware", "WSGIMiddleware"],
)
def test_our_own_middleware_is_refused(registry: CollectorRegistry, make: Callable[[CollectorRegistry], Any]) -> None:
    with pytest.raises(ValueError, match="not beside the middleware"):
        instrument(make(registry), registry=registry)


def with_router() -> FastAPI:
    router = APIRouter()
    router.add_api_route("/metrics", endpoint)
    app = FastAPI()
    app.include_router(router)
    return app


@pytest.mark.parametrize(
    "make",
    [
        lambda: starlette_app("/metrics"),
        lambda: Starlette(routes=[Mount("/metrics", asgi_app)]),
        lambda: Starlette(routes=[Mount("", routes=[Route("/metrics", endpoint)])]),
        lambda: flask_app("/metrics"),
        with_router,
    ],
    ids=["Starlette", "mount", "inside a mount", "Flask", "included router"],
)
def test_a_route_at_the_path_of_the_metrics_is_refused(registry: CollectorRegistry, make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError) as refused:
        instrument(make(), registry=registry)

    assert "has a route of its own at '/metrics'" in str(refused.value)
    assert (
        "give metrics_path=… another path, or None and serve make_asgi_app() or start_http_server() elsewhere"
        in str(refused.value)
    )
    instrument(make(), registry=registry, metrics_path="/elsewhere")
    instrument(make(), registry=registry, metrics_path=None)


@pytest.mark.parametrize(
    ("app", "template"),
    [
        (starlette_app("/{path:path}"), "/{path:path}"),
        (flask_app("/<path:path>"), "/<path:path>"),
    ],
    ids=["Starlette", "Flask"],
)
def test_a_catch_all_is_no_clash_and_the_log_says_who_answers(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture, app: Any, template: str
) -> None:
    caplog.set_level(logging.INFO, "exemplars")
    instrument(app, registry=registry)
    get: Any = get_wsgi if isinstance(app, flask.Flask) else get_asgi

    assert get(app, "/metrics").startswith(b"# HELP")
    assert get(app, "/other") == b"own /other"
    assert [record.getMessage() for record in caplog.records if record.module == "instrument"] == [
        f"/metrics is answered by exemplars; {template}, which may match it too, is not asked"
    ]


@pytest.mark.parametrize(
    "app",
    [
        lambda one: None,
        lambda *arguments: None,
        lambda one, two, three, four: None,
        dict,
        starlette.applications.Starlette,
    ],
    ids=["one", "any number", "four", "dict", "class"],
)
def test_what_cannot_be_told_is_refused_with_what_to_do(registry: CollectorRegistry, app: Any) -> None:
    with pytest.raises(TypeError) as refused:
        instrument(app, registry=registry)

    assert repr(app) in str(refused.value)
    assert "wrap it in ASGIMiddleware or WSGIMiddleware and serve make_asgi_app() or make_wsgi_app() beside it" in str(
        refused.value
    )


@pytest.mark.parametrize("app", [None, 5, "package.module:app"])
def test_what_is_no_application_is_refused(registry: CollectorRegistry, app: Any) -> None:
    with pytest.raises(TypeError, match=f"{app!r} is no application: it cannot be called"):
        instrument(app, registry=registry)


@pytest.mark.parametrize("make", [starlette_app, fastapi_app, flask_app])
def test_a_refused_option_leaves_the_application_as_it_was(
    registry: CollectorRegistry, make: Callable[[], Any]
) -> None:
    app = make()
    kind = type(app)
    with pytest.raises(ValueError):
        instrument(app, registry=registry, max_series=0)

    assert type(app) is kind
    assert instrument(app, registry=registry) is app
    get: Any = get_wsgi if isinstance(app, flask.Flask) else get_asgi
    get(app, "/a")
    assert endings(registry) == [Ending("200", "")]


def test_middleware_of_starlettes_constructor_is_inside_us(registry: CollectorRegistry) -> None:
    class Failing(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            raise LookupError

    app = instrument(starlette_app(middleware=[Middleware(Failing)]), registry=registry)
    exchange = run_asgi(app, make_scope("/a"))

    assert exchange.status == 500
    assert endings(registry) == [Ending("500", "500")]

"""What `routes` tells of requests that real frameworks serve, seen from outside at the start of the response."""

import asyncio
import gc
import inspect
import re
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

import a2wsgi
import fastapi
import flask
import httpx
import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Mount, Route, Router
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client, create_environ

from exemplars import routes
from exemplars._types import ASGIApp, Environ, Message, Receive, Scope, Send, StartResponse

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # newer versions call it deprecated
    from starlette.middleware.wsgi import WSGIMiddleware as StarletteWSGIMiddleware


# Any: each has types of its own for what ASGI and WSGI say.
A2ASGIMiddleware: Any = a2wsgi.ASGIMiddleware
A2WSGIMiddleware: Any = a2wsgi.WSGIMiddleware
Dispatcher: Any = DispatcherMiddleware


class Seen(NamedTuple):
    """What a client and we saw of one request."""

    status: int
    route: str | None


class Case(NamedTuple):
    """A request, and what is to be seen of it."""

    name: str
    path: str
    route: str | None
    status: int = 200
    method: str = "GET"
    host: str = "example.org"
    otel: str | None = ""  # what OpenTelemetry's instrumentation says; "": the same


def named(cases: Iterable[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases])


def through_asgi(app: Any, path: str, *, method: str = "GET", host: str = "example.org", root_path: str = "") -> Seen:
    """One request to the ASGI application *app*; a path in *root_path* is part of *path*, too."""
    routed: list[str | None] = []

    async def outermost(scope: Scope, receive: Receive, send: Send) -> None:
        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                routed.append(routes.asgi(scope))
            await send(message)

        await app(scope, receive, watch)

    async def request() -> int:
        transport = httpx.ASGITransport(app=outermost, raise_app_exceptions=False, root_path=root_path)
        async with httpx.AsyncClient(transport=transport) as client:
            return (await client.request(method, f"http://{host}{path}")).status_code

    status = asyncio.run(request())
    (route,) = routed
    return Seen(status, route)


def through_wsgi(app: Any, path: str, *, method: str = "GET", script_name: str = "", tell: bool = True) -> Seen:
    """One request to the WSGI application *app*, which the environ holds if we are to *tell*."""
    routed: list[str | None] = []

    def outermost(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if tell:
            environ[routes.APP] = app

        def watch(*args: Any) -> Any:
            routed.append(routes.wsgi(environ))
            return start_response(*args)

        result: Iterable[bytes] = app(environ, watch)
        return result

    environ = {"PATH_INFO": unquote_to_bytes(path.partition("?")[0]).decode("latin-1"), "SCRIPT_NAME": script_name}
    with Client(outermost).open(method=method, environ_overrides=environ) as response:
        (route,) = routed
        return Seen(response.status_code, route)


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


async def shared(request: Request) -> Response:
    return PlainTextResponse("ok")


async def missing(request: Request) -> Response:
    raise HTTPException(404)


async def broken(request: Request) -> Response:
    raise RuntimeError("broken")


class ByClass(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("ok")


class Methods:
    async def bound(self, request: Request) -> Response:
        return PlainTextResponse("ok")


methods = Methods()


class Slots:
    """An endpoint that cannot be referenced weakly."""

    __slots__ = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("ok")(scope, receive, send)


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("bare")(scope, receive, send)


class Refuse:
    """Answers some requests before the router has them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = scope["type"] == "http" and scope["path"].removeprefix("/root").startswith("/refused")
        await (PlainTextResponse("no", status_code=401) if refused else self.app)(scope, receive, send)


def in_a_closure(app: ASGIApp) -> ASGIApp:
    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return middleware


# --- Starlette


def starlette_app() -> Starlette:
    def endpoint() -> Callable[[Request], Awaitable[Response]]:
        async def own(request: Request) -> Response:
            return PlainTextResponse("ok")

        return own

    inner = Starlette(routes=[Route("/", endpoint()), Route("/item/{id}", endpoint(), methods=["POST"])])
    twice = Starlette(routes=[Route("/t/{x}", endpoint()), Route("/u/{x}", ok), Mount("/m", routes=[Route("/v", ok)])])
    closed = Starlette(routes=[Route("/x/{y}", endpoint()), Mount("/m", routes=[Route("/{z}", endpoint())])])
    return Starlette(
        routes=[
            Route("/", endpoint()),
            Route("/users/{id:int}", endpoint()),
            Route("/files/{name:path}", endpoint()),
            Route("/post", endpoint(), methods=["POST"]),
            Route("/slash/", endpoint()),
            Route("/class/{x}", ByClass),
            Route("/bound/{x}", methods.bound),
            Route("/slots/{x}", Slots()),
            Route("/missing/{x}", missing),
            Route("/broken/{x}", broken),
            Route("/shared/{x}", shared),
            Route("/shared/{x}/{y}", shared),
            Route("/by-method/{x}", shared, methods=["GET"]),
            Route("/by-method/a", shared, methods=["POST"]),
            Route("/refused", endpoint()),
            Mount("/bare", app=bare),
            Mount("/a", routes=[Route("/x/{y}", endpoint()), Mount("/b/{t}", routes=[Route("/deep", endpoint())])]),
            Mount("/sub", app=inner),
            Mount("/zip", app=GZipMiddleware(Starlette(routes=[Route("/{x}", endpoint())]))),
            Mount("/closed", app=in_a_closure(closed)),
            Mount("/v1", app=twice),
            Mount("/v2", app=twice),
            Mount("/p1/{p}", app=twice),
            Mount("/p2/{p}", app=twice),
            Host("{name}.hosts.org", app=Router([Route("/hosted/{id}", endpoint())])),
            Host("other.org", app=Router([Route("/shared/elsewhere", shared), Route("/hosted", endpoint())])),
        ],
        middleware=[Middleware(Refuse)],
    )


STARLETTE = [
    Case("root", "/", "/"),
    Case("converter", "/users/7", "/users/{id:int}"),
    Case("path-converter", "/files/a/b/c", "/files/{name:path}"),
    Case("query", "/users/7?x=1", "/users/{id:int}"),
    Case("head", "/users/7", "/users/{id:int}", method="HEAD"),
    Case("unknown-method", "/users/7", "/users/{id:int}", 405, method="BREW"),
    Case("405", "/post", "/post", 405),
    Case("405-mounted", "/sub/item/1", "/sub/item/{id}", 405, otel="/sub"),
    Case("class", "/class/1", "/class/{x}"),
    Case("class-405", "/class/1", "/class/{x}", 405, method="PUT"),
    Case("bound-method", "/bound/1", "/bound/{x}"),
    Case("endpoint-with-slots", "/slots/1", "/slots/{x}"),
    Case("404-by-the-endpoint", "/missing/1", "/missing/{x}", 404),
    Case("exception", "/broken/1", "/broken/{x}", 500),
    Case("endpoint-of-two-routes-1", "/shared/1", "/shared/{x}"),
    Case("endpoint-of-two-routes-2", "/shared/1/2", "/shared/{x}/{y}"),
    Case("endpoint-of-two-routes-by-method", "/by-method/a", "/by-method/a", method="POST"),
    Case("mount", "/a/x/1", "/a/x/{y}", otel="/a"),
    Case("mount-in-mount", "/a/b/1/deep", "/a/b/{t}/deep", otel="/a"),
    Case("sub-application", "/sub/", "/sub/", otel="/sub"),
    Case("sub-application-route", "/sub/item/1", "/sub/item/{id}", method="POST", otel="/sub"),
    Case("sub-application-in-middleware", "/zip/1", "/zip/{x}", otel="/zip"),
    Case("sub-application-in-closure", "/closed/x/1", "/closed/x/{y}", otel="/closed"),
    Case("mount-in-closure", "/closed/m/1", "/closed/m/{z}", otel="/closed"),
    Case("closure-unmatched", "/closed/nothing", None, 404, otel="/closed"),
    Case("mounted-twice-1", "/v1/t/1", "/v1/t/{x}", otel="/v1"),
    Case("mounted-twice-2", "/v2/t/1", "/v2/t/{x}", otel="/v2"),
    Case("mounted-twice-by-parameter-1", "/p1/1/t/1", "/p1/{p}/t/{x}", otel="/p1/{p}"),
    Case("mounted-twice-by-parameter-2", "/p2/1/t/1", "/p2/{p}/t/{x}", otel="/p2/{p}"),
    Case("mounted-twice-shared-endpoint", "/v2/u/1", "/v2/u/{x}", otel="/v2"),
    Case("mounted-twice-mount-below", "/v2/m/v", "/v2/m/v", otel="/v2"),
    Case("host", "/hosted/1", "/hosted/{id}", host="a.hosts.org", otel="/hosted/1"),
    Case("host-2", "/hosted", "/hosted", host="other.org", otel="/hosted"),
    Case("host-unmatched", "/nothing", None, 404, host="other.org", otel="/nothing"),
    Case("bare-mount", "/bare/x/y", None, otel="/bare"),
    Case("mount-unmatched", "/a/nothing", None, 404, otel="/a"),
    Case("mount-in-mount-unmatched", "/a/b/1/nothing", None, 404, otel="/a"),
    Case("mounted-twice-unmatched", "/v2/nothing", None, 404, otel="/v2"),
    Case("slash-redirect", "/slash", None, 307),
    Case("slash-redirect-of-mount", "/sub", None, 307),
    Case("slash-redirect-in-mount", "/a/x/1/", None, 307, otel="/a"),
    Case("unmatched", "/nothing", None, 404),
    Case("converter-unmatched", "/users/x", None, 404),
    Case("scanner", "/.env", None, 404),
    Case("scanner-2", "/wp-login.php?x=%00", None, 404),
    Case("answered-by-middleware", "/refused", None, 401, otel="/refused"),
]


@named(STARLETTE)
def test_starlette(case: Case) -> None:
    seen = through_asgi(starlette_app(), case.path, method=case.method, host=case.host)
    assert seen == Seen(case.status, case.route)


def test_starlette_one_application_for_all() -> None:
    """The same from a table that other requests have made; a root_path of the server is no part of a template."""
    app = starlette_app()
    for _ in range(2):
        for case in STARLETTE:
            seen = through_asgi(app, case.path, method=case.method, host=case.host)
            assert seen == Seen(case.status, case.route), case.name
            seen = through_asgi(app, "/root" + case.path, method=case.method, host=case.host, root_path="/root")
            assert seen == Seen(case.status, case.route), case.name


def test_base_http_middleware() -> None:
    """It hands the scope on as it is, outside the router and in a mount."""

    async def dispatch(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)

    middleware = [Middleware(BaseHTTPMiddleware, dispatch=dispatch)]
    inner = Starlette(routes=[Route("/x/{y}", ok)], middleware=middleware)
    app = Starlette(
        routes=[Route("/{x}", shared), Mount("/m", routes=[Mount("/n", app=inner)], middleware=middleware)],
        middleware=middleware,
    )
    assert through_asgi(app, "/1") == Seen(200, "/{x}")
    assert through_asgi(app, "/m/n/x/1") == Seen(200, "/m/n/x/{y}")


def test_bare_router() -> None:
    """A router without an application has templates too."""
    app = Router([Route("/x/{y}", ok), Mount("/m", routes=[Route("/{z}", shared)])])
    assert through_asgi(app, "/x/1").route == "/x/{y}"
    assert through_asgi(app, "/m/1").route == "/m/{z}"
    assert through_asgi(app, "/m").route is None


def test_application_mounted_in_itself() -> None:
    """A tree without end is not walked without end."""
    app = Starlette(routes=[Route("/x/{y}", ok)])
    app.router.routes.append(Mount("/again", app=app))
    assert through_asgi(app, "/x/1") == Seen(200, "/x/{y}")


def test_a_mount_that_nobody_tells_of() -> None:
    """An application in a mount in a closure: part of its template cannot be known, so there is none."""
    hidden = Router([Mount("/more", app=Starlette(routes=[Route("/x/{y}", ok)]))])
    app = Starlette(routes=[Mount("/closed", app=in_a_closure(hidden))])
    assert through_asgi(app, "/closed/more/x/1") == Seen(200, None)


def test_middleware_without_end() -> None:
    class Wrapping:
        app: Any

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await bare(scope, receive, send)

    wrapping = Wrapping()
    wrapping.app = wrapping
    assert through_asgi(Starlette(routes=[Mount("/m", app=wrapping)]), "/m/x") == Seen(200, None)


# --- FastAPI


def fastapi_app(**options: Any) -> FastAPI:
    app = FastAPI(**options)

    def take(target: Any, *paths: str) -> None:
        for path in paths:

            async def own() -> str:
                return "ok"

            target.get(path)(own)

    take(app, "/", "/items/{id}", "/files/{name:path}", "/slash/")

    @app.get("/typed/{n}")
    async def typed(n: int) -> int:
        return n

    @app.get("/missing/{x}")
    async def missing() -> None:
        raise fastapi.HTTPException(404)

    @app.get("/broken/{x}")
    async def broken() -> None:
        raise RuntimeError("broken")

    deepest = APIRouter()
    take(deepest, "/in/{x}")
    middle = APIRouter(prefix="/v1")
    take(middle, "", "/here/{x}")
    middle.include_router(deepest, prefix="/deep")
    app.include_router(middle, prefix="/api")

    twice = APIRouter()
    take(twice, "/t/{x}")
    app.include_router(twice, prefix="/first")
    app.include_router(twice, prefix="/second")

    mixed = APIRouter()
    mixed.add_route("/plain/{x}", ok)
    app.include_router(mixed, prefix="/mixed")

    sub = FastAPI()
    take(sub, "/s/{x}")
    sub.include_router(twice, prefix="/within")
    app.mount("/sub", sub)
    app.mount("/alias", sub)
    app.mount("/stars", Starlette(routes=[Route("/a/{x}", ok), Mount("/b", routes=[Route("/c/{x}", shared)])]))
    app.mount("/bare", bare)
    return app


FASTAPI = [
    Case("root", "/", "/"),
    Case("parameter", "/items/1", "/items/{id}"),
    Case("path-converter", "/files/a/b", "/files/{name:path}"),
    Case("included", "/api/v1/here/1", "/api/v1/here/{x}"),
    Case("included-without-a-path", "/api/v1", "/api/v1"),
    Case("included-in-included", "/api/v1/deep/in/1", "/api/v1/deep/in/{x}"),
    Case("included-twice-1", "/first/t/1", "/first/t/{x}"),
    Case("included-twice-2", "/second/t/1", "/second/t/{x}"),
    Case("included-starlette-route", "/mixed/plain/1", "/mixed/plain/{x}"),
    Case("405", "/items/1", "/items/{id}", 405, method="POST"),
    Case("405-included", "/api/v1/here/1", "/api/v1/here/{x}", 405, method="POST"),
    Case("405-included-twice", "/second/t/1", "/second/t/{x}", 405, method="POST"),
    Case("405-mounted", "/sub/s/1", "/sub/s/{x}", 405, method="POST", otel="/sub"),
    Case("422", "/typed/x", "/typed/{n}", 422),
    Case("404-by-the-endpoint", "/missing/1", "/missing/{x}", 404),
    Case("exception", "/broken/1", "/broken/{x}", 500),
    Case("docs", "/docs", "/docs"),
    Case("openapi", "/openapi.json", "/openapi.json"),
    Case("mounted-fastapi", "/sub/s/1", "/sub/s/{x}", otel="/sub"),
    Case("mounted-fastapi-alias", "/alias/s/1", "/alias/s/{x}", otel="/alias"),
    Case("mounted-fastapi-docs", "/sub/docs", "/sub/docs", otel="/sub"),
    Case("mounted-fastapi-included", "/sub/within/t/1", "/sub/within/t/{x}", otel="/sub"),
    Case("mounted-fastapi-alias-included", "/alias/within/t/1", "/alias/within/t/{x}", otel="/alias"),
    Case("mounted-starlette", "/stars/a/1", "/stars/a/{x}", otel="/stars"),
    Case("mount-in-mounted-starlette", "/stars/b/c/1", "/stars/b/c/{x}", otel="/stars"),
    Case("bare-mount", "/bare/x", None, otel="/bare"),
    Case("mounted-unmatched", "/sub/nothing", None, 404, otel="/sub"),
    Case("mounted-starlette-unmatched", "/stars/nothing", None, 404, otel="/stars"),
    Case("slash-redirect", "/slash", None, 307),
    Case("slash-redirect-included", "/api/v1/here/1/", None, 307),
    Case("unmatched", "/nothing", None, 404),
    Case("unmatched-below-a-prefix", "/api/v1/nothing", None, 404),
    Case("scanner", "/.git/config", None, 404),
]


@named(FASTAPI)
def test_fastapi(case: Case) -> None:
    assert through_asgi(fastapi_app(), case.path, method=case.method) == Seen(case.status, case.route)


def test_fastapi_one_application_for_all() -> None:
    """The same from a table that other requests have made; a root_path of the server is no part of a template."""
    app = fastapi_app()
    for _ in range(2):
        for case in FASTAPI:
            assert through_asgi(app, case.path, method=case.method) == Seen(case.status, case.route), case.name
            seen = through_asgi(app, "/root" + case.path, method=case.method, root_path="/root")
            assert seen == Seen(case.status, case.route), case.name


@pytest.mark.parametrize("case", FASTAPI, ids=lambda case: case.name)
def test_fastapi_in_starlette(case: Case) -> None:
    """Starlette leaves its mount in the scope where FastAPI leaves nothing."""
    app = Starlette(routes=[Mount("/outer/{o}", app=fastapi_app())])
    route = None if case.route is None else "/outer/{o}" + case.route
    assert through_asgi(app, "/outer/1" + case.path, method=case.method) == Seen(case.status, route)


def test_mount_and_host_in_an_included_router() -> None:
    """Versions that leave mounts out of what they include answer 404, and we agree."""
    router = APIRouter()
    router.mount("/m", Starlette(routes=[Route("/x/{y}", ok)]))
    router.host("other.org", Router([Route("/h/{y}", shared)]))
    app = FastAPI()
    app.include_router(router, prefix="/p")
    for seen, route in (
        (through_asgi(app, "/p/m/x/1"), "/p/m/x/{y}"),
        (through_asgi(app, "/p/h/1", host="other.org"), "/p/h/{y}"),
    ):
        assert seen in (Seen(200, route), Seen(404, None))


@pytest.mark.skipif(not hasattr(FastAPI, "frontend"), reason="this FastAPI has none")
def test_frontend_is_a_bare_mount(tmp_path: Any) -> None:
    (tmp_path / "index.html").write_text("<p>")
    app = FastAPI()
    app.frontend("/", directory=str(tmp_path), fallback="index.html")
    app.get("/items/{id}")(lambda id: id)
    assert through_asgi(app, "/index.html") == Seen(200, None)
    assert through_asgi(app, "/items/1") == Seen(200, "/items/{id}")


# --- Flask


def flask_app() -> Any:
    app = flask.Flask("tests.shop", static_folder=None)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.add_url_rule("/", "home", lambda: "ok")
    app.add_url_rule("/item/<int:id>", "item", lambda id: "ok", methods=["GET"])
    app.add_url_rule("/files/<path:name>", "files", lambda name: "ok")
    app.add_url_rule("/slash/", "slash", lambda: "ok")
    app.add_url_rule("/missing/<x>", "missing", lambda x: flask.abort(404))
    app.add_url_rule("/stream", "stream", lambda: flask.Response(iter(["a", "b"])))

    @app.get("/broken/<x>")
    def broken(x: str) -> str:
        raise RuntimeError("broken")

    inner = flask.Blueprint("inner", __name__, url_prefix="/inner")
    inner.add_url_rule("/<x>", "x", lambda x: "ok")
    outer = flask.Blueprint("outer", __name__, url_prefix="/outer", static_folder=".", static_url_path="/assets")
    outer.add_url_rule("/y/<y>", "y", lambda y: "ok")
    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    app.register_blueprint(outer, url_prefix="/again", name="again")
    return app


FLASK = [
    Case("root", "/", "/"),
    Case("converter", "/item/1", "/item/<int:id>"),
    Case("path-converter", "/files/a/b", "/files/<path:name>"),
    Case("head", "/item/1", "/item/<int:id>", method="HEAD"),
    Case("options", "/item/1", "/item/<int:id>", method="OPTIONS"),
    Case("stream", "/stream", "/stream"),
    Case("404-by-the-view", "/missing/1", "/missing/<x>", 404),
    Case("exception", "/broken/1", "/broken/<x>", 500),
    Case("blueprint", "/outer/y/1", "/outer/y/<y>"),
    Case("blueprint-in-blueprint", "/outer/inner/1", "/outer/inner/<x>"),
    Case("blueprint-again", "/again/inner/1", "/again/inner/<x>"),
    Case("static", "/outer/assets/__init__.py", "/outer/assets/<path:filename>"),
    Case("static-absent", "/outer/assets/nothing", "/outer/assets/<path:filename>", 404),
    Case("slash-redirect", "/slash", None, 308),
    Case("405", "/item/1", None, 405, method="POST"),
    Case("converter-unmatched", "/item/x", None, 404),
    Case("unmatched", "/nothing", None, 404),
    Case("scanner", "/wp-admin/%ff", None, 404),
]


@named(FLASK)
def test_flask(case: Case) -> None:
    for tell in (True, False):
        seen = through_wsgi(flask_app(), case.path, method=case.method, tell=tell)
        assert seen == Seen(case.status, case.route)


@named(FLASK)
def test_flask_below_a_script_name(case: Case) -> None:
    """SCRIPT_NAME may come from the server, or from anybody: it is no part of a template."""
    seen = through_wsgi(flask_app(), case.path, method=case.method, script_name="/tenant-4711")
    assert seen == Seen(case.status, case.route)


@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
@named(FLASK)
def test_flask_under_a_dispatcher(case: Case, inside: bool) -> None:
    """Both ways in which werkzeug's documentation mounts applications, and mounts in mounts."""
    main = flask_app()
    mounts = {"/back": flask_app(), "/deep": Dispatcher(flask_app(), {"/er": flask_app(), "/back": bare})}
    app: Any = main
    if inside:
        main.wsgi_app = Dispatcher(main.wsgi_app, mounts)
    else:
        app = ProxyFix(Dispatcher(main, mounts))
    for mount in ("", "/back", "/deep", "/deep/er"):
        route = None if case.route is None else mount + case.route
        seen = through_wsgi(app, mount + case.path, method=case.method)
        assert seen == Seen(case.status, route)
        seen = through_wsgi(app, mount + case.path, method=case.method, script_name="/root")
        assert seen == Seen(case.status, route)
        # Nobody tells us the application: its own rule is all that can be known.
        assert through_wsgi(app, mount + case.path, method=case.method, tell=False).route == case.route


@pytest.mark.parametrize("mount", ["", "/back"])
def test_flask_has_forgotten_a_request_that_raised(mount: str) -> None:
    """Where exceptions propagate, no response starts, and Flask has cleared the environ when it is our turn."""
    back = flask_app()
    back.config["PROPAGATE_EXCEPTIONS"] = True
    app: Any = Dispatcher(back, {"/back": back})
    environ: Environ = {}

    def outermost(given: Environ, start_response: StartResponse) -> Iterable[bytes]:
        nonlocal environ
        environ = given
        environ[routes.APP] = app
        result: Iterable[bytes] = app(environ, start_response)
        return result

    with pytest.raises(RuntimeError, match="broken"):
        Client(outermost).get(mount + "/broken/1")
    before = dict(environ)
    assert routes.wsgi(environ) == mount + "/broken/<x>"
    assert environ == before


def test_answered_before_flask() -> None:
    """A request that never came to Flask has no template, though Flask would have had one."""
    app = flask_app()

    def refuse(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("401 Unauthorized", [])
        return [b""]

    app.wsgi_app = refuse
    assert through_wsgi(app, "/item/1") == Seen(401, None)


def test_middleware_inside_flask() -> None:
    """Told only the bound method that middleware inside Flask wraps, we find the application it is bound to."""
    app = flask_app()
    inner = app.wsgi_app

    def outermost(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ[routes.APP] = inner
        body: Iterable[bytes] = inner(environ, start_response)
        return body

    app.wsgi_app = outermost
    app.config["PROPAGATE_EXCEPTIONS"] = True
    environ = create_environ("/broken/1")
    with pytest.raises(RuntimeError, match="broken"):
        app(environ, None)
    assert routes.wsgi(environ) == "/broken/<x>"


# --- One in the other


@pytest.mark.parametrize("middleware", [StarletteWSGIMiddleware, A2WSGIMiddleware], ids=["starlette", "a2wsgi"])
@named(case for case in FLASK if case.name != "static")  # Starlette's leaves the file open
def test_flask_in_starlette(case: Case, middleware: Callable[[Any], ASGIApp]) -> None:
    """The environ that these make cannot be seen from outside."""
    app = Starlette(
        routes=[
            Mount("/flask", app=middleware(flask_app())),
            Mount("/{t}/flask", app=GZipMiddleware(middleware(ProxyFix(flask_app())))),
        ]
    )
    for mount, template in (("/flask", "/flask"), ("/1/flask", "/{t}/flask")):
        route = None if case.route is None else template + case.route
        assert through_asgi(app, mount + case.path, method=case.method) == Seen(case.status, route)
        seen = through_asgi(app, "/root" + mount + case.path, method=case.method, root_path="/root")
        assert seen == Seen(case.status, route)


def test_flask_in_starlette_behind_a_proxy() -> None:
    """Where a root_path is no part of the path, neither intermediary finds Flask's, and no more do we."""
    for middleware in (StarletteWSGIMiddleware, A2WSGIMiddleware):
        app = Starlette(routes=[Mount("/flask", app=middleware(flask_app()))])
        assert through_asgi(app, "/flask/item/1", root_path="/proxy") == Seen(404, None)


def test_flask_in_fastapi() -> None:
    flasks = A2WSGIMiddleware(flask_app())
    app = FastAPI()
    app.mount("/one", flasks)
    app.mount("/two", flasks)
    assert through_asgi(app, "/two/item/1").route == "/two/item/<int:id>"
    assert through_asgi(app, "/one/item/1").route == "/one/item/<int:id>"
    assert through_asgi(app, "/one/item/x").route is None


def test_flask_that_is_gone_from_its_mount() -> None:
    middleware = A2WSGIMiddleware(flask_app())
    app = Starlette(routes=[Mount("/flask", app=middleware)])
    assert through_asgi(app, "/flask/item/1").route == "/flask/item/<int:id>"

    def plain(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b""]

    middleware.app = plain
    gc.collect()
    assert through_asgi(app, "/flask/item/1") == Seen(200, None)


@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
def test_dispatcher_in_starlette(inside: bool) -> None:
    """Which of several WSGI applications answered cannot be known: better no template than another's."""
    wsgi_app = flask_app()
    if inside:
        wsgi_app.wsgi_app = Dispatcher(wsgi_app.wsgi_app, {"/files": flask_app()})
    else:
        wsgi_app = Dispatcher(wsgi_app, {"/files": flask_app()})
    app = Starlette(routes=[Mount("/wsgi", app=A2WSGIMiddleware(wsgi_app))])
    assert through_asgi(app, "/wsgi/files/item/1") == Seen(200, None)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """For a2wsgi, whose own loops run for ever."""
    # Flask has Python parse each route. Was a collection to end coroutines meanwhile, other threads would have a turn,
    # and one that logs a traceback parses too: of two at once, CPython 3.11 fails the outer one ("AST constructor
    # recursion depth mismatch").
    gc.disable()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    for task in asyncio.all_tasks(loop):
        task.cancel()
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
    loop.close()
    gc.enable()


@pytest.mark.parametrize(
    ("make", "case"),
    [
        pytest.param(make, case, id=f"{make.__name__}-{case.name}")
        for make, cases in ((starlette_app, STARLETTE), (fastapi_app, FASTAPI))
        for case in cases
        # a2wsgi never ends a request that raised.
        if case.status != 500 and case.host == "example.org" and case.name != "answered-by-middleware"
    ],
)
def test_asgi_in_flask(make: Callable[[], Any], case: Case, loop: asyncio.AbstractEventLoop) -> None:
    """The scope that a2wsgi makes cannot be seen from outside: the path is matched again, by the same routes."""
    app = Dispatcher(flask_app(), {"/asgi": A2ASGIMiddleware(make(), loop=loop)})
    route = None if case.route is None or "closure" in case.name else "/asgi" + case.route
    assert through_wsgi(app, "/asgi" + case.path, method=case.method) == Seen(case.status, route)
    assert through_wsgi(app, "/asgi" + case.path, method=case.method, tell=False) == Seen(case.status, None)
    assert through_wsgi(app, "/item/1").route == "/item/<int:id>"


@pytest.mark.parametrize(("told", "route"), [("/asgi/items/{id}", "/asgi/items/{id}"), ("", None)])
def test_told(told: str, route: str | None, loop: asyncio.AbstractEventLoop) -> None:
    """What a hook has written wins over all that can be found out."""

    async def hook(scope: Scope, receive: Receive, send: Send) -> None:
        scope["wsgi_environ"][routes.KEY] = told
        await bare(scope, receive, send)

    app = Dispatcher(flask_app(), {"/asgi": A2ASGIMiddleware(hook, loop=loop)})
    assert through_wsgi(app, "/asgi/items/1") == Seen(200, route)

    def told_in_flask() -> str:
        flask.request.environ[routes.KEY] = told
        return "ok"

    flask_one = flask_app()
    flask_one.add_url_rule("/told", "told", told_in_flask)
    assert through_wsgi(flask_one, "/told") == Seen(200, route)

    async def told_in_starlette(request: Request) -> Response:
        request.scope[routes.KEY] = told
        return PlainTextResponse("ok")

    assert through_asgi(Starlette(routes=[Route("/told", told_in_starlette)]), "/told") == Seen(200, route)


def test_a_copy_of_the_scope_tells_nothing() -> None:
    """The limit: middleware that copies the scope hides what the framework writes."""
    inner = starlette_app()

    async def copying(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(dict(scope), receive, send)

    assert through_asgi(copying, "/users/7") == Seen(200, None)


# --- What is remembered


def tables_made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []

    class Counted(routes._Table):
        __slots__ = ()

        def __init__(self, router: Any) -> None:
            made.append(router)
            super().__init__(router)

    monkeypatch.setattr(routes, "_Table", Counted)
    return made


def test_the_tree_is_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not again for any request, matched or not, once the objects that serve it have been met."""
    made = tables_made(monkeypatch)
    for app, cases in ((starlette_app(), STARLETTE), (fastapi_app(), FASTAPI)):
        for case in cases:
            through_asgi(app, case.path, method=case.method, host=case.host)
        made.clear()
        for case in cases:
            through_asgi(app, case.path, method=case.method, host=case.host)
        assert made == []


def test_the_framework_matches_once() -> None:
    """A template that is known costs no further call of a route's `matches`, nor does an unmatched request."""
    matched = 0

    class Counting(Route):
        def matches(self, scope: Scope) -> Any:
            nonlocal matched
            matched += 1
            return super().matches(scope)

    twice = Starlette(routes=[Counting("/x/{y}", ok)])
    app = Starlette(
        routes=[Counting("/a", shared), Mount("/1", app=twice), Mount("/2", app=twice), Mount("/b", app=bare)]
    )
    for path, route, calls in (
        ("/a", "/a", 1),
        ("/1/x/1", "/1/x/{y}", 2),
        ("/2/x/1", "/2/x/{y}", 2),
        ("/b/1", None, 1),
    ):
        for _ in range(2):
            matched = 0
            assert through_asgi(app, path).route == route
            assert matched == calls, path


def test_fastapi_tells_which_inclusion(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router included twice costs no matching, nor does an application mounted twice."""
    monkeypatch.setattr(routes, "_match", None)
    app = fastapi_app()
    for case in FASTAPI:
        assert through_asgi(app, case.path, method=case.method) == Seen(case.status, case.route), case.name


def test_routes_added_later() -> None:
    app = fastapi_app()
    router = APIRouter()
    app.include_router(router, prefix="/late")
    assert through_asgi(app, "/items/1").route == "/items/{id}"
    app.get("/new/{x}")(lambda x: x)
    router.get("/er/{x}")(lambda x: x)
    app.include_router(router, prefix="/later")
    assert through_asgi(app, "/new/1").route == "/new/{x}"
    assert through_asgi(app, "/later/er/1").route == "/later/er/{x}"
    assert through_asgi(app, "/first/t/1").route == "/first/t/{x}"
    assert through_asgi(app, "/second/t/1").route == "/second/t/{x}"
    star = starlette_app()
    assert through_asgi(star, "/users/7").route == "/users/{id:int}"
    star.router.routes.append(Mount("/new", routes=[Route("/{x}/y", lambda request: PlainTextResponse("ok"))]))
    assert through_asgi(star, "/new/1/y").route == "/new/{x}/y"


def test_routes_removed_later(loop: asyncio.AbstractEventLoop) -> None:
    """What was taken from the tree leads nowhere, also where the path is matched again."""
    star = Starlette(routes=[Route("/x/{y}", shared), Mount("/a/{p}", routes=[Route("/{z}", shared)])])
    app = Dispatcher(flask_app(), {"/asgi": A2ASGIMiddleware(star, loop=loop)})
    assert through_wsgi(app, "/asgi/a/1/2").route == "/asgi/a/{p}/{z}"
    assert through_asgi(star, "/a/1/2").route == "/a/{p}/{z}"
    del star.router.routes[1]
    gc.collect()
    assert through_wsgi(app, "/asgi/a/1/2") == Seen(404, None)
    assert through_asgi(star, "/a/1/2") == Seen(404, None)
    assert through_asgi(star, "/x/1") == Seen(200, "/x/{y}")


def test_one_application_below_two_roots() -> None:
    """What hangs in two trees has a template in each."""
    inner = fastapi_app()
    outer = Starlette(routes=[Mount("/outer", app=inner)])
    for _ in range(2):
        assert through_asgi(inner, "/items/1").route == "/items/{id}"
        assert through_asgi(outer, "/outer/items/1").route == "/outer/items/{id}"


@pytest.mark.parametrize("make", [starlette_app, fastapi_app])
def test_nothing_is_kept_alive(make: Callable[[], Any]) -> None:
    """An application that is gone takes its table with it, however much it refers to itself."""
    app = make()
    for case in (*STARLETTE, *FASTAPI):
        through_asgi(app, case.path, method=case.method, host=case.host)
    assert app.router in [table.root() for table in routes._tables.values()]
    gone = weakref.ref(app), weakref.ref(app.router)
    del app
    for _ in range(1000):
        gc.collect()
        if not any(ref() for ref in gone):
            break
        time.sleep(0.01)  # the threads that worked for these requests may have to end first
    assert [ref() for ref in gone] == [None, None]
    assert None not in [table.root() for table in routes._tables.values()]


@pytest.mark.parametrize("make", [starlette_app, fastapi_app])
def test_cold_under_threads(make: Callable[[], Any]) -> None:
    """Many threads that make the same table at once all get the right answers."""
    app = make()
    cases = [case for case in (STARLETTE if make is starlette_app else FASTAPI) if case.host == "example.org"]
    scopes: list[tuple[Scope, str | None]] = []

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                scopes.append((dict(scope), case.route))
            await send(message)

        await app(scope, receive, note)

    for case in cases:
        through_asgi(noting, case.path, method=case.method)
    start = threading.Barrier(8)

    def resolve(_: int) -> list[str | None]:
        start.wait(60)
        return [routes.asgi(scope) for scope, _ in scopes]

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            routes._tables.clear()
            for answers in pool.map(resolve, range(8)):
                assert answers == [route for _, route in scopes]


def test_the_next_object_in_the_same_place_is_not_mistaken() -> None:
    """Identities are used again by Python; templates are not."""
    app = Starlette()
    for n in range(100):
        app.router.routes[:] = [Mount(f"/{n}", routes=[Route("/{x}", ok if n % 2 else shared)])]
        assert through_asgi(app, f"/{n}/1").route == f"/{n}/{{x}}"
        assert through_asgi(app, "/1").route is None
    (table,) = [table for table in routes._tables.values() if table.root() is app.router]
    assert len(table.route) + len(table.endpoint) < 20

    first, second = Route("/1/{x}", ok), Route("/2/{x}", shared)
    router = Router([first])
    for scope in ({"router": router, "route": second, "endpoint": shared}, {"router": router, "endpoint": shared}):
        router.routes[:] = [first]
        routes._tables.clear()
        assert routes.asgi({"router": router, "route": first, "endpoint": ok}) == "/1/{x}"
        table = routes._tables[id(router)]
        # As it is when the first has gone and the second has got its place in memory.
        table.route[id(second)] = table.route.pop(id(first))
        table.endpoint[id(shared)] = table.endpoint.pop(id(ok))
        router.routes[:] = [second]
        assert routes.asgi(scope) == "/2/{x}"


def test_as_many_tables_as_there_is_room_for() -> None:
    apps: list[Any] = [Starlette(routes=[Route(f"/{n}", ok)]) for n in range(routes._MOST_ROUTERS + 10)]
    for n, app in enumerate(apps):
        scope: Scope = {"router": app.router, "route": app.routes[0], "endpoint": ok}
        assert routes.asgi(scope) == f"/{n}"
        assert len(routes._tables) <= routes._MOST_ROUTERS
    assert routes.asgi({"router": apps[0].router, "route": apps[0].routes[0], "endpoint": ok}) == "/0"
    flask_one = flask_app()
    for _ in range(routes._MOST_ROUTERS + 10):
        dispatcher = Dispatcher(flask_one, {"/back": flask_one})
        apps.append(dispatcher)
        assert through_wsgi(dispatcher, "/back/item/1").route == "/back/item/<int:id>"
        assert len(routes._known_mounts) <= routes._MOST_ROUTERS


@pytest.mark.parametrize(
    "scope",
    [
        {},
        {"router": None},
        {"router": "router", "route": "route", "endpoint": "endpoint"},
        {"router": object(), "route": object(), "endpoint": 1, "app": None},
        {"router": Router(), "route": {}, "endpoint": [], "app": 1, "fastapi": 1},
        {"router": Router([Route("/a", ok)]), "route": {}, "endpoint": [], "app": object(), "fastapi": None},
        {"router": Router([Route("/a", ok)]), "route": Route("/a", ok), "app": Starlette(), "fastapi": {}},
        {"router": Router([BaseRoute()]), "route": BaseRoute(), "endpoint": ok},
        {"router": Router([Route("/a", ok), object()]), "endpoint": shared},  # type: ignore[list-item]
    ],
)
def test_scopes_of_strangers(scope: Scope) -> None:
    before = dict(scope)
    assert routes.asgi(scope) is None
    assert routes.asgi(scope) is None
    assert scope == before


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"werkzeug.request": None},
        {"werkzeug.request": object()},
        {routes.APP: None},
        {routes.APP: bare, "werkzeug.request": None},
        {routes.APP: len, "SCRIPT_NAME": "/x"},
        {routes.APP: Dispatcher(bare, {"/x": bare}), "SCRIPT_NAME": "/x"},
    ],
)
def test_environs_of_strangers(environ: Environ) -> None:
    before = dict(environ)
    assert routes.wsgi(environ) is None
    assert environ == before


segment = st.binary(max_size=4) | st.text(max_size=4).map(lambda text: text.encode(errors="surrogatepass"))
segment |= st.sampled_from(b"a b x m v1 v2 sub api item users files t u first p1 shared flask asgi .env .. 7".split())


@settings(max_examples=300, deadline=None)
@given(st.lists(segment, max_size=6), st.sampled_from(["GET", "POST", "HEAD", "BREW"]))
def test_never_a_raw_path(segments: list[bytes], method: str) -> None:
    """Whatever is asked for, the answer is one of the templates that the programmer wrote."""
    path = "/" + "/".join(quote(segment, safe="") for segment in segments)
    for app, known in ASGI_APPLICATIONS:
        assert through_asgi(app, path, method=method).route in known
    assert through_wsgi(WSGI_APPLICATION, path, method=method).route in WSGI_KNOWN


def asgi_applications() -> Iterator[tuple[Any, set[str | None]]]:
    for app, hidden in ((starlette_app(), {"/closed/x/{y}", "/closed/m/{z}"}), (fastapi_app(), set())):
        app.mount("/flask", A2WSGIMiddleware(flask_app()))
        inside = {f"/flask{rule}" for rule in routes.templates(flask_app())}
        yield app, {None, *routes.templates(app), *hidden, *inside}


ASGI_APPLICATIONS = list(asgi_applications())
WSGI_APPLICATION = Dispatcher(flask_app(), {"/sub": flask_app()})
WSGI_KNOWN = {None, *routes.templates(WSGI_APPLICATION)}


# --- As OpenTelemetry spells it


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(spans: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider


def traced_route(spans: InMemorySpanExporter) -> object:
    (span,) = (span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER)
    assert span.attributes is not None
    return span.attributes.get("http.route")


@named(STARLETTE)
def test_opentelemetry_starlette(case: Case, spans: InMemorySpanExporter, provider: TracerProvider) -> None:
    """The same spelling; OpenTelemetry's names the outermost mount only, and for a host the raw path."""
    if case.name.startswith("host") and "exclude_spans" not in inspect.signature(OpenTelemetryMiddleware).parameters:
        pytest.skip("OpenTelemetry's of before 0.48 fails where a route names a host")
    app = starlette_app()
    StarletteInstrumentor.instrument_app(app, tracer_provider=provider)
    through_asgi(app, case.path, method=case.method, host=case.host)
    assert traced_route(spans) == (case.route if case.otel == "" else case.otel)


@named(FASTAPI)
def test_opentelemetry_fastapi(case: Case, spans: InMemorySpanExporter, provider: TracerProvider) -> None:
    """The same spelling; OpenTelemetry's names the outermost mount only."""
    app = fastapi_app()
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    try:
        through_asgi(app, case.path, method=case.method)
    finally:
        FastAPIInstrumentor.uninstrument_app(app)
    assert traced_route(spans) == (case.route if case.otel == "" else case.otel)


@pytest.mark.skipif(not hasattr(fastapi, "telemetry"), reason="this FastAPI has none of its own")
@named(case for case in FASTAPI if case.route)
def test_fastapi_telemetry(case: Case, spans: InMemorySpanExporter, provider: TracerProvider) -> None:
    """FastAPI's own span has whole templates, too, but leaves out converters and what Starlette's mounts hold."""
    app = fastapi_app(telemetry={"tracer_provider": provider})
    assert through_asgi(app, case.path, method=case.method).route == case.route
    own = "/stars/{path}" if "mounted-starlette" in case.name else re.sub(":[a-z]+}", "}", str(case.route))
    assert traced_route(spans) == own


@named(FLASK)
def test_opentelemetry_flask(case: Case, spans: InMemorySpanExporter, provider: TracerProvider) -> None:
    app = flask_app()
    FlaskInstrumentor().instrument_app(app, tracer_provider=provider)  # type: ignore[no-untyped-call]
    assert through_wsgi(app, case.path, method=case.method).route == case.route == traced_route(spans)


# --- All templates


def test_templates() -> None:
    """Everything that an endpoint of ours could clash with: routes, rules, and the paths of mounts."""
    assert {case.route for case in STARLETTE if case.route and "closure" not in case.name} <= set(
        routes.templates(starlette_app())
    )
    assert {case.route for case in FASTAPI if case.route} <= set(routes.templates(fastapi_app()))
    assert {case.route for case in FLASK if case.route} <= set(routes.templates(flask_app()))
    assert "/bare" in routes.templates(starlette_app())
    app = flask_app()
    app.wsgi_app = Dispatcher(app.wsgi_app, {"/metrics": bare, "/back": flask_app()})
    assert {"/metrics", "/back/item/<int:id>", "/item/<int:id>"} <= set(routes.templates(ProxyFix(app)))
    assert routes.templates(GZipMiddleware(Router([Route("/x", ok)]))) == ["/x"]
    assert routes.templates(bare) == []

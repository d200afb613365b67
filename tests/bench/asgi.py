"""What is added to one ASGI request."""

import asyncio
from time import thread_time
from typing import Any, Final

from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from exemplars import ASGIMiddleware

from . import byhand, ours, peers
from .subject import BARE, App, Jobs, Request, Setting, Subject, read

APPS: Final = ("Starlette", "raw ASGI")
HEADERS: Final = [
    (b"host", b"shop.example:8000"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"x-forwarded-for", b"192.0.2.7"),
    (b"connection", b"keep-alive"),
]


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: dict[str, Any]) -> None:
    pass


class Interface:
    """An application driven as a server drives it, on an event loop of its own."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()

    def close(self) -> None:
        self.runner.close()

    def request(self, number: int) -> Request:
        path = f"/api/v1/resource{number}/42"
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 54321),
            "scheme": "http",
            "method": "GET",
            "root_path": "",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": HEADERS.copy(),
            "state": {},
        }

    def drive(self, jobs: Jobs) -> float:
        async def serve() -> float:
            began = thread_time()
            for app, scope, context in jobs:
                token = attach(context)
                await app(scope, receive, send)
                detach(token)
            return thread_time() - began

        return self.runner.run(serve())

    def answer(self, app: App, request: Request) -> object:
        messages: list[dict[str, Any]] = []

        async def keep(message: dict[str, Any]) -> None:
            messages.append(message)

        self.runner.run(app(request, receive, keep))
        return messages


def starlette(routes: int) -> Starlette:
    async def endpoint(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("here you are")

    return Starlette(routes=[Route(f"/api/v1/resource{n}/{{item_id}}", endpoint) for n in range(routes)])


def starlette_route(scope: Any) -> str:
    return getattr(scope.get("route"), "path", "")


def raw(routes: int) -> App:
    templates = {f"/api/v1/resource{n}/42": f"/api/v1/resource{n}/{{item_id}}" for n in range(routes)}

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scope["bench.route"] = templates[scope["path"]]
        headers = [(b"content-length", b"12"), (b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"here you are"})

    return app


def raw_route(scope: Any) -> str:
    return str(scope["bench.route"])


def subjects(setting: Setting, block: int) -> list[Subject]:
    """The contenders in *setting*; the first is the bare application, which the wrapping ones share."""
    framework = setting.app == "Starlette"
    app = starlette(setting.routes) if framework else raw(setting.routes)
    options: dict[str, Any] = {} if framework else {"route": raw_route}
    return [
        Subject(BARE, [app]),
        *ours.subjects(lambda **options: ASGIMiddleware(app, **options), setting, block, **options),
        peers.by_hand(lambda *made_with: byhand.ASGI(app, *made_with), starlette_route if framework else raw_route),
        *([starlette_exporter(setting), fastapi_instrumentator(setting)] if framework else []),
        peers.opentelemetry("OpenTelemetry ASGI", OpenTelemetryMiddleware, app, setting),
    ]


def starlette_exporter(setting: Setting) -> Subject:
    middleware = peers.load("starlette_exporter").PrometheusMiddleware
    app = starlette(setting.routes)
    # Its metrics belong to the class, by name: the prefix gives each setting its own.
    prefix = f"starlette_{setting.routes}_{setting.span}"
    app.add_middleware(middleware, prefix=prefix, exemplars=byhand.exemplar)
    name = f"{prefix}_request_duration_seconds"
    return Subject(
        "starlette_exporter",
        [app],
        lambda: read([middleware._metrics[name]], f"{name}_count", "path"),
        exemplars=True,
    )


def fastapi_instrumentator(setting: Setting) -> Subject:
    registry = CollectorRegistry()
    app = starlette(setting.routes)
    peers.load("prometheus_fastapi_instrumentator").Instrumentator(registry=registry).instrument(app).expose(app)
    name = "http_request_duration_seconds_count"
    return Subject("prometheus-fastapi-instrumentator", [app], lambda: read([registry], name, "handler"))

"""What can become of a request, as applications: plain ASGI, Starlette, FastAPI.

`SCENARIOS` are their paths. Where the client or the server has a part, the application tells them when, by the
`ASGIExchange` that is in the scope as ``exchange``.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn

import anyio
import anyio.lowlevel
from fastapi import FastAPI
from opentelemetry.trace import Tracer
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from exemplars._types import ASGIApp, Receive, Scope, Send
from tests.drivers import ASGIExchange

Endpoint = Callable[[Request], Awaitable[Response]]

SCENARIOS: Final = (
    "/ok",
    "/missing",
    "/stream",
    "/raise",
    "/raise-in-body",
    "/cancel",
    "/cancel-in-body",
    "/leave",
    "/leave-in-body",
    "/background",
    "/children",
    "/children-in-start",
)


class Boom(Exception):
    pass


async def sleep_for_ever() -> NoReturn:
    await anyio.sleep_forever()
    raise AssertionError("woken")


def plain(tracer: Tracer) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        exchange: ASGIExchange = scope["exchange"]

        async def start(status: int = 200) -> None:
            await send({"type": "http.response.start", "status": status, "headers": []})

        async def body(part: bytes, more: bool = False) -> None:
            await send({"type": "http.response.body", "body": part, "more_body": more})

        path = scope["path"]
        if path.endswith("-in-body") or path == "/stream":
            await start()
            await body(b"a", more=True)
        match path:
            case "/ok":
                await start()
                await body(b"ok")
            case "/stream":
                with tracer.start_as_current_span("part"):
                    await body(b"b", more=True)
                await body(b"")
            case "/raise" | "/raise-in-body":
                raise Boom
            case "/cancel" | "/cancel-in-body":
                exchange.cancel()
                await sleep_for_ever()
            case "/leave" | "/leave-in-body":
                await receive()
                exchange.disconnect()
                assert (await receive())["type"] == "http.disconnect"
            case "/background":
                await start()
                await body(b"ok")
                with tracer.start_as_current_span("background"):
                    await anyio.lowlevel.checkpoint()
            case "/children":
                with tracer.start_as_current_span("child"), tracer.start_as_current_span("grandchild"):
                    await anyio.lowlevel.checkpoint()
                await start()
                await body(b"ok")
            case "/children-in-start":
                with tracer.start_as_current_span("child"):
                    await start()
                    await body(b"ok")
            case _:
                await start(404)
                await body(b"not found")

    return app


def _endpoints(tracer: Tracer) -> dict[str, Endpoint]:
    async def ok(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def stream(request: Request) -> Response:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            with tracer.start_as_current_span("part"):
                yield "b"

        return StreamingResponse(parts())

    async def fail(request: Request) -> Response:
        raise Boom

    async def fail_in_body(request: Request) -> Response:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            raise Boom

        return StreamingResponse(parts())

    async def cancel(request: Request) -> Response:
        request.scope["exchange"].cancel()
        await sleep_for_ever()

    async def cancel_in_body(request: Request) -> Response:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            request.scope["exchange"].cancel()
            await sleep_for_ever()

        return StreamingResponse(parts())

    async def leave(request: Request) -> Response:
        await request.body()
        request.scope["exchange"].disconnect()
        await request.receive()
        return PlainTextResponse("to nobody")

    async def leave_in_body(request: Request) -> Response:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            request.scope["exchange"].disconnect()
            await sleep_for_ever()

        return StreamingResponse(parts())

    async def background(request: Request) -> Response:
        async def work() -> None:
            with tracer.start_as_current_span("background"):
                await anyio.lowlevel.checkpoint()

        return PlainTextResponse("ok", background=BackgroundTask(work))

    async def children(request: Request) -> Response:
        with tracer.start_as_current_span("child"), tracer.start_as_current_span("grandchild"):
            return PlainTextResponse("ok")

    async def children_in_start(request: Request) -> Response:
        class InASpan(PlainTextResponse):
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                with tracer.start_as_current_span("child"):
                    await super().__call__(scope, receive, send)

        return InASpan("ok")

    return {
        "/ok": ok,
        "/stream": stream,
        "/raise": fail,
        "/raise-in-body": fail_in_body,
        "/cancel": cancel,
        "/cancel-in-body": cancel_in_body,
        "/leave": leave,
        "/leave-in-body": leave_in_body,
        "/background": background,
        "/children": children,
        "/children-in-start": children_in_start,
    }


def starlette(tracer: Tracer) -> Starlette:
    return Starlette(routes=[Route(path, endpoint) for path, endpoint in _endpoints(tracer).items()])


def fastapi(tracer: Tracer, **options: Any) -> FastAPI:
    app = FastAPI(**options)
    for path, endpoint in _endpoints(tracer).items():
        app.add_api_route(path, endpoint, response_model=None)
    return app

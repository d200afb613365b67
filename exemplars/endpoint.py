"""``/metrics`` as an ASGI app and as a WSGI app."""

import asyncio
import sys
import zlib
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from time import perf_counter
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

from prometheus_client import REGISTRY, CollectorRegistry

from exemplars import selfmetrics
from exemplars._types import ASGIApp, Environ, Receive, Scope, Send, StartResponse, WSGIApp
from exemplars.exposition import pieces
from exemplars.negotiation import choose, gzip_accepted

_SLICE: Final = 0.001  # seconds of work after which the event loop has its turn; one more piece may still follow
_BLOCK: Final = 131_072  # bytes that are sent at once: to join all of a large page would take a slice and more
_MAX_FIELDS: Final = 1000  # of a query
_COMPRESSION_LEVEL: Final = 1
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS  # zlib's way to ask for the header and trailer of gzip


class _Response(NamedTuple):
    status: HTTPStatus
    headers: list[tuple[str, str]]
    body: list[bytes]


def make_asgi_app(registry: CollectorRegistry = REGISTRY, *, disable_compression: bool = False) -> ASGIApp:
    """Make an ASGI app that answers ``GET`` and ``HEAD`` of any path with the page of *registry*.

    ``name[]`` in the query restricts the page, as *names* does in `render`. Our own metrics are rendered, and the
    page is compressed, in slices of about a millisecond, between which the event loop goes on: asyncio's or trio's.
    The library's own metrics are registered in *registry*; raises ``ValueError`` when it knows others of their names.
    """
    selfmetrics.install(registry)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "http":
            encoding = "" if disable_compression else _header(scope, b"accept-encoding")
            query = scope.get("query_string", b"").decode("latin-1")
            until = perf_counter() + _SLICE
            for response in _respond(registry, scope["method"], query, _header(scope, b"accept"), encoding):
                if response is not None:
                    await _send(response, send)
                elif perf_counter() >= until:
                    await _turn()
                    until = perf_counter() + _SLICE

    return app


def make_wsgi_app(registry: CollectorRegistry = REGISTRY, *, disable_compression: bool = False) -> WSGIApp:
    """Make a WSGI app that answers as that of `make_asgi_app` does, at one go."""
    selfmetrics.install(registry)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        encoding = "" if disable_compression else environ.get("HTTP_ACCEPT_ENCODING", "")
        accept, query = environ.get("HTTP_ACCEPT", ""), environ.get("QUERY_STRING", "")
        body: list[bytes] = []
        for response in _respond(registry, environ["REQUEST_METHOD"], query, accept, encoding):
            if response is not None:
                start_response(f"{response.status:d} {response.status.phrase}", response.headers)
                body = response.body
        return body

    return app


def _respond(
    registry: CollectorRegistry, method: str, query: str, accept: str, accept_encoding: str
) -> Iterator[_Response | None]:
    """The response to a request, after a ``None`` for each step of the work on it."""
    if method not in ("GET", "HEAD"):
        yield _refusal(HTTPStatus.METHOD_NOT_ALLOWED, "use GET or HEAD", ("Allow", "GET, HEAD"))
        return
    try:
        names = parse_qs(query, max_num_fields=_MAX_FIELDS).get("name[]", [])
    except ValueError:
        yield _refusal(HTTPStatus.BAD_REQUEST, f"the query has more than {_MAX_FIELDS} fields")
        return
    chosen = choose(accept)
    headers = [("Content-Type", chosen.content_type), ("Vary", "Accept, Accept-Encoding")]
    parts: Iterable[bytes] = pieces(registry, chosen, names)
    if gzip_accepted(accept_encoding):
        headers.append(("Content-Encoding", "gzip"))
        parts = _compress(parts)
    blocks: list[bytes] = []
    block: list[bytes] = []
    size = 0
    for part in parts:
        block.append(part)
        size += len(part)
        if size >= _BLOCK:
            blocks.append(b"".join(block))
            block, size = [], 0
        yield None
    response = _response(HTTPStatus.OK, headers, [*blocks, b"".join(block)])
    yield response._replace(body=[]) if method == "HEAD" else response


def _compress(parts: Iterable[bytes]) -> Iterator[bytes]:
    stream = zlib.compressobj(_COMPRESSION_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    for part in parts:
        yield stream.compress(part)
    yield stream.flush()


def _refusal(status: HTTPStatus, reason: str, *headers: tuple[str, str]) -> _Response:
    text = f"{status.phrase}: {reason}\n"
    return _response(status, [("Content-Type", "text/plain; charset=utf-8"), *headers], [text.encode()])


def _response(status: HTTPStatus, headers: list[tuple[str, str]], body: list[bytes]) -> _Response:
    length = str(sum(map(len, body)))
    return _Response(status, [*headers, ("Content-Length", length), ("Cache-Control", "no-store")], body)


def _header(scope: Scope, name: bytes) -> str:
    """The values of a header, joined as one."""
    return b",".join([value for key, value in scope.get("headers", ()) if key.lower() == name]).decode("latin-1")


async def _send(response: _Response, send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in response.headers]
    await send({"type": "http.response.start", "status": int(response.status), "headers": headers})
    *blocks, last = response.body or [b""]
    for block in blocks:
        await send({"type": "http.response.body", "body": block, "more_body": True})
    await send({"type": "http.response.body", "body": last})


async def _live(receive: Receive, send: Send) -> None:
    """Complete startup and shutdown, at which nothing is to be done."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def _turn() -> None:
    """Let the event loop go on, asyncio's or trio's. Trio need not be installed: where it runs, it is imported."""
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:  # not in a task of trio's
            pass
        else:
            await trio.lowlevel.checkpoint()
            return
    await asyncio.sleep(0)

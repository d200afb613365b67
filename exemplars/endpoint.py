"""``/metrics`` as an ASGI app, as a WSGI app, and as a server of its own."""

import asyncio
import logging
import os
import socket
import ssl
import sys
import zlib
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from time import perf_counter
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import REGISTRY, CollectorRegistry

from exemplars import selfmetrics
from exemplars._types import ASGIApp, Environ, Receive, Scope, Send, StartResponse, WSGIApp
from exemplars.exposition import pieces
from exemplars.negotiation import choose, gzip_accepted

_SLICE: Final = 0.001  # seconds of work after which the event loop has its turn; one more piece may still follow
_BLOCK: Final = 131_072  # bytes that are sent at once: to join all of a large page would take a slice and more
_MAX_FIELDS: Final = 1000  # of a query
_MAX_SILENCE: Final = 30.0  # seconds that a client may keep a thread of `start_http_server` waiting
_COMPRESSION_LEVEL: Final = 1
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS  # zlib's way to ask for the header and trailer of gzip

_log = logging.getLogger("exemplars")


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


def start_http_server(
    port: int,
    addr: str = "0.0.0.0",
    registry: CollectorRegistry = REGISTRY,
    certfile: str | None = None,
    keyfile: str | None = None,
    client_cafile: str | None = None,
    client_capath: str | None = None,
    protocol: int = ssl.PROTOCOL_TLS_SERVER,
    client_auth_required: bool = False,
    tls_min_version: ssl.TLSVersion | None = None,
    tls_max_version: ssl.TLSVersion | None = None,
) -> tuple[WSGIServer, Thread]:
    """Serve the page of *registry* on a port of its own, in daemon threads; return the server and its main thread.

    The arguments are prometheus_client's: with *certfile* (and *keyfile*, unless it holds both) by TLS, with
    *client_auth_required* only to clients whose certificate *client_cafile* or *client_capath* vouches for. Ended by
    ``server.shutdown()``, then ``server.server_close()``.

    Raises ``OSError`` when the port is taken, also by a server that would share it, or a file cannot be read, and
    ``ValueError`` for arguments of TLS without *certfile*, which would be served in the clear.
    """
    context = None
    if certfile is not None:
        context = _tls(
            certfile,
            keyfile,
            client_cafile,
            client_capath,
            protocol,
            client_auth_required,
            tls_min_version,
            tls_max_version,
        )
    elif keyfile or client_cafile or client_capath or client_auth_required:
        raise ValueError("certfile is missing: without it the page would be served in the clear")
    server = _Server(addr, port, context)
    server.set_app(make_wsgi_app(registry))
    thread = Thread(target=server.serve_forever, name="exemplars-metrics", daemon=True)
    thread.start()
    return server, thread


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


def _tls(
    certfile: str,
    keyfile: str | None,
    client_cafile: str | None,
    client_capath: str | None,
    protocol: int,
    client_auth_required: bool,
    tls_min_version: ssl.TLSVersion | None,
    tls_max_version: ssl.TLSVersion | None,
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    try:
        context.load_cert_chain(certfile, keyfile)
    except OSError as error:
        raise type(error)(f"cannot load certfile {certfile!r} with keyfile {keyfile!r}: {error}") from error
    if client_cafile is None and client_capath is None:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    else:
        try:
            context.load_verify_locations(client_cafile, client_capath)
        except OSError as error:
            files = f"client_cafile {client_cafile!r}, client_capath {client_capath!r}"
            raise type(error)(f"cannot load {files}: {error}") from error
    if client_auth_required:
        context.verify_mode = ssl.CERT_REQUIRED
    if tls_min_version is not None:
        context.minimum_version = tls_min_version
    if tls_max_version is not None:
        context.maximum_version = tls_max_version
    return context


class _Handler(WSGIRequestHandler):
    timeout = _MAX_SILENCE

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a scrape every few seconds is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, so that a slow client keeps no other waiting, not even in its TLS handshake."""

    daemon_threads = True
    # Python's HTTP server shares ports in some versions: half of the scrapes would then go to another process.
    allow_reuse_port = False
    allow_reuse_address = os.name == "posix"  # elsewhere that would share them too

    def __init__(self, addr: str, port: int, context: ssl.SSLContext | None) -> None:
        found = socket.getaddrinfo(addr, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, *_, (host, *_) = found[0]
        self._context = context
        super().__init__((str(host), port), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)
        # Python's HTTP server would ask DNS for the name, which may take its time; nothing here needs it.
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._context is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(_MAX_SILENCE)
        with self._context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log for debugging only: port scanners and clients that went away are no news either."""
        _log.debug("a scrape from %s failed", client_address, exc_info=True)

"""The ASGI middleware."""

import asyncio.coroutines
import inspect
import sys
from collections.abc import Awaitable
from typing import Final, Unpack

from exemplars import faults, routes
from exemplars._types import ASGIApp, Message, Receive, Scope, Send
from exemplars.options import Options, resolve
from exemplars.recorder import MEASURED, Recorder, Request, content_length, host_of
from exemplars.semconv import CLIENT_DISCONNECTED, INCOMPLETE_RESPONSE, PROTOCOL_VERSION, SERVER_ADDRESS, SERVER_PORT
from exemplars.span import leave


def header(headers: object, name: bytes) -> str:
    """The first value of the header *name* (lower case) among ASGI's pairs of bytes; empty if there is none."""
    for key, value in headers or ():  # type: ignore[attr-defined]  # what a server or an application gave
        if key.lower() == name:
            return bytes(value).decode("latin-1")
    return ""


def path_of(scope: Scope) -> str:
    """The path of a request below ``root_path``, which newer servers put before it and older ones do not."""
    path: str = scope.get("path") or "/"
    root: str = (scope.get("root_path") or "").rstrip("/")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :] or "/"
    return path


OPTIONAL_READERS: Final = {
    PROTOCOL_VERSION: lambda scope: str(scope.get("http_version") or ""),
    SERVER_ADDRESS: lambda scope: host_of(header(scope.get("headers"), b"host"))[0],
    SERVER_PORT: lambda scope: host_of(header(scope.get("headers"), b"host"))[1],
}


class ASGIMiddleware:
    """Measure every HTTP request of *app* and attach its sampled span as exemplar. Pure ASGI, for any framework.

    Options by keyword, see `exemplars.Options`; bad ones raise ``TypeError`` or ``ValueError`` here. Other scopes than
    ``http`` pass untouched. Messages and exceptions pass as they are, whatever fails inside.
    """

    def __init__(self, app: ASGIApp, **options: Unpack[Options]) -> None:
        self.app = app
        self._recorder = Recorder(resolve(options), routes.asgi, OPTIONAL_READERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        recorder = self._recorder
        if scope["type"] != "http" or scope.get(MEASURED) is recorder.duration:
            await self.app(scope, receive, send)
            return
        request = None
        try:
            scope[MEASURED] = recorder.duration
            if not (recorder.exclude and recorder.excludes(path_of(scope))):
                request = _ASGIRequest(recorder, scope, scope.get("method", ""), scope.get("scheme", "http"))
                request.server_receive = receive
                request.server_send = send
        except Exception as error:
            faults.note("observation", error)
        if request is None:
            try:
                await self.app(scope, receive, send)
            finally:
                scope.pop(MEASURED, None)
            return
        try:
            await self.app(scope, request.receive, request.send)
        except BaseException as error:
            request.fail(error, sent=request.status is not None)
            raise
        finally:
            if not request.done:
                request.finish(CLIENT_DISCONNECTED if request.disconnected else INCOMPLETE_RESPONSE)
            leave(request.token)
            scope.pop(MEASURED, None)


class _ASGIRequest(Request):
    """A request whose messages pass through."""

    server_receive: Receive
    server_send: Send
    _trailers = False
    _headers: object = None

    def send(self, message: Message) -> Awaitable[None]:
        # No coroutine of our own: what the server returns is awaited by the application itself.
        if not self.done:
            try:
                kind = message["type"]
                if kind == "http.response.body":
                    if self._recorder.response_size is not None:
                        self.response_bytes += len(message.get("body") or b"")
                    if not (message.get("more_body") or self._trailers):
                        self.finish()
                elif kind == "http.response.start":
                    status = message["status"]
                    if self.status is None and status >= 200:  # a 1xx is not the response yet
                        if message.get("trailers"):
                            self._trailers = True
                        self._headers = message.get("headers")
                        self.respond(status)
                        if self.server_span is not None and self.is_elsewhere():
                            self.claim_ahead(status)
                else:
                    self._send_other(kind, message)
            except Exception as error:
                faults.note("observation", error)
        return self.server_send(message)

    async def receive(self) -> Message:
        message = await self.server_receive()
        try:
            kind = message["type"]
            if kind == "http.request":
                self.request_bytes += len(message.get("body") or b"")
            elif kind == "http.disconnect":
                self.disconnected = True
                # A span inside us ends before the application does.
                if (self.server_span is not None or self.at_start) and not self.done:
                    self.claim_ahead(self.status, CLIENT_DISCONNECTED)
        except Exception as error:
            faults.note("observation", error)
        return message

    def _send_other(self, kind: str, message: Message) -> None:
        if kind == "http.response.trailers":
            if not message.get("more_trailers"):
                self.finish()
        elif kind == "http.response.pathsend" or (
            kind == "http.response.zerocopysend" and not (message.get("more_body") or self._trailers)
        ):
            # The body does not pass through us: its header tells how long it is.
            try:
                self.response_bytes = content_length(header(self._headers, b"content-length"))
            finally:
                self.finish()


# To whom asks, `send` is a coroutine function: asgiref warns of any other, and may run it in a thread.
if sys.version_info >= (3, 12):
    inspect.markcoroutinefunction(_ASGIRequest.send)
else:
    _ASGIRequest.send._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]

"""What a server and its client do to an application, one request at a time and exactly as told."""

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import trio

from exemplars._types import ASGIApp, Environ, Message, Scope, WSGIApp

Backend = Literal["asyncio", "trio"]
BACKENDS: tuple[Backend, ...] = ("asyncio", "trio")

_HANGS = 60.0  # seconds after which a request is taken for one that never ends


class _Event(Protocol):
    def set(self) -> object: ...
    async def wait(self) -> object: ...


def make_scope(path: str = "/", *, method: str = "GET", headers: Iterable[tuple[str, str]] = (), **more: Any) -> Scope:
    """An ASGI scope as uvicorn makes it; *more* replaces or adds keys."""
    raw_path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": raw_path,
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        **more,
    }


class ASGIExchange:
    """One HTTP request: the server's side of ``receive`` and ``send``, and what came of it.

    *body*: the parts of the request's body. *disconnect_after*, *cancel_after*: after so many messages from the
    application the client is gone, or the application's task is cancelled (that ``send`` raises it); an application
    may also call `disconnect` or `cancel` itself. *send_raises*: what ``send`` raises once the client is gone (newer
    servers: ``OSError``); by default it takes what comes, as uvicorn does. *on_message* is called with each message
    before it is accepted.
    """

    def __init__(
        self,
        *,
        body: Sequence[bytes] = (b"",),
        disconnect_after: int | None = None,
        cancel_after: int | None = None,
        send_raises: BaseException | None = None,
        on_message: Callable[[Message], object] | None = None,
    ) -> None:
        self.messages: list[Message] = []
        self.exception: BaseException | None = None
        self.complete = False
        self.gone = False
        self._body = list(body)
        self._disconnect_after = disconnect_after
        self._cancel_after = cancel_after
        self._send_raises = send_raises
        self._on_message = on_message
        self._trailers = False
        self._ended: _Event | None = None
        self._cancel: Callable[[], object] | None = None
        self._checkpoint: Callable[[], Awaitable[object]]

    @property
    def status(self) -> int | None:
        """The status sent, ``None`` if none was; a 1xx does not count."""
        for message in self.messages:
            if message["type"] == "http.response.start" and message["status"] >= 200:
                status: int = message["status"]
                return status
        return None

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages if m["type"] == "http.response.body")

    def disconnect(self) -> None:
        """The client is gone from now on."""
        self.gone = True
        assert self._ended is not None
        self._ended.set()

    def cancel(self) -> None:
        """Cancel the application's task: where it waits next, that raises."""
        assert self._cancel is not None
        self._cancel()

    async def receive(self) -> Message:
        if self._body:
            part = self._body.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._body)}
        assert self._ended is not None
        await self._ended.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.gone and self._send_raises is not None:
            raise self._send_raises
        if self._on_message is not None:
            self._on_message(message)
        self.messages.append(message)
        kind = message["type"]
        if kind == "http.response.start":
            self._trailers = bool(message.get("trailers"))
        elif (
            kind == "http.response.pathsend"
            or (kind == "http.response.trailers" and not message.get("more_trailers"))
            or (
                kind in ("http.response.body", "http.response.zerocopysend")
                and not message.get("more_body")
                and not self._trailers
            )
        ):
            self.complete = True
            assert self._ended is not None
            self._ended.set()  # to receive more after the response is to learn that the client is gone
        if len(self.messages) == self._disconnect_after:
            self.disconnect()
        if len(self.messages) == self._cancel_after:
            self.cancel()
        await self._checkpoint()  # servers may wait here, so others may run

    def run(self, app: ASGIApp, scope: Scope, backend: Backend = "asyncio") -> "ASGIExchange":
        """Let *app* answer *scope* in an event loop of its own. What it raises is kept in `exception`."""
        if backend == "asyncio":
            asyncio.run(self._on_asyncio(app, scope))
        else:
            trio.run(self._on_trio, app, scope)
        return self

    async def _on_asyncio(self, app: ASGIApp, scope: Scope) -> None:
        self._begin(asyncio.Event(), lambda: asyncio.sleep(0))
        task = asyncio.ensure_future(app(scope, self.receive, self.send))
        self._cancel = task.cancel
        done, _ = await asyncio.wait([task], timeout=_HANGS)
        if not done:
            task.cancel()
            raise AssertionError(f"the application hangs after {self.messages}")
        try:
            task.result()
        except BaseException as error:
            self.exception = error

    async def _on_trio(self, app: ASGIApp, scope: Scope) -> None:
        self._begin(trio.Event(), trio.lowlevel.checkpoint)
        with trio.move_on_after(_HANGS) as watch:
            with trio.CancelScope() as cancellation:
                self._cancel = cancellation.cancel
                try:
                    await app(scope, self.receive, self.send)
                except BaseException as error:
                    self.exception = error
                    if isinstance(error, trio.Cancelled):
                        raise
        if watch.cancelled_caught:
            raise AssertionError(f"the application hangs after {self.messages}")

    def _begin(self, ended: _Event, checkpoint: Callable[[], Awaitable[object]]) -> None:
        self._ended = ended
        self._checkpoint = checkpoint
        if self._disconnect_after == 0:
            self.disconnect()


def run_asgi(app: ASGIApp, scope: Scope, backend: Backend = "asyncio", **options: Any) -> ASGIExchange:
    """One request, see `ASGIExchange` for the options."""
    return ASGIExchange(**options).run(app, scope, backend)


def make_environ(
    path: str = "/", *, method: str = "GET", headers: Iterable[tuple[str, str]] = (), body: bytes = b"", **more: Any
) -> Environ:
    """A WSGI environ as gunicorn makes it; *more* replaces or adds keys."""
    path_info, _, query = path.partition("?")
    environ: Environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path_info,
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    for name, value in headers:
        environ["HTTP_" + name.upper().replace("-", "_")] = value
    return environ | more


@dataclass
class WSGIResult:
    """What came of one request. *sent* holds what went to the client, in order, by ``write`` or by iteration."""

    status: str | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    exception: BaseException | None = None
    started: int = 0  # calls of start_response
    iterable: object = None
    closed: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.sent)


def run_wsgi(app: WSGIApp, environ: Environ, *, leave_after: int | None = None) -> WSGIResult:
    """Let *app* answer *environ* by the rules of PEP 3333. What it raises is kept in the result.

    *leave_after*: the client is gone after so many parts of the body, empty ones included: the server stops iterating
    and closes, as it must.
    """
    result = WSGIResult()

    def write(data: bytes) -> None:
        assert result.status is not None, "write() before start_response()"
        if data:
            result.sent.append(data)

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        result.started += 1
        try:
            if exc_info is not None and result.sent:
                raise exc_info[1].with_traceback(exc_info[2])
            assert exc_info is not None or result.status is None, "start_response() again, without exc_info"
        finally:
            exc_info = None
        result.status = status
        result.headers = list(headers)
        return write

    try:
        body = result.iterable = app(environ, start_response)
        try:
            if leave_after != 0:
                for number, part in enumerate(body, 1):
                    assert isinstance(part, bytes)
                    write(part)
                    if number == leave_after:
                        break
                else:
                    assert result.status is not None, "start_response() was never called"
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
            result.closed = True
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, AssertionError)):
            raise
        result.exception = error
    return result

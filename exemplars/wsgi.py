"""The WSGI middleware."""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, Unpack

from exemplars import faults, routes
from exemplars._types import Environ, StartResponse, WSGIApp
from exemplars.options import Options, resolve
from exemplars.recorder import MEASURED, Recorder, Request, content_length, host_of
from exemplars.semconv import INCOMPLETE_RESPONSE, PROTOCOL_VERSION, SERVER_ADDRESS, SERVER_PORT
from exemplars.span import leave

# In an environ: a weak reference to its request, for the line that a server logs when the application has returned.
REQUEST: Final = "exemplars.request"

OPTIONAL_READERS: Final = {
    PROTOCOL_VERSION: lambda environ: str(environ.get("SERVER_PROTOCOL") or "").removeprefix("HTTP/"),
    SERVER_ADDRESS: lambda environ: host_of(environ.get("HTTP_HOST", ""))[0],
    SERVER_PORT: lambda environ: host_of(environ.get("HTTP_HOST", ""))[1],
}


def path_of(environ: Environ) -> str:
    """The path of a request below ``SCRIPT_NAME``, which PEP 3333 hands over as bytes in Latin-1."""
    path: str = environ.get("PATH_INFO") or "/"
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


class WSGIMiddleware:
    """Measure every request of *app* and attach its sampled span as exemplar. PEP 3333, for any framework.

    Options by keyword, see `exemplars.Options`; bad ones raise ``TypeError`` or ``ValueError`` here. Status, headers,
    body and exceptions pass as they are, whatever fails inside; a file handed to ``wsgi.file_wrapper`` stays one, so
    that the server can send it by itself.
    """

    def __init__(self, app: WSGIApp, **options: Unpack[Options]) -> None:
        self.app = app
        self._recorder = Recorder(resolve(options), routes.wsgi, OPTIONAL_READERS)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        recorder = self._recorder
        if environ.get(MEASURED) is recorder.duration:
            return self.app(environ, start_response)
        request = None
        try:
            environ[MEASURED] = recorder.duration
            if not (recorder.exclude and recorder.excludes(path_of(environ))):
                environ[routes.APP] = self.app
                method, scheme = environ.get("REQUEST_METHOD", ""), environ.get("wsgi.url_scheme", "")
                size = content_length(environ.get("CONTENT_LENGTH") or "") if recorder.sizes else 0
                request = _WSGIRequest(recorder, environ, method, scheme)
                request.server_start_response = start_response
                request.request_bytes = size
                environ[REQUEST] = weakref.ref(request)
        except Exception as error:
            faults.note("observation", error)
        if request is None:
            try:
                return self.app(environ, start_response)
            finally:
                environ.pop(MEASURED, None)
        try:
            body = self.app(environ, request.start_response)
        except BaseException as error:
            request.fail(error, request.sent)
            raise
        finally:
            leave(request.token)
            environ.pop(MEASURED, None)
        try:
            return request.watch(body)
        except Exception as error:
            faults.note("observation", error)
            request.finish()
            return body


class _WSGIRequest(Request):
    """A request whose ``start_response`` and body pass through."""

    server_start_response: StartResponse
    sent = False  # headers go on their way with the first part of the body: only then is a status final
    _headers: Sequence[tuple[str, str]] = ()
    _write: Any = None

    def start_response(self, status: str, headers: Sequence[tuple[str, str]], exc_info: Any = None) -> Any:
        try:
            if not self.sent:  # else it is too late: the client has another status
                code = int(status[:3])
                self._headers = headers
                self.respond(code)
                self.claim_ahead(code)  # the span may end before the body does: Flask's does
        except Exception as error:
            faults.note("observation", error)
        if exc_info is None:
            self._write = self.server_start_response(status, headers)
        else:
            try:
                self._write = self.server_start_response(status, headers, exc_info)
            finally:
                exc_info = None  # PEP 3333: no circular reference to the traceback
        return self._writing

    def watch(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """*body* so that its end is seen."""
        wrapper = self.carrier.get("wsgi.file_wrapper")
        if isinstance(wrapper, type):
            if isinstance(body, wrapper):
                return self._watch_file(body)
        elif wrapper is not None and hasattr(body, "read"):
            return self._watch_file(body)  # uWSGI's is a function that hands the file back
        return (_SizedBody if hasattr(body, "__len__") else _Body)(body, self)

    def _writing(self, data: bytes) -> object:
        self.sent = True
        self.count(data)
        return self._write(data)

    def count(self, part: bytes) -> None:
        """Add *part* to the size of the body."""
        try:
            self.response_bytes += len(part)
        except TypeError:
            pass  # no bytes: the server says so

    def _watch_file(self, file: Any) -> Iterable[bytes]:
        """*file* itself: servers know it by its class or its identity and send it by themselves."""
        close = getattr(file, "close", None)
        own = "close" in getattr(file, "__dict__", ())

        def close_and_finish() -> None:
            try:
                # As it was, or file and function would keep each other.
                if own:
                    file.close = close
                else:
                    with suppress(AttributeError):
                        del file.close
                if close is not None:
                    close()
            finally:
                self._finish_file()

        try:
            file.close = close_and_finish
        except AttributeError:  # a file of C has no place for it: its end is not seen
            self._finish_file()
        body: Iterable[bytes] = file
        return body

    def _finish_file(self) -> None:
        """Finish where the body did not pass through us: its header tells how long it is."""
        try:
            for name, value in self._headers:
                if name.lower() == "content-length":
                    self.response_bytes = content_length(value)
        except Exception as error:
            faults.note("observation", error)
        self.finish()


class _Body:
    """The body of a response. What iterates or closes it does so with the application's own."""

    __slots__ = ("_body", "_request")

    def __init__(self, body: Iterable[bytes], request: _WSGIRequest) -> None:
        self._body = body
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        request = self._request
        sizes = request.measures_sizes
        try:
            for part in self._body:
                if part:
                    request.sent = True
                    if sizes:
                        request.count(part)
                yield part
        except GeneratorExit:
            raise  # our own iterator was dropped; how the request ended shows when the body is closed
        except BaseException as error:
            request.fail(error, request.sent)
            raise
        request.finish(None if request.status is not None else INCOMPLETE_RESPONSE)

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            if not self._request.done:
                self._request.close()

    def __del__(self) -> None:
        # A server must close the body; one that does not must not leave a request active for ever.
        if not self._request.done:
            self._request.close()


class _SizedBody(_Body):
    """A body whose parts a server may count, as it does to know the length of a single one."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]  # it has a length

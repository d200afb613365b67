"""Every way in which a request to a WSGI application can end, by PEP 3333, and what is measured of it."""

import gc
import io
import itertools
import sys
import wsgiref.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast
from wsgiref.handlers import SimpleHandler
from wsgiref.validate import validator

import gunicorn.http.wsgi  # type: ignore[import-untyped]
import pytest
from prometheus_client import CollectorRegistry

from exemplars import WSGIMiddleware, semconv
from exemplars._types import Environ, StartResponse, WSGIApp
from tests.drivers import make_environ, run_wsgi
from tests.measured import Clock, Ending, Faults, active, endings, family, requests, total


class Failure(Exception):
    """The application's own."""


class Cancelled(BaseException):
    """As gevent and others end a request."""


class GreenletExit(BaseException):
    """As gevent ends a request."""


class Body:
    """A body of the application's own class, which notes what is done to it. *parts* may raise, or let time pass."""

    def __init__(self, parts: Iterable[bytes], close_raises: BaseException | None = None) -> None:
        self.parts = iter(parts)
        self.closed = 0
        self._close_raises = close_raises

    def __iter__(self) -> Iterator[bytes]:
        return self.parts

    def close(self) -> None:
        self.closed += 1
        if self._close_raises is not None:
            raise self._close_raises


App = Callable[[StartResponse, Clock], Any]  # what an application returns, by what it can do


@dataclass
class Case:
    """An application, what the server does meanwhile, and what is to be measured."""

    app: App
    status: str
    error_type: str
    raises: type[BaseException] | None
    seconds: float | None
    server: dict[str, Any]
    method: str


CASES: dict[str, Case] = {}


def case(
    status: str,
    error_type: str = "",
    *,
    raises: type[BaseException] | None = None,
    seconds: float | None = None,
    method: str = "GET",
    **server: Any,
) -> Callable[[App], App]:
    """The decorated application is a case."""

    def decorate(app: App) -> App:
        CASES[app.__name__] = Case(app, status, error_type, raises, seconds, server, method)
        return app

    return decorate


def exc_info() -> Any:
    try:
        raise Failure
    except Failure:
        return sys.exc_info()


# --- a response, sent whole -----------------------------------------------------------------------------------------


@case("200", seconds=1)
def a_list(start: StartResponse, clock: Clock) -> list[bytes]:
    clock.advance(1)
    start("200 OK", [])
    return [b"a", b"b"]


@case("200")
def a_tuple(start: StartResponse, clock: Clock) -> tuple[bytes, ...]:
    start("200 OK", [])
    return (b"a",)


@case("204")
def an_empty_list(start: StartResponse, clock: Clock) -> list[bytes]:
    start("204 No Content", [])
    return []


@case("200", seconds=6)
def a_generator_that_starts_before_its_body(start: StartResponse, clock: Clock) -> Iterator[bytes]:
    def parts() -> Iterator[bytes]:
        clock.advance(2)
        yield b"a"
        clock.advance(3)

    clock.advance(1)
    start("200 OK", [])
    return parts()


@case("202", seconds=3)
def a_generator_that_starts_only_when_asked(start: StartResponse, clock: Clock) -> Iterator[bytes]:
    clock.advance(1)
    start("202 Accepted", [])
    yield b""
    clock.advance(2)
    yield b"a"


@case("200", seconds=1)
def a_body_that_is_closed_after_its_end(start: StartResponse, clock: Clock) -> Iterable[bytes]:
    class Slow(Body):
        def close(self) -> None:
            clock.advance(100)  # what comes after the end is not the request's

    clock.advance(1)
    start("200 OK", [])
    return Slow([b"a"])


@case("200")
def writes_all(start: StartResponse, clock: Clock) -> list[bytes]:
    write = start("200 OK", [])
    write(b"a")
    write(b"b")
    return []


@case("200")
def writes_first(start: StartResponse, clock: Clock) -> list[bytes]:
    start("200 OK", [])(b"a")
    return [b"b"]


@case("404")
def not_found(start: StartResponse, clock: Clock) -> list[bytes]:
    start("404 Not Found", [])
    return [b"no"]


@case("503", "503")
def unavailable(start: StartResponse, clock: Clock) -> list[bytes]:
    start("503 Service Unavailable", [])
    return [b"later"]


@case("500", "500")
def starts_again_with_an_error(start: StartResponse, clock: Clock) -> list[bytes]:
    start("200 OK", [])
    start("500 Internal Server Error", [], exc_info())
    return [b"sorry"]


@case("500", "500")
def starts_again_after_an_empty_part(start: StartResponse, clock: Clock) -> Iterator[bytes]:
    start("200 OK", [])
    yield b""
    start("500 Internal Server Error", [], exc_info())
    yield b"sorry"


@case("200", method="HEAD", leave_after=0)
def a_head_that_the_server_does_not_iterate(start: StartResponse, clock: Clock) -> Iterable[bytes]:
    start("200 OK", [])
    return Body([b"not sent"])


@case("200", method="HEAD")
def a_head_that_the_server_iterates(start: StartResponse, clock: Clock) -> list[bytes]:
    start("200 OK", [])
    return []


@case("304", leave_after=0)
def not_modified(start: StartResponse, clock: Clock) -> list[bytes]:
    start("304 Not Modified", [])
    return []


@case("204", leave_after=0)
def no_content(start: StartResponse, clock: Clock) -> Iterable[bytes]:
    start("204 No Content", [])
    return Body([])


# --- exceptions -----------------------------------------------------------------------------------------------------


@case("500", "Failure", raises=Failure, seconds=1)
def raises_before_the_start(start: StartResponse, clock: Clock) -> list[bytes]:
    clock.advance(1)
    raise Failure


@case("500", "Failure", raises=Failure)
def raises_after_the_start(start: StartResponse, clock: Clock) -> list[bytes]:
    start("200 OK", [])  # the server has sent nothing yet
    raise Failure


@case("500", "Failure", raises=Failure)
def raises_before_the_first_part(start: StartResponse, clock: Clock) -> Iterator[bytes]:
    start("200 OK", [])
    yield b""  # which sends nothing either
    raise Failure


@case("200", "Failure", raises=Failure, seconds=2)
def raises_in_the_body(start: StartResponse, clock: Clock) -> Iterator[bytes]:
    start("200 OK", [])
    yield b"a"
    clock.advance(2)
    raise Failure


@case("200", "Failure", raises=Failure)
def raises_after_a_write(start: StartResponse, clock: Clock) -> list[bytes]:
    start("200 OK", [])(b"a")
    raise Failure


@case("200", "Failure", raises=Failure)
def starts_again_when_it_is_too_late(start: StartResponse, clock: Clock) -> Iterator[bytes]:
    start("200 OK", [])
    yield b"a"
    start("500 Internal Server Error", [], exc_info())  # raises what it was given: the client has the 200


@case("200", "Failure", raises=Failure)
def starts_again_when_it_is_too_late_for_a_write(start: StartResponse, clock: Clock) -> list[bytes]:
    start("200 OK", [])(b"a")
    start("500 Internal Server Error", [], exc_info())
    return []


@case("200", raises=Failure, seconds=1)
def raises_when_it_is_closed_after_the_end(start: StartResponse, clock: Clock) -> Iterable[bytes]:
    clock.advance(1)
    start("200 OK", [])
    return Body([b"a"], close_raises=Failure())


@case("500", "TypeError", raises=TypeError)
def returns_no_body(start: StartResponse, clock: Clock) -> None:
    start("200 OK", [])


# --- cancelled, left, incomplete --------------------------------------------------------------------------------------


@case("", "cancelled", raises=GreenletExit)
def killed_before_the_start(start: StartResponse, clock: Clock) -> list[bytes]:
    raise GreenletExit


@case("200", "cancelled", raises=Cancelled)
def cancelled_in_the_body(start: StartResponse, clock: Clock) -> Iterator[bytes]:
    start("200 OK", [])
    yield b"a"
    raise Cancelled


@case("200", "client_disconnected", leave_after=2, seconds=2)
def client_gone_in_an_endless_stream(start: StartResponse, clock: Clock) -> Iterator[bytes]:
    start("200 OK", [])
    for _ in itertools.count():
        clock.advance(1)
        yield b"tick"


@case("200", "client_disconnected", leave_after=1)
def client_gone_in_a_list(start: StartResponse, clock: Clock) -> list[bytes]:
    start("200 OK", [])
    return [b"a", b"b"]


@case("200", "client_disconnected", leave_after=0)
def client_gone_before_the_body(start: StartResponse, clock: Clock) -> list[bytes]:
    start("200 OK", [])
    return [b"a"]


@case("200", "client_disconnected", raises=Failure, leave_after=1)
def client_gone_and_the_close_raises(start: StartResponse, clock: Clock) -> Iterable[bytes]:
    start("200 OK", [])
    return Body([b"a", b"b"], close_raises=Failure())


# --- the cases, run ---------------------------------------------------------------------------------------------------

MEASURES = [("active_requests",), ("request_body_size", "response_body_size", "response_start")]


@pytest.mark.parametrize("measure", MEASURES, ids=["defaults", "all but active"])
@pytest.mark.parametrize("name", CASES)
def test_a_request_is_measured_once_as_it_ended(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, name: str, measure: tuple[str, ...]
) -> None:
    case = CASES[name]
    clock = Clock(monkeypatch)
    faults = Faults()
    gauge = measure == ("active_requests",)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        assert not gauge or active(registry) == 1.0
        return cast(Iterable[bytes], case.app(start_response, clock))

    result = run_wsgi(
        WSGIMiddleware(app, registry=registry, measure=measure), make_environ(method=case.method), **case.server
    )

    assert endings(registry) == [Ending(case.status, case.error_type)]
    assert not gauge or active(registry) == 0.0
    assert faults.seen == {}
    assert type(result.exception) is (case.raises or type(None))
    if case.seconds is not None:
        assert total(registry) == case.seconds
    assert requests(registry)[0][semconv.METHOD] == case.method
    if not gauge:
        for histogram in (semconv.REQUEST_BODY_SIZE, semconv.RESPONSE_BODY_SIZE):
            assert endings(registry, histogram) == [Ending(case.status, case.error_type)]
        assert len(endings(registry, semconv.RESPONSE_START)) == min(result.started, 1)


def test_an_application_that_never_starts_a_response_is_incomplete(registry: CollectorRegistry) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return []

    with pytest.raises(AssertionError, match="never called"):
        run_wsgi(WSGIMiddleware(app, registry=registry), make_environ())

    assert endings(registry) == [Ending("", "incomplete_response")]
    assert active(registry) == 0.0


@pytest.mark.parametrize("read", [0, 1])
def test_a_body_that_the_server_never_closes_is_left_when_it_is_dropped(registry: CollectorRegistry, read: int) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body([b"a", b"b"])

    body = WSGIMiddleware(app, registry=registry)(make_environ(), lambda *_: lambda _: None)
    reader = iter(body)
    for _ in range(read):
        next(reader)
    assert (endings(registry), active(registry)) == ([], 1.0)
    del body, reader
    gc.collect()

    assert endings(registry) == [Ending("200", "client_disconnected")]
    assert active(registry) == 0.0


def test_closing_twice_counts_once(registry: CollectorRegistry) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body([b"a"])

    body: Any = WSGIMiddleware(app, registry=registry)(make_environ(), lambda *_: lambda _: None)
    body.close()
    body.close()

    assert endings(registry) == [Ending("200", "client_disconnected")]
    assert active(registry) == 0.0


# --- what the server sees of the body ---------------------------------------------------------------------------------


class Sized(Body):
    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("make", "length"),
    [
        (lambda: [b"a", b"b"], 2),
        (lambda: (b"a",), 1),
        (list, 0),
        (lambda: Sized([b"a"]), 1),
        (lambda: Body([b"a"]), None),
        (lambda: iter([b"a"]), None),
        (lambda: (part for part in [b"a"]), None),
    ],
    ids=["list", "tuple", "empty", "sized", "unsized", "iterator", "generator"],
)
def test_a_body_has_a_length_if_the_applications_has(
    registry: CollectorRegistry, make: Callable[[], Any], length: int | None
) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return cast(Iterable[bytes], make())

    body: Any = WSGIMiddleware(app, registry=registry)(make_environ(), lambda *_: lambda _: None)
    try:
        if length is None:
            with pytest.raises(TypeError):
                len(body)
        else:
            assert len(body) == length
    finally:
        body.close()


def test_the_body_is_closed_as_often_as_the_server_closes_and_after_it_was_read(registry: CollectorRegistry) -> None:
    body = Body([b"a", b"b"])

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return body

    result = run_wsgi(WSGIMiddleware(app, registry=registry), make_environ())

    assert result.body == b"ab"
    assert body.closed == 1
    assert list(body.parts) == []


def sent_by_wsgiref(app: WSGIApp, environ: Environ) -> tuple[bytes, list[object]]:
    """What wsgiref's server sends, and the files that it recognised as such."""
    out = io.BytesIO()
    files: list[object] = []

    class Handler(SimpleHandler):
        os_environ: dict[str, str] = {}

        def sendfile(self) -> bool:
            files.append(vars(self)["result"])
            return False

        def log_exception(self, exc_info: object) -> None:
            raise AssertionError from cast(Any, exc_info)[1]

    handler = Handler(io.BytesIO(), out, io.StringIO(), environ)
    handler.run(app)
    return out.getvalue(), files


class Slotted:
    """A file wrapper of C, or like one: it has no place for anything."""

    __slots__ = ("file",)

    def __init__(self, file: Any, size: int = 8192) -> None:
        self.file = file

    def __iter__(self) -> Iterator[bytes]:
        return iter([self.file.read()])

    def close(self) -> None:
        self.file.close()


@pytest.mark.parametrize(
    "wrapper",
    [wsgiref.util.FileWrapper, gunicorn.http.wsgi.FileWrapper, Slotted],
    ids=["wsgiref", "gunicorn", "without a place for anything"],
)
def test_a_file_in_the_servers_wrapper_stays_one_and_is_measured_when_it_is_closed(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, wrapper: Any
) -> None:
    clock = Clock(monkeypatch)
    file = io.BytesIO(b"content")

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "7"), ("Content-Type", "text/plain")])
        return cast(Iterable[bytes], environ["wsgi.file_wrapper"](file, 1024))

    measure = ("active_requests", "response_body_size")
    environ = make_environ() | {"wsgi.file_wrapper": wrapper}
    body: Any = WSGIMiddleware(app, registry=registry, measure=measure)(environ, lambda *_: lambda _: None)

    assert type(body) is wrapper
    if wrapper is not Slotted:  # there, that it is handed over is all that can be seen
        assert endings(registry) == []
        clock.advance(5)
    assert b"".join(body) == b"content"
    body.close()
    body.close()

    assert file.closed
    assert endings(registry) == [Ending("200", "")]
    assert total(registry) == (0.0 if wrapper is Slotted else 5.0)
    assert total(registry, semconv.RESPONSE_BODY_SIZE) == 7.0
    assert active(registry) == 0.0


def test_wsgiref_recognises_the_file(registry: CollectorRegistry) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return cast(Iterable[bytes], environ["wsgi.file_wrapper"](io.BytesIO(b"content")))

    sent, files = sent_by_wsgiref(WSGIMiddleware(app, registry=registry), make_environ())

    assert sent.endswith(b"content")
    assert [type(file) for file in files] == [wsgiref.util.FileWrapper]
    assert endings(registry) == [Ending("200", "")]


def test_a_file_wrapper_without_close_and_one_whose_close_raises(registry: CollectorRegistry) -> None:
    class Plain:
        def __init__(self, file: Any) -> None:
            self.file = file

    class Raising(Plain):
        def close(self) -> None:
            raise Failure

    def serve(wrapper: type[Plain]) -> Any:
        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            start_response("200 OK", [])
            return cast(Iterable[bytes], wrapper(None))

        return WSGIMiddleware(app, registry=registry)(
            make_environ() | {"wsgi.file_wrapper": wrapper}, lambda *_: lambda _: None
        )

    serve(Plain).close()
    with pytest.raises(Failure):
        serve(Raising).close()

    assert endings(registry) == [Ending("200", "")] * 2
    assert active(registry) == 0.0


def test_a_server_whose_file_wrapper_is_a_function_gets_the_very_file(registry: CollectorRegistry) -> None:
    class File(io.BytesIO):
        """What can be given a close of its own."""

    file = File(b"content")

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return cast(Iterable[bytes], environ["wsgi.file_wrapper"](file))

    environ = make_environ() | {"wsgi.file_wrapper": lambda file, size=0: file}
    body: Any = WSGIMiddleware(app, registry=registry)(environ, lambda *_: lambda _: None)

    assert body is file
    body.close()
    assert file.closed
    assert endings(registry) == [Ending("200", "")]


def test_a_list_beside_a_file_wrapper_is_a_list(registry: CollectorRegistry) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"a"]

    for wrapper in (wsgiref.util.FileWrapper, lambda file, size=0: file):
        run_wsgi(WSGIMiddleware(app, registry=registry), make_environ() | {"wsgi.file_wrapper": wrapper}, leave_after=1)

    assert endings(registry) == [Ending("200", "client_disconnected")] * 2


# --- labels and sizes -------------------------------------------------------------------------------------------------


def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", [])
    write(b"12")
    return [b"345", b"", b"6"]


@pytest.mark.parametrize(
    ("announced", "size"),
    [({}, 0), ({"CONTENT_LENGTH": ""}, 0), ({"CONTENT_LENGTH": "x"}, 0), ({"CONTENT_LENGTH": "12"}, 12)],
)
def test_sizes_are_measured(registry: CollectorRegistry, announced: dict[str, str], size: int) -> None:
    measured = WSGIMiddleware(answer, registry=registry, measure=("request_body_size", "response_body_size"))
    run_wsgi(measured, make_environ() | announced)

    assert total(registry, semconv.RESPONSE_BODY_SIZE) == 6
    assert total(registry, semconv.REQUEST_BODY_SIZE) == size


def test_a_part_that_is_none_is_left_to_the_server(registry: CollectorRegistry) -> None:
    written: list[object] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[Any]:
        start_response("200 OK", [])(cast(bytes, 5))
        return [7, None, b"abc"]

    body = WSGIMiddleware(app, registry=registry, measure=("response_body_size",))(
        make_environ(), lambda *_: written.append
    )

    assert [*written, *body] == [5, 7, None, b"abc"]
    assert endings(registry) == [Ending("200", "")]
    assert total(registry, semconv.RESPONSE_BODY_SIZE) == 3


def test_the_start_is_measured_when_it_happens(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        clock.advance(2)
        start_response("200 OK", [])
        clock.advance(3)
        yield b"a"

    run_wsgi(WSGIMiddleware(app, registry=registry, measure=("response_start",)), make_environ())

    assert total(registry, semconv.RESPONSE_START) == 2
    assert total(registry) == 5


def test_labels_tell_method_scheme_protocol_and_host(registry: CollectorRegistry) -> None:
    app = WSGIMiddleware(
        answer,
        registry=registry,
        optional_labels=("network_protocol_version", "server_address", "server_port"),
        labels={"agent": lambda environ: environ["HTTP_USER_AGENT"]},
        route=lambda environ: "/items/{id}",
    )
    headers = [("host", "[2001:db8::1]:8443"), ("user-agent", "x")]
    run_wsgi(app, make_environ("/items/5", method="XYZ", headers=headers) | {"wsgi.url_scheme": "https"})

    assert requests(registry) == [
        {
            semconv.METHOD: "_OTHER",
            semconv.ROUTE: "/items/{id}",
            semconv.STATUS: "200",
            semconv.SCHEME: "https",
            semconv.ERROR_TYPE: "",
            semconv.PROTOCOL_VERSION: "1.1",
            semconv.SERVER_ADDRESS: "2001:db8::1",
            semconv.SERVER_PORT: "8443",
            "agent": "x",
        }
    ]
    assert family(registry, semconv.ACTIVE_REQUESTS).samples[0].labels[semconv.SCHEME] == "https"


def test_an_environ_without_anything_is_measured(registry: CollectorRegistry) -> None:
    optional = ("network_protocol_version", "server_address", "server_port")
    run_wsgi(WSGIMiddleware(answer, registry=registry, optional_labels=optional), {})

    (labels,) = requests(registry)
    assert (labels[semconv.METHOD], labels[semconv.SCHEME]) == ("_OTHER", "_OTHER")


@pytest.mark.parametrize(("path", "excluded"), [("/health", True), ("/healthy", False), ("", False)])
def test_an_excluded_path_is_not_measured_and_gets_the_servers_own_function(
    registry: CollectorRegistry, path: str, excluded: bool
) -> None:
    given: list[object] = []
    body = [b"a"]

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        given.append(start_response)
        start_response("200 OK", [])
        return body

    def start_response(*_: Any) -> Any:
        return None

    returned = WSGIMiddleware(app, registry=registry, exclude=[r"/health", "nothing"])(
        make_environ(path), start_response
    )
    assert list(returned) == body

    assert (returned is body) is excluded
    assert (given == [start_response]) is excluded
    assert len(endings(registry)) == (not excluded)


# --- by the book ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_the_validator_of_wsgiref_finds_nothing_on_either_side(registry: CollectorRegistry, method: str) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        environ["wsgi.input"].read(3)
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"a"
        yield b"b"

    measured = validator(cast(Any, WSGIMiddleware(cast(WSGIApp, validator(cast(Any, app))), registry=registry)))
    sent, _ = sent_by_wsgiref(
        cast(WSGIApp, measured), make_environ(method=method, body=b"abc", HTTP_HOST="example.org")
    )

    assert sent.startswith(b"HTTP/1.0 200 OK") or sent.startswith(b"Status: 200 OK")
    assert endings(registry) == [Ending("200", "")]
    assert active(registry) == 0.0

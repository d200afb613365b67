"""An application behaves the same wrapped and bare, whatever it does: scripts of behaviour, drawn at random."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from exemplars import ASGIMiddleware, WSGIMiddleware
from exemplars._types import ASGIApp, Environ, Message, Receive, Scope, Send, StartResponse, WSGIApp
from tests.drivers import BACKENDS, ASGIExchange, Backend, make_environ, make_scope, run_wsgi
from tests.measured import active, endings

ALL: Final = ("active_requests", "request_body_size", "response_body_size", "response_start")


class Failure(Exception):
    """The application's own."""


class Ending(BaseException):
    """One that no handler of exceptions expects."""


# --- ASGI -------------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What a script does next."""

    kind: str
    value: Any = None


def whole(**message: Any) -> st.SearchStrategy[Message]:
    return st.fixed_dictionaries({name: st.just(value) for name, value in message.items()})


headers = st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=3)
bodies = st.binary(max_size=5)
flags = st.booleans()
statuses = st.sampled_from((100, 103, 200, 204, 304, 404, 500, 599, 999))
usual: st.SearchStrategy[Message] = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("http.response.start"), "status": statuses},
        optional={"headers": headers, "trailers": flags},
    ),
    st.fixed_dictionaries(
        {"type": st.just("http.response.body")}, optional={"body": bodies, "more_body": flags, "unknown": flags}
    ),
    st.fixed_dictionaries({"type": st.just("http.response.trailers")}, optional={"more_trailers": flags}),
    st.fixed_dictionaries({"type": st.just("http.response.pathsend"), "path": st.just("/etc/hostname")}),
    st.fixed_dictionaries({"type": st.just("http.response.zerocopysend")}, optional={"more_body": flags}),
    st.fixed_dictionaries({"type": st.sampled_from(("http.response.push", "http.response.debug", "", "x"))}),
)
# What no server has to take; ours to leave to it.
unusual: st.SearchStrategy[Any] = st.sampled_from(
    (
        {},
        {"type": None},
        {"type": ["http.response.start"]},
        {"type": "http.response.start"},
        {"type": "http.response.start", "status": "200"},
        {"type": "http.response.start", "status": None},
        {"type": "http.response.start", "status": 200, "headers": 5},
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length",)]},
        {"type": "http.response.body", "body": None},
        {"type": "http.response.body", "body": 5},
        {"type": "http.response.body", "body": "text", "more_body": "yes"},
        {"type": "http.response.zerocopysend", "file": None},
        None,
        "http.response.body",
    )
)
steps = st.one_of(
    st.builds(Step, st.sampled_from(("send", "send and catch")), usual),
    st.builds(Step, st.sampled_from(("send", "send and catch")), unusual),
    st.just(Step("receive")),
    st.just(Step("pause")),
    st.just(Step("disconnect")),
    st.just(Step("cancel")),
    st.just(Step("cancel, and survive")),
    st.builds(Step, st.just("raise"), st.sampled_from((Failure, Ending, OSError, ValueError, asyncio.TimeoutError))),
    st.just(Step("return")),
)


class Seen(NamedTuple):
    """All that application and server saw of each other."""

    messages: list[Any]
    raised: object  # the server's own exceptions as text, the application's as they are
    by_the_app: list[object]


def run_script(
    script: list[Step], backend: Backend, wrap: Callable[[ASGIApp], ASGIApp], errors: list[BaseException], **server: Any
) -> Seen:
    by_the_app: list[object] = []
    exchange = ASGIExchange(**server)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        by_the_app.append({key: value for key, value in scope.items() if not key.startswith("exemplars.")})
        for number, step in enumerate(script):
            match step.kind:
                case "send":
                    await send(step.value)
                case "send and catch":
                    try:
                        await send(step.value)
                    except Exception as error:
                        by_the_app.append((type(error), str(error)))
                case "receive":
                    with anyio.move_on_after(0):
                        by_the_app.append(await receive())
                case "pause":
                    await anyio.lowlevel.checkpoint()
                case "disconnect":
                    exchange.disconnect()
                case "cancel":
                    exchange.cancel()
                case "cancel, and survive":
                    with anyio.CancelScope() as scope_:
                        scope_.cancel()
                        await anyio.lowlevel.checkpoint()
                case "raise":
                    errors.append(step.value(f"step {number}"))
                    raise errors[-1]
                case "return":
                    return
            by_the_app.append(number)

    exchange.run(wrap(app), make_scope("/a?b", method="POST", headers=[("host", "example.org")]), backend)
    raised: object = exchange.exception
    if errors and raised is errors[-1]:
        raised = "the application's own, the very object"
    elif raised is not None and raised is not server.get("send_raises"):
        raised = (type(raised), str(raised)) if isinstance(raised, Exception) else type(raised)
    return Seen(exchange.messages, raised, by_the_app)


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    script=st.lists(steps, max_size=8),
    body=st.lists(st.binary(max_size=3), max_size=3),
    disconnect_after=st.none() | st.integers(0, 4),
    cancel_after=st.none() | st.integers(1, 4),
    send_raises=st.none() | st.sampled_from((OSError("gone"), RuntimeError("closed"))),
)
def test_an_asgi_application_behaves_the_same_wrapped_and_bare(
    backend: Backend,
    script: list[Step],
    body: list[bytes],
    disconnect_after: int | None,
    cancel_after: int | None,
    send_raises: BaseException | None,
) -> None:
    registry = CollectorRegistry()
    server = {
        "body": body,
        "disconnect_after": disconnect_after,
        "cancel_after": cancel_after,
        "send_raises": send_raises,
    }

    bare = run_script(script, backend, lambda app: app, [], **server)
    wrapped = run_script(script, backend, lambda app: ASGIMiddleware(app, registry=registry, measure=ALL), [], **server)

    assert wrapped == bare
    # The messages are passed on, not copied.
    sent = [step.value for step in script if step.kind.startswith("send")]
    assert all(any(message is one for one in sent) for message in wrapped.messages)
    # And whatever that was, it was a request.
    assert len(endings(registry)) == 1
    assert active(registry) == 0.0


@pytest.mark.parametrize("backend", BACKENDS)
@given(received=st.lists(st.sampled_from(({}, None, {"type": 5}, {"type": "http.request", "body": 5}, 7)), max_size=4))
def test_whatever_a_server_gives_is_what_the_application_receives(backend: Backend, received: list[Any]) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in received:
            seen.append(await receive())

    async def serve() -> None:
        given_ = iter(received)

        async def receive() -> Message:
            return next(given_)

        async def send(message: Message) -> None:
            raise AssertionError

        await ASGIMiddleware(app, registry=CollectorRegistry())(make_scope(), receive, send)

    anyio.run(serve, backend=backend)

    assert [id(message) for message in seen] == [id(message) for message in received]


# --- WSGI -------------------------------------------------------------------------------------------------------------


class Sized(list[Any]):
    """A body that is a list of the application's own class."""


@dataclass
class Script:
    """What a WSGI application does before it returns, what it returns, and what that does when it is iterated."""

    before: list[Step]
    returns: str
    inside: list[Step]
    close_raises: bool
    errors: list[BaseException] = field(default_factory=list)


wsgi_bodies = bodies | st.sampled_from((None, 5, "text", bytearray(b"array"), memoryview(b"view")))
starts = st.builds(
    Step,
    st.sampled_from(("start", "start", "start again")),
    st.sampled_from(("200 OK", "204 No Content", "500 Oh", "", "abc", "99", "2000 Long", None, 200)),
)
wsgi_steps = st.one_of(
    starts,
    st.builds(Step, st.just("write"), wsgi_bodies),
    st.builds(Step, st.just("part"), wsgi_bodies),
    st.builds(Step, st.just("part"), bodies),
    st.builds(Step, st.just("raise"), st.sampled_from((Failure, Ending, OSError, GeneratorExit, StopIteration))),
)
scripts = st.builds(
    Script,
    before=st.lists(starts, max_size=1).flatmap(
        lambda first: st.lists(wsgi_steps, max_size=3).map(lambda rest: [*first, *rest])
    ),
    returns=st.sampled_from(("list", "tuple", "sized", "generator", "iterator", "body", "file", "nothing")),
    inside=st.lists(wsgi_steps, max_size=5),
    close_raises=flags,
)


class FileWrapper:
    def __init__(self, parts: Iterator[Any], close: Callable[[], None]) -> None:
        self._parts = parts
        self.close = close

    def __iter__(self) -> Iterator[Any]:
        return self._parts


class Body:
    def __init__(self, parts: Iterator[Any], close: Callable[[], None]) -> None:
        self._parts = parts
        self._close = close

    def __iter__(self) -> Iterator[Any]:
        return self._parts

    def close(self) -> None:
        self._close()


class WSGISeen(NamedTuple):
    """All that application and server saw of each other."""

    status: object
    headers: object
    sent: list[Any]
    raised: object
    closed: bool
    length: int | None
    by_the_app: list[object]


def run_wsgi_script(script: Script, wrap: Callable[[WSGIApp], WSGIApp], leave_after: int | None) -> WSGISeen:
    by_the_app: list[object] = []
    errors: list[BaseException] = []
    response_headers = [("Content-Type", "text/plain"), ("Content-Length", "5")]

    def app(environ: Environ, start_response: StartResponse) -> Any:
        by_the_app.append({k: v for k, v in environ.items() if k.isupper()})
        write: Any = None

        def do(steps: Iterable[Step]) -> Iterator[Any]:
            nonlocal write
            for step in steps:
                match step.kind:
                    case "start":
                        write = start_response(step.value, response_headers)
                    case "start again":
                        try:
                            raise Failure("handled")
                        except Failure as error:
                            errors.append(error)
                            write = start_response(step.value, response_headers, sys.exc_info())
                    case "write" if write is not None:
                        by_the_app.append(write(step.value))
                    case "part":
                        yield step.value
                    case "raise":
                        errors.append(step.value("raised"))
                        raise errors[-1]
                by_the_app.append(step)

        def close() -> None:
            by_the_app.append("closed")
            if script.close_raises:
                errors.append(Failure("close"))
                raise errors[-1]

        early = list(do(script.before))
        match script.returns:
            case "list":
                return [*early, *do(script.inside)]
            case "tuple":
                return (*early, *do(script.inside))
            case "sized":
                return Sized([*early, *do(script.inside)])
            case "generator":
                return do(script.inside)
            case "iterator":
                return iter(early)
            case "body":
                return Body(do(script.inside), close)
            case "file":
                return environ["wsgi.file_wrapper"](do(script.inside), close)
        return None

    environ = make_environ("/a?b", method="POST", body=b"abc") | {"wsgi.file_wrapper": FileWrapper}
    failed: tuple[type[BaseException], str] | None = None
    try:
        result = run_wsgi(wrap(app), environ, leave_after=leave_after)
    except AssertionError as error:  # the server's word for what it does not take
        failed = type(error), str(error).partition("\n")[0]
        return WSGISeen(None, None, [], failed, False, None, by_the_app)
    raised: object = result.exception
    if any(raised is error for error in errors):
        raised = f"the application's own, the very object: {raised!r}"
    elif raised is not None:
        raised = (type(raised), str(raised))
    try:
        length = len(result.iterable)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        length = None
    assert (type(result.iterable) is FileWrapper) == (script.returns == "file" and result.iterable is not None)
    return WSGISeen(result.status, result.headers, result.sent, raised, result.closed, length, by_the_app)


@given(script=scripts, leave_after=st.none() | st.integers(0, 3))
def test_a_wsgi_application_behaves_the_same_wrapped_and_bare(script: Script, leave_after: int | None) -> None:
    registry = CollectorRegistry()

    bare = run_wsgi_script(script, lambda app: app, leave_after)
    wrapped = run_wsgi_script(script, lambda app: WSGIMiddleware(app, registry=registry, measure=ALL), leave_after)

    assert wrapped == bare
    assert len(endings(registry)) == 1
    assert active(registry) == 0.0

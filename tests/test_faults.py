"""Whatever fails inside costs a label or an exemplar, is counted and logged once, and never touches the response."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NoReturn, cast

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from prometheus_client import CollectorRegistry

from exemplars import ASGIMiddleware, Histogram, WSGIMiddleware, asgi, faults, metrics, recorder, semconv, wsgi
from exemplars._lock import lock
from exemplars._types import Environ, Receive, Scope, Send, StartResponse
from exemplars.span import Budget
from tests.drivers import BACKENDS, Backend, make_environ, make_scope, run_asgi, run_wsgi
from tests.measured import Ending, Faults, active, endings, family, requests, shown


class Broken(Exception):
    """What fails inside."""


def broken(*_: object, **__: object) -> NoReturn:
    raise Broken("inside")


def returning(value: object) -> Callable[[object], object]:
    def function(_: object) -> object:
        return value

    function.__name__ = f"returns {value!r}"
    return function


@pytest.fixture(autouse=True)
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[faults.Kind, int]:
    """The table, empty, as in a process that has just started."""
    counts = dict.fromkeys(faults.KINDS, 0)
    monkeypatch.setattr(faults.errors, "values", counts)
    return counts


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "exemplars")
    return caplog


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_fault_is_counted_always_and_logged_once_a_kind(
    log: pytest.LogCaptureFixture, counts: dict[faults.Kind, int]
) -> None:
    for number in range(3):
        faults.note("route", Broken(f"number {number}"))
    faults.note("label", detail="in words")
    faults.note("span")

    assert {kind: count for kind, count in counts.items() if count} == {"route": 3, "label": 1, "span": 1}
    assert [record.levelname for record in log.records] == ["WARNING"] * 3
    first, second, third = (record.getMessage() for record in log.records)
    assert first.startswith("route: Broken('number 0')")
    assert "exemplars_errors_total{kind='route'}" in first and "further ones are not logged" in first
    assert second.startswith("label: in words")
    assert third.startswith("span: failed")
    assert log.records[0].exc_info is not None and isinstance(log.records[0].exc_info[1], Broken)
    assert not log.records[1].exc_info


def test_a_detail_stands_before_the_error(log: pytest.LogCaptureFixture) -> None:
    faults.note("route", Broken("error"), "detail")

    (record,) = log.records
    assert record.getMessage().startswith("route: detail")


@pytest.mark.parametrize("part", ["handler", "filter", "formatter"])
def test_logging_that_is_broken_stays_outside(counts: dict[faults.Kind, int], part: str) -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if part == "handler":
                broken()
            self.format(record)

    handler = Handler()
    if part == "filter":
        handler.addFilter(broken)
    if part == "formatter":
        handler.setFormatter(cast(logging.Formatter, type("Broken", (), {"format": broken})()))
    logger = logging.getLogger("exemplars")
    logger.addHandler(handler)
    try:
        faults.note("route", Broken("x"))
        faults.note("route", Broken("x"))
    finally:
        logger.removeHandler(handler)

    assert counts["route"] == 2


def test_an_error_that_cannot_even_be_shown_stays_outside(counts: dict[faults.Kind, int]) -> None:
    class Unspeakable(Exception):
        __repr__ = broken

    faults.note("route", Unspeakable())

    assert counts["route"] == 1


def test_a_handler_that_observes_and_fails_itself_does_not_loop(counts: dict[faults.Kind, int]) -> None:
    histogram = Histogram("h", "d", registry=None)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            histogram.observe(1.0, {"invalid": cast(str, 5)})  # which is a fault of another kind
            faults.note("route")

    logger = logging.getLogger("exemplars")
    handler = Handler()
    logger.addHandler(handler)
    try:
        faults.note("route", Broken("x"))
    finally:
        logger.removeHandler(handler)

    assert counts["route"] == 3, "of the first, and of the one while the other kind was logged"
    assert counts["exemplar"] == 2


def test_threads_lose_no_fault_and_log_one(counts: dict[faults.Kind, int], log: pytest.LogCaptureFixture) -> None:
    def note() -> None:
        for _ in range(500):
            faults.note("span")

    threads = [threading.Thread(target=note) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counts["span"] == 4000
    assert len(log.records) == 1


# --- while the lock of the process is held ----------------------------------------------------------------------------


class Asking(logging.Handler):
    """Keeps what it is told, and whether the lock of the process could be had by another thread meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.free: list[bool] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

        def take() -> None:
            taken = lock.acquire(timeout=0.01)
            self.free.append(taken)
            if taken:
                lock.release()

        thread = threading.Thread(target=take)
        thread.start()
        thread.join()


@pytest.fixture
def asking() -> Iterator[Asking]:
    logger = logging.getLogger("exemplars")
    handler = Asking()
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


def test_what_is_said_while_the_lock_is_held_waits_until_it_is_free_in_its_order(
    counts: dict[faults.Kind, int], asking: Asking
) -> None:
    with lock, lock:
        faults.say(logging.INFO, "%d of %s", 1, "four")
        faults.note("route", Broken("2 of four"))
        faults.say(logging.WARNING, "3 of four")
        faults.speak()
        assert asking.said == []
    faults.say(logging.INFO, "4 of four")
    assert asking.said[0::2] == ["1 of four", "3 of four"]
    assert asking.said[1].startswith("route: Broken('2 of four')")
    assert asking.said[3] == "4 of four"
    assert asking.free == [True] * 4
    assert counts["route"] == 1
    faults.speak()
    assert len(asking.said) == 4, "once"


def test_another_thread_says_at_once_what_it_has_to_say(asking: Asking) -> None:
    """Also what the one said that holds the lock: it need not wait for it."""
    with lock:
        faults.say(logging.INFO, "first")
        thread = threading.Thread(target=faults.say, args=(logging.INFO, "second"))
        thread.start()
        thread.join()
        assert asking.said == ["first", "second"]
    faults.speak()
    assert len(asking.said) == 2


def test_what_waited_keeps_its_level_and_its_traceback(log: pytest.LogCaptureFixture) -> None:
    error = Broken("inside")
    with lock:
        faults.note("span", error)
    faults.speak()
    (record,) = log.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_a_broken_handler_keeps_nothing_from_being_said_later(monkeypatch: pytest.MonkeyPatch, asking: Asking) -> None:
    with lock:
        faults.say(logging.INFO, "%d", "no number")
        faults.say(logging.INFO, "whole")
    with monkeypatch.context() as patched:
        patched.setattr(logging, "raiseExceptions", True)
        faults.speak()
    assert asking.said == ["whole"]


# --- requests ---------------------------------------------------------------------------------------------------------


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["body"] == b"question"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": b"answer ", "more_body": True})
    await send({"type": "http.response.body", "body": b"whole"})


MESSAGES: Final = [
    {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]},
    {"type": "http.response.body", "body": b"answer ", "more_body": True},
    {"type": "http.response.body", "body": b"whole"},
]


def wsgi_app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    assert environ["wsgi.input"].read() == b"question"
    start_response("200 OK", [("a", "b")])
    return [b"answer ", b"whole"]


Respond = Callable[[CollectorRegistry, Mapping[str, Any]], None]  # two requests, and that their responses are whole


def respond_asgi(backend: Backend) -> Respond:
    def respond(registry: CollectorRegistry, options: Mapping[str, Any]) -> None:
        middleware = ASGIMiddleware(app, registry=registry, **options)
        for _ in range(2):
            scope = make_scope("/a", headers=[("host", "example.org")])
            exchange = run_asgi(middleware, scope, backend, body=(b"question",))
            assert exchange.messages == MESSAGES
            assert exchange.exception is None

    return respond


def respond_wsgi(registry: CollectorRegistry, options: Mapping[str, Any]) -> None:
    middleware = WSGIMiddleware(wsgi_app, registry=registry, **options)
    for _ in range(2):
        result = run_wsgi(middleware, make_environ("/a", headers=[("host", "example.org")], body=b"question"))
        assert (result.status, result.headers, result.body) == ("200 OK", [("a", "b")], b"answer whole")
        assert result.exception is None
        assert result.closed


@pytest.fixture(params=[*BACKENDS, "wsgi"])
def respond(request: pytest.FixtureRequest) -> Respond:
    return respond_wsgi if request.param == "wsgi" else respond_asgi(request.param)


@pytest.mark.parametrize("route", [broken, *map(returning, (0, 5, b"/a", ["/a"], {}))])
def test_a_route_that_fails_or_is_no_text_is_empty(
    registry: CollectorRegistry, log: pytest.LogCaptureFixture, respond: Respond, route: Any
) -> None:
    seen = Faults()
    respond(registry, {"route": route})

    assert endings(registry) == [Ending("200", "")] * 2
    assert [labels[semconv.ROUTE] for labels in requests(registry)] == ["", ""]
    assert seen.seen == {"route": 2}
    assert [record.levelname for record in log.records] == ["WARNING"]


def test_a_frameworks_route_that_fails_is_empty(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, respond: Respond
) -> None:
    seen = Faults()
    monkeypatch.setattr("exemplars.routes.asgi", broken)
    monkeypatch.setattr("exemplars.routes.wsgi", broken)
    respond(registry, {})

    assert endings(registry) == [Ending("200", "")] * 2
    assert seen.seen == {"route": 2}


@pytest.mark.parametrize("value", [broken, *map(returning, (0, 5, None, b"x", [], {})), lambda: "no argument"])
def test_a_label_that_fails_or_is_no_text_is_empty_and_the_others_stand(
    registry: CollectorRegistry, log: pytest.LogCaptureFixture, respond: Respond, value: Any
) -> None:
    seen = Faults()
    respond(registry, {"labels": {"before": "x", "failing": value, "after": lambda _: "y"}})

    (labels, _) = requests(registry)
    assert (labels["before"], labels["failing"], labels["after"]) == ("x", "", "y")
    assert seen.seen == {"label": 2}
    assert len(log.records) == 1


@pytest.mark.parametrize("headers", [5, [(b"host",)], [(b"host", "text")], [5]])
def test_headers_that_are_none_cost_an_optional_label(registry: CollectorRegistry, headers: Any) -> None:
    seen = Faults()
    scope = make_scope()
    scope["headers"] = headers
    measured = ASGIMiddleware(app, registry=registry, optional_labels=("server_address", "network_protocol_version"))
    run_asgi(measured, scope, body=(b"question",))

    (labels,) = requests(registry)
    assert (labels[semconv.SERVER_ADDRESS], labels[semconv.PROTOCOL_VERSION]) == ("", "1.1")
    assert seen.seen == {"label": 1}


# Marks, whatever other tests have spent.
ENOUGH: Final = {"marks_per_second": 1e6}


class Span(NonRecordingSpan):
    """A server span that would become an exemplar, if nothing failed."""

    kind = SpanKind.SERVER
    attributes: Mapping[str, str] = {}

    def __init__(self, failing: str) -> None:
        super().__init__(SpanContext(trace_id=5, span_id=7, is_remote=False, trace_flags=TraceFlags(1)))
        if failing:
            setattr(self, failing, broken)

    def is_recording(self) -> bool:
        return True

    def set_attribute(self, key: str, value: object) -> None:
        pass


class Attributeless(Span):
    @property
    def attributes(self) -> Mapping[str, str]:  # type: ignore[override]
        raise Broken("inside")


class Kindless(Span):
    @property
    def kind(self) -> SpanKind:  # type: ignore[override]
        raise Broken("inside")


@pytest.fixture(params=["get_span_context", "is_recording", "set_attribute", "attributes", "kind"])
def failing_span(request: pytest.FixtureRequest) -> Span:
    classes = {"attributes": Attributeless, "kind": Kindless}
    if request.param in classes:
        return classes[request.param]("")
    return Span(request.param)


def test_the_span_that_does_not_fail_is_shown(registry: CollectorRegistry, respond: Respond) -> None:
    with trace.use_span(Span("")):
        respond(registry, ENOUGH)

    exemplars = shown([family(registry, semconv.DURATION)])
    assert [exemplar.labels["span_id"] for exemplar in exemplars] == [f"{7:016x}"]


def test_a_span_that_fails_costs_the_exemplar(
    registry: CollectorRegistry, log: pytest.LogCaptureFixture, respond: Respond, failing_span: Span
) -> None:
    seen = Faults()
    with trace.use_span(failing_span):
        respond(registry, ENOUGH)

    assert endings(registry) == [Ending("200", "")] * 2
    assert shown(registry.collect()) == []
    assert set(seen.seen) == {"span"}
    assert len(log.records) == 1


def test_a_span_that_fails_costs_an_observation_of_ones_own_its_exemplar_only(
    monkeypatch: pytest.MonkeyPatch, failing_span: Span
) -> None:
    seen = Faults()
    marks = Budget(1e6)
    monkeypatch.setattr(metrics, "process_budget", lambda: marks)
    histogram = Histogram("h", "d", registry=None)
    with trace.use_span(failing_span):
        histogram.observe(1.0)
        histogram.observe(2.0)

    assert sum(histogram.series()[0].read()[0]) == 2
    if isinstance(failing_span, Kindless):  # which nobody asks of a current span
        assert len(shown(histogram.collect())) == 2
    else:
        assert shown(histogram.collect()) == []
        assert seen.seen == {"span": 2}


@pytest.mark.parametrize("when", ["entry", "start", "end"])
def test_a_context_that_cannot_be_read_costs_the_exemplar_or_the_request_its_measure(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, respond: Respond, when: str
) -> None:
    seen = Faults()
    calls = 0

    def fail(*_: object) -> Any:
        nonlocal calls
        calls += 1
        if when == "end" or (calls % 2 == 1) is (when == "entry"):
            raise Broken("inside")
        return otel_context.get_current()

    monkeypatch.setattr(recorder, "current_context", fail)
    respond(registry, {})

    assert seen.seen
    assert active(registry) == 0.0


class Raised(Exception):
    """The application's own."""


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("part", ["current_context", "monotonic", "_left"])
def test_the_applications_exception_passes_also_where_measuring_it_fails(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, part: str, sent: bool
) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        if sent:
            await send({"type": "http.response.start", "status": 200})
        monkeypatch.setattr(recorder, part, broken)
        raise Raised

    def fails_wsgi(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        if sent:
            start_response("200 OK", [])
            yield b"a"
        monkeypatch.setattr(recorder, part, broken)
        raise Raised

    assert isinstance(run_asgi(ASGIMiddleware(fails, registry=registry), make_scope()).exception, Raised)
    monkeypatch.undo()
    assert isinstance(run_wsgi(WSGIMiddleware(fails_wsgi, registry=registry), make_environ()).exception, Raised)
    monkeypatch.undo()

    assert active(registry) == 0.0


def test_groups_in_groups_without_end_are_one_exception_of_the_application(registry: CollectorRegistry) -> None:
    raised: Exception = Raised()
    for _ in range(5000):
        raised = ExceptionGroup("in", [raised])

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise raised

    assert run_asgi(ASGIMiddleware(fails, registry=registry), make_scope()).exception is raised
    assert endings(registry) == [Ending("500", "ExceptionGroup")]


@pytest.mark.parametrize("metric", [semconv.DURATION, semconv.RESPONSE_START, semconv.RESPONSE_BODY_SIZE])
def test_a_series_that_fails_costs_the_observation(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, respond: Respond, metric: str
) -> None:
    seen = Faults()
    child = Histogram.child

    def fail(self: Histogram, key: tuple[str, ...]) -> Any:
        return broken() if self.name == metric else child(self, key)

    monkeypatch.setattr(Histogram, "child", fail)
    respond(registry, {"measure": ("active_requests", "response_start", "response_body_size")})

    assert "observation" in seen.seen
    assert active(registry) == 0.0
    assert len(endings(registry)) == (0 if metric == semconv.DURATION else 2)


@pytest.mark.parametrize(("module", "kind"), [(asgi, "_ASGIRequest"), (wsgi, "_WSGIRequest")])
def test_a_request_that_cannot_be_measured_is_served_bare(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, module: Any, kind: str
) -> None:
    seen = Faults()
    monkeypatch.setattr(module, kind, broken)
    if module is asgi:
        respond_asgi("asyncio")(registry, {})
    else:
        respond_wsgi(registry, {})

    assert endings(registry) == []
    assert seen.seen == {"observation": 2}


@pytest.mark.parametrize("key", ["method", "scheme"])
def test_a_scope_of_impossible_values_is_served_and_leaves_nothing_active(
    registry: CollectorRegistry, key: str
) -> None:
    seen = Faults()
    scope = make_scope()
    scope[key] = ["GET"]
    exchange = run_asgi(ASGIMiddleware(app, registry=registry), scope, body=(b"question",))

    assert exchange.messages == MESSAGES
    assert seen.seen == {"observation": 1}
    assert active(registry) == 0.0


def test_a_body_that_cannot_be_watched_is_handed_over_as_it_is(registry: CollectorRegistry) -> None:
    class Meta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            raise Broken("inside")

    class Wrapper(metaclass=Meta):
        pass

    seen = Faults()
    body = [b"answer"]

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return body

    environ = make_environ() | {"wsgi.file_wrapper": Wrapper}
    result = run_wsgi(WSGIMiddleware(app, registry=registry), environ)

    assert result.iterable is body
    assert result.body == b"answer"
    assert seen.seen == {"observation": 1}
    assert endings(registry) == [Ending("200", "")]


@pytest.mark.parametrize("headers", [5, [("content-length",)], [(5, 5)]])
def test_headers_of_a_file_that_are_none_cost_its_size(registry: CollectorRegistry, headers: Any) -> None:
    class Wrapper:
        def close(self) -> None:
            pass

    seen = Faults()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", headers)
        return cast(Iterable[bytes], Wrapper())

    environ = make_environ() | {"wsgi.file_wrapper": Wrapper}
    body: Any = WSGIMiddleware(app, registry=registry)(environ, lambda *_: lambda _: None)
    body.close()

    assert endings(registry) == [Ending("200", "")]
    assert seen.seen == {"observation": 1}

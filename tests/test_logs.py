"""Log lines have the ids of the span they belong to, and whatever is logged comes out as JSON."""

import asyncio
import gc
import json
import logging
import logging.config
import logging.handlers
import os
import queue
import re
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind
from prometheus_client import CollectorRegistry
from werkzeug.local import LocalProxy

from exemplars import ASGIMiddleware, WSGIMiddleware
from exemplars._types import Environ, Receive, Scope, Send, StartResponse
from exemplars.logs import JSONFormatter, TraceContextFilter, add_trace_context
from exemplars.options import service_name_of
from exemplars.wsgi import REQUEST
from tests.apps import logged
from tests.drivers import make_environ, make_scope, run_asgi, run_wsgi
from tests.measured import Faults
from tests.otel import Spans, global_spans
from tests.programs import PACKAGES, PATIENCE, eventually, fetch, serving


class Kept(logging.Handler):
    """Keeps the texts that its formatter makes; *filters* see the records before."""

    def __init__(self, *filters: logging.Filter, formatter: logging.Formatter | None = None) -> None:
        super().__init__()
        for one in filters:
            self.addFilter(one)
        self.setFormatter(formatter)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [parse(text) for text in self.texts]


@contextmanager
def logger(*handlers: logging.Handler) -> Iterator[logging.Logger]:
    """One with *handlers*, and nobody else's."""
    own = logging.Logger("shop.orders", logging.DEBUG)
    for handler in handlers:
        own.addHandler(handler)
    yield own
    for handler in handlers:
        handler.close()


def parse(line: str) -> dict[str, Any]:
    """What a strict parser in another language makes of *line*: no constants of Python's, no name twice."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), f"a name comes twice in {pairs}"
        return dict(pairs)

    assert line.isascii() and len(line.splitlines()) == 1
    parsed = json.loads(line, parse_constant=refuse, object_pairs_hook=once)
    assert isinstance(parsed, dict)
    return parsed


def ids(span: Span) -> dict[str, str]:
    context = span.get_span_context()
    return {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "trace_flags": f"{context.trace_flags:02x}",
    }


def of(line: Mapping[str, Any]) -> dict[str, Any]:
    """The ids in *line*."""
    return {name: line[name] for name in ("trace_id", "span_id", "trace_flags") if name in line}


def record(message: object = "hello", /, *arguments: object, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("shop", logging.INFO, __file__, 1, message, arguments or None, None)
    made.__dict__.update(more)
    return made


def formatted(made: logging.LogRecord, **options: Any) -> dict[str, Any]:
    return parse(JSONFormatter(**options).format(made))


# The filter


FORMAT: Final = logging.Formatter("%(trace_id)s/%(span_id)s/%(trace_flags)s")


def test_a_record_gets_the_ids_of_the_current_span() -> None:
    kept = Kept(TraceContextFilter(), formatter=FORMAT)
    spans = Spans()
    with logger(kept) as log:
        with spans.tracer.start_as_current_span("outer") as outer:
            log.info("one")
            with spans.tracer.start_as_current_span("inner") as inner:
                log.info("two")
    assert kept.texts == ["/".join(ids(outer).values()), "/".join(ids(inner).values())]
    assert re.fullmatch("[0-9a-f]{32}/[0-9a-f]{16}/[0-9a-f]{2}", kept.texts[0])


def test_without_a_span_the_attributes_are_empty_and_the_record_is_logged() -> None:
    kept = Kept(TraceContextFilter(), formatter=FORMAT)
    with logger(kept) as log:
        log.info("one")
    assert kept.texts == ["//"]


def test_a_span_that_is_not_sampled_counts_and_its_flags_tell() -> None:
    kept = Kept(TraceContextFilter(), formatter=JSONFormatter())
    spans = Spans(ALWAYS_OFF)
    with logger(kept) as log, spans.tracer.start_as_current_span("unsampled") as span:
        log.info("one")
    (line,) = kept.lines
    assert of(line) == ids(span)
    assert not int(line["trace_flags"], 16) & trace.TraceFlags.SAMPLED


def test_what_is_there_already_is_left_alone_and_the_rest_is_of_the_same_span() -> None:
    kept = Kept(TraceContextFilter(), formatter=FORMAT)
    spans = Spans()
    with logger(kept) as log, spans.tracer.start_as_current_span("here") as span:
        own = ids(span)
        log.info("of another trace", extra={"trace_id": "a job's"})
        log.info("of another span", extra={"span_id": "a job's"})
        log.info("of this one", extra={"trace_id": own["trace_id"]})
        log.info("no text", extra={"trace_id": 7})
    assert kept.texts == ["a job's//", "/a job's/", "/".join(own.values()), "7//"]


class Broken(NonRecordingSpan):
    def get_span_context(self) -> SpanContext:
        raise RuntimeError("broken")


def test_a_span_that_fails_is_counted_and_the_record_is_logged() -> None:
    kept = Kept(TraceContextFilter(), formatter=FORMAT)
    faults = Faults()
    token = otel_context.attach(trace.set_span_in_context(Broken(trace.INVALID_SPAN_CONTEXT)))
    try:
        with logger(kept) as log:
            log.info("one")
    finally:
        otel_context.detach(token)
    assert kept.texts == ["//"]
    assert faults.seen == {"span": 1}


def test_threads_and_tasks_get_their_own() -> None:
    kept = Kept(TraceContextFilter(), formatter=JSONFormatter())
    spans = Spans()
    made: dict[str, dict[str, str]] = {}

    async def work(log: logging.Logger, name: str) -> None:
        with spans.tracer.start_as_current_span(name) as span:
            made[name] = ids(span)
            await asyncio.sleep(0)
            log.info(name)
            await asyncio.sleep(0)
            await asyncio.to_thread(log.info, f"{name} in a thread")  # which takes the context along
        bare = threading.Thread(target=log.info, args=(f"{name} in a bare thread",))  # which does not
        bare.start()
        bare.join()

    async def all_at_once(log: logging.Logger) -> None:
        await asyncio.gather(*(work(log, str(number)) for number in range(20)))

    with logger(kept) as log:
        asyncio.run(all_at_once(log))
    assert len(kept.lines) == 60
    for line in kept.lines:
        name, _, where = line["message"].partition(" ")
        assert of(line) == ({} if where == "in a bare thread" else made[name])


# Behind a queue


@contextmanager
def queued(on_queue: Callable[[logging.handlers.QueueHandler], object], kept: Kept) -> Iterator[logging.Logger]:
    """A logger whose records *kept* gets in another thread; *on_queue* sets its side of the queue up."""
    between: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(between)
    on_queue(handler)
    listener = logging.handlers.QueueListener(between, kept)
    with logger(handler) as log:
        listener.start()
        try:
            yield log
        finally:
            listener.stop()


def test_the_filter_on_the_handler_before_the_queue_finds_the_span() -> None:
    kept = Kept(formatter=JSONFormatter())
    spans = Spans()
    with queued(lambda handler: handler.addFilter(TraceContextFilter()), kept) as log:
        with spans.tracer.start_as_current_span("here") as span:
            log.info("in a span")
        log.info("in none")
    assert [of(line) for line in kept.lines] == [ids(span), {}]


def test_behind_the_queue_no_span_is_current() -> None:
    """So the docstrings say; should it change one day, they may promise more."""
    kept = Kept(TraceContextFilter(), formatter=JSONFormatter())
    with queued(lambda handler: None, kept) as log, Spans().tracer.start_as_current_span("here"):
        log.info("in a span")
    assert [of(line) for line in kept.lines] == [{}]


def test_what_the_filter_left_is_believed_where_another_span_is_current_later() -> None:
    made = record()
    assert TraceContextFilter().filter(made) is True
    with Spans().tracer.start_as_current_span("of whoever formats it"):
        assert of(formatted(made)) == {}


def test_the_formatter_before_the_queue_keeps_the_fields_of_exceptions() -> None:
    kept = Kept()
    with queued(lambda handler: handler.setFormatter(JSONFormatter()), kept) as log:
        with Spans().tracer.start_as_current_span("here") as span:
            try:
                raise RuntimeError("broken")
            except RuntimeError:
                log.exception("it broke")
    (line,) = kept.lines
    assert line["message"] == "it broke" and line["exception.type"] == "RuntimeError"
    assert of(line) == ids(span)


# The formatter


def test_a_line_has_all_fields_in_their_order() -> None:
    kept = Kept(formatter=JSONFormatter(service_name="shop"))
    with logger(kept) as log, Spans().tracer.start_as_current_span("here") as span:
        log.warning("no %s", "lamp", extra={"order": 7, "pieces": [1, 2]})
    (line,) = kept.lines
    moment = line.pop("timestamp")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", moment)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()) < 3600
    wanted = {"level": "WARNING", "logger": "shop.orders", "message": "no lamp", **ids(span), "service.name": "shop"}
    assert list(line.items()) == list((wanted | {"order": 7, "pieces": [1, 2]}).items())


def test_the_time_is_that_of_the_record() -> None:
    assert formatted(record(created=1_794_000_000.25))["timestamp"] == "2026-11-06T21:20:00.250000Z"


@pytest.mark.parametrize("created", [float("nan"), 1e300, -1e300, "yesterday", None])
def test_a_time_that_is_none_is_the_present(created: object) -> None:
    moment = datetime.fromisoformat(formatted(record(created=created))["timestamp"])
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 3600


def test_an_exception_is_told_by_opentelemetrys_names() -> None:
    try:
        raise json.JSONDecodeError("no\nJSON", "", 0)
    except ValueError:
        line = formatted(record(exc_info=sys.exc_info(), stack_info="Stack (most recent call last): …"))
    assert line["exception.type"] == "json.decoder.JSONDecodeError"
    assert line["exception.message"] == "no\nJSON: line 1 column 1 (char 0)"
    assert line["exception.stacktrace"].startswith("Traceback (most recent call last):\n")
    assert line["code.stacktrace"].startswith("Stack")


def test_no_exception_is_none() -> None:
    assert "exception.type" not in formatted(record(exc_info=(None, None, None)))
    assert formatted(record(exc_text="as another formatter left it"))["exception.stacktrace"].startswith("as another")


class Unspeakable(Exception):
    """An exception, and a value, that can be shown in no way."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def test_an_exception_that_cannot_be_shown_is_named() -> None:
    line = formatted(record(exc_info=(Unspeakable, Unspeakable(), None)))
    assert line["exception.type"] == f"{__name__}.Unspeakable"
    assert "Unspeakable object at" in line["exception.message"]


def test_a_traceback_that_cannot_be_shown_costs_itself_only() -> None:
    class Formatter(JSONFormatter):
        def formatException(self, ei: Any) -> str:
            raise RuntimeError("no")

    line = parse(Formatter().format(record(exc_info=(KeyError, KeyError("x"), None))))
    assert (line["exception.type"], line["exception.stacktrace"]) == ("KeyError", "RuntimeError('no')")


def test_a_message_that_its_arguments_do_not_fit_is_shown_with_them() -> None:
    line = formatted(record("%d pieces", "two"))
    assert line["message"] == "'%d pieces' % ('two',)"
    assert line["logging_error"].startswith("TypeError(")
    assert "Unspeakable object at" in formatted(record(Unspeakable()))["message"]


def test_fields_of_ours_are_never_replaced() -> None:
    given = {"level": 1, "message": 2, "timestamp": 3, "service.name": 4, "logger": 5, "extra.level": 6}
    line = formatted(record("hello", **{"extra.level": 6, "level": 1, "service.name": 4}), service_name="shop")
    assert (line["level"], line["service.name"], line["extra.level"]) == ("INFO", "shop", 6)
    assert (line["extra.extra.level"], line["extra.service.name"]) == (1, 4)
    assert formatted(logging.makeLogRecord(given | {"msg": "hello", "message": 2}))["message"] == "hello"


def test_the_message_in_colours_is_left_out() -> None:
    assert "color_message" not in formatted(record(color_message="\x1b[1mhello"))


def test_what_is_no_record_is_said() -> None:
    line = parse(JSONFormatter().format(object()))  # type: ignore[arg-type]
    assert line["message"].startswith("<object object at") and "AttributeError" in line["logging_error"]


ODD: Final[dict[str, tuple[object, object]]] = {
    "nan": (float("nan"), "NaN"),
    "inf": (float("inf"), "Infinity"),
    "-inf": (-float("inf"), "-Infinity"),
    "the largest": (2**63 - 1, 2**63 - 1),
    "one more": (2**63, str(2**63)),
    "more digits than Python works out": (10**5000, hex(10**5000)),
    "surrogate": ("a\udc80b", r"a\udc80b"),
    "lines": ("a\nb\u2028c\x85d", "a\nb\u2028c\x85d"),
    "bytes": (b"a\n", r"b'a\n'"),
    "set": ({1}, "{1}"),
    "keys": ({1: 1, None: 2, ("a",): 3, "\ud800": 4}, {"1": 1, "None": 2, "('a',)": 3, r"\ud800": 4}),
    "equal keys": ({1: "first", "1": "last"}, {"1": "last"}),
    "tuple": ((1, (2, [3])), [1, [2, [3]]]),
    "text behind a proxy": (LocalProxy(lambda: "text"), "'text'"),
    "level": (types.SimpleNamespace(a=1), "namespace(a=1)"),
}


@pytest.mark.parametrize(("given", "wanted"), ODD.values(), ids=ODD)
def test_a_value_that_json_has_not_is_shown(given: object, wanted: object) -> None:
    assert formatted(record(value=given))["value"] == wanted


def _unbound() -> NoReturn:
    raise RuntimeError("outside of a request")


def test_a_value_that_fails_when_it_is_looked_at_costs_itself_only() -> None:
    line = formatted(record(proxy=LocalProxy(_unbound), dumb=Unspeakable(), key={Unspeakable(): 1}, last=1))
    assert "LocalProxy unbound" in line["proxy"]
    assert "Unspeakable object at" in line["dumb"] and "Unspeakable object at" in next(iter(line["key"]))
    assert line["last"] == 1


def test_a_key_that_pretends_to_be_a_text_is_shown() -> None:
    assert formatted(record(value={LocalProxy(lambda: "text"): 1}))["value"] == {"'text'": 1}


def test_cycles_depth_and_amount_are_bounded() -> None:
    cycle: list[object] = [1]
    cycle.append(cycle)
    loop: dict[str, object] = {}
    loop["loop"] = loop
    deep: object = "bottom"
    for _ in range(2000):
        deep = [deep]
    wide: object = list(range(1000))
    for _ in range(40):
        wide = [wide, wide]  # 2 ** 40 times the 1000, if each is followed
    line = formatted(record(cycle=cycle, twice=[cycle, cycle], loop=loop, deep=deep, wide=wide))
    assert line["cycle"] == [1, "[…]"] and line["twice"] == [[1, "[…]"]] * 2
    assert line["loop"] == {"loop": "{…}"}
    assert json.dumps(line["deep"]) == json.dumps([[[[[[[["[…]"]]]]]]]])
    many = formatted(record(many=list(range(50_000)), after=1))
    assert 9_900 < len(many["many"]) < 10_000 and "after" not in many


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**60, 2**70)
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.datetimes()
    | st.builds(Unspeakable)
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=())) | st.integers() | st.floats(), inner, max_size=4
        )
    ),
    max_leaves=20,
)
names = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    [
        "level",
        "message",
        "trace_id",
        "span_id",
        "service.name",
        "exc_info",
        "exc_text",
        "args",
        "msg",
        "created",
        "name",
    ]
)


@given(st.dictionaries(names, anything, max_size=6), anything, st.lists(anything, max_size=2))
def test_whatever_is_in_a_record_it_becomes_a_line_of_json(
    given: dict[str, object], message: object, arguments: list[object]
) -> None:
    made = record(message, *arguments)
    made.__dict__.update(given)
    assert TraceContextFilter().filter(made) is True
    line = formatted(made, service_name="shop")
    assert {"timestamp", "level", "logger", "message", "service.name"} <= line.keys()
    assert line["service.name"] == "shop"
    assert isinstance(line["message"], str)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=7,  # so never eight in each other
)


@given(plain)
def test_what_json_has_comes_back_as_it_was(value: object) -> None:
    line = formatted(record(value=value))
    assert line["value"] == value
    assert json.dumps(line["value"]) == json.dumps(value)  # 1 is neither 1.0 nor True


# Whose line it is


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": " "}, None),
        ({"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "service.name=other"}, "shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a=b, service.name = the%20shop ,nonsense,="}, "the shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=,service.namespace=x"}, None),
    ],
)
def test_the_service_is_named_as_opentelemetrys_sdk_names_it(environ: dict[str, str], name: str | None) -> None:
    assert service_name_of(environ) == name


def test_the_service_is_that_of_the_argument_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "front")
    assert formatted(record())["service.name"] == "front"
    assert formatted(record(), service_name="shop")["service.name"] == "shop"
    monkeypatch.delenv("OTEL_SERVICE_NAME")
    assert "service.name" not in formatted(record())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fmt": "%(message)s"}, "format is '%(message)s', but the fields of JSONFormatter are fixed"),
        ({"datefmt": "%H"}, "datefmt is '%H'"),
        ({"defaults": {"a": 1}}, "defaults is {'a': 1}"),
        ({"service_name": 7}, "service_name is 7: give a text"),
    ],
)
def test_what_it_cannot_do_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        JSONFormatter(**options)


# logging.config


@pytest.mark.parametrize(
    "formatter", [{"()": "exemplars.logs.JSONFormatter"}, {"class": "exemplars.logs.JSONFormatter"}]
)
def test_dict_config_knows_it_by_class_and_as_factory(formatter: dict[str, str]) -> None:
    stream = StringIO()
    try:
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "filters": {"trace": {"()": "exemplars.logs.TraceContextFilter"}},
                "formatters": {"json": formatter},
                "handlers": {
                    "lines": {
                        "class": "logging.StreamHandler",
                        "stream": stream,
                        "formatter": "json",
                        "filters": ["trace"],
                    }
                },
                "loggers": {"tests.configured": {"handlers": ["lines"], "level": "INFO", "propagate": False}},
            }
        )
        with Spans().tracer.start_as_current_span("here") as span:
            logging.getLogger("tests.configured").info("hello")
    finally:
        logging.getLogger("tests.configured").handlers.clear()
    assert of(parse(stream.getvalue().rstrip("\n"))) == ids(span)


# Where the span is over, or not yet there


def lines_of(write: Callable[[logging.Logger], None]) -> list[dict[str, Any]]:
    kept = Kept(formatter=JSONFormatter())
    with logger(kept) as log:
        write(log)
    return kept.lines


def test_what_surrounds_the_span_of_a_request_logs_with_its_ids(registry: CollectorRegistry) -> None:
    spans = global_spans()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        log.info("before")
        with spans.tracer.start_as_current_span("request", kind=SpanKind.SERVER):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        log.info("after")

    middleware = ASGIMiddleware(app, registry=registry)
    kept = Kept(formatter=JSONFormatter())
    with logger(kept) as log:
        run_asgi(middleware, make_scope())
        log.info("outside")
    before, after, outside = kept.lines
    assert of(before) == {} == of(outside)
    assert of(after) == ids(spans.server)  # type: ignore[arg-type]  # it has a context


def test_an_exception_that_a_server_logs_has_the_ids_of_the_request_it_ended(registry: CollectorRegistry) -> None:
    spans = global_spans()

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        with spans.tracer.start_as_current_span("request", kind=SpanKind.SERVER):
            raise RuntimeError("as it should")

    def wsgi(environ: Environ, start_response: StartResponse) -> NoReturn:
        with spans.tracer.start_as_current_span("request", kind=SpanKind.SERVER):
            raise RuntimeError("as it should")

    raised = run_asgi(ASGIMiddleware(asgi, registry=registry), make_scope()).exception
    (line,) = lines_of(lambda log: log.error("it ended", exc_info=raised))
    assert of(line) == ids(spans.server)  # type: ignore[arg-type]

    spans.clear()
    with pytest.raises(RuntimeError) as caught:
        WSGIMiddleware(wsgi, registry=registry)(make_environ(), lambda *_: lambda data: None)
    (line,) = lines_of(lambda log: log.error("it ended", exc_info=caught.value))
    assert of(line) == ids(spans.server)  # type: ignore[arg-type]


def test_an_exception_of_nobodys_request_has_no_ids(registry: CollectorRegistry) -> None:
    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("without a span")

    async def excluded(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("not measured")

    for middleware in (
        ASGIMiddleware(asgi, registry=registry),
        ASGIMiddleware(excluded, registry=registry, exclude=["/"]),
    ):
        raised = run_asgi(middleware, make_scope()).exception
        assert raised is not None
        (line,) = lines_of(lambda log, raised=raised: log.error("it ended", exc_info=raised))  # type: ignore[misc]
        assert of(line) == {}


def test_a_request_that_is_over_is_not_kept_by_what_its_environ_says(registry: CollectorRegistry) -> None:
    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [b""]

    environ = make_environ()
    run_wsgi(WSGIMiddleware(app, registry=registry), environ)
    gc.collect()
    assert environ[REQUEST]() is None
    (line,) = lines_of(lambda log: log.info("%({exemplars.request}e)s", {"{exemplars.request}e": environ[REQUEST]}))
    assert of(line) == {}
    (line,) = lines_of(lambda log: log.info("%({exemplars.request}e)s", {"{exemplars.request}e": "of somebody else"}))
    assert line["message"] == "of somebody else"


def test_an_access_line_of_gunicorns_has_the_ids_of_its_request_whatever_is_current(
    registry: CollectorRegistry,
) -> None:
    spans = global_spans()

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        with spans.tracer.start_as_current_span("request", kind=SpanKind.SERVER):
            start_response("200 OK", [])
            return [b""]

    def access(log: logging.Logger) -> None:
        log.info("%(r)s", {"r": "GET /", f"{{{REQUEST}}}e": environ[REQUEST]})

    environ = make_environ()
    body = WSGIMiddleware(app, registry=registry)(environ, lambda *_: lambda data: None)
    own = ids(spans.server)  # type: ignore[arg-type]
    (line,) = lines_of(access)
    assert of(line) == own and line["message"] == "GET /"
    with spans.tracer.start_as_current_span("left behind"):
        (line,) = lines_of(access)
    assert of(line) == own
    b"".join(body)


# structlog


def test_structlog_has_them_by_its_processor() -> None:
    made: list[dict[str, Any]] = []

    def keep(_: object, __: str, event: Any) -> NoReturn:
        made.append(dict(event))
        raise structlog.DropEvent

    log = structlog.wrap_logger(None, processors=[add_trace_context, keep], wrapper_class=structlog.BoundLogger)
    with Spans().tracer.start_as_current_span("here") as span:
        log.info("in a span", order=7)
        log.info("of another", trace_id="a job's")
    log.info("in none")
    first, second, third = made
    assert first == {"event": "in a span", "order": 7, **ids(span)}
    assert second == {"event": "of another", "trace_id": "a job's", "span_id": "", "trace_flags": ""}
    assert third == {"event": "in none"}


def test_structlog_formats_records_of_logging_with_their_ids() -> None:
    def formatter() -> logging.Formatter:
        return structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=[add_trace_context],
        )

    kept = Kept(formatter=formatter())
    filtered = Kept(TraceContextFilter(), formatter=formatter())
    with logger(kept, filtered) as log:
        with Spans().tracer.start_as_current_span("here") as span:
            log.info("in a span")
        log.info("in none")
    for lines in (kept.lines, filtered.lines):
        assert lines == [{"event": "in a span", **ids(span)}, {"event": "in none"}]

    made = record()
    TraceContextFilter().filter(made)
    with Spans().tracer.start_as_current_span("of whoever formats it"):
        assert json.loads(formatter().format(made)) == {"event": "hello"}


# Its page of the documents

DOCUMENT: Final = (Path(__file__).resolve().parent.parent / "docs" / "logs.md").read_text()
SNIPPETS: Final = [
    textwrap.dedent(snippet) for snippet in re.findall(r"^ *```python\n(.*?)^ *```", DOCUMENT, re.M | re.S)
]
IN_A_SPAN: Final = """
from opentelemetry import trace

context = trace.SpanContext(0x655E8CB3892059E17A55D0596E76836F, 0x33D2850606EF22F5, False, trace.TraceFlags(1))
with trace.use_span(trace.NonRecordingSpan(context)):
"""


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_an_example_runs_unedited_and_its_lines_have_ids(tmp_path: Path, number: int) -> None:
    snippet = SNIPPETS[number]
    if "logconfig_dict" in snippet:
        snippet += "logging.config.dictConfig(logconfig_dict)\nlogging.getLogger('gunicorn.access').info('hello')\n"
        snippet = "import logging.config\n" + snippet
    if "Flask" in snippet:
        snippet = (
            "import logging\nlogging.basicConfig(level='INFO', format='%(message)s 655e8cb3892059e17a55d0596e76836f')\n"
            + snippet
        )
        snippet += "app.test_client().get('/')\n"
    script = tmp_path / "example.py"
    script.write_text(IN_A_SPAN + textwrap.indent(snippet, "    "))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={"PYTHONPATH": os.pathsep.join(PACKAGES)},
    )
    assert done.returncode == 0, done.stderr
    (line,) = (done.stdout + done.stderr).splitlines()
    assert "655e8cb3892059e17a55d0596e76836f" in line
    if line.startswith("{"):
        assert parse(line)["span_id"] == "33d2850606ef22f5"


def test_the_line_that_is_shown_is_one_of_ours() -> None:
    (shown,) = re.findall(r"^```json\n(.*?)\n```", DOCUMENT, re.M)
    made = record("only %d left", 2, created=1_794_000_000.25, levelname="WARNING", name="shop.orders", product="lamp")
    made.__dict__ |= of(parse(shown))
    assert JSONFormatter(service_name="shop").format(made) == shown


# Servers


INI: Final = """
[loggers]
keys = root
[handlers]
keys = lines
[formatters]
keys = json
[logger_root]
level = INFO
handlers = lines
[handler_lines]
class = StreamHandler
args = (sys.stderr,)
formatter = json
[formatter_json]
class = exemplars.logs.JSONFormatter
"""
UVICORN: Final = ("uvicorn", "--port=0", "--factory", "--log-config=log.json")
GUNICORN: Final = ("gunicorn", "--bind=127.0.0.1:0", "--config=conf.py")
DJANGOS: Final = ("shop access", "django.request access", "django.request access")
# What logs with the ids of /fine, /fail and /nothing.
SERVERS: Final = {
    "uvicorn": ((*UVICORN, "tests.apps.logged:fastapi"), ("shop access", "uvicorn.error access", "access")),
    "uvicorn-ini": (
        (*UVICORN[:-1], "--log-config=log.ini", "tests.apps.logged:fastapi"),
        ("shop access", "uvicorn.error access", "access"),
    ),
    "hypercorn": (
        (
            "hypercorn",
            "--bind=127.0.0.1:0",
            "--log-config=json:log.json",
            "--access-logfile=-",
            "tests.apps.logged:fastapi()",
        ),
        ("shop access", "hypercorn.error access", "access"),
    ),
    "uvicorn-django": ((*UVICORN, "tests.apps.logged:django_asgi"), DJANGOS),
    "gunicorn": ((*GUNICORN, "tests.apps.logged:flask()"), ("shop access", "shop access", "access")),
    "gunicorn-threads": (
        (*GUNICORN, "--threads=2", "tests.apps.logged:flask()"),
        ("shop access", "shop access", "access"),
    ),
    "gunicorn-django": ((*GUNICORN, "tests.apps.logged:django_wsgi()"), DJANGOS),
    "gunicorn-uvicorn": (
        (*GUNICORN, "--worker-class=uvicorn_worker.UvicornWorker", "tests.apps.logged:fastapi()"),
        ("shop access", "uvicorn.error access", "access"),
    ),
}


@pytest.mark.parametrize(("arguments", "wanted"), SERVERS.values(), ids=SERVERS)
def test_every_line_of_a_server_is_json_and_has_the_ids_of_the_request_it_is_about(
    tmp_path: Path, arguments: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    """Access lines too: uvicorn writes them while the span is current, gunicorn when it is over."""
    (tmp_path / "log.json").write_text(json.dumps(logged.CONFIG))
    (tmp_path / "log.ini").write_text(INI)
    (tmp_path / "conf.py").write_text(
        "from tests.apps.logged import CONFIG as logconfig_dict\ncontrol_socket_disable = True\n"
    )
    log, spans = tmp_path / "server.log", tmp_path / "spans"

    def access_line(path: str) -> dict[str, Any] | None:
        found = [line for line in map(parse, whole_lines(log)) if f'"GET {path} ' in line["message"]]
        return found[0] if found else None

    with serving("server", arguments, tmp_path, SPANS=str(spans), OTEL_SERVICE_NAME="shop") as url:
        port = int(urlsplit(url).port or 0)
        paths = {"/fine": 200, "/fail": 500, "/nothing": 404}
        for path, status in paths.items():
            assert fetch(port, path)[0] == status
        eventually(lambda: all(map(access_line, paths)), "access lines", log.read_text)
        eventually(lambda: len(whole_lines(spans)) == 3, "the spans", log.read_text)

    lines = [parse(line) for line in log.read_text().splitlines()]
    assert {line["service.name"] for line in lines} == {"shop"}
    by_route = {f"/{span['route'].strip('/')}": span for span in map(json.loads, whole_lines(spans))}
    for path, loggers in zip(paths, wanted, strict=True):
        span = by_route[path if path != "/nothing" else "/"]
        of_it = [line for line in lines if line.get("trace_id") == span["trace_id"]]
        names = {re.sub(r"\w+\.access", "access", line["logger"]) for line in of_it}
        assert names - {"exemplars"} == set(loggers.split()), of_it
        access = access_line(path)
        assert access is not None
        if logged.TRACES_ITSELF or "fastapi" not in arguments[-1]:  # else it has that of the message's span
            assert access["span_id"] == span["span_id"]
        assert {line.get("exception.type") for line in of_it} - {None} == (
            {"RuntimeError"} if path == "/fail" else set()
        )
    (listening,) = [line for line in lines if "http://127.0.0.1" in line["message"]]
    assert of(listening) == {}


# The shop


@pytest.mark.skipif(not logged.TRACES_ITSELF, reason="the demo needs a FastAPI that traces by itself")
def test_the_shop_logs_what_is_worth_reading_with_the_ids_of_one_trace_in_all_services(tmp_path: Path) -> None:
    """Several workers append to one file; what people read on stderr stays as it was."""
    lines_file = tmp_path / "shop.jsonl"
    common = {"LOG_FILE": str(lines_file), "OTEL_TRACES_EXPORTER": "none", "PATH": os.environ["PATH"]}
    stock = ("gunicorn", "--config=python:exemplars.demo.gunicorn_conf", "--bind=127.0.0.1:0", "--workers=2")
    front = ("uvicorn", "--port=0", "--workers=2", "--no-access-log")

    def logged_about(*words: str) -> list[dict[str, Any]]:
        return [line for line in map(parse, whole_lines(lines_file)) if all(word in line["message"] for word in words)]

    with (
        serving("stock", (*stock, "exemplars.demo.stock:app"), tmp_path, OTEL_SERVICE_NAME="stock", **common) as url,
        serving(
            "front", (*front, "exemplars.demo.front:app"), tmp_path, OTEL_SERVICE_NAME="front", STOCK_URL=url, **common
        ) as front_url,
    ):
        port = int(urlsplit(front_url).port or 0)
        eventually(lambda: logged_about("Application startup complete"), "a worker that listens")
        assert fetch(port, "/products/wardrobe/orders?pieces=5", "POST")[0] == 409
        assert fetch(port, "/products/mirror/orders?pieces=1", "POST")[0] == 500
        assert fetch(port, "/products/unicorn")[0] == 404
        assert fetch(port, f"/search?words={'+'.join(['red'] * 12)}")[0] == 200
        many = [threading.Thread(target=fetch, args=(port, "/products/kettle")) for _ in range(40)]
        for thread in many:
            thread.start()
        for thread in many:
            thread.join(PATIENCE)
        eventually(lambda: logged_about("Exception in ASGI application"), "the failure to be logged")

    (refused,) = logged_about("an order is refused")
    assert (refused["level"], refused["service.name"], refused["product"]) == ("WARNING", "stock", "wardrobe")
    (passed_on,) = logged_about("refused: fewer than 5 of 'wardrobe'")
    assert (passed_on["service.name"], passed_on["trace_id"]) == ("front", refused["trace_id"])
    assert passed_on["span_id"] != refused["span_id"]

    (failed,) = logged_about("Exception on /stock/mirror/reservations")
    (ended,) = logged_about("Exception in ASGI application")
    assert (failed["exception.type"], failed["service.name"]) == ("TypeError", "stock")
    assert (ended["exception.type"], ended["service.name"]) == ("httpx.HTTPStatusError", "front")
    assert failed["trace_id"] == ended["trace_id"] != refused["trace_id"]

    (slow,) = logged_about("slow search")
    assert (slow["level"], slow["words"]) == ("WARNING", 12) and "trace_id" in slow
    looked_up, showed = logged_about("looked up kettle"), logged_about("showed kettle")
    assert len({line["trace_id"] for line in looked_up}) == 40
    assert sorted(line["trace_id"] for line in looked_up) == sorted(line["trace_id"] for line in showed)

    for_people = (tmp_path / "stock.log").read_text()
    (line,) = [line for line in for_people.splitlines() if "an order is refused" in line]
    assert line.endswith(f"trace_id={refused['trace_id']}")
    assert "looked up" not in for_people


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    """Also long ones, and where the file is emptied meanwhile."""
    lines_file = tmp_path / "lines"
    script = (
        "import logging, sys; from exemplars.demo import logs; logs.configure()\n"
        "for _ in range(200): logging.getLogger('exemplars.demo').info(sys.argv[1] * 20_000)"
    )
    environment = {"PYTHONPATH": os.pathsep.join(PACKAGES), "LOG_FILE": str(lines_file)}
    writers = [subprocess.Popen([sys.executable, "-c", script, name], env=environment) for name in "abc"]
    assert [writer.wait(PATIENCE) for writer in writers] == [0, 0, 0]
    found = [parse(line) for line in whole_lines(lines_file)]
    assert {line["message"] for line in found} == {name * 20_000 for name in "abc"}
    assert [sum(line["message"][0] == name for line in found) for name in "abc"] == [200, 200, 200]

    os.truncate(lines_file, 0)
    assert subprocess.run([sys.executable, "-c", script, "d"], env=environment, timeout=PATIENCE).returncode == 0
    assert len(whole_lines(lines_file)) == 200


def whole_lines(file: Path) -> list[str]:
    return file.read_text().split("\n")[:-1] if file.exists() else []

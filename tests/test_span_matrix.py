"""The exemplar is the exported server span, wherever that span is and whatever becomes of the request.

Every way of having a server span that there is, against everything that can end a request. The spans are those of the
real instrumentations, kept by the SDK's own exporter; exemplars are read from the page.
"""

import gc
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import Context
from typing import Any, Final, NamedTuple

import anyio
import fastapi
import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as OTelASGI
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as OTelWSGI
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import NoOpTracerProvider, StatusCode, Tracer, TracerProvider
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from exemplars import ASGIMiddleware, Options, WSGIMiddleware, instrument, render, semconv
from exemplars._types import ASGIApp, Message, Receive, Scope, Send, WSGIApp
from exemplars.span import install_processor
from tests.apps import asgi_scenarios, django_scenarios, wsgi_scenarios
from tests.drivers import BACKENDS, ASGIExchange, Backend, make_environ, make_scope, run_wsgi
from tests.measured import Faults
from tests.otel import RecordOnly, Spans, global_spans

MANY_MARKS: Final = 1e6  # a second: no request here is to go without because others had them


class Setting(NamedTuple):
    """What an arrangement is built from."""

    tracer: Tracer  # the application's own
    provider: TracerProvider | None  # what the instrumentation is given; None: it takes the global one
    options: Options


class Ids(NamedTuple):
    trace_id: int
    span_id: int


def setting(spans: Spans, provider: TracerProvider | None, marks: float = MANY_MARKS) -> Setting:
    return Setting(spans.tracer, provider, {"registry": CollectorRegistry(), "marks_per_second": marks})


def shown(registry: CollectorRegistry) -> list[Ids]:
    """The exemplars on the page."""
    page, _ = render(registry, accept="application/openmetrics-text; version=1.0.0")
    found = []
    families = text_string_to_metric_families(page.decode())  # type: ignore[no-untyped-call]
    for family in families:
        for sample in family.samples:
            if sample.exemplar is not None:
                labels = sample.exemplar.labels
                assert labels.keys() == {semconv.TRACE_ID, semconv.SPAN_ID}
                found.append(Ids(int(labels[semconv.TRACE_ID], 16), int(labels[semconv.SPAN_ID], 16)))
    return found


def measured(registry: CollectorRegistry) -> float:
    """How many requests were."""
    return sum(
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == semconv.DURATION + "_count"
    )


def ids(span: ReadableSpan) -> Ids:
    context = span.get_span_context()
    assert context is not None
    return Ids(context.trace_id, context.span_id)


def marked(spans: Spans) -> list[Ids]:
    return [ids(span) for span in spans.exported if (span.attributes or {}).get(semconv.MARK) == semconv.MARK_VALUE]


def check_shown(spans: Spans, registry: CollectorRegistry) -> None:
    """The server span is the exemplar, and a Collector keeps it: by its mark, which no other bears, or as an error."""
    server = spans.server
    assert shown(registry) == [ids(server)]
    assert marked(spans) == [ids(server)] or (marked(spans) == [] and server.status.status_code is StatusCode.ERROR)


def check_nothing_shown(spans: Spans, registry: CollectorRegistry) -> None:
    assert shown(registry) == []
    assert marked(spans) == []


def check_child_shown(spans: Spans, registry: CollectorRegistry) -> None:
    """The nearest that could be found: a span of the application's in the same trace."""
    (exemplar,) = shown(registry)
    assert marked(spans) == [exemplar]
    assert exemplar in [ids(span) for span in spans.exported if span.name == "child"]
    assert exemplar.trace_id == ids(spans.server).trace_id


def check_failed_send_shown(spans: Spans, registry: CollectorRegistry) -> None:
    """OpenTelemetry's span of sending the response's start: it ended before it could be marked, so only an error."""
    failed = [span for span in spans.exported if span.name.endswith(" send") and not span.status.is_unset]
    assert shown(registry) == [ids(span) for span in failed]
    assert marked(spans) == []


ASGIArrangement = Callable[[Setting], AbstractContextManager[ASGIApp]]
WSGIArrangement = Callable[[Setting], AbstractContextManager[WSGIApp]]


def fastapi_own(setting: Setting) -> AbstractContextManager[ASGIApp]:
    telemetry = {} if setting.provider is None else {"tracer_provider": setting.provider}
    app = asgi_scenarios.fastapi(setting.tracer, telemetry=telemetry)
    return nullcontext(instrument(app, **setting.options))


def otel_outside(make: Callable[[Tracer], ASGIApp]) -> ASGIArrangement:
    def arrange(setting: Setting) -> AbstractContextManager[ASGIApp]:
        ours = ASGIMiddleware(make(setting.tracer), **setting.options)
        return nullcontext(OTelASGI(ours, tracer_provider=setting.provider))

    return arrange


def otel_inside(make: Callable[[Tracer], ASGIApp]) -> ASGIArrangement:
    def arrange(setting: Setting) -> AbstractContextManager[ASGIApp]:
        theirs = OTelASGI(make(setting.tracer), tracer_provider=setting.provider)
        return nullcontext(ASGIMiddleware(theirs, **setting.options))

    return arrange


async def _pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def otel_inside_base(make: Callable[[Tracer], ASGIApp]) -> ASGIArrangement:
    def arrange(setting: Setting) -> AbstractContextManager[ASGIApp]:
        theirs = OTelASGI(make(setting.tracer), tracer_provider=setting.provider)
        return nullcontext(ASGIMiddleware(BaseHTTPMiddleware(theirs, _pass_on), **setting.options))

    return arrange


class InATask:
    """*app* in a task of its own, whose last message is held back until that task has ended.

    As Starlette's ``BaseHTTPMiddleware`` did before it let the application wait for the response's end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ended = anyio.Event()
        error: Exception | None = None
        give, take = anyio.create_memory_object_stream[Message]()

        async def run() -> None:
            nonlocal error
            with give:
                try:
                    await self.app(scope, receive, give.send)
                except Exception as raised:
                    error = raised
            ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            with take:
                async for message in take:
                    if message["type"] == "http.response.body" and not message.get("more_body"):
                        await ended.wait()
                    await send(message)
        if error is not None:
            raise error


def otel_inside_a_task(setting: Setting) -> AbstractContextManager[ASGIApp]:
    theirs = OTelASGI(asgi_scenarios.plain(setting.tracer), tracer_provider=setting.provider)
    return nullcontext(ASGIMiddleware(InATask(theirs), **setting.options))


def fastapi_instrumentor(*, first: bool) -> ASGIArrangement:
    @contextmanager
    def arrange(setting: Setting) -> Iterator[ASGIApp]:
        app = asgi_scenarios.fastapi(setting.tracer)
        if not first:
            instrument(app, **setting.options)
        FastAPIInstrumentor.instrument_app(app, tracer_provider=setting.provider)
        if first:
            instrument(app, **setting.options)
        try:
            yield app
        finally:
            FastAPIInstrumentor.uninstrument_app(app)  # it also changes Starlette's background tasks, of every app

    return arrange


has_own_telemetry = "telemetry" in inspect.signature(fastapi.FastAPI).parameters
ASGI: Final[dict[str, ASGIArrangement]] = {
    **({"FastAPI's own": fastapi_own} if has_own_telemetry else {}),
    "OTel outside": otel_outside(asgi_scenarios.plain),
    "OTel outside Starlette": otel_outside(asgi_scenarios.starlette),
    "OTel inside": otel_inside(asgi_scenarios.plain),
    "OTel inside, Starlette": otel_inside(asgi_scenarios.starlette),
    "OTel inside BaseHTTPMiddleware": otel_inside_base(asgi_scenarios.plain),
    "OTel inside BaseHTTPMiddleware, Starlette": otel_inside_base(asgi_scenarios.starlette),
    "OTel inside a task": otel_inside_a_task,
    "FastAPIInstrumentor, then ours": fastapi_instrumentor(first=True),
    "ours, then FastAPIInstrumentor": fastapi_instrumentor(first=False),
}


def wsgi_otel_outside(make: Callable[[Tracer], WSGIApp]) -> WSGIArrangement:
    def arrange(setting: Setting) -> AbstractContextManager[WSGIApp]:
        ours = WSGIMiddleware(make(setting.tracer), **setting.options)
        return nullcontext(OTelWSGI(ours, tracer_provider=setting.provider))

    return arrange


def wsgi_otel_inside(make: Callable[[Tracer], WSGIApp]) -> WSGIArrangement:
    def arrange(setting: Setting) -> AbstractContextManager[WSGIApp]:
        theirs = OTelWSGI(make(setting.tracer), tracer_provider=setting.provider)
        return nullcontext(WSGIMiddleware(theirs, **setting.options))

    return arrange


def flask_instrumentor(*, first: bool) -> WSGIArrangement:
    def arrange(setting: Setting) -> AbstractContextManager[WSGIApp]:
        app = wsgi_scenarios.flask(setting.tracer)
        if not first:
            instrument(app, **setting.options)
        FlaskInstrumentor.instrument_app(app, tracer_provider=setting.provider)  # type: ignore[no-untyped-call]
        if first:
            instrument(app, **setting.options)
        return nullcontext(app)

    return arrange


WSGI: Final[dict[str, WSGIArrangement]] = {
    "OTel outside": wsgi_otel_outside(wsgi_scenarios.plain),
    "OTel outside, lazy": wsgi_otel_outside(wsgi_scenarios.lazy),
    "OTel outside Flask": wsgi_otel_outside(wsgi_scenarios.flask),
    "OTel inside": wsgi_otel_inside(wsgi_scenarios.plain),
    "OTel inside, lazy": wsgi_otel_inside(wsgi_scenarios.lazy),
    "OTel inside, Flask": wsgi_otel_inside(wsgi_scenarios.flask),
    "FlaskInstrumentor, then ours": flask_instrumentor(first=True),
    "ours, then FlaskInstrumentor": flask_instrumentor(first=False),
}


@contextmanager
def _django(
    setting: Setting, urls: type, handler: Callable[[], Any], *, entry: bool, otel: bool = True
) -> Iterator[Any]:
    """A Django handler with our layer, or with our *entry* alone."""
    entries = ["exemplars.django.Middleware"] if entry else []
    with override_settings(ROOT_URLCONF=urls, MIDDLEWARE=entries, EXEMPLARS=setting.options):
        if otel:
            DjangoInstrumentor().instrument(tracer_provider=setting.provider)
        try:
            app = handler()
            yield app if entry else instrument(app, **setting.options)
        finally:
            if otel:
                DjangoInstrumentor().uninstrument()


def django_asgi(*, entry: bool, otel: bool = True) -> ASGIArrangement:
    return lambda s: _django(s, django_scenarios.async_views(s.tracer), ASGIHandler, entry=entry, otel=otel)


def django_wsgi(*, entry: bool, otel: bool = True) -> WSGIArrangement:
    return lambda s: _django(s, django_scenarios.sync_views(s.tracer), WSGIHandler, entry=entry, otel=otel)


DJANGO_ASGI: Final = {"instrument()": django_asgi(entry=False), "the entry alone": django_asgi(entry=True)}
DJANGO_WSGI: Final = {"instrument()": django_wsgi(entry=False), "the entry alone": django_wsgi(entry=True)}


def ask_asgi(app: ASGIApp, path: str, backend: Backend = "asyncio", headers: tuple[tuple[str, str], ...] = ()) -> None:
    exchange = ASGIExchange()
    exchange.run(app, make_scope(path, headers=headers, exchange=exchange), backend)


def ask_django_asgi(app: ASGIApp, path: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        ask_asgi(app, path, "asyncio", headers)
        if path in ("/raise-in-body", "/leave", "/leave-in-body"):
            # Its handler leaves the request's body open after an error, and OpenTelemetry's the span of a view that was
            # cancelled: both end when they are collected.
            gc.collect()


def ask_wsgi(app: WSGIApp, path: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
    # In a context of its own, as some of OpenTelemetry's leave theirs behind after an error.
    environ = make_environ(path, headers=headers)
    Context().run(run_wsgi, app, environ, leave_after=wsgi_scenarios.LEAVE_AFTER.get(path))


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    faults = Faults()
    yield
    assert faults.seen == {}


@pytest.fixture(params=["global provider", "explicit provider"])
def spans(request: pytest.FixtureRequest) -> Spans:
    """Spans of the global provider, or of one that the instrumentation is given, and that we do not know."""
    found = global_spans()
    install_processor()
    return found if request.param == "global provider" else Spans()


IN_A_TASK: Final = {name for name in ASGI if "BaseHTTPMiddleware" in name or "task" in name}
OTEL_INSIDE: Final = {name for name in ASGI if "inside" in name or "Instrumentor" in name}

# Where the span ended inside us before we could know how the request ends, and without an error to be kept for. In a
# task of its own the span is marked at the response's start, for that very reason.
ENDED_UNMARKED: Final = {(name, "/cancel") for name in OTEL_INSIDE} | {
    (name, "/cancel-in-body") for name in OTEL_INSIDE - IN_A_TASK
}

# Where a span of a provider that we do not know is not current at the response's start.
UNSEEN: Final = {(name, path) for name in IN_A_TASK for path in asgi_scenarios.SCENARIOS} | {
    ("OTel inside", "/raise"),
    ("OTel inside", "/leave"),
}
WSGI_UNSEEN: Final = {("OTel inside", "/raise"), ("OTel inside, lazy", "/raise")}


# Later ones have ended that span before the message is sent; so had they another parameter from then on.
sends_inside_a_span: Final = "exclude_spans" not in inspect.signature(OTelASGI).parameters


def has_child_current(name: str, path: str) -> bool:
    """Where, of a provider that we do not know, another span than the server's is current at the response's start."""
    return path == "/children-in-start" and ("inside" in name or "Instrumentor" in name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("path", asgi_scenarios.SCENARIOS)
@pytest.mark.parametrize("name", ASGI)
def test_asgi(name: str, path: str, backend: Backend, spans: Spans) -> None:
    made = setting(spans, None if spans.is_global else spans.provider)
    with ASGI[name](made) as app:
        ask_asgi(app, path, backend)

    registry = made.options["registry"]
    assert measured(registry) == 1
    if (name, path) in ENDED_UNMARKED or (not spans.is_global and (name, path) in UNSEEN):
        check_nothing_shown(spans, registry)
    elif not spans.is_global and sends_inside_a_span and name in OTEL_INSIDE:
        check_failed_send_shown(spans, registry)
    elif not spans.is_global and has_child_current(name, path):
        check_child_shown(spans, registry)
    else:
        check_shown(spans, registry)


@pytest.mark.parametrize("path", wsgi_scenarios.SCENARIOS)
@pytest.mark.parametrize("name", WSGI)
def test_wsgi(name: str, path: str, spans: Spans) -> None:
    made = setting(spans, None if spans.is_global else spans.provider)
    with WSGI[name](made) as app:
        ask_wsgi(app, path)

    registry = made.options["registry"]
    assert measured(registry) == 1
    if not spans.is_global and (name, path) in WSGI_UNSEEN:
        check_nothing_shown(spans, registry)
    elif not spans.is_global and has_child_current(name, path):
        check_child_shown(spans, registry)
    else:
        check_shown(spans, registry)


@pytest.mark.parametrize("path", django_scenarios.ASGI_SCENARIOS)
@pytest.mark.parametrize("name", DJANGO_ASGI)
def test_django_under_asgi(name: str, path: str, spans: Spans) -> None:
    made = setting(spans, None if spans.is_global else spans.provider)
    with DJANGO_ASGI[name](made) as app:
        ask_django_asgi(app, path)

    assert measured(made.options["registry"]) == 1
    check_shown(spans, made.options["registry"])


@pytest.mark.parametrize("path", django_scenarios.WSGI_SCENARIOS)
@pytest.mark.parametrize("name", DJANGO_WSGI)
def test_django_under_wsgi(name: str, path: str, spans: Spans) -> None:
    made = setting(spans, None if spans.is_global else spans.provider)
    with DJANGO_WSGI[name](made) as app:
        ask_wsgi(app, path)

    assert measured(made.options["registry"]) == 1
    check_shown(spans, made.options["registry"])


@pytest.mark.parametrize("path", ["/ok", "/missing", "/raise", "/children"])
@pytest.mark.parametrize("entry", [False, True], ids=["instrument()", "the entry alone"])
def test_django_under_asgi_with_views_in_threads(path: str, entry: bool, spans: Spans) -> None:
    made = setting(spans, None if spans.is_global else spans.provider)
    with _django(made, django_scenarios.sync_views(made.tracer), ASGIHandler, entry=entry) as app:
        ask_django_asgi(app, path)

    assert measured(made.options["registry"]) == 1
    check_shown(spans, made.options["registry"])


PARENT: Final = Ids(0x0AF7651916CD43DD8448EB211C80319C, 0x00F067AA0BA902B7)


def traceparent(flags: str) -> tuple[tuple[str, str], ...]:
    return (("traceparent", f"00-{PARENT.trace_id:032x}-{PARENT.span_id:016x}-{flags}"),)


class Ask(NamedTuple):
    """An arrangement of any protocol, and how its scenarios are asked for."""

    arrange: Callable[[Setting], AbstractContextManager[Any]]
    ask: Callable[..., None]
    paths: tuple[str, ...]


EVERY: Final = {
    **{f"ASGI: {name}": Ask(arrange, ask_asgi, asgi_scenarios.SCENARIOS) for name, arrange in ASGI.items()},
    **{f"WSGI: {name}": Ask(arrange, ask_wsgi, wsgi_scenarios.SCENARIOS) for name, arrange in WSGI.items()},
    **{
        f"Django, ASGI: {name}": Ask(arrange, ask_django_asgi, django_scenarios.ASGI_SCENARIOS)
        for name, arrange in DJANGO_ASGI.items()
    },
    **{
        f"Django, WSGI: {name}": Ask(arrange, ask_wsgi, django_scenarios.WSGI_SCENARIOS)
        for name, arrange in DJANGO_WSGI.items()
    },
}


# Without marking every sampled span is good enough, so nothing else may hide one that is not.
@pytest.mark.parametrize(
    ("sampler", "headers", "marks"),
    [
        (ALWAYS_OFF, traceparent("01"), 0.0),
        (RecordOnly(), traceparent("01"), 0.0),
        (RecordOnly(), (), MANY_MARKS),
        (ParentBased(ALWAYS_ON), traceparent("00"), 0.0),
    ],
    ids=[
        "never, though the caller did",
        "recorded, not sampled",
        "recorded, not sampled, marking",
        "nor did the caller",
    ],
)
@pytest.mark.parametrize("name", EVERY)
def test_what_is_not_sampled_is_never_shown(
    name: str, sampler: Sampler, headers: tuple[tuple[str, str], ...], marks: float
) -> None:
    spans = global_spans(sampler)
    install_processor()
    for path in EVERY[name].paths:
        made = setting(spans, None, marks)
        with EVERY[name].arrange(made) as app:
            EVERY[name].ask(app, path, headers=headers)

        assert measured(made.options["registry"]) == 1
        check_nothing_shown(spans, made.options["registry"])


@pytest.mark.parametrize("name", EVERY)
def test_what_a_caller_says_of_itself_is_never_shown(name: str) -> None:
    """Without an SDK a remote parent, sampled and valid, is what the instrumentations make current."""
    provider = NoOpTracerProvider()
    for path in EVERY[name].paths:
        made = Setting(
            provider.get_tracer("application"),
            provider,
            {"registry": CollectorRegistry(), "marks_per_second": 0.0},
        )
        with EVERY[name].arrange(made) as app:
            EVERY[name].ask(app, path, headers=traceparent("01"))

        assert measured(made.options["registry"]) == 1
        assert shown(made.options["registry"]) == []


@pytest.mark.parametrize("name", EVERY)
def test_a_caller_s_trace_is_shown_with_the_span_that_is_ours(name: str) -> None:
    spans = global_spans(ParentBased(ALWAYS_OFF))
    install_processor()
    made = setting(spans, None)
    with EVERY[name].arrange(made) as app:
        EVERY[name].ask(app, "/ok", headers=traceparent("01"))

    check_shown(spans, made.options["registry"])
    assert spans.server.parent is not None and spans.server.parent.span_id == PARENT.span_id
    assert ids(spans.server).trace_id == PARENT.trace_id


NO_OTEL: Final = {
    "ASGI": Ask(
        lambda s: nullcontext(ASGIMiddleware(asgi_scenarios.plain(s.tracer), **s.options)),
        ask_asgi,
        asgi_scenarios.SCENARIOS,
    ),
    "Starlette": Ask(
        lambda s: nullcontext(instrument(asgi_scenarios.starlette(s.tracer), **s.options)),
        ask_asgi,
        asgi_scenarios.SCENARIOS,
    ),
    "WSGI": Ask(
        lambda s: nullcontext(WSGIMiddleware(wsgi_scenarios.plain(s.tracer), **s.options)),
        ask_wsgi,
        wsgi_scenarios.SCENARIOS,
    ),
    "Flask": Ask(
        lambda s: nullcontext(instrument(wsgi_scenarios.flask(s.tracer), **s.options)),
        ask_wsgi,
        wsgi_scenarios.SCENARIOS,
    ),
    "Django, ASGI": Ask(django_asgi(entry=False, otel=False), ask_django_asgi, django_scenarios.ASGI_SCENARIOS),
    "Django's entry, ASGI": Ask(django_asgi(entry=True, otel=False), ask_django_asgi, django_scenarios.ASGI_SCENARIOS),
    "Django, WSGI": Ask(django_wsgi(entry=False, otel=False), ask_wsgi, django_scenarios.WSGI_SCENARIOS),
    "Django's entry, WSGI": Ask(django_wsgi(entry=True, otel=False), ask_wsgi, django_scenarios.WSGI_SCENARIOS),
}


@pytest.mark.parametrize("name", NO_OTEL)
def test_without_instrumentation_only_a_span_in_which_the_response_starts_is_shown(name: str, spans: Spans) -> None:
    """The application's own spans: none of them is the request's, but one of them may have sent the response."""
    for path in NO_OTEL[name].paths:
        spans.clear()
        made = setting(spans, None)
        with NO_OTEL[name].arrange(made) as app:
            NO_OTEL[name].ask(app, path, headers=traceparent("01"))

        assert measured(made.options["registry"]) == 1
        if path == "/children-in-start":
            (child,) = [span for span in spans.exported if span.name == "child"]
            assert shown(made.options["registry"]) == marked(spans) == [ids(child)]
        else:
            check_nothing_shown(spans, made.options["registry"])

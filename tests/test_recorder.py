"""What is measured for a request: its metrics, shared or refused, and its labels, bounded and well formed."""

import gc
import re
import weakref
from collections.abc import Iterable
from typing import Any

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry

from exemplars import ASGIMiddleware, WSGIMiddleware, semconv
from exemplars._types import Environ, Receive, Scope, Send, StartResponse
from exemplars.policy import Policy
from exemplars.recorder import MAX_LABEL_LENGTH, Request, content_length, host_of
from exemplars.span import current_cell, leave
from tests.drivers import BACKENDS, Backend, make_environ, make_scope, run_asgi, run_wsgi
from tests.measured import active, endings, family, requests
from tests.otel import Spans


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": int(scope["path"][1:] or 200)})
    await send({"type": "http.response.body", "body": b"hello"})


def answer_wsgi(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


EVERYTHING: dict[str, Any] = {
    "measure": ("active_requests", "request_body_size", "response_body_size", "response_start"),
    "optional_labels": ("server_port",),
    "labels": {"zone": "north"},
}


# --- the metrics ------------------------------------------------------------------------------------------------------


def test_the_metrics_are_those_of_the_conventions(registry: CollectorRegistry) -> None:
    run_asgi(ASGIMiddleware(answer, registry=registry, **EVERYTHING), make_scope())

    described = {
        name: (family(registry, name).type, family(registry, name).unit, bool(family(registry, name).documentation))
        for name in (
            "http_server_request_duration_seconds",
            "http_server_request_body_size_bytes",
            "http_server_response_body_size_bytes",
            "http_response_start_seconds",
            "http_server_active_requests",
        )
    }

    assert list(described.values()) == [
        ("histogram", "seconds", True),
        ("histogram", "bytes", True),
        ("histogram", "bytes", True),
        ("histogram", "seconds", True),
        ("gauge", "", True),
    ]
    (labels,) = requests(registry)
    assert list(labels) == [
        "http_request_method",
        "http_route",
        "http_response_status_code",
        "url_scheme",
        "error_type",
        "server_port",
        "zone",
    ]
    bounds = [s.labels["le"] for s in family(registry, semconv.DURATION).samples if s.name.endswith("_bucket")]
    assert bounds == "0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 +Inf".split()


def test_by_default_two_of_them_are_there_and_the_librarys_own(registry: CollectorRegistry) -> None:
    ASGIMiddleware(answer, registry=registry)

    names = [one.name for one in registry.collect()]
    assert [name for name in names if name.startswith("http")] == [semconv.DURATION, semconv.ACTIVE_REQUESTS]
    assert "exemplars_taken" in names


def test_buckets_are_those_of_the_option_for_seconds_and_powers_for_bytes(registry: CollectorRegistry) -> None:
    run_asgi(ASGIMiddleware(answer, registry=registry, buckets=(0.5, 1), **EVERYTHING), make_scope())

    def bounds(name: str) -> list[str]:
        return [s.labels["le"] for s in family(registry, name).samples if s.name.endswith("_bucket")]

    assert bounds(semconv.DURATION) == bounds(semconv.RESPONSE_START) == ["0.5", "1.0", "+Inf"]
    assert bounds(semconv.REQUEST_BODY_SIZE) == bounds(semconv.RESPONSE_BODY_SIZE)
    assert bounds(semconv.REQUEST_BODY_SIZE)[0::9] == ["256.0", "6.7108864e+07"]


# --- one registry, several middlewares --------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(ASGIMiddleware, WSGIMiddleware), (WSGIMiddleware, ASGIMiddleware)])
def test_middlewares_of_the_same_shape_share_their_metrics(registry: CollectorRegistry, order: tuple[Any, Any]) -> None:
    apps = {ASGIMiddleware: answer, WSGIMiddleware: answer_wsgi}
    one, other = (kind(apps[kind], registry=registry, **EVERYTHING) for kind in order)
    for app in (one, other):
        if isinstance(app, ASGIMiddleware):
            run_asgi(app, make_scope())
        else:
            run_wsgi(app, make_environ())

    assert len(endings(registry)) == 2
    assert active(registry) == 0.0


def test_what_is_no_shape_may_differ(registry: CollectorRegistry) -> None:
    ASGIMiddleware(answer, registry=registry, exclude=["/a"], route=lambda scope: "/a", measure=())
    ASGIMiddleware(answer, registry=registry, exclude=["/b"], route=lambda scope: "/b")
    ASGIMiddleware(answer, registry=registry, measure=("response_start",), buckets=semconv.DURATION_BUCKETS)


@pytest.mark.parametrize(
    "other",
    [
        {"buckets": (1.0,)},
        {"labels": {"tenant": "x"}},
        {"optional_labels": ("server_address",)},
        {"policy": Policy(min_retention=1.0)},
        {"max_series": 5},
        {"marks_per_second": 3.0},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_shape_on_the_same_registry_is_refused_with_the_way_out(
    registry: CollectorRegistry, other: dict[str, Any]
) -> None:
    ASGIMiddleware(answer, registry=registry)

    with pytest.raises(ValueError) as refused:
        WSGIMiddleware(answer_wsgi, registry=registry, **other)

    message = str(refused.value)
    assert message.startswith(f"{semconv.DURATION} is in the registry already with other labels")
    assert "give both middlewares the same options, or each a registry of its own" in message
    ASGIMiddleware(answer, registry=CollectorRegistry(), **other)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (semconv.DURATION, {}),
        (semconv.ACTIVE_REQUESTS, {}),
        (semconv.REQUEST_BODY_SIZE, EVERYTHING),
        (semconv.RESPONSE_BODY_SIZE, EVERYTHING),
        (semconv.RESPONSE_START, EVERYTHING),
    ],
)
@pytest.mark.parametrize("kind", [prometheus_client.Histogram, prometheus_client.Gauge])
def test_a_metric_of_the_same_name_from_elsewhere_is_refused_with_the_way_out(
    registry: CollectorRegistry, kind: Any, name: str, options: dict[str, Any]
) -> None:
    kind(name, "from elsewhere", registry=registry)

    with pytest.raises(ValueError) as refused:
        ASGIMiddleware(answer, registry=registry, **options)

    message = str(refused.value)
    assert message.startswith(f"{name} is in the registry already, and not from us")
    assert "unregister that metric" in message
    assert "a registry of its own" in message


def test_a_name_of_the_librarys_own_metrics_from_elsewhere_is_refused(registry: CollectorRegistry) -> None:
    prometheus_client.Counter("exemplars_taken", "from elsewhere", registry=registry)

    with pytest.raises(ValueError, match="exemplars_taken"):
        ASGIMiddleware(answer, registry=registry)


def test_a_registry_is_let_go_with_its_metrics() -> None:
    registry = CollectorRegistry()
    app = ASGIMiddleware(answer, registry=registry)
    run_asgi(app, make_scope())
    gone = weakref.ref(registry)
    del registry, app
    gc.collect()

    assert gone() is None


# --- labels -----------------------------------------------------------------------------------------------------------


def test_beyond_max_series_the_requests_of_new_label_sets_go_to_one(registry: CollectorRegistry) -> None:
    app = ASGIMiddleware(answer, registry=registry, max_series=3, labels={"path": lambda scope: scope["path"]})
    for status in range(200, 210):
        run_asgi(app, make_scope(f"/{status}"))
    run_asgi(app, make_scope("/200"))

    measured = requests(registry)
    overflow = [labels for labels in measured if labels == {semconv.OVERFLOW: "true"}]
    assert len(measured) == 11
    assert len(overflow) == 7
    assert active(registry) == 0.0


def test_the_gauge_is_bounded_too(registry: CollectorRegistry) -> None:
    app = ASGIMiddleware(answer, registry=registry, max_series=1)
    for method in ("GET", "PUT", "POST", "GET"):
        run_asgi(app, make_scope(method=method))

    labels = [sample.labels for sample in family(registry, semconv.ACTIVE_REQUESTS).samples]
    assert labels == [{semconv.METHOD: "GET", semconv.SCHEME: "http"}, {semconv.OVERFLOW: "true"}]
    assert active(registry) == 0.0


def test_series_of_errors_have_the_first_call_on_marks_and_those_of_leaving_have_not(
    registry: CollectorRegistry,
) -> None:
    app = ASGIMiddleware(answer, registry=registry)
    duration = app._recorder.duration

    def urgent(error_type: str) -> bool:
        return duration.labels("GET", "/", "200", "http", error_type).urgent

    assert urgent("500") and urgent("ValueError") and urgent("incomplete_response")
    assert not urgent("") and not urgent("cancelled") and not urgent("client_disconnected")
    assert duration.labels("GET", "", "", "", "").marks is not None


@given(st.text() | st.from_regex(r"\d{1,25}"))
def test_a_length_is_what_a_header_announces_or_nothing(header: str) -> None:
    length = content_length(header)

    assert length == (int(header) if re.fullmatch(r"[0-9]{1,18}", header) else 0)


def test_a_length_beyond_any_body_is_none() -> None:
    assert content_length("9" * 18) == 10**18 - 1
    assert content_length("9" * 19) == 0


label_characters = re.compile(r"[a-z0-9_.:-]*")


@given(st.text(max_size=40) | st.from_regex(r"(\w+|\[[0-9a-f:]+\])(:\d+)?", fullmatch=True) | st.just("x" * 5000))
def test_a_host_gives_labels_that_are_short_and_plain(header: str) -> None:
    address, port = host_of(header)

    assert label_characters.fullmatch(address)
    assert len(address) <= 253
    assert re.fullmatch(r"[0-9]{0,5}", port)


@given(
    extra=st.text(max_size=600),
    route=st.none() | st.text(max_size=30),
    path=st.text(max_size=30),
    method=st.text(max_size=10),
    scheme=st.text(max_size=10),
)
def test_whatever_comes_the_labels_can_be_on_a_page(
    extra: str, route: str | None, path: str, method: str, scheme: str
) -> None:
    registry = CollectorRegistry()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer({"path": "/"}, receive, send)

    measured = ASGIMiddleware(app, registry=registry, labels={"extra": lambda _: extra}, route=lambda _: route)
    scope = make_scope()
    scope.update(path=path, method=method, scheme=scheme)
    run_asgi(measured, scope)

    (labels,) = requests(registry)
    assert labels[semconv.METHOD] in {*semconv.KNOWN_METHODS, "_OTHER"}
    assert labels[semconv.SCHEME] in {"http", "https", "_OTHER"}
    assert labels[semconv.ROUTE] == (route or "").encode("utf-8", "replace").decode()
    assert labels["extra"] == extra[:MAX_LABEL_LENGTH].encode("utf-8", "replace").decode()


# --- a span that is claimed ahead -------------------------------------------------------------------------------------


def exemplars_of(registry: CollectorRegistry) -> list[tuple[str, str]]:
    """The error type of every series of the duration that shows an exemplar, and its span."""
    return [
        (sample.labels[semconv.ERROR_TYPE], sample.exemplar.labels["span_id"])
        for sample in family(registry, semconv.DURATION).samples
        if sample.exemplar is not None
    ]


def test_a_span_is_claimed_once_for_the_ending_that_is_foreseen_and_shown_at_the_true_one(
    registry: CollectorRegistry,
) -> None:
    recorder = ASGIMiddleware(answer, registry=registry, route=lambda _: "/a", marks_per_second=1e6)._recorder
    tracer = Spans().tracer
    with tracer.start_as_current_span("server", kind=SpanKind.SERVER) as span:
        request = Request(recorder, {}, "GET", "http")
        request.claim_ahead(None, semconv.CLIENT_DISCONNECTED)
        claimed = request.claimed
        request.claim_ahead(None, semconv.CLIENT_DISCONNECTED)
    assert claimed is not None and request.claimed is claimed
    assert not span.is_recording()

    request.respond(200)
    request.finish()
    leave(request.token)

    assert exemplars_of(registry) == [("", f"{claimed.span_id:016x}")]
    assert requests(registry)[0][semconv.ROUTE] == "/a"


def test_what_is_foreseen_of_a_response_that_started_is_its_own_series(registry: CollectorRegistry) -> None:
    recorder = ASGIMiddleware(answer, registry=registry, marks_per_second=1e6)._recorder
    tracer = Spans().tracer
    for foreseen in (None, semconv.CLIENT_DISCONNECTED):
        with tracer.start_as_current_span("server", kind=SpanKind.SERVER):
            request = Request(recorder, {}, "GET", "http")
            request.respond(200)
            request.claim_ahead(200, foreseen)
        request.finish(foreseen)
        leave(request.token)
        assert request.claimed is not None

    assert [error_type for error_type, _ in exemplars_of(registry)] == ["", semconv.CLIENT_DISCONNECTED]


def test_without_a_span_nothing_is_claimed(registry: CollectorRegistry) -> None:
    recorder = ASGIMiddleware(answer, registry=registry, marks_per_second=1e6)._recorder
    request = Request(recorder, {}, "GET", "http")
    request.claim_ahead(200)
    request.finish()
    leave(request.token)

    assert request.claimed is None
    assert exemplars_of(registry) == []


# --- what is left behind ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("raises", [False, True])
def test_an_asgi_request_leaves_nothing_in_the_context(
    registry: CollectorRegistry, backend: Backend, raises: bool
) -> None:
    before = current_cell()
    cells: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        cells.append(current_cell())
        if raises:
            raise LookupError
        await answer(scope, receive, send)

    measured = ASGIMiddleware(app, registry=registry)

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2):
            try:
                await measured(scope, receive, send)
            except LookupError:
                pass
            cells.append(current_cell())

    run_asgi(around, make_scope(), backend)

    first, after, second, last = cells
    assert first is not before and second is not before and first is not second
    assert after is before and last is before


def test_a_wsgi_request_leaves_nothing_in_the_context(registry: CollectorRegistry) -> None:
    before = current_cell()
    seen: list[object] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(current_cell())
        return answer_wsgi(environ, start_response)

    run_wsgi(WSGIMiddleware(app, registry=registry), make_environ())

    assert seen[0] is not before
    assert current_cell() is before


def test_the_application_can_be_exchanged(registry: CollectorRegistry) -> None:
    async def other(scope: Scope, receive: Receive, send: Send) -> None:
        await answer({"path": "/404"}, receive, send)

    measured = ASGIMiddleware(answer, registry=registry)
    measured.app = other
    run_asgi(measured, make_scope())

    assert [ending.status for ending in endings(registry)] == ["404"]

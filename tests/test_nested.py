"""Middleware inside middleware: a request is measured once, whoever meets it first."""

import asyncio
import gc
import subprocess
import sys
import weakref
from collections.abc import Iterable

import pytest
from a2wsgi import ASGIMiddleware as ASGIAsWSGI
from asgiref.wsgi import WsgiToAsgi
from flask import Flask
from prometheus_client import CollectorRegistry, Gauge
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from werkzeug.middleware.proxy_fix import ProxyFix

from exemplars import ASGIMiddleware, WSGIMiddleware, instrument, semconv
from exemplars._types import ASGIApp, Environ, Receive, Scope, Send, StartResponse
from tests.drivers import make_environ, make_scope, run_asgi, run_wsgi


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def starlette() -> Starlette:
    return Starlette(routes=[Route("/", hello)])


def counted(registry: CollectorRegistry) -> float:
    (family,) = [family for family in registry.collect() if family.name == semconv.DURATION]
    return sum(sample.value for sample in family.samples if sample.name.endswith("_count"))


def twice_asgi(registry: CollectorRegistry) -> ASGIApp:
    return ASGIMiddleware(ASGIMiddleware(starlette(), registry=registry), registry=registry)


def added_and_instrumented(registry: CollectorRegistry) -> ASGIApp:
    app = starlette()
    app.add_middleware(ASGIMiddleware, registry=registry)
    return instrument(app, registry=registry)


def around_another(registry: CollectorRegistry) -> ASGIApp:
    return instrument(GZipMiddleware(instrument(starlette(), registry=registry)), metrics_path=None, registry=registry)


def mounted(registry: CollectorRegistry) -> ASGIApp:
    inner = instrument(starlette(), registry=registry)
    return instrument(Starlette(routes=[Mount("/", inner)]), registry=registry)


@pytest.mark.parametrize("nest", [twice_asgi, added_and_instrumented, around_another, mounted])
def test_a_request_is_measured_once_whatever_is_inside(registry: CollectorRegistry, nest: object) -> None:
    app = nest(registry)  # type: ignore[operator]
    for _ in range(2):
        assert run_asgi(app, make_scope("/")).status == 200
    assert counted(registry) == 2


def test_a_wsgi_request_is_measured_once_whatever_is_inside(registry: CollectorRegistry) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"hello"]

    nested = WSGIMiddleware(WSGIMiddleware(app, registry=registry), registry=registry)
    environ = make_environ()
    for _ in range(2):
        run_wsgi(nested, environ)
    assert counted(registry) == 2
    assert not any(key.startswith("exemplars.measured") for key in environ)


def test_two_registries_are_two_measurements() -> None:
    outer, inner = CollectorRegistry(), CollectorRegistry()
    run_asgi(ASGIMiddleware(ASGIMiddleware(starlette(), registry=inner), registry=outer), make_scope("/"))
    assert counted(outer) == counted(inner) == 1


def test_what_the_outer_one_excludes_the_inner_one_does_not_count(registry: CollectorRegistry) -> None:
    inner = ASGIMiddleware(starlette(), registry=registry)
    run_asgi(ASGIMiddleware(inner, registry=registry, exclude=["/"]), make_scope("/"))
    assert counted(registry) == 0


def test_asgiref_takes_our_send_for_a_coroutine_function(registry: CollectorRegistry) -> None:
    """It warns of any other, which is an error here, as in many a test suite."""
    app = Flask(__name__)
    app.add_url_rule("/", view_func=lambda: "hello")
    as_asgi: ASGIApp = WsgiToAsgi(app)  # type: ignore[no-untyped-call]
    assert run_asgi(ASGIMiddleware(as_asgi, registry=registry), make_scope("/")).status == 200
    assert counted(registry) == 1


def test_an_asgi_application_inside_wsgi_is_measured_once(registry: CollectorRegistry) -> None:
    inner = ASGIAsWSGI(ASGIMiddleware(starlette(), registry=registry))  # type: ignore[arg-type]
    assert run_wsgi(inner, make_environ("/")).body == b"hello"  # type: ignore[arg-type]
    assert counted(registry) == 1


def test_a_task_that_outlives_its_request_does_not_keep_it(registry: CollectorRegistry) -> None:
    class Kept(dict[str, object]):
        """A scope that tells when it has gone."""

    tasks: list[asyncio.Task[None]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(3600)))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def main() -> None:
        measured = ASGIMiddleware(app, registry=registry)
        scope = Kept(make_scope("/"))
        gone = weakref.ref(scope)

        async def receive() -> dict[str, object]:
            return {"type": "http.disconnect"}

        async def send(message: object) -> None:
            pass

        await measured(scope, receive, send)
        del scope
        gc.collect()
        assert gone() is None
        tasks[0].cancel()

    asyncio.run(main())


def test_a_construction_that_fails_leaves_nothing_in_the_registry(registry: CollectorRegistry) -> None:
    taken = Gauge(semconv.ACTIVE_REQUESTS, "Theirs.", registry=registry)
    with pytest.raises(ValueError, match="not from us"):
        ASGIMiddleware(starlette(), registry=registry, buckets=(1.0,))
    registry.unregister(taken)
    ASGIMiddleware(starlette(), registry=registry)  # with other buckets: none are left from before


def test_a_route_at_the_metrics_path_is_found_inside_a_wrapper(registry: CollectorRegistry) -> None:
    app = Flask(__name__)
    app.add_url_rule("/metrics", view_func=lambda: "mine")
    with pytest.raises(ValueError, match="/metrics"):
        instrument(ProxyFix(app), registry=registry)


def test_a_series_is_made_when_a_request_ends_not_when_it_starts(registry: CollectorRegistry) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        raise LookupError

    run_asgi(ASGIMiddleware(app, registry=registry), make_scope("/"))
    (family,) = [family for family in registry.collect() if family.name == semconv.DURATION]
    counts = [sample for sample in family.samples if sample.name.endswith("_count")]
    assert [(sample.labels[semconv.ERROR_TYPE], sample.value) for sample in counts] == [("LookupError", 1)]


def test_without_a_provider_the_environment_is_not_read_at_each_request(registry: CollectorRegistry) -> None:
    """OpenTelemetry's own look-up does that. In a process of its own, as a provider stays."""
    program = """
import os
from prometheus_client import CollectorRegistry
from exemplars import ASGIMiddleware
from tests.drivers import make_scope, run_asgi
from opentelemetry import trace

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})

calls = []
theirs = trace.get_tracer_provider
trace.get_tracer_provider = lambda: calls.append(1) or theirs()
measured = ASGIMiddleware(app, registry=CollectorRegistry())
for _ in range(50):
    run_asgi(measured, make_scope("/"))
assert len(calls) == 1, len(calls)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

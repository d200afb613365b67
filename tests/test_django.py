"""Django's MIDDLEWARE entry: what it adds inside our layer, and what it sees alone."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import include, path
from prometheus_client import CollectorRegistry

import tests.apps.django_project  # noqa: F401  # the settings, before all that reads them
from exemplars import instrument, semconv
from tests.drivers import make_environ, make_scope, run_asgi, run_wsgi
from tests.measured import Ending, Faults, active, endings, requests

ENTRY = "exemplars.django.Middleware"


class Boom(Exception):
    pass


def stream(request: Any) -> StreamingHttpResponse:
    def parts() -> Iterator[bytes]:
        yield b"a"

    return StreamingHttpResponse(parts(), headers={"ETag": '"1"'})


def fail(request: Any) -> HttpResponse:
    raise Boom


class Urls:
    urlpatterns = [
        path("health", lambda request: HttpResponse("well")),
        path("api/", include([path("items/<int:item>/", lambda request, item: HttpResponse("here"))])),
        path("stream", stream),
        path("fail", fail),
    ]


@pytest.fixture(autouse=True)
def project(registry: CollectorRegistry) -> Iterator[None]:
    with override_settings(ROOT_URLCONF=Urls, MIDDLEWARE=[], EXEMPLARS={"registry": registry}):
        yield


def routes(registry: CollectorRegistry) -> list[str]:
    return [labels[semconv.ROUTE] for labels in requests(registry)]


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_instrument_knows_the_whole_route(registry: CollectorRegistry, interface: str) -> None:
    if interface == "wsgi":
        run_wsgi(instrument(WSGIHandler(), registry=registry), make_environ("/api/items/1/"))
    else:
        run_asgi(instrument(ASGIHandler(), registry=registry), make_scope("/api/items/1/"))
    assert routes(registry) == ["api/items/<int:item>/"]


def test_a_view_that_raises_keeps_its_route_where_django_passes_the_exception_on(registry: CollectorRegistry) -> None:
    with override_settings(DEBUG_PROPAGATE_EXCEPTIONS=True):
        result = run_wsgi(instrument(WSGIHandler(), registry=registry), make_environ("/fail"))
    assert isinstance(result.exception, Boom)
    assert endings(registry) == [Ending("500", "Boom")]
    assert routes(registry) == ["fail"]


def test_what_the_layer_around_excludes_its_entry_does_not_measure(registry: CollectorRegistry) -> None:
    seen = Faults()
    app = instrument(WSGIHandler(), registry=registry, exclude=["/health"], labels={"app": "a"})
    run_wsgi(app, make_environ("/health"))
    run_wsgi(app, make_environ("/api/items/1/"))
    assert routes(registry) == ["api/items/<int:item>/"]
    assert seen.seen == {}


def test_a_bad_option_leaves_djangos_settings_as_they_are(registry: CollectorRegistry) -> None:
    from django.conf import settings

    with pytest.raises(ValueError, match="buckets"):
        instrument(WSGIHandler(), registry=registry, buckets=())
    assert ENTRY not in settings.MIDDLEWARE


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_the_entry_alone_measures(registry: CollectorRegistry, interface: str) -> None:
    with override_settings(MIDDLEWARE=[ENTRY]):
        for url in ("/api/items/1/", "/nowhere"):
            if interface == "wsgi":
                run_wsgi(WSGIHandler(), make_environ(url))
            else:
                run_asgi(ASGIHandler(), make_scope(url))
    assert sorted(routes(registry)) == ["", "api/items/<int:item>/"]
    assert sorted(endings(registry)) == [Ending("200", ""), Ending("404", "")]
    assert active(registry) == 0.0


def test_a_streamed_response_that_another_replaces_does_not_stay_active(registry: CollectorRegistry) -> None:
    """Django drops it unclosed, as its ConditionalGetMiddleware does for one that the client has already."""
    entries = ["django.middleware.http.ConditionalGetMiddleware", ENTRY]
    with override_settings(MIDDLEWARE=entries):
        environ = make_environ("/stream") | {"HTTP_IF_NONE_MATCH": '"1"'}
        result = run_wsgi(WSGIHandler(), environ)
        gc.collect()
    assert result.status is not None and result.status.startswith("304")
    assert endings(registry) == [Ending("200", "")]
    assert active(registry) == 0.0

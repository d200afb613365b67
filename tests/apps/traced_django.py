"""Django, traced by OpenTelemetry's instrumentation, for either kind of server: `wsgi()` and `asgi()` make the app."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import include, path
from opentelemetry.instrumentation.django import DjangoInstrumentor

from exemplars import instrument
from tests.apps import traced


def item(request: HttpRequest, item: int) -> HttpResponse:
    return HttpResponse(str(item))


def slow(request: HttpRequest) -> HttpResponse:
    time.sleep(traced.SLOW)
    return HttpResponse()


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        for part in "abc":
            time.sleep(0.002)
            yield part

    async def async_parts() -> AsyncIterator[str]:
        for part in "abc":
            await asyncio.sleep(0.002)
            yield part

    return StreamingHttpResponse(async_parts() if hasattr(request, "scope") else parts())


def fail(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("as it should")


items = [path("<int:item>", item)]
urlpatterns = [path("items/", include(items)), path("slow", slow), path("stream", stream), path("fail", fail)]

settings.configure(ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None, MIDDLEWARE=[], ROOT_URLCONF=__name__, SECRET_KEY="not one")
django.setup()


def wsgi() -> Any:
    traced.configure()
    DjangoInstrumentor().instrument()
    return instrument(get_wsgi_application(), policy=traced.POLICY)


def asgi() -> Any:
    traced.configure()
    DjangoInstrumentor().instrument()
    return instrument(get_asgi_application(), policy=traced.POLICY)

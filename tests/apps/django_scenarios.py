"""What can become of a request, as views of Django, sync for WSGI and async for ASGI. Scenarios are their paths."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import django
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from opentelemetry.trace import Tracer

import tests.apps.django_project  # noqa: F401  # the settings, before all that reads them

WSGI_SCENARIOS: Final = (
    "/ok",
    "/missing",
    "/stream",
    "/raise",
    "/raise-in-body",
    "/leave-in-body",
    "/background",
    "/children",
)
# What does not exist: a request that the server cancels. Django's handler cancels a view for a client that leaves, from
# 5.0 on; of its own cancellation it tells neither views nor bodies.
ASGI_SCENARIOS: Final = (
    (*WSGI_SCENARIOS, "/leave")
    if django.VERSION >= (5, 0)
    else tuple(path for path in WSGI_SCENARIOS if path != "/leave-in-body")
)


class Boom(Exception):
    pass


class _Work:
    """A resource that a response closes when it is sent, which is what Django has for a background task."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def close(self) -> None:
        with self._tracer.start_as_current_span("background"):
            pass


def sync_views(tracer: Tracer) -> type:
    """An URL configuration for WSGI."""

    def ok(request: Any) -> HttpResponse:
        return HttpResponse("ok")

    def stream(request: Any) -> HttpResponse:
        def parts() -> Iterator[str]:
            yield "a"
            with tracer.start_as_current_span("part"):
                yield "b"

        return StreamingHttpResponse(parts())

    def fail(request: Any) -> HttpResponse:
        raise Boom

    def fail_in_body(request: Any) -> HttpResponse:
        def parts() -> Iterator[str]:
            yield "a"
            raise Boom

        return StreamingHttpResponse(parts())

    def background(request: Any) -> HttpResponse:
        response = HttpResponse("ok")
        response._resource_closers.append(_Work(tracer).close)
        return response

    def children(request: Any) -> HttpResponse:
        with tracer.start_as_current_span("child"), tracer.start_as_current_span("grandchild"):
            return HttpResponse("ok")

    return _urls(
        {
            "ok": ok,
            "stream": stream,
            "raise": fail,
            "raise-in-body": fail_in_body,
            "leave-in-body": stream,
            "background": background,
            "children": children,
        }
    )


def async_views(tracer: Tracer) -> type:
    """An URL configuration for ASGI."""

    async def ok(request: Any) -> HttpResponse:
        return HttpResponse("ok")

    async def stream(request: Any) -> HttpResponse:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            with tracer.start_as_current_span("part"):
                yield "b"

        return StreamingHttpResponse(parts())

    async def fail(request: Any) -> HttpResponse:
        raise Boom

    async def fail_in_body(request: Any) -> HttpResponse:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            raise Boom

        return StreamingHttpResponse(parts())

    async def leave(request: Any) -> HttpResponse:
        request.scope["exchange"].disconnect()
        await asyncio.Event().wait()
        raise AssertionError

    async def leave_in_body(request: Any) -> HttpResponse:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            request.scope["exchange"].disconnect()
            await asyncio.Event().wait()

        return StreamingHttpResponse(parts())

    async def background(request: Any) -> HttpResponse:
        response = HttpResponse("ok")
        response._resource_closers.append(_Work(tracer).close)
        return response

    async def children(request: Any) -> HttpResponse:
        with tracer.start_as_current_span("child"), tracer.start_as_current_span("grandchild"):
            return HttpResponse("ok")

    return _urls(
        {
            "ok": ok,
            "stream": stream,
            "raise": fail,
            "raise-in-body": fail_in_body,
            "leave": leave,
            "leave-in-body": leave_in_body,
            "background": background,
            "children": children,
        }
    )


def _urls(views: dict[str, Callable[[Any], Any]]) -> type:
    class Urls:
        urlpatterns = [path(route, view) for route, view in views.items()]

    return Urls

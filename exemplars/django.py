"""A MIDDLEWARE entry for Django, sync and async."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from exemplars import asgi, faults, routes, wsgi
from exemplars.options import resolve
from exemplars.recorder import MEASURED, Recorder, Request, content_length
from exemplars.span import current_cell, leave


class Middleware:
    """Measure Django's requests, at any position in ``MIDDLEWARE``.

    Alone it measures what passes it: each request until its response is closed (a streamed one) or handed on (any
    other), with the options of ``settings.EXEMPLARS``, a mapping like `exemplars.Options`. Inside our own ASGI or WSGI
    middleware it only hands over what cannot be seen from there: the route, and the span while it still records.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        from asgiref.sync import iscoroutinefunction, markcoroutinefunction
        from django.conf import settings

        self.get_response = get_response
        self._asynchronous = iscoroutinefunction(get_response)
        if self._asynchronous:
            markcoroutinefunction(self)
        self._options = resolve(getattr(settings, "EXEMPLARS", {}))
        self._recorders: dict[bool, Recorder] = {}

    def __call__(self, request: Any) -> Any:
        if self._asynchronous:
            return self._call_async(request)
        outer, measured = self._enter(request)
        try:
            response = self.get_response(request)
        except BaseException as error:
            self._raised(measured, error)
            raise
        self._leave(request, response, outer, measured)
        return response

    async def _call_async(self, request: Any) -> Any:
        outer, measured = self._enter(request)
        try:
            response = await self.get_response(request)
        except BaseException as error:
            self._raised(measured, error)
            raise
        self._leave(request, response, outer, measured)
        return response

    @property
    def process_view(self) -> Callable[..., Any]:
        """Django's hook before the view: the route is handed over there, as the view may raise or never come back."""
        # Django would run one that is no coroutine function in a thread.
        return _hand_over_route_async if self._asynchronous else _hand_over_route

    def _enter(self, request: Any) -> tuple[Request | None, Request | None]:
        """The request as our middleware around measures it, if there is one; else as it is measured here, if it is."""
        cell = current_cell()
        if isinstance(cell, Request) and not cell.done:
            if cell.server_span is None:
                span = trace.get_current_span()
                if getattr(span, "kind", None) is SpanKind.SERVER:
                    cell.server_span = span  # of a provider that does not show it to us
            return cell, None
        try:
            carrier = _carrier(request)
            if MEASURED in carrier:
                return None, None  # excluded there
            asynchronous = hasattr(request, "scope")
            recorder = self._recorders.get(asynchronous)
            if recorder is None:
                protocol = asgi if asynchronous else wsgi
                route = routes.asgi if asynchronous else routes.wsgi
                recorder = Recorder(self._options, route, protocol.OPTIONAL_READERS)
                self._recorders[asynchronous] = recorder
            if recorder.excludes(request.path_info):
                return None, None
            scheme = carrier.get("scheme", "http") if asynchronous else carrier.get("wsgi.url_scheme", "")
            measured = Request(recorder, carrier, request.method, scheme)
            measured.request_bytes = content_length(request.META.get("CONTENT_LENGTH") or "")
            return None, measured
        except Exception as error:
            faults.note("hook", error)
            return None, None

    def _leave(self, request: Any, response: Any, outer: Request | None, measured: Request | None) -> None:
        try:
            if outer is not None:
                # Where something in between copied the scope, that of the outermost has no route yet.
                outer.carrier[routes.KEY] = _carrier(request).setdefault(routes.KEY, "")
                outer.claim_ahead(response.status_code)
            elif measured is not None:
                measured.carrier.setdefault(routes.KEY, "")
                measured.respond(response.status_code)
                if response.streaming:
                    measured.claim_ahead(response.status_code)
                    _watch(response, measured)
                else:
                    measured.response_bytes = len(response.content)
                    measured.finish()
        except Exception as error:
            faults.note("hook", error)
            if measured is not None:
                measured.finish()
        finally:
            if measured is not None:
                leave(measured.token)

    def _raised(self, measured: Request | None, error: BaseException) -> None:
        if measured is not None:
            measured.fail(error, sent=False)
            leave(measured.token)


def _watch(response: Any, measured: Request) -> None:
    """Let *measured* end as the body of *response* does: it is not always closed, as when it raises under ASGI."""
    if getattr(response, "file_to_stream", None) is not None and "wsgi.file_wrapper" in measured.carrier:
        # Left as it is, so that the server can send the file by itself.
        measured.response_bytes = content_length(response.get("Content-Length", ""))
        response._resource_closers.append(measured.finish)
        response._exemplars = _Dropped(measured)
        return
    parts: Any = _async_parts if response.is_async else _parts
    response.streaming_content = parts(response.streaming_content, measured)
    response._resource_closers.append(measured.close)
    response._exemplars = _Dropped(measured)


class _Dropped:
    """Ends a request whose response goes away with this: Django drops one that another takes the place of, unclosed."""

    def __init__(self, measured: Request) -> None:
        self._measured = measured

    def __del__(self) -> None:
        self._measured.finish()


def _hand_over_route(request: Any, view: Any, args: Any, kwargs: Any) -> None:
    try:
        _carrier(request)[routes.KEY] = request.resolver_match.route
    except Exception as error:
        faults.note("hook", error)


async def _hand_over_route_async(request: Any, view: Any, args: Any, kwargs: Any) -> None:
    _hand_over_route(request, view, args, kwargs)


def _carrier(request: Any) -> Any:
    """The scope or environ that Django's *request* was made of."""
    scope = getattr(request, "scope", None)
    return scope if scope is not None else request.environ


def _parts(parts: Iterator[bytes], measured: Request) -> Iterator[bytes]:
    try:
        for part in parts:
            measured.response_bytes += len(part)
            yield part
    except GeneratorExit:
        measured.close()
        raise
    except BaseException as error:
        measured.fail(error, sent=True)
        raise
    measured.finish()


async def _async_parts(parts: AsyncIterator[bytes], measured: Request) -> AsyncIterator[bytes]:
    try:
        async for part in parts:
            measured.response_bytes += len(part)
            yield part
    except GeneratorExit:
        measured.close()
        raise
    except BaseException as error:
        measured.fail(error, sent=True)
        raise
    measured.finish()

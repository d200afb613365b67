"""The one line: an application measured, its metrics beside it."""

import inspect
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, Unpack, cast

from prometheus_client import REGISTRY

from exemplars._types import ASGIApp, Environ, Receive, Scope, Send, StartResponse, WSGIApp
from exemplars.asgi import ASGIMiddleware, path_of
from exemplars.endpoint import make_asgi_app, make_wsgi_app
from exemplars.options import Options
from exemplars.routes import templates
from exemplars.wsgi import WSGIMiddleware

AppT = TypeVar("AppT", bound=Callable[..., Any])

_log = logging.getLogger("exemplars")


def instrument(app: AppT, *, metrics_path: str | None = "/metrics", **options: Unpack[Options]) -> AppT:
    """Measure *app* and answer for its metrics at *metrics_path* (``None``: nowhere). Returns what to serve.

    For Starlette, FastAPI and Flask that is *app* itself, with our layer outside the framework's own error handling;
    for everything else a wrapper, so always use what is returned. Django's handlers also get our ``MIDDLEWARE`` entry.
    Scrapes are not measured. The path is compared without ``root_path``; where the application has a catch-all route
    there, our endpoint comes first, and the log says so. Options: see `exemplars.Options`.

    Raises ``ValueError`` for an application that has started or is instrumented already, for a path at which it has a
    route of its own and for bad options, ``TypeError`` for an unknown option and for what is no application.
    """
    if metrics_path is not None and (not isinstance(metrics_path, str) or not metrics_path.startswith("/")):
        raise ValueError(f"metrics_path is {metrics_path!r}: give a path such as '/metrics', or None for no endpoint")
    wrapped: Any
    target: Any = app
    if _is_a(app, "starlette.applications", "Starlette"):
        if hasattr(app, "__exemplars_layer__"):
            raise _already(app)
        _refuse_started(app, target.middleware_stack is not None)
        _check_path(app, metrics_path)
        _measure_starlette(app, metrics_path, options)
        wrapped = app
    elif _is_a(app, "flask.app", "Flask"):
        _refuse_started(app, target._got_first_request)
        if isinstance(target.wsgi_app, _WSGILayer):
            raise _already(app)
        _check_path(app, metrics_path)
        target.wsgi_app = _WSGILayer(target.wsgi_app, metrics_path, options)
        wrapped = app
    elif isinstance(app, (ASGIMiddleware, WSGIMiddleware, _WSGILayer)) or hasattr(app, "__exemplars_layer__"):
        raise _already(app)
    else:
        asgi = _speaks_asgi(app)
        _check_path(app, metrics_path)
        if asgi:
            wrapped = _asgi_callable(_ASGILayer(cast(ASGIApp, app), metrics_path, options))
        else:
            wrapped = _WSGILayer(cast(WSGIApp, app), metrics_path, options)
        if _is_a(app, "django.core.handlers.base", "BaseHandler"):
            _add_django_middleware(app, asgi)
    return cast(AppT, wrapped)


class _ASGILayer:
    """*app* measured, except at *metrics_path*, where the endpoint answers."""

    def __init__(self, app: ASGIApp, metrics_path: str | None, options: Options) -> None:
        self.measured = ASGIMiddleware(app, **options)
        self._metrics = make_asgi_app(options.get("registry", REGISTRY))
        self._metrics_path = metrics_path

    @property
    def app(self) -> ASGIApp:
        """What is inside, where FastAPI looks for OpenTelemetry's middleware before it starts a span of its own."""
        return self.measured

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        app: ASGIApp = self.measured
        path = self._metrics_path
        # The first two tell almost every request at no cost.
        if path is not None and scope.get("path", "").endswith(path) and scope["type"] == "http":
            if path_of(scope) == path:
                app = self._metrics
        return app(scope, receive, send)


class _WSGILayer:
    """*app* measured, except at *metrics_path*, where the endpoint answers."""

    def __init__(self, app: WSGIApp, metrics_path: str | None, options: Options) -> None:
        self.measured = WSGIMiddleware(app, **options)
        self._metrics = make_wsgi_app(options.get("registry", REGISTRY))
        self._metrics_path = metrics_path

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        if self._metrics_path is not None and environ.get("PATH_INFO") == self._metrics_path:
            return self._metrics(environ, start_response)
        return self.measured(environ, start_response)


def _asgi_callable(layer: _ASGILayer) -> ASGIApp:
    """*layer* as a coroutine function, by which servers tell ASGI 3 from ASGI 2 and WSGI."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await layer(scope, receive, send)

    app.__exemplars_layer__ = layer  # type: ignore[attr-defined]
    return app


def _measure_starlette(app: Any, metrics_path: str | None, options: Options) -> None:
    """Put our layer around whatever becomes the middleware stack of *app*.

    Not by replacing ``build_middleware_stack``: OpenTelemetry's FastAPI instrumentation does that too, and takes apart
    what it finds there; coming after us it would find our layer and give up. A property of a subclass sees the stack
    that is used in the end, whoever built it.
    """
    framework = type(app)
    layer = _ASGILayer(app.router, metrics_path, options)

    def get_stack(self: Any) -> Any:
        return self.__dict__.get("middleware_stack")

    def set_stack(self: Any, stack: Any) -> None:
        if stack is not None and stack is not layer:
            layer.measured.app = stack
            stack = layer
        self.__dict__["middleware_stack"] = stack

    body = {"__exemplars_layer__": layer, "middleware_stack": property(get_stack, set_stack)}
    for name in ("__module__", "__qualname__", "__doc__"):
        body[name] = getattr(framework, name)
    app.__class__ = type(framework.__name__, (framework,), body)


def _add_django_middleware(handler: Any, asgi: bool) -> None:
    """Give *handler* our MIDDLEWARE entry: inside OpenTelemetry's, which ends the span, and outside all others."""
    from django.conf import settings

    entry = "exemplars.django.Middleware"
    entries = list(settings.MIDDLEWARE)
    if entry not in entries:
        otel = [i for i, name in enumerate(entries) if name.startswith("opentelemetry.")]
        entries.insert(otel[-1] + 1 if otel else 0, entry)
        settings.MIDDLEWARE = entries
        handler.load_middleware(is_async=asgi)


def _speaks_asgi(app: Any) -> bool:
    """Tell ASGI from WSGI. Raises ``TypeError`` for what is neither."""
    if not callable(app):
        raise TypeError(f"{app!r} is no application: it cannot be called")
    # To call a class is to make an object of it, whatever that does when it is called.
    if inspect.iscoroutinefunction(app) or (not isinstance(app, type) and inspect.iscoroutinefunction(app.__call__)):
        return True
    try:
        parameters = list(inspect.signature(app).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters if p.kind in positional and p.default is p.empty]
    if len(required) in (2, 3) and all(p.kind is not p.VAR_POSITIONAL for p in parameters):
        return len(required) == 3
    raise TypeError(
        f"{app!r} cannot be told to be an ASGI 3 or a WSGI application by its parameters: "
        "wrap it in ASGIMiddleware or WSGIMiddleware and serve make_asgi_app() or make_wsgi_app() beside it"
    )


def _check_path(app: Any, metrics_path: str | None) -> None:
    """Raise ``ValueError`` where *app* has a route at *metrics_path*; tell of a catch-all that may match it."""
    if metrics_path is None:
        return
    taken = templates(app)
    if metrics_path in taken:
        raise ValueError(
            f"{app!r} has a route of its own at {metrics_path!r}: give metrics_path=… another path, or None and serve "
            "make_asgi_app() or start_http_server() elsewhere"
        )
    for template in taken:
        if (":path}" in template or "<path:" in template) and metrics_path.startswith(re.split("[{<]", template)[0]):
            _log.info("%s is answered by exemplars; %s, which may match it too, is not asked", metrics_path, template)


def _refuse_started(app: Any, started: bool) -> None:
    if started:
        raise ValueError(f"{app!r} has started already: call instrument() before its first request")


def _already(app: Any) -> ValueError:
    return ValueError(f"{app!r} is instrumented already: call instrument() once, and not beside the middleware")


def _is_a(app: Any, module: str, name: str) -> bool:
    """Tell whether *app* is of a framework's class, without importing the framework."""
    return any(cls.__module__ == module and cls.__name__ == name for cls in type(app).__mro__)

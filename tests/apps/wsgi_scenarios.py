"""What can become of a request, as applications: plain WSGI, eager and lazy, and Flask. `SCENARIOS` are their paths."""

from collections.abc import Iterable, Iterator
from typing import Final

from flask import Flask, Response
from opentelemetry.trace import Tracer

from exemplars._types import Environ, StartResponse, WSGIApp

# What does not exist: a request cancelled, or left before its start; a server learns of either when it sends a part.
SCENARIOS: Final = (
    "/ok",
    "/missing",
    "/stream",
    "/raise",
    "/raise-in-body",
    "/leave-in-body",
    "/background",
    "/children",
    "/children-in-start",
)

# The client is gone after so many parts.
LEAVE_AFTER: Final = {"/leave-in-body": 1}


class Boom(Exception):
    pass


class _Closing:
    """A body with work to do once it is sent, which is what WSGI has for a background task."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def __iter__(self) -> Iterator[bytes]:
        yield b"ok"

    def close(self) -> None:
        with self._tracer.start_as_current_span("background"):
            pass


def plain(tracer: Tracer) -> WSGIApp:
    def parts() -> Iterator[bytes]:
        yield b"a"
        with tracer.start_as_current_span("part"):
            yield b"b"

    def failing() -> Iterator[bytes]:
        yield b"a"
        raise Boom

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/ok":
                start_response("200 OK", [])
                return [b"ok"]
            case "/stream" | "/leave-in-body":
                start_response("200 OK", [])
                return parts()
            case "/raise":
                raise Boom
            case "/raise-in-body":
                start_response("200 OK", [])
                return failing()
            case "/background":
                start_response("200 OK", [])
                return _Closing(tracer)
            case "/children":
                with tracer.start_as_current_span("child"), tracer.start_as_current_span("grandchild"):
                    pass
                start_response("200 OK", [])
                return [b"ok"]
            case "/children-in-start":
                with tracer.start_as_current_span("child"):
                    start_response("200 OK", [])
                return [b"ok"]
            case _:
                start_response("404 Not Found", [])
                return [b"not found"]

    return app


def lazy(tracer: Tracer) -> WSGIApp:
    """The same, but nothing happens before the first part is asked for."""
    eager = plain(tracer)

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        body = eager(environ, start_response)
        try:
            yield from body
        finally:
            if isinstance(body, _Closing):
                body.close()

    return app


def flask(tracer: Tracer) -> Flask:
    app = Flask(__name__)

    @app.get("/ok")
    def ok() -> str:
        return "ok"

    @app.get("/stream")
    @app.get("/leave-in-body", endpoint="leave")
    def stream() -> Response:
        def parts() -> Iterator[str]:
            yield "a"
            with tracer.start_as_current_span("part"):
                yield "b"

        return Response(parts())

    @app.get("/raise")
    def fail() -> str:
        raise Boom

    @app.get("/raise-in-body")
    def fail_in_body() -> Response:
        def parts() -> Iterator[str]:
            yield "a"
            raise Boom

        return Response(parts())

    @app.get("/background")
    def background() -> Response:
        def work() -> None:
            with tracer.start_as_current_span("background"):
                pass

        response = Response("ok")
        response.call_on_close(work)
        return response

    @app.get("/children")
    def children() -> str:
        with tracer.start_as_current_span("child"), tracer.start_as_current_span("grandchild"):
            return "ok"

    @app.get("/children-in-start")
    def children_in_start() -> Response:
        class InASpan(Response):
            def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
                with tracer.start_as_current_span("child"):
                    return super().__call__(environ, start_response)

        return InASpan("ok")

    return app

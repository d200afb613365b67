"""One application a framework, and one load, for the peers that people come from and for us.

`python -m tests.apps.migrating PEER serve` puts the load through the application in our middleware and serves our page,
on a port that the system picks, until it is terminated. `python -m tests.apps.migrating PEER page` puts it through the
same application as that peer's README sets it up, and prints what the peer counted: that is how the files in
`tests/data/migrating` were made, and how they are made again, with the peer installed.
"""

import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import prometheus_client

from tests.bench.peers import load
from tests.drivers import make_environ, make_scope, run_asgi, run_wsgi

EVERYTHING: Final = ("active_requests", "request_body_size", "response_body_size", "response_start")
BODY: Final = b'{"a":1}'


@dataclass(frozen=True)
class Load:
    """Requests of one kind."""

    method: str
    path: str
    times: int
    body: bytes = b""
    scheme: str = "http"


# The numbers differ, so that what is counted in the wrong place is seen.
LOADS: Final = (
    Load("GET", "/items/7", 8),
    Load("GET", "/items/8", 5, scheme="https"),
    Load("GET", "/items/nine", 3),
    Load("POST", "/items", 4, BODY),
    Load("GET", "/api/things/1", 6),
    Load("GET", "/slash/", 2),
    Load("GET", "/slash", 3),
    Load("GET", "/stream", 2),
    Load("GET", "/fail", 7),
    Load("DELETE", "/only-get", 5),
    Load("XYZ", "/only-get", 1),
    Load("GET", "/nowhere", 9),
)
# Cancelled before the response starts.
CANCELLED: Final = Load("GET", "/waits", 2)


def fastapi() -> Any:
    import asyncio

    from fastapi import APIRouter, FastAPI
    from starlette.responses import StreamingResponse

    app = FastAPI()
    router = APIRouter(prefix="/api")

    @router.get("/things/{thing}")
    def thing(thing: int) -> int:
        return thing

    @app.get("/items/{item_id}")
    def item(item_id: int) -> int:
        return item_id

    @app.post("/items", status_code=201)
    def make(item: dict[str, int]) -> dict[str, int]:
        return item

    @app.get("/slash/")
    def slash() -> str:
        return "slash"

    @app.get("/only-get")
    def only_get() -> str:
        return "got"

    @app.get("/stream")
    def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(3):
                await asyncio.sleep(0.01)
                yield b"part"

        return StreamingResponse(parts())

    @app.get("/fail")
    def fail() -> None:
        raise RuntimeError("as it should")

    @app.get("/waits")
    async def waits() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    app.include_router(router)
    return app


def flask() -> Any:
    import time

    from flask import Blueprint, Flask, request

    app = Flask(__name__)
    app.logger.disabled = True
    blueprint = Blueprint("api", __name__, url_prefix="/api")

    @blueprint.get("/things/<int:thing>")
    def thing(thing: int) -> str:
        return str(thing)

    @app.get("/items/<int:item_id>")
    def item(item_id: int) -> str:
        return str(item_id)

    @app.post("/items")
    def make() -> tuple[bytes, int]:
        return request.get_data(), 201

    @app.get("/slash/")
    def slash() -> str:
        return "slash"

    @app.get("/only-get")
    def only_get() -> str:
        return "got"

    @app.get("/stream")
    def stream() -> Iterator[bytes]:
        for _ in range(3):
            time.sleep(0.01)
            yield b"part"

    @app.get("/fail")
    def fail() -> str:
        raise RuntimeError("as it should")

    app.register_blueprint(blueprint)
    return app


def configure_django(*, peer: bool) -> None:
    import time

    import django
    from django.conf import settings
    from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, StreamingHttpResponse
    from django.template.response import TemplateResponse
    from django.urls import include, path

    def item(request: HttpRequest, item: int) -> HttpResponse:
        return HttpResponse(str(item))

    def make(request: HttpRequest) -> HttpResponse:
        return HttpResponse(request.body, status=201)

    def slash(request: HttpRequest) -> HttpResponse:
        return TemplateResponse(request, "slash.html")

    def only_get(request: HttpRequest) -> HttpResponse:
        return HttpResponse("got") if request.method == "GET" else HttpResponseNotAllowed(["GET"])

    def stream(request: HttpRequest) -> StreamingHttpResponse:
        def parts() -> Iterator[bytes]:
            for _ in range(3):
                time.sleep(0.01)
                yield b"part"

        return StreamingHttpResponse(parts())

    def fail(request: HttpRequest) -> HttpResponse:
        raise RuntimeError("as it should")

    class Urls:
        urlpatterns = (
            path("items/<int:item>", item, name="item"),
            path("items", make, name="make"),
            path("api/", include(([path("things/<int:item>", item, name="thing")], "api"))),
            path("slash/", slash, name="slash"),
            path("only-get", only_get, name="only-get"),
            path("stream", stream, name="stream"),
            path("fail", fail, name="fail"),
        )

    middleware = ["django.middleware.common.CommonMiddleware"]
    if peer:
        name = "django_prometheus.middleware.Prometheus{}Middleware"
        middleware = [name.format("Before"), *middleware, name.format("After")]
    settings.configure(
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["django_prometheus"] if peer else [],
        LOGGING_CONFIG=None,
        MIDDLEWARE=middleware,
        ROOT_URLCONF=Urls,
        SECRET_KEY="not one",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {"loaders": [("django.template.loaders.locmem.Loader", {"slash.html": "slash"})]},
            }
        ],
    )
    django.setup()


def view_name(environ: Any) -> str:
    """The old label `view`, as the page says to keep it."""
    from django.urls import Resolver404, resolve

    try:
        return str(resolve(environ["PATH_INFO"]).view_name)
    except Resolver404:
        return ""


def theirs_starlette() -> Any:
    sizes = load("starlette_exporter.optional_metrics")
    app = fastapi()
    app.add_middleware(
        load("starlette_exporter").PrometheusMiddleware,
        optional_metrics=[sizes.response_body_size, sizes.request_body_size],
    )
    return app


def theirs_fastapi() -> Any:
    app = fastapi()
    instrumentator = load("prometheus_fastapi_instrumentator").Instrumentator
    instrumentator(should_instrument_requests_inprogress=True).instrument(app)
    return app


def theirs_flask() -> Any:
    app = flask()
    load("prometheus_flask_exporter").PrometheusMetrics(app)
    return app


def theirs_django() -> Any:
    configure_django(peer=True)
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


def ours(make: Callable[[], Any], **options: Any) -> Any:
    from exemplars import instrument

    return instrument(make(), metrics_path=None, measure=EVERYTHING, **options)


def ours_django() -> Any:
    configure_django(peer=False)
    from django.core.wsgi import get_wsgi_application

    return ours(get_wsgi_application, labels={"view": view_name})


# By peer: whether it speaks ASGI, the application as it was, and as it is now.
PEERS: Final[dict[str, tuple[bool, Callable[[], Any], Callable[[], Any]]]] = {
    "starlette-exporter": (True, theirs_starlette, lambda: ours(fastapi)),
    "prometheus-fastapi-instrumentator": (True, theirs_fastapi, lambda: ours(fastapi)),
    "prometheus-flask-exporter": (False, theirs_flask, lambda: ours(flask)),
    "django-prometheus": (False, theirs_django, ours_django),
}


def put_through(app: Any, asgi: bool) -> None:
    """All requests, one after another."""
    for kind in (*LOADS, CANCELLED) if asgi else LOADS:
        for _ in range(kind.times):
            if asgi:
                headers = [("content-length", str(len(kind.body))), ("content-type", "application/json")]
                headers = headers if kind.body else []
                scope = make_scope(kind.path, method=kind.method, headers=headers, scheme=kind.scheme)
                run_asgi(app, scope, body=[kind.body])
            else:
                environ = make_environ(kind.path, method=kind.method, body=kind.body)
                run_wsgi(app, environ | {"wsgi.url_scheme": kind.scheme})


def main(peer: str, what: str) -> None:
    asgi, theirs, now = PEERS[peer]
    if what == "page":
        put_through(theirs(), asgi)
        page = prometheus_client.generate_latest(prometheus_client.REGISTRY).decode()
        foreign = ("# HELP", "# TYPE python_", "# TYPE process_", "python_", "process_")
        print(
            "".join(line for line in page.splitlines(True) if not line.startswith(foreign) and "_created" not in line)
        )
    else:
        from exemplars import start_http_server

        put_through(now(), asgi)
        server, _ = start_http_server(0, "127.0.0.1")
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One application in three frameworks that logs, and a configuration by which all lines are JSON, the server's too."""

import logging
from importlib.util import find_spec
from typing import Any, Final

from exemplars import instrument
from tests.apps import traced

CONFIG: Final[dict[str, Any]] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"trace": {"()": "exemplars.logs.TraceContextFilter"}},
    "formatters": {"json": {"()": "exemplars.logs.JSONFormatter", "service_name": "shop"}},
    "handlers": {
        "lines": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stderr",
            "formatter": "json",
            "filters": ["trace"],
        }
    },
    "root": {"level": "INFO", "handlers": ["lines"]},
    # Loggers of servers that have handlers of their own; uvicorn's worker under gunicorn takes over those of gunicorn.
    "loggers": {
        f"{server}.{logger}": {"level": "INFO", "handlers": ["lines"], "propagate": False}
        for server in ("gunicorn", "hypercorn")
        for logger in ("error", "access")
    },
}

# FastAPI of 2026; in older ones OpenTelemetry's instrumentation does it, with more spans.
TRACES_ITSELF: Final = find_spec("fastapi.telemetry") is not None

log = logging.getLogger("shop")


def fastapi() -> Any:
    from fastapi import BackgroundTasks, FastAPI

    traced.configure()
    app = FastAPI()
    if not TRACES_ITSELF:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(app)

    @app.get("/fine")
    async def fine(later: BackgroundTasks) -> str:
        log.info("inside")
        later.add_task(log.info, "afterwards")
        return "fine"

    @app.get("/fail")
    async def fail() -> None:
        raise RuntimeError("as it should")

    return instrument(app)


def flask() -> Any:
    from flask import Flask
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    traced.configure()
    app = Flask("shop")

    @app.get("/fine")
    def fine() -> str:
        log.info("inside")
        return "fine"

    @app.get("/fail")
    def fail() -> str:
        raise RuntimeError("as it should")

    FlaskInstrumentor().instrument_app(app)  # type: ignore[no-untyped-call]
    return instrument(app)


def _django() -> None:
    import django
    from django.conf import settings
    from django.http import HttpRequest, HttpResponse
    from django.urls import path
    from opentelemetry.instrumentation.django import DjangoInstrumentor

    def fine(request: HttpRequest) -> HttpResponse:
        log.info("inside")
        return HttpResponse("fine")

    def fail(request: HttpRequest) -> HttpResponse:
        raise RuntimeError("as it should")

    traced.configure()
    settings.configure(
        ALLOWED_HOSTS=["*"],
        LOGGING=CONFIG,
        MIDDLEWARE=[],
        ROOT_URLCONF=(path("fine", fine), path("fail", fail)),
        SECRET_KEY="not one",
    )
    DjangoInstrumentor().instrument()
    django.setup()


def django_wsgi() -> Any:
    from django.core.wsgi import get_wsgi_application

    _django()
    return instrument(get_wsgi_application())


def django_asgi() -> Any:
    from django.core.asgi import get_asgi_application

    _django()
    return instrument(get_asgi_application())

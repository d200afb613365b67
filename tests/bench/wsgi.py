"""What is added to one WSGI request."""

from io import BytesIO
from sys import stderr
from time import thread_time
from typing import Any, Final

from flask import Flask
from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from prometheus_client import CollectorRegistry

from exemplars import WSGIMiddleware

from . import byhand, ours, peers
from .subject import BARE, App, Jobs, Request, Setting, Subject, read

APPS: Final = ("Flask", "raw WSGI")


def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
    return None


class Interface:
    """An application driven as a server drives it: called, its body read and closed."""

    def close(self) -> None:
        pass

    def request(self, number: int) -> Request:
        path = f"/api/v1/resource{number}/42"
        return {
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(),
            "wsgi.errors": stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "SERVER_SOFTWARE": "bench",
            "REQUEST_METHOD": "GET",
            "QUERY_STRING": "",
            "RAW_URI": path,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "shop.example:8000",
            "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
            "HTTP_ACCEPT": "application/json",
            "HTTP_ACCEPT_ENCODING": "gzip, deflate",
            "HTTP_X_FORWARDED_FOR": "192.0.2.7",
            "HTTP_CONNECTION": "keep-alive",
            "REMOTE_ADDR": "127.0.0.1",
            "REMOTE_PORT": "54321",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "PATH_INFO": path,
            "SCRIPT_NAME": "",
        }

    def drive(self, jobs: Jobs) -> float:
        began = thread_time()
        for app, environ, context in jobs:
            token = attach(context)
            body = app(environ, start_response)
            for _ in body:
                pass
            if hasattr(body, "close"):
                body.close()
            detach(token)
        return thread_time() - began

    def answer(self, app: App, request: Request) -> object:
        started: list[object] = []
        body = app(request, lambda *started_with: started.append(started_with[:2]))
        sent = b"".join(body)
        if hasattr(body, "close"):
            body.close()
        return started, sent


def flask(routes: int) -> Flask:
    app = Flask("bench")
    for number in range(routes):
        app.add_url_rule(f"/api/v1/resource{number}/<item_id>", f"resource{number}", lambda item_id: "here you are")
    return app


def flask_route(environ: Any) -> str:
    rule = environ["werkzeug.request"].url_rule
    return rule.rule if rule else ""


def raw(routes: int) -> App:
    templates = {f"/api/v1/resource{n}/42": f"/api/v1/resource{n}/<item_id>" for n in range(routes)}

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["bench.route"] = templates[environ["PATH_INFO"]]
        start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", "12")])
        return [b"here you are"]

    return app


def raw_route(environ: Any) -> str:
    return str(environ["bench.route"])


def subjects(setting: Setting, block: int) -> list[Subject]:
    """The contenders in *setting*; the first is the bare application, which the wrapping ones share."""
    framework = setting.app == "Flask"
    app = flask(setting.routes) if framework else raw(setting.routes)
    options: dict[str, Any] = {} if framework else {"route": raw_route}
    return [
        Subject(BARE, [app]),
        *ours.subjects(lambda **options: WSGIMiddleware(app, **options), setting, block, **options),
        peers.by_hand(lambda *made_with: byhand.WSGI(app, *made_with), flask_route if framework else raw_route),
        *([flask_exporter(setting)] if framework else []),
        peers.opentelemetry("OpenTelemetry WSGI", OpenTelemetryMiddleware, app, setting),
    ]


def flask_exporter(setting: Setting) -> Subject:
    registry = CollectorRegistry()
    app = flask(setting.routes)
    peers.load("prometheus_flask_exporter").PrometheusMetrics(app, group_by="url_rule", registry=registry)
    name = "flask_http_request_duration_seconds_count"
    return Subject("prometheus_flask_exporter", [app], lambda: read([registry], name, "url_rule"))

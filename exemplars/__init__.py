"""Request-latency histograms whose buckets each remember a sampled trace: a click on a spike opens it in Tempo."""

from typing import Any

from exemplars.asgi import ASGIMiddleware
from exemplars.endpoint import make_asgi_app, make_wsgi_app
from exemplars.exposition import render
from exemplars.instrument import instrument
from exemplars.metrics import Counter, Gauge, Histogram
from exemplars.options import Options
from exemplars.policy import Policy
from exemplars.server import start_http_server
from exemplars.wsgi import WSGIMiddleware

__all__ = [
    "ASGIMiddleware",
    "Counter",
    "Gauge",
    "Histogram",
    "Options",
    "Policy",
    "WSGIMiddleware",
    "__version__",
    "instrument",
    "make_asgi_app",
    "make_wsgi_app",
    "render",
    "start_http_server",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("exemplars")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

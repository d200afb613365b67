"""The peers that ASGI and WSGI share, and how those that are not typed are imported."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from . import byhand
from .spans import provider
from .subject import App, Setting, Subject, read

BY_HAND = "prometheus_client by hand"


def load(module: str) -> Any:
    """Import a peer. Raises ImportError that says where it is listed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{error}; the dependency group `bench` of pyproject.toml lists it") from error


def by_hand(make: Callable[[CollectorRegistry, byhand.Route], App], route: byhand.Route) -> Subject:
    registry = CollectorRegistry()
    count = f"{byhand.DURATION}_count"
    return Subject(BY_HAND, [make(registry, route)], lambda: read([registry], count, "http_route"), exemplars=True)


def opentelemetry(name: str, middleware: Callable[..., App], app: App, setting: Setting) -> Subject:
    """
    The instrumentation with the SDK's metrics behind its Prometheus reader, and with spans of its own.

    Without a span in the *setting* it makes metrics alone.
    """
    registry = CollectorRegistry()
    reader = load("opentelemetry.exporter.prometheus").PrometheusMetricReader(registry=registry)
    wrapped = middleware(
        app,
        tracer_provider=provider(setting.span),
        meter_provider=MeterProvider([reader], shutdown_on_exit=False),
    )
    # Routes are its framework packages' matter; its reader hands no exemplars on.
    count = f"{byhand.DURATION}_count"
    return Subject(name, [wrapped], lambda: read([registry], count), routes=False, own_spans=True)

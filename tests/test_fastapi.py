"""FastAPI's own telemetry, and that of OpenTelemetry's instrumentation, around our layer."""

import inspect

import pytest
from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from exemplars import instrument
from tests.drivers import make_scope, run_asgi


@pytest.mark.skipif("telemetry" not in inspect.signature(FastAPI).parameters, reason="has no telemetry of its own")
@pytest.mark.parametrize("order", ["theirs first", "ours first", "theirs alone"])
def test_fastapi_steps_back_from_the_instrumentation_that_it_finds_inside_our_layer(
    registry: CollectorRegistry, order: str
) -> None:
    """It looks along `.app`; where it misses the instrumentation, every request has two spans of the same name."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = FastAPI(telemetry={"tracer_provider": provider})

    @app.get("/items/{item}")
    def item(item: int) -> int:
        return item

    if order == "ours first":
        instrument(app, registry=registry)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, exclude_spans=["receive", "send"])
    if order == "theirs first":
        instrument(app, registry=registry)
    run_asgi(app, make_scope("/items/1"))

    assert [span.name for span in exporter.get_finished_spans()] == ["GET /items/{item}"]

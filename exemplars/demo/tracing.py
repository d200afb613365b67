"""OpenTelemetry's SDK for one service of the shop, set up by its own environment variables.

``OTEL_SERVICE_NAME`` names the service, ``OTEL_TRACES_SAMPLER`` samples, ``OTEL_EXPORTER_OTLP_ENDPOINT`` says where
spans go. ``EXEMPLARS_DEMO_SPANS`` is one more place: the running demo, which shows them.
"""

import os
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

SPANS: Final = "EXEMPLARS_DEMO_SPANS"


def configure() -> TracerProvider:
    """Make the provider of this process; shut it down before the process ends, or the last spans are lost."""
    provider = TracerProvider()
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    if demo := os.environ.get(SPANS):
        exporter = OTLPSpanExporter(demo, compression=Compression.NoCompression)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
    trace.set_tracer_provider(provider)
    return provider

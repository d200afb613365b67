"""The span that is current while a request is served: real spans of OpenTelemetry's SDK, started beforehand."""

from typing import Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

SpanKind = Literal["absent", "unsampled", "sampled"]


def provider(kind: SpanKind) -> trace.TracerProvider:
    """A provider of its own for a contender that makes its own spans."""
    if kind == "absent":
        return trace.NoOpTracerProvider()
    return TracerProvider(sampler=ALWAYS_ON if kind == "sampled" else ALWAYS_OFF)


class Spans:
    """
    Starts server spans of one kind, from the process's own provider where they are sampled.

    The sampled ones record, and nothing is exported: exporting is no contender's cost.
    """

    def __init__(self, kind: SpanKind) -> None:
        if kind == "sampled" and not isinstance(trace.get_tracer_provider(), TracerProvider):
            trace.set_tracer_provider(provider(kind))
        self.tracer = trace.get_tracer("bench", tracer_provider=None if kind == "sampled" else provider(kind))

    def start(self, count: int) -> list[trace.Span]:
        return [self.tracer.start_span("GET", context=Context(), kind=trace.SpanKind.SERVER) for _ in range(count)]


def current(span: trace.Span) -> Context:
    """The context in which *span* is the current one."""
    return trace.set_span_in_context(span, Context())

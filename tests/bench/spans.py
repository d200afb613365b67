"""The span that is current while a request is served: real spans of OpenTelemetry's SDK, started beforehand."""

from typing import Final, Literal

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


SAMPLED: Final = provider("sampled")  # to be the process's own while the bench runs


class Spans:
    """
    Starts server spans of one kind.

    The sampled ones record, and nothing is exported: exporting is no contender's cost.
    """

    def __init__(self, kind: SpanKind) -> None:
        self.tracer = (SAMPLED if kind == "sampled" else provider(kind)).get_tracer("bench")

    def start(self, count: int) -> list[trace.Span]:
        return [self.tracer.start_span("GET", context=Context(), kind=trace.SpanKind.SERVER) for _ in range(count)]


def current(span: trace.Span) -> Context:
    """The context in which *span* is the current one; an empty one, as where nothing traces, if it is none."""
    return trace.set_span_in_context(span, Context()) if span.get_span_context().is_valid else Context()

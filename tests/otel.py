"""Tracer providers whose spans a test can look at."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind


class Spans:
    """A tracer provider of the SDK, and what it exported. *sampler* may be changed at any time."""

    def __init__(self, sampler: Sampler = ALWAYS_ON, *, is_global: bool = False) -> None:
        self.sampler = sampler
        self.is_global = is_global
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=_Delegate(self), shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tests")

    @property
    def exported(self) -> Sequence[ReadableSpan]:
        """The spans that have ended and were sampled, in the order of their ends."""
        return self._exporter.get_finished_spans()

    @property
    def server(self) -> ReadableSpan:
        """The one server span among them."""
        (server,) = [span for span in self.exported if span.kind is SpanKind.SERVER]
        return server

    def clear(self) -> None:
        self._exporter.clear()


class _Delegate(Sampler):
    """Whatever the sampler is at the moment."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        return self._spans.sampler.should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return self._spans.sampler.get_description()


class RecordOnly(Sampler):
    """Spans that record, for processors in the process, but are not sampled: none is exported."""

    def should_sample(
        self, parent_context: Context | None, trace_id: int, name: str, *_: Any, **__: Any
    ) -> SamplingResult:
        return SamplingResult(Decision.RECORD_ONLY)

    def get_description(self) -> str:
        return "RecordOnly"


@cache
def _the_global() -> Spans:
    spans = Spans(is_global=True)
    trace.set_tracer_provider(spans.provider)
    assert trace.get_tracer_provider() is spans.provider, "somebody else has set the global tracer provider"
    return spans


def global_spans(sampler: Sampler = ALWAYS_ON) -> Spans:
    """The spans of the global provider, which can be set only once a process: emptied, and from now on by *sampler*."""
    spans = _the_global()
    spans.sampler = sampler
    spans.clear()
    return spans

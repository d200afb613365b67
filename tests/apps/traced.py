"""What the applications share that real servers serve: tracing into a file, and the seconds that a request takes."""

import json
import os
import threading
from collections.abc import Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from exemplars import Policy
from tests.otel import RecordOnly

SLOW: Final = 0.03  # seconds
# Exemplars are replaced often, so that a short load brings many.
POLICY: Final = Policy(min_retention=0.3)


class ToFile(SpanExporter):
    """Appends each server span to *path* as a line of JSON."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # for the life of the process
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            for span in spans:
                if span.kind is SpanKind.SERVER:
                    self._file.write(json.dumps(_record(span)) + "\n")
        return SpanExportResult.SUCCESS


def _record(span: ReadableSpan) -> dict[str, object]:
    attributes = span.attributes or {}
    return {
        "trace_id": f"{span.context.trace_id:032x}",
        "span_id": f"{span.context.span_id:016x}",
        "sampled": span.context.trace_flags.sampled,
        "error": span.status.status_code is StatusCode.ERROR,
        "marked": attributes.get("exemplar") == "true",
        "route": attributes.get("http.route", ""),
    }


def configure() -> None:
    """Trace into the file that ``SPANS`` names; what the caller's ``traceparent`` does not sample only records."""
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON, remote_parent_not_sampled=RecordOnly()))
    provider.add_span_processor(SimpleSpanProcessor(ToFile(os.environ["SPANS"])))
    trace.set_tracer_provider(provider)

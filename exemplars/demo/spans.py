"""The spans of the shop, received over OTLP/HTTP as a collector would."""

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

SPANS: Final = "EXEMPLARS_DEMO_SPANS"  # where the running demo receives them
_KEPT: Final = 5_000  # traces


class Span(NamedTuple):
    """A finished span: ids in lower-case hex, *parent_id* empty in a root, times in seconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    name: str
    start: float
    end: float
    failed: bool
    marked: bool  # it became an exemplar: a collector's tail sampling keeps its trace by this


class Traces:
    """The newest traces, complete or not. Safe under threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: OrderedDict[str, list[Span]] = OrderedDict()

    def add(self, export: ExportTraceServiceRequest) -> None:
        with self._lock:
            for span in _spans(export):
                self._spans.setdefault(span.trace_id, []).append(span)
            while len(self._spans) > _KEPT:
                self._spans.popitem(last=False)

    def tree(self, trace_id: str) -> list[tuple[int, Span]]:
        """The spans that came of one trace, each with its depth: parents before children, earlier ones first."""
        with self._lock:
            spans = sorted(self._spans.get(trace_id, ()), key=lambda span: span.start)
        here = {span.span_id for span in spans}

        def below(parent_id: str | None, depth: int) -> Iterator[tuple[int, Span]]:
            for span in spans:
                if (span.parent_id if span.parent_id in here else None) == parent_id:
                    yield depth, span
                    yield from below(span.span_id, depth + 1)

        return list(below(None, 0))


def _spans(export: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in export.resource_spans:
        service = next((a.value.string_value for a in resource.resource.attributes if a.key == "service.name"), "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    service,
                    span.name,
                    span.start_time_unix_nano / 1e9,
                    span.end_time_unix_nano / 1e9,
                    span.status.code == Status.STATUS_CODE_ERROR,
                    any(a.key == "exemplar" and a.value.string_value == "true" for a in span.attributes),
                )


def show(provider: TracerProvider) -> None:
    """Send what *provider* sends to the demo as well, if one runs this service."""
    if demo := os.environ.get(SPANS):
        exporter = OTLPSpanExporter(demo, compression=Compression.NoCompression)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))


@contextmanager
def receiving(traces: Traces) -> Iterator[str]:
    """Add to *traces* what is posted to the address that the block gets."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps the exporters' connections

        def do_POST(self) -> None:
            traces.add(ExportTraceServiceRequest.FromString(b"".join(self._body())))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _body(self) -> Iterator[bytes]:
            if self.headers["Transfer-Encoding"] != "chunked":
                yield self.rfile.read(int(self.headers.get("Content-Length", "")))  # none: it ends before that
                return
            while size := int(self.rfile.readline().partition(b";")[0], 16):  # as Node's exporter sends
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            # A service that ended, or was killed, may leave half a request.
            if not isinstance(sys.exception(), (ConnectionError, ValueError, DecodeError)):
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

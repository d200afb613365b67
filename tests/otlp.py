"""What a receiver of OTLP has got, with everything that was said of it."""

from collections.abc import Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from exemplars.demo.spans import Traces
from tests.programs import PATIENCE


class Received(NamedTuple):
    """A span with its own attributes and those of its resource."""

    trace_id: str
    span_id: str
    name: str
    attributes: dict[str, Any]
    resource: dict[str, Any]


class Collected(Traces):
    """To be given to `exemplars.demo.spans.receiving`."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[Received] = []

    def add(self, export: ExportTraceServiceRequest) -> None:
        super().add(export)
        for resource in export.resource_spans:
            told = _values(resource.resource.attributes)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    received = (span.trace_id.hex(), span.span_id.hex(), span.name, _values(span.attributes), told)
                    self.spans.append(Received(*received))

    @property
    def trace_ids(self) -> list[str]:
        return sorted(span.trace_id for span in self.spans)

    @property
    def span_ids(self) -> list[str]:
        return sorted(span.span_id for span in self.spans)


@contextmanager
def receiving_grpc(traces: Traces) -> Iterator[str]:
    """Add to *traces* what is sent over gRPC to the address that the block gets."""

    class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: ExportTraceServiceRequest, context: object) -> ExportTraceServiceResponse:
            traces.add(request)
            return ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Receiver(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait(PATIENCE)


def _values(attributes: Iterable[Any]) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes}

"""Spans that a test makes and sends by OTLP, without an SDK between: what it sends is what there is."""

import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.request import Request, urlopen

from tests.programs import PATIENCE, eventually
from tests.stack.running import Tempo

SERVER: Final = 2
CLIENT: Final = 3


@dataclass(frozen=True)
class Span:
    """One that ends now and took *seconds*; ids in hex."""

    service: str
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    parent_id: str = ""
    name: str = "GET /"
    kind: int = SERVER
    seconds: float = 0.01
    attributes: dict[str, str] = field(default_factory=dict)
    resource: dict[str, str] = field(default_factory=dict)
    failed: bool = False
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))

    def child(self, service: str, **more: Any) -> "Span":
        """One below it in the same trace."""
        return Span(service, trace_id=self.trace_id, parent_id=self.span_id, **more)

    def marked(self) -> "Span":
        """The same as `exemplars` marks one that became an exemplar."""
        return Span(**{**vars(self), "attributes": {**self.attributes, "exemplar": "true"}})

    def otlp(self) -> dict[str, Any]:
        end = time.time_ns()
        return {
            "resource": {"attributes": listed({"service.name": self.service, **self.resource})},
            "scopeSpans": [
                {
                    "spans": [
                        {
                            "traceId": self.trace_id,
                            "spanId": self.span_id,
                            "parentSpanId": self.parent_id,
                            "name": self.name,
                            "kind": self.kind,
                            "startTimeUnixNano": str(end - int(self.seconds * 1e9)),
                            "endTimeUnixNano": str(end),
                            "attributes": listed(self.attributes),
                            "status": {"code": 2} if self.failed else {},
                        }
                    ]
                }
            ],
        }


def listed(attributes: dict[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]


def send(endpoint: str, spans: Iterable[Span]) -> None:
    """Post *spans* to where OTLP is taken; what is refused is raised."""
    body = json.dumps({"resourceSpans": [span.otlp() for span in spans]}).encode()
    request = Request(f"{endpoint}/v1/traces", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=PATIENCE) as response:
        assert "rejectedSpans" not in response.read().decode()


def arrive(tempo: Tempo, trace: Sequence[Span]) -> None:
    """Wait until *tempo* has every span of a trace, and no other of it."""
    wanted = {span.span_id for span in trace}
    eventually(
        lambda: wanted == {span["spanId"] for span in tempo.trace(trace[0].trace_id)}, "a whole trace", tempo.tail
    )

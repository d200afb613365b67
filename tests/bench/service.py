"""What the row for CPU time serves: an application as it is in production, traced; with us where told so.

`tests.bench.service:app`, under uvicorn. `BENCH_WITH` names what measures: nothing, or exemplars.
"""

import os
from collections.abc import Sequence
from time import process_time
from typing import Any, Final

from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from pydantic import BaseModel

import exemplars

from .processes import CPU_PATH

ITEMS: Final = 20


class Item(BaseModel):
    number: int
    name: str
    price: float
    tags: list[str]


class Nowhere(SpanExporter):
    """Where spans go: what a collector's answer would take is nobody's cost here."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(Nowhere()))
trace.set_tracer_provider(provider)
shop = FastAPI()  # which traces by itself


@shop.get("/shops/{shop_number}/items")
async def items(shop_number: int, limit: int = ITEMS) -> list[Item]:
    return [Item(number=n, name=f"item {n}", price=n * 1.25, tags=["new", f"shop {shop_number}"]) for n in range(limit)]


served: Any = exemplars.instrument(shop) if os.environ["BENCH_WITH"] == "exemplars" else shop


async def app(scope: Any, receive: Any, send: Any) -> None:
    """*served*, and beside it the CPU time of this process so far, in seconds."""
    if scope.get("path") != CPU_PATH:
        await served(scope, receive, send)
        return
    body = str(process_time()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})

"""Two services, one trace: the header `traceparent` carries it, and the decision to sample."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import httpx
from opentelemetry import propagate, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

from exemplars import instrument, tracing

tracing.configure("shop")
tracer = trace.get_tracer("shop")


async def stock(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    with tracer.start_as_current_span("count"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"7"})


# The instrumentation reads the header; its server span is a child of the caller's.
server = OpenTelemetryMiddleware(instrument(stock, route=lambda scope: "/stock"))


async def front() -> None:
    transport = httpx.ASGITransport(server)
    async with httpx.AsyncClient(transport=transport, base_url="http://stock") as client:
        with tracer.start_as_current_span("ask the stock", kind=trace.SpanKind.CLIENT):
            headers: dict[str, str] = {}
            propagate.inject(headers)  # what an instrumentation of your HTTP client does by itself
            await client.get("/stock", headers=headers)


asyncio.run(front())

"""A traced application that does next to nothing, for many requests a second: `tests.apps.lean:app`, under uvicorn.

``/ROUTE?ms=20&status=500&early=4``: after so many milliseconds, with that status; so many spans end before, one after
the other from the beginning on.
"""

import asyncio
from typing import Any
from urllib.parse import parse_qs

from opentelemetry import propagate, trace

from exemplars import instrument, tracing

STEP = 0.25  # seconds

tracing.configure("lean", ratio=1.0)
tracer = trace.get_tracer(__name__)


async def lean(scope: Any, receive: Any, send: Any) -> None:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    asked = {name: float(values[0]) for name, values in parse_qs(scope["query_string"].decode()).items()}
    status, seconds = int(asked.get("status", 200)), asked.get("ms", 0) / 1000
    parent = propagate.extract(headers)
    with tracer.start_as_current_span(f"GET {scope['path']}", parent, trace.SpanKind.SERVER) as span:
        for number in range(int(asked.get("early", 0))):
            with tracer.start_as_current_span(f"step {number}"):
                await asyncio.sleep(STEP)
            seconds -= STEP
        if seconds > 0:
            await asyncio.sleep(seconds)
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


app = instrument(lean, route=lambda scope: scope["path"])

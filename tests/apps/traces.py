"""An application that `exemplars.tracing` sets up, in whichever process imports it; it tells what it has traced."""

import json
import logging
import os
import threading
import time
from collections.abc import Iterable
from multiprocessing import get_context
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from exemplars import tracing
from exemplars._types import Environ, Receive, Scope, Send, StartResponse

logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
if os.environ.get("SEED"):  # as applications do that want to repeat themselves
    import random

    random.seed(os.environ["SEED"])
tracing.configure("workers", ratio=1.0)
tracer = trace.get_tracer(__name__)  # before the fork, where there is one
if os.environ.get("EARLY"):
    with tracer.start_as_current_span("early", attributes={"pid": os.getpid()}):
        pass
THREADS_AT_IMPORT = threading.active_count() - 1


def traced(name: str) -> dict[str, Any]:
    with tracer.start_as_current_span(name, kind=SpanKind.SERVER) as span:
        span.set_attribute("pid", os.getpid())
        time.sleep(0.005)  # what is asked meanwhile is for another worker
    return {
        "pid": os.getpid(),
        "trace_id": f"{span.get_span_context().trace_id:032x}",
        "threads_at_import": THREADS_AT_IMPORT,
    }


def _in_child(connection: Any) -> None:
    connection.send(traced("child"))


def answer(path: str) -> bytes:
    told = traced(path)
    if path == "/process":
        context = get_context("fork")
        reader, writer = context.Pipe(duplex=False)
        child = context.Process(target=_in_child, args=(writer,))
        child.start()
        told["child"] = reader.recv()
        child.join()
    return json.dumps(told).encode()


def wsgi(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    body = answer(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    body = answer(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})

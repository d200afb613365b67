"""An application that serves its page on a port of its own, in whichever process imports it, as ``SERVE`` says."""

import json
import os
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from typing import Any, Final

from prometheus_client import REGISTRY
from prometheus_client import Metric as MetricFamily
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from exemplars import Counter, start_http_server
from exemplars._types import Environ, Receive, Scope, Send, StartResponse
from exemplars.store import group

PORT: Final = int(os.environ["METRICS_PORT"])
HOW: Final = os.environ.get("SERVE", "")

handled: Final = Counter("handled", "Requests.")


class Pid(Collector):
    def collect(self) -> Iterator[MetricFamily]:
        yield GaugeMetricFamily("answering_pid", "The worker that has answered.", os.getpid())


REGISTRY.register(Pid())
server, thread = start_http_server(PORT, "127.0.0.1")
AT_IMPORT: Final = {
    "is_master": group.is_master(),
    "bound": server.socket.fileno() >= 0,
    "threads": threading.active_count() - 1,
}
told: dict[str, Any] = {}
if HOW == "ended":
    server.shutdown()
    server.server_close()
    thread.join()
elif HOW == "twice":
    try:
        start_http_server(PORT, "127.0.0.1")
    except OSError as error:
        told["refused"] = str(error)


def _wait() -> None:
    threading.Event().wait()


def answer(path: str) -> bytes:
    handled.inc()
    if path == "/fork":
        child = get_context("fork").Process(target=_wait, daemon=True)
        child.start()
        told["child"] = child.pid
    elif path == "/end":
        server.shutdown()
        server.server_close()
        thread.join()
    told.update(pid=os.getpid(), at_import=AT_IMPORT, port=server.server_port, bound=server.socket.fileno() >= 0)
    return json.dumps(told).encode()


def wsgi(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    body = answer(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    body = answer(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})

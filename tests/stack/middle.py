"""A service without an SDK between front and stock: it hands the trace's header on for some routes, for others not."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final
from urllib.parse import urlsplit

from exemplars import semconv
from tests.faults.figures import Figures
from tests.programs import PATIENCE, eventually
from tests.stack import running
from tests.stack.asking import Wish, asking, unharmed
from tests.stack.broken import page
from tests.stack.dots import NOT_WHOLE, Dot, Judge, Verdict
from tests.stack.opening import EVERYTHING, shown
from tests.stack.process import started
from tests.stack.shop import OURS, SPANS_EVERY, Service

SILENT: Final = "/movements"  # of whose requests the headers of the trace are left out
TAKES: Final = 0.05  # seconds
REQUESTS: Final = 40


class Middle(ThreadingHTTPServer):
    """It asks *to* whatever it is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.to = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Middle

    def do_GET(self) -> None:
        time.sleep(TAKES)
        headers = {"traceparent": self.headers["traceparent"]} if not self.path.startswith(SILENT) else {}
        connection = HTTPConnection(urlsplit(self.server.to).netloc, timeout=PATIENCE)
        try:
            connection.request(self.command, self.path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def middle() -> Iterator[Middle]:
    with Middle() as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(PATIENCE)


def without_sdk(directory: Path) -> Figures:
    """What dots of front and stock open: the whole trace where the header is handed on, else the part of their own."""
    with ExitStack() as stack:
        run = stack.enter_context
        tempo = run(running.tempo(directory))
        collector = run(running.collector(directory, tempo, None, None, DECISION_WAIT="4s", BASE_PERCENT="0"))
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp,
            "OTEL_BSP_SCHEDULE_DELAY": SPANS_EVERY,
            "LOG_FILE": "",
            "PAYMENT_URL": "",
        }
        between = run(middle())
        stock: Service = run(started(Service("stock", directory, settings)))
        between.to = stock.url
        front: Service = run(started(Service("front", directory, settings | {"STOCK_URL": between.url})))
        wishes = [
            Wish("GET", f"{front.url}/products/kettle", frozenset({200})),
            Wish("POST", f"{front.url}/products/mirror/orders?pieces=1", frozenset({500})),
            Wish("GET", f"{front.url}/reports/2020", frozenset({200})),
        ]
        with asking(wishes) as asked:
            asked.more(REQUESTS)
        figures = unharmed("with a service without an SDK between", asked.answers)
        there = {route: dots_of(front, route) for route in ("/products/{product}", "/reports/{year}")}
        there |= {route: dots_of(stock, route) for route in ("/stock/<product>", "/movements/<month>")}
        judge = Judge(tempo, {"stock": between.url}, OURS)

        def open_all(route: str) -> list[Verdict] | None:
            verdicts = judge.judged(there[route])
            return verdicts if not any(verdict.is_dead for verdict in verdicts) else None

        for route, dots in there.items():
            assert dots, f"{route} has no dots"
            verdicts = eventually(lambda route=route: open_all(route), f"every dot of {route} to open", tempo.tail)  # type: ignore[misc]
            figures[f"dots of {route}, which all open"] = len(verdicts)
            traces = [tempo.trace(verdict.dot.trace_id) for verdict in verdicts]
            figures[f"dots of {route}: whose trace has both services"] = sum(
                {span["service"] for span in spans} == set(OURS) for spans in traces
            )
            wrong = {what for verdict in verdicts for what, _ in verdict.wrong}
            if route.startswith("/reports"):
                assert wrong == {NOT_WHOLE}, shown(verdicts)
            else:
                assert not wrong, shown(verdicts)
        figures["ms that a call took longer than its answer, at least"] = least_between(
            [tempo.trace(dot.trace_id) for dot in there["/products/{product}"]]
        )
    return figures


def dots_of(service: Service, route: str) -> set[Dot]:
    """The exemplars of a route that the page shows now."""
    found = [
        sample.exemplar
        for sample in page(service)
        if sample.name == EVERYTHING and sample.labels.get(semconv.ROUTE) == route and sample.exemplar
    ]
    return {
        Dot(service.name, one.labels["trace_id"], one.labels["span_id"], float(one.timestamp or 0), route)
        for one in found
    }


def least_between(traces: list[list[dict[str, Any]]]) -> float:
    """The least time, in milliseconds, by which a call is longer than the span of its answer."""
    found = []
    for spans in traces:
        calls = {span["spanId"]: lasted(span) for span in spans if span["kind"] == "SPAN_KIND_CLIENT"}
        answers = [span for span in spans if span["kind"] == "SPAN_KIND_SERVER" and span["parentSpanId"] in calls]
        found += [calls[span["parentSpanId"]] - lasted(span) for span in answers]
    assert min(found) >= 1000 * TAKES
    return min(found)


def lasted(span: dict[str, Any]) -> float:
    return (int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])) / 1e6

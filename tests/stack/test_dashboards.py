"""The dashboards on the whole stack: the shop in three languages under load, its spans through a sampling Collector.

What each query asks is asked of the program that Grafana would ask; the rest of the dashboards is in
`tests/test_dashboards.py`, and what Debian's Prometheus answers in `tests/test_dashboards_asked.py`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import parse_qs, quote, urlencode, urlsplit
from urllib.request import Request, urlopen
from zlib import crc32

import pytest

from exemplars import semconv
from tests.boards import FILES, TARGETS, Target, each, filled, links, of, panels
from tests.programs import PACKAGES, PATIENCE, Prometheus, eventually, serving
from tests.stack import running
from tests.stack.polyglot import payment, risk
from tests.stack.process import text

SERVICES: Final = ("front", "stock", "payment", "risk")
STOCK: Final = "/stock/<product>/reservations"  # where a mirror fails
PROMQL: Final = [target for target in TARGETS if target.source == "prometheus"]


@dataclass(frozen=True)
class Stack:
    """The shop and what its telemetry went to, since *start*."""

    prometheus: Prometheus
    tempo: running.Tempo
    loki: running.Loki
    collector: running.Collector
    start: float

    def answer(self, target: Target, **chosen: str) -> list[Any]:
        """What the query of *target* finds; for metrics, its series."""
        asked, end = target.asked(**chosen), time.time() + 1
        match target.source:
            case "prometheus":
                return list(self.prometheus.ask("query", query=asked)["result"])
            case "tempo":
                return self.traces(asked)
            case _:
                return self.loki.lines(asked, self.start, end)

    def traces(self, query: str) -> list[Any]:
        span = {"q": query, "start": int(self.start), "end": int(time.time()) + 1, "limit": 20}
        return list(json.loads(text(f"{self.tempo.url}/api/search?{urlencode(span)}"))["traces"])

    def dots(self, target: Target, **chosen: str) -> list[dict[str, Any]]:
        return self.prometheus.exemplars(target.asked(**chosen), self.start, time.time() + 1)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All of it, with customers who go on coming while it is asked."""
    directory = tmp_path_factory.mktemp("stack")
    logs = directory / "logs"
    logs.mkdir()
    start = time.time() - 1
    with ExitStack() as entered:
        run = entered.enter_context
        tempo, loki = run(running.tempo(directory)), run(running.loki(directory))
        collector = run(running.collector(directory, tempo, loki, logs, DECISION_WAIT="2s", SLOW_TRACE_MS="300"))

        def settings(name: str) -> dict[str, str]:
            return {
                "OTEL_SERVICE_NAME": name,
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp,
                "OTEL_BSP_SCHEDULE_DELAY": "200",
                "LOG_FILE": str(logs / f"{name}.jsonl"),
            }

        asked = run(risk(directory, **settings("risk")))
        paid = run(payment(directory, asked, **settings("payment")))
        gunicorn = ("gunicorn", "--config=python:exemplars.demo.gunicorn_conf", "--bind=127.0.0.1:0")
        stock = run(serving("stock", [*gunicorn, "exemplars.demo.stock:app"], directory, **settings("stock")))
        uvicorn = ("uvicorn", "--port=0", "--no-access-log", "exemplars.demo.front:app")
        front = run(
            serving("front", uvicorn, directory, **settings("front"), **{"STOCK_URL": stock, "PAYMENT_URL": paid})
        )
        urls = {"front": front, "stock": stock, "payment": paid, "risk": asked}
        targets = {name: [url.removeprefix("http://")] for name, url in urls.items()}
        targets["otel-collector"] = [collector.address("OWN")]
        server = run(running.prometheus(directory, targets))
        server.aim({**targets, "prometheus": [server.address("HTTP")]})
        hasten(server)
        load = subprocess.Popen(
            [sys.executable, "-m", "exemplars.demo.load", front, "--rate=25"],
            env={"PYTHONPATH": os.pathsep.join(PACKAGES)},
        )
        try:
            fail(paid)
            yield Stack(server.server, tempo, loki, collector, start)
        finally:
            load.terminate()
            load.wait(PATIENCE)


def hasten(server: running.Prometheus) -> None:
    """Evaluate the rules every second: those of days would take two minutes to begin."""
    file = server.directory / "rules" / "slo.yml"
    file.write_text(re.sub(r"interval: \d+s", "interval: 1s", file.read_text()))
    os.kill(server.pid, signal.SIGHUP)


def fail(payment_url: str) -> None:
    """Have it fail once in each way it knows: what becomes of an order hangs on a sum of the order's number."""
    for chance in (20, 21):
        order = next(f"o-{number}" for number in count() if crc32(f"o-{number}".encode()) % 200 == chance)
        asked = Request(f"{payment_url}/payments", json.dumps({"order": order, "amount": 10}).encode(), method="POST")
        with pytest.raises(HTTPError) as answer:
            urlopen(asked, timeout=PATIENCE)
        assert answer.value.code >= 500
        answer.value.close()


@each(PROMQL)
def test_the_newest_prometheus_understands_every_query(target: Target, stack: Stack) -> None:
    if target.range:
        now = time.time()
        stack.prometheus.ask("query_range", query=target.asked(), start=now - 60, end=now, step=5)
    else:
        stack.prometheus.ask("query", query=target.asked())


@each(TARGETS)
def test_every_query_has_an_answer_under_load(target: Target, stack: Stack) -> None:
    eventually(lambda: stack.answer(target), str(target), stack.prometheus.errors)


def of_failures(target: Target) -> bool:
    return any(word in f"{target.dashboard} {target.panel}" for word in ("ailures", "ailing", "availability"))


@pytest.mark.parametrize("job", SERVICES)
@each([target for target in PROMQL if target.dashboard != "pipeline" and semconv.DURATION in target.expr])
def test_services_in_every_language_answer_the_same_panels(job: str, target: Target, stack: Stack) -> None:
    """With dots, where they are promised. The risk service never fails, so it has no failures to show."""
    if of_failures(target) and job == "risk" and not target.panel.startswith("Error share"):
        assert not stack.dots(target, job=job)
        return
    eventually(lambda: stack.answer(target, job=job), f"{target} of {job}", stack.prometheus.errors)
    if target.exemplar:
        eventually(lambda: stack.dots(target, job=job), f"dots of {target}, {job}", stack.prometheus.errors)


@pytest.mark.parametrize("job", ["front", "stock", "payment"])
@pytest.mark.parametrize("panel", ["Slow traces", "Failed traces"])
def test_traces_are_found_by_service_and_route_without_an_exemplar(panel: str, job: str, stack: Stack) -> None:
    """As regular expressions Grafana escapes routes: none of their braces or brackets means anything."""
    route = escaped({"front": "/products/{product}/orders", "payment": "/payments"}.get(job, STOCK))
    query = of("route", panel).asked(job=job, route=route, slow="1ms")
    (found, *_) = eventually(lambda: stack.traces(query), query)
    assert {span["service"] for span in stack.tempo.trace(found["traceID"])} >= {job}
    assert stack.traces(of("route", panel).asked(job=job, route=escaped("/nowhere"), slow="1ms")) == []


def test_the_lines_of_a_trace_are_found_by_its_id(stack: Stack) -> None:
    """Of the trace that a dot leads to: a line of it, and no line of another."""
    asked = of("route", "Durations of failures: p99 by kind")
    dots = eventually(lambda: stack.dots(asked, job="stock"), "dots of failures", stack.prometheus.errors)
    trace = dots[0]["labels"][semconv.TRACE_ID]
    target = of("route", "Logs")
    lines = eventually(lambda: stack.answer(target, job="stock", trace=trace), f"lines of {trace}")
    assert {line["labels"][semconv.TRACE_ID] for line in lines} == {trace}
    assert {line["labels"].get(semconv.TRACE_ID) for line in stack.answer(target, job="stock")} > {trace}


LINKS: Final = sorted({link["url"] for file in FILES for panel in panels(file) for link in links(panel)})


@pytest.mark.parametrize("url", [url for url in LINKS if url.startswith("/explore")])
def test_links_to_explore_find_traces(url: str, stack: Stack) -> None:
    """With the values of a clicked line put in as Grafana does; nothing in the shop takes a whole second."""
    url = url.replace(quote("duration >= 1s"), quote("duration >= 1ms"))
    values = {"job": "stock", "route": STOCK, "__value": "0.001", "__from": "", "__to": "", "tempo_datasource": ""}
    labels = {"__field.labels.job": "stock", f"__field.labels.{semconv.ROUTE}": STOCK}
    cells = {"__data.fields.job": "stock", f"__data.fields.{semconv.ROUTE}": STOCK}
    named = re.compile(r"\$\{(__(?:field|data)\.[\w.]+)(?::\w+)?\}")
    clicked = named.sub(lambda found: quote({**labels, **cells}[found[1]], safe=""), url)
    (pane,) = json.loads(parse_qs(urlsplit(filled(clicked, values)).query)["panes"][0]).values()
    (query,) = pane["queries"]
    eventually(lambda: stack.traces(query["query"]), query["query"])


def test_the_collector_and_prometheus_have_every_metric_that_is_asked_for(stack: Stack) -> None:
    """But those which a Collector shows only once they have happened, which nobody wants here."""
    pages = f"{stack.collector.own_metrics()}\n{text(f'{stack.prometheus.url}/metrics')}"
    shown = set(re.findall(r"^(\w+)(?=[ {])", pages, re.MULTILINE))
    asked = "\n".join(target.asked() for target in PROMQL)
    patterns = set(re.findall(r'__name__=~"([^"]*)"', asked))
    patterns |= {name for name in re.findall(r"(\w+)\{", asked) if name.startswith(("prometheus_", "otelcol_"))}
    assert len(patterns) > 12
    missing = {pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in shown)}
    assert all(re.search("too_large|enqueue_failed|send_failed|late_span_age", pattern) for pattern in missing)


def escaped(text: str) -> str:
    """As Grafana's format `regex` does."""
    return re.sub(r"[\\^$*+?.()|[\]{}/]", r"\\\g<0>", text)

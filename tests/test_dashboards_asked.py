"""What Grafana would ask for the dashboards, asked of a real Prometheus: of a page with every kind of request, and of
the demo under its load. What only the Collector, Tempo and Loki can answer is in `tests/stack`."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client import CollectorRegistry

import exemplars
from exemplars import rules, semconv

from .boards import TARGETS, Target, each, of
from .programs import PACKAGES, PATIENCE, Prometheus, eventually, own_server, prometheus, serving

JOB: Final = "shop"
PROMQL: Final = [target for target in TARGETS if target.source == "prometheus"]
ANSWERED: Final = [target for target in PROMQL if "otelcol_" not in target.expr]
DOTTED: Final = [target for target in TARGETS if target.exemplar]
each_dotted = each(DOTTED)


@contextmanager
def scraping(directory: Path, **jobs: str) -> Iterator[Prometheus]:
    """A Prometheus that scrapes *jobs* by their URLs, and itself, as soon as it knows where it is."""
    itself = directory / "prometheus.json"
    itself.write_text("[]")
    scraped: list[dict[str, Any]] = [
        {"job_name": name, "static_configs": [{"targets": [url.removeprefix("http://")]}]} for name, url in jobs.items()
    ]
    scraped.append({"job_name": "prometheus", "file_sd_configs": [{"files": [str(itself)]}]})
    config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": scraped}
    slo = rules.groups(rules.Objectives(rules.percent("99.9"), (rules.latency("0.25:99", rules.DEFAULT_BUCKETS),)))
    for group in slo:
        group["interval"] = "1s"  # of days, too
    (directory / "slo.yml").write_text(yaml.safe_dump({"groups": slo}))
    config["rule_files"] = [str(directory / "slo.yml")]
    with prometheus(directory, config, "--enable-feature=exemplar-storage") as server:
        itself.write_text(json.dumps([{"targets": [server.url.removeprefix("http://")]}]))
        yield server


@dataclass(frozen=True)
class Case:
    """A kind of request, by its labels, and the one exemplar that its series shows."""

    route: str
    status: str
    error: str
    seconds: float
    failed: bool

    @property
    def trace(self) -> str:
        return f"{CASES.index(self) + 1:032x}"

    def observe(self, durations: exemplars.Histogram) -> None:
        labels = {semconv.ROUTE: self.route, semconv.STATUS: self.status, semconv.ERROR_TYPE: self.error}
        child = durations.labels(**labels, **{semconv.METHOD: "GET", semconv.SCHEME: "http"})
        child.observe(self.seconds, {semconv.TRACE_ID: self.trace, semconv.SPAN_ID: self.trace[16:]})


CASES: Final = (
    Case("/items", "200", "", 0.02, failed=False),
    Case("/items", "404", "", 0.004, failed=False),
    Case("/items", "500", "500", 0.3, failed=True),
    Case("/items", "500", "ValueError", 0.003, failed=True),
    Case("/items", "503", "", 0.06, failed=True),  # as an SDK of another language says it
    Case("/export", "200", "OSError", 6.0, failed=True),
    Case("/export", "200", "incomplete_response", 0.8, failed=True),
    Case("/export", "200", "client_disconnected", 12.0, failed=False),
    Case("/export", "500", "cancelled", 3.0, failed=False),
    Case("/export", "", "client_disconnected", 1.5, failed=False),
    Case("", "404", "", 0.001, failed=False),
)
FAILED_ONES: Final = [case for case in CASES if case.failed]


@dataclass(frozen=True)
class Shop:
    """What was asked of, and when."""

    prometheus: Prometheus
    start: float

    def dots(self, target: Target, **chosen: str) -> list[str]:
        found = self.prometheus.exemplars(target.asked(**chosen), self.start, time.time() + 1)
        return sorted(exemplar["labels"][semconv.TRACE_ID] for exemplar in found)

    def value(self, target: Target, **chosen: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.prometheus.ask("query", query=target.asked(**chosen))["result"]
        return result


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A Prometheus that has scraped a page with every case, before and after each was observed once more."""
    registry = CollectorRegistry()
    durations = exemplars.Histogram(
        semconv.DURATION,
        "Durations.",
        semconv.REQUEST_LABELS,
        registry=registry,
        buckets=semconv.DURATION_BUCKETS,
        policy=exemplars.Policy(min_retention=3600, max_age=7200),  # the first is kept, however slow the machine
    )
    active = exemplars.Gauge(semconv.ACTIVE_REQUESTS, "In flight.", semconv.ACTIVE_LABELS, registry=registry)
    active.labels("GET", "http").set(3)
    start = time.time() - 1
    for case in CASES:
        case.observe(durations)
    directory = tmp_path_factory.mktemp("prometheus")
    with own_server(registry) as port, scraping(directory, **{JOB: f"http://127.0.0.1:{port}"}) as server:
        server.scraped(JOB, 2)
        server.scraped("prometheus", 2)
        for case in CASES:
            case.observe(durations)
        server.scraped(JOB, 2)
        server.scraped("prometheus", 2)
        yield Shop(server, start)


def traces(cases: list[Case]) -> list[str]:
    return sorted(case.trace for case in cases)


def shown(target: Target) -> list[Case]:
    if "failures" in target.panel or "availability" in target.panel:
        return FAILED_ONES
    if "latency" in target.panel:
        return [case for case in CASES if not case.failed and not case.error]
    return list(CASES)


@each(PROMQL)
def test_prometheus_understands_every_query(target: Target, shop: Shop) -> None:
    if target.range:
        now = time.time()
        shop.prometheus.ask("query_range", query=target.asked(), start=now - 60, end=now, step=5)
    else:
        shop.prometheus.ask("query", query=target.asked())


@each(ANSWERED)
def test_every_query_has_an_answer(target: Target, shop: Shop) -> None:
    assert shop.value(target)


@each_dotted
def test_every_case_has_its_dot_once(target: Target, shop: Shop) -> None:
    assert shop.dots(target) == traces(shown(target))


@each([target for target in DOTTED if "$route" in target.expr])
def test_the_route_chosen_filters_dots(target: Target, shop: Shop) -> None:
    chosen = [case for case in shown(target) if case.route == "/export"]
    assert chosen and shop.dots(target, route="/export") == traces(chosen)


@each([target for target in DOTTED if "$status" in target.expr])
def test_the_status_chosen_filters_dots(target: Target, shop: Shop) -> None:
    chosen = [case for case in shown(target) if case.status == "500"]
    assert chosen and shop.dots(target, status="500") == traces(chosen)


def test_error_share_counts_failures_and_not_those_who_left(shop: Shop) -> None:
    (series,) = shop.value(of("overview", "Error share"))
    assert float(series["value"][1]) == pytest.approx(len(FAILED_ONES) / len(CASES))


def test_error_share_is_zero_without_failures_and_absent_without_requests(shop: Shop) -> None:
    failing_none = of("overview", "Error share").asked().replace('http_route=~".*"', 'http_route=""')
    (series,) = shop.prometheus.ask("query", query=failing_none)["result"]
    assert float(series["value"][1]) == 0
    assert shop.value(of("overview", "Error share"), route="/unheard-of") == []


def test_errors_are_named_by_route_and_kind(shop: Shop) -> None:
    found = shop.value(of("overview", "Failures by route and kind"))
    kinds = {(series["metric"][semconv.ROUTE], series["metric"].get(semconv.ERROR_TYPE, "")) for series in found}
    assert kinds == {(case.route, case.error) for case in FAILED_ONES}


def test_a_status_is_shown_for_those_who_left_before_it(shop: Shop) -> None:
    found = shop.value(of("overview", "Requests by status"))
    assert {series["metric"][semconv.STATUS] for series in found} == {"200", "404", "500", "503", "left"}


@pytest.mark.parametrize("panel", ["Slowest routes", "Most failing routes"])
def test_the_tables_have_a_row_for_every_route(panel: str, shop: Shop) -> None:
    """The one of failures leaves that column empty where nothing failed."""
    title = f"{panel}, over the whole time range"
    for ref in "ABC":
        rows = {series["metric"].get(semconv.ROUTE, "") for series in shop.value(of("overview", title, ref))}
        failing = {case.route for case in FAILED_ONES}
        assert rows == (failing if (panel, ref) == ("Most failing routes", "A") else {case.route for case in CASES})
    for series in shop.value(of("overview", "Most failing routes, over the whole time range", "B")):
        mine = [case for case in CASES if case.route == series["metric"].get(semconv.ROUTE, "")]
        assert float(series["value"][1]) == pytest.approx(sum(case.failed for case in mine) / len(mine))


def test_nothing_is_evicted_before_the_ring_is_full(shop: Shop) -> None:
    (series,) = shop.value(of("pipeline", "Stored and evicted", "B"))
    assert float(series["value"][1]) == 0


def test_an_exemplar_lives_since_it_was_stored(shop: Shop) -> None:
    (series,) = shop.value(of("pipeline", "A dot lives"))
    assert 0 < float(series["value"][1]) < time.time() - shop.start + 2


# The demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The shop's servers under their customers, who go on coming while it is asked."""
    directory = tmp_path_factory.mktemp("demo")
    start = time.time() - 1
    with ExitStack() as stack:
        gunicorn = ("gunicorn", "--config=python:exemplars.demo.gunicorn_conf", "--bind=127.0.0.1:0")
        stock = stack.enter_context(
            serving("stock", (*gunicorn, "exemplars.demo.stock:app"), directory, OTEL_SERVICE_NAME="stock")
        )
        uvicorn = ("uvicorn", "--port=0", "--no-access-log", "exemplars.demo.front:app")
        front = stack.enter_context(serving("front", uvicorn, directory, OTEL_SERVICE_NAME="front", STOCK_URL=stock))
        server = stack.enter_context(scraping(directory, front=front, stock=stock))
        load = subprocess.Popen(
            [sys.executable, "-m", "exemplars.demo.load", front, "--rate=25"],
            env={"PYTHONPATH": os.pathsep.join(PACKAGES)},
        )
        try:
            yield Shop(server, start)
        finally:
            load.terminate()
            load.wait(PATIENCE)


@each(ANSWERED)
def test_the_demo_under_load_answers_every_query(target: Target, demo: Shop) -> None:
    eventually(lambda: demo.value(target), str(target), demo.prometheus.errors)


@each_dotted
@pytest.mark.parametrize("job", ["front", "stock"])
def test_the_demo_under_load_has_dots_in_every_panel_that_promises_them(target: Target, job: str, demo: Shop) -> None:
    eventually(lambda: demo.dots(target, job=job), str(target), demo.prometheus.errors)


def test_once_the_ring_is_full_as_many_are_evicted_as_are_stored(demo: Shop) -> None:
    """With the fill of the ring in the place of its size."""
    stored, evicted = (of("pipeline", "Stored and evicted", ref).asked() for ref in "AB")
    room, fill = (f"prometheus_tsdb_exemplar_{name}" for name in ("max_exemplars", "exemplars_in_storage"))
    assert room in evicted and fill in evicted
    query = f"({evicted.replace(room, fill)}) / ({stored} > 0)"
    (share,) = eventually(lambda: demo.prometheus.ask("query", query=query)["result"], query)
    assert float(share["value"][1]) == 1

"""Python, Go and Node in one shop: one trace through all, the same metrics from each, exemplars of sampled traces."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exemplars import semconv
from exemplars.demo.page import ACCEPT, exemplars
from exemplars.demo.spans import Span, Traces, receiving
from tests.programs import eventually, prometheus, serving
from tests.stack.polyglot import RISK, payment, risk

SERVICES: Final = ("front", "stock", "payment", "risk")
ROUTES: Final = {
    "front": "/products/{product}/orders",
    "stock": "/stock/<product>/reservations",
    "payment": "/payments",
    "risk": "/risk/:customer",
}
FOREIGN: Final = ("payment", "risk")
CALLER: Final = "00000000000000aa"  # the span that called the shop
MOST: Final = 1000  # requests until something is seen that depends on the number of an order

traces_asked_for = count(1)


@dataclass(frozen=True)
class Shop:
    """A running one: where its services listen, the spans they sent, the directory with their logs (`NAME.jsonl`)."""

    urls: dict[str, str]
    traces: Traces
    logs: Path
    client: httpx.Client

    def post(self, service: str, path: str, body: object = None, *, sampled: bool = True) -> tuple[int, str]:
        """The status of the answer, and the trace that the request was part of."""
        trace_id = f"{next(traces_asked_for):032x}"
        headers = {"traceparent": f"00-{trace_id}-{CALLER}-{sampled:02x}"}
        return self.client.post(self.urls[service] + path, json=body, headers=headers).status_code, trace_id

    def order(self, *, sampled: bool = True) -> tuple[int, str]:
        return self.post("front", "/products/ladder/orders?pieces=1", sampled=sampled)

    def page(self, service: str) -> str:
        answer = self.client.get(f"{self.urls[service]}/metrics", headers={"Accept": ACCEPT})
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text; ")
        return answer.text

    def spans(self, trace_id: str, services: set[str]) -> list[Span]:
        """Those of a trace of ours, once all have come: some of each of *services*, and to each span its parent."""

        def come() -> list[Span] | None:
            spans = [span for _, span in self.traces.tree(trace_id)]
            known = {span.span_id for span in spans}
            above = {span.parent_id for span in spans if span.parent_id not in known}
            return spans if {span.service for span in spans} >= services and above == {CALLER} else None

        return eventually(come, f"the spans of {services}", lambda: self.traces.tree(trace_id))


@contextlib.contextmanager
def running(directory: Path, **settings: str) -> Iterator[Shop]:
    traces = Traces()
    with contextlib.ExitStack() as stack:
        spans = stack.enter_context(receiving(traces))

        def environment(name: str) -> dict[str, str]:
            return {
                "OTEL_SERVICE_NAME": name,
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": spans,
                "OTEL_BSP_SCHEDULE_DELAY": "200",
                "LOG_FILE": str(directory / f"{name}.jsonl"),
                **settings,
            }

        risk_url = stack.enter_context(risk(directory, **environment("risk")))
        payment_url = stack.enter_context(payment(directory, risk_url, **environment("payment")))
        gunicorn = ("gunicorn", "--config=python:exemplars.demo.gunicorn_conf", "--bind=127.0.0.1:0")
        stock_url = stack.enter_context(
            serving("stock", [*gunicorn, "exemplars.demo.stock:app"], directory, **environment("stock"))
        )
        others = {"STOCK_URL": stock_url, "PAYMENT_URL": payment_url}
        uvicorn = ("uvicorn", "--port=0", "--no-access-log")
        front_url = stack.enter_context(
            serving("front", [*uvicorn, "exemplars.demo.front:app"], directory, **environment("front"), **others)
        )
        limits = httpx.Limits(max_keepalive_connections=0)  # servers end idle ones, as they may, just when one is used
        client = stack.enter_context(httpx.Client(timeout=30, trust_env=False, limits=limits))
        urls = {"front": front_url, "stock": stock_url, "payment": payment_url, "risk": risk_url}
        yield Shop(urls, traces, directory, client)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with running(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


def paid(shop: Shop) -> str:
    """The trace of an order that was delivered and paid."""
    for _ in range(MOST):
        status, trace_id = shop.order()
        if status == 201:
            return trace_id
    raise AssertionError("no order was paid")


def test_one_trace_goes_through_python_go_and_node(shop: Shop) -> None:
    spans = shop.spans(paid(shop), set(SERVICES))
    by_id = {span.span_id: span for span in spans}

    def way(span: Span) -> list[str]:
        """The names of services from the first span of the trace to *span*."""
        above = by_id.get(span.parent_id)
        return ([] if above is None else way(above)) + [span.service]

    ways = {span.name: way(span) for span in spans}
    assert [span.parent_id for span in spans if span.parent_id not in by_id] == [CALLER]
    assert ways["POST /products/{product}/orders"] == ["front"]
    assert ways["POST /stock/<product>/reservations"] == ["front", "front", "stock"]
    assert ways["POST /payments"] == ["front", "front", "payment"]
    assert ways["charge"] == ["front", "front", "payment", "payment"]
    assert ways["GET /risk/:customer"] == ["front", "front", "payment", "payment", "risk"]
    assert ways["read history"] == [*ways["GET /risk/:customer"], "risk"]
    assert not any(span.failed for span in spans)


def test_a_declined_card_is_told_to_the_customer_and_a_broken_payment_is_an_error_of_the_front(shop: Shop) -> None:
    seen: dict[int, str] = {}
    for _ in range(MOST):
        status, trace_id = shop.order()
        seen.setdefault(status, trace_id)
        if seen.keys() >= {201, 402, 500}:
            break
    assert seen.keys() == {201, 402, 500}

    answering = {"POST /products/{product}/orders", "POST /payments"}
    declined, broken = (
        {span.name for span in shop.spans(seen[status], set(SERVICES)) if span.failed} for status in (402, 500)
    )
    assert not declined & answering  # in the span of the client, 402 is an error by the conventions
    assert broken >= answering


def test_every_ending_of_a_payment_is_counted_as_what_it_was(shop: Shop) -> None:
    before = counted(shop.page("payment"))
    sent: list[tuple[int, str]] = []
    numbers = count()

    def pay(_: int) -> tuple[int, str]:
        return shop.post("payment", "/payments", {"order": f"order-{next(numbers)}", "amount": 10})

    with ThreadPoolExecutor(4) as pool:
        while {status for status, _ in sent} != {201, 402, 500, 502} and len(sent) < MOST:
            sent += pool.map(pay, range(20))
    sent += [shop.post("payment", "/payments", "no payment"), shop.post("payment", "/payments", {"order": "o-1"})]
    statuses = [status for status, _ in sent]
    assert set(statuses) == {201, 402, 500, 502, 400, 422}

    found = {ending: number - before.get(ending, 0) for ending, number in counted(shop.page("payment")).items()}
    errors = {500: "500", 502: "502"}
    assert {ending: number for ending, number in found.items() if number} == {
        ("POST", "/payments", str(status), "http", errors.get(status, "")): statuses.count(status)
        for status in set(statuses)
    }
    for status, level, said in (
        (402, "WARNING", "card declined"),
        (500, "ERROR", "panic: "),
        (502, "ERROR", "acquirer: "),
    ):
        trace_id = next(trace_id for got, trace_id in sent if got == status)
        spans = shop.spans(trace_id, {"payment", "risk"})
        assert next(span for span in spans if span.name == "POST /payments").failed is (status >= 500)
        (line,) = logged(shop, "payment", trace_id)
        assert (line["level"], line["message"][: len(said)]) == (level, said)


def settled(shop: Shop, service: str, requests: float) -> str:
    """The page of a service once it counts so many *requests*: Node measures one when its response is out."""

    def page() -> str | None:
        page = shop.page(service)
        return page if sum(counted(page).values()) == requests else None

    return eventually(page, f"{requests} requests at {service}", lambda: counted(shop.page(service)))


def counted(page: str) -> dict[tuple[str, ...], float]:
    """How many requests each series of durations on *page* counts, by the values of its labels."""
    return {
        tuple(sample.labels.get(name, "") for name in semconv.REQUEST_LABELS): sample.value
        for sample in samples(page)
        if sample.name.endswith("_count")
    }


def samples(page: str) -> list[Any]:
    """Those of the request durations on *page*, which is OpenMetrics by prometheus_client's judgement."""
    families = {family.name: family for family in text_string_to_metric_families(page)}  # type: ignore[no-untyped-call]
    assert families[semconv.DURATION].type == "histogram"
    assert families[semconv.ACTIVE_REQUESTS].type == "gauge"
    return list(families[semconv.DURATION].samples)


@pytest.mark.parametrize("service", SERVICES)
def test_a_page_has_the_names_buckets_and_exemplars_that_the_dashboard_asks_for(shop: Shop, service: str) -> None:
    start = time.time()
    sent: set[str] = set()

    def page_with_ours() -> str | None:
        sent.add(paid(shop))
        page = shop.page(service)
        return page if any(exemplar.trace_id in sent for exemplar in exemplars(page)) else None

    page = eventually(page_with_ours, f"an exemplar of ours at {service}")  # earlier ones have their time
    end = time.time()

    found = [sample for sample in samples(page) if sample.labels.get("http_route") == ROUTES[service]]
    names = {name for sample in found for name in sample.labels}
    assert {"http_request_method", "http_route", "http_response_status_code", "url_scheme"} <= names
    assert names <= {*semconv.REQUEST_LABELS, "le"}
    bounds = {sample.labels["le"] for sample in found if "le" in sample.labels}
    assert bounds == {*map(str, semconv.DURATION_BUCKETS), "+Inf"}
    assert all(sample.labels["url_scheme"] == "http" for sample in found)

    for sample in found:
        if sample.exemplar is not None:
            assert sample.exemplar.labels.keys() == {"trace_id", "span_id"}
    for exemplar in (exemplar for exemplar in exemplars(page) if exemplar.trace_id in sent):
        assert exemplar.route == ROUTES[service]
        # Go writes 1.795932483e+09, of which prometheus_client's parser makes 1.795932483.
        (written,) = re.findall(rf"{exemplar.span_id}.* (\S+)$", page, re.MULTILINE)
        assert start <= float(written) <= end
        assert 0 < exemplar.seconds <= float(exemplar.bound)
        (span,) = (span for span in shop.spans(exemplar.trace_id, set(SERVICES)) if span.span_id == exemplar.span_id)
        assert (span.service, span.name) == (service, f"{exemplar.method} {exemplar.route}")
        assert exemplar.seconds == pytest.approx(span.end - span.start, abs=1.0)


def test_traces_that_are_not_kept_leave_no_exemplar_in_any_language(tmp_path: Path) -> None:
    with running(tmp_path) as shop:
        sent = [shop.order(sampled=False) for _ in range(20)]
        for service in SERVICES:
            page = settled(shop, service, len(sent))
            assert list(exemplars(page)) == []
            assert "trace_id" not in page
        kept = paid(shop)
        assert all(exemplar.trace_id == kept for service in SERVICES for exemplar in exemplars(shop.page(service)))
        shop.spans(kept, set(SERVICES))
    assert not [spans for _, trace_id in sent if (spans := shop.traces.tree(trace_id))]


@pytest.mark.parametrize("service", FOREIGN)
def test_scrapes_are_neither_measured_nor_traced(shop: Shop, service: str) -> None:
    trace_id = f"{next(traces_asked_for):032x}"
    headers = {"traceparent": f"00-{trace_id}-{CALLER}-01", "Accept": ACCEPT}
    shop.page(service)
    before = shop.page(service)
    shop.client.get(f"{shop.urls[service]}/metrics", headers=headers)
    assert counted(shop.page(service)) == counted(before)
    shop.spans(paid(shop), set(SERVICES))  # sent later, and here
    assert shop.traces.tree(trace_id) == []


@pytest.mark.parametrize("service", FOREIGN)
def test_paths_and_methods_of_strangers_make_no_series_of_their_own(shop: Shop, service: str) -> None:
    before = counted(shop.page(service))
    for number in range(3):
        shop.client.request("PROPFIND", f"{shop.urls[service]}/wp-admin/{number}", headers={"Host": f"h{number}"})
    after = counted(settled(shop, service, sum(before.values()) + 3))
    assert {ending: number for ending, number in after.items() if number != before.get(ending)} == {
        ("_OTHER", "", "404", "http", ""): 3
    }


def test_prometheus_takes_the_exemplars_of_every_service(shop: Shop, tmp_path: Path) -> None:
    start = time.time()
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [url.removeprefix("http://")]}]}
            for name, url in shop.urls.items()
        ],
    }
    with prometheus(tmp_path, config, "--enable-feature=exemplar-storage") as server:
        sent: set[str] = set()

        def stored(name: str) -> list[dict[str, Any]] | None:
            sent.add(paid(shop))
            query = f'{semconv.DURATION}_bucket{{job="{name}",http_route="{ROUTES[name]}"}}'
            found = server.exemplars(query, start - 600, time.time() + 1)
            return found if any(one["labels"]["trace_id"] in sent for one in found) else None

        for name in SERVICES:
            found = eventually(partial(stored, name), f"an exemplar of ours of {name}", server.errors)
            assert all(one["labels"].keys() == {"trace_id", "span_id"} for one in found)
            server.scraped(name, 2)
        assert server.errors() == []


@pytest.mark.parametrize("service", FOREIGN)
def test_every_line_of_the_log_is_json_and_those_of_a_request_name_its_span(shop: Shop, service: str) -> None:
    trace_id = paid(shop)
    (line,) = logged(shop, service, trace_id)
    assert line.keys() == {"timestamp", "level", "logger", "message", "service.name", "trace_id", "span_id"}
    assert (line["level"], line["logger"], line["service.name"]) == ("INFO", service, service)
    assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
    spans = shop.spans(trace_id, set(SERVICES))
    assert line["span_id"] in {span.span_id for span in spans if span.service == service}


def logged(shop: Shop, service: str, trace_id: str) -> list[dict[str, str]]:
    """The lines of one trace."""
    lines = [json.loads(line) for line in (shop.logs / f"{service}.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("trace_id") == trace_id]


def test_a_full_disk_costs_lines_of_the_log_and_no_order(tmp_path: Path) -> None:
    with running(tmp_path, LOG_FILE="/dev/full") as shop:
        shop.spans(paid(shop), set(SERVICES))


def test_the_last_spans_are_sent_when_a_service_is_told_to_end(tmp_path: Path) -> None:
    with running(tmp_path, OTEL_BSP_SCHEDULE_DELAY="3600000") as shop:
        trace_id = paid(shop)
    assert {span.service for _, span in shop.traces.tree(trace_id)} >= {"front", *FOREIGN}


def test_the_lock_file_of_the_packages_names_no_place_to_have_them_from() -> None:
    lock = json.loads((RISK / "package-lock.json").read_text())
    assert lock["packages"]["node_modules/express"]["integrity"].startswith("sha512-")
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []

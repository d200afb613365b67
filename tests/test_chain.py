"""The whole chain, of real parts: applications under real servers, under load, scraped by a real Prometheus, and
asked what a dashboard asks. What Grafana would draw as a dot must be a trace that somebody has."""

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exemplars import semconv
from tests.programs import PATIENCE, Prometheus, prometheus, serving

DASHBOARD: Final = Path(__file__).parent.parent / "dashboards" / "overview.json"
REQUESTS: Final = 400  # to each application
AT_ONCE: Final = 6
PAUSE: Final = 0.05  # seconds between a client's requests, so that several scrapes fall into the load
# As OpenTelemetry's instrumentations spell them; the other routes differ by their slashes only.
ITEMS: Final = {"fastapi": "/items/{item}", "flask": "/items/<int:item>", "django": "items/<int:item>"}
GUNICORN: Final = ("gunicorn", "--workers=1", "--bind=127.0.0.1:0")
UVICORN: Final = ("uvicorn", "--port=0")
SERVED: Final = {
    "fastapi-uvicorn": (*UVICORN, "tests.apps.traced_fastapi:app"),
    "django-uvicorn": (*UVICORN, "--factory", "tests.apps.traced_django:asgi"),
    "flask-gunicorn-sync": (*GUNICORN, "tests.apps.traced_flask:app"),
    "flask-gunicorn-gthread": (*GUNICORN, "--worker-class=gthread", "--threads=4", "tests.apps.traced_flask:app"),
    "django-gunicorn-sync": (*GUNICORN, "tests.apps.traced_django:wsgi()"),
    "django-gunicorn-gthread": (*GUNICORN, "--worker-class=gthread", "--threads=4", "tests.apps.traced_django:wsgi()"),
}
each_server = pytest.mark.parametrize("job", SERVED)

Dot = tuple[str, str]  # trace id, span id


@dataclass
class Job:
    """One application: what its clients saw, what it exported, and what Prometheus knows of it."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)  # path and status
    unsampled: set[str] = field(default_factory=set)  # trace ids that the clients did not want sampled
    spans: dict[Dot, dict[str, Any]] = field(default_factory=dict)
    dots: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by query of the dashboard
    on_page: set[Dot] = field(default_factory=set)  # at the end
    counted: Counter[tuple[str, int]] = field(default_factory=Counter)  # route and status

    @property
    def all_dots(self) -> list[dict[str, Any]]:
        return [dot for dots in self.dots.values() for dot in dots]


@dataclass
class Chain:
    jobs: dict[str, Job]
    prometheus_metrics: str


def queries(job: str) -> list[str]:
    """The dashboard's queries that bring dots, as Grafana asks them."""
    values = {"job": job, "route": ".*", "__rate_interval": "1m"}
    targets = [t for panel in json.loads(DASHBOARD.read_text())["panels"] for t in panel.get("targets", ())]
    return [re.sub(r"\$(\w+)", lambda found: values[found[1]], t["expr"]) for t in targets if t["exemplar"]]


async def load(urls: dict[str, str], jobs: dict[str, Job]) -> None:
    """The same requests to all; a third have a parent that is sampled, a third one that is not."""
    paths = ("/items/7", "/items/8", "/items/9", "/slow", "/stream", "/fail", "/nowhere")
    limits = httpx.Limits(max_keepalive_connections=0)

    async def client(job: Job, url: str, seed: int) -> None:
        choose = random.Random(seed)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=PATIENCE, trust_env=False) as http:
            for _ in range(REQUESTS // AT_ONCE):
                path, sampled = choose.choice(paths), choose.choice((None, "00", "01"))
                trace_id = f"{choose.getrandbits(128):032x}"
                parent = {"traceparent": f"00-{trace_id}-{choose.getrandbits(64):016x}-{sampled}"}
                response = await http.get(path, headers=parent if sampled else {})
                job.answers[path, response.status_code] += 1
                if sampled == "00":
                    job.unsampled.add(trace_id)
                await asyncio.sleep(PAUSE)

    async with asyncio.TaskGroup() as clients:
        for name, url in urls.items():
            for seed in range(AT_ONCE):
                clients.create_task(client(jobs[name], url, seed))


def ask(prometheus: Prometheus, name: str, job: Job, start: float) -> None:
    end = time.time() + 1
    job.dots = {query: prometheus.exemplars(query, start, end) for query in queries(name)}
    for found in prometheus.ask("query", query=f'{semconv.DURATION}_count{{job="{name}"}}')["result"]:
        labels = found["metric"]
        key = labels.get(semconv.ROUTE, ""), int(labels[semconv.STATUS])
        job.counted[key] += int(float(found["value"][1]))


def page(url: str) -> str:
    request = Request(f"{url}/metrics", headers={"Accept": "application/openmetrics-text"})
    with urlopen(request, timeout=PATIENCE) as response:
        return str(response.read().decode())


def exemplars_of(text: str) -> set[Dot]:
    return {
        (sample.exemplar.labels[semconv.TRACE_ID], sample.exemplar.labels[semconv.SPAN_ID])
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar
    }


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Everything run once, at the same time, and ended."""
    directory = tmp_path_factory.mktemp("chain")
    jobs = {name: Job() for name in SERVED}
    start = time.time() - 1
    with ExitStack() as stack:
        urls = {
            name: stack.enter_context(serving(name, arguments, directory, SPANS=str(directory / f"{name}.jsonl")))
            for name, arguments in SERVED.items()
        }
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [
                {"job_name": name, "static_configs": [{"targets": [url.removeprefix("http://")]}]}
                for name, url in urls.items()
            ],
        }
        for url in urls.values():
            page(url)  # it has started
        server = stack.enter_context(prometheus(directory, config, "--enable-feature=exemplar-storage"))
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: server.scraped(name, 1), SERVED))  # Prometheus takes seconds to begin
            asyncio.run(load(urls, jobs))
            list(pool.map(lambda name: server.scraped(name, 2), SERVED))  # the second one began after the load
        for name, job in jobs.items():
            ask(server, name, job, start)
            job.on_page = exemplars_of(page(urls[name]))
        with urlopen(f"{server.url}/metrics", timeout=PATIENCE) as response:
            own = response.read().decode()
    for name, job in jobs.items():
        spans = [json.loads(line) for line in (directory / f"{name}.jsonl").read_text().splitlines()]
        job.spans = {(span["trace_id"], span["span_id"]): span for span in spans}
    yield Chain(jobs, own)


@each_server
def test_every_dotted_query_of_the_dashboard_brings_dots(chain: Chain, job: str) -> None:
    assert {query for query, dots in chain.jobs[job].dots.items() if not dots} == set()


@each_server
def test_a_dot_is_a_server_span_that_was_exported_sampled_and_marked_or_an_error(chain: Chain, job: str) -> None:
    """Tail sampling keeps the marked and the failed ones, so whoever clicks the dot finds the trace."""
    told = chain.jobs[job]
    for dot in told.all_dots:
        labels, series = dot["labels"], dot["series"]
        assert set(labels) == {semconv.TRACE_ID, semconv.SPAN_ID}
        span = told.spans.get((labels[semconv.TRACE_ID], labels[semconv.SPAN_ID]))
        assert span is not None, f"a dot without an exported span: {dot}"
        assert span["sampled"]
        assert span["marked"] or span["error"]
        assert span["trace_id"] not in told.unsampled
        assert span["route"] == series.get(semconv.ROUTE, "")
        assert float(dot["value"]) <= float(series["le"])


@each_server
def test_what_the_page_shows_prometheus_has_taken(chain: Chain, job: str) -> None:
    told = chain.jobs[job]
    taken = {(dot["labels"][semconv.TRACE_ID], dot["labels"][semconv.SPAN_ID]) for dot in told.all_dots}
    assert told.on_page
    assert told.on_page <= taken
    assert len(taken) > len(told.on_page), "none was replaced: the load was too short to prove anything"


@each_server
def test_every_request_is_counted_once_under_its_route_and_status(chain: Chain, job: str) -> None:
    told = chain.jobs[job]
    framework = job.split("-")[0]
    seen: Counter[tuple[str, int]] = Counter()
    for (path, status), times in told.answers.items():
        route = ITEMS[framework] if path.startswith("/items/") else "" if path == "/nowhere" else path
        seen[route.lstrip("/") if framework == "django" else route, status] += times
    assert {status for _, status in seen} == {200, 404, 500}
    assert seen.total() == REQUESTS // AT_ONCE * AT_ONCE
    assert told.counted == seen


def test_prometheus_drops_no_exemplar(chain: Chain) -> None:
    """Neither out of order nor for any other reason; a scrape that failed has ended the chain before."""
    dropped = {
        line.split()[0]: float(line.split()[1])
        for line in chain.prometheus_metrics.splitlines()
        if re.match(
            r"prometheus_(target_scrapes_exemplar_out_of_order|tsdb_exemplar_out_of_order_exemplars)_total", line
        )
    }
    assert dropped == {
        "prometheus_target_scrapes_exemplar_out_of_order_total": 0.0,
        "prometheus_tsdb_exemplar_out_of_order_exemplars_total": 0.0,
    }

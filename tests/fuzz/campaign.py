"""Hits, a hundred to a registry, and the pages of it, each of which is read and compared with what was sent."""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import urlencode

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Metric as MetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from exemplars import make_asgi_app, make_wsgi_app, semconv
from tests.drivers import make_environ, make_scope, run_asgi, run_wsgi
from tests.fuzz.hits import APPS, MAX_SERIES, Hit, accepts, answering, hits, names
from tests.otel import Spans

HITS_TO_A_REGISTRY: Final = 100
HITS_TO_A_PAGE: Final = 10  # a page after every tenth hit: the last shows all hundred
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Input(NamedTuple):
    """A request to an application, and what a scrape after it asks for."""

    hit: Hit
    accept: str
    names: list[str]


@dataclass
class Page:
    """A page in OpenMetrics, and how many samples prometheus_client's parser found in it."""

    body: bytes
    samples: int


@dataclass
class Summary:
    """What was done, as figures."""

    inputs: int = 0
    different: int = 0  # inputs
    registries: int = 0
    pages: int = 0
    size: int = 0  # of all pages, in bytes
    samples: int = 0
    exemplars: int = 0
    kept: list[Page] = field(default_factory=list)  # some of the pages, for Prometheus
    other_pages: Counter[str] = field(default_factory=Counter)  # of other Accept headers, by content type
    restricted: int = 0  # pages of some names
    label_sets: set[tuple[str, ...]] = field(default_factory=set)  # of the duration, but the overflow's
    overflown: int = 0  # hits that went to the overflow series
    most_series: int = 0  # of one metric on one page
    endings: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        figures = {
            "inputs": self.inputs,
            "of them different": self.different,
            "registries": self.registries,
            "pages read by prometheus_client's OpenMetrics parser": self.pages,
            "bytes of them": self.size,
            "samples on them": self.samples,
            "exemplars on them": self.exemplars,
            "pages for other Accept headers": self.other_pages.total(),
            "pages of some names": self.restricted,
            "label sets of the duration": len(self.label_sets),
            "hits in overflow series": self.overflown,
            f"most series of a metric (max_series {', '.join(map(str, MAX_SERIES))})": self.most_series,
        }
        lines = [f"{value:>12,}  {name}" for name, value in figures.items()]
        lines += [f"{count:>12,}  {content_type}" for content_type, count in self.other_pages.most_common()]
        lines += [f"{count:>12,}  ended with {ending!r}" for ending, count in self.endings.most_common()]
        return "\n".join(lines)


def draw(count: int, seed_: int) -> list[Input]:
    """*count* inputs of hypothesis's."""
    drawn: list[Input] = []

    @seed(seed_)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.builds(Input, hits, accepts, names))
    def collect(one: Input) -> None:
        drawn.append(one)

    collect()
    assert len(drawn) >= count
    return drawn[:count]


def run(count: int, keep: int, seed_: int) -> Summary:
    """Send *count* inputs, a whole number of hundreds, and keep *keep* of the pages.

    Raises ``AssertionError``, with the inputs in its notes, when a page or a count is wrong.
    """
    summary = Summary()
    inputs = draw(count, seed_)
    summary.different = len({repr(one) for one in inputs})
    kept = set(random.Random(seed_).sample(range(count // HITS_TO_A_PAGE), keep))
    kinds = itertools.cycle(itertools.product(APPS, MAX_SERIES))
    for first in range(0, count, HITS_TO_A_REGISTRY):
        batch = inputs[first : first + HITS_TO_A_REGISTRY]
        kind, max_series = next(kinds)
        try:
            send(batch, kind, max_series, kept, summary)
        except Exception as error:
            error.add_note(f"{kind}, max_series={max_series}, seed={seed_}: {batch}")
            raise
    return summary


def send(batch: list[Input], kind: str, max_series: int, kept: set[int], summary: Summary) -> None:
    """Let the application *kind* answer *batch*, with a registry of its own."""
    registry, spans = CollectorRegistry(), Spans()
    answer = answering(kind, registry, spans, max_series)
    summary.registries += 1
    for number, one in enumerate(batch, 1):
        answer(one.hit)
        if number % HITS_TO_A_PAGE == 0:
            page = check(registry, spans, number, max_series, summary)
            if summary.pages in kept:
                summary.kept.append(page)
            summary.pages += 1
            check_other(registry, one.accept, summary)
            check_restricted(registry, one.names, summary)
    summary.inputs += len(batch)
    summary.endings.update(str(one.hit.ending) for one in batch)


def scrape(registry: CollectorRegistry, accept: str, query: str = "") -> tuple[bytes, str]:
    """The page as our WSGI endpoint gives it, and its content type."""
    result = run_wsgi(make_wsgi_app(registry), make_environ("/?" + query, HTTP_ACCEPT=accept))
    assert (result.exception, result.status) == (None, "200 OK")
    return result.body, dict(result.headers)["Content-Type"]


def scrape_asgi(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The page as our ASGI endpoint gives it, and its content type."""
    exchange = run_asgi(make_asgi_app(registry), make_scope(headers=[("accept", accept)]))
    assert (exchange.exception, exchange.status) == (None, 200)
    return exchange.body, dict(exchange.messages[0]["headers"])[b"content-type"].decode()


def read(body: bytes, content_type: str) -> list[MetricFamily]:
    """The families of a page, by prometheus_client's parser for its content type."""
    if "escaping=dots" in content_type:
        body = body.replace(b"__", b"_")  # their parser does not know suffixes whose underscore is two
    if content_type.startswith("application/openmetrics-text; "):
        return list(read_openmetrics(body.decode()))  # type: ignore[no-untyped-call]
    assert content_type.startswith("text/plain; ")
    return list(read_text(body.decode()))


def check(registry: CollectorRegistry, spans: Spans, hits: int, max_series: int, summary: Summary) -> Page:
    """The whole page: that it can be read, counts every hit once, is bounded, and shows only what was exported."""
    body, content_type = scrape(registry, OPENMETRICS)
    assert content_type == OPENMETRICS
    families = {family.name: family for family in read(body, content_type)}
    duration = families[semconv.DURATION]
    counts = {tuple(s.labels.items()): s.value for s in duration.samples if s.name.endswith("_count")}
    overflow = counts.pop(((semconv.OVERFLOW, "true"),), 0.0)
    assert sum(counts.values()) + overflow == hits
    assert sum(sample.value for sample in families[semconv.ACTIVE_REQUESTS].samples) == 0
    for family in families.values():
        if not family.name.startswith("exemplars_"):
            series = {tuple((k, v) for k, v in s.labels.items() if k != "le") for s in family.samples}
            assert len(series) <= max_series + 1
            summary.most_series = max(summary.most_series, len(series))
    exported = {(f"{s.context.trace_id:032x}", f"{s.context.span_id:016x}") for s in spans.exported if s.context}
    shown = list(exemplars(families.values()))
    assert set(shown) <= exported

    samples = sum(len(family.samples) for family in families.values())
    summary.size += len(body)
    summary.samples += samples
    summary.exemplars += len(shown)
    summary.label_sets.update(tuple(value for _, value in labels) for labels in counts)
    if hits == HITS_TO_A_REGISTRY:
        summary.overflown += int(overflow)
    return Page(body, samples)


def exemplars(families: Iterable[MetricFamily]) -> Iterator[tuple[str, str]]:
    """The trace and span of every exemplar, which has no other labels."""
    for family in families:
        for sample in family.samples:
            if sample.exemplar is not None:
                assert set(sample.exemplar.labels) == {semconv.TRACE_ID, semconv.SPAN_ID}
                yield sample.exemplar.labels[semconv.TRACE_ID], sample.exemplar.labels[semconv.SPAN_ID]


def check_other(registry: CollectorRegistry, accept: str, summary: Summary) -> None:
    """The page that another Accept header gets: that it is what its content type says, at either endpoint."""
    body, content_type = scrape(registry, accept)
    assert scrape_asgi(registry, accept)[1] == content_type
    assert read(body, content_type)
    summary.other_pages[content_type] += 1


def check_restricted(registry: CollectorRegistry, wanted: list[str], summary: Summary) -> None:
    """The page of some names only: that it has no others; an empty name is none."""
    body, content_type = scrape(registry, OPENMETRICS, urlencode([("name[]", name) for name in wanted]))
    asked = set(filter(None, wanted))
    for family in read(body, content_type):
        assert not asked or family.name in asked or {sample.name for sample in family.samples} <= asked
    summary.restricted += 1

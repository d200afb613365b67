"""Hits, a hundred to a registry, and the pages of it, each of which is read and compared with what was sent."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
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


@dataclass
class Page:
    """A page in OpenMetrics, and how many samples prometheus_client's parser found in it."""

    body: bytes
    samples: int


@dataclass
class Summary:
    """What was done, as figures."""

    inputs: int = 0
    registries: int = 0
    pages: list[Page] = field(default_factory=list)
    other_pages: Counter[str] = field(default_factory=Counter)  # of other Accept headers, by content type
    restricted: int = 0  # pages of some names
    label_sets: set[tuple[str, ...]] = field(default_factory=set)  # of the duration, but the overflow's
    overflown: int = 0  # hits that went to the overflow series
    most_series: int = 0  # of one metric on one page
    exemplars: int = 0  # on all pages
    endings: Counter[str] = field(default_factory=Counter)
    apps: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        size = sum(len(page.body) for page in self.pages)
        figures = {
            "inputs": self.inputs,
            "registries": self.registries,
            "pages read by prometheus_client's OpenMetrics parser": len(self.pages),
            "bytes of them": size,
            "samples on them": sum(page.samples for page in self.pages),
            "exemplars on them": self.exemplars,
            "pages for other Accept headers": self.other_pages.total(),
            "pages of some names": self.restricted,
            "label sets of the duration": len(self.label_sets),
            "hits in overflow series": self.overflown,
            f"most series of a metric (max_series at most {max(MAX_SERIES)})": self.most_series,
        }
        lines = [f"{value:>12,}  {name}" for name, value in figures.items()]
        lines += [f"{count:>12,}    {content_type}" for content_type, count in self.other_pages.most_common()]
        lines += [f"{count:>12,}  ended {ending!r}" for ending, count in self.endings.most_common()]
        return "\n".join(lines)


def run(inputs: int, seed_: int | None = None) -> Summary:
    """Send *inputs* hits, a whole number of hundreds. Raises what a page or a count is found wrong by."""
    summary = Summary()
    spans = Spans()

    @settings(
        max_examples=inputs // HITS_TO_A_REGISTRY,
        deadline=None,
        database=None,
        phases=(Phase.generate,),  # a hundred hits to make smaller would take longer than to look at them
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(APPS),
        st.sampled_from(MAX_SERIES),
        st.lists(hits, min_size=HITS_TO_A_REGISTRY, max_size=HITS_TO_A_REGISTRY),
        st.lists(accepts, min_size=1, max_size=3),
        names,
    )
    def send(kind: str, max_series: int, sent: list[Hit], accepted: list[str], wanted: list[str]) -> None:
        registry = CollectorRegistry()
        answer = answering(kind, registry, spans, max_series)
        summary.registries += 1
        summary.apps[kind] += 1
        for number, hit in enumerate(sent, 1):
            answer(hit)
            if number % HITS_TO_A_PAGE == 0:
                check(registry, spans, number, max_series, summary)
        for accept in accepted:
            check_other(registry, accept, summary)
        check_restricted(registry, wanted, summary)
        summary.inputs += len(sent)
        summary.endings.update(str(hit.ending) for hit in sent)
        spans.clear()

    (send if seed_ is None else seed(seed_)(send))()
    return summary


def spread(pages: Sequence[Page], most: int) -> list[Page]:
    """At most *most* of *pages*, from first to last."""
    count = min(most, len(pages))
    return [pages[number * len(pages) // count] for number in range(count)]


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


def check(registry: CollectorRegistry, spans: Spans, hits: int, max_series: int, summary: Summary) -> None:
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

    summary.pages.append(Page(body, sum(len(family.samples) for family in families.values())))
    summary.label_sets.update(tuple(value for _, value in labels) for labels in counts)
    summary.exemplars += len(shown)
    if hits == HITS_TO_A_REGISTRY:
        summary.overflown += int(overflow)


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

"""The Collector with the files of `compose/`: what it keeps, what it counts, what it loses."""

import random
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.error import HTTPError

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar, Sample

from tests.programs import eventually
from tests.stack import composed, running
from tests.stack.build import binary
from tests.stack.sending import CLIENT, Span, arrive, send


@pytest.mark.parametrize(
    "files",
    [
        ("otel-collector.yaml",),
        ("otel-collector.yaml", "otel-logs.yaml"),
        ("otel-first-tier.yaml",),
        ("otel-first-tier.yaml", "otel-logs.yaml"),
    ],
)
def test_configuration_is_valid_and_of_no_deprecated_name(files: tuple[str, ...]) -> None:
    flags = [f"--config={composed.COMPOSE / file}" for file in files]
    said = subprocess.run([binary("otelcol"), "validate", *flags], check=True, capture_output=True, text=True)
    assert said.stdout + said.stderr == ""


@pytest.fixture
def tempo(tmp_path: Path) -> Iterator[running.Tempo]:
    with running.tempo(tmp_path) as started:
        yield started


def fast(
    directory: Path, tempo: running.Tempo | None = None, **variables: str
) -> AbstractContextManager[running.Collector]:
    """A Collector that lets nobody wait, and keeps no share of the rest."""
    soon = {"DECISION_WAIT": "1s", "SPAN_METRICS_INTERVAL": "1s", "BASE_PERCENT": "0"}
    return running.collector(directory, tempo, None, None, **{**soon, **variables})


def call() -> tuple[Span, Span, Span]:
    """A trace as the shop has them: front asks, stock answers."""
    front = Span("front")
    ask = front.child("front", kind=CLIENT, name="GET")
    return front, ask, ask.child("stock")


def test_what_an_exemplar_points_to_is_kept_whole_and_the_rest_is_not(tmp_path: Path, tempo: running.Tempo) -> None:
    """Whichever service marked its span, and though every service sends its spans by itself."""
    by_front = [(front.marked(), ask, stock) for front, ask, stock in (call() for _ in range(20))]
    by_stock = [(front, ask, stock.marked()) for front, ask, stock in (call() for _ in range(20))]
    rest = [call() for _ in range(80)]
    with fast(tmp_path, tempo) as collector:
        send(collector.otlp, [stock for _, _, stock in (*by_front, *by_stock, *rest)])
        send(collector.otlp, [span for front, ask, _ in (*by_front, *by_stock, *rest) for span in (ask, front)])
        for trace in (*by_front, *by_stock):
            arrive(tempo, trace)
        eventually(lambda: collector.decided() == {"true": 40, "false": 80}, "all decisions", collector.tail)
    assert not any(tempo.trace(front.trace_id) for front, _, _ in rest)


def test_errors_and_slow_traces_are_kept(tmp_path: Path, tempo: running.Tempo) -> None:
    failed = Span("front").child("stock", failed=True)
    slow, quick = Span("front", seconds=0.31), Span("front", seconds=0.29)
    with fast(tmp_path, tempo, SLOW_TRACE_MS="300") as collector:
        send(collector.otlp, [failed, slow, quick])
        arrive(tempo, [failed])
        arrive(tempo, [slow])
        eventually(lambda: collector.decided() == {"true": 2, "false": 1}, "all decisions", collector.tail)
    assert not tempo.trace(quick.trace_id)


def test_a_share_of_the_rest_is_kept(tmp_path: Path, tempo: running.Tempo) -> None:
    """Chosen by the trace's id, so these two hundred always give the same."""
    numbers = random.Random(1)
    spans = [Span("front", trace_id=f"{numbers.getrandbits(128):032x}") for _ in range(200)]
    with fast(tmp_path, tempo, BASE_PERCENT="20") as collector:
        send(collector.otlp, spans)
        eventually(lambda: sum(collector.decided().values()) == 200, "all decisions", collector.tail)
        kept = collector.decided()["true"]
        assert 20 <= kept <= 60
        eventually(lambda: sum(bool(tempo.trace(span.trace_id)) for span in spans) == kept, "the share in Tempo")


def test_what_comes_after_the_decision_goes_its_way(tmp_path: Path, tempo: running.Tempo) -> None:
    """So a mark that comes later than the decision wait saves nothing: that is the promise's limit."""
    kept, lost = Span("front").marked(), Span("front")
    with fast(tmp_path, tempo) as collector:
        send(collector.otlp, [kept, lost])
        eventually(lambda: collector.decided() == {"true": 1, "false": 1}, "both decisions", collector.tail)
        late = [kept.child("stock"), lost.child("stock").marked()]
        send(collector.otlp, late)
        arrive(tempo, [kept, late[0]])
        # The other has been thrown away by then, not only delayed.
        pattern = (
            r'(?m)^otelcol_processor_tail_sampling_early_releases_from_cache_decision(?:_total)?{.*sampled="false"'
        )
        eventually(lambda: re.search(pattern, collector.own_metrics()), "the late span to be counted", collector.tail)
    assert not tempo.trace(lost.trace_id)


def test_a_collector_that_is_asked_to_end_decides_first_and_one_that_is_killed_forgets(
    tmp_path: Path, tempo: running.Tempo
) -> None:
    pending, forgotten = Span("front").marked(), Span("front").marked()
    with fast(tmp_path, tempo, DECISION_WAIT="1h") as collector:
        send(collector.otlp, [pending])
        collector.stop()
        arrive(tempo, [pending])
        collector.start()
        send(collector.otlp, [forgotten])
        collector.stop(signal.SIGKILL)
        collector.start()
        after = Span("front").marked()
        send(collector.otlp, [after])
        collector.stop()
        arrive(tempo, [after])
    assert not tempo.trace(forgotten.trace_id)


def samples(collector: running.Collector, family: str) -> list[Sample]:
    """Of its page in OpenMetrics."""
    families = text_string_to_metric_families(collector.span_metrics())  # type: ignore[no-untyped-call]
    return [sample for found in families if found.name == family for sample in found.samples]


def test_spans_are_counted_before_sampling_and_by_service_not_by_worker(tmp_path: Path) -> None:
    route = {"http.request.method": "GET", "http.route": "/search", "http.response.status_code": "200"}
    spans = [
        Span("front", attributes=route, resource={"service.instance.id": f"worker-{n % 4}"}, seconds=0.2)
        for n in range(40)
    ]
    with fast(tmp_path) as collector:
        send(collector.otlp, spans[:20])
        send(collector.otlp, spans[20:])

        def counted() -> list[Sample]:
            return [
                s for s in samples(collector, "traces_spanmetrics_calls") if s.name.endswith("_total") and s.value == 40
            ]

        (calls,) = eventually(counted, "one series of 40", collector.span_metrics)
        assert calls.labels["service_name"] == "front"
        assert calls.labels["http_route"] == "/search"
        assert calls.labels["span_kind"] == "SPAN_KIND_SERVER"
        buckets = [s for s in samples(collector, "traces_spanmetrics_duration_seconds") if s.name.endswith("_bucket")]
        assert {s.labels["le"]: s.value for s in buckets}["0.25"] == 40


def test_what_is_counted_from_spans_has_exemplars_while_they_are_new(tmp_path: Path) -> None:
    """Whether their traces are kept or not."""
    sent: set[tuple[str, str]] = set()
    with fast(tmp_path) as collector:

        def dots() -> list[Exemplar]:
            span = Span("front", seconds=0.2)
            sent.add((span.trace_id, span.span_id))
            send(collector.otlp, [span])
            return [s.exemplar for s in samples(collector, "traces_spanmetrics_duration_seconds") if s.exemplar]

        found = eventually(dots, "exemplars", collector.span_metrics)
    assert all((dot.labels["trace_id"], dot.labels["span_id"]) in sent for dot in found)


def test_who_calls_whom_is_counted(tmp_path: Path) -> None:
    """Though the two ends of a call come apart."""
    traces = [call() for _ in range(30)]
    with fast(tmp_path) as collector:
        send(collector.otlp, [stock for _, _, stock in traces])
        send(collector.otlp, [span for front, ask, _ in traces for span in (front, ask)])

        def edges() -> list[Sample]:
            return [s for s in samples(collector, "traces_service_graph_request") if s.name.endswith("_total")]

        (edge,) = eventually(
            lambda: [s for s in edges() if s.labels["client"] == "front" and s.value == 30],
            "the edge",
            collector.span_metrics,
        )
        assert edge.labels["server"] == "stock"
        took = samples(collector, "traces_service_graph_request_server_seconds")
        assert {s.value for s in took if s.name.endswith("_count") and s.labels["server"] == "stock"} == {30}


def test_above_its_memory_it_refuses_so_that_senders_try_again(tmp_path: Path) -> None:
    """With a status that SDKs take for "later". Any Collector takes more than the megabyte of this one."""
    with fast(tmp_path, MEMORY_LIMIT_MIB="2", MEMORY_SPIKE_MIB="1") as collector:

        def refused() -> bool:
            try:
                send(collector.otlp, [Span("front")])
            except HTTPError as error:
                return error.code in (429, 503)
            return False

        eventually(refused, "a refusal", collector.tail)
        eventually(
            lambda: re.search(r"(?m)^otelcol_receiver_refused_spans{.*} [1-9]", collector.own_metrics()), "a count"
        )


def test_its_metrics_are_called_as_the_readme_says(tmp_path: Path, tempo: running.Tempo) -> None:
    with fast(tmp_path, tempo) as collector:
        span = Span("front").marked()
        send(collector.otlp, [span])
        arrive(tempo, [span])
        said = set(re.findall(r"`(otelcol_\w+)`", (composed.COMPOSE / "README.md").read_text()))
        # One of failures that are final, for which Tempo would have to be away for minutes.
        said.remove("otelcol_exporter_send_failed_spans")
        page = collector.own_metrics()
        assert said
        assert all(re.search(rf"(?m)^{name}(\{{.*\}})? ", page) for name in said), said

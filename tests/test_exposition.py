"""Pages: what prometheus_client would say, sooner; other people's collectors, isolated; nothing kept too long."""

import gc
import logging
import os
import signal
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, cast

import prometheus_client as theirs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Metric as MetricFamily
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest as encode_text
from prometheus_client.openmetrics.exposition import generate_latest as encode_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exemplars import Counter, Gauge, Histogram, Policy, exposition, faults, metrics, negotiation, render, selfmetrics
from exemplars.policy import Slot
from tests.measured import Clock, Faults
from tests.programs import eventually, program

OPENMETRICS: Final = "application/openmetrics-text;version=1.0.0"
TEXT: Final = "text/plain"
IDS: Final = {"trace_id": f"{0xABC:032x}", "span_id": f"{0xDEF:016x}"}

needs_escaping = pytest.mark.skipif(not exposition._ESCAPES, reason="prometheus_client escapes names since 0.23")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Line(NamedTuple):
    """One sample of a page."""

    family: str
    kind: str
    unit: str
    documentation: str
    name: str
    labels: tuple[tuple[str, str], ...]
    value: float
    exemplar: object


def lines(page: bytes, *, openmetrics: bool = True) -> list[Line]:
    """What prometheus_client's parser reads, in a fixed order. It raises if the page is not valid."""
    parse = cast(Callable[[str], Iterable[MetricFamily]], parse_openmetrics if openmetrics else parse_text)
    found = [
        Line(
            family.name,
            family.type,
            family.unit,
            family.documentation,
            sample.name,
            tuple(sorted(sample.labels.items())),
            sample.value,
            sample.exemplar
            and (
                sorted(sample.exemplar.labels.items()),
                sample.exemplar.value,
                float(cast(float, sample.exemplar.timestamp)),
            ),
        )
        for family in parse(page.decode())
        for sample in family.samples
    ]
    return sorted(found, key=repr)


def samples(page: bytes) -> list[tuple[str, float, str, list[float]]]:
    """Name with labels, value, and exemplar (labels, value and timestamp) of each line."""
    found = []
    for line in page.decode().splitlines():
        if not line.startswith("#"):
            sample, _, exemplar = line.partition(" # ")
            labels, _, numbers = exemplar.rpartition("}")
            name, _, value = sample.rpartition(" ")
            ids = ",".join(sorted(labels.removeprefix("{").split(",")))
            found.append((name, float(value), ids, [*map(float, numbers.split())]))
    return sorted(found)


def page(registry: CollectorRegistry, accept: str = OPENMETRICS, *names: str) -> bytes:
    return render(registry, accept=accept, names=names)[0]


def families(registry: CollectorRegistry) -> list[Line]:
    return lines(page(registry))


def their_page(registry: Any, *, openmetrics: bool = True) -> bytes:
    encode = cast(Callable[[Any], bytes], encode_openmetrics if openmetrics else encode_text)
    return encode(registry)


def put(child: metrics.Child, index: int, value: float, clock: Clock, trace_id: int = 0xABC) -> None:
    """Give bucket *index* of *child* the exemplar of a trace."""
    slot = Slot(value, clock.wall_ms, clock.now, clock.now, trace_id, 0xDEF)
    assert child.record.put(index, slot, instead_of=child.record.slots[index])


def ended(pid: int) -> int:
    """The status of a child process once it has ended. One that hangs is killed, and the test fails."""

    def status() -> int | None:
        found, code = os.waitpid(pid, os.WNOHANG)
        return code + 1 if found else None

    try:
        return eventually(status, "a child process") - 1
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


class Given:
    """A collector of somebody else's, of these families; an exception among them is raised."""

    def __init__(self, *families: MetricFamily | Exception) -> None:
        self._families = families

    def collect(self) -> Iterator[MetricFamily]:
        for family in self._families:
            if isinstance(family, Exception):
                raise family
            yield family


def everything(registry: CollectorRegistry) -> None:
    """Metrics of all of our kinds, with and without labels, with what is special about each."""
    latency = Histogram("latency", 'Say "hi"\nto C:\\', ["route", "code"], unit="seconds", registry=registry)
    latency.labels("/a/{id}", "200").observe(0.003, exemplar=IDS)
    latency.labels("/a/{id}", "200").observe(1e9, exemplar=IDS)
    latency.labels("100%d %s", 'a"b\\c\nd').observe(0.3, exemplar={"note": "100%d x, é"})
    latency.labels("", "é漢🙂").observe(0.3)
    Histogram("plain", "Without labels.", registry=registry, buckets=[1e-9, 0.1, 1, 1e6, 1e16]).observe(2.5, IDS)
    jobs = Counter("jobs", "Jobs.", ["queue"], registry=registry)
    jobs.labels("mail").inc(3, exemplar=IDS)
    jobs.labels("idle").inc(0)
    Counter("bytes_total", "Bytes.", registry=registry).inc(12345678901.5)
    Gauge("temperature", "Outside.", ["place"], registry=registry, unit="celsius").labels("roof").set(-3.5)
    Gauge("infinite", "", registry=registry).set(float("-inf"))
    Gauge("absent", "No series yet.", ["x"], registry=registry)


@pytest.mark.parametrize("accept", [OPENMETRICS, TEXT])
def test_our_page_says_what_prometheus_client_would_say_of_the_same_metrics(
    registry: CollectorRegistry, accept: str
) -> None:
    everything(registry)
    openmetrics = accept == OPENMETRICS
    ours, content_type = render(registry, accept=accept)

    assert content_type == negotiation.choose(accept).content_type
    assert lines(ours, openmetrics=openmetrics) == lines(
        their_page(registry, openmetrics=openmetrics), openmetrics=openmetrics
    )


def test_a_page_of_openmetrics_is_spelled_as_its_specification_says(registry: CollectorRegistry, clock: Clock) -> None:
    latency = Histogram("latency", "Time.", ["route"], unit="seconds", buckets=[0.1, 1e7], registry=registry)
    jobs = Counter("jobs", "Jobs.", registry=registry)
    child = latency.labels("/a")
    child.observe(0.25)
    put(child, 1, 0.25, clock)
    jobs.inc()

    assert page(registry).decode() == (
        "# HELP latency_seconds Time.\n"
        "# TYPE latency_seconds histogram\n"
        "# UNIT latency_seconds seconds\n"
        'latency_seconds_bucket{route="/a",le="0.1"} 0\n'
        'latency_seconds_bucket{route="/a",le="1e+07"} 1'
        ' # {trace_id="00000000000000000000000000000abc",span_id="0000000000000def"} 0.25 1800000000.000\n'
        'latency_seconds_bucket{route="/a",le="+Inf"} 1\n'
        'latency_seconds_count{route="/a"} 1\n'
        'latency_seconds_sum{route="/a"} 0.25\n'
        "# HELP jobs Jobs.\n"
        "# TYPE jobs counter\n"
        "jobs_total 1.0\n"
        "# EOF\n"
    )


def test_plain_text_has_no_exemplars_no_unit_and_calls_a_counter_by_its_sample(
    registry: CollectorRegistry, clock: Clock
) -> None:
    latency = Histogram("latency", 'Say "hi".', unit="seconds", buckets=[0.1], registry=registry)
    latency.observe(0.05, exemplar=IDS)
    Counter("jobs", "Jobs.", registry=registry).inc(2, exemplar=IDS)

    assert page(registry, TEXT).decode() == (
        '# HELP latency_seconds Say "hi".\n'
        "# TYPE latency_seconds histogram\n"
        'latency_seconds_bucket{le="0.1"} 1\n'
        'latency_seconds_bucket{le="+Inf"} 1\n'
        "latency_seconds_count 1\n"
        "latency_seconds_sum 0.05\n"
        "# HELP jobs_total Jobs.\n"
        "# TYPE jobs_total counter\n"
        "jobs_total 2.0\n"
    )


def test_exemplars_bear_the_exact_millisecond(registry: CollectorRegistry, clock: Clock) -> None:
    """Prometheus multiplies by 1000 and truncates; a millisecond lost would make the next exemplar out of order."""
    latency = Histogram("latency", "", buckets=[1.0], registry=registry)
    for millisecond in range(1_799_999_999_000, 1_800_000_001_000):
        clock.wall_ms = millisecond
        put(latency.child(()), 0, 0.5, clock)
        (exemplar,) = [text for text in page(registry).decode().splitlines() if " # " in text]
        assert int(float(exemplar.rsplit(" ", 1)[1]) * 1000) == millisecond


def test_promtool_finds_nothing_wrong_with_the_text(registry: CollectorRegistry) -> None:
    latency = Histogram("latency", "Time.", ["route"], unit="seconds", registry=registry)
    latency.labels('%s\\"\n').observe(0.3)
    Counter("jobs", "Jobs.", registry=registry).inc()
    Gauge("temperature", "Outside.", registry=registry, unit="celsius").set(-3.5)
    selfmetrics.install(registry)
    check = subprocess.run(
        [program("promtool"), "check", "metrics"], input=page(registry, TEXT), capture_output=True, check=False
    )

    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


TEXTS: Final = st.one_of(st.text(max_size=20), st.text(alphabet='"\\\n%sd{}#, \r\t\x00é🙂', max_size=20))


@given(
    values=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5, unique=True), documentation=TEXTS.map(str.strip)
)
def test_any_label_value_and_documentation_comes_back_as_it_was(
    values: list[tuple[str, str]], documentation: str
) -> None:
    registry = CollectorRegistry()
    latency = Histogram("latency", documentation, ["a", "b"], buckets=[1.0], registry=registry)
    for pair in values:
        latency.labels(*pair).observe(0.5, exemplar=IDS)
        latency.labels(*pair).observe(2.5, exemplar={})
    found = families(registry)

    assert {(dict(line.labels)["a"], dict(line.labels)["b"]) for line in found} == set(values)
    assert {line.documentation for line in found} == {documentation}
    counts = [line.value for line in found if line.name == "latency_count"]
    assert counts == [2.0] * len(values)
    text = lines(page(registry, TEXT), openmetrics=False)
    assert {(dict(line.labels)["a"], dict(line.labels)["b"]) for line in text} == set(values)


def test_a_callers_own_exemplar_is_escaped(registry: CollectorRegistry) -> None:
    """By the specification; prometheus_client's parser fails at a quote there, so it is not asked."""
    Counter("jobs", "", registry=registry).inc(exemplar={"note": 'x"y\\z\nw%s'})

    assert b' # {note="x\\"y\\\\z\\nw%s"} 1.0 ' in page(registry)


def test_a_lone_surrogate_spoils_no_page(registry: CollectorRegistry) -> None:
    latency = Histogram("latency", "bad \ud800", ["a"], registry=registry)
    latency.labels("\udcff").observe(0.5)

    assert {dict(line.labels)["a"] for line in families(registry)} == {"?"}
    assert page(registry, TEXT).decode()


STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("observe"), st.sampled_from("abc"), st.sampled_from([0.5, 1.0, 3.0, 99.0])),
        st.tuples(st.just("exemplar"), st.sampled_from("abc"), st.sampled_from([0.5, 1.0, 3.0, 99.0])),
        st.tuples(st.just("wait"), st.sampled_from("abc"), st.sampled_from([0.001, 3.0, 10.0])),
        st.tuples(st.just("remove"), st.sampled_from("abc"), st.just(0.0)),
        st.tuples(st.just("clear"), st.just("a"), st.just(0.0)),
        st.tuples(st.just("scrape"), st.sampled_from(["openmetrics", "text"]), st.just(0.0)),
    ),
    max_size=30,
)


@given(steps=STEPS)
def test_a_page_from_kept_texts_is_the_page_made_anew(steps: list[tuple[str, str, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        registry = CollectorRegistry()
        policy = Policy(min_retention=2.0, max_age=12.0)
        latency = Histogram("latency", "", ["a"], buckets=[1.0, 5.0], policy=policy, registry=registry)
        jobs = Counter("jobs", "", ["a"], policy=policy, registry=registry)
        level = Gauge("level", "", ["a"], registry=registry)
        for action, label, amount in [*steps, ("scrape", "openmetrics", 0.0), ("scrape", "text", 0.0)]:
            if action in ("observe", "exemplar"):
                exemplar = IDS if action == "exemplar" else {}
                latency.labels(label).observe(amount, exemplar)
                jobs.labels(label).inc(amount, exemplar)
                level.labels(label).set(amount)
            elif action == "wait":
                clock.advance(amount)
            elif action == "remove":
                latency.remove(label)
            elif action == "clear":
                jobs.clear()
            else:
                accept = OPENMETRICS if label == "openmetrics" else TEXT
                kept = page(registry, accept)
                exposition._writers.clear()
                assert kept == page(registry, accept)
                if accept == OPENMETRICS:
                    assert lines(kept) == lines(their_page(registry))


def test_an_exemplar_vanishes_with_its_age_also_where_nothing_else_changes(
    registry: CollectorRegistry, clock: Clock
) -> None:
    policy = Policy(min_retention=1.0, max_age=100.0)
    latency = Histogram("latency", "", buckets=[1.0], policy=policy, registry=registry)
    latency.observe(0.5, exemplar=IDS)
    clock.advance(60)
    latency.observe(2.0, exemplar=IDS)
    both = page(registry)
    clock.advance(40)

    assert page(registry) == both
    assert both.count(b" # {") == 2
    clock.advance(1)
    assert page(registry).count(b" # {") == 1
    clock.advance(60)
    assert page(registry).count(b" # {") == 0
    assert families(registry)  # the counts are still there


def test_what_did_not_change_is_not_written_again(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    latency = Histogram("latency", "", ["a"], buckets=[1.0, 2.0], policy=Policy(min_retention=0.0), registry=registry)
    for label in "abc":
        latency.labels(label).observe(0.5, exemplar=IDS)
        latency.labels(label).observe(1.5, exemplar=IDS)
    page(registry)
    written: list[object] = []
    pairs, number = exposition._pairs, exposition._number

    def write_pairs(labels: Iterable[tuple[str, str]]) -> str:
        written.append(dict(labels))
        return pairs(labels)

    def write_number(value: float) -> str:
        written.append(value)
        return number(value)

    monkeypatch.setattr(exposition, "_pairs", write_pairs)
    monkeypatch.setattr(exposition, "_number", write_number)

    page(registry)
    assert written == []
    latency.labels("b").observe(3.0, exemplar={})
    page(registry)
    assert written == [5.0]  # the sum of the one series that changed
    written.clear()
    latency.labels("c").observe(1.75, exemplar=IDS)
    page(registry)
    assert written == [IDS, 3.75]  # the one exemplar that changed


def test_removed_series_and_metrics_leave_nothing_behind(registry: CollectorRegistry) -> None:
    latency = Histogram("latency", "", ["a"], registry=registry)
    latency.labels("x").observe(0.5)
    latency.labels("y").observe(0.5)
    page(registry)
    latency.remove("x")
    assert {dict(line.labels)["a"] for line in families(registry)} == {"y"}
    (writer,) = exposition._writers[latency].values()
    assert [dict(child.labels)["a"] for child in writer._texts] == ["y"]

    gone = weakref.ref(latency)
    registry.unregister(latency)
    del latency
    gc.collect()
    assert gone() is None
    assert families(registry) == []


def test_a_metric_that_refuses_series_shows_the_one_for_the_rest(registry: CollectorRegistry) -> None:
    jobs = Counter("jobs", "", ["a"], max_series=1, registry=registry)
    for label in "abc":
        jobs.labels(label).inc()

    assert {(line.labels, line.value) for line in families(registry)} == {
        ((("a", "a"),), 1.0),
        ((("otel_metric_overflow", "true"),), 2.0),
    }


@pytest.mark.parametrize("accept", [OPENMETRICS, TEXT])
def test_a_histogram_of_negative_values_has_no_sum(registry: CollectorRegistry, accept: str) -> None:
    """OpenMetrics forbids it, as it could fall, and then also the count; prometheus_client leaves out the sum."""
    offset = Histogram("offset", "", ["a"], buckets=[-1.0, 0.0], registry=registry)
    offset.labels("x").observe(-0.5, exemplar=IDS)
    found = lines(page(registry, accept), openmetrics=accept == OPENMETRICS)

    assert [line.value for line in found if line.name == "offset_bucket"] == [1.0, 0.0, 1.0]
    assert {line.name for line in found} - {"offset_bucket"} == (set() if accept == OPENMETRICS else {"offset_count"})


def test_a_gauge_read_from_a_function_is_read_at_every_scrape(registry: CollectorRegistry) -> None:
    values = iter([1.0, float("nan"), float("inf")])
    level = Gauge("level", "", registry=registry)
    level.set_function(lambda: next(values))
    counted = Faults()

    assert b"\nlevel 1.0\n" in page(registry)
    assert b"\nlevel NaN\n" in page(registry)
    assert b"\nlevel +Inf\n" in page(registry)
    assert b"\nlevel NaN\n" in page(registry)
    assert sum(counted.seen.values()) == 1  # StopIteration


@given(names=st.sets(st.sampled_from([
    "latency_seconds_bucket", "latency_seconds_count", "latency_seconds_sum", "latency_seconds_created", "jobs_total",
    "level", "theirs_bucket", "theirs_count", "things_total", "target_info", "facts_info", "unknown", "",
]), min_size=1))  # fmt: skip
def test_names_restrict_a_page_as_prometheus_client_does(names: set[str]) -> None:
    registry = CollectorRegistry(auto_describe=True, target_info={"env": "test"})
    latency = Histogram("latency", "Time.", ["a"], unit="seconds", registry=registry)
    latency.labels("x").observe(0.5, exemplar=IDS)
    Counter("jobs", "Jobs.", registry=registry).inc(2, exemplar=IDS)
    Gauge("level", "Level.", registry=registry).set(1)
    theirs.Histogram("theirs", "T.", registry=registry).observe(0.5, exemplar={"a": "b"})
    theirs.Counter("things", "T.", registry=registry).inc()
    theirs.Info("facts", "F.", registry=registry).info({"version": "1"})

    # Line by line: half a histogram is none to the parser of OpenMetrics.
    assert samples(page(registry, OPENMETRICS, *names)) == samples(their_page(registry.restricted_registry(names)))
    text = lines(page(registry, TEXT, *names), openmetrics=False)
    assert text == lines(their_page(registry.restricted_registry(names), openmetrics=False), openmetrics=False)


def test_the_name_of_a_family_stands_for_all_of_its_samples(registry: CollectorRegistry) -> None:
    everything(registry)
    things = theirs.Counter("things", "T.", ["a"], registry=registry)
    things.labels("x").inc()
    whole = families(registry)
    for name in ("latency_seconds", "plain", "jobs", "temperature_celsius", "things"):
        assert lines(page(registry, OPENMETRICS, name)) == [line for line in whole if line.family == name]
    assert page(registry, OPENMETRICS, "nothing") == b"# EOF\n"
    # A part of a page is made anew, and keeps nothing.
    for metric, writers in exposition._writers.items():
        assert len(writers) == 1, metric


def test_metrics_of_prometheus_client_stand_as_it_writes_them(registry: CollectorRegistry) -> None:
    theirs.Counter("things", "Things.", ["a"], registry=registry).labels('"\\\n').inc(exemplar={"a": "b"})
    theirs.Summary("sizes", "Sizes.", registry=registry).observe(2)
    theirs.Enum("state", "State.", states=["on", "off"], registry=registry).state("off")
    theirs.Info("facts", "Facts.", registry=registry).info({"version": "1"})
    registry.set_target_info({"env": "test"})

    assert page(registry) == their_page(registry)
    assert page(registry, TEXT) == their_page(registry, openmetrics=False)


def test_our_metrics_and_theirs_share_a_page_and_each_is_there_once(registry: CollectorRegistry) -> None:
    theirs.Counter("before", "", registry=registry)
    Histogram("latency", "", registry=registry).observe(0.5, exemplar=IDS)
    theirs.Gauge("after", "", registry=registry).set(1)
    ours = families(registry)

    assert ours == lines(their_page(registry))
    assert page(registry).decode().count("# TYPE ") == 3
    assert [line.exemplar is not None for line in ours].count(True) == 1


def bad_sample() -> MetricFamily:
    family = GaugeMetricFamily("bad", "", labels=["a"])
    family.add_sample("bad", cast(Any, {"a": 5}), 1.0)
    return family


@pytest.mark.parametrize("accept", [OPENMETRICS, TEXT])
@pytest.mark.parametrize(
    ("culprit", "good"),
    [
        (Given(ZeroDivisionError("on purpose")), ()),
        (Given(GaugeMetricFamily("good", "", 1.0), ZeroDivisionError("on purpose")), ("good",)),
        (Given(bad_sample(), GaugeMetricFamily("good", "", 1.0)), ("good",)),
        (Given(cast(Any, None), GaugeMetricFamily("good", "", 1.0)), ("good",)),
        (Given(GaugeMetricFamily("bad", "\ud800", 1.0), GaugeMetricFamily("good", "", 1.0)), ("good",)),
    ],
)
def test_a_collector_or_family_that_fails_costs_only_its_own(
    registry: CollectorRegistry, culprit: Given, good: Sequence[str], accept: str
) -> None:
    theirs.Gauge("before", "", registry=registry)
    registry.register(culprit)
    theirs.Gauge("after", "", registry=registry)
    Counter("ours", "", registry=registry)
    counted = Faults()
    found = {line.name for line in lines(page(registry, accept), openmetrics=accept == OPENMETRICS)}

    assert found == {"before", "after", "ours_total", *good}
    assert counted.seen == {"collector": 1}


def test_a_registry_that_fails_leaves_an_empty_page() -> None:
    counted = Faults()
    assert page(cast(CollectorRegistry, Given(ZeroDivisionError("on purpose")))) == b"# EOF\n"
    assert counted.seen == {"collector": 1}


def test_one_of_ours_that_fails_costs_only_itself(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    latency = Histogram("latency", "", registry=registry)
    Counter("jobs", "", registry=registry).inc()
    monkeypatch.setattr(latency, "series", lambda: 1 / 0)
    counted = Faults()

    assert [line.name for line in families(registry)] == ["jobs_total"]
    assert counted.seen == {"collector": 1}


@pytest.mark.parametrize(
    "clashing",
    [
        HistogramMetricFamily("latency", "", buckets=[("1.0", 1.0), ("+Inf", 2.0)], sum_value=1.0),
        GaugeMetricFamily("latency", "", 1.0),
        GaugeMetricFamily("latency_count", "", 1.0),
        GaugeMetricFamily("jobs_total", "", 1.0),
        GaugeMetricFamily("exemplars_exposed", "", 1.0),
    ],
    ids=lambda family: f"{family.type} {family.name}",
)
@pytest.mark.parametrize("accept", [OPENMETRICS, TEXT])
def test_a_family_with_a_name_of_ours_is_left_out_counted_and_logged_once(
    registry: CollectorRegistry,
    clashing: MetricFamily,
    accept: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A collector that tells the registry no names, as OpenTelemetry's reader, is only found out at a scrape."""
    registry.register(Given(clashing, GaugeMetricFamily("other", "", 1.0)))
    Histogram("latency", "", registry=registry).observe(0.5)
    Counter("jobs", "", registry=registry).inc()
    selfmetrics.install(registry)
    monkeypatch.setitem(faults.errors.values, "duplicate_family", 0)  # whatever other tests logged already
    with caplog.at_level(logging.WARNING, "exemplars"):
        pages = [page(registry, accept) for _ in range(3)]

    for text in pages:
        names = [line.split()[2] for line in text.decode().splitlines() if line.startswith("# TYPE ")]
        assert len(names) == len(set(names))
        assert "other" in names
        lines(text, openmetrics=accept == OPENMETRICS)
    assert faults.errors.values["duplicate_family"] == 3
    assert len(caplog.records) == 1
    assert clashing.name in caplog.text


def utf8_family() -> MetricFamily:
    family = MetricFamily("http.server.größe", "", "gauge")
    family.add_sample("http.server.größe", {"klasse.é": "x"}, 1.0)
    return family


@needs_escaping
@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize(
    ("scheme", "name", "label"),
    [
        ("allow-utf-8", '"http.server.größe"', '"klasse.é"'),
        ("underscores", "http_server_gr__e", "klasse__"),
        ("dots", "http_dot_server_dot_gr____e", "klasse_dot___"),
        ("values", "U__http_2e_server_2e_gr_f6__df_e", "U__klasse_2e__e9_"),
    ],
)
def test_other_peoples_names_are_escaped_as_asked(
    registry: CollectorRegistry, kind: str, scheme: str, name: str, label: str
) -> None:
    registry.register(Given(utf8_family()))
    text, content_type = render(registry, accept=f"{kind};version=1.0.0;escaping={scheme}")

    assert content_type.endswith(f"; escaping={scheme}")
    assert f"# TYPE {name} gauge\n".encode() in text
    sample = f'{{{name},{label}="x"}} 1.0' if scheme == "allow-utf-8" else f'{name}{{{label}="x"}} 1.0'
    assert sample.encode() in text
    assert f"# TYPE {name} gauge\n".encode() in page(
        registry, f"{kind};version=1.0.0;escaping={scheme}", "http.server.größe"
    )


@needs_escaping
@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize("scheme", sorted(negotiation.ESCAPINGS - {"dots"}))
def test_names_that_need_no_escaping_stay_as_they_are(registry: CollectorRegistry, kind: str, scheme: str) -> None:
    everything(registry)
    registry.register(Given(GaugeMetricFamily("job:rate_5m", "", 1.0)))
    theirs.Counter("things", "", ["a_b"], registry=registry).labels("x").inc()
    expected = {line.name for line in lines(page(registry, kind), openmetrics=kind != "text/plain")}
    found = lines(page(registry, f"{kind};version=1.0.0;escaping={scheme}"), openmetrics=kind != "text/plain")

    assert {line.name for line in found} == expected
    assert {"job:rate_5m", "things_total", "latency_seconds_bucket"} <= expected


@needs_escaping
def test_dots_double_the_underscores_of_our_names_too(registry: CollectorRegistry) -> None:
    latency = Histogram("latency", "", ["http_route"], unit="seconds", buckets=[1.0], registry=registry)
    latency.labels("/a_b").observe(0.5, exemplar=IDS)
    theirs.Counter("some_things", "", ["http_route"], registry=registry).labels("/a_b").inc()
    text = page(registry, f"{OPENMETRICS};escaping=dots").decode()

    assert "# UNIT latency__seconds seconds\n" in text
    assert "latency__seconds_bucket" not in text
    assert 'latency__seconds__bucket{http__route="/a_b",le="1.0"} 1 # {trace_id="' in text
    assert 'some__things__total{http__route="/a_b"} 1.0' in text
    assert page(registry).decode() != text
    assert 'latency_seconds_bucket{http_route="/a_b",le="1.0"} 1 # {' in page(registry).decode()


def test_encoders_that_do_not_escape_yet_are_used_as_well(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """prometheus_client before 0.23."""

    def encode(registry: Any) -> bytes:
        return their_page(registry)

    monkeypatch.setattr(exposition, "_ESCAPES", False)
    monkeypatch.setattr(exposition, "encode_openmetrics", encode)
    theirs.Counter("things", "", registry=registry).inc()

    assert {line.name for line in families(registry)} >= {"things_total"}


def test_a_registry_that_is_only_a_collector_is_rendered_too(registry: CollectorRegistry) -> None:
    everything(registry)
    part = cast(CollectorRegistry, registry.restricted_registry(["jobs_total", "latency_seconds_bucket"]))

    assert {line.name for line in families(part)} == {"jobs_total", "latency_seconds_bucket"}
    assert {line.name for line in lines(page(part, OPENMETRICS, "jobs"))} == {"jobs_total"}


def test_a_page_comes_in_small_pieces(registry: CollectorRegistry) -> None:
    latency = Histogram("latency", "", ["a"], registry=registry)
    for number in range(500):
        latency.labels(number).observe(0.5, exemplar=IDS)
    chosen = negotiation.choose(OPENMETRICS)
    pieces = list(exposition.pieces(registry, chosen))

    assert b"".join(pieces) == page(registry)
    assert len(pieces) > 20
    assert max(map(len, pieces)) < 20_000


def test_a_series_is_shown_as_it_was_at_one_moment(registry: CollectorRegistry) -> None:
    """Threads observe 1.0 while others render: count, sum and buckets of a page agree, and never fall."""
    latency = Histogram("latency", "", ["a"], buckets=[0.5, 1.0, 2.0], registry=registry)
    children = [latency.labels(label) for label in "abcdef"]
    stop = threading.Event()
    failures: list[str] = []

    def observe() -> None:
        while not stop.is_set():
            for child in children:
                child.observe(1.0, exemplar=IDS)

    def scrape() -> None:
        highest = dict.fromkeys("abcdef", 0.0)
        for _ in range(150):
            for label in "abcdef":
                numbers = {
                    (line.name, dict(line.labels).get("le")): line.value
                    for line in families(registry)
                    if dict(line.labels)["a"] == label
                }
                count = numbers["latency_count", None]
                if not (
                    count
                    == numbers["latency_sum", None]
                    == numbers["latency_bucket", "+Inf"]
                    == numbers["latency_bucket", "1.0"]
                ):
                    failures.append(f"torn: {numbers}")
                if numbers["latency_bucket", "0.5"] or count < highest[label]:
                    failures.append(f"fell: {numbers}")
                highest[label] = count

    observers = [threading.Thread(target=observe) for _ in range(2)]
    scrapers = [threading.Thread(target=scrape) for _ in range(2)]
    for thread in observers + scrapers:
        thread.start()
    for thread in scrapers:
        thread.join()
    stop.set()
    for thread in observers:
        thread.join()

    assert failures == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes to fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_forked_in_the_middle_of_a_page_can_make_its_own(registry: CollectorRegistry) -> None:
    latency = Histogram("latency", "", ["a"], registry=registry)
    registry.set_target_info({"env": "test"})
    children = [latency.labels(label) for label in "abc"]
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            for child in children:
                child.observe(1.0, exemplar=IDS)
            page(registry)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(30):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if page(registry).endswith(b"# EOF\n") else 1)
            assert ended(pid) == 0
    finally:
        stop.set()
        thread.join()


def test_the_page_tells_how_many_exemplars_it_shows(registry: CollectorRegistry, clock: Clock) -> None:
    policy = Policy(min_retention=1.0, max_age=100.0)
    latency = Histogram("latency", "", ["a"], buckets=[1.0], policy=policy, registry=registry)
    Counter("jobs", "", policy=policy, registry=registry).inc(exemplar=IDS)
    selfmetrics.install(registry)

    def exposed() -> list[float]:
        """By a page, by a page in text, by a part of a page and by prometheus_client's endpoint."""
        pages = [page(registry), page(registry, OPENMETRICS, "exemplars_exposed"), their_page(registry)]
        found = [line.value for text in pages for line in lines(text) if line.name == "exemplars_exposed"]
        text = lines(page(registry, TEXT), openmetrics=False)
        return found + [line.value for line in text if line.name == "exemplars_exposed"]

    assert exposed() == [1.0] * 4
    for label in "abc":
        latency.labels(label).observe(0.5, exemplar=IDS)
    assert exposed() == [4.0] * 4
    clock.advance(50)
    latency.labels("a").observe(2.0, exemplar=IDS)
    assert exposed() == [5.0] * 4
    clock.advance(51)
    assert exposed() == [1.0] * 4


def test_pages_in_plain_text_are_counted(registry: CollectorRegistry) -> None:
    before = selfmetrics.plain_text_scrapes.total
    page(registry)
    assert selfmetrics.plain_text_scrapes.total == before
    page(registry, TEXT)
    page(registry, "")
    assert selfmetrics.plain_text_scrapes.total == before + 2

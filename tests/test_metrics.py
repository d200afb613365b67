"""`Histogram`, `Counter` and `Gauge` beside prometheus_client's own, and what they have more."""

import inspect
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, cast

import prometheus_client as theirs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from prometheus_client import CollectorRegistry
from prometheus_client import Metric as MetricFamily
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar

from exemplars import metrics as ours
from exemplars import semconv
from exemplars.policy import Policy
from exemplars.span import Budget
from exemplars.store import layout, worker
from exemplars.store.layout import Schema
from tests.measured import Clock, Faults, shown
from tests.otel import Spans

# With it the newest exemplar wins, as theirs does.
NEWEST: Final = Policy(min_retention=0.0)
KINDS: Final = ("Histogram", "Counter", "Gauge")

# In removing, in empty names and in timers, theirs were other than today's.
theirs_are_old: Final = not hasattr(theirs.Counter, "remove_by_labels")

Sample = tuple[str, tuple[tuple[str, str], ...], float]  # name, labels, value


def samples(metric: Any) -> list[Sample]:
    """Without the time of creation, which has no place on our pages."""
    (family,) = metric.collect()
    return [
        (sample.name, tuple(sorted(sample.labels.items())), float(sample.value))
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]


def exemplars(metric: Any) -> list[tuple[dict[str, str], float]]:
    return [(dict(exemplar.labels), exemplar.value) for exemplar in shown(metric.collect())]


def both(kind: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """One of ours and one of theirs, of no registry."""
    if kind == "Histogram":
        kwargs.setdefault("buckets", (1.0, 5.0))
    more: dict[str, Any] = {} if kind == "Gauge" else {"policy": NEWEST}
    return (
        getattr(ours, kind)(*args, **kwargs, registry=None, **more),
        getattr(theirs, kind)(*args, **kwargs, registry=None),
    )


def outcome(call: Callable[[], object]) -> str:
    """How *call* ends: the exception's class, by name."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "returned"


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "given_",
    [
        {"name": "n"},
        {"name": "a:n_1"},
        {"name": "n_total"},
        {"name": "n", "namespace": "space"},
        {"name": "n", "subsystem": "sub"},
        {"name": "n", "namespace": "space", "subsystem": "sub"},
        {"name": "n", "unit": "seconds"},
        {"name": "n_seconds", "unit": "seconds"},
        {"name": "n_seconds_total", "unit": "seconds"},
        {"name": "n_total", "unit": "seconds"},
        {"name": "nseconds", "unit": "seconds"},
        {"name": "seconds", "unit": "seconds"},
        {"name": "n", "namespace": "space", "subsystem": "sub", "unit": "bytes"},
        {"name": ""},
        {"name": "", "namespace": "space"},
        {"name": "", "unit": "seconds"},
        {"name": "n", "labelnames": ("one", "two")},
        {"name": "n", "labelnames": ["one"]},
        {"name": "n", "labelnames": ("__one",)},
    ],
    ids=str,
)
def test_names_are_built_and_refused_as_theirs_are(kind: str, given_: dict[str, Any]) -> None:
    def names(module: Any) -> list[object]:
        more = {"buckets": (1.0, 5.0)} if kind == "Histogram" else {}
        metric = getattr(module, kind)(documentation="d", registry=None, **given_, **more)
        (family,), (described,) = metric.collect(), metric.describe()
        assert (described.name, described.type, described.unit) == (family.name, family.type, family.unit)
        return [family.name, family.type, family.unit, family.documentation, *(name for name, _, _ in samples(metric))]

    if theirs_are_old and given_["name"] == "" and len(given_) > 1:
        pytest.skip("these prometheus_clients take part of a name for all of it")
    assert outcome(lambda: names(ours)) == outcome(lambda: names(theirs))
    if outcome(lambda: names(theirs)) == "returned":
        assert names(ours) == names(theirs)


def test_le_is_reserved_in_a_histogram_as_in_theirs_and_the_overflow_label_everywhere() -> None:
    for module in (ours, theirs):
        with pytest.raises(ValueError):
            cast(Any, module).Histogram("n", "d", ("le",), registry=None)
        cast(Any, module).Counter("n", "d", ("le",), registry=None)
    for kind in KINDS:
        with pytest.raises(ValueError, match=f"'{semconv.OVERFLOW}' is taken: choose another"):
            getattr(ours, kind)("n", "d", (semconv.OVERFLOW,), registry=None)


def test_names_beyond_the_classic_alphabet_are_refused_with_the_way_out() -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match="'täglich' is no metric name: use letters"):
            getattr(ours, kind)("täglich", "d", registry=None)
        with pytest.raises(ValueError, match="'0n' is no metric name"):
            getattr(ours, kind)("0n", "d", registry=None)
        with pytest.raises(ValueError, match=r"'n\\n' is no metric name"):
            getattr(ours, kind)("n\n", "d", registry=None)
        with pytest.raises(ValueError, match="'n_meters per second' is no metric name"):
            getattr(ours, kind)("n", "d", unit="meters per second", registry=None)
        with pytest.raises(ValueError, match="'a-b' is no label name: use letters"):
            getattr(ours, kind)("n", "d", ("a-b",), registry=None)
        with pytest.raises(ValueError, match="1 is no label name"):
            getattr(ours, kind)("n", "d", (1,), registry=None)
        with pytest.raises(ValueError, match="labelnames is 'path': give a sequence"):
            getattr(ours, kind)("n", "d", "path", registry=None)
        with pytest.raises(ValueError, match=r"labelnames is \('a', 'a'\): every name once"):
            getattr(ours, kind)("n", "d", ("a", "a"), registry=None)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parameters_are_theirs_in_their_order(kind: str) -> None:
    def positional(cls: Any) -> list[str]:
        parameters = inspect.signature(cls).parameters.values()
        return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and not p.name.startswith("_")]

    # Theirs has further ones after a private one in between: only by name can anybody give those.
    assert positional(getattr(theirs, kind))[:7] == positional(getattr(ours, kind))[:7]


# --- labels -------------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """A method and what it is given."""

    method: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def on(self, metric: Any) -> object:
        return getattr(metric, self.method)(*self.arguments, **self.keywords)


def call(method: str, *arguments: Any, **keywords: Any) -> Call:
    return Call(method, arguments, keywords)


def forty_two() -> int:
    return 42


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labelnames", [(), ("a",), ("a", "b")])
@pytest.mark.parametrize(
    "call",
    [
        call("labels"),
        call("labels", "1"),
        call("labels", "1", "2"),
        call("labels", None, 2.5),
        call("labels", "1", "2", "3"),
        call("labels", a="1"),
        call("labels", a=1, b=None),
        call("labels", b="1", a="2"),
        call("labels", c="1"),
        call("labels", "1", b="2"),
        call("labels", a="1", b="2", c="3"),
        call("remove"),
        call("remove", "1"),
        call("remove", "1", "2"),
        call("remove_by_labels", {}),
        call("remove_by_labels", {"a": "1"}),
        call("remove_by_labels", {"b": "1", "a": "2"}),
        call("remove_by_labels", {"c": "1"}),
        call("clear"),
        call("time"),
        call("inc"),
        call("inc", -1),
        call("inc", -0.0),
        call("inc", 0),
        call("inc", math.inf),
        call("inc", None),
        call("inc", 1, {"id": "1"}),
        call("dec"),
        call("dec", 2.5),
        call("set", 3),
        call("set", "3"),
        call("set", None),
        call("observe", 3),
        call("observe", True),
        call("observe", None),
        call("observe", -3, {"id": "1"}),
        call("count_exceptions"),
        call("track_inprogress"),
        call("set_function", forty_two),
    ],
    ids=str,
)
def test_a_call_ends_as_theirs_does(kind: str, labelnames: tuple[str, ...], call: Call) -> None:
    if theirs_are_old and call.method in ("remove", "remove_by_labels", "clear"):
        pytest.skip("these prometheus_clients remove otherwise, or cannot")
    mine, their = both(kind, "n", "d", labelnames)

    assert outcome(lambda: call.on(mine)) == outcome(lambda: call.on(their))
    assert samples(mine) == samples(their)


def test_a_counter_with_labels_is_reset_by_its_children_only() -> None:
    counter = ours.Counter("n", "d", ("a",), registry=None)
    with pytest.raises(ValueError, match="call labels"):
        counter.reset()


def test_a_child_has_no_children() -> None:
    mine, their = both("Counter", "n", "d", ("a",))

    for metric in (mine, their):
        with pytest.raises((ValueError, TypeError)):
            metric.labels("1").labels("2")


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_no_function_is_refused_where_it_is_given(kind: str) -> None:
    if kind == "Gauge":
        with pytest.raises(ValueError, match="set_function was given 5: give a function"):
            ours.Gauge("n", "d", registry=None).set_function(cast(Any, 5))


def test_a_label_value_that_utf8_cannot_spell_is_one_series_that_can_be_removed() -> None:
    counter = ours.Counter("n", "d", ("a",), registry=None)
    counter.labels("\ud800").inc()
    counter.labels("\ud800").inc()

    assert samples(counter) == [("n_total", (("a", "?"),), 2.0)]
    counter.remove("\ud800")
    assert samples(counter) == []

    counter.labels("\udfff").inc()
    counter.remove_by_labels({"a": "\udfff"})
    assert samples(counter) == []


# --- the same samples ---------------------------------------------------------------------------------------------

values = st.sampled_from(("", "x", "y", 'quote " and \\ and \n', "ünïcode", 7, None, 0.5))
amounts = st.floats(allow_nan=False, width=32) | st.integers(-3, 12) | st.sampled_from((1.0, 5.0, math.inf))
exemplar_labels = st.none() | st.dictionaries(
    st.sampled_from(("trace_id", "a", "b_2")), st.text('aé"\\', max_size=70), max_size=2
).filter(lambda labels: sum(len(name) + len(value) for name, value in labels.items()) <= 128)

common = st.builds(call, st.just("remove"), values, values) | st.builds(
    call, st.just("remove_by_labels"), st.dictionaries(st.sampled_from(("a", "b")), values, max_size=2)
)
if theirs_are_old:
    common = st.just(call("clear"))
# Calls on a child of random labels.
calls: Final = {
    "Histogram": st.builds(call, st.just("observe"), amounts, exemplar_labels),
    "Counter": st.builds(call, st.just("inc"), amounts, exemplar_labels) | st.just(call("reset")),
    "Gauge": st.builds(call, st.sampled_from(("inc", "dec", "set")), amounts)
    | st.just(call("set_function", forty_two)),
}
bounds = (
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=5, unique=True)
    .map(sorted)
    .flatmap(lambda finite: st.sampled_from((tuple(finite), (*finite, math.inf))))
)


def end(metric: Any, labels: tuple[object, ...] | None, done: Call) -> str:
    return outcome(lambda: done.on(metric if labels is None else metric.labels(*labels)))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_whatever_is_done_the_samples_and_exemplars_are_those_of_theirs(kind: str, data: st.DataObject) -> None:
    more = {"buckets": data.draw(bounds, "buckets")} if kind == "Histogram" else {}
    on_children = st.tuples(st.tuples(values, values), calls[kind])
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        mine, their = both(kind, "n", "d", ("a", "b"), **more)
        for labels, done in data.draw(st.lists(on_children | st.tuples(st.none(), common), max_size=25), "calls"):
            clock.advance(0.001)
            assert end(mine, labels, done) == end(their, labels, done)
            assert repr(samples(mine)) == repr(samples(their))  # by their texts, as NaN equals nothing
            assert exemplars(mine) == exemplars(their)


@given(
    observed=st.lists(
        st.tuples(st.sampled_from(("x", 'q"\\\n', "ü")), st.floats(0, 1e9), exemplar_labels), max_size=30
    ),
    buckets=bounds.filter(lambda bounds: bounds[0] >= 0),  # below, their page breaks the rules of their parser
)
def test_their_endpoint_shows_ours_in_a_form_that_their_parser_reads(
    observed: list[tuple[str, float, dict[str, str] | None]], buckets: tuple[float, ...]
) -> None:
    registry = CollectorRegistry()
    histogram = ours.Histogram("h", "d", ("a",), unit="seconds", registry=registry, buckets=buckets, policy=NEWEST)
    counter = ours.Counter("c", "d", ("a",), registry=registry, policy=NEWEST)
    gauge = ours.Gauge("g", "d", ("a",), registry=registry)
    for label, amount, given_ in observed:
        # Their parser fails at a quote that is escaped in an exemplar.
        exemplar = given_ and {name: value.replace('"', "").replace("\\", "") for name, value in given_.items()}
        histogram.labels(label).observe(amount, exemplar)
        counter.labels(label).inc(amount, exemplar)
        gauge.labels(label).set(amount)

    page = cast(bytes, generate_latest(registry)).decode()  # type: ignore[no-untyped-call]
    read: dict[str, MetricFamily] = {f.name: f for f in text_string_to_metric_families(page)}  # type: ignore[no-untyped-call]

    def comparable(family: MetricFamily) -> list[object]:
        return [(s.name, s.labels, s.value, s.exemplar and s.exemplar.labels) for s in family.samples]

    for metric in (histogram, counter, gauge):
        (family,) = metric.collect()
        assert comparable(read[family.name]) == comparable(family)
        assert (read[family.name].type, read[family.name].unit) == (family.type, family.unit)


def test_no_metric_tells_when_it_was_created(registry: CollectorRegistry) -> None:
    for kind in KINDS:
        getattr(ours, kind)(kind.lower(), "d", ("a",), registry=registry).labels("x")

    assert not [s.name for family in registry.collect() for s in family.samples if s.name.endswith("_created")]


def test_a_restricted_registry_of_theirs_finds_ours_by_the_names_of_samples(registry: CollectorRegistry) -> None:
    histogram = ours.Histogram("h", "d", registry=registry)
    ours.Counter("c", "d", registry=registry).inc(3)
    histogram.observe(1.0)

    def found(*names: str) -> list[str]:
        return [s.name for family in registry.restricted_registry(names).collect() for s in family.samples]

    assert found("c_total") == ["c_total"]
    assert found("h_sum") == ["h_sum"]
    assert set(found("h_bucket", "h_count")) == {"h_bucket", "h_count"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_the_registry_knows_is_refused_as_theirs_is(kind: str, registry: CollectorRegistry) -> None:
    getattr(theirs, kind)("n", "d", registry=registry)

    with pytest.raises(ValueError, match="[Dd]uplicated timeseries"):
        getattr(ours, kind)("n", "d", registry=registry)


@pytest.mark.parametrize(
    ("buckets", "named"),
    [
        ((), "buckets is ()"),
        ((math.inf,), "give at least one finite"),
        ((-math.inf, 1.0), "give at least one finite"),
        ((1.0, 1.0), "1.0 after 1.0"),
        ((2.0, 1.0), "1.0 after 2.0"),
        ((math.nan,), "buckets has nan"),
        ((1.0, "2"), "buckets has '2'"),
        ((True,), "buckets has True"),
        ("123", "buckets is '123'"),
        (5, "buckets is 5"),
    ],
)
def test_buckets_that_cannot_be_are_refused_by_value(buckets: Any, named: str) -> None:
    with pytest.raises(ValueError) as refused:
        ours.Histogram("h", "d", registry=None, buckets=buckets)

    assert named in str(refused.value)


def test_the_modes_of_a_gauge_are_theirs_without_those_that_need_a_pid() -> None:
    for mode in theirs.Gauge._MULTIPROC_MODES:
        if mode in ("all", "liveall"):
            with pytest.raises(ValueError, match=f"multiprocess_mode is '{mode}': choose from min"):
                ours.Gauge("g", "d", registry=None, multiprocess_mode=mode)
        else:
            assert ours.Gauge("g", "d", registry=None, multiprocess_mode=mode).multiprocess_mode == mode


# --- context managers and decorators ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Histogram", "Gauge"])
def test_time_as_context_manager_and_decorator_with_labels_given_late_or_early(kind: str) -> None:
    for metric in both(kind, "n", "d", ("a",), **({"buckets": (60.0,)} if kind == "Histogram" else {})):
        with metric.labels("early").time():
            pass
        with metric.time() as timer:
            timer.labels("late")
        assert theirs_are_old or timer.duration >= 0

        @metric.labels("decorated").time()  # type: ignore[untyped-decorator]
        def double(number: int, *, add: int = 0) -> int:
            """Docstring."""
            return number * 2 + add

        assert double(4, add=1) == 9
        assert (double.__name__, double.__doc__) == ("double", "Docstring.")
        assert list(inspect.signature(double).parameters) == ["number", "add"]
        with pytest.raises(LookupError), metric.labels("raising").time():
            raise LookupError

        seen = {labels: value for name, labels, value in samples(metric) if name in ("n", "n_count")}
        assert [dict(labels)["a"] for labels in seen] == ["early", "late", "decorated", "raising"]
        if kind == "Histogram":
            assert set(seen.values()) == {1.0}
        with pytest.raises(ValueError), metric.time():
            pass  # nobody told the labels


def test_count_exceptions_as_context_manager_and_decorator() -> None:
    def run(counter: Any) -> list[Sample]:
        with pytest.raises(ValueError), counter.labels("any").count_exceptions():
            raise ValueError
        with pytest.raises(KeyError), counter.labels("one").count_exceptions(ValueError):
            raise KeyError
        with pytest.raises(KeyError), counter.labels("two").count_exceptions((ValueError, KeyError)):
            raise KeyError
        with counter.labels("none").count_exceptions():
            pass
        with pytest.raises(KeyboardInterrupt), counter.labels("base").count_exceptions():
            raise KeyboardInterrupt

        @counter.labels("decorated").count_exceptions()  # type: ignore[untyped-decorator]
        def fail() -> None:
            raise RuntimeError

        for _ in range(2):
            with pytest.raises(RuntimeError):
                fail()
        return samples(counter)

    mine, their = both("Counter", "n", "d", ("a",))
    assert run(mine) == run(their)
    assert {labels[0][1]: value for _, labels, value in run(mine)}["decorated"] == 4.0


def test_without_labels_time_count_exceptions_and_track_inprogress_are_on_the_metric_itself() -> None:
    gauge = ours.Gauge("g", "d", registry=None)
    with gauge.track_inprogress():
        assert samples(gauge) == [("g", (), 1.0)]

        @gauge.track_inprogress()
        def inside() -> list[Sample]:
            return samples(gauge)

        assert inside() == [("g", (), 2.0)]
    assert samples(gauge) == [("g", (), 0.0)]

    counter = ours.Counter("c", "d", registry=None)
    with pytest.raises(ValueError), counter.count_exceptions():
        raise ValueError
    assert samples(counter) == [("c_total", (), 1.0)]

    histogram = ours.Histogram("h", "d", registry=None)
    with histogram.time():
        pass
    assert ("h_count", (), 1) in samples(histogram)


def test_a_gauge_tells_the_wall_clocks_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, wall_ms=1_234_567_890_500)
    gauge = ours.Gauge("g", "d", registry=None)
    gauge.set_to_current_time()
    assert samples(gauge) == [("g", (), clock.wall_ms / 1000)]


def test_a_function_of_a_gauge_that_raises_shows_as_nan_and_is_counted() -> None:
    faults = Faults()
    gauge = ours.Gauge("g", "d", registry=None)
    gauge.set_function(lambda: 1 / 0)

    ((_, _, value),) = samples(gauge)

    assert math.isnan(value)
    assert faults.seen == {"collector": 1}


# --- exemplars ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["Histogram", "Counter"])
def observed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A metric with exemplars, as what takes an amount and an exemplar; every call a millisecond later."""
    clock = Clock(monkeypatch)
    if request.param == "Histogram":
        histogram = ours.Histogram("n", "d", registry=None, buckets=(10.0,), policy=NEWEST)
        take, metric = histogram.observe, cast(Any, histogram)
    else:
        counter = ours.Counter("n", "d", registry=None, policy=NEWEST)
        take, metric = counter.inc, cast(Any, counter)

    def observe(amount: float, exemplar: Any = None) -> list[tuple[dict[str, str], float]]:
        clock.advance(0.001)
        take(amount, exemplar)
        return exemplars(metric)

    observe.count = lambda: sum(v for name, _, v in samples(metric) if name in ("n_total", "n_sum"))  # type: ignore[attr-defined]
    yield observe


def test_an_exemplar_of_the_callers_own_is_shown_and_copied(observed: Any) -> None:
    mine = {"trace_id": "abc", "order": "42"}
    assert observed(1.0, mine) == [({"trace_id": "abc", "order": "42"}, 1.0)]

    mine["order"] = "changed"
    assert observed(1.0, {}) == [({"trace_id": "abc", "order": "42"}, 1.0)]


def test_an_empty_exemplar_means_none_and_leaves_what_is_there(observed: Any) -> None:
    assert observed(1.0, {}) == []
    assert observed(1.0, {"id": "1"}) == [({"id": "1"}, 1.0)]
    assert observed(2.0, {}) == [({"id": "1"}, 1.0)]
    assert observed.count() == 4.0


def test_without_a_span_there_is_no_exemplar(observed: Any) -> None:
    faults = Faults()
    assert observed(1.0) == []
    assert faults.seen == {}


@pytest.mark.parametrize(
    "invalid",
    [
        {"id": "x" * 127},
        {"id": "é" * 127},
        {"i" * 129: ""},
        {"a" * 64: "b" * 64, "c": ""},
        {"id": 5},
        {"id": None},
        {"id": b"bytes"},
        {5: "id"},
        {"": "id"},
        {"0id": "x"},
        {"trace-id": "x"},
        {"id\n": "x"},
        {"ïd": "x"},
        {"id": "\ud800"},
        5,
        "id",
        ["id"],
    ],
    ids=str,
)
def test_an_invalid_exemplar_is_dropped_and_counted_and_the_observation_counts(observed: Any, invalid: Any) -> None:
    faults = Faults()

    assert observed(3.0, invalid) == []

    assert observed.count() == 3.0
    assert faults.seen == {"exemplar": 1}


@pytest.mark.parametrize("labels", [{"id": "x" * 126}, {"id": "é" * 126}, {"a" * 64: "b" * 64}, {"a" * 128: ""}])
def test_128_code_points_together_are_allowed(observed: Any, labels: dict[str, str]) -> None:
    assert observed(3.0, labels) == [(labels, 3.0)]


def test_nan_is_not_counted_but_counted_as_a_fault(observed: Any) -> None:
    faults = Faults()
    observed(1.0)

    for _ in range(2):
        assert observed(math.nan, {"id": "1"}) == []

    assert observed.count() == 1.0
    assert faults.seen == {"observation": 2}


def test_an_exemplar_has_value_and_time_and_a_counter_that_is_reset_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, wall_ms=1_600_000_000_123)
    counter = ours.Counter("c", "d", registry=None)

    counter.inc(2.5, {"id": "1"})
    assert shown(counter.collect()) == [Exemplar({"id": "1"}, 2.5, 1_600_000_000.123)]

    counter.reset()
    assert samples(counter) == [("c_total", (), 0.0)]
    clock.advance(1)
    counter.inc(1, {"id": "too soon, and not slower"})
    assert samples(counter) == [("c_total", (), 1.0)]
    assert shown(counter.collect()) == [Exemplar({"id": "1"}, 2.5, 1_600_000_000.123)]


def test_no_mark_is_spent_where_the_clock_forbids_an_exemplar(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    marks_enough = Budget(1e6)
    monkeypatch.setattr(ours, "process_budget", lambda: marks_enough)
    histogram = ours.Histogram("h", "d", registry=registry, policy=NEWEST)
    tracer = Spans().tracer
    marks: list[bool] = []
    for wall_step_ms in (0, -3_600_000, 3_600_000):
        clock.advance(1, wall_step_ms=wall_step_ms)
        with tracer.start_as_current_span("span") as span:
            histogram.observe(1.0)
        marks.append((cast(ReadableSpan, span).attributes or {}).get(semconv.MARK) == semconv.MARK_VALUE)

    assert marks == [True, False, True]


@pytest.mark.parametrize("kind", ["Histogram", "Counter"])
@pytest.mark.parametrize("policy", ["newest", 7.0, Policy], ids=str)
def test_a_policy_that_is_none_is_refused(kind: str, policy: Any) -> None:
    with pytest.raises(ValueError) as refused:
        getattr(ours, kind)("n", "d", registry=None, policy=policy)

    assert str(refused.value) == f"policy is {policy!r}: give an exemplars.Policy"


# --- bounded series -----------------------------------------------------------------------------------------------


@contextmanager
def refusals(name: str) -> Iterator[Callable[[], int]]:
    before = ours.series_refused.values.get(name, 0)
    yield lambda: ours.series_refused.values.get(name, 0) - before


@pytest.mark.parametrize("kind", KINDS)
def test_beyond_max_series_one_series_takes_the_rest(kind: str) -> None:
    metric: Any = getattr(ours, kind)("bounded", "d", ("a", "b"), registry=None, max_series=2)
    step = "observe" if kind == "Histogram" else "inc"

    with refusals(metric.name) as refused:
        for number in range(5):
            getattr(metric.labels(number, "x"), step)(1)
        for _ in range(3):
            getattr(metric.labels("0", "x"), step)(1)  # known: no refusal
        assert refused() == 3

    counts = {
        labels: value
        for name, labels, value in samples(metric)
        if name in ("bounded", "bounded_total", "bounded_count")
    }
    assert counts == {
        (("a", "0"), ("b", "x")): 4.0,
        (("a", "1"), ("b", "x")): 1.0,
        ((semconv.OVERFLOW, "true"),): 3.0,
    }
    assert len(metric.series()) == 3

    metric.remove("1", "x")
    getattr(metric.labels("new", "x"), step)(1)
    assert len(metric.series()) == 3, "there is room again, and the overflow stays"

    metric.clear()
    assert metric.series() == []
    metric.labels("4", "x")
    assert [child.labels for child in metric.series()] == [(("a", "4"), ("b", "x"))]


def test_max_series_that_cannot_be_is_refused() -> None:
    for bad in (0, -1, 1.5, True, None, "9"):
        with pytest.raises(ValueError, match=f"max_series is {bad!r}: give a whole number"):
            ours.Counter("c", "d", registry=None, max_series=cast(Any, bad))


def test_the_same_shape_is_kind_labels_bounds_policy_and_bound() -> None:
    def histogram(**more: Any) -> ours.Histogram:
        return ours.Histogram("h", "d", more.pop("labelnames", ("a",)), registry=None, **more)

    assert ours.same_shape(histogram(), histogram())
    assert not ours.same_shape(histogram(), histogram(labelnames=("b",)))
    assert not ours.same_shape(histogram(), histogram(buckets=(1.0,)))
    assert not ours.same_shape(histogram(), histogram(policy=NEWEST))
    assert not ours.same_shape(histogram(), histogram(max_series=5))
    assert not ours.same_shape(histogram(), ours.Counter("h", "d", ("a",), registry=None))


def test_a_metric_tells_its_name() -> None:
    assert repr(ours.Counter("c_total", "d", registry=None)) == "exemplars.metrics.Counter(c)"


# --- as other workers know it -------------------------------------------------------------------------------------


@pytest.fixture
def first_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process in which no registry was used yet."""
    monkeypatch.setattr(ours, "_registry_keys", weakref.WeakKeyDictionary())
    monkeypatch.setattr(ours, "_registries_of", {})
    monkeypatch.setattr(ours, "_set_up", False)


def schema_in(registry: CollectorRegistry, name: str = "n") -> Schema | None:
    return ours.Counter(name, "d", registry=registry).schema


def another_place(registry: CollectorRegistry) -> Schema | None:
    return ours.Counter("n", "d", registry=registry).schema


@pytest.mark.usefixtures("first_registries")
def test_a_registry_is_named_for_the_function_that_uses_it_first_and_the_default_one_for_nobody() -> None:
    one, two, three = CollectorRegistry(), CollectorRegistry(), CollectorRegistry()
    schemas = [schema_in(one), schema_in(two), another_place(three), schema_in(one, "m")]
    keys = [schema.registry for schema in schemas if schema is not None]
    here = f"{__name__}:schema_in"
    assert keys == [f"{here}#1", f"{here}#2", f"{__name__}:another_place#1", f"{here}#1"]
    default = ours.Counter("only_for_a_test_of_schemas", "d")
    theirs.REGISTRY.unregister(default)
    assert default.schema is not None
    assert default.schema.registry == ""
    assert ours.Counter("n", "d", registry=None).schema is None


@pytest.mark.usefixtures("first_registries")
def test_a_registry_too_many_is_not_shared_and_those_before_stay_known() -> None:
    registries = [CollectorRegistry() for _ in range(20)]
    schemas = [schema_in(registry) for registry in registries]
    assert [schema is not None for schema in schemas] == [True] * 16 + [False] * 4
    assert schema_in(registries[15], "m") is not None
    assert schema_in(registries[16], "m") is None


@pytest.mark.usefixtures("first_registries")
def test_a_registry_that_is_first_used_when_the_application_has_been_set_up_is_not_shared() -> None:
    """Requests make registries in any order: another worker's of the same name may be another."""
    early, late = CollectorRegistry(), CollectorRegistry()
    assert schema_in(early) is not None
    ours.set_up()
    assert schema_in(late) is None
    assert schema_in(late, "m") is None
    again = schema_in(early, "m")
    assert again is not None
    assert again.registry == f"{__name__}:schema_in#1"
    default = ours.Counter("only_for_a_test_of_late_registries", "d")
    theirs.REGISTRY.unregister(default)
    assert default.schema is not None


@pytest.mark.usefixtures("first_registries")
@given(st.data())
def test_a_metric_that_is_made_of_a_schema_shows_what_the_first_would(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    name = data.draw(st.from_regex(r"[a-z]{1,3}(_total|_bytes|_count){0,3}", fullmatch=True))
    more: dict[str, Any] = {"unit": data.draw(st.sampled_from(("", "bytes", "total")))}
    if kind == "Histogram":
        more["buckets"] = data.draw(st.sampled_from(((1.0,), (-1.0, 0.5, 2.0))))
    elif kind == "Gauge":
        more["multiprocess_mode"] = data.draw(st.sampled_from(ours._GAUGE_MODES))
    if kind != "Gauge":
        more["policy"] = data.draw(st.sampled_from((Policy(), Policy(1.0, 2.0), Policy(100.0, 1000.0))))
    labelnames = data.draw(st.sampled_from(((), ("a",), ("a", "b"))))
    metric = getattr(ours, kind)(name, "what it is", labelnames, registry=None, **more)
    metric.belong_to(CollectorRegistry())
    ours._registries_of.clear()
    schema = metric.schema
    assert schema is not None
    other = ours._of_schema(Schema.decode(schema.encode()))

    assert type(other) is type(metric)
    assert (other.name, other.labelnames, other.unit) == (metric.name, metric.labelnames, metric.unit)
    assert other.documentation == metric.documentation
    assert getattr(other, "les", None) == getattr(metric, "les", None)
    assert other.policy.max_age == metric.policy.max_age
    assert other.schema == schema
    assert other.every_child() == []
    key = ("x",) * len(labelnames)
    labels = tuple(zip(labelnames, key, strict=True))
    assert metric.child(key).labels == labels
    assert metric.child(key).key == layout.encode_labels(key)
    if labelnames:
        metric.max_series = 1
        assert metric.child(("y",) * len(labelnames)).key == layout.encode_labels(None)


def test_a_schema_of_another_version_costs_its_metric_only(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Schema("", "counter", "elsewhere")
    monkeypatch.setattr(ours, "_elsewhere", {})
    monkeypatch.setattr(
        worker,
        "schemas_elsewhere",
        lambda: [Schema("", "gauge", "g", mode="liveall"), known, Schema("other", "counter", "c")],
    )
    faults = Faults()
    (metric,) = ours.metrics_elsewhere(theirs.REGISTRY, ())
    assert metric.name == "elsewhere"
    assert ours.metrics_elsewhere(theirs.REGISTRY, ()) == [metric], "the same, so that its text is kept"
    assert ours.metrics_elsewhere(theirs.REGISTRY, {"elsewhere"}) == []
    assert faults.seen == {"collector": 3}
    monkeypatch.setattr(worker, "schemas_elsewhere", lambda: [])
    assert ours.metrics_elsewhere(theirs.REGISTRY, ()) == []
    assert ours._elsewhere == {}

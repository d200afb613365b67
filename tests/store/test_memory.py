"""The numbers of a series stay right: under threads, greenlets and forks, and when code comes in in the middle."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from prometheus_client import CollectorRegistry
from prometheus_client import Metric as MetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exemplars import metrics
from exemplars.exposition import render
from exemplars.metrics import Counter, Gauge, Histogram
from exemplars.policy import Policy, Slot
from exemplars.store import worker
from exemplars.store.memory import Record
from tests.interruptions import every_moment, interrupted
from tests.measured import Clock, Faults, shown

NEWEST: Final = Policy(min_retention=0.0)
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"


def slot(timestamp_ms: int) -> Slot:
    return Slot(1.0, timestamp_ms, taken_at=0.0, held_until=7.0, trace_id=1, span_id=1)


def test_a_record_adds_sets_keeps_and_reads() -> None:
    record = Record(3)
    assert record.read() == ([0, 0, 0], 0.0, [None, None, None], 0)

    assert record.add(1, 2.5) is None
    first, second = slot(1), slot(2)
    assert record.put(1, first, instead_of=None)
    assert record.add(1, 0.5) is first
    assert record.read() == ([0, 2, 0], 3.0, [None, first, None], 1)

    assert not record.put(1, second, instead_of=None), "somebody was there before"
    assert record.put(1, second, instead_of=first)
    record.set(9.0)
    assert record.read() == ([0, 2, 0], 9.0, [None, second, None], 2)


def test_what_was_read_does_not_change_any_more() -> None:
    record = Record(1)
    counts, total, slots, changes = record.read()
    record.add(0, 1.0)
    record.put(0, slot(1), instead_of=None)

    assert (counts, total, slots, changes) == ([0], 0.0, [None], 0)


class Journal(Record):
    """A store that keeps every change elsewhere as well, as one of shared files would."""

    def __init__(self, buckets: int) -> None:
        super().__init__(buckets)
        self.copy = Record(buckets)

    def add(self, index: int, amount: float) -> Slot | None:
        self.copy.add(index, amount)
        return super().add(index, amount)

    def set(self, value: float, at: float = 0.0) -> None:
        self.copy.set(value, at)
        super().set(value, at)

    def put(self, index: int, slot: Slot, instead_of: Slot | None) -> bool:
        kept = super().put(index, slot, instead_of)
        if kept:
            self.copy.put(index, slot, self.copy.slots[index])
        return kept


amounts = st.floats(0, 20)


@given(
    done=st.lists(
        st.tuples(st.just("observe"), amounts)
        | st.tuples(st.sampled_from(("inc", "count", "dec", "set")), amounts)
        | st.tuples(st.just("reset"), st.none())
    )
)
def test_every_change_of_every_kind_of_metric_passes_through_add_set_or_put(
    done: list[tuple[str, float | None]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        worker.attach()
        patch.setattr(worker, "Record", Journal)
        histogram = Histogram("h", "d", registry=None, buckets=(1.0, 10.0), policy=NEWEST)
        counter = Counter("c", "d", registry=None, policy=NEWEST)
        gauge = Gauge("g", "d", registry=None)
        calls: dict[str, Callable[..., None]] = {
            "observe": lambda amount: histogram.observe(amount, {"id": "1"}),
            "count": lambda amount: counter.inc(amount, {"id": "1"}),
            "reset": lambda _: counter.reset(),
            "inc": gauge.inc,
            "dec": gauge.dec,
            "set": gauge.set,
        }
        for name, amount in done:
            clock.advance(0.001)
            calls[name](amount)
        for metric in (histogram, counter, gauge):
            (child,) = cast(list[metrics.Child], metric.series())
            record = child.record
            assert isinstance(record, Journal)
            assert record.copy.read() == record.read()


# --- code that comes in in the middle -----------------------------------------------------------------------------


# One that ended with an error needs no mark to be shown.
SPAN: Final = NonRecordingSpan(SpanContext(trace_id=1, span_id=2, is_remote=True, trace_flags=TraceFlags(1)))


Shown = dict[tuple[str, tuple[tuple[str, str], ...]], tuple[str, float]]  # by sample: whose, and when


def shown_by(families: Iterable[MetricFamily]) -> Shown:
    return {
        (sample.name, tuple(sample.labels.items())): (sample.exemplar.labels["by"], float(sample.exemplar.timestamp))
        for family in families
        for sample in family.samples
        if sample.exemplar is not None
        if sample.exemplar.timestamp is not None
    }


class Subject:
    """Three metrics of two series each, an operation on them, and one that comes in in its middle."""

    def __init__(self, operation: str, clock: Clock) -> None:
        self.operation = operation
        self.registry = CollectorRegistry()
        policy = Policy() if operation == "slower one first" else NEWEST
        more: dict[str, Any] = {"registry": self.registry, "max_series": 2 if operation == "overflow" else 3}
        self.histogram = Histogram("h", "d", ("a",), buckets=(10.0,), policy=policy, **more)
        self.counter = Counter("c", "d", ("a",), policy=policy, **more)
        self.gauge = Gauge("g", "d", ("a",), **more)
        for label in ("old", "older"):
            self._observe(label, 1.0, {"by": "first"})
        clock.advance(policy.min_retention)
        if operation == "scrape":
            self.page()
        self.series = "new" if operation in ("first use", "overflow") else "old"
        self.between: Shown = {}

    def operate(self) -> None:
        if self.operation == "scrape":
            self.page()
        elif self.operation == "span":
            with trace.use_span(SPAN):
                self._observe(self.series, 2.0, None)
        else:
            self._observe(self.series, 2.0, {"by": "outer"})

    def come_in(self) -> None:
        self._observe(self.series, 4.0, {"by": "inner"})
        self.between = shown_by(self.registry.collect())

    def page(self) -> bytes:
        return render(self.registry, accept=OPENMETRICS)[0]

    def _observe(self, label: str, amount: float, exemplar: dict[str, str] | None) -> None:
        self.histogram.labels(label).observe(amount, exemplar)
        self.counter.labels(label).inc(amount, exemplar)
        self.gauge.labels(label).inc(amount)


@pytest.mark.parametrize("operation", ["known series", "first use", "overflow", "slower one first", "span", "scrape"])
def test_code_that_observes_in_the_middle_of_an_observation_or_a_scrape_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    clock = Clock(monkeypatch)  # which stands: a timestamp that is newer must have been made so
    faults = Faults()
    moments = list(every_moment(Subject(operation, clock).operate))
    assert len(moments) > 30
    for moment in moments:
        subject = Subject(operation, clock)
        interrupted(subject.operate, subject.come_in, at=moment)
        assert subject.between, f"nothing came in at {moment}"

        # Everything is counted.
        for metric in (subject.histogram, subject.counter, subject.gauge):
            series = cast(list[metrics.Child], metric.series())
            assert len(series) == (2 if subject.series == "old" else 3)
            assert sum(child.record.sum for child in series) == 1.0 + 1.0 + 4.0 + 2.0 * (operation != "scrape")
        observations = sum(sum(each.read()[0]) for each in subject.histogram.series())
        assert observations == 3 + (operation != "scrape"), moment

        # No exemplar takes the place of one that is newer, or that it is not welcome to replace.
        last = shown_by(subject.registry.collect())
        for sample, (by, timestamp) in subject.between.items():
            assert last[sample][1] >= timestamp
            assert (last[sample][1] == timestamp) == (last[sample][0] == by), (moment, sample)
            assert by != "inner" or operation != "slower one first" or last[sample][0] == "inner", (moment, sample)

        # A page does not hide what came in while another one was made.
        families = text_string_to_metric_families(subject.page().decode())  # type: ignore[no-untyped-call]
        assert shown_by(families) == last, moment
    assert faults.seen == {}


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no user signals here")
def test_a_signal_handler_observes_while_the_main_thread_does() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "d", ("a",), registry=registry, policy=NEWEST)
    handled = 0

    def handler(*_: object) -> None:
        nonlocal handled
        handled += 1
        histogram.labels("x").observe(1.0, {"id": "inner"})

    def send() -> None:
        while not done.is_set():
            signal.pthread_kill(main, signal.SIGUSR1)
            pause.wait(0.0001)

    main, done, pause = threading.get_ident(), threading.Event(), threading.Event()
    sender = threading.Thread(target=send)
    before = signal.signal(signal.SIGUSR1, handler)
    observed = 0
    try:
        sender.start()
        while handled < 200:
            histogram.labels("x").observe(1.0, {"id": "outer"})
            observed += 1
            if observed % 100 == 0:
                render(registry, accept=OPENMETRICS)
    finally:
        done.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)

    assert registry.get_sample_value("h_count", {"a": "x"}) == observed + handled


def test_a_destructor_observes_while_its_garbage_is_collected_in_an_observation() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "d", ("a",), registry=registry, policy=NEWEST)
    destroyed = 0

    class Observing:
        def __init__(self) -> None:
            self.itself = self  # only the collector finds it

        def __del__(self) -> None:
            nonlocal destroyed
            destroyed += 1
            histogram.labels("x").observe(1.0, {"id": "inner"})

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(2000):
            Observing()
            histogram.labels(number % 7).observe(1.0, {"id": "outer"})
    finally:
        gc.set_threshold(*threshold)
        gc.collect()

    assert destroyed == 2000
    counts = [s.value for f in registry.collect() for s in f.samples if s.name == "h_count"]
    assert sum(counts) == 4000


@pytest.fixture
def hasty() -> Any:
    """Threads that are switched as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_threads_that_observe_scrape_and_remove_at_once_lose_nothing() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "d", ("a",), registry=registry, buckets=(5.0,), policy=NEWEST, max_series=4)
    counter = Counter("c", "d", registry=registry, policy=NEWEST)
    gauge = Gauge("g", "d", registry=registry)
    faults = Faults()
    start = threading.Barrier(8)
    newest: list[float] = []

    def observe(thread: int) -> None:
        start.wait()
        for number in range(1500):
            histogram.labels(number % 6).observe(float(number % 9), {"id": str(thread)})
            counter.inc(1, {"id": str(thread)})
            gauge.inc(2)
            gauge.dec(1)

    def scrape() -> None:
        start.wait()
        for _ in range(60):
            histogram.labels("passing")
            assert render(registry, accept=OPENMETRICS)[0].endswith(b"# EOF\n")
            histogram.remove("passing")
            exemplar = shown(counter.collect())
            newest.extend(float(one.timestamp or 0) for one in exemplar)

    threads = [threading.Thread(target=observe, args=(number,)) for number in range(6)]
    threads += [threading.Thread(target=scrape) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    counts = {tuple(s.labels.values()): s.value for f in registry.collect() for s in f.samples if s.name == "h_count"}
    passing = counts.pop(("passing",), 0)
    assert sum(counts.values()) + passing == 6 * 1500
    assert len(counts) <= 5
    assert registry.get_sample_value("c_total") == 6 * 1500
    assert registry.get_sample_value("g") == 6 * 1500
    assert faults.seen == {}


# --- other kinds of concurrency, each in a process of its own -------------------------------------------------------


def run(script: str) -> str:
    """What *script* prints in an interpreter of its own; that it ends well."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("patched", ["before", "after"])
def test_greenlets_and_real_threads_observe_at_once(patched: str) -> None:
    script = f"""
        import gevent.monkey
        if {patched!r} == "before":
            gevent.monkey.patch_all()
        from exemplars import Counter, Histogram, Policy, render
        if {patched!r} == "after":
            gevent.monkey.patch_all()
        import gevent
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry()
        newest = Policy(min_retention=0.0)
        histogram = Histogram("h", "d", ("a",), registry=registry, policy=newest)
        counter = Counter("c", "d", registry=registry, policy=newest)

        def observe(number):
            for turn in range(50):
                histogram.labels(turn % 3).observe(1.0, {{"id": str(number)}})
                counter.inc(1, {{"id": str(number)}})
                if turn % 5 == 0:
                    gevent.sleep(0)
            if number % 10 == 0:
                render(registry)

        pool = gevent.get_hub().threadpool
        real = [pool.spawn(observe, number) for number in range(4)]
        greenlets = [gevent.spawn(observe, number) for number in range(40)]
        gevent.joinall(greenlets + real, timeout=60, raise_error=True)
        assert all(one.ready() for one in greenlets + real)
        counts = [s.value for f in registry.collect() for s in f.samples if s.name == "h_count"]
        print(int(sum(counts)), int(registry.get_sample_value("c_total")))
    """
    assert run(script) == "2200 2200"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_children_forked_while_other_threads_observe_can_observe_and_scrape() -> None:
    script = """
        import os, signal, sys, threading
        from exemplars import Histogram, Policy, render
        from prometheus_client import CollectorRegistry

        sys.setswitchinterval(1e-6)
        registry = CollectorRegistry()
        histogram = Histogram("h", "d", ("a",), registry=registry, policy=Policy(min_retention=0.0))
        stop = threading.Event()

        def observe():
            while not stop.is_set():
                histogram.labels("parent").observe(1.0, {"id": "parent"})
                render(registry)

        threads = [threading.Thread(target=observe) for _ in range(4)]
        for thread in threads:
            thread.start()
        wrong = 0
        for number in range(30):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)  # a child that waits for ever is killed, and counted
                for _ in range(100):
                    histogram.labels("child").observe(1.0, {"id": "child"})
                text = render(registry, accept="application/openmetrics-text")[0].decode()
                worker = threading.Thread(target=histogram.labels("child").observe, args=(1.0,))
                worker.start()
                worker.join()
                right = registry.get_sample_value("h_count", {"a": "child"}) == 101
                whole = registry.get_sample_value("h_count", {"a": "parent"}) == registry.get_sample_value(
                    "h_sum", {"a": "parent"}
                )
                os._exit(0 if right and whole and 'id="child"' in text else 1)
            wrong += os.waitpid(pid, 0)[1] != 0
        stop.set()
        for thread in threads:
            thread.join()
        assert registry.get_sample_value("h_count", {"a": "child"}) is None
        print(wrong)
    """
    assert run(script) == "0"

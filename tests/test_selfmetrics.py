"""What the library says of itself: the numbers that lower layers keep, once a registry."""

import gc
import threading
import weakref
from typing import Any, cast

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry

from exemplars import Counter, Histogram, Policy, faults, make_asgi_app, make_wsgi_app, metrics, selfmetrics, span
from exemplars.selfmetrics import SelfMetrics
from tests.measured import Clock

IDS = {"trace_id": "a" * 32, "span_id": "b" * 16}


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_every_number_is_there_from_the_start(registry: CollectorRegistry) -> None:
    selfmetrics.install(registry)
    found = {sample.name for family in registry.collect() for sample in family.samples}

    assert found == {
        "exemplars_taken_total",
        "exemplars_marked_total",
        "exemplars_marks_refused_total",
        "exemplars_exposed",
        "exemplars_errors_total",
        "exemplars_files_skipped_total",
        "exemplars_plain_text_scrapes_total",
        "exemplars_workers",
        "exemplars_shared",
    }
    assert value(registry, "exemplars_workers") == 1
    assert value(registry, "exemplars_shared") == 0


def test_every_kind_of_fault_is_there_from_the_start_and_counted(registry: CollectorRegistry) -> None:
    selfmetrics.install(registry)
    (errors,) = [family for family in registry.collect() if family.name == "exemplars_errors"]
    before = {sample.labels["kind"]: sample.value for sample in errors.samples}

    assert before.keys() == set(faults.KINDS)
    faults.note("label", detail="on purpose")
    for kind in faults.KINDS:
        assert value(registry, "exemplars_errors_total", kind=kind) == before[kind] + (kind == "label")


def test_the_counters_are_those_of_the_process(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    selfmetrics.install(registry)
    for tally, count in ((metrics.taken, 7), (span.marked, 5), (span.refused, 3), (selfmetrics.plain_text_scrapes, 2)):
        monkeypatch.setattr(tally, "values", {"": count})

    assert value(registry, "exemplars_taken_total") == 7
    assert value(registry, "exemplars_marked_total") == 5
    assert value(registry, "exemplars_marks_refused_total") == 3
    assert value(registry, "exemplars_plain_text_scrapes_total") == 2


def test_exemplars_are_counted_as_taken_and_while_they_are_shown(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    policy = Policy(min_retention=1.0, max_age=10.0)
    latency = Histogram("latency", "", ["a"], buckets=[1.0], policy=policy, registry=registry)
    selfmetrics.install(registry)
    before = value(registry, "exemplars_taken_total")
    assert before is not None
    for amount in (0.5, 2.0, 3.0):
        latency.labels("x").observe(amount, exemplar=IDS)
        clock.advance(0.5)

    assert value(registry, "exemplars_taken_total") == before + 3
    assert value(registry, "exemplars_exposed") == 2  # the third took the place of the second
    clock.advance(9.2)
    assert value(registry, "exemplars_exposed") == 1
    clock.advance(10)
    assert value(registry, "exemplars_exposed") == 0


def test_refused_series_are_counted_by_metric(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.series_refused, "values", {})
    jobs = Counter("jobs", "", ["a"], max_series=1, registry=registry)
    Counter("others", "", ["a"], registry=registry)
    Counter("elsewhere", "", ["a"], registry=CollectorRegistry())
    selfmetrics.install(registry)
    for label in "abc":
        jobs.labels(label).inc()

    assert value(registry, "exemplars_series_refused_total", metric="jobs") == 2
    assert value(registry, "exemplars_series_refused_total", metric="others") == 0
    assert value(registry, "exemplars_series_refused_total", metric="elsewhere") is None


def test_a_registry_gets_them_once(registry: CollectorRegistry) -> None:
    """Whoever needs them registers them: middleware and endpoints, any number of them, in any thread."""
    threads = [threading.Thread(target=selfmetrics.install, args=(registry,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    make_asgi_app(registry)
    make_wsgi_app(registry)

    collectors = selfmetrics.collectors_of(registry)
    assert collectors is not None
    assert [type(collector) for collector in collectors] == [SelfMetrics]
    other = CollectorRegistry()
    selfmetrics.install(other)
    assert value(other, "exemplars_workers") == 1


def test_another_collector_of_one_of_their_names_is_an_error_each_time(registry: CollectorRegistry) -> None:
    clash = prometheus_client.Gauge("exemplars_workers", "", registry=registry)
    for _ in range(2):
        with pytest.raises(ValueError, match="exemplars_workers"):
            selfmetrics.install(registry)
    registry.unregister(clash)
    selfmetrics.install(registry)
    assert value(registry, "exemplars_workers") == 1


def test_a_registry_that_takes_no_collectors_is_left_alone(registry: CollectorRegistry) -> None:
    part = cast(CollectorRegistry, registry.restricted_registry(["x"]))
    selfmetrics.install(part)

    assert list(part.collect()) == []
    assert selfmetrics.collectors_of(part) is None
    assert list(selfmetrics.metrics_of(part)) == []


def test_a_registry_is_not_kept_alive() -> None:
    registry: Any = CollectorRegistry()
    selfmetrics.install(registry)
    gone = weakref.ref(registry)
    del registry
    gc.collect()

    assert gone() is None

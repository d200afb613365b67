"""What the library says of itself, read at a scrape from the plain counters that it keeps anyway."""

from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakSet

from prometheus_client import CollectorRegistry
from prometheus_client import Metric as MetricFamily
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from exemplars import faults, metrics, span
from exemplars._lock import lock

# Of this process.
plain_text_scrapes = 0


class SelfMetrics(Collector):
    """The library's own metrics, for one registry.

    Of that registry are ``exemplars_exposed`` and ``exemplars_series_refused_total``; the rest is of the whole process.
    Safe under threads; nothing is raised.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def describe(self) -> list[MetricFamily]:
        """The families, by whose names a registry finds clashes."""
        return self.families(0)

    def collect(self) -> list[MetricFamily]:
        """The families; looks at every exemplar there is to tell how many are exposed."""
        return self.families(sum(_shown(metric) for metric in metrics_of(self._registry)))

    def families(self, exposed: int) -> list[MetricFamily]:
        """The families, for a caller who knows that *exposed* exemplars are shown."""
        errors = CounterMetricFamily(
            "exemplars_errors", "Faults inside the library, which cost a label or an exemplar.", labels=["kind"]
        )
        for kind in faults.KINDS:
            errors.add_metric([kind], faults.counts[kind])
        refused = CounterMetricFamily(
            "exemplars_series_refused",
            "Uses of label sets beyond max_series, which the overflow series took.",
            labels=["metric"],
        )
        for metric in metrics_of(self._registry):
            refused.add_metric([metric.name], metrics.series_refused.get(metric.name, 0))
        return [
            CounterMetricFamily("exemplars_taken", "Exemplars that a bucket or counter took.", metrics.taken),
            CounterMetricFamily(
                "exemplars_marked", "Spans marked so that tail sampling keeps their traces.", span.marked
            ),
            CounterMetricFamily(
                "exemplars_marks_refused", "Spans that no budget was left to mark: not shown.", span.refused
            ),
            GaugeMetricFamily("exemplars_exposed", "Exemplars that are shown now.", exposed),
            errors,
            refused,
            CounterMetricFamily(
                "exemplars_plain_text_scrapes",
                "Pages asked for in plain text, in which no exemplar can be.",
                plain_text_scrapes,
            ),
            GaugeMetricFamily("exemplars_workers", "Workers whose numbers this page shows.", 1),
            GaugeMetricFamily("exemplars_shared", "Whether workers share their numbers: 1, or 0 if not.", 0),
        ]


_installed: "WeakSet[CollectorRegistry]" = WeakSet()


def install(registry: CollectorRegistry) -> None:
    """Register the library's own metrics in *registry*, unless they are there or it takes no collectors.

    Raises ``ValueError`` when *registry* knows another collector of one of their names.
    """
    if collectors_of(registry) is None:
        return
    with lock:
        if registry in _installed:
            return
        _installed.add(registry)
    # Outside the lock: registering asks other people's collectors, which may wait for a thread that waits for it.
    try:
        registry.register(SelfMetrics(registry))
    except BaseException:
        with lock:
            _installed.discard(registry)
        raise


def collectors_of(registry: object) -> Mapping[Any, list[str]] | None:
    """The collectors of *registry* with the names they registered; ``None`` where it does not tell.

    prometheus_client (0.20 to 0.26) keeps them in private; its public ``collect`` ends at the first one that raises.
    """
    collectors = getattr(registry, "_collector_to_names", None)
    # A copy, made at once: other threads may register meanwhile.
    return dict(collectors) if isinstance(collectors, dict) else None


def metrics_of(registry: object) -> Iterator[metrics.Metric[Any]]:
    """Our own metrics that *registry* knows."""
    for collector in collectors_of(registry) or ():
        if isinstance(collector, metrics.Metric):
            yield collector


def _shown(metric: metrics.Metric[Any]) -> int:
    now = metrics.monotonic()
    return sum(child.shown(slot, now) for child in metric.series() for slot in child.record.slots)


def count_plain_text_scrape() -> None:
    """Count one page in plain text."""
    global plain_text_scrapes
    with lock:
        plain_text_scrapes += 1

"""What the library says of itself, read at a scrape from the plain counters that it keeps anyway."""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from weakref import WeakSet

from prometheus_client import CollectorRegistry
from prometheus_client import Metric as MetricFamily
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from exemplars import faults, metrics, span
from exemplars._lock import lock
from exemplars.store import worker
from exemplars.tallies import Tally

plain_text_scrapes: Final = Tally(
    "exemplars_plain_text_scrapes", "Pages asked for in plain text, in which no exemplar can be."
)


class SelfMetrics(Collector):
    """The library's own metrics, for one registry.

    Of that registry are ``exemplars_exposed`` and ``exemplars_series_refused_total``; the rest is of the whole process,
    and where workers share their numbers, of all of them. Safe under threads; nothing is raised.
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
        names = [metric.name for metric in metrics_of(self._registry)]
        refused = worker.tally(metrics.series_refused)
        return [
            *map(_counter, (metrics.taken, span.marked, span.refused, faults.errors, plain_text_scrapes)),
            _counter(metrics.series_refused, {name: refused.get(name, 0) for name in names}),
            _counter(worker.skipped),
            GaugeMetricFamily("exemplars_exposed", "Exemplars that are shown now.", exposed),
            GaugeMetricFamily("exemplars_workers", "Workers whose numbers this page shows.", worker.workers()),
            GaugeMetricFamily("exemplars_shared", "Whether workers share their numbers: 1, else 0.", worker.shared()),
        ]


def _counter(tally: Tally, values: Mapping[str, int] | None = None) -> MetricFamily:
    family = CounterMetricFamily(tally.name, tally.documentation, labels=[tally.label] if tally.label else [])
    for label, value in (worker.tally(tally) if values is None else values).items():
        family.add_metric([label] if tally.label else [], value)
    return family


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
    return sum(
        slot is not None and not metric.policy.expired(slot, now)
        for series in metric.series()
        for slot in series.read()[2]
    )

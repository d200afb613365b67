"""What the library says of itself, read at a scrape from the plain counters that it keeps anyway."""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from weakref import WeakSet

from prometheus_client import CollectorRegistry
from prometheus_client import Metric as MetricFamily
from prometheus_client.registry import Collector

from exemplars import faults, metrics, span
from exemplars._lock import lock

# Of this process: pages in plain text, in which no exemplar can be.
plain_text_scrapes = 0

_NAMES: Final = {
    "exemplars_taken": ("counter", "Exemplars that a bucket or counter took."),
    "exemplars_marked": ("counter", "Spans marked so that tail sampling keeps their traces."),
    "exemplars_marks_refused": ("counter", "Spans not marked, and so not shown, because the budget was spent."),
    "exemplars_exposed": ("gauge", "Exemplars that are shown now."),
    "exemplars_errors": ("counter", "Faults inside the library, which cost a label or an exemplar, by kind."),
    "exemplars_series_refused": ("counter", "Label sets beyond max_series, counted in the overflow series."),
    "exemplars_plain_text_scrapes": ("counter", "Pages asked for in plain text, which has no exemplars."),
    "exemplars_workers": ("gauge", "Workers whose numbers this page shows."),
    "exemplars_shared": ("gauge", "Whether workers share their numbers: 1, or 0 for private memory."),
}


class SelfMetrics(Collector):
    """The library's own metrics, for one registry.

    All but ``exemplars_exposed`` are of the whole process. Safe under threads; nothing is raised.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def describe(self) -> list[MetricFamily]:
        """The families without samples, by which a registry finds clashes of names."""
        return [MetricFamily(name, text, kind) for name, (kind, text) in _NAMES.items()]

    def collect(self) -> list[MetricFamily]:
        """The families with their samples; looks at every exemplar there is to tell how many are exposed."""
        return self.families(sum(_shown(metric) for metric in metrics_of(self._registry)))

    def families(self, exposed: int) -> list[MetricFamily]:
        """The families with their samples, for a caller who knows that *exposed* exemplars are shown."""
        with lock:
            errors, refused = dict(faults.counts), dict(metrics.series_refused)
        ours = [metric.name for metric in metrics_of(self._registry)]
        samples: dict[str, Mapping[tuple[tuple[str, str], ...], float]] = {
            "exemplars_taken": {(): metrics.taken},
            "exemplars_marked": {(): span.marked},
            "exemplars_marks_refused": {(): span.refused},
            "exemplars_exposed": {(): exposed},
            "exemplars_errors": {(("kind", kind),): count for kind, count in errors.items()},
            "exemplars_series_refused": {(("metric", name),): refused.get(name, 0) for name in ours},
            "exemplars_plain_text_scrapes": {(): plain_text_scrapes},
            "exemplars_workers": {(): 1},
            "exemplars_shared": {(): 0},
        }
        families = self.describe()
        for family in families:
            suffix = "_total" if family.type == "counter" else ""
            for labels, value in samples[family.name].items():
                family.add_sample(family.name + suffix, dict(labels), value)
        return families


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

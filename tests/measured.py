"""What a registry says of the requests it saw, the faults since a moment, and time as a test tells it."""

from collections.abc import Iterable
from typing import NamedTuple

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client import Metric as MetricFamily
from prometheus_client.samples import Exemplar

from exemplars import faults, metrics, recorder, semconv


class Ending(NamedTuple):
    """The labels of a measured request that tell how it ended."""

    status: str
    error_type: str


class Clock:
    """Monotonic and wall clock of the library, which stand until a test moves them."""

    def __init__(self, patch: pytest.MonkeyPatch, *, wall_ms: int = 1_800_000_000_000) -> None:
        self.now = 1000.0  # seconds, monotonic
        self.wall_ms = wall_ms
        patch.setattr(metrics, "monotonic", self)
        patch.setattr(recorder, "monotonic", self)
        patch.setattr(metrics, "wall_clock_ns", lambda: self.wall_ms * 1_000_000)

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float, *, wall_step_ms: int = 0) -> None:
        """Let *seconds* pass on both; the wall clock is also set *wall_step_ms* ahead, or back."""
        self.now += seconds
        self.wall_ms += round(seconds * 1000) + wall_step_ms


def family(registry: CollectorRegistry, name: str) -> MetricFamily:
    (found,) = [family for family in registry.collect() if family.name == name]
    return found


def requests(registry: CollectorRegistry, name: str = semconv.DURATION) -> list[dict[str, str]]:
    """The labels of every request that the histogram *name* observed, one mapping a request."""
    found = []
    for sample in family(registry, name).samples:
        if sample.name.endswith("_count"):
            found += [sample.labels] * int(sample.value)
    return found


def endings(registry: CollectorRegistry, name: str = semconv.DURATION) -> list[Ending]:
    return [Ending(labels[semconv.STATUS], labels[semconv.ERROR_TYPE]) for labels in requests(registry, name)]


def total(registry: CollectorRegistry, name: str = semconv.DURATION) -> float:
    """The sum of what the histogram *name* observed, over all series."""
    return sum(sample.value for sample in family(registry, name).samples if sample.name.endswith("_sum"))


def active(registry: CollectorRegistry) -> float:
    """Requests that are active now."""
    return sum(sample.value for sample in family(registry, semconv.ACTIVE_REQUESTS).samples)


def shown(families: Iterable[MetricFamily]) -> list[Exemplar]:
    """The exemplars of *families*, bucket by bucket."""
    return [sample.exemplar for family in families for sample in family.samples if sample.exemplar is not None]


class Faults:
    """The faults counted since it was made, by kind."""

    def __init__(self) -> None:
        self._before = dict(faults.errors.values)

    @property
    def seen(self) -> dict[str, int]:
        now = faults.errors.values
        return {kind: count - self._before[kind] for kind, count in now.items() if count != self._before[kind]}

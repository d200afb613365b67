"""prometheus_client's own metrics on a page that answers for several workers.

Each process counts them for itself, so one worker's numbers would pass for those of all. prometheus_client can merge
them, if ``PROMETHEUS_MULTIPROC_DIR`` named a directory when it was imported; else they are left out, and the log says
how to have them. Collectors of others answer for themselves, and where numbers are in private memory all is as ever.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, Final

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    Summary,
    values,
)
from prometheus_client import Metric as MetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from exemplars import faults
from exemplars._lock import lock
from exemplars.store import worker

_MERGEABLE: Final = (Counter, Gauge, Histogram, Summary)
_STATES: Final = (Info, Enum)
_OF_THE_PROCESS: Final = (ProcessCollector, PlatformCollector, GCCollector)

_Merged: Final[Callable[[None], Collector]] = MultiProcessCollector

_log = logging.getLogger("exemplars")
_said = False


def is_of_one_worker(collector: object) -> bool:
    """Tell whether *collector* is one of prometheus_client's, so that it knows the numbers of this worker only.

    Never in private memory, where there are no others.
    """
    return isinstance(collector, (*_MERGEABLE, *_STATES, *_OF_THE_PROCESS)) and worker.shared()


def merged(
    registry: CollectorRegistry, collectors: Mapping[Any, list[str]], wanted: Set[str] = frozenset()
) -> Iterable[MetricFamily]:
    """What prometheus_client has counted in all processes: in the default *registry* all, in others what they know.

    *collectors* are those of *registry*, each with the names it registered. Nothing where a ``MultiProcessCollector``
    among them gives the same, where *wanted* names nothing of it, where prometheus_client does not merge, and in
    private memory. Never raises: that its files cannot be read is counted.
    """
    if not worker.shared():
        return ()
    lost = [collector for collector in collectors if is_of_one_worker(collector)]
    _say(lost, collectors)
    if not _merges() or any(isinstance(collector, MultiProcessCollector) for collector in collectors):
        return ()
    known = {name for collector in lost for name in collectors[collector]}
    if registry is not REGISTRY and (not known or (wanted and wanted.isdisjoint(known))):
        return ()
    try:
        families = list(_Merged(None).collect())
    except Exception as error:
        path = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        faults.note("collector", error, f"prometheus_client's metrics cannot be merged from {path}: {error!r}")
        return ()
    return families if registry is REGISTRY else [family for family in families if family.name in known]


def _merges() -> bool:
    """Whether prometheus_client keeps its numbers in files, which is decided when it is imported."""
    return bool(getattr(values.ValueClass, "_multiprocess", False))


def _say(lost: Iterable[object], collectors: Mapping[Any, list[str]]) -> None:
    """Say, once, which metrics are left out, and how to have them."""
    global _said
    with lock:
        if _said:
            return
        _said = True

    def names(kinds: tuple[type, ...]) -> str:
        return ", ".join(name for each in lost if isinstance(each, kinds) for name in collectors[each][:1])

    if _merges():
        if states := names(_STATES):
            _log.warning(
                "left out of a page that answers for all workers, as prometheus_client merges neither Info nor Enum: "
                "%s. A Gauge of exemplars can tell the same",
                states,
            )
    elif counted := names((*_MERGEABLE, *_STATES)):
        _log.warning(
            "left out of a page that answers for all workers, as prometheus_client counts in each by itself: %s. "
            "To have them, import Counter, Gauge and Histogram from exemplars, or set PROMETHEUS_MULTIPROC_DIR to an "
            "empty directory before the start",
            counted,
        )
    elif names(_OF_THE_PROCESS):
        _log.info("left out of a page that answers for all workers: what prometheus_client tells of one process")

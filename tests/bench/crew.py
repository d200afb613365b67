"""The processes of the rows for several workers: `python -m tests.bench.crew worker`, `… scraper`, `… filler`.

A worker counts, in ours and in prometheus_client's files. A scraper counts nothing: it is one more worker, the one that
Prometheus happens to ask. Each is told by its environment where the files lie.
"""

import asyncio
import gc
import gzip
import os
import random
import re
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from itertools import cycle
from time import monotonic, perf_counter, thread_time
from typing import Any, Final

import prometheus_client
from opentelemetry import trace
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics.exposition import generate_latest

import exemplars
from exemplars.policy import Slot
from exemplars.store import directory, layout, shared

from . import byhand, processes, render
from .spans import SAMPLED

THEIR_FILES: Final = "BENCH_THEIR_FILES"  # names their directory to a scraper, which is no process of theirs itself
_COUNT: Final = re.compile(rb"^%b_count{.*} (\d+)" % byhand.DURATION.encode(), re.MULTILINE)
_TRACE: Final = re.compile(rb' # {trace_id="([0-9a-f]{32})"')
_SCOPE: Final = {
    "type": "http",
    "method": "GET",
    "path": "/metrics",
    "query_string": b"",
    "headers": [(b"accept", render.ACCEPT.encode()), (b"accept-encoding", b"gzip")],
}

Said = dict[str, Any]


def shown(page: bytes) -> Said:
    """What *page* says: observations counted, exemplars, and what is peculiar to their traces."""
    traces = [int(found, 16) for found in _TRACE.findall(page)]
    return {"counted": sum(map(int, _COUNT.findall(page))), "exemplars": len(traces), "traces": digest(traces)}


def digest(traces: list[int]) -> int:
    return sum(traces) % 2**64


class Worker:
    """Counts the same in both at first: once in every bucket, with an exemplar."""

    def __init__(self, seed: int) -> None:
        self.ours = render.ours(seed)
        self.theirs = render.theirs(seed)

    def counted(self) -> Said:
        """Observations of either kind, and what is peculiar to the traces of the last of each bucket."""
        ours, theirs = self.ours, self.theirs
        return {"ours": ours.observations, "theirs": theirs.observations, "traces": digest(list(ours.traces.values()))}

    def fill(self) -> Said:
        self.theirs.exemplars()
        return self.exemplars()

    def counts(self) -> Said:
        self.ours.counts()
        return self.counted()

    def exemplars(self) -> Said:
        self.ours.exemplars()
        return self.counted()


class Filler:
    """Has the files of many workers at once, and counts in them without metrics, which would take a while."""

    def __init__(self, workers: int, series: int) -> None:
        place = directory.of_group(None, directory.named())
        histogram = render.ours().histogram
        labels = [
            (method, f"{route}{n // len(render.LABEL_SETS)}", *rest)
            for n, (method, route, *rest) in zip(range(series), cycle(render.LABEL_SETS), strict=False)
        ]
        self.files = [shared.OwnFile.obtain(place, monotonic()) for _ in range(workers)]
        self.records = [
            [file.place((histogram.schema, layout.encode_labels(each)), 0.0) for each in labels] for file in self.files
        ]
        self.ids = random.Random(workers)
        self.observations = 0
        self.traces: list[int] = []
        for number, records in enumerate(self.records):
            self._fill(records, time.time_ns() // 1_000_000 + number)

    def _fill(self, records: list[shared.FileRecord], timestamp_ms: int) -> None:
        """Give every bucket an exemplar, all of one time: a later worker's are newer."""
        self.traces = []
        for record in records:
            for index, amount in enumerate(render.AMOUNTS):
                record.add(index, amount)
                self.traces.append(self.ids.getrandbits(128))
                now = perf_counter()
                slot = Slot(amount, timestamp_ms, now, now, self.traces[-1], self.ids.getrandbits(64))
                record.put(index, slot, None)
        self.observations += len(records) * len(render.AMOUNTS)

    def filled(self) -> Said:
        return {"counted": self.observations, "exemplars": len(self.traces), "traces": digest(self.traces)}

    def counts(self) -> Said:
        """Count once in the first bucket of every series."""
        for records in self.records:
            for record in records:
                record.add(0, render.AMOUNTS[0])
            self.observations += len(records)
        return self.filled()


class Scraper:
    """Renders the page of all workers: ours, and prometheus_client's."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = render.ours().registry
        self.runner = asyncio.Runner()
        self.app: Any = exemplars.make_asgi_app(self.registry)
        gc.collect()
        gc.freeze()  # as in every other row

    def their_registry(self) -> CollectorRegistry:
        """As their documents say: made anew for each scrape."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, os.environ[THEIR_FILES])  # type: ignore[no-untyped-call]
        return registry

    def page(self) -> bytes:
        return exemplars.render(self.registry, accept=render.ACCEPT)[0]

    def their_page(self) -> bytes:
        return generate_latest(self.their_registry())  # type: ignore[no-any-return, no-untyped-call]

    def timed(self, page: Callable[[], bytes]) -> Said:
        began = thread_time()
        made = page()
        seconds = thread_time() - began
        return {"seconds": seconds, **shown(made)}

    def weighed(self, app: Callable[[], Any]) -> Said:
        """The bytes that a scrape needs beyond what there was before it, at most, and what it keeps."""
        answer = Answer()
        peak, said, kept = weigh(lambda: self.runner.run(app()(dict(_SCOPE), receive, answer.take)), answer.said)
        return {"peak": peak, "kept": kept, **said}

    def gap(self, app: Callable[[], Any]) -> Said:
        """The longest time for which the event loop had no turn during one scrape, and the longest of CPU time."""
        answer = Answer()
        seconds, cpu = self.runner.run(gaps(lambda: app()(dict(_SCOPE), receive, answer.take)))
        return {"seconds": seconds, "cpu": cpu, **answer.said()}


def weigh(scrape: Callable[[], object], forget: Callable[[], Said]) -> tuple[int, Said, int]:
    """Bytes that *scrape* allocates at most; what *forget* says, and leaves; bytes that remain."""
    gc.collect()
    tracemalloc.start()
    scrape()
    _, peak = tracemalloc.get_traced_memory()
    said = forget()
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak, said, kept


async def gaps(scrape: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """The longest seconds between two turns of the event loop while *scrape* goes on, and of CPU time."""
    turns: list[tuple[float, float]] = []

    async def take_turns() -> None:
        while True:
            turns.append((perf_counter(), thread_time()))
            await asyncio.sleep(0)

    ticker = asyncio.create_task(take_turns())
    await asyncio.sleep(0)
    await scrape()
    turns.append((perf_counter(), thread_time()))
    ticker.cancel()
    pairs = list(zip(turns, turns[1:], strict=False))
    return max(after[0] - before[0] for before, after in pairs), max(a[1] - b[1] for b, a in pairs)


class Answer:
    """What an ASGI application sends."""

    def __init__(self) -> None:
        self._body: list[bytes] = []

    async def take(self, message: dict[str, Any]) -> None:
        self._body.append(message.get("body", b""))

    def said(self) -> Said:
        """What the page says; it is forgotten."""
        said = shown(gzip.decompress(b"".join(self._body)))
        self._body.clear()
        return said


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


def their_app(scraper: Scraper) -> Any:
    return prometheus_client.make_asgi_app(scraper.their_registry())


def main(role: str, *numbers: str) -> None:
    trace.set_tracer_provider(SAMPLED)
    if role == "filler":
        filler = Filler(*map(int, numbers))
        processes.answer({"filled": filler.filled, "counts": filler.counts})
    elif role == "worker":
        worker = Worker(*map(int, numbers))
        processes.answer({"fill": worker.fill, "counts": worker.counts, "exemplars": worker.exemplars})
    else:
        scraper = Scraper()
        processes.answer(
            {
                "ours": lambda: scraper.timed(scraper.page),
                "theirs": lambda: scraper.timed(scraper.their_page),
                "ours weighed": lambda: scraper.weighed(lambda: scraper.app),
                "theirs weighed": lambda: scraper.weighed(lambda: their_app(scraper)),
                "ours gap": lambda: scraper.gap(lambda: scraper.app),
                "theirs gap": lambda: scraper.gap(lambda: their_app(scraper)),
            }
        )


if __name__ == "__main__":
    main(*sys.argv[1:])

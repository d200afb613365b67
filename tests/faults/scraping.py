"""Whoever scrapes while things go wrong: a client that checks every page, and a real Prometheus."""

import http.client
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.faults.figures import Figures
from tests.faults.pages import CUMULATIVE, Page, scrape
from tests.faults.servers import Server
from tests.fuzz.scraping import figures, one
from tests.programs import Prometheus, eventually, prometheus

_DROPPED: Final = re.compile(r"prometheus_(target_scrapes|tsdb)_\w*(out_of_order|out_of_bounds|duplicate)\w*_total")


class Scraper:
    """Scrapes *server* again and again, one page after the other, and gives each to *check*, which raises.

    Raises itself when there are more workers' files than *most_files*.
    """

    def __init__(self, server: Server, check: Callable[[Page], object], most_files: int, pause: float) -> None:
        self.pages = 0
        self.interrupted = 0  # scrapes that were not answered to the end
        self.files = 0  # most of workers' files that there were at once
        self._server = server
        self._check = check
        self._most_files = most_files
        self._pause = pause
        self._stop = threading.Event()
        self._done: Future[None] | None = None

    def check(self) -> None:
        """Raise what a page has failed with."""
        assert self._done is not None
        if self._done.done():
            self._done.result()

    def _scrape(self) -> None:
        while not self._stop.wait(self._pause):
            try:
                page = scrape(self._server.host, self._server.port)
            except (OSError, http.client.HTTPException):
                self.interrupted += 1
                continue
            self.pages += 1
            self._check(page)
            files = self._server.shared_files()
            self.files = max(self.files, len(files))
            assert len(files) <= self._most_files, files

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """It scrapes as long as this lasts; raises what a page has failed with."""
        with ThreadPoolExecutor(1) as pool:
            self._done = pool.submit(self._scrape)
            try:
                yield
            finally:
                self._stop.set()
        self._done.result()


def settled(server: Server, workers: int, check: Callable[[Page], object]) -> Page:
    """The page that all *workers* answer alike, once they do, as no request is under way. *check* is given each one's.

    Asked all at once: of many that wait, the kernel may always wake the same one.
    """
    at_once = 3 * workers
    last: list[Page] = []

    def page() -> Page | None:
        try:
            return scrape(server.host, server.port, timeout=10.0)
        except (OSError, http.client.HTTPException):
            return None

    def agree() -> bool:
        pages = [each for each in pool.map(lambda _: page(), range(at_once)) if each is not None]
        last[:] = pages
        alike = all(each.counts() == pages[0].counts() for each in pages)
        return alike and len({each.worker for each in pages}) >= workers

    with ThreadPoolExecutor(at_once) as pool:
        eventually(
            agree,
            f"{workers} workers to answer alike",
            lambda: f"{[(each.worker, each.counts()) for each in last]}\n{server.log[-3000:]}",
        )
    for each in last:
        check(each)
    return last[-1]


@contextmanager
def watched(server: Server, directory: Path, interval: str = "500ms") -> Iterator[Prometheus]:
    """A Prometheus that scrapes *server*, by connections that the kernel gives to any worker."""
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "storage": {"exemplars": {"max_exemplars": 1_000_000}},
        "scrape_configs": [{"job_name": "campaign", "static_configs": [{"targets": [server.address]}]}],
    }
    with prometheus(directory, config, "--enable-feature=exemplar-storage") as watcher:
        yield watcher


def stored(watcher: Prometheus) -> int:
    """How many exemplars Prometheus has stored."""
    return round(figures(watcher)["prometheus_tsdb_exemplar_exemplars_appended_total"])


def answered(scrapes: Path) -> set[str]:
    """Who answered Prometheus, by what the workers have noted in *scrapes*."""
    return set(scrapes.read_text().split()) if scrapes.exists() else set()


def judge(watcher: Prometheus, scrapes: Path) -> Figures:
    """What Prometheus made of the pages: raises ``AssertionError`` where a series fell or anything was dropped.

    *scrapes* is where the workers have noted who answered it.
    """
    own = figures(watcher)
    dropped = {name: value for name, value in own.items() if _DROPPED.fullmatch(name)}
    assert "prometheus_target_scrapes_exemplar_out_of_order_total" in dropped
    assert not any(dropped.values()), dropped
    names = [name for name in watcher.ask("label/__name__/values") if name.endswith(CUMULATIVE)]
    assert "http_server_request_duration_seconds_count" in names
    fallen = [
        (name, series["metric"], series["value"])
        for name in names
        for series in watcher.ask("query", query=f"resets({name}[6h]) > 0")["result"]
    ]
    assert not fallen, fallen
    return Figures(
        {
            "scrapes by Prometheus": round(one(watcher, "count_over_time(up[6h])")),
            "of them answered to the end": round(one(watcher, "sum_over_time(up[6h])")),
            "workers that answered it": len(answered(scrapes)),
            "exemplars it stored": round(own["prometheus_tsdb_exemplar_exemplars_appended_total"]),
            "exemplars and samples it dropped": round(sum(dropped.values())),
        }
    )

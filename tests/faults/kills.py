"""`kill -9` of random workers under load: nothing that was counted is lost, and nothing that was shown goes back."""

import os
import random
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.faults import counting
from tests.faults.figures import Figures
from tests.faults.load import Load
from tests.faults.pages import Rules
from tests.faults.scraping import Scraper, answered, judge, settled, stored, watched
from tests.faults.servers import COMMANDS, WORKERS, Server, running
from tests.programs import eventually

SERVERS: Final = ("gunicorn sync", "gunicorn gthread", "uvicorn")
# How many of four workers are killed at once; mostly one, at times all.
_AT_ONCE: Final = (1, 1, 1, 1, 2, 2, 3, WORKERS)


def run(name: str, count: int, directory: Path, seed: int, environment: Mapping[str, str]) -> Figures:
    """Kill *count* workers of the server *name*. Raises ``AssertionError`` when anything does not hold."""
    scrapes = directory / "scrapes"
    with (
        running(COMMANDS[name], directory, environment={**environment, "SCRAPES": str(scrapes)}) as server,
        watched(server, directory) as prometheus,
    ):
        load = Load(server.host, server.port, pause=0.005)
        rules = Rules(load)
        scraper = Scraper(server, rules.check, most_files=WORKERS, pause=0.03)
        with load.going_on(), scraper.going_on():
            killed, rounds = kill(server, rules, scraper, count, random.Random(seed))
            eventually(lambda: len(serving(server, load) - killed.keys()) == WORKERS, "all workers to be back")
            prometheus.scraped("campaign", times=4)
            # Which worker a connection wakes is the kernel's choice; under load none is for ever the one that waits.
            eventually(lambda: len(answered(scrapes)) >= WORKERS, "scrapes by several workers", scrapes.read_text)
            eventually(lambda: stored(prometheus), "an exemplar in Prometheus", lambda: server.log[-3000:])
        last = settled(server, WORKERS, rules.check)
        found = Figures({"workers killed": len(killed), "kills of all four at once": rounds[WORKERS]})
        found.add(counting.check(rules, last, killed))
        found.add({"scrapes cut off": scraper.interrupted, "files at most": scraper.files})
        assert 0 < scraper.files <= WORKERS
        assert load.requests and rules.exemplars
        found.add(judge(prometheus, scrapes))
        return found


def serving(server: Server, load: Load) -> set[int]:
    """The living workers that have answered a request."""
    return server.children() & load.seen


def kill(
    server: Server, rules: Rules, scraper: Scraper, count: int, choose: random.Random
) -> tuple[dict[int, float], list[int]]:
    """Kill *count* workers that have served, some at a time: when each was killed, and how often how many at once.

    One of them, each time, has answered a scrape: however slow those are, pages by many workers are checked.
    """
    load = rules.load
    killed: dict[int, float] = {}
    rounds = [0] * (WORKERS + 1)

    def answering() -> list[int]:
        scraper.check()
        return sorted((serving(server, load) & rules.workers) - killed.keys())

    while len(killed) < count:
        number = min(choose.choice(_AT_ONCE), count - len(killed))
        eventually(
            lambda number=number: len(serving(server, load) - killed.keys()) >= number,  # type: ignore[misc]
            f"{number} workers to serve",
            lambda: server.log[-3000:],
        )
        eventually(answering, "one of them to answer a scrape", lambda: server.log[-3000:])
        time.sleep(choose.uniform(0, 0.1))
        alive = sorted(serving(server, load) - killed.keys())
        victims = [choose.choice(answering())]
        victims += choose.sample([pid for pid in alive if pid not in victims], min(number, len(alive)) - 1)
        for pid in victims:
            killed[pid] = time.monotonic()
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        rounds[len(victims)] += 1
        scraper.check()
    return killed, rounds

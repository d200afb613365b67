"""Workers stopped at any moment, whatever they are doing: the others answer, and nothing half done is shown."""

import http.client
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
from tests.faults.kills import serving
from tests.faults.load import Load
from tests.faults.pages import Rules, scrape
from tests.faults.scraping import Scraper, settled
from tests.faults.servers import COMMANDS, WORKERS, running
from tests.programs import eventually

_SHORT: Final = 0.05  # seconds at most that a worker is stopped, mostly
_LONG_EVERY: Final = 20  # stops, of which one lasts until others have answered
_ANSWERS: Final = 5


def run(name: str, count: int, directory: Path, seed: int, environment: Mapping[str, str]) -> Figures:
    """Stop *count* times a worker of the server *name* for a while, and at times kill it like that.

    Raises ``AssertionError`` when anything does not hold.
    """
    choose = random.Random(seed)
    with running(COMMANDS[name], directory, environment=environment) as server:
        load = Load(server.host, server.port, pause=0.002)
        rules = Rules(load)
        scraper = Scraper(server, rules.check, most_files=WORKERS, pause=0.01)
        killed: dict[int, float] = {}
        answers = 0
        with load.going_on(), scraper.going_on():
            eventually(lambda: len(serving(server, load)) == WORKERS, "all workers to serve")
            for number in range(count):
                eventually(lambda: serving(server, load), "a worker to serve")
                # Any of them, also one that has just been started and attaches.
                pid = choose.choice(sorted(server.children() - {_tracker(server.children())}))
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    try:
                        if number % _LONG_EVERY:
                            time.sleep(choose.uniform(0, _SHORT))
                        else:
                            answers += _others_answer(server.host, server.port, pid)
                        if number % _LONG_EVERY == 1:
                            killed[pid] = time.monotonic()
                            os.kill(pid, signal.SIGKILL)
                    finally:
                        os.kill(pid, signal.SIGCONT)
                time.sleep(choose.uniform(0, 0.01))
                scraper.check()
        last = settled(server, WORKERS, rules.check)
        found = Figures({"stops": count, "of them ended by kill -9": len(killed), "answers of the others": answers})
        found.add(counting.check(rules, last, killed))
        found.add({"files at most": scraper.files})
        return found


def _tracker(children: set[int]) -> int:
    """The helper that multiprocessing starts beside the workers; 0 without one."""
    for pid in children:
        with suppress(OSError):
            if b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return 0


def _others_answer(host: str, port: int, stopped: int) -> int:
    """Wait until others than *stopped* have answered some scrapes; how many."""
    answers: list[int] = []

    def enough() -> bool:
        with suppress(OSError, http.client.HTTPException):
            answers.append(scrape(host, port, timeout=1.0).worker)
        return len(answers) >= _ANSWERS

    eventually(enough, "the other workers to answer")
    assert stopped not in answers
    return len(answers)

"""Workers that end by themselves after a few requests, again and again: files, memory and counts are what they were."""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.faults import counting
from tests.faults.figures import Figures
from tests.faults.load import Load
from tests.faults.pages import Rules
from tests.faults.scraping import Scraper, settled
from tests.faults.servers import COMMANDS, WORKERS, Server, resident, running
from tests.programs import eventually

_REQUESTS = {"uvicorn": "--limit-max-requests", "gunicorn": "--max-requests"}
_EACH = 4  # requests until a worker ends
_STATES = 2  # at least: at some moments no worker lives
_GROWTH = 1.1  # of memory that counts as none
_SLACK = 1_000_000  # bytes


class _State(NamedTuple):
    """What is there at one moment: bytes of the files and, each, of the memory of workers and master."""

    sizes: dict[str, int]
    workers: list[int]
    master: int


def run(name: str, count: int, directory: Path, environment: Mapping[str, str]) -> Figures:
    """Let *count* workers of the server *name* end and be replaced. Raises ``AssertionError`` when anything grows."""
    option = f"{_REQUESTS[name.partition(' ')[0]]}={_EACH}"
    with running(COMMANDS[name], directory, option, environment=environment) as server:
        load = Load(server.host, server.port)
        rules = Rules(load)
        scraper = Scraper(server, rules.check, most_files=WORKERS, pause=0.05)
        states: list[_State] = []
        with load.going_on(), scraper.going_on():
            while len(load.seen) < count + WORKERS or len(states) < _STATES:
                _wait_for_another(server, load)
                scraper.check()
                state = _state(server, load)
                if len(load.seen) > count / 10 and state.sizes and state.workers:
                    states.append(state)
                time.sleep(0.05)
        # A scrape is a request too: the last of a worker's may be the one that would have let all agree.
        last = settled(server, 1, rules.check)
        found = Figures({"workers recycled": len(load.seen) - WORKERS})
        found.add(counting.check(rules, last, {}))
        found.add({"files at most": scraper.files, "scrapes cut off": scraper.interrupted})
        found.add(_flat(states))
        return found


def _wait_for_another(server: Server, load: Load) -> None:
    before = len(load.seen)
    eventually(lambda: len(load.seen) > before, "another worker", lambda: server.log[-3000:])


def _state(server: Server, load: Load) -> _State:
    sizes = {}
    for file in server.shared_files():
        sizes[file.name] = file.stat().st_size
    workers = [resident(pid) for pid in server.children() & load.seen]
    return _State(sizes, [size for size in workers if size], resident(server.master))


def _flat(states: list[_State]) -> Figures:
    """Hold the last tenth of *states* against the first."""
    tenth = len(states) // 10 + 1
    first, last = states[:tenth], states[-tenth:]
    size = [max(sum(state.sizes.values()) for state in part) for part in (first, last)]
    # How many there are is judged elsewhere: where workers start slowly, all of them may be there late, or never.
    largest = [max(max(state.sizes.values()) for state in part) for part in (first, last)]
    workers = [statistics.median(size for state in part for size in state.workers) for part in (first, last)]
    master = [statistics.median(state.master for state in part) for part in (first, last)]
    assert largest[1] <= largest[0], f"files grew from {largest[0]} to {largest[1]} bytes"
    assert workers[1] < workers[0] * _GROWTH + _SLACK, f"workers grew from {workers[0]} to {workers[1]} bytes"
    assert master[1] < master[0] * _GROWTH + _SLACK, f"the master grew from {master[0]} to {master[1]} bytes"
    return Figures(
        {
            "kB of files, after a tenth": size[0] // 1024,
            "kB of files, at the end": size[1] // 1024,
            "kB of memory of a worker, after a tenth": round(workers[0]) // 1024,
            "kB of memory of a worker, at the end": round(workers[1]) // 1024,
            "kB of memory of the master, after a tenth": round(master[0]) // 1024,
            "kB of memory of the master, at the end": round(master[1]) // 1024,
        }
    )

"""Processes that a request starts, in every way: none writes into its parent's file, or keeps it from its successor."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.faults import child, counting
from tests.faults.figures import Figures
from tests.faults.kills import serving
from tests.faults.load import Load
from tests.faults.pages import Rules
from tests.faults.scraping import Scraper, settled
from tests.faults.servers import COMMANDS, WORKERS, Server, children_of, files_of, running
from tests.programs import eventually

SERVERS: Final = ("gunicorn sync", "gunicorn gthread", "gunicorn --preload", "uvicorn")


def run(name: str, count: int, directory: Path, environment: Mapping[str, str]) -> Figures:
    """Start *count* processes in each way inside requests to the server *name*, and kill the workers that did it.

    Raises ``AssertionError`` when anything of that shows.
    """
    with running(COMMANDS[name], directory, environment=environment) as server:
        load = Load(server.host, server.port, pause=0.01)
        rules = Rules(load)
        scraper = Scraper(server, rules.check, most_files=WORKERS, pause=0.02)
        killed: dict[int, float] = {}
        with load.going_on(at_once=4), scraper.going_on():
            eventually(lambda: len(serving(server, load)) == WORKERS, "all workers to serve")
            for _ in range(count):
                for way in child.WAYS:
                    started = load.ask(route=f"/child/{way}")
                    assert started.completed, server.log[-3000:]
                    children = children_of(started.worker)
                    assert children, f"{started.route} started nothing"
                    _check_files(server, started.worker, children)
                    killed[started.worker] = time.monotonic()
                    os.kill(started.worker, signal.SIGKILL)
                    eventually(
                        lambda: len(serving(server, load) - killed.keys()) == WORKERS,
                        "another worker in its place",
                        lambda: server.log[-3000:],
                    )
                    scraper.check()
        last = settled(server, WORKERS, rules.check)
        handled = last.value("handled_total", series="child")
        assert handled == 0, f"{handled} of what processes counted that are no workers"
        found = Figures({"processes started in requests": count * len(child.WAYS)})
        found.add(counting.check(rules, last, killed))
        found.add({"files at most": scraper.files})
        return found


def _check_files(server: Server, parent: int, children: set[int]) -> None:
    """Nobody has a file open that another has. A child has one only where a directory is named, with others like it."""
    owners: dict[Path, int] = {}
    for pid in server.children() | children:
        files = files_of(pid)
        assert len(files) <= 1, f"process {pid} has {files} open"
        for file in files:
            assert file not in owners, f"{file} is open in {pid} and {owners[file]}; {children} are of {parent}"
            owners[file] = pid

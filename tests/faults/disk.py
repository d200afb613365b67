"""Storage that fails under a server at work: no request suffers, and afterwards the page is as if nothing had been."""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from tests.faults import counting
from tests.faults.figures import Figures
from tests.faults.load import Load
from tests.faults.pages import Page, Rules, scrape
from tests.faults.scraping import Scraper, settled
from tests.faults.servers import COMMANDS, Server, running
from tests.programs import PATIENCE, eventually

SERVERS: Final = ("gunicorn sync", "uvicorn")
_WORKERS: Final = 2
_MORE: Final = 2  # workers that are added in the middle of the trouble, where the server can do that
_SERIES: Final = 600  # more than a file has room for before it has to grow
_SIZE: Final = 1 << 20  # bytes of a small file system
_FILE: Final = 65_536  # bytes that no file may exceed

Trouble = Callable[[Server, Path, Load], AbstractContextManager[None]]


@contextmanager
def full(server: Server, directory: Path, load: Load) -> Iterator[None]:
    """No block is left on the file system, which is a small one of its own."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert os.statvfs(directory).f_bavail == 0
    yield
    filler.unlink()


@contextmanager
def limited(server: Server, directory: Path, load: Load) -> Iterator[None]:
    """No worker may make a file longer than it is."""
    pids = server.children()
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (_FILE, resource.RLIM_INFINITY))
    yield
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextmanager
def read_only(server: Server, directory: Path, load: Load) -> Iterator[None]:
    """Nobody may make a file in the group's directory; some workers are new and have none."""
    (group,) = [path for path in directory.iterdir() if path.is_dir()]
    group.chmod(0o500)
    more(server, load)
    yield
    group.chmod(0o700)


@contextmanager
def removed(server: Server, directory: Path, load: Load) -> Iterator[None]:
    """The directory is removed with all that is in it, and nobody makes it again."""
    shutil.rmtree(directory)
    yield


@contextmanager
def no_files(server: Server, directory: Path, load: Load) -> Iterator[None]:
    """Most requests, also scrapes, run in processes that can open no more files; some workers are new and have none."""
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.01):
            scrape(server.host, server.port, query="no-files")

    load.query = "no-files"
    with ThreadPoolExecutor(1) as pool:
        scrapes = pool.submit(ask)
        try:
            more(server, load)
            yield
        finally:
            stop.set()
    load.query = ""
    scrapes.result()


TROUBLES: Final[dict[str, Trouble]] = {
    "full disk": full,
    "limited file size": limited,
    "read-only directory": read_only,
    "directory removed": removed,
    "no more open files": no_files,
}


def more(server: Server, load: Load) -> None:
    """Have further workers, which attach now."""
    before, started = len(load.seen), len(server.children())
    for number in range(1, _MORE + 1):
        os.kill(server.master, signal.SIGTTIN)
        # Equal signals at once may become one.
        eventually(
            lambda number=number: len(server.children()) >= started + number,  # type: ignore[misc]
            "one more worker",
            lambda: server.log[-3000:],
        )
    eventually(lambda: len(load.seen) >= before + _MORE, "more workers to serve", lambda: server.log[-3000:])


@contextmanager
def small_filesystem(directory: Path) -> Iterator[bool]:
    """Have one in *directory*, if we may mount; tell whether."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=700", "none", str(directory)]
    try:
        mounted = subprocess.run(command, capture_output=True, timeout=PATIENCE).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(directory)], check=True, timeout=PATIENCE)


def run(name: str, trouble: str, seconds: float, directory: Path) -> Figures | None:
    """Have *trouble* for *seconds* in the middle of a load on the server *name*; ``None`` where it can't be had.

    Raises ``AssertionError`` when a request suffers or a number is wrong afterwards.
    """
    shared = directory / "shared"
    shared.mkdir(mode=0o700)
    with contextlib.ExitStack() as stack:
        if trouble == "full disk" and not stack.enter_context(small_filesystem(shared)):
            return None
        server = stack.enter_context(
            running(COMMANDS[name], directory, workers=_WORKERS, environment={"EXEMPLARS_DIR": str(shared)})
        )
        load = Load(server.host, server.port, pause=0.002)
        rules = Rules(load)
        # Numbers fall where the directory is gone: until all workers have made their files anew, some are missing.
        check = (lambda page: None) if trouble == "directory removed" else _Falls().check
        scraper = Scraper(server, check, most_files=_WORKERS + _MORE, pause=0.05)
        with load.going_on(), scraper.going_on():
            eventually(lambda: len(load.seen) >= _WORKERS, "all workers to serve")
            with TROUBLES[trouble](server, shared, load):
                load.series = _SERIES
                begun = len(load.requests)
                time.sleep(seconds)
                eventually(lambda: len(load.requests) > begun + 4 * _SERIES, "requests in trouble")
                scraper.check()
            in_trouble = len(load.requests) - begun
            time.sleep(1.5)  # longer than the library waits before it tries again
            # What was refused is tried again at a scrape, and every few seconds at a request.
        last = _whole(server, load, len(load.seen))
        rules.check(last)
        suffered = [request for request in load.requests if not request.completed]
        assert not suffered, suffered
        found = Figures({"requests while it lasted": in_trouble})
        found.add(counting.check(rules, last, {}))
        faults = round(last.value("exemplars_errors_total", kind="store"))
        lines = Counter(re.findall(r"^(\d+) WARNING exemplars store: ", server.log, re.MULTILINE))
        assert faults > 0, server.log
        assert lines and set(lines.values()) == {1}, lines
        found.add({"faults counted": faults, "faults logged, once a worker": len(lines)})
        return found


class _Falls:
    """That no count of requests falls, whichever worker answers. One may be missing meanwhile."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def check(self, page: Page) -> None:
        for route, count in page.counts().items():
            before = self._counts.get(route, 0)
            assert count >= before, f"{route} fell from {before} to {count}, {page.worker}"
            self._counts[route] = count


def _whole(server: Server, load: Load, workers: int) -> Page:
    """The page of all *workers*, once it has each series of every counter as often as it was asked for."""

    def whole() -> Page | None:
        page = settled(server, workers, lambda page: None)
        found = {sample.labels.get("series", ""): sample.value for sample in page.families["handled"].samples}
        return page if found == load.handled else None

    return eventually(whole, "every series to be whole", lambda: server.log[-3000:])

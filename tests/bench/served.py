"""The CPU time that a server takes for a request: uvicorn, with a traced application of FastAPI, bare and with us."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

from . import render
from .ours import OURS
from .processes import CPU_PATH, PATIENCE, ROOT, FailedError
from .result import BARE_SERVER, CPU, Cell, pair
from .rounds import interleave
from .stats import estimate
from .subject import NotRecordedError

PATH: Final = "/shops/7/items"
_LISTENS: Final = re.compile(r"http://127\.0\.0\.1:([1-9]\d*)")
_COUNT: Final = re.compile(
    rb'^http_server_request_duration_seconds_count\{.*"/shops/\{shop_number\}/items".*\} (\d+)', re.M
)


class Server:
    """A server that listens on *port*, and its one client, whose connection is kept."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self.sent = 0

    def get(self, path: str, **headers: str) -> bytes:
        self._connection.request("GET", path, headers=headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise FailedError(f"{path}: {response.status}")
        return body

    def seconds(self, requests: int) -> float:
        """CPU seconds that the server took for one of *requests*."""
        before = float(self.get(CPU_PATH))
        for _ in range(requests):
            self.get(PATH)
        self.sent += requests
        return (float(self.get(CPU_PATH)) - before) / requests

    def close(self) -> None:
        self._connection.close()


@contextmanager
def serving(measured_by: str) -> Iterator[Server]:
    """uvicorn on a free port, with what *measured_by* names; ended on leaving."""
    command = ["uvicorn", "--port=0", "--no-access-log", "tests.bench.service:app"]
    with tempfile.NamedTemporaryFile(prefix="exemplars-bench-", suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=os.environ | {"BENCH_WITH": measured_by},
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            server = Server(_port(process, Path(log.name)))
            try:
                yield server
            finally:
                server.close()
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        found = _LISTENS.search(log.read_text())
        if found:
            return int(found[1])
        time.sleep(0.05)
    raise FailedError(f"uvicorn does not listen:\n{log.read_text()}")


def check(server: Server) -> None:
    """Raise NotRecordedError unless each request was counted, and some trace is an exemplar."""
    page = server.get("/metrics", accept=render.ACCEPT)
    counted = sum(map(int, _COUNT.findall(page)))
    if counted != server.sent:
        raise NotRecordedError(f"uvicorn: {server.sent} sent, {counted} counted")
    if b" # {trace_id=" not in page:
        raise NotRecordedError("uvicorn: no exemplar, so the application is not traced")


def measure(rounds: int, block: int) -> Cell:
    """CPU time in microseconds a request. Raises NotRecordedError as `check` does, and if the response is another."""
    with serving("nothing") as bare, serving("exemplars") as ours:
        answers = [server.get(PATH) for server in (bare, ours)]
        if answers[0] != answers[1]:
            raise NotRecordedError("uvicorn: the response differs")
        ours.sent += 1
        for server in (bare, ours):
            server.seconds(2 * block)
        servers = {BARE_SERVER: bare, OURS: ours}
        seconds = interleave({name: partial(server.seconds, block) for name, server in servers.items()}, rounds)
        check(ours)
    return Cell(
        row="cpu",
        group="",
        name="FastAPI, traced, 20 items as JSON",
        unit="µs",
        cost={name: estimate([each * 1e6 for each in values]) for name, values in seconds.items()},
        comparisons=[pair(seconds, OURS, BARE_SERVER, CPU)],
    )

"""A lean application with several workers, its spans to the real Collector and Tempo, and requests at any rate."""

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.programs import PACKAGES, PATIENCE
from tests.stack import running
from tests.stack.dots import Dot, Judge, Verdict, found
from tests.stack.opening import EVERYTHING, PROMISE
from tests.stack.process import HOST, Program, started, text
from tests.stack.shop import SPANS_EVERY, seconds

JOB: Final = "lean"
ROUTES: Final = 20
CONNECTIONS: Final = 128  # requests at once


class Server(Program):
    """uvicorn with several workers, which sends spans to *otlp*."""

    names = ("HTTP",)

    def __init__(self, directory: Path, otlp: str, workers: int, spans_every: str) -> None:
        super().__init__(JOB, directory)
        self._workers = workers
        self._environment = {
            "PYTHONPATH": os.pathsep.join(PACKAGES),
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp,
            "OTEL_BSP_SCHEDULE_DELAY": spans_every,
        }

    def command(self) -> Sequence[str]:
        where = ("--host", HOST, "--port", str(self.ports["HTTP"]))
        how = (f"--workers={self._workers}", "--no-access-log", "--lifespan=off", "--timeout-keep-alive=60")
        return [sys.executable, "-m", "uvicorn", *where, *how, "tests.apps.lean:app"]

    def environment(self) -> Mapping[str, str]:
        return self._environment

    def ready(self) -> bool:
        return bool(text(f"http://{self.address('HTTP')}/metrics", "application/openmetrics-text"))


@dataclass
class Sent:
    """What came of requests: how many had an answer, in how many seconds; what went wrong with the others."""

    answered: int = 0
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Lean:
    """A running one, since *start*."""

    server: Server
    tempo: running.Tempo
    collector: running.Collector
    prometheus: running.Prometheus
    wait: float
    start: float

    def send(self, paths: Iterable[str], rate: float, traceparent: str = "") -> Sent:
        """Ask for *paths*, *rate* a second, over connections that are kept; each is waited for."""
        sent = Sent()
        asyncio.run(_send(self.server.ports["HTTP"], paths, rate, traceparent, sent))
        return sent

    @contextmanager
    def load(self, rate: float, seed: int = 1) -> Iterator[Sent]:
        """Requests as they come to a shop, *rate* a second, as long as the block."""
        ended = threading.Event()
        sent = Sent()

        def paths() -> Iterator[str]:
            for path in usual(seed):
                if ended.is_set():
                    return
                yield path

        thread = threading.Thread(target=lambda: asyncio.run(_send(self.server.ports["HTTP"], paths(), rate, "", sent)))
        thread.start()
        try:
            yield sent
        finally:
            ended.set()
            thread.join(PATIENCE)

    def settle(self) -> float:
        """As `tests.stack.opening.settle` does for the shop."""
        last = time.time()
        self.prometheus.server.scraped(JOB, 2)
        time.sleep(max(0.0, last + self.wait + PROMISE - time.time()))
        return last

    def dots(self, end: float) -> set[Dot]:
        return found(self.prometheus.server, EVERYTHING, self.start, end)

    def judged(self, end: float) -> list[Verdict]:
        """What is wrong with each dot from before *end*."""
        return Judge(self.tempo, {}, (JOB,)).judged(self.dots(end))


def usual(seed: int) -> Iterator[str]:
    """Paths of requests without end: most are fast, some slow, some fail; twenty routes, of which some are rare."""
    choose = random.Random(seed)
    while True:
        route = min(int(choose.expovariate(0.25)), ROUTES - 1)
        kind = choose.random()
        slow = f"?ms={choose.choice((15, 40, 80, 150, 300, 700))}" if kind < 0.01 else ""
        yield f"/{route}{slow or ('?status=500' if kind > 0.998 else '')}"


async def _send(port: int, paths: Iterable[str], rate: float, traceparent: str, sent: Sent) -> None:
    clock = asyncio.get_running_loop().time
    start = clock()
    turns = iter(paths)
    issued = 0
    header = f"traceparent: {traceparent}\r\n" if traceparent else ""

    async def connection() -> None:
        nonlocal issued
        streams = None
        for path in turns:
            issued += 1
            await asyncio.sleep(start + issued / rate - clock())
            try:
                if streams is None:
                    streams = await asyncio.open_connection(HOST, port)
                reader, writer = streams
                one = header.replace("*", f"{random.getrandbits(128):032x}")
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {JOB}\r\n{one}\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(2)
                assert head.startswith(b"HTTP/1.1 ")
                sent.answered += 1
                sent.seconds = clock() - start
            except (OSError, asyncio.IncompleteReadError) as error:
                sent.broken.append(repr(error))
                streams = None
        if streams is not None:
            streams[1].close()

    async with asyncio.TaskGroup() as connections:
        for _ in range(CONNECTIONS):
            connections.create_task(connection())


@contextmanager
def lean(directory: Path, *, workers: int = 2, spans_every: str = SPANS_EVERY, **variables: str) -> Iterator[Lean]:
    """All of it, in *directory*, ended on leaving; arguments as those of `tests.stack.shop.shop`."""
    variables = {"DECISION_WAIT": "5s", **variables}
    start = time.time() - 1
    with ExitStack() as stack:
        tempo = stack.enter_context(running.tempo(directory))
        collector = stack.enter_context(running.collector(directory, tempo, None, None, **variables))
        server = stack.enter_context(started(Server(directory, collector.otlp, workers, spans_every)))
        prometheus = stack.enter_context(running.prometheus(directory, {JOB: [server.address("HTTP")]}))
        yield Lean(server, tempo, collector, prometheus, seconds(variables["DECISION_WAIT"]), start)

"""The whole shop as `compose/` has it, without Docker: several workers, three languages, and all its telemetry goes to.

    with shop(directory, DECISION_WAIT="5s") as running:
        with running.customers(rate=25) as customers:
            customers.until(2_000)
        running.prometheus.server.exemplars(...)

Every part is a `Program` of its own: `running.stock.stop(signal.SIGKILL)`, `running.stock.start()` on the same port;
`running.front.workers()` are the processes to kill one by one. What each service gets is read from `compose.yaml`; only
addresses and paths differ, and what the caller says.
"""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exemplars.demo.load import send
from tests.faults.servers import children_of
from tests.programs import PACKAGES, PATIENCE, program
from tests.stack import composed, running
from tests.stack.build import binary
from tests.stack.polyglot import risk_with_packages
from tests.stack.process import HOST, started, text

OURS: Final = ("front", "stock")  # measured by `exemplars`
SERVICES: Final = (*OURS, "payment", "risk")
SPANS_EVERY: Final = "1000"  # milliseconds: spans must be at the Collector well within a short decision wait
_ACCEPT: Final = "application/openmetrics-text"


class Service(running.Service):
    """One of the shop; *workers* of None leaves their number to `compose.yaml`."""

    names = ("HTTP",)

    def __init__(self, name: str, directory: Path, variables: Mapping[str, str], workers: int | None = None) -> None:
        super().__init__(name, directory, composed.services()[name], variables)
        self._workers = workers

    @property
    def url(self) -> str:
        return f"http://{self.address('HTTP')}"

    def command(self) -> Sequence[str]:
        if self.name == "payment":
            return [str(binary("payment"))]
        if self.name == "risk":
            return [program("node"), str(risk_with_packages() / "server.js")]
        said = self._service["command"]
        for pattern, ours in (
            (r"--host \S+ --port \d+", f"--host {HOST} --port {self.ports['HTTP']}"),
            (r"--bind \S+", f"--bind {self.address('HTTP')}"),
            (r"(?<=--workers )\d+", str(self._workers) if self._workers is not None else r"\g<0>"),
        ):
            said = re.sub(pattern, ours, said)
        return [sys.executable, "-m", *shlex.split(said)]

    def addresses(self) -> Mapping[str, str]:
        return {"LISTEN_ADDRESS": self.address("HTTP"), "PYTHONPATH": os.pathsep.join(PACKAGES)}

    def ready(self) -> bool:
        return bool(self.page())

    def page(self) -> str:
        """Its metrics, as Prometheus gets them."""
        return text(f"{self.url}/metrics", _ACCEPT)

    def workers(self) -> set[int]:
        """The pids of its worker processes; none where the service is a single one."""
        if self.name not in OURS:
            return set()
        return {pid for pid in children_of(self.pid) if not _is_helper(pid)}

    def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait until it has; workers whose master was killed end too."""
        with ExitStack() as held:
            workers = [held.enter_context(_pidfd(pid)) for pid in children_of(self.pid)]
            super().stop(by)
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(worker, signal.SIGKILL)


def _is_helper(pid: int) -> bool:
    """Whether the process is multiprocessing's, which uvicorn starts beside its workers."""
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    """A handle of the process: its number may be another's by the time it is used."""
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Shop:
    """A running one, since *start* (seconds since the epoch). *wait* is the Collector's decision wait, in seconds."""

    directory: Path
    tempo: running.Tempo
    loki: running.Loki
    collector: running.Collector
    prometheus: running.Prometheus
    front: Service
    stock: Service
    payment: Service
    risk: Service
    wait: float
    start: float

    @property
    def services(self) -> dict[str, Service]:
        return {service.name: service for service in (self.front, self.stock, self.payment, self.risk)}

    def customers(self, rate: float, seed: int = 1) -> AbstractContextManager["Customers"]:
        """Customers of the front, *rate* a second outside spikes (1.4 times that on average), until the block ends."""
        return customers(self.front.url, rate, seed)


class Customers:
    """What those who come have met so far: *outcomes*, as `exemplars.demo.load.send` counts them."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    @property
    def answered(self) -> int:
        """Requests that had a response, of any status."""
        return sum(number for outcome, number in self.outcomes.copy().items() if outcome.isdigit())

    def until(self, answered: int) -> None:
        """Wait until so many were answered. Fails when none is answered for long."""
        last, since = self.answered, time.monotonic()
        while last < answered:
            time.sleep(0.1)
            if (now := self.answered) > last:
                last, since = now, time.monotonic()
            assert time.monotonic() - since < PATIENCE, f"nobody is answered any more: {self.outcomes}"


@contextlib.contextmanager
def customers(url: str, rate: float, seed: int = 1) -> Iterator[Customers]:
    """Customers of the shop at *url* for as long as the block; their last requests are cut off."""
    sending = Customers()
    loop = asyncio.new_event_loop()
    task = loop.create_task(send(url, rate, seed, sending.outcomes))

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sending
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(PATIENCE)
        loop.close()
    assert task.cancelled(), f"the customers have left by themselves: {task.exception()!r}"


@contextlib.contextmanager
def shop(
    directory: Path, *, workers: int | None = None, spans_every: str = SPANS_EVERY, **variables: str
) -> Iterator[Shop]:
    """All of it, in *directory*, ended on leaving.

    *workers* is how many front and stock have each (two in `compose.yaml`), *spans_every* how often each process sends
    spans, in milliseconds. *variables* are the Collector's: DECISION_WAIT (5 s here), MEMORY_LIMIT_MIB, …; those that
    nobody names are as in `compose/`.
    """
    variables = {"DECISION_WAIT": "5s", **variables}
    logs = directory / "logs"
    logs.mkdir()
    start = time.time() - 1
    with ExitStack() as stack:
        run = stack.enter_context
        tempo, loki = run(running.tempo(directory)), run(running.loki(directory))
        collector = run(running.collector(directory, tempo, loki, logs, **variables))

        def serve(name: str, **more: str) -> Service:
            settings = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp,
                "OTEL_BSP_SCHEDULE_DELAY": spans_every,
                "LOG_FILE": str(logs / f"{name}.jsonl"),
                **more,
            }
            service: Service = run(started(Service(name, directory, settings, workers)))
            return service

        risk, stock = serve("risk"), serve("stock")
        payment = serve("payment", RISK_URL=risk.url)
        front = serve("front", STOCK_URL=stock.url, PAYMENT_URL=payment.url)
        targets = {service.name: [service.address("HTTP")] for service in (front, stock, payment, risk)}
        targets |= {"otel-collector": [collector.address("OWN")], "span-metrics": [collector.address("SPANS")]}
        prometheus = run(running.prometheus(directory, targets))
        prometheus.aim({**targets, "prometheus": [prometheus.address("HTTP")]})
        wait = seconds(variables["DECISION_WAIT"])
        yield Shop(directory, tempo, loki, collector, prometheus, front, stock, payment, risk, wait, start)


def seconds(duration: str) -> float:
    """Of what Go calls a duration, of one unit: 5s, 200ms, 1h."""
    number, unit = re.fullmatch(r"([\d.]+)(ms|s|m|h)", duration).groups()  # type: ignore[union-attr]
    return float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]

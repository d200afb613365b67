"""`kill -9` of workers of the shop: how many dots are dead after each, in figures; and that all is well afterwards."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.faults.figures import Figures
from tests.programs import PATIENCE, Prometheus, eventually
from tests.stack.dots import Dot, Verdict, counted, found
from tests.stack.opening import EVERYTHING, judge_of, settle, shown
from tests.stack.shop import OURS, Service, shop

RECENT: Final = 60.0  # seconds: a dot is seen for the first time while it is younger
POLL: Final = 0.3  # seconds


@dataclass(frozen=True)
class Kill:
    """Of a worker of *job*, at *time* in seconds since the epoch."""

    job: str
    time: float


class Watch:
    """When Prometheus first had each dot: *seen*, in seconds since the epoch."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus
        self.seen: dict[Dot, float] = {}

    def look(self) -> None:
        now = time.time()
        for dot in found(self._prometheus, EVERYTHING, now - RECENT, now + 1):
            self.seen.setdefault(dot, time.time())

    @contextmanager
    def going_on(self) -> Iterator[None]:
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(POLL):
                self.look()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(PATIENCE)

    def scraped(self, dot: Dot) -> float:
        """When the scrape began that brought *dot*, which has been seen."""
        asked: list[Any] = self._prometheus.ask("query", query=f'up{{job="{dot.job}"}}[1h]', time=self.seen[dot])[
            "result"
        ]
        (series,) = asked
        return max(float(at) for at, _ in series["values"])


def kill(service: Service, choose: random.Random) -> Kill:
    """Kill one of the workers of *service*; it returns when there are as many again."""
    workers = sorted(service.workers())
    victim = choose.choice(workers)
    killed = Kill(service.name, time.time())
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    eventually(
        lambda: victim not in (now := service.workers()) and len(now) >= len(workers),
        f"a worker of {service.name} to be back",
        service.tail,
    )
    return killed


def killed(
    directory: Path, kills: int, pause: float, calm: int, rate: float, *, seed: int = 1, **settings: Any
) -> Figures:
    """The shop under load, one of its workers killed every *pause* seconds, *kills* times; then *calm* more requests.

    Dots are dead where the span died in its worker, after Prometheus had seen it. Those of the calm all open, and those
    of services that were not killed are no worse than ever. *settings* are those of `shop`.
    """
    choose = random.Random(seed)
    with shop(directory, **settings) as running:
        watch = Watch(running.prometheus.server)
        done: list[Kill] = []
        with running.customers(rate, seed) as customers, watch.going_on():
            customers.until(calm)
            for number in range(kills):
                done.append(kill(running.services[OURS[number % len(OURS)]], choose))
                time.sleep(pause)
            settle(running)
            quiet = time.time()  # no request of then is still on its way
            customers.until(customers.answered + calm)
            last = settle(running)
        judge = judge_of(running)
        every = {dot for dot in found(running.prometheus.server, EVERYTHING, running.start, last) if dot.job in OURS}
        verdicts = judge.judged(every)
        afterwards = [verdict for verdict in verdicts if verdict.dot.time > quiet and verdict.wrong]
        assert not afterwards, shown(afterwards)
        figures = figures_of(verdicts, done, watch)
        figures["dots since then, all of which open"] = sum(verdict.dot.time > quiet for verdict in verdicts)
        figures |= {"requests answered": customers.answered, "of them 5xx": customers.outcomes["5"]}
    return figures


def figures_of(verdicts: list[Verdict], done: list[Kill], watch: Watch) -> Figures:
    figures = Figures({"workers killed": len(done), "dots of ours": len(verdicts)})
    for job in OURS:
        kills = [kill.time for kill in done if kill.job == job]
        dead = [verdict.dot for verdict in verdicts if verdict.dot.job == job and verdict.is_dead]
        figures[f"dead dots of {job}"] = len(dead)
        figures[f"dead dots of {job} for each worker of it killed"] = f"{len(dead) / len(kills):.2f}"
        # A span that was lost had ended before its worker was killed.
        after = [dot for dot in dead if watch.scraped(dot) > min(at for at in kills if at > dot.time)]
        figures[f"dead dots of {job} that a scrape after the kill brought"] = len(after)
    figures |= {f"dots with {what}": number for what, number in sorted(counted(verdicts).items())}
    return figures

"""Requests of which each has an answer that is known, asked for whatever is away: were they unharmed?"""

import asyncio
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Final

import httpx

from tests.faults.figures import Figures
from tests.programs import PATIENCE, eventually

RATE: Final = 15.0  # requests a second


@dataclass(frozen=True)
class Wish:
    """A request that always has one of *statuses*."""

    method: str
    url: str
    statuses: frozenset[int]
    json: str | None = None


@dataclass(frozen=True)
class Answer:
    """To a wish of *at*, seconds since the epoch, after *seconds*; *status* of 0: none came."""

    wish: Wish
    at: float
    seconds: float
    status: int


@dataclass
class Asking:
    """Wishes asked for one after the other, whatever is away; *answers* as they came, *open* those still waited for."""

    answers: list[Answer] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    number: int = 0

    def more(self, count: int) -> None:
        """Wait until *count* more are answered. Fails when none is for long."""
        goal = len(self.answers) + count
        while (before := len(self.answers)) < goal:
            eventually(lambda before=before: len(self.answers) > before, "an answer", lambda: self.open)  # type: ignore[misc]

    def all_of_now(self) -> None:
        """Wait until whatever has been asked for by now is answered."""
        asked = set(self.open)
        eventually(lambda: not asked & self.open, "answers to all of before", lambda: asked & self.open)

    def between(self, start: float, end: float) -> list[Answer]:
        return [answer for answer in list(self.answers) if start <= answer.at < end]


@contextmanager
def asking(wishes: Sequence[Wish], rate: float = RATE) -> Iterator[Asking]:
    """Ask for *wishes* in turn, *rate* a second, for as long as the block; the last are waited for."""
    asked = Asking()
    ended = threading.Event()

    async def ask(client: httpx.AsyncClient, number: int, wish: Wish) -> None:
        at, since, status = time.time(), time.monotonic(), 0
        try:
            status = (await client.request(wish.method, wish.url, content=wish.json)).status_code
        except httpx.TransportError:
            pass
        finally:
            asked.answers.append(Answer(wish, at, time.monotonic() - since, status))
            asked.open.discard(number)

    async def run() -> None:
        clock = asyncio.get_running_loop().time
        start = clock()
        # A connection each: one that is kept may be closed by a server that thinks it idle, in the very moment.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with (
            httpx.AsyncClient(timeout=PATIENCE, trust_env=False, limits=limits) as client,
            asyncio.TaskGroup() as tasks,
        ):
            while not ended.is_set():
                asked.open.add(asked.number)
                tasks.create_task(ask(client, asked.number, wishes[asked.number % len(wishes)]))
                asked.number += 1
                await asyncio.sleep(start + asked.number / rate - clock())

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield asked
    finally:
        ended.set()
        thread.join(2 * PATIENCE)


def unharmed(said: str, answers: Collection[Answer]) -> Figures:
    """That each of *answers* is one that its wish has when nothing is away; how long they took is only told."""
    odd = [answer for answer in answers if answer.status not in answer.wish.statuses]
    assert answers
    assert not odd, f"{said}: {odd[:3]}"
    took = [1000 * answer.seconds for answer in answers]
    cut = quantiles(took, n=100, method="inclusive")
    figures = f"{cut[49]:.0f} / {cut[98]:.0f} / {max(took):.0f}"
    return Figures({f"{said}: requests, all answered as ever": len(answers), f"{said}: ms, p50 / p99 / max": figures})

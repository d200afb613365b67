"""A wall clock that is set to and fro, in each process by itself."""

import os
import random
import time
from typing import Final

from exemplars import metrics

LONGEST: Final = 1.0  # seconds until the next step
FURTHEST: Final = 0.25  # of the steps go ahead as far as any may, or after a while nothing would be newer any more
GRAIN_NS: Final = 250_000_000  # coarse, so that workers often tell the same time


class Stepping:
    """Nanoseconds since 1970, as `time.time_ns`, but coarse, and up to *most_ms* off, by another amount at times."""

    def __init__(self, most_ms: int, seed: int) -> None:
        self._choose = random.Random(seed)
        self._most_ms = most_ms
        self._offset_ns = 0
        self._until = 0.0

    def __call__(self) -> int:
        now = time.monotonic()
        if now >= self._until:
            furthest = self._choose.random() < FURTHEST
            offset_ms = self._most_ms if furthest else self._choose.randint(-self._most_ms, self._most_ms)
            self._offset_ns = offset_ms * 1_000_000
            self._until = now + self._choose.uniform(0, LONGEST)
        return time.time_ns() // GRAIN_NS * GRAIN_NS + self._offset_ns


def step_if_asked() -> None:
    """Give the library a clock that is up to ``CLOCK_STEPS_MS`` off, if that is set; another one in each process."""
    most_ms = os.environ.get("CLOCK_STEPS_MS")
    if most_ms is not None:
        metrics.wall_clock_ns = Stepping(int(most_ms), os.getpid())

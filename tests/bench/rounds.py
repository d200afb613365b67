"""Interleaved rounds: what is compared runs side by side, so that a busy machine slows all of it alike."""

import gc
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


def interleave(timed: Mapping[str, Callable[[], float]], rounds: int, seed: int = 1) -> dict[str, list[float]]:
    """
    Call each of *timed* once a round, in an order shuffled anew for each round, and return what they returned.

    The n-th value of one belongs to the same round as the n-th of another: differences and ratios are paired.
    The garbage collector stays on, since what a contender leaves for it is part of its cost; what was there before
    is kept out of its way.
    """
    shuffled = random.Random(seed)
    order = list(timed)
    values: dict[str, list[float]] = {name: [] for name in order}
    with frozen():
        for _ in range(rounds):
            shuffled.shuffle(order)
            for name in order:
                values[name].append(timed[name]())
    return values


@contextmanager
def frozen() -> Iterator[None]:
    """Keep all there is out of the garbage collector's way."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

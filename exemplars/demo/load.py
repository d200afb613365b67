"""What customers do: a bounded stream of requests with spikes, the same again for the same seed.

python -m exemplars.demo.load http://127.0.0.1:8000 --rate 20
"""

import argparse
import asyncio
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Final, NamedTuple

import httpx

from exemplars.demo.lifetime import until_signal

SPIKE_EVERY, SPIKE_AT, SPIKE_LASTS, SPIKE_FACTOR = 20.0, 6.0, 4.0, 3.0  # seconds, and times the rate
_OPEN: Final = 64  # requests at once; customers beyond that are turned away

_PRODUCTS: Final = ("kettle", "kettle", "kettle", "lamp", "lamp", "table", "ladder", "mirror", "chair", "wardrobe")
_WORDS: Final = ("red", "small", "wooden", "cheap", "kettle", "for", "two", "with", "lamp", "garden", "old", "nice")


class Visit(NamedTuple):
    """One request, *at* seconds after the start."""

    at: float
    method: str
    path: str


def visits(rate: float, seed: int) -> Iterator[Visit]:
    """Requests without end, *rate* a second outside spikes, in random distances; the same for the same *seed*."""
    random = Random(seed)
    at = 0.0
    while True:
        spike = 0 <= at % SPIKE_EVERY - SPIKE_AT < SPIKE_LASTS
        at += random.expovariate(rate * SPIKE_FACTOR if spike else rate)
        kind = random.random()
        product = random.choice(_PRODUCTS)
        if kind < 0.60:
            yield Visit(at, "GET", f"/products/{product}")
        elif kind < 0.64:
            yield Visit(at, "GET", f"/products/unicorn-{random.randrange(1000)}")
        elif kind < 0.82:
            words = random.choices(_WORDS, k=random.choice((1, 2, 2, 3, 3, 4, 40)))
            yield Visit(at, "GET", f"/search?words={'+'.join(words)}")
        elif kind < 0.99:
            yield Visit(at, "POST", f"/products/{product}/orders?pieces={random.choice((1, 1, 1, 2, 5))}")
        else:
            yield Visit(at, "GET", f"/reports/{random.randrange(2015, 2026)}")


async def send(url: str, rate: float, seed: int, outcomes: Counter[str]) -> None:
    """Send `visits` to the shop at *url* until cancelled, and count in *outcomes* what came of them.

    The keys are the first digits of statuses ("2", "4", "5"), "broken" for a connection that failed and "turned away".
    """
    clock = asyncio.get_running_loop().time
    start = clock()
    limits = httpx.Limits(max_connections=_OPEN, max_keepalive_connections=0)  # a customer, a connection
    async with (
        httpx.AsyncClient(base_url=url, timeout=30, limits=limits, trust_env=False) as client,
        asyncio.TaskGroup() as running,
    ):
        under_way: set[asyncio.Task[None]] = set()

        async def visit(method: str, path: str) -> None:
            try:
                response = await client.request(method, path)
            except httpx.TransportError:
                outcomes["broken"] += 1
            else:
                outcomes[str(response.status_code)[0]] += 1

        for at, method, path in visits(rate, seed):
            await asyncio.sleep(start + at - clock())
            if len(under_way) >= _OPEN:
                outcomes["turned away"] += 1
                continue
            task = running.create_task(visit(method, path))
            under_way.add(task)
            task.add_done_callback(under_way.discard)


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m exemplars.demo.load", description="Customers of the shop.")
    parser.add_argument("url", help="of the front")
    parser.add_argument("--rate", type=float, default=15.0, help="requests a second outside spikes (15)")
    parser.add_argument("--seed", type=int, default=1, help="another number, other customers (1)")
    arguments = parser.parse_args()
    await until_signal(send(arguments.url, arguments.rate, arguments.seed, Counter()))


if __name__ == "__main__":
    asyncio.run(_main())

"""`exemplars demo`: the shop opens, customers come, exemplars show, and everything ends again."""

import asyncio
import os
import sys
import time
from collections import Counter
from typing import Final

import httpx

from exemplars.demo.lifetime import until_signal
from exemplars.demo.load import send
from exemplars.demo.page import ACCEPT, Exemplar, exemplars
from exemplars.demo.processes import ServerEnded, serving
from exemplars.demo.screen import Screen
from exemplars.demo.spans import SPANS, Traces, receiving

_COLLECTOR: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SCRAPE_EVERY: Final = 2.0  # seconds; one exemplar is shown each time, as nobody could read more
_EXPORTED_AFTER: Final = 1.5  # seconds after which a request's spans are likely to be here
_LATE_AFTER: Final = 6.0  # seconds after which we no longer wait for them


def run(port: int, rate: float, seed: int, seconds: float | None) -> int:
    """Run the shop until a signal or for *seconds*, and return the exit status: 1 when a server failed, else 0.

    *port* is the front's, 0 for any; *rate* is in requests a second, and the same *seed* makes the same requests.
    """
    status = 0
    try:
        asyncio.run(until_signal(_shop(Screen(sys.stdout), port, rate, seed, seconds)))
    except* ServerEnded as group:
        print(*group.exceptions, sep="\n", file=sys.stderr)
        status = 1
    except* BrokenPipeError:  # `exemplars demo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has nowhere to go
    return status


async def _shop(screen: Screen, port: int, rate: float, seed: int, seconds: float | None) -> None:
    traces = Traces()
    outcomes: Counter[str] = Counter()
    with receiving(traces) as spans:
        # To a collector of the user's as well, if one is named.
        tracing = (
            {SPANS: spans} if any(map(os.environ.get, _COLLECTOR)) else {SPANS: spans, "OTEL_TRACES_EXPORTER": "none"}
        )
        gunicorn = ("gunicorn", "--config=python:exemplars.demo.gunicorn_conf", "--bind=127.0.0.1:0")
        uvicorn = ("uvicorn", f"--port={port}", "--timeout-graceful-shutdown=3")
        async with (
            serving("stock", *gunicorn, "exemplars.demo.stock:app", environment=tracing) as stock,
            serving(
                "front", *uvicorn, "exemplars.demo.front:app", environment={**tracing, "STOCK_URL": stock.url}
            ) as front,
        ):
            screen.greeting(front.url, stock.url, rate)
            try:
                async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
                    tasks.create_task(stock.ended())
                    tasks.create_task(front.ended())
                    tasks.create_task(send(front.url, rate, seed, outcomes))
                    tasks.create_task(_show(screen, front.url, traces))
            except TimeoutError:
                pass
            finally:
                screen.farewell(outcomes)


async def _show(screen: Screen, url: str, traces: Traces) -> None:
    """Scrape the shop at *url* and show what is new, what was not shown for longest first, the slowest of that."""
    known: set[Exemplar] = set()
    waiting: set[Exemplar] = set()
    shown: dict[tuple[str, ...], int] = {}
    turn = 0
    async with httpx.AsyncClient(base_url=url, headers={"Accept": ACCEPT}, trust_env=False) as client:
        while True:
            await asyncio.sleep(_SCRAPE_EVERY)
            try:
                page = await client.get("/metrics")
            except httpx.TransportError:
                continue  # busy; if it has ended, that is told elsewhere
            found = set(exemplars(page.text))
            waiting = {exemplar for exemplar in waiting if exemplar in found} | (found - known)
            known = found
            ready = [exemplar for exemplar in waiting if _has_come(exemplar, traces)]
            if ready:
                turn += 1
                best = min(ready, key=lambda one: (shown.get(_kind(one), 0), -one.seconds))
                shown[_kind(best)] = turn
                waiting.remove(best)
                screen.exemplar(best, traces.tree(best.trace_id))


def _has_come(exemplar: Exemplar, traces: Traces) -> bool:
    age = time.time() - exemplar.time
    own = any(span.span_id == exemplar.span_id for _, span in traces.tree(exemplar.trace_id))
    return (own and age > _EXPORTED_AFTER) or age > _LATE_AFTER


def _kind(exemplar: Exemplar) -> tuple[str, ...]:
    return exemplar.method, exemplar.route, exemplar.status

"""The front of the shop: FastAPI, under uvicorn; it asks the stock service at ``STOCK_URL``.

Where ``PAYMENT_URL`` is set, orders are also paid, at the payment service there.

STOCK_URL=http://127.0.0.1:8001 uvicorn exemplars.demo.front:app
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Annotated, Any, TypedDict

import httpx
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

from exemplars import instrument, tracing
from exemplars.demo import logs, spans

spans.show(tracing.configure(ratio=1.0))  # all of them: the Collector samples
logs.configure()
log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)
HTTPXClientInstrumentor().instrument()
numbers = count(1)  # of orders


class Service:
    """One behind the front."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, method: str, path: str, json: Any = None) -> Any:
        """Its answer. A refusal of its is ours too; what breaks there raises ``httpx.HTTPStatusError`` here."""
        response = await self._client.request(method, path, json=json)
        if response.status_code in (402, 404, 409):
            detail = response.json()["detail"]
            log.info("refused: %s", detail, extra={"status": response.status_code})
            raise HTTPException(response.status_code, detail)
        return response.raise_for_status().json()


class State(TypedDict):
    stock: Service
    payment: Service | None


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[State]:
    url = os.environ.get("STOCK_URL", "http://127.0.0.1:8001")
    paid_at = os.environ.get("PAYMENT_URL")
    async with (
        httpx.AsyncClient(base_url=url, timeout=10) as stock,
        httpx.AsyncClient(base_url=paid_at or "", timeout=10) as payment,
    ):
        yield {"stock": Service(stock), "payment": Service(payment) if paid_at else None}


def stock_of(request: Request) -> Service:
    stock: Service = request.state.stock
    return stock


def payment_of(request: Request) -> Service | None:
    payment: Service | None = request.state.payment
    return payment


TheStock = Annotated[Service, Depends(stock_of)]
ThePayment = Annotated[Service | None, Depends(payment_of)]

# Recent FastAPI traces by itself as soon as a tracer provider is set, so there is no instrumentation to add.
app = FastAPI(
    title="Shop",
    lifespan=lifespan,
    telemetry={"operation_spans": False, "exclude": lambda scope: scope["path"] == "/metrics"},
)
products = APIRouter(prefix="/products")


@products.get("/{product}")
async def show(product: str, stock: TheStock) -> dict[str, Any]:
    found = await stock.ask("GET", f"/stock/{product}")
    log.info("showed %s", product, extra={"product": product, "left": found["left"]})
    return {"product": product, "available": found["left"] != 0}


@products.post("/{product}/orders", status_code=201)
async def order(product: str, pieces: int, stock: TheStock, payment: ThePayment) -> dict[str, Any]:
    reservation: dict[str, Any] = await stock.ask("POST", f"/stock/{product}/reservations?pieces={pieces}")
    if payment is not None:
        number = next(numbers)
        bill = {"order": f"{product}-{number}", "customer": f"customer-{number % 300}", "amount": 20 * pieces}
        reservation |= await payment.ask("POST", "/payments", bill)
    log.info("ordered: %d of %s", pieces, product, extra={"product": product, "pieces": pieces})
    return reservation


@app.get("/search")
async def search(words: str) -> dict[str, Any]:
    asked = words.split()
    with tracer.start_as_current_span("rank"):
        await asyncio.sleep(0.015 * len(asked))  # nobody thought of long questions
        level, how = (logging.WARNING, "slow") if len(asked) > 10 else (logging.INFO, "quick")
        log.log(level, "a %s search, for %d words", how, len(asked), extra={"words": len(asked)})
    return {"found": asked}


@app.get("/reports/{year}")
async def report(year: int, stock: TheStock) -> dict[str, Any]:
    quarters = [f"{year}-{month:02}" for month in (3, 6, 9, 12)]
    movements = [await stock.ask("GET", f"/movements/{month}") for month in quarters]  # one after the other
    with tracer.start_as_current_span("draw"):
        await asyncio.sleep(0.05)
    log.info("drew the report of %d, from %d quarters", year, len(quarters), extra={"year": year})
    return {"year": year, "pieces": sum(movement["pieces"] for movement in movements)}


app.include_router(products)
app = instrument(app)

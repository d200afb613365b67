"""FastAPI, traced by itself where it can. Its routes are those of `traced_flask` and `traced_django`."""

import asyncio
import inspect
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

from exemplars import instrument
from tests.apps import traced

traced.configure()
app = FastAPI(telemetry={"exclude": lambda scope: scope["path"] == "/metrics"})
router = APIRouter(prefix="/items")


@router.get("/{item}")
async def item(item: int) -> int:
    return item


@app.get("/slow")
async def slow() -> None:
    await asyncio.sleep(traced.SLOW)


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        for part in "abc":
            await asyncio.sleep(0.002)
            yield part

    return StreamingResponse(parts())


@app.get("/fail")
async def fail() -> None:
    raise RuntimeError("as it should")


app.include_router(router)
if "telemetry" not in inspect.signature(FastAPI).parameters:
    FastAPIInstrumentor.instrument_app(app, excluded_urls="/metrics")
app = instrument(app, policy=traced.POLICY)

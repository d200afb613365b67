"""A background task of FastAPI: in the request's trace if it is short, in one of its own, linked, if it is long."""

import asyncio

import httpx
from fastapi import BackgroundTasks, FastAPI
from opentelemetry import trace
from opentelemetry.context import Context

from exemplars import instrument, tracing

tracing.configure("shop", ratio=1.0)
tracer = trace.get_tracer("shop")
app = FastAPI()


def send_mail(order: str) -> None:
    with tracer.start_as_current_span("mail"):  # the context of the request is still there
        pass


def draw_report(order: str, request: trace.SpanContext) -> None:
    # An empty context begins a new trace, which is sampled, and decided on, by itself.
    with tracer.start_as_current_span("report", context=Context(), links=[trace.Link(request)]):
        pass


@app.post("/orders/{order}")
async def place(order: str, background: BackgroundTasks) -> dict[str, str]:
    background.add_task(send_mail, order)
    background.add_task(draw_report, order, trace.get_current_span().get_span_context())
    return {"order": order}


app = instrument(app)


async def main() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        await client.post("/orders/7")


asyncio.run(main())

"""The stock service of the shop: Flask, under gunicorn with one worker, so that requests wait for each other.

gunicorn --workers 1 exemplars.demo.stock:app
"""

import logging
import time

from flask import Flask, request
from flask.typing import ResponseReturnValue
from opentelemetry import trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor

from exemplars import instrument, tracing
from exemplars.demo import logs, spans

spans.show(tracing.configure(ratio=1.0))  # all of them: the Collector samples

SHELVES = {
    "chair": 30,
    "kettle": 40,
    "ladder": 3,
    "lamp": 12,
    "mirror": None,
    "table": 7,
    "wardrobe": 2,
}  # nobody counted mirrors
FAR = {"wardrobe"}  # kept in the other warehouse

logs.configure()
log = logging.getLogger(__name__)
app = Flask(__name__)
tracer = trace.get_tracer(__name__)


def query(statement: str, seconds: float) -> None:
    """What stands for a database."""
    with tracer.start_as_current_span(statement):
        time.sleep(seconds)


@app.get("/stock/<product>")
def look_up(product: str) -> ResponseReturnValue:
    if product not in SHELVES:
        log.info("asked for %s, which there is not", product)
        return {"detail": f"no product {product!r}"}, 404
    query("SELECT shelf", 0.003)
    if product in FAR:
        query("SELECT shelf FROM far", 0.08)
    log.info("looked up %s", product, extra={"product": product, "far": product in FAR})
    return {"product": product, "left": SHELVES[product]}


@app.post("/stock/<product>/reservations")
def reserve(product: str) -> ResponseReturnValue:
    wanted = int(request.args["pieces"])
    query("SELECT shelf FOR UPDATE", 0.008)
    if SHELVES[product] < wanted:  # type: ignore[operator]  # the shop has this bug: a mirror raises TypeError
        log.warning("an order is refused: fewer than %d of %s left", wanted, product, extra={"product": product})
        return {"detail": f"fewer than {wanted} of {product!r} left"}, 409
    query("INSERT reservation", 0.004)
    log.info("reserved %d of %s", wanted, product, extra={"product": product, "pieces": wanted})
    return {"product": product, "pieces": wanted}, 201


@app.get("/movements/<month>")
def movements(month: str) -> ResponseReturnValue:
    query("SELECT movements", 0.06)
    log.info("counted what moved in %s", month)
    return {"month": month, "pieces": 31 * len(SHELVES)}


FlaskInstrumentor().instrument_app(app)  # type: ignore[no-untyped-call]
app = instrument(app)  # the last line, so that scrapes are not traced either

"""A payment as a trace should tell it: what was done, with which values, and what went wrong."""

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode

from exemplars import tracing

tracing.configure("shop", ratio=1.0)
tracer = trace.get_tracer("shop.payments")


class Declined(Exception):
    pass


def charge(span: Span, card: str) -> str:
    for attempt in range(3):
        try:
            if card == "unlucky" and attempt == 0:
                raise TimeoutError("no answer within 2 s")
            if card == "stolen":
                raise Declined("call your bank")
            return f"receipt-{attempt}"
        except TimeoutError as error:
            span.record_exception(error)  # went well in the end: an event, and no status
    raise TimeoutError("no answer in three attempts")


def pay(order: str, pieces: int, card: str) -> str:
    with tracer.start_as_current_span("pay", attributes={"shop.order": order, "shop.pieces": pieces}) as span:
        receipt = charge(span, card)  # what it raises is recorded, sets the status and goes on
        span.set_attribute("shop.receipt", receipt)  # known only now
        return receipt


def pay_or_apologise(order: str, pieces: int, card: str) -> str:
    with tracer.start_as_current_span("checkout") as span:
        try:
            return pay(order, pieces, card)
        except Declined as error:
            span.record_exception(error)  # caught here, so nobody else says it
            span.set_status(Status(StatusCode.ERROR, "declined"))
            return "sorry"


pay_or_apologise("lamp-1", 1, "good")
pay_or_apologise("lamp-2", 2, "unlucky")
pay_or_apologise("lamp-3", 3, "stolen")

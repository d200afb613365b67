"""A message carries `traceparent` among its headers: the consumer goes on with the trace, or links to it."""

import json
import queue
import threading

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

from exemplars import tracing

tracing.configure("shop", ratio=1.0)
tracer = trace.get_tracer("shop")
broker: queue.SimpleQueue[bytes] = queue.SimpleQueue()


def send(topic: str, body: object) -> None:
    with tracer.start_as_current_span(f"send {topic}", kind=SpanKind.PRODUCER):
        headers: dict[str, str] = {}
        propagate.inject(headers)
        broker.put(json.dumps({"topic": topic, "headers": headers, "body": body}).encode())


def receive() -> None:
    message = json.loads(broker.get())
    sent = propagate.extract(message["headers"])
    name = f"process {message['topic']}"
    if message["topic"] == "orders":  # taken at once: one trace
        with tracer.start_as_current_span(name, context=sent, kind=SpanKind.CONSUMER):
            pass
    else:  # may lie for hours: another trace, which names the first
        link = trace.Link(trace.get_current_span(sent).get_span_context())
        with tracer.start_as_current_span(name, kind=SpanKind.CONSUMER, links=[link]):
            pass


with tracer.start_as_current_span("request"):
    send("orders", {"order": "lamp-1"})
    send("reports", {"year": 2026})
for _ in range(2):
    consumer = threading.Thread(target=receive)
    consumer.start()
    consumer.join()

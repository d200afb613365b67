"""A span that nobody ends: its exemplar is a dot that opens nothing."""

from opentelemetry import trace

from exemplars import Histogram, tracing

tracing.configure("shop", ratio=1.0)
tracer = trace.get_tracer("shop")
WORK = Histogram("work_seconds", "Time that work took.", ["how"])

with tracer.start_as_current_span("ended"):
    WORK.labels("ended").observe(0.1)

forgotten = tracer.start_span("forgotten")
with trace.use_span(forgotten):  # makes it the current one, and does not end it
    WORK.labels("forgotten").observe(0.1)
    with tracer.start_as_current_span("child"):
        pass

lost = tracer.start_span("lost")
with trace.use_span(lost):
    WORK.labels("lost").observe(0.1)

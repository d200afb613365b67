"""What a span costs, exported or not: processor time, that of the exporter's thread included."""

import time

from opentelemetry import trace

from exemplars import tracing

SPANS = 2_000  # fewer than the exporter's queue takes
provider = tracing.configure("shop")
tracer = trace.get_tracer("shop")


def microseconds() -> float:
    since = time.process_time()
    for _ in range(SPANS):
        with tracer.start_as_current_span("work", attributes={"shop.order": "lamp-1"}):
            pass
    provider.force_flush()
    return (time.process_time() - since) * 1e6 / SPANS


microseconds()  # the first time is not counted
print(f"{min(microseconds() for _ in range(5)):.1f} µs a span")

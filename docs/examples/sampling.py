"""A thousand traces. OTEL_TRACES_SAMPLER_ARG says how many of them are sampled; every dot is one of those."""

from opentelemetry import trace

from exemplars import Histogram, tracing

tracing.configure("shop")
tracer = trace.get_tracer("shop")
WORK = Histogram("work_seconds", "Time that work took.", ["route"])

for number in range(1_000):
    with tracer.start_as_current_span("request"):
        WORK.labels(f"/{number % 10}").observe(number / 500)

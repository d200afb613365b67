"""Another process gets the context as a dictionary of texts, and exports its spans by itself."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from opentelemetry import propagate, trace

from exemplars import tracing

tracing.configure("shop", ratio=1.0)  # in each process, as each imports this; a forked one has it from its parent
tracer = trace.get_tracer("shop")


def square(number: int, carrier: dict[str, str]) -> int:
    with tracer.start_as_current_span("square", context=propagate.extract(carrier)):
        return number * number


def main() -> None:
    spawn = multiprocessing.get_context("spawn")
    with tracer.start_as_current_span("request"), ProcessPoolExecutor(1, spawn) as pool:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        pool.submit(square, 7, carrier).result()


if __name__ == "__main__":
    main()

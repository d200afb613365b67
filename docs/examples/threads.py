"""Threads begin without a context, so it is handed to them."""

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from threading import Thread

from opentelemetry import trace

from exemplars import tracing

tracing.configure("shop", ratio=1.0)
tracer = trace.get_tracer("shop")


def work(name: str) -> None:
    with tracer.start_as_current_span(name):
        pass


with tracer.start_as_current_span("request"), ThreadPoolExecutor() as pool:
    pool.submit(work, "astray")  # a trace of its own
    pool.submit(copy_context().run, work, "submitted")  # a copy for each: no two threads can be in one context

    thread = Thread(target=copy_context().run, args=(work, "started"))
    thread.start()
    thread.join()

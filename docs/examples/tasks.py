"""asyncio takes the context along: into tasks, and into the threads of `to_thread`, not of `run_in_executor`."""

import asyncio
from contextvars import copy_context

from opentelemetry import trace

from exemplars import tracing

tracing.configure("shop", ratio=1.0)
tracer = trace.get_tracer("shop")
running: set[asyncio.Task[None]] = set()  # a task that nobody holds may be collected before it is done


def work(name: str) -> None:
    with tracer.start_as_current_span(name):
        pass


async def mail() -> None:
    await asyncio.sleep(0.01)
    with tracer.start_as_current_span("mail"):  # after its parent has ended, and still its child
        pass


async def request() -> None:
    loop = asyncio.get_running_loop()
    with tracer.start_as_current_span("request"):
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(work, "to_thread"))
        await loop.run_in_executor(None, work, "astray")
        await loop.run_in_executor(None, copy_context().run, work, "run_in_executor")
        task = asyncio.create_task(mail())
        running.add(task)
        task.add_done_callback(running.discard)


async def main() -> None:
    await request()
    await asyncio.gather(*running)


asyncio.run(main())

"""What is of one process in a provider that processes share: exporting, the resource, ids, and the end.

A provider that was made before a fork is the child's as well. Threads, connections and the generator of random numbers
must not be; all of it is told apart by the process id, which holds after every kind of fork: uWSGI's runs none of
Python's hooks.

These classes have the methods that the SDK's own have, which is not imported before it is used.
"""

import asyncio
import atexit
import logging
import os
import queue
import random
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from exemplars import faults

INSTANCE_ID: Final = "service.instance.id"
TO_END: Final = 5.0  # seconds that a process which ends waits for its last spans to be taken

_instance_ids: Final[dict[int, str]] = {}


def _instance_id() -> str:
    """That of this process."""
    return _instance_ids.setdefault(os.getpid(), str(uuid.uuid4()))


class ProcessResource:
    """A resource whose attributes are *common*'s, and those that each process has for itself.

    *fixed* are attributes that stay as they are, whatever is merged in: the SDK (since 1.44) merges a new
    ``service.instance.id`` after a fork, over one that somebody has chosen.
    """

    def __init__(self, common: Any, fixed: Mapping[str, Any]) -> None:
        self._common = common
        self._fixed = fixed
        self._whole: tuple[int, Mapping[str, Any]] = (0, {})

    @property
    def attributes(self) -> Mapping[str, Any]:
        pid, attributes = self._whole
        if pid != os.getpid():
            own = {INSTANCE_ID: _instance_id(), "process.pid": os.getpid()}
            attributes = {**self._common.attributes, **own, **self._fixed}
            self._whole = os.getpid(), attributes
        return attributes

    @property
    def schema_url(self) -> str:
        return str(self._common.schema_url)

    def merge(self, other: Any) -> "ProcessResource":
        return ProcessResource(self._common.merge(other), self._fixed)

    def to_json(self, indent: int | None = 4) -> str:
        return str(type(self._common)(self.attributes, self.schema_url).to_json(indent))


class Ids:
    """An id generator that asks the kernel: nothing seeds it, and no two processes get the same numbers.

    The SDK's own asks the module `random`, which forgets to differ where a fork runs no hooks, and repeats itself where
    an application seeds it.
    """

    def __init__(self) -> None:
        self._bits = random.SystemRandom().getrandbits

    def generate_span_id(self) -> int:
        return self._bits(64) or self.generate_span_id()

    def generate_trace_id(self) -> int:
        return self._bits(128) or self.generate_trace_id()

    def is_trace_id_random(self) -> bool:
        return True


class _Own:
    """What exports in one process: batch processors, and a thread that does what the end of the process waits for.

    That thread is there from the start, as Python starts none any more when it ends.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.processors: Sequence[Any] = ()
        self._lock = threading.RLock()
        self._begun = False
        self._jobs: queue.SimpleQueue[tuple[Callable[[], object], threading.Event]] = queue.SimpleQueue()

    def begin(self, make: Callable[[], Sequence[Any]], at_end: Callable[[], None]) -> None:
        """Make the processors, once. Raises what *make* raises."""
        with self._lock:  # re-entrant: a span may end in what interrupts this
            if self._begun:
                return
            self._begun = True
            self.processors = make()
            threading.Thread(target=self._work, name="exemplars-spans", daemon=True).start()
            call_at_end(at_end)

    def wait_for(self, job: Callable[[], object], seconds: float) -> bool:
        """Have *job* done, and wait up to *seconds* for it; whether that was enough.

        A signal handler may call it: what may be locked in the thread that it has interrupted, another waits for.
        """
        if not self.processors:
            return True
        done = threading.Event()
        self._jobs.put((job, done))
        return done.wait(seconds)

    def _work(self) -> None:
        while True:
            job, done = self._jobs.get()
            with suppress(Exception):
                job()
            done.set()


class Exporting:
    """A span processor that hands sampled spans to batch processors that each process makes for itself, with *make*.

    Made by `begin`, else when the first span ends: so a master that only forks has no thread and no connection.
    *provider* is what is flushed and shut down when a process ends, with all that others have added to it.
    """

    def __init__(self, provider: Any, make: Callable[[], Sequence[Any]]) -> None:
        self._provider = provider
        self._make = make
        self._every: dict[int, _Own] = {}
        self._own: _Own | None = None
        self._ended = False
        atexit.register(self._at_end, provider.shutdown)

    def begin(self) -> None:
        """Make what exports in this process. Raises what *make* raises."""
        own = self._every.setdefault(os.getpid(), _Own())  # one for all threads
        own.begin(self._make, partial(self._at_end, self._provider.force_flush))
        self._own = own

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        pass

    def _on_ending(self, span: Any) -> None:
        pass

    def on_end(self, span: Any) -> None:
        if self._ended or not span.get_span_context().trace_flags.sampled:
            return
        if self._own is None or self._own.pid != os.getpid():
            try:
                self.begin()
            except Exception as error:
                self._own = self._every[os.getpid()]  # without processors: the application goes on
                faults.say(logging.ERROR, "this process cannot export its spans: %s", error, error=error)
        for processor in self._own.processors if self._own is not None else ():
            processor.on_end(span)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        flushed = [processor.force_flush(timeout_millis) for processor in self._processors_here()]
        return all(flushed)

    def shutdown(self) -> None:
        self._ended = True
        for processor in self._processors_here():
            processor.shutdown()

    def _processors_here(self) -> Sequence[Any]:
        own = self._every.get(os.getpid())
        return own.processors if own is not None else ()

    def _at_end(self, job: Callable[[], object]) -> None:
        """Wait, but not long, until *job* has brought the spans of this process out. Never raises."""
        own = self._every.get(os.getpid())
        if own is not None and not self._ended and not own.wait_for(job, TO_END):
            faults.say(
                logging.WARNING,
                "the last spans were not taken within %.0f s, and are lost: is what they are sent to running?",
                TO_END,
            )


def call_at_end(callback: Callable[[], None]) -> None:
    """Have *callback* called where this process ends without running what is registered with `atexit`.

    That is: killed by SIGTERM, which nobody handles; served by uvicorn, which kills itself by the signal that it has
    handled; started by `multiprocessing` with a fork. Other servers end as programs do. Never raises.
    """
    with suppress(Exception):
        handler = signal.getsignal(signal.SIGTERM)
        server = getattr(handler, "__self__", None)
        in_main_thread = threading.current_thread() is threading.main_thread()
        if handler == signal.SIG_DFL and in_main_thread and not _is_handled_beside_python(signal.SIGTERM):
            signal.signal(signal.SIGTERM, _then_by_default(callback))
        elif isinstance(server, getattr(sys.modules.get("uvicorn.server"), "Server", ())):
            _call_after_shutdown(server, callback)
        processes = sys.modules.get("multiprocessing.process")
        if processes is not None and processes.parent_process() is not None:
            from multiprocessing.util import Finalize

            Finalize(None, callback, exitpriority=0)


def _is_handled_beside_python(number: int) -> bool:
    """Whether a handler that Python knows nothing of handles signal *number*, as that of uWSGI does; Linux tells."""
    with suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def _then_by_default(callback: Callable[[], None]) -> Callable[[int, object], None]:
    def handle(number: int, _frame: object) -> None:
        callback()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    return handle


def _call_after_shutdown(server: Any, callback: Callable[[], None]) -> None:
    """Have *callback* called when uvicorn's *server* has answered its last request, on a thread."""
    shutdown = server.shutdown

    async def shutdown_and_call(*arguments: Any, **keywords: Any) -> None:
        try:
            await shutdown(*arguments, **keywords)
        finally:
            await asyncio.to_thread(callback)

    server.shutdown = shutdown_and_call

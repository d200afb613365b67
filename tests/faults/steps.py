"""A worker stopped after each machine instruction that changes its file: every state that there is, is shown right.

A stop at a random moment hardly ever falls between the few stores that an exemplar takes. So the worker is traced, goes
on by single steps, and is killed in the middle of them at times.
"""

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Final

from exemplars.store import layout
from exemplars.store.layout import Kind
from tests.faults import damaging, subject
from tests.faults.damage import Dot, Original, answer, on_page, read
from tests.faults.figures import Figures
from tests.faults.servers import files_of
from tests.programs import PACKAGES, PATIENCE, eventually

# Requests of ptrace(2), which are the same on all machines.
_STEP: Final = 9
_ATTACH: Final = 16
_FREE: Final = 0.02  # seconds that a worker runs by itself before it is traced
_NAME: Final = "subject_seconds", ""

_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long


def _trace(request: int, pid: int) -> None:
    if _ptrace(request, pid, None, None) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")


def can_trace() -> bool:
    """Whether this process may trace one that it has started."""
    process = subprocess.Popen(["sleep", "60"])
    try:
        _trace(_ATTACH, process.pid)
    except OSError:
        return False
    finally:
        process.kill()
        process.wait(PATIENCE)
    return True


@contextmanager
def _started(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.subject", *arguments],
        env={"PYTHONPATH": os.pathsep.join(PACKAGES), "EXEMPLARS_DIR": str(directory)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


class _Pages:
    """What other workers answer, page after page, and what must hold of them."""

    def __init__(self) -> None:
        self._dots: dict[tuple[str, str], Dot] = {}
        self._last: set[tuple[str, str]] = set()
        self._sum = 0.0
        self.count = 0
        self.pages = 0
        self.exemplars: set[Dot] = set()
        self.without = 0  # pages that lack an exemplar which the one before had

    def ask(self, reader: subprocess.Popen[str]) -> None:
        """Have a page made by *reader* and check it. Raises ``AssertionError`` where anything does not hold."""
        numbers, dots = on_page(read(answer(reader)))
        shown = numbers[_NAME]
        count = shown.buckets[-1]
        assert count >= self.count, f"{count} observations after {self.count}"
        assert shown.buckets == _buckets(count), (shown, count)
        # An observation is counted first, and lost to the sum if its worker is killed then.
        least = self._sum + sum(map(subject.value_of, range(self.count + 1, count)))
        most = self._sum + sum(map(subject.value_of, range(self.count, count + 1)))
        assert least <= shown.sum <= most, (shown, self.count, self._sum)
        self.count, self._sum = count, shown.sum
        for (name, le), dot in dots.items():
            self._check_dot(name[0], le, dot)
        now = {(name[0], le) for name, le in dots}
        self.without += not self._last <= now
        self._last = now
        self.pages += 1

    def _check_dot(self, metric: str, le: str, dot: Dot) -> None:
        labels, value, timestamp = dot
        number = subject.number_of(dict(labels))
        assert number is not None and number <= self.count, (metric, le, dot, self.count)
        if metric == _NAME[0]:
            assert (value, float(le)) == (subject.value_of(number), _bound(value)), (metric, le, dot)
        before = self._dots.get((metric, le))
        assert before is None or dot == before or timestamp > before[2], f"{metric}, {le}: {dot} after {before}"
        self._dots[metric, le] = dot
        self.exemplars.add(dot)


def _bound(value: float) -> float:
    return (*subject.BOUNDS, float("inf"))[bisect_left(subject.BOUNDS, value)]


def _buckets(count: int) -> tuple[int, ...]:
    """What the buckets show after the numbers from 1 to *count* were observed."""
    tens, rest = divmod(count, 10)
    values = [*list(range(10)) * tens, *range(1, rest + 1)]
    by_bucket = [0] * (len(subject.BOUNDS) + 1)
    for value in values:
        by_bucket[bisect_left(subject.BOUNDS, value)] += 1
    return tuple(accumulate(by_bucket))


class _Traced:
    """A process that goes on by single machine instructions. Of one thread, in which all of this must be called."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.steps = 0
        _trace(_ATTACH, pid)
        self._wait()

    def step(self) -> None:
        _trace(_STEP, self._pid)
        self._wait()
        self.steps += 1

    def _wait(self) -> None:
        _, status = os.waitpid(self._pid, 0)
        assert os.WIFSTOPPED(status), f"it has ended: {status}"

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        while os.WIFSTOPPED(os.waitpid(self._pid, 0)[1]):
            pass


def _half_written(data: bytes) -> bool:
    """Whether an exemplar in a file of *data* is not whole."""
    for at, part in Original(data).parts.items():
        if part.kind == Kind.SERIES:
            stamps = memoryview(data)[at + part.place.stamps : at + part.place.slots].cast("Q").tolist()
            for index, stamp in enumerate(stamps):
                slot_at = at + part.place.slots + layout.SLOT * index
                if stamp and not stamp & 1 and layout.decode_slot(data, slot_at, stamp) is None:
                    return True
    return False


def run(rounds: int, each: int, directory: Path, seed: int) -> Figures | None:
    """Follow *rounds* workers, through *each* states of their files; ``None`` where no process may be traced.

    Each is killed then. Raises ``AssertionError`` when a page shows what was not written whole.
    """
    if not can_trace():
        return None
    choose = random.Random(seed)
    steps = states = half = killed_half = 0
    pages = _Pages()
    # The one sees every state, the other only those that are not whole: what it knows is always older.
    with _started(directory, "pages") as reader, _started(directory, "pages") as other:
        for number in range(rounds):
            with _started(directory, "observe", str(pages.count + 1)) as worker:
                assert worker.stdout is not None
                assert worker.stdout.readline() == "observing\n"
                (path,) = eventually(lambda pid=worker.pid: files_of(pid), "a file")  # type: ignore[misc]
                time.sleep(choose.uniform(0, _FREE))
                traced = _Traced(worker.pid)
                try:
                    with path.open("rb", buffering=0) as file:
                        last = b""
                        seen = 0
                        in_half = number % 2 == 0  # every other one is killed in the middle of an exemplar
                        is_half = False
                        while seen < each or (in_half and not is_half):
                            traced.step()
                            data = os.pread(file.fileno(), len(last) or os.fstat(file.fileno()).st_size, 0)
                            if data != last:
                                last = data[: damaging.used(data)]
                                seen += 1
                                is_half = _half_written(last)
                                half += is_half
                                if is_half:
                                    pages.ask(other)
                                pages.ask(reader)
                        states += seen
                        killed_half += is_half
                finally:
                    traced.kill()
                    steps += traced.steps
            pages.ask(reader)
    return Figures(
        {
            "workers followed step by step, then killed": rounds,
            "of them in the middle of an exemplar": killed_half,
            "machine instructions": steps,
            "states of a file": states,
            "of them with half an exemplar": half,
            "pages checked": pages.pages,
            "different exemplars on them": len(pages.exemplars),
        }
    )

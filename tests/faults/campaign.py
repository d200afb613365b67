"""All parts of the campaign at length, each in a process of its own."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import pytest

from tests.faults import clock, damage, disk, forks, kills, recycles, steps, stops
from tests.faults.figures import Figures, line

# Most of a server that forks, where they take least; in two parts, one of them in a directory that is named.
RECYCLES: Final = (
    ("gunicorn --preload", 4_500),
    ("gunicorn sync", 800),
    ("uvicorn", 200),
    ("gunicorn --preload", 4_501),
)

# One part of the campaign: in a directory, with a seed and an environment.
Part = Callable[[Path, int, dict[str, str]], Figures | None]


def parts() -> Iterator[tuple[str, Part]]:
    """All parts, by name."""
    for name in kills.SERVERS:
        yield f"kills, {name}", partial(_kills, name)
    for name, count in RECYCLES:
        yield f"recycles, {name}, {count:,}", partial(_recycles, name, count)
    yield "damage", lambda _, seed, __: damage.run(100_000, 60.0, seed)
    for name in kills.SERVERS:
        for steps_ms in clock.STEPS_MS:
            yield f"clocks up to {steps_ms:,} ms off, {name}", partial(_clock, name, steps_ms)
    for name in kills.SERVERS:
        yield f"stops, {name}", partial(_stops, name)
    yield "single steps", lambda path, seed, _: steps.run(8, 40, path, seed)
    for name in disk.SERVERS:
        for trouble in disk.TROUBLES:
            yield f"{trouble}, {name}", partial(_disk, name, trouble)
    for name in forks.SERVERS:
        yield f"forks, {name}", partial(_forks, name)


def _kills(name: str, path: Path, seed: int, environment: dict[str, str]) -> Figures:
    return kills.run(name, 340, path, seed, environment)


def _recycles(name: str, count: int, path: Path, _: int, environment: dict[str, str]) -> Figures:
    return recycles.run(name, count, path, environment)


def _clock(name: str, steps_ms: int, path: Path, seed: int, environment: dict[str, str]) -> Figures:
    return clock.run(name, steps_ms, 12, path, seed, environment)


def _stops(name: str, path: Path, seed: int, environment: dict[str, str]) -> Figures:
    return stops.run(name, 400, path, seed, environment)


def _disk(name: str, trouble: str, path: Path, _: int, __: dict[str, str]) -> Figures | None:
    return disk.run(name, trouble, 6.0, path)


def _forks(name: str, path: Path, _: int, environment: dict[str, str]) -> Figures:
    return forks.run(name, 3, path, environment)


def run(names: Sequence[str], seed: int, jobs: int) -> Iterator[tuple[str, str, bool]]:
    """Run parts, *jobs* at once, each in a process of its own: name, figures, and whether all held, in their order.

    When this ends early, they are ended too, and with them what they have started.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(names)
    running: dict[Connection, tuple[str, BaseProcess]] = {}
    done: dict[str, tuple[str, bool]] = {}
    try:
        for name in names:
            while name not in done:
                while waiting and len(running) < jobs:
                    here, there = context.Pipe(duplex=False)
                    other = waiting.pop(0)
                    # Every other part names a directory, the rest are where the library chooses.
                    process: BaseProcess = context.Process(
                        target=_work, args=(other, seed, names.index(other) % 2 == 1, there)
                    )
                    process.start()
                    there.close()
                    running[here] = other, process
                for ready in multiprocessing.connection.wait(list(running)):
                    assert isinstance(ready, Connection)
                    other, ended = running.pop(ready)
                    with ready:
                        try:
                            done[other] = ready.recv()
                        except EOFError:
                            done[other] = line("FAILED", "the process of this part has ended"), False
                    ended.join()
            yield name, *done[name]
    finally:
        for _, left in running.values():
            if left.pid is not None:
                os.kill(left.pid, signal.SIGTERM)
            left.join()


def _work(name: str, seed: int, named: bool, answer: Connection) -> None:
    """Run the part *name*, with *named* in a directory of ours, and give *answer* what came of it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        path = Path(directory)
        try:
            found = dict(parts())[name](path, seed, {"EXEMPLARS_DIR": str(path / "shared")} if named else {})
        except BaseException as error:  # pytest's failures are no exceptions
            notes = getattr(error, "__notes__", ())
            answer.send((line("FAILED", "\n".join([f"{type(error).__name__}: {error}"[:3_000], *notes])), False))
            if not isinstance(error, (Exception, pytest.fail.Exception)):
                raise
        else:
            answer.send((str(found) if found is not None else line("not done", "it cannot be had here"), True))

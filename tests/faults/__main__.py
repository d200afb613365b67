"""The campaign, all of it or some parts, at length; its figures."""

import argparse
import multiprocessing
import multiprocessing.connection
import os
import platform
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import pytest

from tests.faults import clock, damage, disk, forks, kills, recycles, steps, stops
from tests.faults.figures import Figures, line

# Of a server that forks, most, as they take least.
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
    for name in kills.SERVERS:
        for steps_ms in clock.STEPS_MS:
            yield f"clocks up to {steps_ms:,} ms off, {name}", partial(_clock, name, steps_ms)
    for name in kills.SERVERS:
        yield f"stops, {name}", partial(_stops, name)
    yield "single steps", lambda path, seed, _: steps.run(8, 40, path, seed)
    for name in disk.SERVERS:
        for trouble in disk.TROUBLES:
            yield f"{trouble}, {name}", partial(_disk, name, trouble)
    yield "damage", lambda path, seed, _: damage.run(100_000, 60.0, path, seed)
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("parts", nargs="*", help="beginnings of names of parts; all, if none is given")
    parser.add_argument("--seed", type=int, default=None, help="that of a run whose faults are to come again")
    parser.add_argument("--jobs", type=int, default=2, help="parts that run at once (%(default)s)")
    parser.add_argument("--list", action="store_true", help="only tell the names")
    arguments = parser.parse_args()
    chosen = [name for name, _ in parts() if not arguments.parts or name.startswith(tuple(arguments.parts))]
    if not chosen:
        parser.error(f"no part is called {' or '.join(arguments.parts)}")
    if arguments.list:
        print("\n".join(chosen))
        return
    seed = arguments.seed if arguments.seed is not None else secrets.randbits(32)
    began = time.monotonic()
    print(line(str(seed), "seed"))
    print(line(platform.python_version(), f"Python; gunicorn {version('gunicorn')}, uvicorn {version('uvicorn')}"))
    failed = []
    for name, text, is_well in run(chosen, seed, arguments.jobs):
        print(f"\n{name}\n{text}", flush=True)
        if not is_well:
            failed.append(name)
    print(f"\n{line(round(time.monotonic() - began), 'seconds')}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def run(names: Sequence[str], seed: int, jobs: int) -> Iterator[tuple[str, str, bool]]:
    """Run parts, *jobs* at once, each in a process of its own: name, figures, and whether all held, in their order.

    When this ends early, they are ended as by Ctrl-C, which lets them end what they have started.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
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
                    process = context.Process(target=_work, args=(other, seed, names.index(other) % 2 == 1, there))
                    process.start()
                    there.close()
                    running[here] = other, process
                for ready in multiprocessing.connection.wait(list(running)):
                    assert isinstance(ready, Connection)
                    other, process = running.pop(ready)
                    with ready:
                        try:
                            done[other] = ready.recv()
                        except EOFError:
                            done[other] = line("FAILED", "the process of this part has ended"), False
                    process.join()
            yield name, *done[name]
    finally:
        for _, process in running.values():
            if process.pid is not None:
                os.kill(process.pid, signal.SIGINT)
            process.join()


def _work(name: str, seed: int, named: bool, answer: Connection) -> None:
    """Run the part *name*, with *named* in a directory of ours, and give *answer* what came of it."""
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


if __name__ == "__main__":
    main()

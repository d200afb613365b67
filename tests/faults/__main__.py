"""The campaign, all of it or some parts, at length; its figures."""

import argparse
import platform
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

from tests.faults import clock, damage, disk, forks, kills, recycles, steps, stops
from tests.faults.figures import Figures, line

# One part of the campaign: in a directory, with a seed and an environment.
Part = Callable[[Path, int, dict[str, str]], Figures | None]


def parts() -> Iterator[tuple[str, Part]]:
    """All parts, by name."""
    for name in kills.SERVERS:
        yield f"kills, {name}", partial(_kills, name)
    for name, count in {"gunicorn --preload": 7_000, "gunicorn sync": 2_700, "uvicorn": 300}.items():
        yield f"recycles, {name}", partial(_recycles, name, count)
    for name in kills.SERVERS:
        for steps_ms in clock.STEPS_MS:
            yield f"clocks up to {steps_ms:,} ms off, {name}", partial(_clock, name, steps_ms)
    for name in kills.SERVERS:
        yield f"stops, {name}", partial(_stops, name)
    yield "single steps", lambda path, seed, _: steps.run(12, 40, path, seed)
    for name in disk.SERVERS:
        for trouble in disk.TROUBLES:
            yield f"{trouble}, {name}", partial(_disk, name, trouble)
    yield "damage", lambda path, seed, _: damage.run(100_000, 60.0, path, seed)
    for name in forks.SERVERS:
        yield f"forks, {name}", partial(_forks, name)


def _kills(name: str, path: Path, seed: int, environment: dict[str, str]) -> Figures:
    return kills.run(name, 350, path, seed, environment)


def _recycles(name: str, count: int, path: Path, _: int, environment: dict[str, str]) -> Figures:
    return recycles.run(name, count, path, environment)


def _clock(name: str, steps_ms: int, path: Path, seed: int, environment: dict[str, str]) -> Figures:
    return clock.run(name, steps_ms, 20, path, seed, environment)


def _stops(name: str, path: Path, seed: int, environment: dict[str, str]) -> Figures:
    return stops.run(name, 1_000, path, seed, environment)


def _disk(name: str, trouble: str, path: Path, _: int, __: dict[str, str]) -> Figures | None:
    return disk.run(name, trouble, 10.0, path)


def _forks(name: str, path: Path, _: int, environment: dict[str, str]) -> Figures:
    return forks.run(name, 5, path, environment)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("parts", nargs="*", help="beginnings of names of parts; all, if none is given")
    parser.add_argument("--seed", type=int, default=None, help="that of a run whose faults are to come again")
    parser.add_argument("--list", action="store_true", help="only tell the names")
    arguments = parser.parse_args()
    chosen = {n: part for n, part in parts() if not arguments.parts or n.startswith(tuple(arguments.parts))}
    if not chosen:
        parser.error(f"no part is called {' or '.join(arguments.parts)}")
    if arguments.list:
        print("\n".join(chosen))
        return
    # What was started is ended also where we are.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    seed = arguments.seed if arguments.seed is not None else secrets.randbits(32)
    began = time.monotonic()
    print(line(str(seed), "seed"))
    print(line(platform.python_version(), f"Python; gunicorn {version('gunicorn')}, uvicorn {version('uvicorn')}"))
    failed = []
    for number, (name, part) in enumerate(chosen.items()):
        print(f"\n{name}", flush=True)
        if not _run(part, seed, named=number % 2 == 1):
            failed.append(name)
    print(f"\n{line(round(time.monotonic() - began), 'seconds')}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _run(part: Part, seed: int, *, named: bool) -> bool:
    """Run *part* and print its figures; with *named* in a directory of ours, else where the library chooses."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        path = Path(directory)
        try:
            found = part(path, seed, {"EXEMPLARS_DIR": str(path / "shared")} if named else {})
        except AssertionError as error:
            print(line("FAILED", "\n".join([str(error)[:2_000], *getattr(error, "__notes__", ())])), flush=True)
            return False
    print(found if found is not None else line("not done", "cannot be had here"), flush=True)
    return True


if __name__ == "__main__":
    main()

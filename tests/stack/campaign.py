"""Does every dot open its trace, and what is lost: all of it at length, with figures.

`python -m tests.stack.campaign [beginnings of names of parts …]`; what it printed stands in `summary.txt`. Once the
binaries are built, it takes half an hour.
"""

import argparse
import os
import platform
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest

from tests.faults.figures import Figures, line
from tests.stack import broken, killing, losing, opening
from tests.stack.build import programs

Part = Callable[[Path], Figures]


def parts(seed: int) -> dict[str, Part]:
    """All parts, by name."""
    return {
        "dots of the shop, 10,000 requests": partial(opening.opened, requests=10_000, rate=25, seed=seed),
        "kill -9 of workers, spans sent every second, decision wait 5 s": partial(
            killing.killed, kills=30, pause=3.0, calm=300, rate=20, seed=seed
        ),
        "kill -9 of workers, spans sent every 5 s, decision wait 30 s, as by default": partial(
            killing.killed,
            kills=20,
            pause=6.0,
            calm=300,
            rate=20,
            seed=seed,
            spans_every="5000",
            DECISION_WAIT="30s",
        ),
        "what is kept at 10 requests a second": partial(opening.opened, requests=1_500, rate=7.2, seed=seed),
        "what is kept at 1,000 requests a second": partial(losing.rates, rate=1_000, duration=60),
        "marks after the decision": losing.late,
        "the Collector killed": partial(losing.restarts, times=5, pause=12.0, rate=40, by=signal.SIGKILL),
        "the Collector asked to end": partial(losing.restarts, times=5, pause=12.0, rate=40, by=signal.SIGTERM),
        # A traced request takes some two kilobytes until it is decided on.
        "the Collector short of memory": partial(
            losing.overload, rate=400, duration=60, DECISION_WAIT="30s", MEMORY_LIMIT_MIB="24", MEMORY_SPIKE_MIB="8"
        ),
        "the Collector short of room for traces": partial(
            losing.overload, rate=400, duration=30, TRACES_IN_MEMORY="1000"
        ),
        "parents elsewhere": partial(losing.parents, requests=1_000),
        "away for a minute: the Collector; and Prometheus": partial(
            broken.collector_away, outage=60.0, DECISION_WAIT="30s"
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.stack.campaign", description=__doc__)
    parser.add_argument("parts", nargs="*", help="beginnings of names of parts; all, if none is given")
    parser.add_argument("--seed", type=int, default=None, help="that of a run that is to come again")
    arguments = parser.parse_args()
    os.environ["CI"] = "1"  # what is not built is a failure, not left out
    seed = arguments.seed if arguments.seed is not None else secrets.randbits(32)
    chosen = {
        name: part
        for name, part in parts(seed).items()
        if not arguments.parts or name.startswith(tuple(arguments.parts))
    }
    if not chosen:
        parser.error(f"no part is called {' or '.join(arguments.parts)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended all the same
    began = time.monotonic()
    print(line(str(seed), "seed"))
    print(line(platform.python_version(), "; ".join(["Python", *PROGRAMS])), flush=True)
    failed = []
    for name, part in chosen.items():
        text, is_well = told(part)
        print(f"\n{name}\n{text}", flush=True)
        if not is_well:
            failed.append(name)
    print(f"\n{line(round(time.monotonic() - began), 'seconds')}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


PROGRAMS: Final = (
    *(f"{name} {programs()[name].release}" for name in ("collector", "prometheus", "tempo", "loki")),
    *(f"{name} {version(name)}" for name in ("uvicorn", "gunicorn", "opentelemetry-sdk")),
)


def told(part: Part) -> tuple[str, bool]:
    """What came of a part in a directory of its own, and whether all held."""
    said, kept = sys.stdout, tempfile.TemporaryFile("w")
    with kept, tempfile.TemporaryDirectory() as directory:
        sys.stdout = kept  # the logs of programs, which a test shows where it fails
        try:
            return str(part(Path(directory))), True
        except (AssertionError, pytest.fail.Exception, OSError) as error:
            return line("FAILED", str(error)), False
        finally:
            sys.stdout = said


if __name__ == "__main__":
    main()

"""The campaign, all of it or some parts, at length; its figures."""

import argparse
import platform
import secrets
import signal
import sys
import time
from importlib.metadata import version

from tests.faults.campaign import parts, run
from tests.faults.figures import line


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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended all the same
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


if __name__ == "__main__":
    main()

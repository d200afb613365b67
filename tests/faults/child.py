"""Processes that a request starts, and that outlive it: each observes, scrapes, and then stays until it is ended."""

import multiprocessing
import os
import subprocess
import sys
import time
from typing import Final

from prometheus_client import REGISTRY

FORKS: Final = ("fork", "multiprocessing")
WAYS: Final = (*FORKS, "subprocess", "preexec")
OBSERVATIONS: Final = 1000
LIFE: Final = 120.0  # seconds, if nobody ends it


def start(path: str) -> str:
    """Start one in the way that the last part of *path* names, and wait until it has observed; its pid."""
    way = path.rpartition("/")[2]
    if way in FORKS:
        done, write = os.pipe()
        if way == "fork":
            pid = os.fork()
            if pid == 0:
                _live(write)
        else:
            process = multiprocessing.get_context("fork").Process(target=_live, args=(write,))
            process.start()
            assert process.pid is not None
            pid = process.pid
        os.close(write)
        os.read(done, 1)
        os.close(done)
    else:
        # With a function to run between fork and exec, Python itself forks, else the C library does.
        hook = (lambda: None) if way == "preexec" else None
        command = [sys.executable, "-c", f"import time; time.sleep({LIFE})"]
        pid = subprocess.Popen(command, close_fds=True, preexec_fn=hook).pid
    return str(pid)


def _live(done: int) -> None:
    """What a forked child does: never returns."""
    try:
        _close_sockets()
        from exemplars import render
        from tests.faults.app import handled

        for _ in range(OBSERVATIONS):
            handled.labels("child").inc(exemplar={})
        render(REGISTRY)
        os.close(done)
        time.sleep(LIFE)
    finally:
        os._exit(0)


def _close_sockets() -> None:
    """Leave the server's sockets to the server: a client waits for the end of its connection."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.close(int(name))
        except OSError:
            pass  # the descriptor of the listing itself

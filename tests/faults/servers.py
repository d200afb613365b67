"""Real servers with several workers, each in a process group of its own, of which nothing remains."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.programs import PACKAGES, PATIENCE, eventually

WORKERS: Final = 4
# No connection is kept, so that the kernel gives each request, and each scrape, to any worker that is ready for one.
_GUNICORN: Final = ("gunicorn", "--bind=127.0.0.1:0", "--keep-alive=0")
COMMANDS: Final = {
    "gunicorn sync": (*_GUNICORN, "tests.faults.app:wsgi"),
    "gunicorn gthread": (*_GUNICORN, "--worker-class=gthread", "--threads=4", "tests.faults.app:wsgi"),
    "gunicorn --preload": (*_GUNICORN, "--preload", "tests.faults.app:wsgi"),
    "uvicorn": ("uvicorn", "--port=0", "--lifespan=off", "--no-access-log", "tests.faults.app:asgi"),
}


class Server:
    """A running server. *master* is the pid of the process that starts the workers."""

    def __init__(self, host: str, port: int, master: int, log: Path) -> None:
        self.host = host
        self.port = port
        self.master = master
        self._log = log

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def log(self) -> str:
        """All that it and its workers have logged."""
        return self._log.read_text(errors="replace")

    def children(self) -> set[int]:
        """The pids of the living children of the master: its workers, and a helper of multiprocessing's."""
        return children_of(self.master)

    def shared_files(self) -> list[Path]:
        """The workers' files, as far as they are, in the directory that living workers have files open in."""
        for pid in self.children():
            for file in files_of(pid):
                return sorted(file.parent.glob("worker-*"))
        return []


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def children_of(pid: int) -> set[int]:
    """The living children of the process, whichever of its threads has started them."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found.update(map(int, (thread / "children").read_text().split()))
    return {child for child in found if is_alive(child)}


def files_of(pid: int) -> set[Path]:
    """The workers' files that the process has open for writing."""
    found = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = Path(os.readlink(link))
                if re.fullmatch(r"worker-\d+", target.name):
                    flags = re.search(r"^flags:\s+(\d+)", Path(f"/proc/{pid}/fdinfo/{link.name}").read_text(), re.M)
                    if flags is not None and int(flags[1], 8) & os.O_RDWR:
                        found.add(target)
    return found


def resident(pid: int) -> int:
    """Bytes of memory that the process has and no file backs; 0 if it is gone.

    Those that it shares with its children since a fork as well: how many they are depends on how many live just then.
    """
    try:
        found = re.search(r"^Anonymous: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return 1024 * int(found[1]) if found is not None else 0


@contextlib.contextmanager
def running(
    command: Sequence[str],
    directory: Path,
    *options: str,
    workers: int = WORKERS,
    environment: Mapping[str, str],
) -> Iterator[Server]:
    """The server of *command* with further *options* and *environment*; its home and its log are in *directory*.

    Ended on leaving, with all that it started: politely, and after that its whole process group for certain.
    """
    log = directory / "server.log"
    with log.open("a") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", command[0], f"--workers={workers}", *options, *command[1:]],
            env={"PYTHONPATH": os.pathsep.join(PACKAGES), "HOME": str(directory), **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            start_new_session=True,
        )

    def address() -> tuple[str, int] | None:
        assert process.poll() is None, log.read_text()
        found = re.search(r"http://(127\.0\.0\.1):([1-9]\d*)", log.read_text())
        if found is None:
            return None
        here = found[1], int(found[2])
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(here, PATIENCE):
            return here
        return None  # uvicorn binds before a worker listens

    try:
        yield Server(*eventually(address, f"{command[0]} to listen", log.read_text), process.pid, log)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End *process*, which leads a process group, and whatever else is in the group."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        pass
    # The leader has been waited for at most now, after this: as long as it is not, no other group can have its number.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)

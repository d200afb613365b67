"""A real program that a test starts, stops and starts again: on ports of 127.0.0.1, ended by its own pid."""

import contextlib
import http.client
import os
import random
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from tests.programs import PATIENCE, eventually

HOST: Final = "127.0.0.1"
SHOWN: Final = 60  # lines of a log
SOON: Final = 3.0  # seconds for one answer about being ready; there will be more questions
ATTEMPTS: Final = 5  # at ports that nobody else takes in the same moment
TAKEN: Final = re.compile("address already in use", re.IGNORECASE)
# Who does not listen yet, and who is not ready.
ABSENT: Final = (URLError, http.client.HTTPException, OSError)


class Program:
    """A program that runs, or was stopped by its test and can be started again on the same ports.

    *command* and *environment* are asked for with ports of 127.0.0.1, one for each of *names*. Log and data are in a
    directory of its own, so two of one kind need two directories.
    """

    names: Sequence[str] = ()

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory / name
        self.directory.mkdir(parents=True)
        self.log = self.directory / f"{name}.log"
        self.ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._since = 0  # of its log, where the last start was

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether it does its work; exceptions in `ABSENT` are a no. Asks with a timeout of `SOON`."""
        raise NotImplementedError

    def address(self, name: str) -> str:
        return f"{HOST}:{self.ports[name]}"

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it is ready; the first time on free ports, afterwards on the same."""
        for _ in range(1 if self.ports else ATTEMPTS):
            with contextlib.ExitStack() as held:
                self.ports = self.ports or {name: free_port(held) for name in self.names}
            self._since = self.log.stat().st_size if self.log.exists() else 0
            with self.log.open("ab") as output:
                self._process = subprocess.Popen(
                    self.command(),
                    env={"PATH": os.environ["PATH"], "HOME": str(self.directory), **self.environment()},
                    cwd=self.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            if eventually(self._ready_or_ended, f"{self.name} to be ready", self.tail) == "ready":
                return
            self._process = None
            if not TAKEN.search(self.said()):
                break
            self.ports = {}
        pytest.fail(f"{self.name} ended by itself:\n{self.tail()}")

    def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait until it has."""
        assert self._process is not None, f"{self.name} does not run"
        process, self._process = self._process, None
        process.send_signal(by)
        try:
            eventually(lambda: process.poll() is not None or self.done(), f"{self.name} to end", self.tail)
        finally:
            process.kill()
            process.wait()

    def done(self) -> bool:
        """Whether it has nothing more to do, though it goes on."""
        return False

    def said(self) -> str:
        """What it has logged since it was started."""
        return self.log.read_bytes()[self._since :].decode(errors="replace")

    def tail(self) -> str:
        """The last of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-SHOWN:])

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._process is not None:
                self.stop()
        finally:
            print(f"--- {self.name}\n{self.tail()}")  # pytest shows it where a test fails

    def _ready_or_ended(self) -> str | None:
        assert self._process is not None
        if self._process.poll() is not None:
            return "ended"
        with contextlib.suppress(*ABSENT):
            if self.ready() and self._process.poll() is None:  # not somebody else at its port
                return "ready"
        return None


P = TypeVar("P", bound=Program)


@contextlib.contextmanager
def started(program: P) -> Iterator[P]:
    """*program*, running, for as long as the block."""
    with program:
        program.start()
        yield program


def free_port(held: contextlib.ExitStack) -> int:
    """A port that is free, and held until *held* is closed.

    Below those that the kernel gives to outgoing connections: there it is still free when a program starts again.
    """
    first, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    while True:
        taken = held.enter_context(socket.socket())
        with contextlib.suppress(OSError):
            taken.bind((HOST, random.randrange(10_000, first)))
            port: int = taken.getsockname()[1]
            return port


def text(url: str, accept: str = "*/*", timeout: float = PATIENCE) -> str:
    """The body of an answer; what is no success is raised."""
    with urlopen(Request(url, headers={"Accept": accept}), timeout=timeout) as response:
        body: bytes = response.read()
        return body.decode()

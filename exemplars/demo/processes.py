"""The servers of the shop: started, watched, ended by their own process id."""

import asyncio
import os
import re
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

_ADDRESS: Final = re.compile(r"http://127\.0\.0\.1:\d+")  # uvicorn and gunicorn both log where they listen
_TO_START: Final = 60.0  # seconds
_TO_END: Final = 6.0


class ServerEnded(Exception):
    """A server of the shop ended, or never came up; the message has the last that it logged."""


class Server:
    """A process that serves at *url*, known once it listens."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self._log: deque[str] = deque(maxlen=30)
        self._address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read())

    @property
    def url(self) -> str:
        return self._address.result()

    async def listens(self) -> None:
        """Wait until it does. Raises `ServerEnded` when it ends before, or takes too long."""
        either: set[asyncio.Future[Any]] = {self._address, self._reading}
        await asyncio.wait(either, timeout=_TO_START, return_when=asyncio.FIRST_COMPLETED)
        if not self._address.done():
            raise self._ended("does not listen")

    async def ended(self) -> None:
        """Wait until it ends by itself. Raises `ServerEnded` then."""
        await asyncio.shield(self._reading)
        raise self._ended(f"ended with status {await self._process.wait()}")

    async def end(self) -> None:
        """Ask it to end, and make it if it does not."""
        if self._process.returncode is None:
            self._process.terminate()
            await asyncio.wait([self._reading], timeout=_TO_END)
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._reading.cancel()

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._log.append(text)
            if not self._address.done() and (found := _ADDRESS.search(text)):
                self._address.set_result(found[0])
        await self._process.wait()

    def _ended(self, how: str) -> ServerEnded:
        return ServerEnded("\n".join((f"{self.name} {how}; its last words:", *self._log)))


@asynccontextmanager
async def serving(name: str, *arguments: str, environment: Mapping[str, str]) -> AsyncIterator[Server]:
    """A server, ``python -m`` with *arguments*, that lives as long as the block; *environment* is added to ours.

    In a process group of its own: a terminal sends Ctrl-C to the whole group, but a server is to outlive its clients.
    Raises `ServerEnded` if it does not come to listen.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *arguments,
        env={**_inherited(), "OTEL_SERVICE_NAME": name, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
        process_group=0,
    )
    server = Server(name, process)
    try:
        await server.listens()
        yield server
    finally:
        await server.end()


def _inherited() -> dict[str, str]:
    """Our environment, without what configures other people's servers, and without a proxy to ourselves."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GUNICORN_", "UVICORN_"))}
    direct = ",".join(filter(None, ("127.0.0.1", kept.get("NO_PROXY") or kept.get("no_proxy"))))
    return {**kept, "NO_PROXY": direct, "no_proxy": direct}

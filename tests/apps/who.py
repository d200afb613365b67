"""An application for any server that tells, in JSON, which group its process belongs to, and processes it starts."""

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from exemplars._types import Receive, Scope, Send
from exemplars.store import group


def here() -> dict[str, object]:
    """The group of this process, a list, or why it has none, a text; its pids; whether it is the master."""
    start = time.perf_counter()
    found = group.find()
    seconds = time.perf_counter() - start
    return {
        "group": list(found) if isinstance(found, group.Group) else found,
        "is_master": group.is_master(),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "seconds": seconds,
    }


def in_thread() -> object:
    """As a pool of threads sees it, which is not the thread the server started."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(here).result()


def forked(adopted: bool = False) -> object:
    """A child made by `os.fork`; *adopted* by the master, as one left behind is where the master has pid 1."""
    master = os.getppid()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if adopted:
                os.getppid = lambda: master
            os.write(writer, json.dumps(here()).encode())
        finally:
            os._exit(0)
    told = json.loads(os.read(reader, 4096))  # not up to its end: gevent delays what closes a file
    os.close(reader)
    os.close(writer)
    _reap(pid)
    return told


def _reap(pid: int) -> None:
    """Wait for a child that is about to end. Not by `os.waitpid`: gevent's may miss it, and waits for ever."""
    with contextlib.suppress(ChildProcessError):  # gevent was quicker
        os.waitid(os.P_PID, pid, os.WEXITED)


def started(method: str) -> object:
    """A child made by `multiprocessing`."""
    context: Any = multiprocessing.get_context(method)
    # Who is a daemon may have no children, says `multiprocessing`, and some servers make their workers daemons.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(writer,))
    process.start()
    told: object = reader.recv()
    _reap(process.pid)
    return told


def _tell(writer: Any) -> None:
    writer.send(here())


def in_pool() -> object:
    """A child of a pool of processes."""
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(here).result()


AT_IMPORT: Final = here()
after_c_fork: list[int] = []  # pids at which the hook ran
group.at_unhooked_fork(lambda: after_c_fork.append(os.getpid()))

QUESTIONS: Final[dict[str, Callable[[], object]]] = {
    "/": here,
    "/import": lambda: AT_IMPORT,
    "/thread": in_thread,
    "/fork": forked,
    "/adopted": lambda: forked(adopted=True),
    "/process": lambda: started("fork"),
    "/spawned": lambda: started("spawn"),
    "/pool": in_pool,
    "/hooked": lambda: {"pid": os.getpid(), "hooked": after_c_fork},
}


def answer(path: str) -> bytes:
    time.sleep(0.01)  # what is asked meanwhile is for another worker
    return json.dumps(QUESTIONS[path]()).encode()


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    body = answer(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})


def wsgi(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    body = answer(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

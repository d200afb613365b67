"""Which processes are workers of one application: those that one master of a known server started to serve it.

Nothing is guessed from the parent process alone. The server's own record, kept in private attributes, has to name this
very process, or the way it was started, and the master has to be its parent still. Whatever is not as expected makes
the process belong to no group: that costs a view of all workers, where a wrong guess would add up two applications.
"""

import functools
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple


class Group(NamedTuple):
    """The workers of one application under one master. *master*, a pid, means nothing once that process has ended."""

    server: str  # for the log: "gunicorn", "uvicorn", "hypercorn", "granian", "uwsgi" or "mod_wsgi"
    master: int  # pid of the process whose workers they are
    application: str  # tells several applications under one master apart; "" where there can be one only


_MASTER: Final = "this is the server's master, whose workers serve the requests"
_ORPHAN: Final = "its server's master has ended"
_CHILD: Final = "this is no worker but a process started by one, or by the server for something else"
# Reasons of processes that a known server started, or was.
OF_A_SERVER: Final = frozenset((_MASTER, _ORPHAN, _CHILD))

# gunicorn's workers handle the first ones by methods, most classes of worker at least one of them; SIGTTIN remains as
# the master handles it, in its children too.
_SIGNALS: Final = ("SIGTERM", "SIGABRT", "SIGUSR1", "SIGQUIT", "SIGINT", "SIGWINCH", "SIGTTIN")

# In a process forked by Python since this module was imported: what `multiprocessing` held for the current process at
# that moment, which is its parent's. Servers that fork in C don't come here.
_forked_from: object = None


def find() -> Group | str:
    """The group of this process; a text that says why it belongs to none, in one clause for the log.

    It is what holds now: a worker that outlives its master has no group any more, so remember what was found. Never
    raises; takes no lock; any thread may call it. Imports no server: one that serves this process is imported already.
    """
    try:
        for look in (_gunicorn, _uwsgi, _mod_wsgi, _multiprocessing):
            if (found := look()) is not None:
                return found
    except Exception as error:  # the servers' private attributes are theirs to change
        return f"its server could not be asked: {error!r}"
    if "WERKZEUG_RUN_MAIN" in os.environ or "RUN_MAIN" in os.environ:
        return "a development server that reloads has one worker only"
    return "it runs alone, not under the master of a server known to have workers"


def is_master() -> bool:
    """Whether this process is the master of a group: gunicorn with --preload, uWSGI without lazy-apps, before the fork.

    Masters that only start programs of their own (uvicorn, hypercorn) or never load the application don't matter here,
    and are not recognised. Never raises.
    """
    return find() == _MASTER


def at_unhooked_fork(callback: Callable[[], None]) -> None:
    """Have *callback* called in every process forked where Python's at-fork hooks don't run: uWSGI's, nobody else's.

    It is called before an earlier ``uwsgi.post_fork_hook``, which is kept. Who assigns that attribute later (importing
    `uwsgidecorators` does) replaces both. Never raises.
    """
    try:
        uwsgi: Any = sys.modules.get("uwsgi")
        if uwsgi is None or not _in_main_interpreter():
            return
        earlier: Callable[[], object] | None = getattr(uwsgi, "post_fork_hook", None)

        def hook() -> None:
            try:
                callback()
            finally:
                if earlier is not None:
                    earlier()

        uwsgi.post_fork_hook = hook
    except Exception:  # without the hook a process stays what it was, private
        pass


def _gunicorn() -> Group | str | None:
    """By the worker object, which knows its pid and that of the arbiter that made it."""
    if (arbiters := sys.modules.get("gunicorn.arbiter")) is None:
        return None
    arbiter_class: Any = arbiters.Arbiter
    worker_class: Any = getattr(sys.modules.get("gunicorn.workers.base"), "Worker", ())
    objects = list(_handlers_and_callers())
    for worker in objects:
        if isinstance(worker, worker_class) and worker.pid == os.getpid():
            return Group("gunicorn", worker.ppid, "") if worker.ppid == os.getppid() else _ORPHAN
    for arbiter in objects:
        if isinstance(arbiter, arbiter_class) and getattr(arbiter, "pid", None) in (None, os.getpid()):
            return _MASTER  # it has no pid yet while it preloads
    return _CHILD if any(isinstance(each, (arbiter_class, worker_class)) for each in objects) else None


def _handlers_and_callers() -> Iterator[Any]:
    """Objects whose methods handle signals, and the arbiter, with its worker, in whose methods the main thread is.

    Either may miss the worker: one of asyncio handles signals in its loop, and a greenlet's frames end with itself.
    """
    for name in _SIGNALS:
        yield getattr(signal.getsignal(getattr(signal, name)), "__self__", None)
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_globals.get("__name__") == "gunicorn.arbiter":
            yield frame.f_locals.get("self")
            yield frame.f_locals.get("worker")  # in the method that forked it
        frame = frame.f_back


def _uwsgi() -> Group | str | None:
    """By uWSGI's table of workers, which all of them see. Without a master, the first worker has forked the others."""
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None:
        return None
    if not _in_main_interpreter():
        return "uWSGI runs it in a sub-interpreter beside other applications"
    number, master, alone = uwsgi.worker_id(), uwsgi.masterpid(), uwsgi.numproc == 1
    if master == 0 and alone:
        return "uWSGI without a master has one worker only"
    if number == 0:
        before_fork = master in (0, os.getpid()) and uwsgi.mule_id() == 0 and _forked_from is None
        return _MASTER if before_fork else _CHILD
    pids = [worker["pid"] for worker in uwsgi.workers()]
    if pids[number - 1] != os.getpid():
        return _CHILD
    if master == 0 and number == 1:
        return Group("uwsgi", os.getpid(), "")
    launcher = master or pids[0]
    return Group("uwsgi", launcher, "") if launcher == os.getppid() else _ORPHAN


def _mod_wsgi() -> Group | str | None:
    """By the names that mod_wsgi gives a daemon's processes and the interpreters in them.

    It keeps no record of its parent. Apache forks its daemons without executing another program, so the parent is
    still Apache if it runs under the name that this process has.
    """
    mod_wsgi: Any = sys.modules.get("mod_wsgi")
    process_group: str | None = getattr(mod_wsgi, "process_group", None)
    if process_group is None:
        return None  # a package of that name, outside Apache
    if process_group == "":
        return "mod_wsgi is in embedded mode, not in daemon mode"
    if _forked_from is not None:
        return _CHILD
    parent = os.getppid()
    if _program(parent) != _program(os.getpid()):
        return _ORPHAN
    return Group("mod_wsgi", parent, f"{process_group!r} {mod_wsgi.application_group!r}")


def _program(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text()


def _multiprocessing() -> Group | str | None:
    """By the function that `multiprocessing` was told to run, if that is a known server's, and its arguments."""
    processes = sys.modules.get("multiprocessing.process")
    parent = processes and processes.parent_process()
    if processes is None or parent is None:
        return None
    process = processes.current_process()
    module = getattr(process._target, "__module__", None) or ""
    application: str | None
    if module == "uvicorn._subprocess":
        config = process._kwargs["config"]
        if config.reload or config.workers == 1:
            return "uvicorn has one worker only"
        server, application = "uvicorn", _uvicorn_application(config)
    elif module in ("hypercorn.asyncio.run", "hypercorn.trio.run"):
        config = process._kwargs["config"]
        server, application = "hypercorn", f"{config.application_path} {config.bind}"
    elif module.startswith("granian.server"):
        server, application = "granian", _granian_application(process._args)
    else:
        return "it was started by multiprocessing, not by a server known to have workers"
    if application is None:
        return f"{server} serves an application that it knows no name of"
    if process is _forked_from:
        return _CHILD
    return Group(server, parent.pid, application) if parent.pid == os.getppid() else _ORPHAN


def _uvicorn_application(config: Any) -> str | None:
    """Its import string and address; None if it was given as an object, which uvicorn itself refuses."""
    if not isinstance(config.app, str):
        return None
    return f"{config.app} {config.uds or config.fd or f'{config.host}:{config.port}'}"


def _granian_application(arguments: tuple[Any, ...]) -> str | None:
    """What its loader is told to load; None if that is somebody else's kind of loader."""
    for loader in arguments:
        if isinstance(loader, functools.partial) and loader.args and isinstance(loader.args[0], str):
            return loader.args[0]
    return None


def _in_main_interpreter() -> bool:
    interpreters = importlib.import_module("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    return bool(interpreters.get_current() == interpreters.get_main())


def _note_fork() -> None:
    global _forked_from
    processes = sys.modules.get("multiprocessing.process")
    _forked_from = processes.current_process() if processes is not None else sys


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)

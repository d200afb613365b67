"""A port that the workers of a group serve together, each with a listening socket of its own.

The kernel lets every program of one user join in a port that is bound with ``SO_REUSEPORT``, and deals the connections
out among them. So that only siblings meet there, each of them holds a shared lock on a file in the group's directory.
Who finds it free binds the port for itself alone, which fails where anybody else has it, and only then opens it to
others; who finds it held joins.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from exemplars._lock import lock
from exemplars.store import directory as directories
from exemplars.store import ofd
from exemplars.store.directory import Directory
from exemplars.store.group import Group

_here: Final[set[str]] = set()  # the files that this process holds


class Share:
    """The share of this process in *port* on *host*, an address, among the workers of *group*. Safe under threads."""

    def __init__(self, group: Group, host: str, port: int) -> None:
        self._group = group
        self._name: Final = directories.port_file(host, port)
        self._held: tuple[Directory, int] | None = None

    @contextmanager
    def joined(self, patience: float = 0.5) -> Iterator[bool]:
        """Keep siblings from joining meanwhile; tell whether any serves the port already.

        On leaving without an error this process does as well. A second server in the same process is no sibling. Raises
        ``OSError`` at the entry where the group has no directory, or another keeps it locked for *patience* seconds.
        """
        with lock, ExitStack() as undo:
            directory = directories.of_group(self._group, directories.named())
            undo.callback(directory.close)
            with directory.locked(patience):
                fd = directory.open(self._name, os.O_RDWR | os.O_CREAT)
                undo.callback(os.close, fd)
                yield self._name not in _here and ofd.held(fd)
                ofd.share(fd)
            undo.pop_all()
            self._held = directory, fd
            _here.add(self._name)

    def look_after(self) -> None:
        """Hold another file if this one was removed, for who comes later could not know of us. Never raises."""
        former = self._held
        with suppress(OSError, ValueError):
            if former is None or not self._is_lost(*former):
                return
            with lock:
                if self._held is not former:
                    return
                with self.joined(patience=0.0):
                    pass
                self._close(*former)

    def close(self) -> None:
        """Give the share up, in this process: a forked one's is its parent's. Never raises."""
        with lock:
            if self._held is not None:
                self._close(*self._held)
                self._held = None
                _here.discard(self._name)

    @staticmethod
    def _is_lost(directory: Directory, fd: int) -> bool:
        return directory.lost() or not os.fstat(fd).st_nlink

    @staticmethod
    def _close(directory: Directory, fd: int) -> None:
        directory.close()
        with suppress(OSError):
            os.close(fd)

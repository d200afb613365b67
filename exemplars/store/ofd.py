"""Locks of open file descriptions: who owns a file, told by the kernel, for as long as the owner lives.

Such a lock ends with the last descriptor of its description, so also by ``kill -9``; another open of the same file does
not disturb it, and it can be asked for without being taken. A child that a fork makes shares the description: it closes
the descriptor, for unlocking would take the lock from its parent. A mapping made of the locked descriptor would keep
the lock as well: never map that one. See "Open file description locks" in fcntl_locking(2).
"""

import errno
import struct
import sys
from typing import Final

# `struct flock` is packed by hand, in the shape it has where a file offset is the machine's own word.
SUPPORTED: Final = sys.platform == "linux" and sys.maxsize > 2**32

if SUPPORTED:
    import fcntl

    def _whole_file(kind: int) -> bytes:
        return struct.pack("hh4xqqi4x", kind, 0, 0, 0, 0)  # the process must be given as 0

    _WRITE: Final = _whole_file(fcntl.F_WRLCK)
    _READ: Final = _whole_file(fcntl.F_RDLCK)
    _NONE: Final = _whole_file(fcntl.F_UNLCK)


def take(fd: int) -> bool:
    """Lock the whole file for the description of *fd*, without waiting; whether it is locked now.

    *fd* is open for writing (else ``OSError``). Taking what the same description holds already changes nothing. Raises
    ``OSError`` also where the file system keeps no locks.
    """
    return _set(fd, _WRITE)


def share(fd: int) -> bool:
    """Lock the whole file as `take` does, but beside others who share it; whether it is locked now.

    *fd* is open for reading (else ``OSError``). Gives up what the same description has taken for itself alone.
    """
    return _set(fd, _READ)


def _set(fd: int, kind: bytes) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, kind)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def held(fd: int) -> bool:
    """Whether another description than that of *fd* holds a lock on the file, shared or not; takes nothing.

    *fd* may be open for reading only.
    """
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WRITE)
    return bool(struct.unpack_from("h", answer)[0] != fcntl.F_UNLCK)


def release(fd: int) -> None:
    """Give up the lock of the description of *fd*, if it has one, for every process that shares the description."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _NONE)

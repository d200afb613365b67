"""The directory in which the files of one group of workers lie: which one it is, safely opened and cleaned up.

A directory's name says whose it is: the user, this boot of the machine, the namespace of process ids, the master and
the moment of its start, the application. So all workers of a group find the same one without having spoken to each
other, a new master begins anew, and who comes later can tell whether the master is gone.

Where nobody names a directory, it lies in ``exemplars-<euid>``, which only its owner may enter, on storage that is
backed by memory if there is any. Whatever lies there and is not ours is refused: others may have put it there.

Never on a file system that copies on write (named by mistake, it is refused): there, writing to space that was set
aside may fail for want of space, which ends a process that has the file mapped.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Final

from exemplars.store import ofd

if TYPE_CHECKING:
    from exemplars.store.group import Group

OWN_VARIABLE: Final = "EXEMPLARS_DIR"
# Theirs, and the way they spelled it first, which they still read.
CLIENT_VARIABLES: Final = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")

# Where files may lie without having been asked for, the best with the lowest number. Others are left alone: networks,
# whose locks and mappings promise less, and what nobody has looked at.
_RANK: Final = {"tmpfs": 0, "ramfs": 0, "ext4": 1, "xfs": 1, "ext3": 1, "ext2": 1, "overlay": 1}
# Where writing to space that was set aside may fail, which ends a process that has it mapped.
_COPY_ON_WRITE: Final = frozenset(("btrfs", "zfs", "bcachefs", "nilfs2"))
_NETWORK: Final = frozenset(("nfs", "nfs4", "cifs", "smb3", "ceph", "9p"))

_ROOM: Final = 8 << 20  # bytes that must be free where a directory is made
_INODES: Final = 16
_FORGOTTEN: Final = 600.0  # seconds untouched after which a group that cannot be looked up counts as gone

# What may lie in a group's directory beside the workers' files.
_LOCK: Final = "lock"
INHERITED: Final = "inherited"  # made by the worker that goes on with the numbers from before the fork
_WORKER: Final = re.compile(r"worker-([1-9][0-9]*)")
_PORT: Final = re.compile(r"port-[1-9][0-9]*-[0-9A-Fa-f.:]+")  # whose lock those share who serve it
_GROUP: Final = re.compile(
    r"group-(?P<euid>[0-9]+)-(?P<boot>[0-9a-f]+)-(?P<namespace>[0-9]+)"
    r"-(?P<master>[1-9][0-9]*)-(?P<start>[0-9]+)-[0-9a-f]+"
)

# Flags that not every system has, of which the whole part of the package that shares files needs all.
_DIRECTORY: Final = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_PASS: Final = _DIRECTORY | getattr(os, "O_PATH", 0)  # one that is only on the way need not be readable
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
# Without blocking: a named pipe in the place of a file would keep its opener waiting.
_AS_IT_IS: Final = _NOFOLLOW | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class Directory:
    """One group's directory, open: *path* for people, *fd* for everything else.

    It may be removed or replaced while it is open; `lost` tells. All methods may be called by several threads at once.
    """

    __slots__ = ("_identity", "fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path: Final = path
        self.fd: Final = fd
        self._identity = _identity(os.fstat(fd))

    def files(self) -> list[str]:
        """The names of the workers' files, in the order of their numbers. Raises ``OSError``."""
        return sorted((name for name in _names(self.fd) if _WORKER.fullmatch(name)), key=lambda name: int(name[7:]))

    def open(self, name: str, flags: int) -> int:
        """A descriptor of the file *name*, opened with *flags* (``os.O_…``), readable by its owner only if created.

        Raises ``FileNotFoundError`` if it is not there (any more), another ``OSError`` unless it is a regular file
        that belongs to this process's user under no other name.
        """
        try:
            fd = os.open(name, flags | _AS_IT_IS, 0o600, dir_fd=self.fd)
        except OSError as error:
            error.filename = f"{self.path}/{name}"
            raise
        try:
            status = os.fstat(fd)
            if not status.st_nlink:
                raise FileNotFoundError(f"{self.path}/{name} was removed")
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
                raise PermissionError(f"{self.path}/{name} is not a file of this user's alone")
        except BaseException:
            os.close(fd)
            raise
        return fd

    @contextmanager
    def locked(self, patience: float = 0.5) -> Iterator[None]:
        """Keep every other attaching and cleaning-up out of this directory, in whichever process or thread.

        Raises ``TimeoutError`` when another holds the lock for *patience* seconds (a process may be stopped while it
        does), ``FileNotFoundError`` when the directory is not there any more, another ``OSError`` when the lock cannot
        be had at all.
        """
        fd = self._lock(patience)
        try:
            os.utime(fd)  # when somebody last came, for those who cannot look up this group's master
            yield
        finally:
            ofd.release(fd)  # not only closed: a process forked meanwhile, unknown to us, may share the descriptor
            os.close(fd)

    def _lock(self, patience: float) -> int:
        for pause in _pauses(patience):
            if pause:
                # Our caller may hold the process's own lock, under which greenlets must not be switched: `sleep`, and
                # everything else that gevent replaces, would. This waits for no signal, so for the time only; the
                # sum of the pauses is the clock, as others replace that too.
                signal.sigtimedwait([], pause)
            fd = self.try_lock()
            if fd is not None:
                return fd
        raise TimeoutError(f"{self.path}/{_LOCK} was held by another for {patience} s")

    def try_lock(self) -> int | None:
        """The descriptor of the directory's lock, taken; ``None`` if another has it. Raises as `locked` does."""
        fd = self.open(_LOCK, os.O_RDWR | os.O_CREAT)
        try:
            if ofd.take(fd):
                if self.lost():
                    raise FileNotFoundError(f"{self.path} was removed")
                # The lock of a file that was removed between our opening and our locking it excludes nobody.
                if _leads_to(_LOCK, fd, dir_fd=self.fd):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def lost(self) -> bool:
        """Whether it was removed or replaced since it was opened, or *fd* closed behind our back. Never raises.

        Not where that cannot be told just now, as when its parent was closed to us: others may still be in it.
        """
        try:
            status = os.fstat(self.fd)
        except OSError:
            return True
        try:
            now = os.stat(self.path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return not status.st_nlink
        return not status.st_nlink or not _identity(status) == _identity(now) == self._identity

    def close(self) -> None:
        """Close *fd*, unless somebody else has, and given its number away. Never raises."""
        with suppress(OSError):
            if _identity(os.fstat(self.fd)) == self._identity:
                os.close(self.fd)


def named(environ: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """The variable that names a directory for shared files, and that directory's absolute path.

    ``EXEMPLARS_DIR`` (made, if only its last component is missing) goes before ``PROMETHEUS_MULTIPROC_DIR``; an empty
    one counts as not set. ``None`` if neither is set. Raises ``ValueError`` if what is named cannot be used, and
    ``OSError`` if that cannot be told just now, for want of descriptors or memory.
    """
    for variable in (OWN_VARIABLE, *CLIENT_VARIABLES):
        value = environ.get(variable)
        if value:
            break
    else:
        return None
    way_out = f"name a directory on tmpfs, ext4 or xfs that this process may write to in {OWN_VARIABLE}"
    try:
        path = _absolute(value)
        _make(variable, path)
        os.close(os.open(path, _PASS))
        kind = _kind(path)
    except (OSError, ValueError) as error:
        _unless_undecided(error)
        raise ValueError(f"{variable} is {value!r}, no directory to use ({_reason(error)}): {way_out}") from None
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise ValueError(f"{variable} is {value!r}, where this process may not write: {way_out}")
    if kind in _NETWORK or kind.startswith("fuse."):
        raise ValueError(f"{variable} is {value!r} on {kind}, which may be lost with a network or a process: {way_out}")
    if kind in _COPY_ON_WRITE:
        raise ValueError(f"{variable} is {value!r} on {kind}, which copies on write: {way_out}")
    return variable, path


@cache
def _absolute(path: str) -> str:
    """*path* as seen from where the process first was: it may go elsewhere, as those that become daemons do."""
    return os.path.abspath(path)


def of_group(group: Group | None, named: tuple[str, str] | None, patience: float = 0.5) -> Directory:
    """The directory of *group*, made where it is not: in the one that is *named*, else in a place of our own.

    Without a group, all who name the same directory (and are the same user, in the same boot) are one. *patience* is
    how long, in seconds, others who are making directories are waited for. Raises
    ``OSError``, whose text is the reason, when there is none to be had.
    """
    if not ofd.SUPPORTED:
        raise OSError("workers share files on 64-bit Linux only")
    name = _name(group)
    if named is None:
        if group is None:
            raise OSError("neither a group of workers nor a directory is named")
        return _in_a_place_of_ours(name, patience)
    variable, path = named
    try:
        _make(variable, path)
        return _open(path, name, make=True)
    except OSError as error:
        _unless_undecided(error)
        raise OSError(f"{variable} names {path}: {_reason(error)}") from error


def port_file(host: str, port: int) -> str:
    """The name of the file in a group's directory that stands for *port* on *host*, an address."""
    return f"port-{port}-{host.partition('%')[0]}"


def remove_abandoned(directory: Directory) -> int:
    """Remove the directories beside *directory* that no group uses any more; how many. Never raises.

    Abandoned is one whose files nobody owns and whose master is gone: it was of another boot, is not there or started
    at another time. A master in another namespace cannot be seen: there, nobody may have come for ten minutes.
    Only what is named as ours is looked at, and one that holds anything else is left. Nothing is removed from a file
    system that other machines may use as well, for their masters cannot be seen either, nor by those without a master.
    """
    removed = 0
    path, own = os.path.split(directory.path)
    with suppress(OSError):
        if not _GROUP.fullmatch(own) or directory.lost() or _kind(directory.path) not in _RANK:
            return 0
        parent = os.open("..", _DIRECTORY | os.O_RDONLY, dir_fd=directory.fd)
        try:
            for name in _names(parent):
                with suppress(OSError):
                    removed += name != own and _remove(parent, path, name)
        finally:
            os.close(parent)
    return removed


# Which directory it is.


def _name(group: Group | None) -> str:
    euid, boot = os.geteuid(), _boot()
    if group is None:
        return f"shared-{euid}-{boot}"
    application = hashlib.sha256(group.application.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    try:
        started = _started(group.master)
    except OSError as error:
        _unless_undecided(error)
        raise OSError(f"the start time of the master, process {group.master}, is unknown: {_reason(error)}") from error
    return f"group-{euid}-{boot}-{_namespace()}-{group.master}-{started}-{application}"


def _boot() -> str:
    """What tells this boot of the machine from others."""
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip().replace("-", "")[:12]


def _namespace() -> int:
    """What tells this namespace of process ids from others that exist."""
    return os.stat("/proc/self/ns/pid").st_ino


def _started(pid: int) -> int:
    """When process *pid* started, in clock ticks since the boot; ``OSError`` if that cannot be told."""
    if os.readlink("/proc/self") != str(os.getpid()):
        raise OSError("/proc is that of another namespace of process ids")
    with open(f"/proc/{pid}/stat", "rb") as file:
        # Field 22 of proc_pid_stat(5). The second is the program's name in parentheses, which may hold anything.
        return int(file.read().rpartition(b")")[2].split()[19])


# Where it lies.


def _places(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The directories in which ours may lie, best first, with the file system of each.

    Not `tempfile.gettempdir`, which tries to write and goes on elsewhere if it cannot just then: every worker has to
    find the same ones.
    """
    places = ["/dev/shm", *(environ.get(name, "") for name in ("XDG_RUNTIME_DIR", "TMPDIR")), "/tmp", "/var/tmp"]
    kinds = {place: _kind(place) for place in places if os.path.isabs(place) and os.path.isdir(place)}
    return dict(sorted(kinds.items(), key=lambda item: _RANK.get(item[1], len(_RANK))))


def _in_a_place_of_ours(name: str, patience: float) -> Directory:
    places = _places()
    found = _existing(places, name)
    if found is not None:
        return found
    refused: dict[str, str] = {}
    with ExitStack() as gate:
        # Who may make it takes one lock first, that of the best place that can have one: two workers that found
        # different room would make two directories, and the group would fall apart.
        closed = False
        for place, kind in places.items():
            try:
                if kind not in _RANK:
                    raise OSError(f"{kind or 'unknown'} is not a file system for this")
                with closing(_parent(place, make=True)) as parent:
                    if not closed:
                        gate.enter_context(parent.locked(patience))
                        closed = True
                        found = _existing(places, name)
                        if found is not None:
                            return found
                    _check_room(parent.fd)
                    return _enter(parent.fd, parent.path, name, make=True)
            except OSError as error:
                _unless_undecided(error)
                refused[place] = _reason(error)
    raise OSError("no place for shared files: " + "; ".join(f"{place}: {why}" for place, why in refused.items()))


def _existing(places: Iterable[str], name: str) -> Directory | None:
    """The directory *name*, in whichever of *places* it is."""
    for place in places:
        try:
            with closing(_parent(place, make=False)) as parent:
                return _enter(parent.fd, parent.path, name, make=False)
        except OSError as error:
            _unless_undecided(error)
    return None


class _TakenAwayError(PermissionError):
    """A directory of ours, which others may be in, lets nobody write or search any more."""


def is_undecided(error: Exception) -> bool:
    """Whether *error* says nothing about a place, only that this process cannot join the others there just now."""
    for_now = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return isinstance(error, (TimeoutError, _TakenAwayError)) or (isinstance(error, OSError) and error.errno in for_now)


def _unless_undecided(error: Exception) -> None:
    """Raise *error* if it is one: to go on to the next place would part this process from the workers that can look."""
    if is_undecided(error):
        raise error


def _check_room(fd: int) -> None:
    """Raise ``OSError`` unless the file system of *fd* has room for a group's files."""
    room = os.statvfs(fd)
    # A total of 0 is that of a file system without a limit of its own.
    if room.f_blocks and room.f_bavail * room.f_frsize < _ROOM:
        raise OSError(f"only {room.f_bavail * room.f_frsize >> 10} KiB of the {_ROOM >> 10} needed are free")
    if room.f_files and room.f_favail < _INODES:
        raise OSError(f"only {room.f_favail} of the {_INODES} inodes needed are free")


def _kind(path: str) -> str:
    """The type of the file system that *path* is on, ``""`` where that cannot be told. Raises ``OSError``."""
    device = os.stat(path).st_dev
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            table = file.read()
    except FileNotFoundError:
        return ""
    return _filesystem(table, os.path.realpath(path), f"{os.major(device)}:{os.minor(device)}")


def _filesystem(table: bytes, path: str, device: str) -> str:
    """The type of the file system on which *path*, free of links, lies, according to *table*; ``""`` if it is silent.

    *table* is a mountinfo, see proc_pid_mountinfo(5); *device* is the path's, as ``major:minor``. A mount may be hidden
    by a later one, so that of the same device goes before all others (some file systems show another), then the
    longest mount point, then the last.
    """
    best, kind = (False, -1), b""
    for line in table.split(b"\n"):
        # id, parent, device, root, mount point, options, any number of optional fields, "-", type, …
        fields = line.split(b" ")
        try:
            rest = fields.index(b"-", 6)
            point, found = os.fsdecode(_unescaped(fields[4])), fields[rest + 1]
        except (IndexError, ValueError):
            continue
        if path == point or path.startswith(point.rstrip("/") + "/"):
            rank = fields[2] == device.encode(), len(point)
            if rank >= best:
                best, kind = rank, found
    return os.fsdecode(_unescaped(kind))


def _unescaped(field: bytes) -> bytes:
    return re.sub(rb"\\([0-3][0-7]{2})", lambda octal: bytes((int(octal[1], 8),)), field)


# Opening, safely.


def _parent(place: str, *, make: bool) -> Directory:
    return _open(place, f"exemplars-{os.geteuid()}", make=make)


def _make(variable: str, path: str) -> None:
    """Make the directory that *variable* names, if it is ours to make."""
    if variable == OWN_VARIABLE and not os.path.isdir(path):
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)


def _open(path: str, name: str, *, make: bool) -> Directory:
    base = os.open(path, _PASS)
    try:
        return _enter(base, path, name, make=make)
    finally:
        os.close(base)


def _enter(base: int, path: str, name: str, *, make: bool) -> Directory:
    """The directory *name* in *base*, whose path is *path*; ``OSError`` unless it is one of this user's alone."""
    for more in (True, True, True, False):
        if make:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=base)
        try:
            fd = os.open(name, os.O_RDONLY | _DIRECTORY | _NOFOLLOW, dir_fd=base)
            break
        except FileNotFoundError:
            if not (make and more):  # else it was removed in the same moment
                raise
    try:
        status = os.fstat(fd)
        whole = os.path.join(path, name)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PermissionError(f"{whole} is not a directory of this user's alone")
        if status.st_mode & 0o700 != 0o700:
            raise _TakenAwayError(f"{whole} has mode {status.st_mode & 0o777:03o}, where 700 is needed")
        return Directory(whole, fd)
    except BaseException:
        os.close(fd)
        raise


def _names(fd: int) -> list[str]:
    """What is in the directory *fd*, whose own position in the list of names is shared with threads and children."""
    own = os.open(".", os.O_RDONLY | _DIRECTORY, dir_fd=fd)
    try:
        return os.listdir(own)
    finally:
        os.close(own)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _leads_to(name: str, fd: int, *, dir_fd: int) -> bool:
    with suppress(FileNotFoundError):
        return _identity(os.stat(name, dir_fd=dir_fd, follow_symlinks=False)) == _identity(os.fstat(fd))
    return False


def _pauses(patience: float) -> Iterator[float]:
    """Seconds to wait before each try for a lock, *patience* in all; none before the first."""
    yield 0.0
    pause = 0.001
    while patience > 0:
        pause = min(pause, patience)
        yield pause
        patience -= pause
        pause = min(2 * pause, 0.02)


def _reason(error: OSError | ValueError) -> str:
    """What *error* says, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename else error.strerror
    return str(error)


# Cleaning up.


def _remove(parent: int, path: str, name: str) -> bool:
    """Remove the directory *name* in *parent*, whose path is *path*, if it is abandoned; whether it was."""
    group = _GROUP.fullmatch(name)
    if group is None or int(group["euid"]) != os.geteuid():
        return False
    with closing(_enter(parent, path, name, make=False)) as sibling:
        if not _is_gone(group, sibling):
            return False
        lock = sibling.try_lock()
        if lock is None:
            return False
        try:
            names = set(_names(sibling.fd)) - {_LOCK}
            if not all(map(_is_ours, names)) or any(_is_held(sibling, name) for name in names):
                return False
            # Its lock goes last. Who waits for that one finds it, or the directory, gone, and starts over; who has
            # made another meanwhile keeps the directory from being removed.
            for file in (*names, _LOCK):
                os.unlink(file, dir_fd=sibling.fd)
            os.rmdir(name, dir_fd=parent)
        finally:
            ofd.release(lock)
            os.close(lock)
    return True


def _is_gone(group: re.Match[str], directory: Directory) -> bool:
    """Whether the master is gone whom the name *group* of *directory* tells of. Raises ``OSError`` if unknown."""
    if group["boot"] != _boot():
        return True
    if int(group["namespace"]) != _namespace():
        inside = (os.stat(name, dir_fd=directory.fd, follow_symlinks=False) for name in _names(directory.fd))
        touched = max(status.st_mtime for status in (os.fstat(directory.fd), *inside))
        return time.time() - touched > _FORGOTTEN
    master = int(group["master"])
    try:
        return _started(master) != int(group["start"])
    except (FileNotFoundError, ProcessLookupError):
        pass
    try:
        os.kill(master, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False  # /proc may be mounted so that it hides the processes of others


def _is_ours(file: str) -> bool:
    return file == INHERITED or bool(_WORKER.fullmatch(file) or _PORT.fullmatch(file))


def _is_held(directory: Directory, file: str) -> bool:
    fd = directory.open(file, os.O_RDONLY)
    try:
        return ofd.held(fd)
    finally:
        os.close(fd)

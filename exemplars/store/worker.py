"""What this process shares: the numbers of its metrics go to a file of its group, if it belongs to one.

Decided at the first observation or scrape, never at import: before, a server may still fork. Until then every series
has a `Pending` record, and afterwards one in the file or in private memory.
"""

import contextlib
import logging
import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final, Protocol, TypeVar

from exemplars import faults, tallies
from exemplars._lock import held, lock
from exemplars.policy import Policy, Slot
from exemplars.store import directory as directories
from exemplars.store import group, layout, ofd
from exemplars.store.layout import Schema
from exemplars.store.memory import Record
from exemplars.store.reader import Merged, Reader
from exemplars.store.shared import FileRecord, OwnFile

_LOOK: Final = 5.0  # seconds
# Seconds between attempts to get what was refused (a directory, room, descriptors): at first, and after ever more.
_RETRY: Final = 1.0
_MOST: Final = 60.0
_PATIENCE: Final = 0.5  # seconds that the first attempt waits for others who attach; a stopped one may never end
_PROCESS: Final = "-"  # in the place of a registry: numbers of the whole process
monotonic = time.perf_counter


class Series(Protocol):
    """A series of this process: where its numbers are, and how its labels are written in a file."""

    record: Record

    @property
    def key(self) -> bytes: ...


class Subject(Protocol):
    """A metric whose series may be shared."""

    name: str
    policy: Policy
    schema: Schema | None  # None: not to be shared

    def every_child(self) -> Iterable[Series]: ...


class Pending(Record):
    """A record before it is decided where numbers go; its first change decides.

    *successor* is the record that has taken its place, for whoever still has this one. What a signal handler counts
    while it is being decided stays here until there is one.
    """

    __slots__ = ("successor",)

    def __init__(self, buckets: int) -> None:
        super().__init__(buckets)
        self.successor: Record | None = None

    def add(self, index: int, amount: float) -> Slot | None:
        record = self._settled()
        return super().add(index, amount) if record is self else record.add(index, amount)

    def set(self, value: float, at: float = 0.0) -> None:
        record = self._settled()
        if record is self:
            super().set(value, at)
        else:
            record.set(value, at)

    def put(self, index: int, slot: Slot, instead_of: Slot | None) -> bool:
        record = self._settled()
        return super().put(index, slot, instead_of) if record is self else record.put(index, slot, instead_of)

    def _settled(self) -> Record:
        """What has taken this one's place; this one itself meanwhile; a private one where nobody gave it a place."""
        if self.successor is None:
            attach()
        if self.successor is None and not _attaching:
            _hand_over(self, Record(len(self.counts)))
            _try_again()  # its series may just have been in the making
        return self.successor or self


RecordT = TypeVar("RecordT", bound=Record)


def _going_on(record: RecordT, last: Record) -> RecordT:
    """*record*, which is new, with the numbers of *last*."""
    record.counts, record.sum, record.set_at = last.counts, last.sum, last.set_at
    record.slots, record.floors, record.exemplar_changes = last.slots, last.floors, last.exemplar_changes
    return record


def _private(record: Record) -> Record:
    """A record in private memory that goes on with the numbers of *record*."""
    return _going_on(Record(len(record.counts)), record)


# Of this process, changed under its lock.
_subjects: "weakref.WeakSet[Subject]" = weakref.WeakSet()
_decided = False
_attaching = False
_inherited = False  # whether there are numbers from before a fork
_group: group.Group | None = None  # remembered: a worker that outlives its master is of the group still
_is_shared = False  # whether pages are the group's, or nothing where it cannot be read; else this process's own
_own: OwnFile | None = None
_reader: Reader | None = None  # without a file of one's own as well
_shown: Reader | None = None  # what pages show: the reader, once it has read everything
_retry_at = 0.0  # seconds, monotonic; 0: nothing was refused
_pause = _RETRY  # until the attempt after the next
look_at = 0.0  # when `look_after` is to be called
# Where the library's own numbers are in the file, and what an earlier owner left there.
_told: dict[tuple[tallies.Tally, str], tuple[FileRecord, float]] = {}
_reported: set[tuple[str, str]] = set()
_said_own_only = False
_said_private: set[str] = set()
_checked = False


def enrol(subject: Subject) -> None:
    """Have the series of *subject* shared, now or when that is decided."""
    with lock:
        _subjects.add(subject)


def check_configuration() -> None:
    """Raise ``ValueError``, at the first metric, where the environment names a directory that cannot be used."""
    global _checked
    # The master of workers may be another user than they are: what it may make or write to says nothing of them.
    if not _checked and ofd.SUPPORTED and not group.is_master():
        with contextlib.suppress(OSError):  # then the next metric's turn
            directories.named()
            _checked = True


def to_be_shared() -> bool:
    """Tell whether this process shares its numbers, or will once it counts."""
    if _decided:
        return _own is not None or bool(_retry_at)
    if not ofd.SUPPORTED:
        return False
    found = group.find()
    try:
        return not isinstance(found, str) or group.is_master() or (_may_join(found) and directories.named() is not None)
    except OSError:
        return True  # one is named, of which nothing more can be told just now


def _may_join(reason: str) -> bool:
    """Tell whether a process that is no worker, for *reason*, may join all who name the same directory.

    Not a known server's master or child: its numbers are in the server's own group, or no worker's.
    """
    return reason not in group.OF_A_SERVER


def release(children: Mapping[tuple[str, ...], Series]) -> None:
    """Take the series of a metric that is no more out of the file."""
    with lock:
        for series in list(children.values()):
            _leave(series)


def _leave(series: Series) -> None:
    """Give the room of *series* in the file back; whoever still has it counts in private."""
    record = series.record
    if isinstance(record, FileRecord):
        series.record = _private(record)
        record.free()


def record_for(subject: Subject, key: Callable[[], bytes], buckets: int) -> Record:
    """The record of a new series of *subject*. The caller holds the lock. Never raises."""
    if not _decided:
        return Pending(buckets)
    schema = subject.schema
    if _own is not None and schema is not None and monotonic() >= _retry_at:
        try:
            return _own.place((schema, key()), subject.policy.min_retention)
        except Exception as error:
            _refused(error)
    return Record(buckets)


def join(subject: Subject, series: Series, other: Series) -> None:
    """Give *series* the numbers of *other*, which was made for the same labels by somebody whom it interrupted."""
    record = other.record
    if isinstance(record, FileRecord):
        series.record.go_on(record, sum_too=subject.schema is None or subject.schema.kind != "gauge")
        _leave(other)


def room(subject: Subject, key: Callable[[], bytes], most: int, there: int) -> bool:
    """Tell whether *subject*, of which *there* series are in use, may have one more, of *most*.

    Series that an earlier owner of the file left count as well: or each new worker would add as many again.
    """
    dormant = _own.dormant.get(subject.schema) if _own is not None and subject.schema is not None else None
    return there < most if not dormant else there + len(dormant) < most or (there < most and key() in dormant)


def drop(subject: Subject, gone: Iterable[Series], keys: Iterable[bytes]) -> None:
    """Take series that were removed out of the file: those *gone* from *subject*, and what was left under *keys*.

    Whoever still has one counts in private. Says, once, that other workers keep theirs. The caller holds the lock.
    """
    global _said_own_only
    for series in gone:
        _leave(series)
    if _own is None or subject.schema is None:
        return
    _own.free_dormant(subject.schema, keys)
    if not _said_own_only:
        _said_own_only = True
        faults.say(
            logging.WARNING,
            "remove() and clear() act on the worker that calls them: the others still show their own numbers",
        )


def left(subject: Subject) -> list[bytes]:
    """The keys of series of *subject* that an earlier owner of the file left, and that nobody has asked for."""
    return list(_own.dormant.get(subject.schema, ())) if _own is not None and subject.schema is not None else []


def shared() -> bool:
    """Whether this process's pages answer for all, if they do at all: its own numbers may have no room yet."""
    return _is_shared


def workers() -> int:
    """How many workers' numbers a page shows: 1 in private memory."""
    return max(_shown.workers, 1) if _shown is not None else 1


def is_shared(series: Series) -> bool:
    """Tell whether other workers see the numbers of *series*."""
    return isinstance(series.record, FileRecord)


def merged(subject: Subject) -> list[Merged] | None:
    """The series of *subject* as all workers have them, as of the last `refresh`; ``None`` in private memory.

    None at all until everything was read once: a gap does no harm, where numbers that fall look like a restart.
    """
    if not _is_shared:
        return None
    schema = subject.schema
    if schema is None:
        _say_private(subject)
        return None
    return _shown.series(schema) if _shown is not None else []


def schemas_elsewhere() -> list[Schema]:
    """What there are series of, in whichever worker."""
    return _shown.schemas() if _shown is not None else []


def _say_private(subject: Subject) -> None:
    """Say once of a metric that each worker counts by itself."""
    if subject.name not in _said_private:
        _said_private.add(subject.name)
        faults.say(
            logging.WARNING,
            "%s is not shared, each worker shows its own: give its registry at construction, make registries before "
            "the first request, and not more than a few",
            subject.name,
        )


def tally(counted: tallies.Tally) -> dict[str, int]:
    """The library's own numbers of all workers, by label value; none where those of the metrics are not shown either.

    As with these, what has no place in a file yet is not among them.
    """
    if not _is_shared:
        return dict(counted.values)
    if _shown is None:
        return {}
    values = dict.fromkeys(counted.values, 0)
    for series in _shown.series(_schema_of(counted)):
        total = series.read()[1]
        if math.isfinite(total):  # nothing checks a sum in a file
            values[series.labels[0][1] if series.labels else ""] = int(total)
    return values


def refresh() -> Iterator[None]:
    """Bring what `merged` gives up to date, in steps of a fraction of a millisecond. Raises nothing."""
    global _shown
    if held():
        return  # a signal handler that scrapes in the middle of something: it shows what was there before
    try:
        attach()
        faults.speak()
        with lock:
            _mend()
        reader = _reader
        if reader is not None:
            yield from reader.refresh()
        with lock:
            if reader is _reader and reader is not None:
                # Nothing rather than what has fallen behind the pages of those who can read.
                _shown = reader if reader.is_whole and not reader.is_behind else None
    except Exception as error:
        faults.note("store", error)
    faults.speak()


def look_after(now: float) -> None:
    """See, every few seconds, that the file is still there; *now* is seconds, monotonic. Never raises.

    For a worker that is not scraped: others could not see its numbers, and nobody would tell it. To be called where
    `look_at` has come.
    """
    global look_at
    if held():
        return
    try:
        with lock:
            look_at = now + _LOOK
            _mend()
    except Exception as error:
        faults.note("store", error)
    faults.speak()


def attach() -> None:
    """Decide where numbers go, and bring them there; once, and again where it failed. Never raises."""
    global _decided, _attaching
    with lock:
        if _decided or _attaching:
            return
        _attaching = True
        try:
            _decide()
        finally:
            _decided = True
            try:
                _settle()
            finally:
                _attaching = False
            _tell_all()


def _decide() -> None:
    """Join the group that this process belongs to, if there is one.

    Where it gets no file, or cannot even look, others may have one: pages with its own numbers alone would fall.
    """
    global _group, _own, _reader, _is_shared
    try:
        if not ofd.SUPPORTED:
            faults.say(logging.INFO, "numbers are in private memory: shared files are for 64-bit Linux")
            return
        found = group.find() if _group is None else _group
        _group = None if isinstance(found, str) else found  # also where it cannot be looked up what is named
        named = directories.named() if not isinstance(found, str) or _may_join(found) else None
        if isinstance(found, str) and named is None:
            _is_shared = False
            faults.say(logging.INFO, "numbers are in private memory: %s", found)
            return
        patience = 0.0 if _pause > _RETRY else _PATIENCE
        if _reader is None:
            directory = directories.of_group(_group, named, patience)
            _reader = Reader(directory, partial(_report, directory.path))
        directory = _reader.directory
        if _inherited:
            _share_inheritance(directory)
        own = OwnFile.obtain(directory, monotonic(), patience)
        directories.remove_abandoned(directory)
    except Exception as error:
        _try_later()
        _is_shared = _reader is not None or directories.is_undecided(error)
        page = "on no page until they can be shared" if _is_shared else "each worker shows its own only"
        faults.note("store", _traced(error), f"numbers are in private memory, {page}: {error}")
        return
    _own, _is_shared = own, True
    _it_went_well()
    faults.say(
        logging.INFO,
        "numbers are shared in %s, by %s",
        directory.path,
        f"the workers of {_group.server} {_group.master}"
        if _group is not None
        else f"all who name it in {named and named[0]}",
    )


def _share_inheritance(directory: directories.Directory) -> None:
    """Numbers from before the fork are those of all workers: the first goes on with them, the others begin at 0."""
    global _inherited
    try:
        os.close(os.open(directories.INHERITED, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory.fd))
    except FileExistsError:
        _to_zero(but_gauges=True)
    _inherited = False


def _to_zero(*, but_gauges: bool = False) -> None:
    """Begin again in private memory. A gauge may say what a process is, as well after a fork; all else has happened."""
    for subject in list(_subjects):
        schema = subject.schema
        for series in subject.every_child():
            record = series.record
            pending = record if isinstance(record, Pending) else None
            fresh = Pending(len(record.counts))
            if but_gauges and schema is not None and schema.kind == "gauge":
                fresh.sum, fresh.set_at = record.sum, record.set_at
            series.record = fresh
            if pending is not None:
                pending.successor = fresh  # its first change may be what has us decide
    for counted in tallies.ALL:
        counted.clear()


def _settle() -> None:
    """Give every series its place: in the file, or in private memory. Again for those that found no room."""
    full = False
    for subject in list(_subjects):
        schema = subject.schema
        gauge = schema is not None and schema.kind == "gauge"
        for series in list(subject.every_child()):
            record = series.record
            if isinstance(record, FileRecord):
                continue
            placed: Record | None = None
            if _own is not None and schema is not None and not full:
                try:
                    placed = _own.place((schema, series.key), subject.policy.min_retention)
                except Exception as error:
                    full = _refused(error)
            if placed is not None or isinstance(record, Pending):
                _hand_over(record, placed or Record(len(record.counts)), series, gauge)


def _hand_over(record: Record, fresh: Record, series: Series | None = None, gauge: bool = False) -> None:
    """Put *fresh*, which may have numbers that an earlier owner of the file left, in the place of *record*.

    A signal handler may count in between, but nothing is called until *fresh* has its place: what came before is taken
    along, and what comes later is counted there.
    """
    pending = record if isinstance(record, Pending) else None
    if pending is not None and pending.successor is not None:
        record = pending.successor
    if gauge and (record.sum or record.set_at):
        fresh.sum = record.sum
        fresh.set_at = record.set_at
    if series is not None:
        series.record = fresh
    if pending is not None:
        pending.successor = fresh
    fresh.exemplar_changes = record.exemplar_changes + 1
    fresh.go_on(record, sum_too=not gauge)


def _try_again() -> None:
    """Look soon for series that have no place in the file."""
    if _own is not None and not _retry_at:
        _try_later()


def _try_later() -> None:
    """Try what was refused again after a pause, which doubles."""
    global _retry_at, _pause
    _retry_at = monotonic() + _pause
    _pause = min(_pause * 2, _MOST)


def _it_went_well() -> None:
    global _retry_at, _pause
    _retry_at, _pause = 0.0, _RETRY


def _mend() -> None:
    """At each scrape, and every few seconds: see whether the file still is what it was; try again what failed."""
    global _decided, _own, _reader, _shown, _retry_at
    now = monotonic()
    if _own is not None and not _own.is_ours():
        # Closed by somebody, and perhaps another's by now. What stands in the file stays there: begin again.
        _own.directory.close()
        _own, _reader, _shown = None, None, None
        _to_zero(but_gauges=True)
        _told.clear()
        _decided = False
        attach()
        return
    if _own is None and _reader is not None and _reader.directory.lost():
        # Who has a file makes it anew elsewhere, and goes on: what is known from here would fall behind.
        _reader.directory.close()
        _reader = _shown = None
        _retry_at = now
    if now < _retry_at:
        return
    if _own is None:
        if _retry_at:
            _retry_at = 0.0
            _decided = False
            attach()
        return
    try:
        if _own.is_lost():
            _move()
            _it_went_well()
        elif _retry_at:
            _retry_at = 0.0
            _settle()
            _tell_all()
            if not _retry_at:
                _it_went_well()
    except Exception as error:
        _refused(error)


def _move() -> None:
    """Make the directory, which was removed, anew, and bring all that stood in the file there."""
    global _own, _reader, _shown
    assert _own is not None
    faults.note("store", detail=f"{_own.directory.path} was removed or replaced while in use: it is made anew")
    try:
        directory = directories.of_group(_group, directories.named(), 0.0)
        try:
            with directory.locked(0.0):
                moved = _own.moved(directory)
        except BaseException:
            directory.close()
            raise
    except BaseException:
        _reader = _shown = None
        raise
    last, _own, _reader = _own, moved, Reader(directory, partial(_report, directory.path))
    for shared_record in _shared_records():
        shared_record.rebind(moved)
    for record, _ in _told.values():
        record.rebind(moved)
    last.directory.close()


def _traced(error: Exception) -> Exception | None:
    """*error* if one wants to know where it was raised: not one of the system, of which the text says all."""
    return None if isinstance(error, OSError) else error


def _refused(error: Exception) -> bool:
    """Note that a series has no place in the file, and counts in private memory; tell whether there may be room later.

    Not for one that no file would take.
    """
    later = not isinstance(error, ValueError)
    if later:
        _try_later()
    faults.note("store", _traced(error), f"no place for a series in {_own.directory.path if _own else '?'}: {error}")
    return later


def _report(path: str, reason: str, name: str, detail: str) -> None:
    """Count a file of the directory *path* that was left out of a scrape; name it in the log once for each reason."""
    skipped.bump(reason)
    if (reason, name) not in _reported:
        _reported.add((reason, name))
        faults.say(
            logging.WARNING,
            "%s/%s is left out, or some of it, as %s: %s (counted in exemplars_files_skipped_total{reason=%r})",
            path,
            name,
            reason,
            detail,
            reason,
        )


skipped: Final = tallies.Tally(
    "exemplars_files_skipped", "Files of workers, or parts of them, left out of a page.", "reason", layout.REASONS
)


def _schema_of(counted: tallies.Tally) -> Schema:
    labelnames = (counted.label,) if counted.label else ()
    return Schema(_PROCESS, "counter", counted.name, labelnames=labelnames, documentation=counted.documentation)


def _tell(counted: tallies.Tally, label: str) -> None:
    """Bring one of the library's own numbers to the file. Without room it stays untold until the next try."""
    if _own is None or _attaching:
        return
    told = _told.get((counted, label))
    if told is None:
        if not counted.values[label] and counted is not faults.errors:  # these have room before there is none
            return
        key = (_schema_of(counted), layout.encode_labels((label,) if counted.label else ()))
        try:
            record = _own.place(key, 0.0)
        except Exception:  # noted would be to be told
            return
        told = _told.setdefault((counted, label), (record, record.sum))
    record, before = told
    while True:
        value = counted.values[label]
        record.set(before + value)
        if counted.values[label] == value:  # else a signal handler came in
            return


def _tell_all() -> None:
    for counted in tallies.ALL:
        for label in list(counted.values):
            _tell(counted, label)


tallies.changed = _tell


def _after_fork() -> None:
    """In a forked child: nothing of the parent's is written or owned any more. Opens nothing, logs nothing."""
    global _decided, _attaching, _group, _is_shared, _own, _reader, _shown, _inherited, _retry_at, _pause
    waits = _own is None and bool(_retry_at)  # who waits for a file will bring all of its numbers there itself
    _inherited = _own is None and not waits and (_decided or _inherited)
    if _own is not None:
        own = _own
        for shared_record in (*_shared_records(), *(told for told, _ in _told.values())):
            shared_record.let_go()
        own.close()
    if _own is not None or waits:
        _to_zero()
    elif _decided:
        for subject in list(_subjects):
            for series in subject.every_child():
                record = series.record
                series.record = _going_on(Pending(len(record.counts)), record)
    where = _own or _reader
    if where is not None:
        where.directory.close()
    _decided = _attaching = _is_shared = False
    _own, _reader, _shown = None, None, None
    _retry_at, _pause = 0.0, _RETRY
    _group = None
    _told.clear()
    _reported.clear()


def _shared_records() -> Iterator[FileRecord]:
    """Those of this process's series that stand in its file."""
    for subject in list(_subjects):
        for series in subject.every_child():
            if isinstance(series.record, FileRecord):
                yield series.record


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
group.at_unhooked_fork(_after_fork)

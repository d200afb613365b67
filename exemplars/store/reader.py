"""The files of a whole group, merged: counts added up, of each bucket the newest exemplar.

Read by `pread`, never through a mapping: a file cut short by somebody cannot end the process that reads it. Of a file
nothing is kept but each series' numbers, and of the exemplars those that are shown.
"""

import errno
import math
import os
import struct
import sys
import time
from _thread import RLock
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from math import fsum
from typing import Any, Final, NamedTuple

from exemplars import semconv
from exemplars.policy import Slot
from exemplars.store import layout, ofd
from exemplars.store.directory import Directory
from exemplars.store.layout import DamagedError, Exemplars, Kind, Schema
from exemplars.store.memory import Reading

monotonic = time.perf_counter

# Bytes that are read at once: the work of a fraction of a millisecond. From 128 KB on, malloc would ask the kernel for
# fresh pages each time: to fault these in takes many times as long as to read.
_CHUNK: Final = 122_880
_NEW: Final = 32_768  # bytes of records that are taken up at once
_STEP: Final = 32  # series after which a step of merging ends
# What is read of a series, the head of a schema, and an exemplar's own labels, at their longest.
_LONGEST: Final = layout.place(layout.MAX_KEY, layout.MAX_BUCKETS).slots
_LONGEST_HEAD: Final = layout.HEAD + layout.MAX_KEY
_LONGEST_LABELS: Final = 8 + layout.LABELS_TEXT
_ORDER: Final = sys.byteorder
_START: Final = struct.Struct("=IHHI")
_SERIES: Final = int(Kind.SERIES)
_NO_TRACE: Final = bytes(16)
# In place of counts that nobody can have reached.
_IMPOSSIBLE: Final = -1

# What says nothing of a file, only that this process cannot open it just now.
_FOR_NOW: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
# And what says nothing of it to other workers, whose pages go on.
_HERE_ONLY: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# An exemplar as it is kept; one with labels of its own is a slot.
Raw = bytes | Slot | None

# Reason, name of the file, what is wrong.
Report = Callable[[str, str, str], None]


class _Shape(NamedTuple):
    """How the records of series are taken apart whose head has one length, and that have as many buckets."""

    unpack: Callable[[bytes, int], tuple[Any, ...]]  # head, sum, time, counts, stamps
    to_slots: int  # bytes from the beginning of the record
    to_end: int


@cache
def _shape(head: int, buckets: int) -> _Shape:
    width = 8 * buckets
    numbers = struct.Struct(f"={head}sdd{width}s{width}s")
    return _Shape(numbers.unpack_from, numbers.size, numbers.size + layout.SLOT * buckets)


@cache
def _words(count: int) -> struct.Struct:
    return struct.Struct(f"={count}Q")


@cache
def _too_much(count: int) -> int:
    """The bits that no count has, of *count* of them side by side."""
    return sum((2**64 - 1 - layout.MAX_COUNT) << 64 * index for index in range(count))


def _sum(values: list[float]) -> float:
    """The sum, the same whatever the order: one that differs in its last bit by who adds it up looks like a restart."""
    try:
        return fsum(values)
    except (OverflowError, ValueError):  # of infinities
        return sum(values)


class Merged:
    """One series as all workers together have it."""

    __slots__ = ("_latest", "head", "key", "parts", "schema", "shape", "too_much")

    def __init__(self, schema: Schema, key: bytes) -> None:
        layout.decode_labels(key, schema)  # raises
        self.schema = schema
        self.key = key
        self.head = b""  # of its record in the first file: in others it mostly is the same
        # What the files say, in their order.
        self.parts: list[_Entry] = []
        self.shape = _shape(layout.HEAD + layout.padded(len(key)), schema.buckets)
        self.too_much = _too_much(schema.buckets) if schema.kind != "gauge" else 0
        # All counts side by side in one number; sum, slots and the number of their changes.
        self._latest: tuple[int, float, Exemplars, int] = (0, 0.0, Exemplars([None] * schema.buckets), 0)

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """Names and values. Not kept: who needs them more than once keeps them in a form of his own."""
        values = layout.decode_labels(self.key, self.schema)
        if values is None:
            return ((semconv.OVERFLOW, "true"),)
        return tuple(zip(self.schema.labelnames, values, strict=True))

    def read(self) -> Reading:
        """Counts, sum, slots and the number of their changes. The slots are not to be changed."""
        added, total, slots, changes = self._latest
        words = _words(self.schema.buckets)
        return words.unpack(added.to_bytes(words.size, _ORDER)), total, slots, changes

    def merge(self) -> None:
        """Add up what the files say now."""
        _, _, slots, changes = self._latest
        if self.schema.kind == "gauge":
            self._latest = (0, self._gauge(), slots, changes)
            return
        parts = [part for part in self.parts if part.counts >= 0]
        # Added at once, the counts do not spill into each other: none has all of its bits.
        added, total = sum([part.counts for part in parts]), _sum([part.sum for part in parts])
        if not total >= 0 and not (self.schema.bounds and self.schema.bounds[0] < 0):
            # Of a damaged file: nothing that only rises has such a sum, and who reads strictly refuses the whole page.
            total = _sum([part.sum for part in parts if part.sum >= 0])
        self._latest = (added, total, slots, changes)

    def newest(self, all_owned: bool) -> tuple[list[Raw], list[tuple["_Entry", list[int]]]]:
        """The newest exemplar of each bucket as far as it is known, and in which buckets whose has to be read.

        None where the newest is gone or hidden, or two bear the same time: any other would be older than, or as old as,
        what another scrape may have been told, which Prometheus refuses.
        """
        buckets = self.schema.buckets
        unpack = _words(buckets).unpack
        parts, last = self.parts, self._latest[2].raw
        slots: list[Raw] = [None] * buckets
        wanted: defaultdict[int, list[int]] = defaultdict(list)
        for index, stamps in enumerate(zip(*[unpack(part.stamps) for part in parts], strict=True)):
            stamped = max(stamps)
            if not stamped or stamped & 1 or stamps.count(stamped) > 1:
                continue
            slot = last[index]
            if slot is None or layout.stamp_of(slot) != stamped:
                wanted[stamps.index(stamped)].append(index)
            elif all_owned or not parts[stamps.index(stamped)].file.hides(slot):
                slots[index] = slot
        return slots, [(parts[part], missing) for part, missing in wanted.items()]

    def show(self, slots: list[Raw]) -> None:
        """Have *slots* shown."""
        added, total, last, changes = self._latest
        if slots != last.raw:
            self._latest = (added, total, Exemplars(slots), changes + 1)

    def _gauge(self) -> float:
        mode = self.schema.mode.removeprefix("live")
        parts = [part for part in self.parts if part.file.owned or not self.schema.live]
        if not parts:
            return 0.0
        if mode == "mostrecent":
            return max(parts, key=lambda each: each.set_at).sum
        values = [part.sum for part in parts]
        return min(values) if mode == "min" else max(values) if mode == "max" else _sum(values)


class _Entry:
    """What a file says of a series: where, and its numbers, the counts side by side in one."""

    __slots__ = ("at", "counts", "file", "head", "merged", "set_at", "stamps", "sum")

    def __init__(
        self,
        file: "_File",
        at: int,
        merged: Merged,
        head: bytes,
        total: float,
        set_at: float,
        counts: int,
        stamps: bytes,
    ) -> None:
        self.file = file
        self.at = at  # offset of the record
        self.merged = merged
        self.head = head
        self.sum = total
        self.set_at = set_at
        self.counts = counts
        self.stamps = stamps


class _Family:
    """The series of one schema, by their keys and by the heads of their records in whichever file."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.series: dict[bytes, Merged] = {}
        self.heads: dict[bytes, Merged] = {}


class _File:
    """What was last read of a worker's file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inode = 0
        self.owned = False
        # When its owner was last known to live; seconds, monotonic.
        self.alive_at = -math.inf
        self.entries: list[_Entry] = []  # in the order of their records
        self.rooms: list[tuple[int, bytes]] = []  # free room, and what may become it: a series may begin there
        self.families: dict[int, _Family] = {}  # by the offset of the schema's record
        self.walked = layout.HEADER
        self.seen = False  # whether it was read to its end, at least once

    def hides(self, exemplar: bytes | Slot) -> bool:
        """Whether the span behind *exemplar* may have died unsent with the owner.

        The next owner drops it; until there is one, scrapes must not show it either. It is hidden unless it was old
        enough when the owner was last seen alive.
        """
        return not self.owned and layout.taken_at(exemplar) > self.alive_at - layout.UNSENT


class Reader:
    """The files of *directory* as they are merged; *report* is told what had to be left out.

    Any number of scrapes may go on at once, in threads or in turns of an event loop: they share the work.
    """

    def __init__(self, directory: Directory, report: Report) -> None:
        self.directory = directory
        self.workers = 0  # whose files have an owner
        self.is_whole = False  # whether it has read all that there is, at least once
        self.is_behind = False  # whether the last pass could not read what others can
        self._report = report
        self._files: dict[str, _File] = {}
        self._families: dict[Schema, _Family] = {}
        self._changed: dict[Merged, bool] = {}  # in this pass; whether their exemplars are others, too
        self._missed: set[Merged] = set()  # in the last pass: of which an exemplar could not be read
        self._lock = RLock()  # the interpreter's own: see exemplars._lock
        self._pass: Iterator[None] | None = None
        self._begun = self._done = 0

    def series(self, schema: Schema) -> list[Merged]:
        """The series of *schema*, as of the last `refresh`."""
        family = self._families.get(schema)
        return list(family.series.values()) if family is not None else []

    def schemas(self) -> list[Schema]:
        """What there are series of."""
        return [schema for schema, family in list(self._families.items()) if family.series]

    def refresh(self) -> Iterator[None]:
        """Read what changed, in steps of a fraction of a millisecond; at the end, all that was stored before is there.

        A pass that another scrape left in the middle is gone on with, and one of its own follows.
        """
        mine = self._begun + 1
        while self._done < mine:
            with self._lock:
                work = self._pass
                if getattr(work, "gi_running", False):
                    return  # a signal handler that scrapes in the middle of a step: it shows what was there before
                if work is None:
                    work = self._pass = self._work()
                    self._begun += 1
                try:
                    next(work)
                except StopIteration:
                    self._pass = None
                    self._done = self._begun
                except BaseException:
                    self._pass = None  # what it had found is not known: begin again
                    self._done = self._begun
                    self.is_whole = False
                    self._files.clear()
                    self._families.clear()
                    self._missed.clear()
                    raise
            yield

    def _work(self) -> Iterator[None]:
        self._changed = dict.fromkeys(self._missed, True)
        self._missed = set()
        try:
            names = self.directory.files()
        except OSError as error:
            self._report("unreadable", "", str(error))  # all stays as it was
            self.is_behind = error.errno in _HERE_ONLY
            return
        for gone in self._files.keys() - set(names):
            yield from self._forget(self._files.pop(gone))
        yield  # what came before, finding a place for one's own numbers, was enough for a step
        unseen = behind = False
        for name in names:
            file = self._files.get(name) or _File(name)
            try:
                yield from self._read(file)
            except FileNotFoundError:
                continue
            except OSError as error:
                # Its numbers stay as they were: a sum that falls would look like a restart.
                self._report("unreadable", name, str(error))
                unseen = unseen or (not file.seen and error.errno in _FOR_NOW)
                behind = behind or error.errno in _HERE_ONLY
            except DamagedError as error:
                self._report(error.reason, name, str(error))
                yield from self._forget(file)
                self._files.pop(name, None)
            yield
        self.workers = sum(file.owned for file in self._files.values())
        yield from self._merge()
        self.is_whole = self.is_whole or not unseen
        self.is_behind = behind

    def _read(self, file: _File) -> Iterator[None]:
        """Bring what *file* says up to date."""
        with self._opened(file) as fd:
            asked_at = monotonic()
            held = ofd.held(fd)
            start = os.pread(fd, layout.HEADER, 0)  # after the owner was asked for: who takes it over says so at once
            status = os.fstat(fd)  # afterwards: it grows before it says so
            size = status.st_size
            if file.name not in self._files and not any(start) and (not size or ofd.held(fd)):
                raise FileNotFoundError(f"{file.name} is only being made")
            if status.st_ino != file.inode:
                # Another file of that name may have like records where known ones end, and other ones before.
                yield from self._forget(file)
                file.inode = status.st_ino
            end = layout.used(start, size)
            self._files[file.name] = file
            owned = held and not layout.is_taken_over(start)
            if owned:
                file.alive_at = asked_at
            if owned != file.owned:
                file.owned = owned
                for entry in file.entries:
                    if any(entry.stamps):
                        self._changed[entry.merged] = True  # some may be hidden now, or shown again
                    elif entry.merged.schema.live:
                        self._changed.setdefault(entry.merged, False)
            if end < file.walked or not (yield from self._renew(file, fd)):
                yield from self._forget(file)  # another record stands where one is known: begin again
            if file.walked < end:
                yield from self._walk(file, fd, end)
            file.seen = True

    @contextmanager
    def _opened(self, file: _File) -> Iterator[int]:
        """A descriptor of *file*, which lives from step to step.

        A pass may be left in the middle, for long: what has closed all descriptors meanwhile, to make a daemon, may
        have had this number given to another file, which is then left alone.
        """
        fd = self.directory.open(file.name, os.O_RDONLY)
        opened = os.fstat(fd)
        try:
            yield fd
        finally:
            with suppress(OSError):
                if os.path.samestat(os.fstat(fd), opened):
                    os.close(fd)

    def _renew(self, file: _File, fd: int) -> Generator[None, None, bool]:
        """Read the numbers of the series of *file* again; tell whether each record still is what it was."""
        for number, (at, word) in enumerate(file.rooms, 1):
            if os.pread(fd, len(word), at) != word:
                return False
            if number % (4 * _STEP) == 0:
                yield
        first = 0
        while first < len(file.entries):
            base = file.entries[first].at
            data = os.pread(fd, _CHUNK, base)
            behind = bisect_right(file.entries, base + len(data), lo=first, key=_read_until)
            if behind == first:
                raise DamagedError("truncated", f"{base + len(data)} bytes are left of a record at {base}")
            if not self._take(file.entries[first:behind], data, base):
                return False
            first = behind
            yield
        return True

    def _take(self, entries: Iterable[_Entry], data: bytes, base: int) -> bool:
        """Take the numbers of *entries* from *data*, what their file has from *base* on; tell as `_renew` does."""
        changed = self._changed
        for entry in entries:
            merged = entry.merged
            head, total, set_at, counted, stamps = merged.shape.unpack(data, entry.at - base)
            if head != entry.head:
                return False
            counts = int.from_bytes(counted, _ORDER)
            if counts & merged.too_much:
                counts = self._impossible(entry.file)
            if stamps != entry.stamps:
                entry.stamps = stamps
                changed[merged] = True
            elif counts != entry.counts or total != entry.sum or set_at != entry.set_at:
                changed.setdefault(merged, False)
            else:
                continue
            entry.counts, entry.sum, entry.set_at = counts, total, set_at or 0.0
        return True

    def _impossible(self, file: _File) -> int:
        self._report("record", file.name, "a count that nobody could have reached")
        return _IMPOSSIBLE

    def _walk(self, file: _File, fd: int, end: int) -> Iterator[None]:
        """Take up the records of *file* that are not known yet; what does not check is read once more."""
        data, base, enough = b"", 0, 0
        failed_at = 0
        while file.walked < end:
            if file.walked >= enough:
                base = file.walked
                data = os.pread(fd, min(_CHUNK, end - base), base)
                if len(data) < min(_CHUNK, end - base):
                    raise DamagedError("truncated", f"{base + len(data)} bytes are left of {end}")
                enough = end if base + len(data) == end else base + len(data) - _LONGEST
            try:
                self._find(file, fd, data, base, min(enough, file.walked + _NEW), end)
            except DamagedError as error:
                if failed_at == file.walked:
                    self._report("record", file.name, str(error))
                    return
                failed_at = file.walked
                enough = 0
            yield

    def _find(self, file: _File, fd: int, data: bytes, base: int, until: int, end: int) -> None:
        """Take up the records of *file*, which has *data* from *base* on, that begin before *until*.

        Raises `DamagedError` at the first that is none.
        """
        families, entries, changed = file.families, file.entries, self._changed
        unpack_start, from_bytes = _START.unpack_from, int.from_bytes  # once, not for each record
        at = file.walked
        try:
            while at < until:
                here = at - base
                length, kind, key_length, schema_at = unpack_start(data, here)
                head = data[here : here + ((layout.HEAD + key_length + 15) & ~15)]
                # One like another that was checked, in a file with the same schema, is as good.
                family = families.get(schema_at) if kind == _SERIES else None
                merged = family.heads.get(head) if family is not None else None
                if merged is None or at + length > end:
                    found = layout.read_head(data, at, end, base)
                    if found.kind == _SERIES:
                        merged = self._member(file, fd, at, found, end)
                        merged.head = merged.head or head
                        families[schema_at].heads[head] = merged
                    elif found.kind != Kind.SCHEMA:
                        file.rooms.append((at, data[here : here + 8]))
                if merged is not None:
                    head, total, set_at, counted, stamps = merged.shape.unpack(data, here)
                    counts = from_bytes(counted, _ORDER)
                    if counts & merged.too_much:
                        counts = self._impossible(file)
                    if head == merged.head:
                        head = merged.head
                    entry = _Entry(file, at, merged, head, total, set_at or 0.0, counts, stamps)
                    entries.append(entry)
                    merged.parts.append(entry)
                    changed[merged] = True
                at += length
        finally:
            file.walked = at

    def _member(self, file: _File, fd: int, at: int, head: layout.Head, end: int) -> Merged:
        """The series that the record at *at* is of."""
        family = file.families.get(head.schema)
        if family is None:
            described = layout.read_head(os.pread(fd, _LONGEST_HEAD, head.schema), head.schema, end, head.schema)
            schema = Schema.decode(described.key)
            family = file.families[head.schema] = self._families.setdefault(schema, _Family(schema))
        merged = family.series.get(head.key) or Merged(family.schema, head.key)
        if layout.padded(merged.shape.to_end) != head.length:
            raise DamagedError("record", f"the series at {at} is not as long as its schema wants")
        return family.series.setdefault(head.key, merged)

    def _forget(self, file: _File) -> Iterator[None]:
        """Take what *file* said out of every series."""
        entries = file.entries
        file.entries, file.rooms, file.families, file.walked = [], [], {}, layout.HEADER
        for number, entry in enumerate(entries, 1):
            merged = entry.merged
            merged.parts = [part for part in merged.parts if part.file is not file]
            self._changed[merged] = True
            if number % (8 * _STEP) == 0:
                yield

    def _merge(self) -> Iterator[None]:
        """Bring what changed together, and read the exemplars that are shown from now on."""
        slots: dict[Merged, list[Raw]] = {}
        wanted: dict[_File, list[tuple[_Entry, list[int]]]] = {}
        emptied: set[Schema] = set()
        all_owned = all(file.owned for file in self._files.values())
        for number, (merged, slots_too) in enumerate(self._changed.items(), 1):
            if not merged.parts:
                family = self._families[merged.schema]
                if family.series.get(merged.key) is merged:
                    del family.series[merged.key]
                emptied.add(merged.schema)
            else:
                merged.merge()
                if slots_too:
                    slots[merged], missing = merged.newest(all_owned)
                    for entry, buckets in missing:
                        wanted.setdefault(entry.file, []).append((entry, buckets))
            if number % _STEP == 0:
                yield
        for schema in emptied:
            heads = self._families[schema].heads
            self._families[schema].heads = {head: merged for head, merged in heads.items() if merged.parts}
        for file, missed in wanted.items():
            yield from self._read_slots(file, missed, slots)
        for number, (merged, found) in enumerate(slots.items(), 1):
            merged.show(found)
            if number % (8 * _STEP) == 0:
                yield
        self._changed = {}

    def _read_slots(
        self, file: _File, wanted: Iterable[tuple[_Entry, list[int]]], slots: Mapping[Merged, list[Raw]]
    ) -> Iterator[None]:
        """Read from *file* the exemplars of the *wanted* buckets into *slots*; what does not check, once more."""
        missed = dict.fromkeys(entry.merged for entry, _ in wanted)
        try:
            with self._opened(file) as fd:
                for number, (entry, buckets) in enumerate(wanted, 1):
                    missing = self._fill(fd, entry, buckets, slots[entry.merged])
                    if not missing or not self._fill(fd, entry, missing, slots[entry.merged]):
                        missed.pop(entry.merged, None)
                    if number % _STEP == 0:
                        yield
        except OSError:
            pass
        self._missed.update(missed)

    def _fill(self, fd: int, entry: _Entry, buckets: list[int], slots: list[Raw]) -> list[int]:
        """Read the exemplars of *buckets* into *slots*; those whose check fails, as in the middle of a write."""
        shape = entry.merged.shape
        data = os.pread(fd, shape.to_end, entry.at)
        if len(data) < shape.to_end:
            return buckets
        head, _, _, _, stamps = shape.unpack(data, 0)
        if head != entry.head:
            return buckets
        missing = []
        owned = entry.file.owned
        for index, stored in layout.read_slots(data, shape.to_slots, stamps, buckets):
            own = stored is not None and stored[16:32] == _NO_TRACE
            slots[index] = found = _with_labels(fd, stored) if stored is not None and own else stored
            if found is None:
                missing.append(index)
            elif not owned and entry.file.hides(found):
                slots[index] = None
        return missing


def _read_until(entry: _Entry) -> int:
    return entry.at + entry.merged.shape.to_slots


def _with_labels(fd: int, stored: bytes) -> Slot | None:
    """The exemplar *stored* with the labels of its own that it points to; ``None`` where their check fails."""
    stamped, value, _, labels_at, tenths = layout.unpack_stored(stored)
    at = int.from_bytes(labels_at, _ORDER)
    if at >= 1 << 63:
        return None
    labels = layout.decode_text(os.pread(fd, _LONGEST_LABELS, at), 0, stamped)
    if labels is None:
        return None
    return Slot(value, stamped >> 1, tenths / 10, tenths / 10, labels=labels)

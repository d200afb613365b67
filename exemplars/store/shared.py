"""The worker's own file: the numbers of its series, kept where other workers can read them."""

import contextlib
import errno
import math
import mmap
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from exemplars.policy import Slot
from exemplars.store import layout, ofd
from exemplars.store.directory import Directory
from exemplars.store.layout import DamagedError, Kind, Schema
from exemplars.store.memory import Record

_FIRST: Final = 65_536  # bytes of a new file; a multiple of the granularity of mappings
_MOST: Final = 4_194_304  # bytes that it grows by at most; before, it doubles

Key = tuple[Schema, bytes]


class FileRecord(Record):
    """A record whose numbers stand in the worker's file as well.

    The lists are the truth and the file is their copy, so that an observation costs one plain 8-byte store a number
    more than in private memory, and reads nothing.
    """

    __slots__ = ("_at", "_file", "_file_counts", "_file_numbers", "_file_slots", "_file_stamps", "_labels_at", "key")

    def __init__(self, file: "OwnFile", at: int, key: Key) -> None:
        super().__init__(key[0].buckets)
        self.key = key
        self._labels_at: dict[int, int] = {}
        self.bind(file, at)

    def bind(self, file: "OwnFile", at: int) -> None:
        """Have the record of its key at offset *at* of *file* as its copy."""
        self._file, self._at = file, at
        self._write_to(file.words(at, self._parts().end))

    def rebind(self, file: "OwnFile") -> None:
        """Have the same place of *file* as its copy."""
        self.bind(file, self._at)
        self.save()  # also what a signal handler counted since the place was copied

    def _parts(self) -> layout.Place:
        schema, key = self.key
        return layout.place(len(key), schema.buckets)

    def _write_to(self, words: memoryview) -> None:
        parts = self._parts()
        self._file_numbers = words[parts.numbers : parts.counts].cast("d")
        self._file_counts = words[parts.counts : parts.stamps].cast("Q")
        self._file_stamps = words[parts.stamps : parts.slots].cast("Q")
        self._file_slots = words[parts.slots :]

    def add(self, index: int, amount: float) -> Slot | None:
        self.counts[index] = self._file_counts[index] = self.counts[index] + 1
        self.sum = self._file_numbers[0] = self.sum + amount
        return self.slots[index]

    def set(self, value: float, at: float = 0.0) -> None:
        self.sum = self._file_numbers[0] = value
        self.set_at = self._file_numbers[1] = at

    def put(self, index: int, slot: Slot, instead_of: Slot | None) -> bool:
        if not super().put(index, slot, instead_of):
            return False
        self._store_latest(index)
        return True

    def _store_latest(self, index: int) -> None:
        """Write the exemplar of bucket *index*, and then any that a signal handler has put in its place meanwhile."""
        stored = None
        while (slot := self.slots[index]) is not None and slot is not stored:
            self._store(index, slot)
            stored = slot

    def _store(self, index: int, slot: Slot) -> None:
        labels_at = 0
        stamped = layout.stamp(slot.timestamp_ms)
        if slot.labels is not None:
            try:
                labels_at = self._file.store_labels(self._labels_at.get(index, 0), slot.labels, stamped)
                self._labels_at[index] = labels_at
            except (OSError, ValueError):  # no room: other workers are told when, so that they show none older
                self._file_stamps[index] = stamped | 1
                return
        at = layout.SLOT * index
        self._file_slots[at : at + layout.SLOT] = layout.encode_slot(slot, labels_at)
        self._file_stamps[index] = stamped

    def load(self, min_retention: float) -> None:
        """Go on from what stands in the file; *min_retention* is that of the policy, in seconds."""
        self.counts = self._file_counts.tolist()
        self.sum, self.set_at = self._file_numbers.tolist()
        slots_at = self._at + self._parts().slots
        for index, stamped in enumerate(self._file_stamps.tolist()):
            if stamped & 1:
                self.floors = {**self.floors, index: stamped >> 1}
            elif stamped:
                slot = self._file.slot(slots_at + layout.SLOT * index, stamped)
                if slot is None:  # it was whole when the file was adopted
                    self.floors = {**self.floors, index: stamped >> 1}
                    continue
                slot.held_until = slot.taken_at + min_retention
                if slot.labels is not None:
                    self._labels_at[index] = slot.span_id
                self.slots[index] = slot

    def save(self) -> None:
        """Write all of the numbers to the file."""
        # Each is read and written without a call in between, in which a signal handler could count.
        self._file_numbers[0], self._file_numbers[1] = self.sum, self.set_at
        for index in range(len(self.counts)):
            self._file_counts[index] = self.counts[index]
            floor = self.floors.get(index)
            if self.slots[index] is None and floor is not None:
                self._file_stamps[index] = layout.stamp(floor, only_time=True)
            self._store_latest(index)

    def let_go(self) -> None:
        """Change nothing in the file any more, also for who is in the middle of a change."""
        self._write_to(memoryview(bytearray(self._parts().end)))

    def free(self) -> None:
        """Give its room in the file back: readers find it no more."""
        self.let_go()
        self._file.free(self._at, self._parts().end)
        for at in self._labels_at.values():
            self._file.free(at - layout.HEAD, layout.LABELS_SIZE)


class OwnFile:
    """A file of the group that this process owns: by an open-file-description lock, which ends with the process.

    The locked descriptor is never mapped: a mapping keeps its file open, and with it the lock, also in a forked child.
    Space is allocated before it is mapped, and never given back, as a store to what is not there would end the process.
    All methods want the lock of the process.
    """

    def __init__(self, directory: Directory, name: str, lock_fd: int) -> None:
        self.directory = directory
        self.name = name
        self.lock_fd = lock_fd
        self.pid = os.getpid()
        self._identity = _identity(os.fstat(lock_fd))
        self._segments: list[tuple[int, int, memoryview]] = []
        self._end = 0
        self._used = 0
        self._left = b""  # who had it last, as the header says it
        self._free: dict[int, list[int]] = {}
        self._schemas: dict[Schema, int] = {}
        # Series that stand in the file, and that this process has not asked for yet.
        self.dormant: dict[Schema, dict[bytes, int]] = {}

    @classmethod
    def obtain(cls, directory: Directory, now: float, patience: float = 0.5) -> "OwnFile":
        """The first file of *directory* that nobody owns, its numbers going on; or a new one.

        *now* is seconds, monotonic. Exemplars that were younger than ten seconds when the last owner was alive for
        certain, which is when it took its newest, are dropped, and live gauges start from 0. Others are kept out of
        *directory*, and waited for *patience* seconds, only until the file is chosen: going on takes the longer the
        more stands in it, and after a reload all workers do so at once. Raises ``OSError`` where there is no room, and
        as `Directory.locked` does.
        """
        unfit: set[str] = set()
        while True:
            with directory.locked(patience):
                file = cls._claim(directory, unfit)
            if file._used:
                return file
            try:
                file._adopt(now)
            except (OSError, DamagedError):
                file._give_back()
                unfit.add(file.name)
            except BaseException:
                file._give_back()
                raise
            else:
                return file

    @classmethod
    def _claim(cls, directory: Directory, unfit: Collection[str]) -> "OwnFile":
        """The first file that nobody owns, nothing of it read yet, which is none of *unfit*; or a new one."""
        names = directory.files()
        for name in names:
            if name not in unfit:
                with contextlib.suppress(OSError):
                    fd = directory.open(name, os.O_RDWR)
                    try:
                        if not ofd.held(fd):
                            left = _say_taken_over(fd)
                            if ofd.take(fd):
                                file = cls(directory, name, fd)
                                file._left = left
                                return file
                    except BaseException:
                        os.close(fd)
                        raise
                    os.close(fd)
        return cls._new(directory, names)

    @classmethod
    def _new(cls, directory: Directory, names: Iterable[str], size: int = _FIRST) -> "OwnFile":
        numbers = {int(name.rpartition("-")[2]) for name in names}
        number = next(number for number in range(1, len(numbers) + 2) if number not in numbers)
        name = f"worker-{number}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=directory.fd)
        try:
            if not ofd.take(fd):
                raise BlockingIOError(f"{name} was just made, and is locked")
            file = cls(directory, name, fd)
            file._make(size)
        except BaseException:
            os.unlink(name, dir_fd=directory.fd)
            os.close(fd)
            raise
        return file

    def _make(self, size: int) -> None:
        self._grow(size)
        self.write(0, layout.header(self.pid))
        self._set_used(layout.HEADER)

    def moved(self, directory: Directory) -> "OwnFile":
        """A new file in *directory* with all that stands in this one, at the same offsets; this one is closed.

        For a directory that was removed. Raises ``OSError`` where there is no room.
        """
        content = self.whole()
        file = self._new(directory, directory.files(), self._end)  # in one segment, as records may be anywhere
        file.write(layout.HEADER, content[layout.HEADER :])
        file._set_used(self._used)
        file._free, file._schemas, file.dormant = self._free, self._schemas, self.dormant
        self.close()
        return file

    def place(self, key: Key, min_retention: float) -> FileRecord:
        """The record of *key*: what stands in the file, or a new one of zeroes. Raises ``OSError`` without room."""
        schema, labels = key
        at = self.dormant.get(schema, {}).pop(labels, 0)
        if at:
            record = FileRecord(self, at, key)
            record.load(min_retention)
            return record
        if len(labels) > layout.MAX_KEY or schema.buckets > layout.MAX_BUCKETS:
            raise ValueError(f"{schema.name} has labels of {len(labels)} bytes, or {schema.buckets} buckets: too many")
        length = layout.place(len(labels), schema.buckets).end
        return FileRecord(self, self._append(length, Kind.SERIES, labels, self._schema(schema)), key)

    def free_dormant(self, schema: Schema, keys: Iterable[bytes]) -> None:
        """Make room of the series with *keys* that this process has not asked for."""
        for key in keys:
            at = self.dormant.get(schema, {}).pop(key, 0)
            if at:
                self.free(at, layout.place(len(key), schema.buckets).end)

    def free(self, at: int, length: int) -> None:
        """Make room of the record at *at*."""
        self._begin_record(at, layout.first_word(length, Kind.FREE))
        self._free.setdefault(length, []).append(at)

    def store_labels(self, at: int, labels: Mapping[str, str], stamped: int) -> int:
        """Write a caller's own exemplar labels at *at*, or where there is room if that is 0; return where."""
        text = layout.encode_text(labels, stamped)
        if not at:
            at = self._append(layout.LABELS_SIZE, Kind.LABELS) + layout.HEAD
        self.write(at, text)
        return at

    def slot(self, at: int, stamped: int) -> Slot | None:
        """The exemplar at *at* that bears *stamped*, its labels with it; ``None`` where a check fails."""
        slot = layout.decode_slot(self.words(at, layout.SLOT), 0, stamped)
        if slot is not None and not slot.trace_id:
            try:
                start, _, view = self._segment(slot.span_id)
            except DamagedError:
                return None
            slot.labels = layout.decode_text(view, slot.span_id - start, stamped)
            if slot.labels is None:
                return None
        return slot

    def is_ours(self) -> bool:
        """Tell whether the locked descriptor still is: those who make daemons close whatever is open."""
        try:
            return _identity(os.fstat(self.lock_fd)) == self._identity
        except OSError:
            return False

    def is_lost(self) -> bool:
        """Tell whether the file, or its directory, was removed or replaced."""
        if self.directory.lost():
            return True
        try:
            found = os.stat(self.name, dir_fd=self.directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        except OSError:
            return False  # it cannot be told just now
        return _identity(found) != self._identity

    def close(self) -> None:
        """Close the locked descriptor, without unlocking: after a fork the lock is the parent's as well."""
        if self.is_ours():
            os.close(self.lock_fd)

    def _give_back(self) -> None:
        """Leave the file to whoever comes next, as the last owner has left it."""
        with contextlib.suppress(OSError):
            os.pwrite(self.lock_fd, self._left, layout.PID_AT)
        self.close()

    def write(self, at: int, data: bytes) -> None:
        """Store *data* at *at*, in one segment."""
        start, _, view = self._segment(at)
        view[at - start : at - start + len(data)] = data

    def words(self, at: int, length: int) -> memoryview:
        """The *length* bytes at *at*, in one segment."""
        start, _, view = self._segment(at)
        return view[at - start : at - start + length]

    def _segment(self, at: int) -> tuple[int, int, memoryview]:
        for segment in self._segments:
            if segment[0] <= at < segment[1]:
                return segment
        raise DamagedError("record", f"{at} is beyond the end of the file")

    def whole(self) -> bytes:
        """All that stands in the file. Through the mapping, as the descriptor may be closed."""
        return b"".join([bytes(view) for _, _, view in self._segments])[: self._used]

    def _schema(self, schema: Schema) -> int:
        at = self._schemas.get(schema)
        if at is None:
            key = schema.encode()
            if len(key) > layout.MAX_KEY:
                raise ValueError(f"{schema.name} takes {len(key)} bytes to describe: too many")
            at = self._append(layout.HEAD + layout.padded(len(key)), Kind.SCHEMA, key)
            self._schemas[schema] = at
        return at

    def _append(self, length: int, kind: Kind, key: bytes = b"", schema: int = 0) -> int:
        """The offset of a new record of zeroes."""
        head = layout.head(length, kind, key, schema)
        kept = self._free.get(length)
        if kept:
            at = kept.pop()
            self.write(at + 8, head[8:] + bytes(length - len(head)))
            self._begin_record(at, head[:8])
            return at
        while True:
            at = self._used
            end = self._segment(at)[1] if at < self._end else at
            if end - at < length and end == self._end:
                self._grow(max(min(end, _MOST), -(-length // _FIRST) * _FIRST))
            if end - at >= length:
                if self._take(at, head, length):
                    return at
            elif end > at:  # a record is in one segment
                self._take(at, layout.first_word(end - at, Kind.FREE), end - at)

    def _take(self, at: int, head: bytes, length: int) -> bool:
        """Begin a record at *at*, if the last one still ends there; whether it did.

        A signal handler that counts may have come in: between the question and the answer nothing is called.
        """
        start, _, view = self._segment(at)
        where = slice(at - start, at - start + len(head))
        end, used = at + length, self._used_cell()
        if self._used != at:
            return False
        view[where] = head
        self._used = used[0] = end
        return True

    def _begin_record(self, at: int, first_word: bytes) -> None:
        """Store the first eight bytes of a head at once, which makes the record at *at* what they say."""
        self.words(at, 8).cast("Q")[0] = int.from_bytes(first_word, sys.byteorder)

    def _set_used(self, used: int) -> None:
        self._used = self._used_cell()[0] = used

    def _used_cell(self) -> memoryview:
        return self.words(0, layout.HEADER)[layout.USED_AT : layout.USED_AT + 8].cast("Q")

    def _grow(self, by: int) -> None:
        self._map(self._end, by)

    def _map(self, start: int, length: int) -> None:
        """Allocate and map *length* bytes from *start* on. Not by the locked descriptor: it may be another's now."""
        import resource  # not on every system

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY and start + length > limit:  # else a signal that ends some processes
            raise OSError(errno.EFBIG, f"{self.name} may not have more than {limit} bytes (RLIMIT_FSIZE)")
        fd = self.directory.open(self.name, os.O_RDWR)
        try:
            if _identity(os.fstat(fd)) != self._identity:
                raise FileNotFoundError(f"{self.name} was replaced")
            os.posix_fallocate(fd, start, length)
            segments = [(start, start + length, memoryview(mmap.mmap(fd, length, offset=start)))]
        finally:
            os.close(fd)
        if self._end == start:  # else a signal handler came in, and it has grown already
            self._segments += segments
            self._end = start + length

    def _adopt(self, now: float) -> None:
        """Go on where the last owner was when it ended. Raises `DamagedError` for what it can not have left."""
        size = os.fstat(self.lock_fd).st_size
        data = os.pread(self.lock_fd, size, 0)
        if not any(data):  # its maker ended before it was one
            self._make(_FIRST)
            return
        used = layout.used(data, size)
        size -= size % mmap.ALLOCATIONGRANULARITY
        if size < used:
            raise DamagedError("truncated", f"{size} bytes in whole pages are left of {used}")
        records = list(layout.records(data, layout.HEADER, used))
        schemas = {at: Schema.decode(head.key) for at, head in records if head.kind == Kind.SCHEMA}
        for _, head in records:
            if head.kind == Kind.SERIES:
                schema = schemas.get(head.schema)
                if schema is None or layout.place(len(head.key), schema.buckets).end != head.length:
                    raise DamagedError("record", "a series without its schema")
        self._map(0, size)  # which allocates it too: a file of ours has no holes, but somebody may have copied it
        self._used = used
        self._schemas = {schema: at for at, schema in schemas.items()}
        wanted: set[int] = set()
        series = [(at, (schemas[head.schema], head.key)) for at, head in records if head.kind == Kind.SERIES]
        # When the owner ended nobody knows. It lived when it took its newest exemplar: whoever replaces it may have
        # needed long to start.
        alive_at = max((self._taken_last(at, key) for at, key in series), default=now)
        for at, key in series:
            wanted |= self._begin(at, key, min(alive_at, now))
            self.dormant.setdefault(key[0], {})[key[1]] = at
        for at, head in records:
            if head.kind == Kind.LABELS and at + layout.HEAD not in wanted:
                self.free(at, head.length)
            elif head.kind == Kind.FREE:
                self._free.setdefault(head.length, []).append(at)
        self.words(0, layout.HEADER)[layout.PID_AT : layout.PID_AT + 8].cast("Q")[0] = self.pid

    def _taken_last(self, at: int, key: Key) -> float:
        """When the newest exemplar of a series was taken, in seconds of the monotonic clock."""
        parts = layout.place(len(key[1]), key[0].buckets)
        record = self.words(at, parts.end)
        stamps = record[parts.stamps : parts.slots].cast("Q").tolist()
        slots = layout.glance_at_slots(record[parts.slots :], key[0].buckets)
        return max((taken for stamped, (taken, _) in zip(stamps, slots, strict=True) if stamped), default=-math.inf)

    def _begin(self, at: int, key: Key, alive_at: float) -> set[int]:
        """Live gauges back to 0; exemplars that may lead nowhere to their time. Offsets of the labels that stay."""
        schema, labels = key
        parts = layout.place(len(labels), schema.buckets)
        record = self.words(at, parts.end)
        if schema.live:
            record[parts.numbers : parts.counts] = bytes(layout.NUMBERS)
        stamps = record[parts.stamps : parts.slots].cast("Q")
        wanted = set()
        slots = layout.glance_at_slots(record[parts.slots :], schema.buckets)
        for index, (stamped, (taken_at, labels_at)) in enumerate(zip(stamps.tolist(), slots, strict=True)):
            if stamped and not stamped & 1:
                if alive_at - taken_at < layout.UNSENT:
                    stamps[index] = stamped | 1
                else:
                    wanted.add(labels_at)
        return wanted


def _say_taken_over(fd: int) -> bytes:
    """Have scrapes know that what stands in the file *fd* is the last owner's still, until its next is done with it.

    Before that one has it: else they could take it for the next one's in between. Under the lock of the directory, in
    which nobody else comes to have it meanwhile. Returns the bytes that stood there.
    """
    start = os.pread(fd, layout.HEADER, 0)
    if len(start) < layout.HEADER or not start.startswith(layout.MAGIC):
        return b""
    os.pwrite(fd, layout.encode_pid(0), layout.PID_AT)
    return start[layout.PID_AT : layout.PID_AT + 8]


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino

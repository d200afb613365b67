"""The files of a whole group, merged: counts added up, of each bucket the newest exemplar.

Read by `pread`, never through a mapping: a file cut short by somebody cannot end the process that reads it.
"""

import os
import struct
import sys
from _thread import RLock
from collections.abc import Callable, Iterator
from functools import cache
from math import fsum
from typing import Final

from exemplars import semconv
from exemplars.policy import Slot
from exemplars.store import layout, ofd
from exemplars.store.directory import Directory
from exemplars.store.layout import DamagedError, Kind, Schema
from exemplars.store.memory import Reading

_STEP: Final = 128  # records after which a step ends: a fraction of a millisecond's work
_ORDER: Final = sys.byteorder
_NUMBERS: Final = struct.Struct("=dd")
_U64: Final = struct.Struct("=Q")

# Reason, name of the file, what is wrong.
Report = Callable[[str, str, str], None]


@cache
def _words(count: int) -> struct.Struct:
    return struct.Struct(f"={count}Q")


@cache
def _too_much(count: int) -> int:
    """The bits that no count has, of *count* of them side by side."""
    return sum((0xFF << 56) << 64 * index for index in range(count))


def _sum(values: list[float]) -> float:
    """The sum, the same whatever the order: one that differs in its last bit by who adds it up looks like a restart."""
    try:
        return fsum(values)
    except (OverflowError, ValueError):  # of infinities
        return sum(values)


class Merged:
    """One series as all workers together have it."""

    __slots__ = ("_latest", "key", "labels", "parts", "schema")

    def __init__(self, schema: Schema, key: bytes) -> None:
        values = layout.decode_labels(key, schema)
        self.schema = schema
        self.key = key
        self.labels: tuple[tuple[str, str], ...] = (
            ((semconv.OVERFLOW, "true"),) if values is None else tuple(zip(schema.labelnames, values, strict=True))
        )
        # Whose numbers these are, in the order of the files, with the offset of the numbers in each.
        self.parts: list[tuple[_File, int]] = []
        self._latest: Reading = ([0] * schema.buckets, 0.0, [None] * schema.buckets, 0)

    def read(self) -> Reading:
        """Counts, sum, slots and the number of their changes. The lists are not to be changed."""
        return self._latest

    def merge(self, slots_too: bool) -> None:
        """Add up what the files say now; *slots_too*: their exemplars may have changed."""
        _, _, slots, changes = self._latest
        schema = self.schema
        if schema.kind == "gauge":
            self._latest = ([0], self._gauge(), slots, changes)
            return
        buckets = schema.buckets
        width = 8 * buckets
        words, too_much = _words(buckets), _too_much(buckets)
        added, sums = 0, []
        for file, at in self.parts:
            counts_at = at + layout.NUMBERS
            # All the counts of a series as one number: they are added at once, and none spills into the next.
            counts = int.from_bytes(file.data[counts_at : counts_at + width], _ORDER)
            if counts & too_much:
                file.damage = "a count that nobody could have reached"
                continue
            added += counts
            sums.append(_NUMBERS.unpack_from(file.data, at)[0])
        if slots_too:
            fresh = self._slots(slots, width, words)
            if fresh != slots:
                slots, changes = fresh, changes + 1
        self._latest = (list(words.unpack(added.to_bytes(width, _ORDER))), _sum(sums), slots, changes)

    def _slots(self, slots: list[Slot | None], width: int, words: struct.Struct) -> list[Slot | None]:
        """The newest exemplar of each bucket, where there is one to show.

        None where the newest is gone, or is not whole, or two bear the same time: any other would be older than, or as
        old as, what another scrape may have been told, which Prometheus refuses.
        """
        stamps_at = layout.NUMBERS + width
        columns = [words.unpack_from(file.data, at + stamps_at) for file, at in self.parts]
        newest = columns[0] if len(columns) == 1 else tuple(map(max, *columns))
        fresh: list[Slot | None] = []
        for index, stamped in enumerate(newest):
            slot = None
            if stamped and not stamped & 1:
                bearers = [number for number, column in enumerate(columns) if column[index] == stamped]
                if len(bearers) == 1:
                    slot = slots[index]
                    if slot is None or slot.timestamp_ms * 2 != stamped:
                        file, at = self.parts[bearers[0]]
                        slot = file.slot(at + stamps_at + 8 * index, at + stamps_at + width + layout.SLOT * index)
            fresh.append(slot)
        return fresh

    def _gauge(self) -> float:
        mode = self.schema.mode.removeprefix("live")
        numbers = [_NUMBERS.unpack_from(file.data, at) for file, at in self.parts if file.owned or not self.schema.live]
        if not numbers:
            return 0.0
        if mode == "mostrecent":
            return float(max(numbers, key=lambda each: each[1])[0])
        values = [value for value, _ in numbers]
        return float(min(values) if mode == "min" else max(values) if mode == "max" else _sum(values))


class _Entry:
    """A series' record in a file: where it begins, where its numbers do, where it ends; and whose it is.

    Of free room, and of what may become it, it is the first word, and nobody's: another series may begin there.
    """

    __slots__ = ("end", "merged", "numbers", "start")

    def __init__(self, start: int, numbers: int, end: int, merged: Merged | None) -> None:
        self.start = start
        self.numbers = numbers
        self.end = end
        self.merged = merged


class _File:
    """What was last read of a worker's file."""

    def __init__(self, name: str, reread: Callable[[str, int, int], bytes]) -> None:
        self.name = name
        self.data = b""
        self.owned = False
        self.entries: list[_Entry] = []
        self.schemas: dict[int, Schema] = {}
        self.walked = layout.HEADER
        self.damage = ""
        self._reread = reread

    def slot(self, stamp_at: int, at: int) -> Slot | None:
        """The exemplar at *at*, whose stamp is at *stamp_at*; what does not check is read once more."""
        slot = self._slot(self.data, at, _U64.unpack_from(self.data, stamp_at)[0])
        if slot is None:
            try:
                (stamped,) = _U64.unpack(self._reread(self.name, stamp_at, 8))
                data = self.data[:at] + self._reread(self.name, at, layout.SLOT) + self.data[at + layout.SLOT :]
                slot = self._slot(data, at, stamped)
            except (OSError, struct.error):
                pass
        return slot

    @staticmethod
    def _slot(data: bytes, at: int, stamped: int) -> Slot | None:
        slot = layout.decode_slot(data, at, stamped)
        if slot is not None and not slot.trace_id:
            slot.labels = layout.decode_text(data, slot.span_id, stamped)
            if slot.labels is None:
                return None
        return slot


class Reader:
    """The files of *directory* as they are merged; *report* is told what had to be left out.

    Any number of scrapes may go on at once, in threads or in turns of an event loop: they share the work.
    """

    def __init__(self, directory: Directory, report: Report) -> None:
        self.directory = directory
        self.workers = 0  # whose files have an owner
        self.is_whole = False  # whether it has read all that there is, at least once
        self._report = report
        self._files: dict[str, _File] = {}
        self._series: dict[Schema, dict[bytes, Merged]] = {}
        self._lock = RLock()  # the interpreter's own: see exemplars._lock
        self._pass: Iterator[None] | None = None
        self._begun = self._done = 0

    def series(self, schema: Schema) -> list[Merged]:
        """The series of *schema*, as of the last `refresh`."""
        return list(self._series.get(schema, {}).values())

    def schemas(self) -> list[Schema]:
        """What there are series of."""
        return list(self._series)

    def refresh(self) -> Iterator[None]:
        """Read what changed, in steps of a fraction of a millisecond; at the end, all that was stored before is there.

        A pass that another scrape left in the middle is gone on with, and one of its own follows.
        """
        mine = self._begun + 1
        while self._done < mine:
            with self._lock:
                work = self._pass
                if work is None:
                    work = self._pass = self._work()
                    self._begun += 1
                try:
                    next(work)
                except StopIteration:
                    self._pass = None
                    self._done = self._begun
                except ValueError:
                    if not getattr(work, "gi_running", False):
                        raise
                    return  # a signal handler that scrapes in the middle of a step: it shows what was there before
                except BaseException:
                    self._pass = None  # what it had found is not known: begin again
                    self._done = self._begun
                    self.is_whole = False
                    self._files.clear()
                    self._series.clear()
                    raise
            yield

    def _work(self) -> Iterator[None]:
        changed: dict[Merged, bool] = {}
        try:
            names = self.directory.files()
        except OSError as error:
            self._report("unreadable", "", str(error))  # all stays as it was
            return
        for gone in self._files.keys() - set(names):
            self._forget(self._files.pop(gone), changed)
        owned = 0
        for name in names:
            file = self._files.get(name)
            try:
                data, is_owned = self._read(name)
            except FileNotFoundError:
                continue
            except OSError as error:
                # Its numbers stay as they were: a sum that falls would look like a restart.
                self._report("unreadable", name, str(error))
                owned += file is not None and file.owned
                continue
            except DamagedError as error:
                self._report(error.reason, name, str(error))
                if file is not None:
                    self._forget(self._files.pop(name), changed)
                continue
            owned += is_owned
            if file is None:
                file = self._files[name] = _File(name, self._reread)
            yield from self._update(file, data, is_owned, changed)
            yield
        self.workers = owned
        for number, (merged, slots_too) in enumerate(changed.items(), 1):
            if merged.parts:
                merged.merge(slots_too)
            else:
                self._series[merged.schema].pop(merged.key, None)
            if number % (_STEP // 4) == 0:
                yield
        for file in self._files.values():
            if file.damage:
                self._report("record", file.name, file.damage)
                file.damage = ""
        for schema in [schema for schema, series in self._series.items() if not series]:
            del self._series[schema]
        self.is_whole = True

    def _read(self, name: str) -> tuple[bytes, bool]:
        """The records of a file with its header, and whether it has an owner."""
        fd = self.directory.open(name, os.O_RDONLY)
        try:
            start = os.pread(fd, layout.HEADER, 0)
            size = os.fstat(fd).st_size  # afterwards: it grows before it says so
            if name not in self._files and not any(start) and (not size or ofd.held(fd)):
                raise FileNotFoundError(f"{name} is only being made")
            end = layout.used(start, size)
            data = os.pread(fd, end, 0)
            if len(data) < end:
                raise DamagedError("truncated", f"{len(data)} bytes are left of {end}")
            return data, ofd.held(fd)
        finally:
            os.close(fd)

    def _reread(self, name: str, at: int, length: int) -> bytes:
        fd = self.directory.open(name, os.O_RDONLY)
        try:
            return os.pread(fd, length, at)
        finally:
            os.close(fd)

    def _update(self, file: _File, data: bytes, owned: bool, changed: dict[Merged, bool]) -> Iterator[None]:
        """Find the series of *file* that changed, and those that are new."""
        last = file.data
        if owned != file.owned:
            file.owned = owned
            for entry in file.entries:
                if entry.merged is not None and entry.merged.schema.live:
                    changed.setdefault(entry.merged, False)
        if data == last:
            return
        if len(data) < len(last):
            self._forget(file, changed)
        file.data = data
        for number, entry in enumerate(file.entries, 1):
            start, end = entry.start, entry.end
            if data[start:end] != last[start:end]:
                numbers, merged = entry.numbers, entry.merged
                if merged is None or data[start:numbers] != last[start:numbers]:
                    self._forget(file, changed)  # another record stands there: begin again
                    file.data = data
                    break
                stamps = numbers + layout.NUMBERS + 8 * merged.schema.buckets
                changed[merged] = changed.get(merged, False) or data[stamps:end] != last[stamps:end]
            if number % _STEP == 0:
                yield
        if file.walked < len(data):
            yield from self._walk(file, changed)

    def _walk(self, file: _File, changed: dict[Merged, bool]) -> Iterator[None]:
        """Take up the records of *file* that are not known yet; read all of it once more where one does not check."""
        try:
            try:
                yield from self._walk_once(file, changed)
            except DamagedError:
                data, _ = self._read(file.name)
                self._forget(file, changed)
                file.data = data
                yield from self._walk_once(file, changed)
        except (DamagedError, OSError) as error:
            file.damage = str(error)

    def _walk_once(self, file: _File, changed: dict[Merged, bool]) -> Iterator[None]:
        for number, (at, head) in enumerate(layout.records(file.data, file.walked, len(file.data)), 1):
            if head.kind == Kind.SERIES:
                self._take_up(file, at, head, changed)
            elif head.kind != Kind.SCHEMA:
                file.entries.append(_Entry(at, at + 8, at + 8, None))
            file.walked = at + head.length
            if number % _STEP == 0:
                yield

    def _take_up(self, file: _File, at: int, head: layout.Head, changed: dict[Merged, bool]) -> None:
        schema = file.schemas.get(head.schema)
        if schema is None:
            described = layout.read_head(file.data, head.schema, len(file.data))
            schema = file.schemas[head.schema] = Schema.decode(described.key)
        parts = layout.place(len(head.key), schema.buckets)
        if parts.end != head.length:
            raise DamagedError("record", f"the series at {at} is not as long as its schema wants")
        series = self._series.setdefault(schema, {})
        merged = series.get(head.key)
        if merged is None:
            merged = series[head.key] = Merged(schema, head.key)
        file.entries.append(_Entry(at, at + parts.numbers, at + parts.end, merged))
        merged.parts.append((file, at + parts.numbers))
        changed[merged] = True

    def _forget(self, file: _File, changed: dict[Merged, bool]) -> None:
        """Take what *file* said out of every series."""
        for merged in {entry.merged for entry in file.entries}:
            if merged is not None:
                merged.parts = [part for part in merged.parts if part[0] is not file]
                changed[merged] = True
        file.entries = []
        file.schemas = {}
        file.walked = layout.HEADER
        file.data = b""

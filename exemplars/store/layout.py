"""The bytes of a worker's file: what they mean, how they are made, how they are checked. Pure: no file is touched.

A header of 64 bytes, then records without a gap, each a multiple of 16 bytes long. What many may read while one writes
is either one aligned 8-byte number, which a machine stores at once, or bears a CRC-32: Python has no memory fences, so
that nothing can be said by the order of two stores.

    header   magic, version, a mark of the byte order; the offset after the last record; the process that writes, or 0
             while one takes over what another has left
    record   head of 16 bytes: length, kind, length of the key, offset of its schema, CRC-32 of these and the key; key
    schema   its key is a `Schema` as JSON
    series   its key are the label values as JSON; then sum and time of the last set (two doubles), a count per bucket,
             a stamp per bucket, an exemplar of 40 bytes per bucket
    labels   the labels of a caller's own exemplar, to which an exemplar without trace id points
    free     room of a record that is no more. A record is freed, and its room used again, by storing the first eight
             bytes of its head, so that whenever a process ends, the records behind it can be found; without a check

A *stamp* is the exemplar's timestamp in milliseconds, times 2, plus 1 where only the time is left: the exemplar is
gone, or was never written whole, but no older one may be shown any more. 0: there was none yet. An exemplar's checksum
covers its stamp.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import Any, Final, NamedTuple, overload
from zlib import crc32

from exemplars.policy import Slot

VERSION: Final = 1
# Tells a file of another layout, word size or byte order apart.
MAGIC: Final = struct.pack("=8sII", b"exemplar", VERSION, 0x01020304)
HEADER: Final = 64
USED_AT: Final = 16  # offset of the offset after the last record
PID_AT: Final = 24
HEAD: Final = 16
NUMBERS: Final = 16  # sum and time
SLOT: Final = 40
LABELS_TEXT: Final = 1032  # bytes: more than 128 code points of labels can take, at 6 for each in JSON
LABELS_SIZE: Final = HEAD + 8 + LABELS_TEXT
MAX_KEY: Final = 16_384  # bytes
MAX_BUCKETS: Final = 1_000
# Of a count. Above it the sum of many would leave its eight bytes.
MAX_COUNT: Final = 2**56 - 1
# Seconds, with the rounding of the file. Exemplars that were younger when their worker ended are not shown: the spans
# behind them may have died unsent with it.
UNSENT: Final = 10.1

_HEAD: Final = struct.Struct("=IHHI")
_WORD: Final = struct.Struct("=IHH")
_CRC: Final = struct.Struct("=I")
_U64: Final = struct.Struct("=Q")
_SLOT: Final = struct.Struct("=d16s8sI")
_STORED: Final = struct.Struct("=Qd16s8sI")
_tenths: Final[Callable[[bytes], tuple[int]]] = struct.Struct("=40xI").unpack
# Stamp, value, trace id, span id and tenths of seconds of an exemplar as `read_slots` gives it.
unpack_stored: Final[Callable[[bytes], tuple[int, float, bytes, bytes, int]]] = _STORED.unpack
_GLANCE: Final = struct.Struct("=8xQQQII")
_TEXT: Final = struct.Struct("=II")
_TENTHS: Final = 0xFFFFFFFF
# In a third of the time of `json.loads`, which also finds an encoding out and passes over space around the value.
_decode: Final[Callable[[str], tuple[Any, int]]] = json.JSONDecoder().raw_decode
_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)


class DamagedError(Exception):
    """The bytes are not what this version writes. *reason* is one of `REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


# Why a file, or some of it, is left out: not of this layout, cut short, a check that fails, not to be opened or read.
REASONS: Final = ("format", "truncated", "record", "unreadable")


class Kind(IntEnum):
    """What a record is."""

    # Far apart, as the check of a head does not hold while its record is free.
    FREE = 0xF4EE
    SCHEMA = 0x5C1D
    SERIES = 0x2BE3
    LABELS = 0x8B17


@dataclass(frozen=True, slots=True)
class Schema:
    """What makes two series one: registry, kind, name, unit, label names, upper bounds, a gauge's mode.

    Series of another schema are never added to these, whatever their labels. *documentation* and *max_age* (seconds)
    serve a worker that shows a metric it does not have itself; they make no difference.
    """

    registry: str
    kind: str
    name: str
    unit: str = ""
    labelnames: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    mode: str = ""
    documentation: str = field(default="", compare=False)
    max_age: float = field(default=240.0, compare=False)

    @property
    def buckets(self) -> int:
        """How many buckets its series have."""
        return len(self.bounds) + 1

    @property
    def live(self) -> bool:
        """Whether only workers that are alive count."""
        return self.mode.startswith("live")

    def encode(self) -> bytes:
        """Its bytes as the key of a record."""
        return json.dumps(
            [
                self.registry,
                self.kind,
                self.name,
                self.unit,
                self.labelnames,
                self.bounds,
                self.mode,
                self.documentation,
                self.max_age,
            ]
        ).encode()

    @classmethod
    def decode(cls, key: bytes) -> "Schema":
        """The inverse of `encode`. Raises `DamagedError` for anything that is not a metric's."""
        try:
            registry, kind, name, unit, labelnames, bounds, mode, documentation, max_age = json.loads(key)
            texts = (registry, kind, name, unit, mode, documentation, *labelnames)
            if not all(isinstance(text, str) for text in texts) or kind not in ("histogram", "counter", "gauge"):
                raise ValueError("not a metric's")
            if not _METRIC_NAME.fullmatch(name) or not all(map(_LABEL_NAME.fullmatch, labelnames)):
                raise ValueError("not a name")
            bounds = tuple(map(float, bounds))
            rising = all(lower < upper for lower, upper in zip(bounds, bounds[1:], strict=False))
            if not rising or not all(map(math.isfinite, bounds)) or (kind == "histogram") != bool(bounds):
                raise ValueError("not the bounds of a histogram")
            if len(bounds) >= MAX_BUCKETS or not 0 < float(max_age) < math.inf:
                raise ValueError("out of bounds")
            return cls(registry, kind, name, unit, tuple(labelnames), bounds, mode, documentation, float(max_age))
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise DamagedError("record", f"a schema that is none: {error}") from None


OVERFLOW_KEY: Final = b"true"


def encode_labels(values: tuple[str, ...] | None) -> bytes:
    """Label values as the key of a record; ``None``: the series that takes what is above ``max_series``."""
    return OVERFLOW_KEY if values is None else json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def decode_labels(key: bytes, schema: Schema) -> tuple[str, ...] | None:
    """The inverse of `encode_labels`. Raises `DamagedError` unless they are as many texts as *schema* has labels."""
    if key == OVERFLOW_KEY and schema.labelnames:
        return None
    try:
        text = key.decode()
        values, end = _decode(text)
        if end != len(text) or not isinstance(values, list) or len(values) != len(schema.labelnames):
            raise ValueError(f"{len(schema.labelnames)} label values are wanted")
        "".join(values).encode()
        return tuple(values)
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedError("record", f"label values that are none: {error}") from None


class Place(NamedTuple):
    """Where the parts of a series' record are, as offsets from its beginning."""

    numbers: int
    counts: int
    stamps: int
    slots: int
    end: int


def padded(length: int) -> int:
    """*length* rounded up to what a record's can be."""
    return (length + 15) & ~15


def place(key_length: int, buckets: int) -> Place:
    """The parts of a series' record with a key of *key_length* bytes and *buckets* buckets."""
    numbers = HEAD + padded(key_length)
    counts = numbers + NUMBERS
    stamps = counts + 8 * buckets
    slots = stamps + 8 * buckets
    return Place(numbers, counts, stamps, slots, padded(slots + SLOT * buckets))


def header(pid: int) -> bytes:
    """The header of a file without records."""
    return (MAGIC + _U64.pack(HEADER) + encode_pid(pid)).ljust(HEADER, b"\0")


def encode_pid(pid: int) -> bytes:
    """The bytes of *pid* in a header; 0: who has the file now is not done with what another has left."""
    return _U64.pack(pid)


def is_taken_over(data: bytes) -> bool:
    """Whether the file that begins with *data*, if it has an owner, still is as another has left it."""
    return data[PID_AT : PID_AT + 8] == encode_pid(0)


def used(data: bytes, size: int) -> int:
    """The offset after the last record, of a file of *size* bytes that begins with *data*.

    Raises `DamagedError`: ``format`` for a file of another kind or version, ``truncated`` where bytes are missing.
    """
    if len(data) < HEADER:
        raise DamagedError("truncated", f"{len(data)} bytes are less than a header")
    if data[: len(MAGIC)] != MAGIC:
        raise DamagedError("format", "not written by this version of exemplars on this kind of machine")
    end: int = _U64.unpack_from(data, USED_AT)[0]
    if end < HEADER or end % 16:
        raise DamagedError("record", f"{end} is no end of the records")
    if end > size:
        raise DamagedError("truncated", f"{size} bytes are left of {end}")
    return end


def head(length: int, kind: Kind, key: bytes = b"", schema: int = 0) -> bytes:
    """Head and key of a record of *length* bytes; *schema* is the offset of its schema's record."""
    start = _HEAD.pack(length, kind, len(key), schema)
    return start + _CRC.pack(crc32(key, crc32(start))) + key


def first_word(length: int, kind: Kind, key_length: int = 0) -> bytes:
    """The first eight bytes of a head."""
    return _WORD.pack(length, kind, key_length)


class Head(NamedTuple):
    """What a record's head says: `length` in bytes, `kind`, `key` and the offset of the schema."""

    length: int
    kind: int
    key: bytes
    schema: int


def read_head(data: bytes, at: int, end: int, base: int = 0) -> Head:
    """The head of the record at offset *at* of a file, whose bytes from *base* on are *data*.

    Raises `DamagedError` unless its check holds and it ends by *end*.
    """
    if at < HEADER or at % 16 or at + HEAD > end:
        raise DamagedError("record", f"no room for a record at {at}")
    here = at - base
    if len(data) < here + HEAD:
        raise DamagedError("truncated", f"the file ends within the record at {at}")
    length, kind, key_length, schema = _HEAD.unpack_from(data, here)
    if kind == Kind.FREE:
        if length < HEAD or length % 16 or at + length > end:
            raise DamagedError("record", f"free room of {length} bytes at {at}")
        return Head(length, kind, b"", 0)
    key = data[here + HEAD : here + HEAD + key_length]
    if crc32(key, crc32(data[here : here + 12])) != _CRC.unpack_from(data, here + 12)[0]:
        raise DamagedError("record", f"the check of the record at {at} fails")
    if length < padded(HEAD + key_length) or length % 16 or at + length > end:
        raise DamagedError("record", f"a record at {at} of {length} bytes")
    return Head(length, kind, key, schema)


def records(data: bytes, at: int, end: int) -> Iterator[tuple[int, Head]]:
    """Offset and head of each record from *at* to *end*. Raises `DamagedError` at the first that is none."""
    while at < end:
        found = read_head(data, at, end)
        yield at, found
        at += found.length


def stamp(timestamp_ms: int, *, only_time: bool = False) -> int:
    """A timestamp as it stands beside an exemplar; *only_time*: there is none to show."""
    return timestamp_ms * 2 + only_time


def _folded(stamped: int) -> int:
    """All 64 bits of a stamp as the 32 that a checksum can start from."""
    return (stamped ^ stamped >> 32) & 0xFFFFFFFF


def encode_slot(slot: Slot, labels_at: int = 0) -> bytes:
    """The 40 bytes of *slot*; *labels_at* is where its own labels stand, if it has some."""
    if slot.labels is None:
        trace_id, span_id = slot.trace_id.to_bytes(16, "big"), slot.span_id.to_bytes(8, "big")
    else:
        trace_id, span_id = bytes(16), _U64.pack(labels_at)
    body = _SLOT.pack(slot.value, trace_id, span_id, int(slot.taken_at * 10) & _TENTHS)
    return body + _CRC.pack(crc32(body, _folded(stamp(slot.timestamp_ms))))


def decode_slot(data: bytes | memoryview, at: int, stamped: int) -> Slot | None:
    """The exemplar at *at* that bears *stamped*; ``None`` where its check fails, as in the middle of a write.

    One without a trace id has its labels elsewhere in the file, at the offset that is its span id: see `decode_text`.
    """
    if crc32(data[at : at + 36], _folded(stamped)) != _CRC.unpack_from(data, at + 36)[0]:
        return None
    value, trace_id, span_id, tenths = _SLOT.unpack_from(data, at)
    taken_at = tenths / 10
    trace = int.from_bytes(trace_id, "big")
    span = int.from_bytes(span_id, "big") if trace else _U64.unpack(span_id)[0]
    return Slot(value, stamped >> 1, taken_at, taken_at, trace, span)


def stamp_of(exemplar: bytes | Slot) -> int:
    """Its stamp, whichever way it is kept."""
    return int(_U64.unpack_from(exemplar)[0]) if isinstance(exemplar, bytes) else stamp(exemplar.timestamp_ms)


def taken_at(exemplar: bytes | Slot) -> float:
    """When it was taken, in seconds of the monotonic clock, whichever way it is kept."""
    return _tenths(exemplar)[0] / 10 if isinstance(exemplar, bytes) else exemplar.taken_at


class Exemplars(Sequence[Slot | None]):
    """The exemplars of a series as files have them, in a fraction of the room; made slots when they are asked for.

    *raw* is what `read_slots` gave, a slot for one with labels of its own, or ``None``; it is not to be changed.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: "list[bytes | Slot | None]") -> None:
        self.raw = raw

    def __len__(self) -> int:
        return len(self.raw)

    @overload
    def __getitem__(self, index: int) -> Slot | None: ...
    @overload
    def __getitem__(self, index: slice) -> "Exemplars": ...
    def __getitem__(self, index: int | slice) -> "Slot | Exemplars | None":
        if isinstance(index, slice):
            return Exemplars(self.raw[index])
        found = self.raw[index]
        if not isinstance(found, bytes):
            return found
        stamped, value, trace_id, span_id, tenths = unpack_stored(found)
        taken = tenths / 10
        return Slot(value, stamped >> 1, taken, taken, int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"))


@cache
def _slots(count: int) -> struct.Struct:
    return struct.Struct("=" + "36sI" * count)


@cache
def _stamps(count: int) -> struct.Struct:
    return struct.Struct("=" + "8s" * count)


@cache
def _halves(count: int) -> struct.Struct:
    return struct.Struct("=" + "II" * count)


def read_slots(data: bytes, at: int, stamps: bytes, buckets: Iterable[int]) -> list[tuple[int, bytes | None]]:
    """The exemplars of *buckets*, of a series that has them at *at*, in 44 bytes each; ``None`` where a check fails."""
    count = len(stamps) // 8
    slots = _slots(count).unpack_from(data, at)
    stamped, halves = _stamps(count).unpack(stamps), _halves(count).unpack(stamps)
    found: list[tuple[int, bytes | None]] = []
    for index in buckets:
        first, second = 2 * index, 2 * index + 1
        body = slots[first]
        whole = crc32(body, halves[first] ^ halves[second]) == slots[second]  # as `_folded` has it
        found.append((index, stamped[index] + body if whole else None))
    return found


def glance_at_slots(data: bytes | memoryview, buckets: int) -> Iterator[tuple[float, int]]:
    """When each of *buckets* exemplars was taken, and where its own labels are; 0 if it has none. Unchecked."""
    for trace_high, trace_low, span_id, tenths, _ in _GLANCE.iter_unpack(data[: SLOT * buckets]):
        yield tenths / 10, 0 if trace_high or trace_low else span_id


def encode_text(labels: Mapping[str, str], stamped: int) -> bytes:
    """What follows the head of a record of labels. Raises ``ValueError`` where they are too long for it."""
    text = json.dumps(dict(labels), ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) > LABELS_TEXT:
        raise ValueError(f"exemplar labels of {len(text)} bytes: at most {LABELS_TEXT}")
    return _TEXT.pack(len(text), crc32(text, _folded(stamped))) + text


def decode_text(data: bytes | memoryview, at: int, stamped: int) -> dict[str, str] | None:
    """The labels at *at* of an exemplar that bears *stamped*; ``None`` where their check fails or they are none."""
    if at + 8 > len(data):
        return None
    length, check = _TEXT.unpack_from(data, at)
    text = bytes(data[at + 8 : at + 8 + min(length, LABELS_TEXT)])
    if crc32(text, _folded(stamped)) != check:
        return None
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError):
        return None
    valid = isinstance(labels, dict) and all(
        isinstance(value, str) and _LABEL_NAME.fullmatch(name) for name, value in labels.items()
    )
    return labels if valid else None

"""The bytes of a worker's file: what is written is read again, and whatever else stands there is noticed."""

import json
import math
import struct
from collections.abc import Callable
from typing import Any, Final
from zlib import crc32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exemplars import metrics
from exemplars.policy import Slot
from exemplars.store import layout
from exemplars.store.layout import DamagedError, Kind, Schema

NAMES: Final = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]*", fullmatch=True)
TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"]))
MILLISECONDS: Final = st.integers(1, 2**62)
BOUNDS: Final = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20, unique=True)
AGES: Final = st.floats(0, exclude_min=True, allow_infinity=False)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    kind = draw(st.sampled_from(("histogram", "counter", "gauge")))
    bounds = sorted({bound + 0.0 for bound in draw(BOUNDS)}) if kind == "histogram" else ()
    return Schema(
        draw(TEXTS),
        kind,
        draw(NAMES),
        draw(st.sampled_from(("", "seconds"))),
        tuple(draw(st.lists(NAMES, unique=True, max_size=5))),
        tuple(bounds),
        draw(st.sampled_from(("min", "livesum"))) if kind == "gauge" else "",
        draw(st.text()),  # documentation is anybody's: also what UTF-8 cannot spell
        draw(AGES),
    )


@st.composite
def slots(draw: st.DrawFn) -> Slot:
    taken_at = draw(st.integers(0, 2**32 - 1)) / 10
    return Slot(
        draw(st.floats(allow_nan=False)),
        draw(MILLISECONDS),
        taken_at,
        taken_at,
        draw(st.integers(1, 2**128 - 1)),
        draw(st.integers(1, 2**64 - 1)),
    )


def parts(slot: Slot) -> tuple[object, ...]:
    return slot.value, slot.timestamp_ms, slot.trace_id, slot.span_id, slot.labels


def flipped(data: bytes, bit: int) -> bytes:
    """*data* with one bit turned."""
    return data[: bit // 8] + bytes((data[bit // 8] ^ 1 << bit % 8,)) + data[bit // 8 + 1 :]


def flips(data: bytes) -> list[bytes]:
    return [flipped(data, bit) for bit in range(8 * len(data))]


def only_damaged(read: Callable[[], object]) -> DamagedError | None:
    """What *read* raises, which may be that alone."""
    try:
        read()
    except DamagedError as error:
        assert error.reason in layout.REASONS
        return error
    return None


# --- keys -----------------------------------------------------------------------------------------------------------


@given(schemas())
def test_a_schema_is_read_as_it_was_written(schema: Schema) -> None:
    read = Schema.decode(schema.encode())

    assert read == schema
    assert (read.documentation, read.max_age) == (schema.documentation, schema.max_age)
    assert read.buckets == len(schema.bounds) + 1


def test_documentation_and_age_make_no_other_schema_and_everything_else_does() -> None:
    schema = Schema("r", "gauge", "n", "u", ("a",), (), "sum", "d", 1.0)
    assert schema == Schema("r", "gauge", "n", "u", ("a",), (), "sum", "other", 2.0)
    others = {
        Schema("s", "gauge", "n", "u", ("a",), (), "sum"),
        Schema("r", "counter", "n", "u", ("a",), (), "sum"),
        Schema("r", "gauge", "m", "u", ("a",), (), "sum"),
        Schema("r", "gauge", "n", "v", ("a",), (), "sum"),
        Schema("r", "gauge", "n", "u", ("b",), (), "sum"),
        Schema("r", "gauge", "n", "u", ("a",), (1.0,), "sum"),
        Schema("r", "gauge", "n", "u", ("a",), (), "livesum"),
    }
    assert len(others) == 7
    assert schema not in others
    assert Schema("r", "gauge", "n", mode="livesum").live
    assert not schema.live


WELL: Final[list[Any]] = ["", "histogram", "n", "", ["a"], [1.0, 2.0], "", "d", 240.0]


@pytest.mark.parametrize(
    ("index", "wrong"),
    [
        (0, None),
        (1, "summary"),
        (1, []),
        (1, "counter"),  # which has no bounds
        (2, "1n"),
        (2, "n\n"),
        (2, ""),
        (3, 5),
        (4, "ab,"),
        (4, ["le gal"]),
        (4, [["a"]]),
        (4, 3),
        (4, None),
        (5, []),
        (5, [1.0, 1.0]),
        (5, [2.0, 1.0]),
        (5, [math.nan]),
        (5, [math.inf]),
        (5, ["one"]),
        (5, [[1.0]]),
        (5, 1.0),
        (5, [10**400]),
        (5, [*map(float, range(layout.MAX_BUCKETS))]),
        (6, 1),
        (7, None),
        (8, 0),
        (8, -1.0),
        (8, math.inf),
        (8, math.nan),
        (8, 10**400),
        (8, "old"),
        (8, None),
    ],
)
def test_a_schema_that_describes_no_metric_is_damage(index: int, wrong: Any) -> None:
    Schema.decode(json.dumps(WELL).encode())
    described = [*WELL]
    described[index] = wrong
    with pytest.raises(DamagedError) as caught:
        Schema.decode(json.dumps(described).encode())
    assert caught.value.reason == "record"


@given(st.lists(TEXTS, max_size=5).map(tuple))
@example(('"', "\\", "\0", "\n", "true"))
@example(("\U0001f600", "\x7f", "\u2028", "null", "[]"))
@example(())
def test_label_values_of_any_text_are_read_as_they_were_written(values: tuple[str, ...]) -> None:
    schema = Schema("", "counter", "n", labelnames=tuple(f"l{number}" for number in range(len(values))))
    assert layout.decode_labels(layout.encode_labels(values), schema) == values


@given(st.lists(st.lists(TEXTS, min_size=2, max_size=2).map(tuple), min_size=2, max_size=2, unique=True))
def test_other_label_values_are_another_key(both: list[tuple[str, ...]]) -> None:
    one, other = both
    assert layout.encode_labels(one) != layout.encode_labels(other)
    assert layout.encode_labels(None) not in (layout.encode_labels(one), layout.encode_labels(other))


def test_the_overflow_series_has_a_key_where_there_are_labels_only() -> None:
    key = layout.encode_labels(None)
    assert layout.decode_labels(key, Schema("", "counter", "n", labelnames=("a",))) is None
    with pytest.raises(DamagedError):
        layout.decode_labels(key, Schema("", "counter", "n"))


@pytest.mark.parametrize("surrogate", ["\ud800", "a\udfffb"])
def test_a_surrogate_is_cleaned_before_it_is_a_key_and_is_damage_in_one(surrogate: str) -> None:
    counter = metrics.Counter("n", "d", ("a",), registry=None)
    child = counter.labels(surrogate)
    schema = Schema("", "counter", "n", labelnames=("a",))
    assert layout.decode_labels(child.key, schema) == (surrogate.replace("\ud800", "?").replace("\udfff", "?"),)
    with pytest.raises(DamagedError):
        layout.decode_labels(json.dumps([surrogate]).encode(), schema)


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"[" * 100_000)
@example(b"[1]")
@example(b'["a"')
@example(b'"a"')
@example(b'{"a":1}')
@example(b"[" + b"9" * 5000 + b"]")
def test_a_key_of_any_bytes_is_read_or_damage(key: bytes) -> None:
    only_damaged(lambda: Schema.decode(key))
    for labelnames in ((), ("a",), ("a", "b")):
        schema = Schema("", "counter", "n", labelnames=labelnames)
        only_damaged(lambda schema=schema: layout.decode_labels(key, schema))  # type: ignore[misc]


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.lists(JSON, min_size=9, max_size=9) | JSON)
def test_a_schema_of_any_json_is_read_or_damage(described: Any) -> None:
    only_damaged(lambda: Schema.decode(json.dumps(described).encode()))


# --- the header -----------------------------------------------------------------------------------------------------


def test_a_new_header_says_that_there_is_nothing_behind_it() -> None:
    header = layout.header(77)
    assert len(header) == layout.HEADER
    assert layout.used(header, 65536) == layout.HEADER
    assert struct.unpack_from("=Q", header, layout.PID_AT) == (77,)


def test_a_file_of_another_kind_version_or_machine_is_of_another_format() -> None:
    header = layout.header(1)
    for other in flips(header[: layout.USED_AT]):
        with pytest.raises(DamagedError) as caught:
            layout.used(other + header[layout.USED_AT :], 65536)
        assert caught.value.reason == "format"


@pytest.mark.parametrize(
    ("end", "size", "reason"),
    [
        (0, 65536, "record"),
        (48, 65536, "record"),
        (72, 65536, "record"),
        (65552, 65536, "truncated"),
        (2**64 - 16, 65536, "truncated"),
        (80, 64, "truncated"),
    ],
)
def test_an_end_of_the_records_that_cannot_be_is_damage(end: int, size: int, reason: str) -> None:
    header = bytearray(layout.header(1))
    struct.pack_into("=Q", header, layout.USED_AT, end)
    with pytest.raises(DamagedError) as caught:
        layout.used(bytes(header), size)
    assert caught.value.reason == reason


@given(st.integers(0, layout.HEADER - 1))
def test_less_than_a_header_is_cut_short(length: int) -> None:
    with pytest.raises(DamagedError) as caught:
        layout.used(layout.header(1)[:length], length)
    assert caught.value.reason == "truncated"


# --- heads ----------------------------------------------------------------------------------------------------------

CHECKED: Final = tuple(kind for kind in Kind if kind is not Kind.FREE)
START: Final = layout.header(1)


@given(
    st.sampled_from(CHECKED), st.binary(max_size=100), st.integers(0, 2**32 - 1), st.integers(0, 50), st.integers(0, 9)
)
def test_a_head_is_read_as_it_was_written(kind: Kind, key: bytes, schema: int, more: int, before: int) -> None:
    length = layout.HEAD + layout.padded(len(key)) + 16 * more
    at = layout.HEADER + 16 * before
    data = START.ljust(at, b"x") + layout.head(length, kind, key, schema).ljust(length, b"\xff")

    assert layout.read_head(data, at, len(data)) == (length, kind, key, schema)
    assert layout.first_word(length, kind, len(key)) == data[at : at + 8]
    with pytest.raises(DamagedError):
        layout.read_head(data, at, len(data) - 1)
    with pytest.raises(DamagedError):
        layout.read_head(data, at + 8, len(data))


@given(st.sampled_from(CHECKED), st.binary(max_size=64), st.integers(0, 2**32 - 1))
def test_every_bit_flip_of_a_head_or_its_key_is_noticed(kind: Kind, key: bytes, schema: int) -> None:
    length = layout.HEAD + layout.padded(len(key))
    for wrong in flips(layout.head(length, kind, key, schema)):
        with pytest.raises(DamagedError) as caught:
            layout.read_head(START + wrong.ljust(length, b"\0"), layout.HEADER, layout.HEADER + length)
        assert caught.value.reason == "record"


@given(st.sampled_from(CHECKED), st.binary(max_size=64), st.integers(0, 9))
def test_a_record_is_freed_by_its_first_word_whatever_else_stands_in_it(kind: Kind, key: bytes, more: int) -> None:
    length = layout.HEAD + layout.padded(len(key)) + 16 * more
    written = layout.head(length, kind, key).ljust(length, b"x")
    freed = START + layout.first_word(length, Kind.FREE) + written[8:]
    assert layout.read_head(freed, layout.HEADER, len(freed)) == (length, Kind.FREE, b"", 0)
    for wrong in (length + 16, length - 8, 0):
        again = START + layout.first_word(wrong, Kind.FREE) + written[8:]
        with pytest.raises(DamagedError):
            layout.read_head(again, layout.HEADER, len(again))


def test_no_flip_of_two_bits_makes_one_kind_another() -> None:
    """The check of a head does not hold while its record is free: its kind alone says so."""
    for one in Kind:
        for other in Kind:
            assert one is other or (one ^ other).bit_count() > 2


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 400))
def test_a_head_of_any_bytes_is_read_or_damage(data: bytes, at: int, end: int) -> None:
    only_damaged(lambda: layout.read_head(START + data, at, min(end, len(START) + len(data))))


@given(
    st.lists(st.tuples(st.sampled_from(CHECKED), st.binary(max_size=40), st.integers(0, 9)), max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_records_are_found_one_after_the_other_until_one_is_damaged(
    made: list[tuple[Kind, bytes, int]], pick: int
) -> None:
    data = bytearray(START)
    starts = []
    for kind, key, more in made:
        length = layout.HEAD + layout.padded(len(key)) + 16 * more
        starts.append(len(data))
        data += layout.head(length, kind, key).ljust(length, b"\0")
    found = list(layout.records(bytes(data), layout.HEADER, len(data)))
    assert [(at, head.kind, head.key) for at, head in found] == [
        (at, kind, key) for at, (kind, key, _) in zip(starts, made, strict=True)
    ]
    if starts:
        number = pick % len(starts)
        data[starts[number] + 4] ^= 1
        before = []
        with pytest.raises(DamagedError):
            for at, _ in layout.records(bytes(data), layout.HEADER, len(data)):
                before.append(at)
        assert before == starts[:number]


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1), st.binary(max_size=100))
@example(0, 0, 0, b"")
@example(24, 0, 0, b"")
@example(0, Kind.FREE, 0, b"")
@example(16, Kind.SERIES, 1, b"a")
def test_a_head_that_checks_and_cannot_be_is_damage_too_so_that_a_walk_ends(
    length: int, kind: int, key_length: int, body: bytes
) -> None:
    start = struct.pack("=IHHI", length, kind, key_length, 0)
    data = START + start + struct.pack("=I", crc32(body[:key_length], crc32(start))) + body
    found: list[layout.Head] = []

    def walk() -> None:
        for at, head in layout.records(data, layout.HEADER, len(data)):
            assert head.length >= layout.HEAD
            assert at + head.length <= len(data)
            found.append(head)

    assert only_damaged(walk) or sum(head.length for head in found) == len(data) - layout.HEADER


@given(st.integers(0, layout.MAX_KEY), st.integers(1, layout.MAX_BUCKETS))
def test_the_numbers_of_a_series_are_aligned_and_do_not_overlap(key_length: int, buckets: int) -> None:
    numbers, counts, stamps, slots_at, end = layout.place(key_length, buckets)
    assert layout.HEAD + key_length <= numbers
    assert (numbers % 16, counts % 8, stamps % 8, end % 16) == (0, 0, 0, 0)
    assert counts - numbers == layout.NUMBERS
    assert stamps - counts == slots_at - stamps == 8 * buckets
    assert layout.SLOT * buckets <= end - slots_at < layout.SLOT * buckets + 16


# --- exemplars ------------------------------------------------------------------------------------------------------


@given(slots(), st.binary(max_size=30))
def test_an_exemplar_is_read_as_it_was_written(slot: Slot, before: bytes) -> None:
    data = before + layout.encode_slot(slot)
    assert len(data) - len(before) == layout.SLOT
    read = layout.decode_slot(data, len(before), layout.stamp(slot.timestamp_ms))
    assert read is not None
    assert parts(read) == parts(slot)
    assert slot.taken_at - 0.1 < read.taken_at <= slot.taken_at + 1e-6
    assert read.threshold == slot.value


@given(slots())
def test_every_bit_flip_of_an_exemplar_or_its_stamp_is_noticed(slot: Slot) -> None:
    data, stamped = layout.encode_slot(slot), layout.stamp(slot.timestamp_ms)
    assert layout.decode_slot(data, 0, stamped) is not None
    assert not any(layout.decode_slot(wrong, 0, stamped) for wrong in flips(data))
    assert not any(layout.decode_slot(data, 0, stamped ^ 1 << bit) for bit in range(64))


@given(slots(), slots(), st.integers(1, layout.SLOT // 8 - 1), MILLISECONDS)
def test_an_exemplar_of_which_only_words_are_written_is_noticed(
    last: Slot, new: Slot, words: int, timestamp_ms: int
) -> None:
    new.timestamp_ms = last.timestamp_ms + 1 + timestamp_ms % 1000
    before, after = layout.encode_slot(last), layout.encode_slot(new)
    torn = after[: 8 * words] + before[8 * words :]
    for slot, whole in ((last, before), (new, after)):
        read = layout.decode_slot(torn, 0, layout.stamp(slot.timestamp_ms))
        assert (read is not None) == (torn == whole)


def test_a_stamp_is_newer_where_its_time_is_and_where_only_the_time_is_left() -> None:
    assert layout.stamp(5) < layout.stamp(5, only_time=True) < layout.stamp(6)
    assert layout.stamp(5) >> 1 == layout.stamp(5, only_time=True) >> 1 == 5
    assert [layout.stamp(5) & 1, layout.stamp(5, only_time=True) & 1] == [0, 1]


@given(st.lists(slots(), min_size=1, max_size=5))
def test_a_glance_tells_when_exemplars_were_taken_and_where_labels_are(taken: list[Slot]) -> None:
    expected = [(slot.taken_at, 0 if number % 2 else 4096 + number) for number, slot in enumerate(taken)]
    data = b""
    for number, slot in enumerate(taken):
        slot.labels = None if number % 2 else {}
        data += layout.encode_slot(slot, 4096 + number)
    glanced = list(layout.glance_at_slots(memoryview(data + b"rest of it"), len(taken)))
    assert [labels_at for _, labels_at in glanced] == [labels_at for _, labels_at in expected]
    for (seen, _), (taken_at, _) in zip(glanced, expected, strict=True):
        assert taken_at - 0.1 < seen <= taken_at + 1e-6


@given(st.binary(min_size=layout.SLOT, max_size=80), st.integers(0, 2**64 - 1))
def test_an_exemplar_of_any_bytes_is_read_or_none(data: bytes, stamped: int) -> None:
    layout.decode_slot(data, 0, stamped)


# --- labels of a caller's own exemplar ------------------------------------------------------------------------------

LABELS: Final = st.dictionaries(NAMES, TEXTS, max_size=6)


@given(LABELS, MILLISECONDS, st.binary(max_size=30))
def test_labels_are_read_as_they_were_written(labels: dict[str, str], timestamp_ms: int, before: bytes) -> None:
    stamped = layout.stamp(timestamp_ms)
    written = layout.encode_text(labels, stamped)
    assert layout.decode_text(before + written + b"rest", len(before), stamped) == labels
    slot = Slot(1.0, timestamp_ms, 5.0, 5.0, labels=labels)
    read = layout.decode_slot(layout.encode_slot(slot, labels_at=4096), 0, stamped)
    assert read is not None
    assert (read.trace_id, read.span_id) == (0, 4096), "where they stand"


@given(st.dictionaries(NAMES, TEXTS, max_size=3), MILLISECONDS)
def test_every_bit_flip_of_labels_or_their_stamp_is_noticed(labels: dict[str, str], timestamp_ms: int) -> None:
    stamped = layout.stamp(timestamp_ms)
    written = layout.encode_text(labels, stamped)
    for wrong in flips(written):
        assert layout.decode_text(wrong.ljust(8 + layout.LABELS_TEXT, b"\0"), 0, stamped) is None
    for bit in range(64):
        assert layout.decode_text(written, 0, stamped ^ 1 << bit) is None


NASTIEST: Final = ("\0", "\x1f", '"', "\\", "\U0001f600", "\x7f", "é", "\u2028")


@given(st.data())
def test_128_code_points_of_anything_fit_their_room(data: st.DataObject) -> None:
    labels: dict[str, str] = {}
    left = metrics.MAX_EXEMPLAR_CODE_POINTS
    while left:
        name = data.draw(st.from_regex(r"[a-zA-Z_]{1,3}", fullmatch=True).filter(lambda name: name not in labels))
        length = data.draw(st.integers(0, max(left - len(name), 0)))
        if left < len(name):
            break
        labels[name] = data.draw(st.sampled_from(NASTIEST)) * length
        left -= len(name) + length
    assert metrics._check_exemplar(labels) == labels
    assert layout.decode_text(layout.encode_text(labels, 2), 0, 2) == labels


def test_the_most_that_can_be_128_code_points_fit_their_room() -> None:
    ones = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
    for labels in (
        {"a": "\0" * 127},
        dict.fromkeys(ones, "") | {"aa": "\0" * (128 - len(ones) - 2)},
        dict.fromkeys(ones, "\0") | {"aa": "\0" * (128 - 2 * len(ones) - 2)},
        dict.fromkeys(ones, "") | dict.fromkeys([f"{one}{two}" for one in ones for two in ones][: (128 - 53) // 2], ""),
    ):
        assert metrics._check_exemplar(labels)
        assert layout.decode_text(layout.encode_text(labels, 2), 0, 2) == labels


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=f"at most {layout.LABELS_TEXT}"):
        layout.encode_text({"a": "x" * layout.LABELS_TEXT}, 2)


def text_of(document: bytes, stamped: int) -> bytes:
    """*document* in the place of labels, with a check that holds."""
    empty = crc32(document, (stamped ^ stamped >> 32) & 0xFFFFFFFF)
    return struct.pack("=II", len(document), empty) + document


@pytest.mark.parametrize("document", [b"[]", b"null", b'{"a":1}', b'{"a b":"c"}', b'{"a":"b"', b"\xff", b"[" * 1000])
def test_what_checks_and_is_no_labels_is_none(document: bytes) -> None:
    assert layout.decode_text(text_of(b'{"a":"b"}', 2), 0, 2) == {"a": "b"}
    assert layout.decode_text(text_of(document, 2), 0, 2) is None


@given(st.binary(max_size=80), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_labels_of_any_bytes_anywhere_are_read_or_none(data: bytes, at: int, stamped: int) -> None:
    layout.decode_text(data, at, stamped)
    layout.decode_text(memoryview(data), at % 100, stamped)

"""All files merged: what any worker counted, of each bucket the newest exemplar, and nothing that was ever untrue."""

import errno
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exemplars.store import layout, ofd, reader, shared
from exemplars.store.directory import Directory
from exemplars.store.layout import Schema
from exemplars.store.shared import FileRecord, OwnFile
from tests.programs import PACKAGES, PATIENCE, eventually
from tests.store.files import JOBS, REQUESTS, Watch, opened, place, read, slot, told

pytestmark = pytest.mark.skipif(not ofd.SUPPORTED, reason="workers share on Linux only")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    found = opened(tmp_path)
    yield found
    found.close()


def workers(directory: Directory, number: int) -> list[OwnFile]:
    return [OwnFile.obtain(directory, 1000.0) for _ in range(number)]


def shown(watch: Watch) -> Any:
    """The exemplar of the first bucket."""
    return watch.series(REQUESTS)["/",][2][0]


# --- one truth of many ----------------------------------------------------------------------------------------------


def test_counts_and_sums_are_added_whoever_looks_first(directory: Directory, tmp_path: Path) -> None:
    watch = Watch(directory)
    expected: dict[tuple[str, ...], Any] = {}
    for number, file in enumerate(workers(directory, 5), 1):
        for name in ("all", f"only {number}"):
            record = place(file, REQUESTS, name)
            record.add(0, 0.1)
            record.add(1, 0.7)
        expected[f"only {number}",] = ([1, 1], 0.1 + 0.7, [None, None])
        expected["all",] = ([number, number], pytest.approx(number * 0.8), [None, None])
        assert watch.series(REQUESTS) == expected == read(tmp_path, REQUESTS)
        assert watch.series(REQUESTS)["all",][1] == read(tmp_path, REQUESTS)["all",][1], "to the last bit"
    assert watch.reader.workers == 5
    assert watch.reader.schemas() == [REQUESTS]


@pytest.mark.parametrize("mode", ["min", "max", "sum", "mostrecent"])
def test_gauges_count_by_their_mode_and_live_ones_where_there_is_an_owner(mode: str, directory: Directory) -> None:
    every, live = Schema("", "gauge", "g", mode=mode), Schema("", "gauge", "l", mode="live" + mode)
    files = workers(directory, 3)
    for file, (value, at) in zip(files, ((5.0, 1.0), (2.0, 3.0), (9.0, 2.0)), strict=True):
        for schema in (every, live):
            place(file, schema).set(value, at)
    watch = Watch(directory)
    all_, without, alone = {
        "min": (2.0, 5.0, 9.0),
        "max": (9.0, 9.0, 9.0),
        "sum": (16.0, 14.0, 9.0),
        "mostrecent": (2.0, 9.0, 9.0),
    }[mode]
    for expected, closed in ((all_, 1), (without, 0), (alone, 2), (0.0, None)):
        assert watch.series(live)[()][1] == expected
        assert watch.series(every)[()][1] == all_
        if closed is not None:
            files[closed].close()
    assert watch.reader.workers == 0


def test_the_newest_exemplar_wins_and_two_of_one_time_show_none(directory: Directory) -> None:
    one, two = (place(file, REQUESTS, "/") for file in workers(directory, 2))
    watch = Watch(directory)
    expected = []
    seen = []
    for record, timestamp_ms in (
        (one, 10),
        (two, 20),
        (one, 15),
        (one, 20),
        (two, 21),
        (one, 30),
        (two, 30),
        (two, 31),
    ):
        record.put(0, slot(float(timestamp_ms), timestamp_ms, 0.0), record.slots[0])
        seen.append(shown(watch) and shown(watch)[1])
        expected.append(timestamp_ms)
    assert seen == [10, 20, 20, None, 21, 30, None, 31]


def test_where_only_the_time_is_left_no_older_exemplar_of_another_is_shown(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "monotonic", lambda: 1006.0)
    files = workers(directory, 2)
    one, two = (place(file, REQUESTS, "/") for file in files)
    one.put(0, slot(1.0, 50, 995.0), None)
    two.put(0, slot(2.0, 40, 0.0), None)
    watch = Watch(directory)
    assert shown(watch) == (1.0, 50, (50, 1))
    files[0].close()
    assert shown(watch) == (1.0, 50, (50, 1)), "until somebody goes on with it"
    OwnFile.obtain(directory, 1000.0)
    assert shown(watch) is None
    two.put(0, slot(3.0, 50, 0.0), two.slots[0])
    assert shown(watch) is None
    two.put(0, slot(3.0, 51, 0.0), two.slots[0])
    assert shown(watch) == (3.0, 51, (51, 1))


def test_what_may_have_died_unsent_with_its_worker_is_hidden_until_somebody_has_taken_over(
    directory: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every scrape from the kill on: Prometheus would keep the dot, and its trace will never come."""
    now = 1000.0
    monkeypatch.setattr(reader, "monotonic", lambda: now)
    dying, living = workers(directory, 2)
    old, young = place(dying, REQUESTS, "old"), place(dying, REQUESTS, "young")
    old.put(0, slot(1.0, 10, 980.0), None)
    young.put(0, slot(1.0, 20, 991.0), None)
    others = place(living, REQUESTS, "young")
    others.put(0, slot(2.0, 15, 980.0), None)

    def dots(watch: Watch) -> list[int | None]:
        series = watch.series(REQUESTS)
        return [one and one[1] for one in (series[name,][2][0] for name in ("old", "young"))]

    watch = Watch(directory)
    assert dots(watch) == [10, 20]
    dying.close()
    now += 5.0
    assert dots(watch) == [10, None], "nor an older one of another worker, which Prometheus would refuse"
    assert dots(Watch(directory)) == [None, None], "this one has never seen its owner alive"
    now += 60.0
    assert dots(watch) == [10, None], "it does not become any better"
    adopt = OwnFile._adopt
    meanwhile = []

    def adopting(file: OwnFile, at: float) -> None:
        meanwhile.append((dots(watch), dots(Watch(directory))))
        adopt(file, at)

    def take(fd: int) -> bool:
        taken = ofd.take(fd)
        if os.readlink(f"/proc/self/fd/{fd}").endswith("worker-1"):
            meanwhile.append((dots(watch), dots(Watch(directory))))
        return taken

    monkeypatch.setattr(OwnFile, "_adopt", adopting)
    monkeypatch.setattr(shared, "ofd", SimpleNamespace(take=take, held=ofd.held))
    adopted = OwnFile.obtain(directory, now)
    assert adopted.name == "worker-1"
    assert meanwhile == [([10, None], [None, None])] * 2
    assert dots(watch) == dots(Watch(directory)) == [10, None]
    others.put(0, slot(3.0, 30, 1000.0), others.slots[0])
    assert dots(watch) == dots(Watch(directory)) == [10, 30]
    for file in (adopted, living):
        file.close()


@pytest.mark.parametrize("part", ["value", "ids", "stamp", "labels"])
def test_an_exemplar_that_is_not_whole_is_not_shown_and_nothing_older_is(part: str, directory: Directory) -> None:
    files = workers(directory, 2)
    older, record = (place(file, REQUESTS, "/") for file in files)
    older.put(0, slot(1.0, 40, 0.0), None)
    record.add(0, 1.0)
    labels = {"id": "own"} if part == "labels" else None
    record.put(0, slot(1.0, 50, 0.0, labels), None)
    if part == "stamp":
        record._file_stamps[0] = layout.stamp(60)
    elif part == "labels":
        at = record._labels_at[0]
        files[1].words(at, 20)[12] ^= 1
    else:
        record._file_slots[0 if part == "value" else 10] ^= 1
    watch = Watch(directory)
    assert watch.series(REQUESTS)["/",] == ([1, 0], 1.0, [None, None])
    record.put(0, slot(2.0, 70, 0.0, labels), record.slots[0])
    assert shown(watch) == (2.0, 70, labels or (70, 1))


# --- files that come, go, grow and are damaged ----------------------------------------------------------------------


def test_files_come_and_go_and_their_numbers_with_them(directory: Directory, tmp_path: Path) -> None:
    watch = Watch(directory)
    assert watch.series(JOBS) == {}
    one, two = workers(directory, 2)
    place(one, JOBS, "a").add(0, 1.0)
    place(two, JOBS, "a").add(0, 2.0)
    place(two, JOBS, "b").add(0, 4.0)
    assert {key: numbers[1] for key, numbers in watch.series(JOBS).items()} == {("a",): 3.0, ("b",): 4.0}
    (tmp_path / "worker-2").unlink()
    assert {key: numbers[1] for key, numbers in watch.series(JOBS).items()} == {("a",): 1.0}
    (tmp_path / "worker-1").unlink()
    assert watch.series(JOBS) == {}
    assert watch.reader.schemas() == []
    assert watch.reports == []


def test_room_that_is_used_again_by_another_series_is_seen(directory: Directory, tmp_path: Path) -> None:
    (own,) = workers(directory, 1)
    watch = Watch(directory)
    records = {name: place(own, JOBS, name) for name in "abc"}
    for turn, name in enumerate("defghab"):
        watch.series(JOBS)
        records.pop(sorted(records)[turn % len(records)]).free()
        if turn % 2:
            watch.series(JOBS)
        records[name] = place(own, JOBS, name)
        records[name].add(0, float(turn))
        assert watch.series(JOBS) == read(tmp_path, JOBS)
        assert {key for (key,) in watch.series(JOBS)} == set(records)
    assert watch.reports == []


def test_another_file_in_the_place_of_a_known_one_is_read_from_its_beginning(
    directory: Directory, tmp_path: Path
) -> None:
    """Else nothing more of it would be found where its records begin alike, and then end elsewhere."""

    def content(schema: Schema) -> bytes:
        aside = tmp_path / schema.name
        aside.mkdir()
        there = opened(aside)
        (file,) = workers(there, 1)
        place(file, JOBS, "a").add(0, 1.0)
        place(file, schema).add(0, 1.0)
        file.close()
        there.close()
        return (aside / "worker-1").read_bytes()

    name, other = tmp_path / "worker-1", Schema("", "counter", "other" * 40)
    known = content(Schema("", "counter", "known"))
    *_, (last, _) = layout.records(known, layout.HEADER, layout.used(known, len(known)))
    known = known[: layout.USED_AT] + last.to_bytes(8, sys.byteorder) + known[layout.USED_AT + 8 :]
    watch = Watch(directory)
    name.write_bytes(known)
    name.chmod(0o600)
    assert set(watch.series(JOBS)) == {("a",)}
    (tmp_path / "new").write_bytes(content(other))
    (tmp_path / "new").chmod(0o600)
    (tmp_path / "new").replace(name)
    assert set(watch.series(JOBS)) == {("a",)}
    assert watch.series(other)[()][0] == [1]
    assert watch.reports == []


def test_a_file_that_is_only_being_made_is_no_damage(directory: Directory, tmp_path: Path) -> None:
    watch = Watch(directory)
    (tmp_path / "worker-1").touch()
    assert watch.series(JOBS) == {}
    fd = os.open(tmp_path / "worker-1", os.O_RDWR)
    assert ofd.take(fd)
    os.ftruncate(fd, 65536)
    assert watch.series(JOBS) == {}
    assert watch.reports == []
    os.close(fd)
    assert watch.series(JOBS) == {}
    assert [report[:2] for report in watch.reports] == [("format", "worker-1")], "its maker is gone"


def test_a_file_that_grows_while_it_is_read_is_not_cut_short(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own,) = workers(directory, 1)
    place(own, JOBS, "a").add(0, 1.0)
    watch = Watch(directory)
    watch.series(JOBS)
    pread = os.pread
    grown: list[FileRecord] = []

    def growing(fd: int, length: int, at: int) -> bytes:
        if len(grown) < 40:
            grown.append(place(own, JOBS, f"{len(grown)} {'x' * 9000}"))
            grown[-1].add(0, 1.0)
        return pread(fd, length, at)

    monkeypatch.setattr(os, "pread", growing)
    for _ in range(60):
        found = watch.series(JOBS)
        assert found["a",][1] == 1.0
    assert len(found) == 41
    assert watch.reports == []


@pytest.mark.parametrize("damage", ["cut short", "format", "a head", "a count", "unreadable", "not a file"])
def test_damage_of_one_file_is_told_and_leaves_the_others_exact(
    damage: str, directory: Directory, tmp_path: Path
) -> None:
    files = workers(directory, 3)
    for file in files:
        place(file, JOBS, "a").add(0, 1.0)
        place(file, REQUESTS, "/").add(0, 1.0)
    broken = tmp_path / "worker-2"
    data = bytearray(broken.read_bytes())
    if damage == "cut short":
        os.truncate(broken, 100)
    elif damage == "format":
        data[0] ^= 1
        broken.write_bytes(data)
    elif damage == "a head":
        data[layout.HEADER + 6] ^= 1
        broken.write_bytes(data)
    elif damage == "a count":
        place(files[1], REQUESTS, "/")._file_counts[0] = 2**60
        place(files[1], JOBS, "a")._file_counts[0] = 2**60
    elif damage == "unreadable":
        os.link(broken, tmp_path / "elsewhere")
    else:
        broken.unlink()
        broken.mkdir()
    reason = {"cut short": "truncated", "format": "format", "unreadable": "unreadable", "not a file": "unreadable"}
    watch = Watch(directory)
    if damage == "a count":
        for schema, key in ((JOBS, "a"), (REQUESTS, "/")):
            assert watch.series(schema)[key,][1] >= 2.0
        record: FileRecord = place(files[0], JOBS, "b")
        record._file_counts[0] = 2**60
        assert watch.series(JOBS)["b",][0] == [0]
    else:
        assert watch.series(JOBS)["a",][1] == 2.0
        assert watch.series(REQUESTS)["/",][:2] == ([2, 0], 2.0)
    assert {report[0] for report in watch.reports} == {reason.get(damage, "record")}
    assert {report[1] for report in watch.reports} <= {"worker-1", "worker-2"}


@given(st.data())
def test_a_file_of_any_bytes_costs_nobody_elses_numbers(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("any")
    directory = opened(path)
    one, two = workers(directory, 2)
    for number in range(5):
        place(one, JOBS, str(number)).add(0, 1.0)
        record = place(two, REQUESTS, str(number))
        record.add(0, 1.0)
        record.put(0, slot(1.0, 5, 0.0, {"n": "1"} if number % 2 else None), None)
    watch = Watch(directory)
    if data.draw(st.booleans()):
        watch.series(JOBS)
    two.close()
    content = bytearray((path / "worker-2").read_bytes())
    end = two._used
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, end - 1))
        more = data.draw(st.binary(min_size=1, max_size=40))
        content[at : at + len(more)] = more
    (path / "worker-2").write_bytes(content)
    for _ in range(2):
        found = watch.series(JOBS)
        assert {(str(n),) for n in range(5)} <= found.keys()
        assert all(found[str(n),][1] == 1.0 for n in range(5))
    for key in watch.series(REQUESTS):
        assert len(key) == 1
    OwnFile.obtain(directory, 1000.0).close()
    one.close()
    directory.close()


def test_a_directory_that_cannot_be_listed_leaves_all_as_it_was(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own,) = workers(directory, 1)
    place(own, JOBS, "a").add(0, 1.0)
    watch = Watch(directory)
    before = watch.series(JOBS)

    def refuse(_: Directory) -> list[str]:
        raise OSError("no more descriptors")

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "files", refuse)
        assert watch.series(JOBS) == before
    assert [report[0] for report in watch.reports] == ["unreadable"]
    place(own, JOBS, "a").free()


@pytest.mark.parametrize("moment", ["listing", "opening", "looking for its owner"])
def test_it_is_whole_once_all_was_read_and_what_is_known_stays_where_nothing_more_can_be(
    moment: str, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = workers(directory, 2)
    for file in files:
        place(file, JOBS, "a").add(0, 1.0)
    opened_file = Directory.open

    def too_many(*_: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    def open_some(self: Directory, name: str, flags: int) -> int:
        return too_many() if name == "worker-1" else opened_file(self, name, flags)

    def fail(patch: pytest.MonkeyPatch) -> None:
        if moment == "listing":
            patch.setattr(Directory, "files", too_many)
        elif moment == "opening":
            patch.setattr(Directory, "open", open_some)
        else:
            patch.setattr(ofd, "held", too_many)

    watch = Watch(directory)
    assert not watch.reader.is_whole
    with monkeypatch.context() as patch:
        fail(patch)
        watch.series(JOBS)
        assert not watch.reader.is_whole
    assert watch.series(JOBS)["a",][1] == 2.0
    assert watch.reader.is_whole
    place(files[0], JOBS, "b")
    with monkeypatch.context() as patch:
        fail(patch)
        assert watch.series(JOBS)["a",][1] == 2.0
        assert watch.reader.is_whole
    assert {report[0] for report in watch.reports} == {"unreadable"}
    assert watch.series(JOBS).keys() == {("a",), ("b",)}


@pytest.mark.parametrize(
    "what", ["a directory", "a link", "another name of a file", "a named pipe", "damaged", "a link to nowhere"]
)
def test_what_is_no_workers_file_keeps_no_page_waiting(what: str, directory: Directory, tmp_path: Path) -> None:
    """For good, as it may stay where it is."""
    (file,) = workers(directory, 1)
    place(file, JOBS, "a").add(0, 1.0)
    path = tmp_path / "worker-2"
    if what == "a directory":
        path.mkdir()
    elif what == "a link":
        path.symlink_to(tmp_path / "worker-1")
    elif what == "another name of a file":
        (tmp_path / "other").touch()
        os.link(tmp_path / "other", path)
    elif what == "a named pipe":
        os.mkfifo(path)
    elif what == "damaged":
        path.write_bytes(b"something else")
    else:
        path.symlink_to(tmp_path / "nowhere")
    watch = Watch(directory)
    assert {key: numbers[1] for key, numbers in watch.series(JOBS).items()} == {("a",): 1.0}
    assert watch.reader.is_whole


@pytest.mark.parametrize("sum_", [-1.0, float("nan"), float("-inf")])
def test_a_sum_that_can_only_be_damage_is_left_out_and_one_that_may_fall_is_not(
    sum_: float, directory: Directory
) -> None:
    files = workers(directory, 2)
    falls = Schema("", "histogram", "falls", bounds=(-1.0, 1.0))
    level = Schema("", "gauge", "level", mode="sum")
    for file, total in zip(files, (0.5, sum_), strict=True):
        for schema in (JOBS, REQUESTS, falls, level):
            labels = ("x",) if schema.labelnames else ()
            place(file, schema, *labels).set(total)
    watch = Watch(directory)
    assert watch.series(JOBS)["x",][1] == watch.series(REQUESTS)["x",][1] == 0.5
    for schema in (falls, level):
        assert repr(watch.series(schema)[()][1]) == repr(0.5 + sum_)


# --- many readers ---------------------------------------------------------------------------------------------------


def test_refreshes_in_turns_each_end_with_all_that_was_there_when_they_began(directory: Directory) -> None:
    files = workers(directory, 3)
    watch = Watch(directory)
    records = [place(file, JOBS, str(number)) for file in files for number in range(300)]
    passes: list[tuple[int, Iterator[None]]] = []
    for turn in range(12):
        for record in records:
            record.add(0, 1.0)
        passes.append((turn + 1, watch.reader.refresh()))
        for _, each in passes[:-1]:
            next(each, None)
        next(passes[-1][1], None)
    for turn, each in passes:
        for _ in each:
            pass
        counts = {series.read()[1] for series in watch.reader.series(JOBS)}
        assert min(counts) >= 3 * turn / 3, turn
    watch_again = Watch(directory)
    assert watch.series(JOBS) == watch_again.series(JOBS)


def test_a_refresh_that_is_left_in_the_middle_is_gone_on_with_by_the_next(directory: Directory) -> None:
    (own,) = workers(directory, 1)
    for number in range(1000):
        place(own, JOBS, str(number)).add(0, 1.0)
    watch = Watch(directory)
    for steps in range(1, 12):
        left = watch.reader.refresh()
        for _ in range(steps):
            next(left, None)
        del left
        place(own, JOBS, f"new {steps}").add(0, 1.0)
        found = watch.series(JOBS)
        assert len(found) == 1000 + steps
        assert {numbers[1] for numbers in found.values()} == {1.0}


def test_threads_that_refresh_at_once_all_see_what_was_there_before(directory: Directory) -> None:
    (own,) = workers(directory, 1)
    record = place(own, JOBS, "a")
    watch, wrong = Watch(directory), []
    barrier = threading.Barrier(4)

    def look() -> None:
        barrier.wait()
        for _ in range(150):
            before = record.counts[0]
            ((counts, *_),) = watch.series(JOBS).values()
            wrong.append(not before <= counts[0] <= record.counts[0] + 1)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        record.add(0, 1.0)
    for thread in threads:
        thread.join()
    assert wrong == [False] * 600


WRITER: Final = """
    import itertools, sys, threading, time
    from pathlib import Path
    from exemplars.store.shared import OwnFile
    from tests.store.files import JOBS, REQUESTS, opened, place, slot

    directory = opened(Path(sys.argv[1]))
    file = OwnFile.obtain(directory, time.perf_counter(), 60.0)
    rounds = int(sys.argv[2])
    enough = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), enough.set()), daemon=True).start()
    for number in itertools.count():
        if number >= rounds and enough.is_set():
            break
        record = place(file, REQUESTS, "/") if not number else record
        record.add(0, 0.5)
        ms = time.time_ns() // 1_000_000
        last = record.slots[0]
        if last is None or ms > last.timestamp_ms:
            # Value, ids and labels tell the time: what is torn does not agree.
            labels = {"t": str(ms)} if ms % 3 == 0 else None
            record.put(0, slot(float(ms), ms, time.perf_counter(), labels), last)
        if number % 200 == 0 and number < rounds:
            place(file, JOBS, f"{sys.argv[3]} {number}").add(0, 1.0)
        if number % 700 == 0:
            passing = place(file, JOBS, f"passing {sys.argv[3]}")
            passing.free()
    print(number)
"""


def test_of_processes_that_write_counts_never_fall_and_no_torn_exemplar_is_shown(
    directory: Directory, tmp_path: Path
) -> None:
    rounds, number = 60_000, 3
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path), str(rounds), str(writer)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(PACKAGES)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for writer in range(number)
    ]
    watch = Watch(directory)
    last: dict[tuple[str, ...], int] = {}
    newest, exemplars, looks = 0, set(), 0
    written = []

    def look() -> None:
        nonlocal last, looks, newest
        looks += 1
        found = watch.series(REQUESTS) | watch.series(JOBS)
        for key, count in last.items():
            if "passing" not in key[0]:
                assert sum(found[key][0]) >= count, key
        last = {key: sum(numbers[0]) for key, numbers in found.items()}
        exemplar = found["/",][2][0] if ("/",) in found else None
        if exemplar is not None:
            value, timestamp_ms, who = exemplar
            assert value == timestamp_ms >= newest
            assert who == ({"t": str(timestamp_ms)} if timestamp_ms % 3 == 0 else (timestamp_ms, 1))
            newest = timestamp_ms
            exemplars.add(timestamp_ms)

    def seen_enough() -> bool:
        assert all(process.poll() is None for process in processes)
        look()
        return looks > 10 and len(exemplars) > 10

    try:
        # However slowly we look, they write until we have seen something.
        eventually(seen_enough, "exemplars", lambda: (looks, exemplars))
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        while any(process.poll() is None for process in processes):
            look()
        for process in processes:
            assert process.stdout is not None
            written.append(int(process.stdout.read()))
    finally:
        for process in processes:
            process.kill()
            process.wait(PATIENCE)
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()
    assert min(written) >= rounds
    found = watch.series(REQUESTS)
    assert found["/",][:2] == ([sum(written), 0], sum(written) * 0.5)
    jobs = {key: numbers[1] for key, numbers in watch.series(JOBS).items() if "passing" not in key[0]}
    assert jobs == {(f"{n} {m}",): 1.0 for n in range(number) for m in range(0, rounds, 200)}
    assert watch.reports == []
    assert told(None) is None

"""A worker's own file: what is counted stands in it, whoever ends how, and another goes on with it."""

import gc
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from exemplars.policy import Slot
from exemplars.store import layout, ofd, shared
from exemplars.store.directory import Directory
from exemplars.store.layout import Kind, Schema, encode_labels
from exemplars.store.shared import FileRecord, OwnFile
from tests.interruptions import every_moment, interrupted
from tests.programs import PACKAGES, PATIENCE
from tests.store.files import JOBS, REQUESTS, Watch, opened, place, read, slot, told

pytestmark = pytest.mark.skipif(not ofd.SUPPORTED, reason="workers share on Linux only")

START: Final = 1000.0  # seconds, monotonic


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    found = opened(tmp_path)
    yield found
    found.close()


@pytest.fixture
def own(directory: Directory) -> Iterator[OwnFile]:
    file = OwnFile.obtain(directory, START)
    yield file
    file.close()


# --- ownership ------------------------------------------------------------------------------------------------------

WRITER: Final = """
    import os, signal, sys, threading
    from pathlib import Path
    from exemplars.store.shared import OwnFile
    from tests.store.files import JOBS, REQUESTS, opened, place, slot

    file = OwnFile.obtain(opened(Path(sys.argv[1])), 1000.0)
    for number in range(300):
        place(file, JOBS, str(number)).add(0, 1.0)
    record = place(file, REQUESTS, "/")
    record.add(1, 2.5)
    record.put(1, slot(2.5, 7, 0.0), None)
    record.put(0, slot(0.5, 8, 0.0, {"id": "own"}), None)
    place(file, REQUESTS, "last").put(1, slot(2.5, 9, 11.0), None)
    print(file.name, flush=True)
    sys.stdin.readline()
"""

ENDS: Final = {
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "abort": "os.abort()",
    "exit": "",
    "_exit": "os._exit(3)",
    "an exception": "raise RuntimeError",
    "a thread that is left": "threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "a forked child that lives on": "r, w = os.pipe(); pid = os.fork(); "
    "(file.close(), os.write(w, b'.'), sys.stdin.readline()) if not pid else os.read(r, 1); os._exit(0)",
    "a program that it started": "import subprocess; subprocess.Popen(['sleep', '5'], stdin=subprocess.DEVNULL)",
}


def start(script: str, path: Path, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(PACKAGES)},
        **more,
    )


@pytest.mark.parametrize("end", ENDS)
def test_whatever_a_worker_ends_by_the_next_goes_on_with_its_file(
    end: str, directory: Directory, tmp_path: Path
) -> None:
    process = start(textwrap.dedent(WRITER) + ENDS[end] + "\n", tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "worker-1\n"
        other = OwnFile.obtain(directory, START)
        assert other.name == "worker-2", "the first has an owner"
        before = read(tmp_path, JOBS) | read(tmp_path, REQUESTS)
        process.stdin.write("\n")
        process.stdin.flush()
        process.wait(PATIENCE)
        adopted = OwnFile.obtain(directory, START)
        assert adopted.name == "worker-1"
        assert before.pop(("last",))[2] == [None, (2.5, 9, (9, 1))]
        after = read(tmp_path, JOBS) | read(tmp_path, REQUESTS)
        assert after.pop(("last",))[2] == [None, None], "it may have died unsent"
        assert after == before
        assert len(before) == 301

        record = place(adopted, REQUESTS, "/")
        assert (record.counts, record.sum) == ([0, 1], 2.5)
        assert list(map(told, record.slots)) == [(0.5, 8, {"id": "own"}), (2.5, 7, (7, 1))]
        record.add(1, 1.0)
        assert place(adopted, JOBS, "7").add(0, 1.0) is None
        assert read(tmp_path, REQUESTS)["/",][:2] == ([0, 2], 3.5)
        assert read(tmp_path, JOBS)["7",][:2] == ([2], 2.0)
        assert sorted(os.listdir(tmp_path)) == ["lock", "worker-1", "worker-2"]
        for file in (adopted, other):
            file.close()


def test_a_file_that_is_owned_is_left_to_its_owner_and_the_first_free_one_is_adopted(directory: Directory) -> None:
    files = [OwnFile.obtain(directory, START) for _ in range(4)]
    assert [file.name for file in files] == [f"worker-{number}" for number in (1, 2, 3, 4)]
    files[2].close()
    files[1].close()
    assert [OwnFile.obtain(directory, START).name for _ in range(3)] == ["worker-2", "worker-3", "worker-5"]


def test_while_one_goes_on_with_a_file_others_get_theirs(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """All workers attach at once after a reload, each to a file that may hold thousands of series."""
    for file in [OwnFile.obtain(directory, START) for _ in range(3)]:
        place(file, JOBS, file.name).add(0, 1.0)
        file.close()
    adopt, waiting, files = OwnFile._adopt, iter(range(2)), []

    def slowly(self: OwnFile, now: float) -> None:
        for _ in waiting:
            files.append(OwnFile.obtain(directory, START, patience=0.0))
        adopt(self, now)

    monkeypatch.setattr(OwnFile, "_adopt", slowly)
    files.append(OwnFile.obtain(directory, START, patience=0.0))
    assert sorted(file.name for file in files) == ["worker-1", "worker-2", "worker-3"]
    assert [place(file, JOBS, file.name).counts for file in files] == [[1]] * 3


def test_a_number_that_is_free_is_used_again(directory: Directory, tmp_path: Path) -> None:
    files = [OwnFile.obtain(directory, START) for _ in range(3)]
    (tmp_path / "worker-2").unlink()
    assert OwnFile.obtain(directory, START).name == "worker-2"
    assert [file.is_lost() for file in files] == [False, True, False]


def test_closing_does_not_unlock_what_a_forked_process_shares(own: OwnFile, directory: Directory) -> None:
    pid = os.fork()
    if pid == 0:
        own.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert OwnFile.obtain(directory, START).name == "worker-2"


def test_a_descriptor_that_somebody_closed_and_took_is_not_closed_again(own: OwnFile, tmp_path: Path) -> None:
    assert own.is_ours()
    os.close(own.lock_fd)
    assert not own.is_ours()
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
    os.dup2(other, own.lock_fd)
    try:
        assert not own.is_ours()
        own.close()
        os.fstat(own.lock_fd)
    finally:
        os.close(own.lock_fd)
        if other != own.lock_fd:
            os.close(other)


@pytest.mark.parametrize("written", [0, 1, 16])
def test_a_file_whose_maker_died_before_it_was_one_is_no_longer_in_the_way(
    written: int, directory: Directory, tmp_path: Path
) -> None:
    (tmp_path / "worker-1").write_bytes(bytes(4096)[: written * 4096])
    names = []
    for _ in range(3):
        file = OwnFile.obtain(directory, START)
        place(file, JOBS, "a").add(0, 1.0)
        names.append(file.name)
        file.close()
    assert len(set(names)) == 1, "one file, adopted again"
    assert read(tmp_path, JOBS)["a",][1] == 3.0


DAMAGES: Final[dict[str, Callable[[bytearray], object]]] = {
    "another version": lambda data: data.__setitem__(8, data[8] ^ 1),
    "an end beyond the file": lambda data: data.__setitem__(slice(16, 24), (1 << 20).to_bytes(8, sys.byteorder)),
    "an end in the middle of a record": lambda data: data.__setitem__(slice(16, 24), (96).to_bytes(8, sys.byteorder)),
    "cut short": lambda data: data.__delitem__(slice(4096, None)),
    "cut in a page": lambda data: data.__delitem__(slice(layout.HEADER + 200, None)),
    "a head": lambda data: data.__setitem__(layout.HEADER + 5, data[layout.HEADER + 5] ^ 4),
    "a key": lambda data: data.__setitem__(layout.HEADER + 20, data[layout.HEADER + 20] ^ 4),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_adopted_by_nobody_and_kept_as_it_is(
    damage: str, directory: Directory, tmp_path: Path
) -> None:
    file = OwnFile.obtain(directory, START)
    for number in range(100):
        place(file, JOBS, str(number)).add(0, 1.0)
    file.close()
    data = bytearray((tmp_path / "worker-1").read_bytes())
    DAMAGES[damage](data)
    (tmp_path / "worker-1").write_bytes(data)

    other = OwnFile.obtain(directory, START)
    assert other.name == "worker-2"
    assert (tmp_path / "worker-1").read_bytes() == data
    other.close()


# --- what an owner may not go on with -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["livesum", "livemin", "livemax", "livemostrecent", "sum", "min", "max", "mostrecent"])
def test_live_gauges_begin_at_0_and_others_go_on(mode: str, directory: Directory) -> None:
    gauge = Schema("", "gauge", "g", mode=mode)
    file = OwnFile.obtain(directory, START)
    place(file, gauge).set(5.0, 77.0)
    file.close()
    record = place(OwnFile.obtain(directory, START), gauge)
    assert (record.sum, record.set_at) == ((0.0, 0.0) if mode.startswith("live") else (5.0, 77.0))


@pytest.mark.parametrize("labels", [None, {"id": "own"}])
@pytest.mark.parametrize(("age", "stays"), [(0.0, False), (9.9, False), (10.2, True), (1e6, True)])
@pytest.mark.parametrize("later", [0.0, 60.0])
def test_exemplars_younger_than_ten_seconds_when_the_owner_was_last_seen_alive_leave_only_their_time(
    labels: dict[str, str] | None, age: float, stays: bool, later: float, directory: Directory, tmp_path: Path
) -> None:
    """However long the next owner took to start: nobody knows when the last one ended, only what it took last."""
    file = OwnFile.obtain(directory, START)
    record = place(file, REQUESTS, "/")
    record.add(1, 2.0)
    record.put(1, slot(2.0, 50, START, labels), None)
    place(file, REQUESTS, "last").put(0, slot(1.0, 60, START + age), None)
    file.close()

    adopted = OwnFile.obtain(directory, START + age + later)
    shown = read(tmp_path, REQUESTS)["/",][2]
    record = place(adopted, REQUESTS, "/")
    assert record.last_timestamp(1) == 50, "so that none follows that Prometheus would refuse"
    assert record.last_timestamp(0) is None
    if stays:
        assert shown[1] == (2.0, 50, labels or (50, 1)) == told(record.slots[1])
        assert record.slots[1] is not None
        assert record.slots[1].held_until == pytest.approx(START + 7.0, abs=0.1)
    else:
        assert shown == [None, None] == record.slots
        assert record.floors == {1: 50}
    adopted.close()
    again = place(OwnFile.obtain(directory, START + age + 1e7), REQUESTS, "/")
    assert again.last_timestamp(1) == 50, "also for the one after that"
    assert (again.slots[1] is not None) == stays


def test_a_slot_that_was_not_whole_is_gone_and_its_time_is_left(directory: Directory, tmp_path: Path) -> None:
    file = OwnFile.obtain(directory, START)
    record = place(file, REQUESTS, "/")
    record.put(0, slot(2.0, 50, 0.0), None)
    record.put(1, slot(2.0, 60, 0.0), None)
    record._file_slots[3] ^= 1
    place(file, REQUESTS, "last").put(0, slot(1.0, 60, START), None)
    file.close()
    record = place(OwnFile.obtain(directory, START), REQUESTS, "/")
    assert list(map(told, record.slots)) == [None, (2.0, 60, (60, 1))]
    assert record.last_timestamp(0) == 50
    assert read(tmp_path, REQUESTS)["/",][2] == [None, (2.0, 60, (60, 1))]


def test_labels_that_no_exemplar_needs_are_room_after_an_adoption(directory: Directory, tmp_path: Path) -> None:
    for round_ in range(30):
        file = OwnFile.obtain(directory, START * round_)
        record = place(file, REQUESTS, "/")
        for index in (0, 1):
            record.put(
                index, slot(1.0, 2 * round_ + index + 1, START * round_, {"n": str(round_)}), record.slots[index]
            )
        data = file.whole()
        kinds = [head.kind for _, head in layout.records(data, layout.HEADER, len(data))]
        assert kinds.count(Kind.LABELS) + kinds.count(Kind.FREE) <= 4, kinds
        n = {"n": str(round_)}
        assert read(tmp_path, REQUESTS)["/",][2] == [(1.0, 2 * round_ + 1, n), (1.0, 2 * round_ + 2, n)]
        file.close()


# --- against a model ------------------------------------------------------------------------------------------------

KEYS: Final = ("a", "b", "a key that is longer than the others", 'é"\\\n\U0001f600', "")


class Sharing(RuleBasedStateMachine):
    """One worker after the other keeps the same file, whatever is done in between; two readers look on."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.path = self.home / "0"
        self.path.mkdir()
        self.directory = opened(self.path)
        self.now = START
        self.time_ms = 1
        self.file = OwnFile.obtain(self.directory, self.now)
        self.watch = Watch(self.directory)
        self.records: dict[tuple[Schema, str], FileRecord] = {}
        # Counts, sum, exemplars and when they were taken, floors.
        self.model: dict[tuple[Schema, str], tuple[list[int], list[float], list[Slot | None]]] = {}

    def teardown(self) -> None:
        self.file.close()
        self.directory.close()
        shutil.rmtree(self.home)

    def record(self, schema: Schema, key: str) -> FileRecord:
        if (schema, key) not in self.records:
            self.records[schema, key] = place(self.file, schema, key)
            self.model.setdefault((schema, key), ([0] * schema.buckets, [0.0], [None] * schema.buckets))
        return self.records[schema, key]

    schemas = st.sampled_from((REQUESTS, JOBS))
    keys = st.sampled_from(KEYS)

    @rule(schema=schemas, key=keys, index=st.integers(0, 1), amount=st.integers(0, 1000))
    def observe(self, schema: Schema, key: str, index: int, amount: int) -> None:
        index %= schema.buckets
        record = self.record(schema, key)
        counts, total, slots = self.model[schema, key]
        assert told(record.add(index, amount / 8)) == told(slots[index])
        counts[index] += 1
        total[0] += amount / 8

    @rule(key=keys, value=st.integers(0, 1000))
    def set(self, key: str, value: int) -> None:
        self.record(JOBS, key).set(float(value))
        self.model[JOBS, key][1][0] = float(value)

    @rule(schema=schemas, key=keys, index=st.integers(0, 1), labels=st.none() | st.just({"id": 'x"\n'}))
    def put(self, schema: Schema, key: str, index: int, labels: dict[str, str] | None) -> None:
        index %= schema.buckets
        record = self.record(schema, key)
        self.time_ms += 1
        new = slot(float(self.time_ms), self.time_ms, self.now, labels)
        assert not record.put(index, new, instead_of=new)
        assert record.put(index, new, instead_of=record.slots[index])
        self.model[schema, key][2][index] = new

    @rule(schema=schemas, key=keys)
    def remove(self, schema: Schema, key: str) -> None:
        self.model.pop((schema, key), None)
        record = self.records.pop((schema, key), None)
        if record is not None:
            record.free()
            record.add(0, 1.0)  # whoever still has it writes into nobody's room
            record.put(0, slot(1.0, 1, 1.0), record.slots[0])
        else:
            self.file.free_dormant(schema, [encode_labels((key,))])

    @rule(seconds=st.integers(0, 30))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(seconds=st.integers(0, 30))
    def end_and_adopt(self, seconds: int) -> None:
        self.put(JOBS, KEYS[0], 0, None)  # the last that is known of it
        alive_at = self.now
        self.now += seconds
        self.file.close()
        self.records.clear()
        self.file = OwnFile.obtain(self.directory, self.now)
        assert self.file.name == "worker-1"
        for _, _, slots in self.model.values():
            for index, slot_ in enumerate(slots):
                if slot_ is not None and alive_at - slot_.taken_at < 10.1:
                    slots[index] = None

    @rule(many=st.integers(1, 6))
    def grow(self, many: int) -> None:
        for number in range(many):
            self.observe(REQUESTS, f"{number}" * 15_000, 0, 8)

    @rule()
    def move(self) -> None:
        self.path = self.home / str(int(self.path.name) + 1)
        self.path.mkdir()
        last, self.directory = self.directory, opened(self.path)
        self.file = self.file.moved(self.directory)
        for record in self.records.values():
            record.rebind(self.file)
        last.close()
        self.watch = Watch(self.directory)

    @invariant()
    def everybody_sees_the_model(self) -> None:
        for schema in (REQUESTS, JOBS):
            expected = {
                (key,): (counts, total, list(map(told, slots)))
                for (of, key), (counts, (total,), slots) in self.model.items()
                if of is schema
            }
            assert self.watch.series(schema) == expected
            assert read(self.path, schema) == expected
        assert self.watch.reports == []
        for (schema, key), record in self.records.items():
            counts, (total,), slots = self.model[schema, key]
            assert (record.counts, record.sum) == (counts, total)
            assert list(map(told, record.slots)) == list(map(told, slots))


Sharing.TestCase.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
TestSharing = pytest.mark.skipif(not ofd.SUPPORTED, reason="workers share on Linux only")(Sharing.TestCase)


# --- room -----------------------------------------------------------------------------------------------------------


def test_room_of_what_is_gone_is_used_again_so_that_churn_does_not_grow_a_file(own: OwnFile, tmp_path: Path) -> None:
    watch = Watch(own.directory)
    random_ = random.Random(4)
    records: dict[str, FileRecord] = {}
    sizes = []
    for turn in range(3000):
        name = f"{random_.choice('abcdef') * random_.randrange(1, 60)}-{turn}"
        records[name] = record = place(own, REQUESTS, name)
        record.add(0, 1.0)
        record.put(0, slot(1.0, turn + 1, 0.0, {"turn": str(turn)}), None)
        if len(records) > 40:
            records.pop(random_.choice(list(records))).free()
        if turn % 100 == 0:
            sizes.append((tmp_path / "worker-1").stat().st_size)
            assert watch.series(REQUESTS).keys() == {(name,) for name in records}
            assert all(numbers[:2] == ([1, 0], 1.0) for numbers in watch.series(REQUESTS).values())
    assert len(set(sizes[5:])) == 1, sizes
    assert watch.reports == []
    assert read(tmp_path, REQUESTS) == watch.series(REQUESTS)


def test_a_freed_record_is_found_by_nobody_and_its_holder_writes_nowhere(own: OwnFile, tmp_path: Path) -> None:
    gone, stays = place(own, JOBS, "gone"), place(own, JOBS, "stays")
    gone.free()
    assert read(tmp_path, JOBS).keys() == {("stays",)}
    new = place(own, JOBS, "also")
    gone.add(0, 7.0)
    gone.put(0, slot(1.0, 5, 0.0), None)
    gone.set(9.0)
    assert read(tmp_path, JOBS) == {("stays",): ([0], 0.0, [None]), ("also",): ([0], 0.0, [None])}
    assert (new.counts, stays.counts) == ([0], [0])


def test_what_takes_too_much_room_is_refused_and_leaves_the_rest_alone(own: OwnFile, tmp_path: Path) -> None:
    place(own, JOBS, "a").add(0, 1.0)
    with pytest.raises(ValueError, match="jobs has labels of"):
        place(own, JOBS, "x" * layout.MAX_KEY)
    with pytest.raises(ValueError, match="many takes .* bytes to describe"):
        place(own, Schema("", "counter", "many", documentation="x" * layout.MAX_KEY))
    many = Schema("", "histogram", "many", bounds=tuple(map(float, range(layout.MAX_BUCKETS))))
    with pytest.raises(ValueError, match="many has labels of .* 1001 buckets: too many"):
        place(own, many)
    assert read(tmp_path, JOBS) == {("a",): ([1], 1.0, [None])}


def test_without_room_nothing_is_changed_and_later_there_is_room(own: OwnFile, tmp_path: Path) -> None:
    size = (tmp_path / "worker-1").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    records: list[FileRecord] = []
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(OSError):
            while True:
                records.append(place(own, REQUESTS, str(len(records))))
                records[-1].add(0, 1.0)
        with pytest.raises(OSError):
            place(own, REQUESTS, "another")
        records[0].put(0, slot(1.0, 5, 0.0, {"no": "room"}), None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "worker-1").stat().st_size == size
    found = read(tmp_path, REQUESTS)
    assert len(found) == len(records)
    assert found["0",] == ([1, 0], 1.0, [None, None]), "without its labels an exemplar is not shown"
    assert told(records[0].slots[0]) == (1.0, 5, {"no": "room"}), "but in this worker"
    place(own, REQUESTS, "another").add(1, 1.0)
    records[0].put(0, slot(1.0, 6, 0.0, {"some": "room"}), records[0].slots[0])
    assert read(tmp_path, REQUESTS)["another",][0] == [0, 1]
    assert read(tmp_path, REQUESTS)["0",][2] == [(1.0, 6, {"some": "room"}), None]


LIMITED: Final = """
    import errno, os, resource, signal, sys
    from pathlib import Path
    from exemplars.store.shared import OwnFile
    from tests.store.files import REQUESTS, opened, place

    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # as in a process that a debugger, or another language, has begun
    directory, hard = opened(Path(sys.argv[1])), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        OwnFile.obtain(directory, 1000.0)
    except OSError as error:
        print(error.errno == errno.EFBIG, os.listdir(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    file, number = OwnFile.obtain(directory, 1000.0), 0
    try:
        while True:
            place(file, REQUESTS, str(number)).add(0, 1.0)
            number += 1
    except OSError as error:
        print(error.errno == errno.EFBIG, number > 100, os.path.getsize(os.path.join(sys.argv[1], file.name)))
"""


def test_a_limit_of_the_size_of_files_refuses_room_and_ends_no_process(tmp_path: Path) -> None:
    """The system would send a signal that ends a process: CPython ignores it, others that begin processes do not."""
    process = start(LIMITED, tmp_path)
    output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output.splitlines()) == (0, ["True ['lock']", "True True 131072"])


def test_a_file_grows_also_where_the_locked_descriptor_is_somebody_elses_by_now(own: OwnFile, tmp_path: Path) -> None:
    stranger = tmp_path / "users.db"
    stranger.write_bytes(b"hello")
    os.close(own.lock_fd)
    fd = os.open(stranger, os.O_RDWR)
    try:
        if fd != own.lock_fd:
            os.dup2(fd, own.lock_fd)
        for number in range(3000):
            place(own, REQUESTS, str(number)).add(0, 1.0)
        assert len(own._segments) > 1
        assert stranger.read_bytes() == b"hello"
        assert len(read(tmp_path, REQUESTS)) == 3000
        own.close()
        os.fstat(own.lock_fd)
    finally:
        for opened_here in {fd, own.lock_fd}:
            os.close(opened_here)


def test_a_file_that_was_replaced_does_not_grow_nor_does_what_replaced_it(own: OwnFile, tmp_path: Path) -> None:
    (tmp_path / "worker-1").unlink()
    (tmp_path / "worker-1").write_bytes(b"hello")
    with pytest.raises(FileNotFoundError, match="worker-1 was replaced"):
        for number in range(3000):
            place(own, REQUESTS, str(number))
    assert (tmp_path / "worker-1").read_bytes() == b"hello"


def test_a_record_that_is_let_go_counts_on_and_changes_nothing_in_the_file(own: OwnFile, tmp_path: Path) -> None:
    record = place(own, REQUESTS, "/")
    record.add(0, 1.0)
    record.put(0, slot(1.0, 5, 0.0, {"id": "own"}), None)
    before = (tmp_path / "worker-1").read_bytes()
    record.let_go()
    record.add(0, 7.0)
    record.put(0, slot(7.0, 9, 0.0), record.slots[0])
    record.set(9.0)
    record.save()
    assert (tmp_path / "worker-1").read_bytes() == before
    assert (record.counts, record.sum) == ([2, 0], 9.0)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    if os.geteuid():
        pytest.skip("only root mounts")
    path = tmp_path / "tiny"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", path], check=False)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    yield path
    gc.collect()
    subprocess.run(["umount", "-l", path], check=True)


def test_on_a_full_disk_a_worker_counts_on_in_what_it_has(tiny: Path) -> None:
    directory = opened(tiny)
    one, two = OwnFile.obtain(directory, START), OwnFile.obtain(directory, START)
    with pytest.raises(OSError):
        OwnFile.obtain(directory, START)
    assert sorted(os.listdir(tiny)) == ["lock", "worker-1", "worker-2"], "nothing of what had no room is left"
    records: list[FileRecord] = []
    with pytest.raises(OSError):
        while True:
            records.append(place(one, REQUESTS, str(len(records))))
    for record in records:
        record.add(0, 1.0)
        record.put(0, slot(1.0, 5, 0.0), None)
    found = read(tiny, REQUESTS)
    assert len(found) == len(records) > 100
    assert all(numbers == ([1, 0], 1.0, [(1.0, 5, (5, 1)), None]) for numbers in found.values())
    two.close()
    adopted = OwnFile.obtain(directory, START)
    assert adopted.name == "worker-2"
    for file in (one, adopted):
        file.close()
    directory.close()


def test_a_file_grows_by_parts_and_is_adopted_whole(directory: Directory, tmp_path: Path) -> None:
    file = OwnFile.obtain(directory, START)
    for number in range(5000):
        place(file, REQUESTS, str(number)).add(number % 2, float(number))
    assert len(file._segments) > 2
    expected = {(str(n),): ([1 - n % 2, n % 2], float(n), [None, None]) for n in range(5000)}
    assert read(tmp_path, REQUESTS) == expected
    file.close()
    adopted = OwnFile.obtain(directory, START)
    assert len(adopted._segments) == 1
    place(adopted, REQUESTS, "4999").add(1, 1.0)
    place(adopted, REQUESTS, "new").add(1, 1.0)
    expected |= {("4999",): ([0, 2], 5000.0, [None, None]), ("new",): ([0, 1], 1.0, [None, None])}
    assert read(tmp_path, REQUESTS) == expected
    adopted.close()


# --- code that comes in in the middle -------------------------------------------------------------------------------


class Interrupted:
    """A file, an operation on it, and one that comes in in its middle: it counts in what there is and what is new."""

    def __init__(self, home: Path, operation: str) -> None:
        self.path = Path(tempfile.mkdtemp(dir=home))
        self.directory = opened(self.path)
        self.file = OwnFile.obtain(self.directory, START)
        self.records = {"old": place(self.file, REQUESTS, "old")}
        self.records["old"].put(0, slot(1.0, 1, 0.0, {"by": "first"}), None)
        place(self.file, JOBS, "gone").free()
        if operation == "grow":
            size = (self.path / "worker-1").stat().st_size
            while size - self.file._used > 2048:
                name = f"{self.file._used} " * 100
                self.records[name] = place(self.file, REQUESTS, name)
        self.operate: Callable[[], object] = {
            "add": lambda: self.records["old"].add(1, 2.0),
            "put": lambda: self._put("old", 10, {"by": "outer"}),
            "place": lambda: self._place("outer"),
            "grow": self._grow,
            "room again": lambda: self._count(JOBS, "outer"),
            "save": lambda: self.records["old"].save(),
        }[operation]
        self.came_in = False

    def _put(self, name: str, timestamp_ms: int, labels: dict[str, str] | None) -> None:
        record = self.records[name]
        last = record.slots[0]
        record.put(0, slot(2.0, timestamp_ms, 0.0, labels), last)

    def _count(self, schema: Schema, name: str) -> None:
        record = place(self.file, schema, name)
        self.records[f"{schema.name} {name}"] = record
        record.add(0, 2.0)

    def _place(self, name: str) -> None:
        self._count(REQUESTS, name)
        self._put(f"requests {name}", 10, {"by": name})

    def _grow(self) -> None:
        for number in range(6):
            self._place(f"{number} " * 200)

    def come_in(self) -> None:
        self.came_in = True
        self.records["old"].add(0, 4.0)
        self._put("old", 20, {"by": "inner"})
        self._place("inner")
        self._place("inner too")
        self._count(JOBS, "inner")

    def check(self) -> None:
        """Whatever is in memory stands in the file, and the next owner finds it."""
        place(self.file, JOBS, "last").put(0, slot(1.0, 30, START), None)  # and what is ten seconds older may be shown
        for _ in range(2):
            found = {
                (schema, key): numbers
                for schema in (REQUESTS, JOBS)
                for key, numbers in read(self.path, schema).items()
            }
            found.pop((JOBS, ("last",)))
            for record in self.records.values():
                schema, key = record.key
                labels = layout.decode_labels(key, schema)
                assert labels is not None
                assert found.pop((schema, labels)) == (record.counts, record.sum, list(map(told, record.slots))), labels
            assert found == {}
            self.file.close()
            self.file = OwnFile.obtain(self.directory, START)
            assert self.file.name == "worker-1"
        self.file.close()
        self.directory.close()
        shutil.rmtree(self.path)


@pytest.mark.parametrize("operation", ["add", "put", "place", "grow", "room again", "save"])
def test_a_signal_handler_that_counts_in_the_middle_finds_and_leaves_the_file_whole(
    operation: str, tmp_path: Path
) -> None:
    moments = list(every_moment(Interrupted(tmp_path, operation).operate))
    for moment in moments if len(moments) < 100 else random.Random(1).sample(moments, 100):
        subject = Interrupted(tmp_path, operation)
        interrupted(subject.operate, subject.come_in, at=moment)
        assert subject.came_in, moment
        old = subject.records["old"]
        assert old.counts[0] == 1
        assert old.sum == 4.0 + 2.0 * (operation == "add")
        last = old.slots[0]
        assert last is not None
        assert last.labels == {"by": "inner"}, moment
        subject.check()


def test_signals_of_the_kernel_come_in_anywhere(own: OwnFile, tmp_path: Path) -> None:
    record, handled = place(own, JOBS, "both"), 0

    def handler(*_: object) -> None:
        nonlocal handled
        handled += 1
        name = f"inner {handled}"  # before another comes in
        record.add(0, 1.0)
        place(own, JOBS, name).add(0, 1.0)

    before = signal.signal(signal.SIGALRM, handler)
    outer = 0
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        while handled < 400:
            record.add(0, 1.0)
            place(own, JOBS, f"outer {outer}").add(0, 1.0)
            outer += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    found = read(tmp_path, JOBS)
    assert found["both",][0] == [outer + handled] == record.counts
    assert len(found) == outer + handled + 1
    assert all(numbers[0] == [1] for labels, numbers in found.items() if labels != ("both",))


def test_what_moves_to_another_directory_stands_there_as_it_was_and_is_written_there_from_then_on(
    own: OwnFile, tmp_path: Path
) -> None:
    records = [place(own, REQUESTS, str(number)) for number in range(1500)]
    for record in records:
        record.add(0, 1.0)
        record.put(0, slot(1.0, 9, 0.0, {"id": "own"}), None)
    expected = read(tmp_path, REQUESTS)
    assert len(expected) == 1500
    other = tmp_path / "other"
    other.mkdir()
    moved = own.moved(opened(other))
    assert read(other, REQUESTS) == expected
    for record in records:
        record.rebind(moved)
        record.add(1, 1.0)
    assert all(numbers[0] == [1, 1] for numbers in read(other, REQUESTS).values())
    assert OwnFile.obtain(own.directory, START).name == "worker-1", "the old one is nobody's"
    assert shared._identity(os.fstat(moved.lock_fd)) == moved._identity
    moved.close()

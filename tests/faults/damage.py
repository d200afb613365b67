"""Workers' files that are damaged, or are no such files: what checks is shown exactly, and nothing else.

`python -m tests.faults.damage COUNT SEED DIRECTORY` mutates files COUNT times in a process of its own, so that its end
would be seen, and prints figures as JSON.
"""

import json
import logging
import math
import mmap
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate, combinations_with_replacement
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client import REGISTRY
from prometheus_client import Metric as MetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exemplars import render
from exemplars.store import layout, ofd
from exemplars.store.directory import Directory
from exemplars.store.layout import Kind, Schema
from exemplars.store.reader import Reader
from exemplars.store.shared import OwnFile
from tests.faults import damaging, subject
from tests.faults.figures import Figures
from tests.programs import PACKAGES, PATIENCE

FILES: Final = 3
_METRICS: Final = ("subject_seconds", "subject", "subject_gauge")
_UNREADABLE_EVERY: Final = 50
_ADOPTED_EVERY: Final = 5
_WHOLE_EVERY: Final = 10
_SKIPPED: Final = "exemplars_files_skipped"

Name = tuple[str, str]  # of a series: metric and label value
Dot = tuple[tuple[tuple[str, str], ...], float, float]  # labels, value, timestamp of an exemplar


class Series(NamedTuple):
    """The numbers of one: observations by bucket (of a counter and a gauge, none), and the sum."""

    counts: tuple[int, ...]
    sum: float

    @property
    def shown(self) -> "Shown":
        """As a page has it."""
        return Shown(tuple(accumulate(self.counts)), self.sum)


Numbers = dict[Name, list[Series]]  # of a file, in which a series may stand more than once


class Shown(NamedTuple):
    """The numbers of a series as they are on a page: its buckets, each with those below it, and the sum."""

    buckets: tuple[int, ...]
    sum: float


class Part(NamedTuple):
    """A record as somebody wrote it: what of it bears a check, and how long it is; of a series also whose it is."""

    checked: bytes  # head and key
    length: int
    kind: Kind
    name: Name | None  # of a series of ours
    schema: bytes  # what is checked of the schema that it points to
    schema_at: int
    place: layout.Place
    buckets: int


class Original:
    """A valid file, and what stands where in it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.parts: dict[int, Part] = {}
        for at, head in layout.records(data, layout.HEADER, damaging.used(data)):
            checked = data[at : at + layout.HEAD + len(head.key)]
            name, schema, place, buckets = None, b"", layout.place(len(head.key), 0), 0
            if head.kind == Kind.SERIES:
                schema = self.parts[head.schema].checked
                described = Schema.decode(schema[layout.HEAD :])
                buckets, place = described.buckets, layout.place(len(head.key), described.buckets)
                (label, *_) = layout.decode_labels(head.key, described) or ("",)
                name = (described.name, label) if described.name in _METRICS else None
            self.parts[at] = Part(checked, head.length, Kind(head.kind), name, schema, head.schema, place, buckets)


class Told(NamedTuple):
    """What must be told of a file: numbers by series; whether something is left out, and must be said to be.

    *kept* is what a reader tells that knew the file before, where it does not look again at what is another now.
    """

    series: Numbers
    damaged: bool
    kept: Numbers | None = None
    same_exemplars: bool = False  # nothing that concerns exemplars is another


def told(original: Original, data: bytes, everything: Collection[Part]) -> Told:
    """What *data* tells, which was made from *original*: an oracle that knows which bytes are others.

    *everything* are the records that somebody wrote: whatever is not one of them, byte for byte, is none.
    """
    known = original.data
    end = damaging.used(data) if len(data) >= layout.HEADER else 0
    if data[:16] != known[:16] or not layout.HEADER <= end <= len(data) or end % 16:
        return Told({}, damaged=True)
    written = {part.checked: part for part in everything}
    series: Numbers = {}
    damaged = False
    found: dict[int, bytes] = {}
    at = layout.HEADER
    while at < end:
        key_length = int.from_bytes(data[at + 6 : at + 8], "little")
        part = written.get(data[at : at + layout.HEAD + key_length])
        if part is None or at + part.length > end:
            damaged = True
            break
        if part.kind == Kind.SERIES and found.get(part.schema_at) != part.schema:
            damaged = True
            break
        found[at] = part.checked
        damaged |= not _take(data, at, part, series)
        at += part.length
    pairs = [(at, part, data[at : at + len(part.checked)] == part.checked) for at, part in original.parts.items()]
    kept: Numbers | None = None
    if end >= damaging.used(known) and all(same for _, part, same in pairs if part.kind == Kind.SERIES):
        kept = {}
        for at, part, _ in pairs:
            damaged |= not _take(data, at, part, kept)
    same = not damaged and end == damaging.used(known)
    for at, part in original.parts.items():
        start = at + (part.place.stamps if part.kind == Kind.SERIES else 0)
        same = same and data[start : at + part.length] == known[start : at + part.length]
        same = same and data[at : at + len(part.checked)] == part.checked
    return Told(series, damaged, kept, same)


def _take(data: bytes, at: int, part: Part, series: Numbers) -> bool:
    """Put what the record of *part* at *at* tells into *series*; tell whether its numbers are possible ones."""
    if part.kind != Kind.SERIES:
        return True
    found, possible = _numbers(data, at, part)
    if part.name is not None and possible:
        series.setdefault(part.name, []).append(found)
    return possible


def _numbers(data: bytes, at: int, part: Part) -> tuple[Series, bool]:
    """The numbers in the record *part* at *at*, and whether anybody could have counted so far."""
    place = part.place
    counts = memoryview(data)[at + place.counts : at + place.stamps].cast("Q").tolist()
    total = memoryview(data)[at + place.numbers : at + place.numbers + 8].cast("d")[0]
    metric = part.name[0] if part.name is not None else ""
    possible = metric == "subject_gauge" or all(count <= layout.MAX_COUNT for count in counts)
    return Series(tuple(counts) if metric == "subject_seconds" else (), total), possible


def added(parts: Sequence[Numbers]) -> dict[Name, Series]:
    """All of *parts* together."""
    found: dict[Name, list[Series]] = {}
    for part in parts:
        for name, series in part.items():
            found.setdefault(name, []).extend(series)
    return {name: _sum(some, rises=name[0] != "subject_gauge") for name, some in found.items()}


def _sum(some: Sequence[Series], *, rises: bool) -> Series:
    """*some* series as one; what *rises* has no sum below zero, nor one that is not a number: such ones are none."""
    counts = tuple(map(sum, zip(*[series.counts for series in some], strict=True)))
    sums = [series.sum for series in some]
    if rises and not _exact(sums) >= 0:
        sums = [each for each in sums if each >= 0]
    return Series(counts, _exact(sums))


def _exact(values: Sequence[float]) -> float:
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # of infinities
        return sum(values)


def shown_of(series: dict[Name, Series]) -> dict[Name, Shown]:
    return {name: each.shown for name, each in series.items()}


def as_text(shown: dict[Name, Shown]) -> str:
    """In which what is not a number is like itself."""
    return repr(sorted(shown.items()))


def on_page(families: Sequence[MetricFamily]) -> tuple[dict[Name, Shown], dict[tuple[Name, str], Dot]]:
    """What a page tells of the metrics: numbers by series, and exemplars by series and bucket."""
    buckets: dict[Name, list[int]] = {}
    sums: dict[Name, float] = {}
    dots: dict[tuple[Name, str], Dot] = {}
    for family in families:
        for sample in family.samples if family.name in _METRICS else ():
            name = family.name, sample.labels["series"]
            if sample.name.endswith("_bucket"):
                assert isinstance(sample.value, int)  # the parser keeps all of its digits
                buckets.setdefault(name, []).append(sample.value)
            elif not sample.name.endswith("_count"):
                sums[name] = sample.value
            if sample.exemplar is not None:
                assert sample.exemplar.timestamp is not None
                labels = tuple(sample.exemplar.labels.items())
                dots[name, sample.labels.get("le", "")] = (
                    labels,
                    sample.exemplar.value,
                    float(sample.exemplar.timestamp),
                )
    return {name: Shown(tuple(buckets.get(name, ())), total) for name, total in sums.items()}, dots


def read(page: bytes) -> list[MetricFamily]:
    return list(text_string_to_metric_families(page.decode()))  # type: ignore[no-untyped-call]


def skipped(families: Sequence[MetricFamily]) -> Counter[str]:
    """What the page says was left out, by reason."""
    return Counter(
        {
            sample.labels["reason"]: int(sample.value)
            for family in families
            if family.name == _SKIPPED
            for sample in family.samples
        }
    )


class _Log(logging.Handler):
    """Remembers what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def filled(directory: Path) -> Iterator[None]:
    """Three workers' files in *directory*, whose owners live, and no longer count."""
    with ExitStack() as stack:
        for seed in range(1, FILES + 1):
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.subject", "fill", str(seed)],
                env={"PYTHONPATH": os.pathsep.join(PACKAGES), "EXEMPLARS_DIR": str(directory)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.callback(process.wait, PATIENCE)
            assert process.stdin is not None and process.stdout is not None
            stack.callback(process.stdin.close)
            stack.callback(process.stdout.close)
            assert process.stdout.readline() == b"filled\n"
        yield


def group_in(directory: Path) -> Path:
    """The one group's directory in *directory*."""
    (group,) = directory.iterdir()
    return group


# --- one file at a time, and every number known -----------------------------------------------------------------------


def mutate(count: int, seed: int, directory: Path) -> Figures:
    """Mutate files *count* times, and read the page after each. Raises ``AssertionError`` where it is not as it must.

    ``EXEMPLARS_DIR`` is *directory*: this process is a worker as well.
    """
    log = _Log()
    logging.getLogger("exemplars").addHandler(log)
    logging.getLogger("exemplars").propagate = False
    choose = random.Random(seed)
    with filled(directory):
        group = group_in(directory)
        paths = sorted(group.glob("worker-*"))
        assert len(paths) == FILES
        originals = [Original(path.read_bytes()) for path in paths]
        everything = {part for original in originals for part in original.parts.values()}
        numbers = [told(original, original.data, everything).series for original in originals]
        families = read(_page())
        shown, dots = on_page(families)
        assert shown == shown_of(added(numbers)), (shown, numbers)
        known = _known(paths, dots)
        families = read(_page())
        done: Counter[str] = Counter()
        for number in range(count):
            which = choose.randrange(FILES)
            before = skipped(families)
            if number % _UNREADABLE_EVERY == 0:
                name = damaging.no_file.__name__
                damaging.no_file(paths[which], choose)
                # Where nothing can be read, what was read before stands.
                expected = Told(numbers[which], damaged=True, same_exemplars=True)
                data = b""
            else:
                (mutation,) = choose.choices(list(damaging.MUTATIONS), list(damaging.MUTATIONS.values()))
                name = mutation.__name__
                other = choose.choice([o for o in originals if o is not originals[which]])
                data = mutation(originals[which].data, other.data, choose)
                base = other if mutation is damaging.another_worker else originals[which]
                expected = told(base, data, everything)
                if base is other:
                    expected = expected._replace(kept=None, same_exemplars=False)
                _put(paths[which], data, replace=choose.random() < 0.5)
            try:
                # Mostly of what is looked at only: most of the time goes into reading pages.
                families = read(_page(*(_METRICS if number % _WHOLE_EVERY else ())))
                displaced = name in (damaging.mixed.__name__, damaging.moved.__name__)
                _check(families, dots, known, numbers, which, expected, displaced=displaced)
                if data and number % _ADOPTED_EVERY == 0:
                    done["adopted"] += _adopt(directory.with_name("adopting"), data, expected)
            except Exception as error:
                error.add_note(f"after {name} of {paths[which].name}, number {number}, seed {seed}, in {directory}")
                raise
            done[name] += 1
            done["left out"] += expected.damaged
            damaging.remove(paths[which])
            _put(paths[which], originals[which].data, replace=True)
            families = read(_page(*([_SKIPPED] if number % _WHOLE_EVERY else ())))
            if number % _WHOLE_EVERY == 0:
                assert on_page(families) == (shown, dots), f"not as before after {name}, number {number}, seed {seed}"
            told_now = skipped(families) - before
            must_tell = expected.damaged and expected.kept is None
            assert told_now or not must_tell, f"silent after {name}, number {number}, seed {seed}"
            assert expected.damaged or not told_now, f"{told_now} after {name}, number {number}, seed {seed}"
            for reason in told_now:
                # Said once a file and reason, as the first of many; a name is never guessed.
                assert any(f"/{paths[which].name} " in line and repr(reason) in line for line in log.lines), log.lines
        reasons = skipped(families)
    adopted, left_out = done.pop("adopted"), done.pop("left out")
    return Figures(
        {
            "mutations of files": done.total(),
            **{f"of them {name.replace('_', ' ')}": times for name, times in done.most_common()},
            "of them left out, or some of the file": left_out,
            **{f"files skipped as {reason}": times for reason, times in reasons.most_common()},
            "mutated files that a worker was started on": len(range(0, count, _ADOPTED_EVERY)),
            "of them adopted": adopted,
        }
    )


def _page(*names: str) -> bytes:
    return render(REGISTRY, accept=subject.OPENMETRICS, names=names)[0]


_owners: Final[dict[Path, int]] = {}


def _put(path: Path, data: bytes, *, replace: bool) -> None:
    """Have *data* at *path*: in the file that is there, or in another, which has an owner too.

    Of one without, a reader would show no exemplar: their spans may have died with it.
    """
    if not replace:
        path.write_bytes(data)
        return
    aside = path.with_name("aside")
    aside.write_bytes(data)
    aside.chmod(0o600)
    owner = os.open(aside, os.O_RDWR | os.O_CLOEXEC)
    assert ofd.take(owner)
    aside.replace(path)
    if path in _owners:
        os.close(_owners[path])
    _owners[path] = owner


def _known(paths: Sequence[Path], dots: dict[tuple[Name, str], Dot]) -> set[tuple[Name, str, Dot]]:
    """Every exemplar that can be shown: the newest of each file."""
    known = {(name, le, dot) for (name, le), dot in dots.items()}
    assert len(known) > FILES
    for path in paths:
        data = path.read_bytes()
        aside = path.with_name("aside")
        path.rename(aside)
        known |= {(name, le, dot) for (name, le), dot in on_page(read(_page()))[1].items()}
        aside.rename(path)
        assert path.read_bytes() == data
    for hidden in paths:
        hidden.rename(hidden.with_suffix(".aside"))
    for path in paths:
        path.with_suffix(".aside").rename(path)
        known |= {(name, le, dot) for (name, le), dot in on_page(read(_page()))[1].items()}
        path.rename(path.with_suffix(".aside"))
    for path in paths:
        path.with_suffix(".aside").rename(path)
    for name, le, (labels, value, _) in known:
        number = subject.number_of(dict(labels))
        assert number is not None, (name, le, labels)
        assert value == (subject.value_of(number) if name[0] == "subject_seconds" else 1), (name, le, labels, value)
    return known


def _check(
    families: list[MetricFamily],
    dots: dict[tuple[Name, str], Dot],
    known: set[tuple[Name, str, Dot]],
    numbers: list[Numbers],
    which: int,
    expected: Told,
    *,
    displaced: bool,
) -> None:
    """Hold a page against what it must tell after file *which* was mutated."""
    shown, shown_dots = on_page(families)
    possible = [expected.series] if expected.kept is None else [expected.series, expected.kept]
    wanted = [shown_of(added([*numbers[:which], series, *numbers[which + 1 :]])) for series in possible]
    assert as_text(shown) in map(as_text, wanted), (shown, wanted)
    for (name, le), dot in shown_dots.items():
        # What checks and stands elsewhere, with its time, cannot be told from what was written there.
        assert (name, le, dot) in known or (displaced and dot in {each for _, _, each in known}), (name, le, dot)
    if expected.same_exemplars:
        assert shown_dots == dots


def _adopt(directory: Path, data: bytes, expected: Told) -> bool:
    """Start as a worker with a file of *data* that nobody owns; tell whether its numbers go on."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for path in directory.iterdir():
        damaging.remove(path)
    group = Directory(str(directory), os.open(directory, os.O_RDONLY | os.O_DIRECTORY))
    try:
        (directory / "worker-1").write_bytes(data)
        (directory / "worker-1").chmod(0o600)
        own = OwnFile.obtain(group, time.monotonic())
        adopted = own.name == "worker-1"
        said: list[str] = []
        reader = Reader(group, lambda reason, name, detail: said.append(f"{reason} {name} {detail}"))
        for _ in reader.refresh():
            pass
        if adopted:
            unmade = not any(data[: layout.HEADER])  # as its maker leaves it that dies too early: without numbers
            assert not expected.damaged or expected.series or unmade, "what cannot be read was adopted"
        else:
            whole_pages = len(data) - len(data) % mmap.ALLOCATIONGRANULARITY
            assert expected.damaged or whole_pages < damaging.used(data), "what is whole was not adopted"
        own.close()
        return adopted
    finally:
        group.close()


# --- all files at once, while somebody reads --------------------------------------------------------------------------


def under_a_reader(seconds: float, seed: int, directory: Path) -> Figures:
    """Cut, swap and replace files for *seconds* while another process reads them, page after page."""
    choose = random.Random(seed)
    environment = {"PYTHONPATH": os.pathsep.join(PACKAGES), "EXEMPLARS_DIR": str(directory)}
    with filled(directory):
        paths = sorted(group_in(directory).glob("worker-*"))
        originals = [Original(path.read_bytes()) for path in paths]
        nothing: Numbers = {}
        everything = {part for original in originals for part in original.parts.values()}
        numbers = [told(original, original.data, everything).series for original in originals]
        # Each name may lead to any of the files, or to none, while one page is made.
        possible: dict[Name, set[Shown]] = {}
        for some in combinations_with_replacement([nothing, *numbers], FILES):
            for name, series in added(some).items():
                possible.setdefault(name, set()).add(series.shown)
        stop = threading.Event()
        changes = 0

        def change() -> None:
            nonlocal changes
            while not stop.is_set():
                which = choose.randrange(FILES)
                path, original = paths[which], originals[which].data
                kind = choose.choice(("cut", "swap", "foreign", "gone"))
                if kind == "cut":
                    os.truncate(path, choose.randrange(len(original)))
                elif kind == "swap":
                    other = paths[choose.randrange(FILES)]
                    path.rename(path.with_name("aside"))
                    other.replace(path) if other != path else None
                    path.with_name("aside").replace(other)
                elif kind == "foreign":
                    _put(path, damaging.foreign(original, original, choose), replace=choose.random() < 0.5)
                else:
                    path.unlink()
                changes += 1
                time.sleep(choose.choice((0.0, 0.0005, 0.003)))
                for each, whole in zip(paths, originals, strict=True):
                    if choose.random() < 0.7 or each is path:
                        _put(each, whole.data, replace=choose.random() < 0.5)

        reader = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.subject", "pages"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert reader.stdin is not None and reader.stdout is not None
        changer = threading.Thread(target=change)
        pages = different = 0
        try:
            answer(reader)  # first of all: it gets a file of its own, which nobody changes
            changer.start()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                families = read(answer(reader))
                shown, dots = on_page(families)
                for name, found in shown.items():
                    assert found in possible[name], f"{name}: {found} is nobody's"
                for labels, value, _ in dots.values():
                    assert subject.number_of(dict(labels)) is not None, (labels, value)
                failed = [s for f in families if f.name == "exemplars_errors" for s in f.samples if s.value]
                assert not failed, failed
                pages += 1
                different += shown != shown_of(added(numbers))
        finally:
            stop.set()
            if changer.ident is not None:
                changer.join()
            reader.stdin.close()
            assert reader.wait(PATIENCE) == 0
            reader.stdout.close()
    assert different
    return Figures({"changes under a reader": changes, "pages read meanwhile": pages, "of them with less": different})


def answer(reader: subprocess.Popen[str]) -> bytes:
    """The next page of the process *reader*."""
    assert reader.stdin is not None and reader.stdout is not None
    reader.stdin.write("\n")
    reader.stdin.flush()
    line = reader.stdout.readline()
    assert line, f"the reader has ended: {reader.wait(PATIENCE)}"
    return bytes(json.loads(line).encode())


def run(count: int, seconds: float, seed: int) -> Figures:
    """Mutate files *count* times, in two processes at once, and change them for *seconds* under a reader.

    In memory where there is such a file system: most of the time would go into making and removing files.
    """
    shm = Path("/dev/shm")
    place = shm if os.access(shm, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as directory:
        found = _mutate_in_processes(count, seed, Path(directory))
        shared = Path(directory) / "under-a-reader"
        shared.mkdir(mode=0o700)
        found.add(under_a_reader(seconds, seed, shared))
    return found


def _mutate_in_processes(count: int, seed: int, directory: Path) -> Figures:
    processes = []
    found = Figures()
    try:
        for shard in range(2):
            shared = directory / f"mutations-{shard}" / "shared"
            shared.mkdir(parents=True, mode=0o700)
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.faults.damage", str(count // 2), str(seed + shard), str(shared)],
                    env={"PYTHONPATH": os.pathsep.join(PACKAGES), "EXEMPLARS_DIR": str(shared)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        for process in processes:
            printed, failed = process.communicate()
            assert process.returncode == 0, failed
            found.add(json.loads(printed))
    finally:
        for process in processes:
            process.terminate()
            process.communicate()
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended all the same
    print(json.dumps(mutate(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))

"""A directory of workers' files without a group, and what a reader makes of it."""

import os
from pathlib import Path
from typing import Any, Final

from exemplars.policy import Slot
from exemplars.store.directory import Directory
from exemplars.store.layout import Schema, encode_labels
from exemplars.store.reader import Reader
from exemplars.store.shared import FileRecord, OwnFile

REQUESTS: Final = Schema("", "histogram", "requests", labelnames=("path",), bounds=(1.0,))
JOBS: Final = Schema("", "counter", "jobs", labelnames=("queue",))
RETENTION: Final = 7.0


def opened(path: Path) -> Directory:
    return Directory(str(path), os.open(path, os.O_RDONLY | os.O_DIRECTORY))


def place(file: OwnFile, schema: Schema, *labels: str) -> FileRecord:
    return file.place((schema, encode_labels(labels)), RETENTION)


def slot(value: float, timestamp_ms: int, taken_at: float, labels: dict[str, str] | None = None) -> Slot:
    ids = (0, 0) if labels is not None else (timestamp_ms, 1)
    return Slot(value, timestamp_ms, taken_at, taken_at + RETENTION, *ids, labels=labels)


def told(shown: Any) -> Any:
    """What a page says of an exemplar."""
    return shown and (shown.value, shown.timestamp_ms, shown.labels or (shown.trace_id, shown.span_id))


Numbers = tuple[list[int], float, list[Any]]


class Watch:
    """A reader of a directory, and what it reports of it."""

    def __init__(self, directory: Directory) -> None:
        self.reports: list[tuple[str, str, str]] = []
        self.reader = Reader(directory, lambda *report: self.reports.append(report))

    def series(self, schema: Schema) -> dict[tuple[str, ...], Numbers]:
        """Counts, sum and exemplars by label values, after reading all that changed."""
        for _ in self.reader.refresh():
            pass
        found = {}
        for series in self.reader.series(schema):
            counts, total, slots, _ = series.read()
            found[tuple(value for _, value in series.labels)] = (list(counts), total, list(map(told, slots)))
        return found


def read(path: Path, schema: Schema) -> dict[tuple[str, ...], Numbers]:
    """What somebody who has never looked before finds in the directory *path*; that nothing in it is damaged."""
    directory = opened(path)
    try:
        watch = Watch(directory)
        found = watch.series(schema)
        assert watch.reports == []
        return found
    finally:
        directory.close()

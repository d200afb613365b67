"""Tempo's disk is full: a small one that can be filled, and what becomes of traces meanwhile and afterwards."""

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_FSIZE, prlimit
from typing import Final

import pytest

from tests.faults.figures import Figures
from tests.programs import eventually
from tests.stack import composed, running
from tests.stack.asking import Wish, asking, unharmed
from tests.stack.lean import Server
from tests.stack.process import Program, started
from tests.stack.sending import Span, arrive, send

SIZE: Final = 16 << 20  # bytes
FULL: Final = re.compile("no space left on device|file too large")
TRACES: Final = 20


class Disk:
    """What is at *directory*, for a program that was started with `entering` before its command."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def entering(self) -> Sequence[str]:
        raise NotImplementedError

    @property
    def seen(self) -> Path:
        """Where it is for whoever is outside."""
        return self.directory

    def fill(self, program: Program) -> None:
        raise NotImplementedError

    def free(self, program: Program) -> None:
        raise NotImplementedError


class Mounted(Disk):
    """A file system in memory that only those see who are brought in. No rights are needed, unless in a container.

    It lives in a mount namespace that the process *keeper* keeps open, so nothing is left of it, whatever ends how.
    """

    def __init__(self, directory: Path, keeper: int) -> None:
        super().__init__(directory)
        self._keeper = keeper

    def entering(self) -> Sequence[str]:
        return ["nsenter", f"--target={self._keeper}", "--user", "--mount", "--preserve-credentials", "--"]

    @property
    def seen(self) -> Path:
        return Path(f"/proc/{self._keeper}/root{self.directory}")

    def fill(self, program: Program) -> None:
        with (self.seen / "ballast").open("ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(4096))

    def free(self, program: Program) -> None:
        (self.seen / "ballast").unlink()


class Limited(Disk):
    """A directory in which a program may not write, by its own limit, where nothing can be mounted."""

    def entering(self) -> Sequence[str]:
        # Its log is a file as well, so somebody else writes it.
        return ["bash", "-c", 'exec "$@" > >(exec cat) 2>&1', "-"]

    def fill(self, program: Program) -> None:
        prlimit(program.pid, RLIMIT_FSIZE, (0, RLIM_INFINITY))

    def free(self, program: Program) -> None:
        prlimit(program.pid, RLIMIT_FSIZE, (RLIM_INFINITY, RLIM_INFINITY))


@contextmanager
def small_disk(directory: Path) -> Iterator[Disk]:
    """One of `SIZE` for as long as the block, or what comes nearest to it here."""
    directory.mkdir()
    mount = f'mount -t tmpfs -o size={SIZE} none "$1" && echo mounted && exec cat'
    keeper = subprocess.Popen(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "-", directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with keeper:  # leaving closes what it reads, and it ends
        assert keeper.stdout is not None
        is_mounted = keeper.stdout.readline() == b"mounted\n"
        yield Mounted(directory, keeper.pid) if is_mounted else Limited(directory)


class Tempo(running.Tempo):
    """One that keeps what it has on *disk*, and lets nobody wait until it writes it there."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        super().__init__("tempo", directory, composed.services()["tempo"], {"TEMPO_DIR": str(disk.directory)})
        self._disk = disk

    def command(self) -> Sequence[str]:
        return [*self._disk.entering(), *super().command(), "-ingester.trace-idle-period=1s"]

    def written(self) -> tuple[int, int]:
        """Bytes on its disk of traces that are not yet in a block, and how often it could not write them."""
        size = sum(file.stat().st_size for file in self._disk.seen.glob("wal/*/*"))
        return size, len(FULL.findall(self.said()))


def filled(directory: Path) -> Figures:
    """Tempo's disk full under requests, then with room again, then Tempo restarted: what opens, and who says what."""
    figures = Figures()
    with ExitStack() as stack:
        run = stack.enter_context
        disk = run(small_disk(directory / "disk"))
        tempo = run(started(Tempo(directory, disk)))
        collector = run(running.collector(directory, tempo, None, None, DECISION_WAIT="1s", BASE_PERCENT="0"))
        server = run(started(Server(directory, collector.otlp, 2, "500")))
        asked = run(asking([Wish("GET", f"http://{server.address('HTTP')}/{n}", frozenset({200})) for n in range(20)]))

        def taken(name: str) -> list[Span]:
            """Traces that the Collector has handed on, and Tempo finds while they are in its memory."""
            spans = [Span("front").marked() for _ in range(TRACES)]
            send(collector.otlp, spans)
            for span in spans:
                arrive(tempo, [span])
            return spans

        def found(spans: list[Span]) -> int:
            return sum(bool(tempo.trace(span.trace_id)) for span in spans)

        start = time.time()
        before = taken("before")
        eventually(lambda: tempo.written()[0] > 0, "traces on the disk", tempo.tail)
        disk.fill(tempo)
        full = time.time()
        meanwhile = taken("while it is full")
        eventually(lambda: FULL.search(tempo.said()), "Tempo to say so", tempo.tail)
        eventually(lambda: found(meanwhile) == 0, "the traces to be gone", tempo.tail)
        figures["full: traces that Tempo took, and that are gone"] = len(meanwhile)
        figures["full: traces of before that open"] = f"{found(before)} of {len(before)}"
        figures["full: lines of Tempo that say so"] = tempo.written()[1]
        page = collector.own_metrics()
        figures["full: spans that the Collector could not send"] = counted(page, "otelcol_exporter_send_failed_spans")
        figures["full: spans that wait in the Collector"] = counted(page, "otelcol_exporter_queue_size")
        disk.free(tempo)
        room = time.time()
        state = tempo.written()
        after = taken("with room again")
        eventually(lambda: tempo.written() != state, "Tempo to write again, or not", tempo.tail)
        figures["room again: traces that open"] = f"{found(after)} of {len(after)}"
        tempo.stop()
        away = [Span("front").marked() for _ in range(TRACES)]
        send(collector.otlp, away)
        eventually(lambda: counted(collector.own_metrics(), "otelcol_exporter_queue_size") > 0, "traces that wait")
        tempo.start()
        for span in away:
            arrive(tempo, [span])
        figures["restarted: traces of while it was away that open"] = f"{found(away)} of {len(away)}"
        figures["restarted: traces of before that open"] = f"{found(before)} of {len(before)}"
        assert found(before) == len(before)
        assert found(away) == len(away)
        asked.all_of_now()
        last = time.time()
        for name, since, until in (("before", start, full), ("full", full, room), ("room again", room, last)):
            figures |= unharmed(name, asked.between(since, until))
    return figures


def counted(page: str, name: str) -> int:
    """What the Collector says of what it sends to Tempo."""
    return int(sum(map(float, re.findall(rf"(?m)^{name}\w*{{.*otlp_http/tempo.*}} (\S+)$", page))))

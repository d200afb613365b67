"""Tempo with the file of `compose/`: what it has taken it keeps, and it listens to this machine only."""

import re
from pathlib import Path

from tests.stack import running
from tests.stack.process import text
from tests.stack.sending import Span, arrive, send


def test_traces_survive_its_end(tmp_path: Path) -> None:
    """If it was asked to end. One that is killed loses what came in its last seconds, before that is written."""
    front = Span("front")
    trace = [front, front.child("stock")]
    with running.tempo(tmp_path) as tempo:
        send(tempo.otlp, trace)
        arrive(tempo, trace)
        tempo.stop()
        tempo.start()
        arrive(tempo, trace)


def test_a_trace_is_found_by_its_id_with_what_its_spans_say(tmp_path: Path) -> None:
    span = Span("front", attributes={"http.route": "/search"}, failed=True).marked()
    with running.tempo(tmp_path) as tempo:
        send(tempo.otlp, [span])
        arrive(tempo, [span])
        (found,) = tempo.trace(span.trace_id)
        assert found["service"] == "front"
        assert found["attributes"] == {"http.route": "/search", "exemplar": "true"}
        assert found["status"]["code"] == "STATUS_CODE_ERROR"
        assert tempo.trace("0" * 31 + "1") == []


def test_retention_is_that_of_the_variable(tmp_path: Path) -> None:
    with running.tempo(tmp_path, TEMPO_RETENTION="36h") as tempo:
        assert "block_retention: 1d12h" in text(f"{tempo.url}/status/config")


def listening(pid: int) -> set[str]:
    """The local addresses that a process listens at, in the kernel's spelling."""
    sockets = {
        found[1]
        for fd in Path(f"/proc/{pid}/fd").iterdir()
        if (found := re.match(r"socket:\[(\d+)\]", str(fd.readlink())))
    }
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets}


def test_everything_listens_to_this_machine_only(tmp_path: Path) -> None:
    with (
        running.tempo(tmp_path) as tempo,
        running.loki(tmp_path) as loki,
        running.collector(tmp_path, tempo, loki) as collector,
        running.prometheus(tmp_path, {}) as prometheus,
    ):
        for started in (tempo, loki, collector, prometheus):
            assert listening(started.pid) == {"0100007F"}, started.name

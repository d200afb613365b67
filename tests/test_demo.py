"""`exemplars demo`: its parts, and the whole of it as a user runs it."""

import asyncio
import io
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry

from exemplars import Histogram, render, semconv
from exemplars.demo import missing
from exemplars.demo.load import SPIKE_AT, SPIKE_EVERY, SPIKE_FACTOR, SPIKE_LASTS, Visit, visits
from exemplars.demo.page import ACCEPT, Exemplar, exemplars
from exemplars.demo.processes import ServerEnded, serving
from exemplars.demo.screen import Screen
from exemplars.demo.spans import Span, Traces, receiving
from tests.programs import PACKAGES, PATIENCE, eventually

COMMAND: Final = (sys.executable, "-c", "import sys; from exemplars.cli import main; sys.exit(main())", "demo")


def test_the_extra_of_the_tests_has_all_that_the_demo_needs() -> None:
    assert missing() == []


# Load


def first(seconds: float, rate: float, seed: int) -> list[Visit]:
    found: list[Visit] = []
    for visit in visits(rate, seed):
        if visit.at > seconds:
            return found
        found.append(visit)
    raise AssertionError("visits have an end")


def test_the_same_seed_makes_the_same_visits_and_another_makes_others() -> None:
    one, same, other = (list(islice(visits(20, seed), 500)) for seed in (1, 1, 2))
    assert one == same != other


def test_visits_come_at_the_rate_asked_for_and_at_a_multiple_in_spikes() -> None:
    found = first(50 * SPIKE_EVERY, 20, 1)
    assert all(before.at < after.at for before, after in zip(found, found[1:], strict=False))
    spikes = [visit for visit in found if 0 <= visit.at % SPIKE_EVERY - SPIKE_AT < SPIKE_LASTS]
    assert len(spikes) / (50 * SPIKE_LASTS) == pytest.approx(20 * SPIKE_FACTOR, rel=0.1)
    calm = len(found) - len(spikes)
    assert calm / (50 * (SPIKE_EVERY - SPIKE_LASTS)) == pytest.approx(20, rel=0.1)


def test_visits_go_to_every_part_of_the_shop() -> None:
    """Those that are refused, slow or broken too: a lost product, a long search, a mirror, a report."""
    paths = {(visit.method, visit.path) for visit in first(120, 20, 1)}
    assert {method for method, _ in paths} == {"GET", "POST"}
    wanted = ("/products/kettle$", "/products/unicorn-", r"/search\?", r"/products/mirror/orders\?", r"/reports/\d{4}$")
    for pattern in wanted:
        assert any(re.match(pattern, path) for _, path in paths), pattern


# Page


def test_exemplars_of_request_durations_are_read_and_no_others() -> None:
    registry = CollectorRegistry()
    labels = dict.fromkeys(semconv.REQUEST_LABELS, "")
    durations = Histogram(semconv.DURATION, "", semconv.REQUEST_LABELS, registry=registry, buckets=(0.1, 1.0))
    others = Histogram("others", "", registry=registry)
    ids = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}
    labels |= {"http_request_method": "GET", "http_route": "/a/{b}", "http_response_status_code": "500"}
    durations.labels(**labels).observe(0.5, exemplar=ids)
    durations.labels(**labels).observe(0.05, exemplar={})
    others.observe(0.5, exemplar=ids)
    text, _ = render(registry, accept=ACCEPT)
    (found,) = exemplars(text.decode())
    assert found == Exemplar("GET", "/a/{b}", "500", "", "1.0", 0.5, found.time, *ids.values())
    assert abs(found.time - time.time()) < 3600


# Spans

CHUNKED: Final = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_spans_are_received_from_a_real_exporter_and_put_in_order() -> None:
    traces = Traces()
    with receiving(traces) as url:
        provider = TracerProvider(resource=Resource({"service.name": "front"}), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(url)))
        tracer = provider.get_tracer("tests")
        with tracer.start_as_current_span("request", kind=SpanKind.SERVER, attributes={"exemplar": "true"}) as request:
            with tracer.start_as_current_span("first"), tracer.start_as_current_span("in it"):
                pass
            with tracer.start_as_current_span("second") as second:
                second.set_status(StatusCode.ERROR)
        with tracer.start_as_current_span("another trace"):
            pass
        provider.shutdown()
    tree = traces.tree(f"{request.get_span_context().trace_id:032x}")
    told = [(depth, span.name, span.service, span.marked, span.failed) for depth, span in tree]
    assert told == [
        (0, "request", "front", True, False),
        (1, "first", "front", False, False),
        (2, "in it", "front", False, False),
        (1, "second", "front", False, True),
    ]
    assert tree[0][1].span_id == f"{request.get_span_context().span_id:016x}"
    assert all(span.start <= span.end for _, span in tree)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST / HTTP/1.1\r\nContent-",
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n\x0a\x7f",
        CHUNKED,
        CHUNKED + b"9\r\n\x0a\x7f",
    ],
    ids=["nothing", "cut headers", "cut", "headers only", "cut chunk"],
)
def test_services_that_end_in_the_middle_of_a_request_are_no_news(
    sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with receiving(Traces()) as url:
        for how in (b"", struct.pack("ii", 1, 0)):
            with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as service:
                service.sendall(sent)
                if how:  # closed, it resets the connection
                    service.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
        exporter = OTLPSpanExporter(url)  # accepted after them
        exporter.export([])
        exporter.shutdown()  # type: ignore[no-untyped-call]
    threads = threading.enumerate
    eventually(lambda: not any("process_request" in thread.name for thread in threads()), "the end of both", threads)
    assert capfd.readouterr() == ("", "")


def span(name: str, span_id: str, parent_id: str = "", *, start: float = 0.0, end: float = 1.0) -> Span:
    return Span("t", span_id, parent_id, "front", name, start, end, failed=False, marked=False)


# Logs


@pytest.mark.parametrize("access", [True, False])
def test_the_log_file_has_access_lines_only_where_the_server_has_them(access: bool, tmp_path: Path) -> None:
    snippet = (
        "import logging, sys, uvicorn; from exemplars.demo import logs; "
        "uvicorn.Config('', access_log=sys.argv[1] == 'True'); logs.configure(); "
        # As it asks itself before it makes a line.
        "log = logging.getLogger('uvicorn.access'); log.hasHandlers() and log.info('%s %s %s %s %d', *'abcd', 200)"
    )
    lines = tmp_path / "lines"
    environment = {"PYTHONPATH": os.pathsep.join(PACKAGES), "LOG_FILE": str(lines)}
    subprocess.run([sys.executable, "-c", snippet, str(access)], env=environment, check=True, timeout=PATIENCE)
    assert ("uvicorn.access" in lines.read_text()) is access


# Screen


class Terminal(io.StringIO):
    """One of the given *encoding*."""

    def __init__(self, encoding: str = "utf-8", terminal: bool = True) -> None:
        super().__init__()
        self._encoding = encoding
        self._terminal = terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._terminal


EXEMPLAR: Final = Exemplar("POST", "/long" * 30, "500", "500", "10.0", 9.8765, 1e9, "ab" * 16, "s1")


def show_all(stream: Terminal) -> str:
    screen = Screen(stream)
    screen.greeting("http://127.0.0.1:65535", "http://127.0.0.1:65534", 200.0)
    tree = [(depth, span("name" * 5 * depth, f"s{depth}", start=depth / 10, end=99.0)) for depth in range(12)]
    screen.exemplar(EXEMPLAR, tree)
    screen.exemplar(EXEMPLAR._replace(status="", route=""), [])
    screen.farewell(Counter({"2": 12345, "4": 12345, "5": 12345, "broken": 12345, "turned away": 12345}))
    return stream.getvalue()


def test_nothing_is_wider_than_80_columns() -> None:
    plain = re.sub(r"\x1b\[\d+m", "", show_all(Terminal()))
    assert max(map(len, plain.splitlines())) <= 80
    assert "its spans have not come" in plain and "(no route)" in plain


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" in show_all(Terminal())
    assert "\x1b" not in show_all(Terminal(terminal=False))
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in show_all(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in show_all(Terminal())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_a_terminal_cannot_write_is_not_printed(encoding: str) -> None:
    show_all(Terminal(encoding)).encode(encoding)


def test_a_bar_lies_where_its_span_was() -> None:
    stream = Terminal("ascii", terminal=False)
    tree = [(0, span("whole", "a", end=2.0)), (1, span("late", "b", "a", start=1.0, end=2.0)._replace(failed=True))]
    Screen(stream).exemplar(EXEMPLAR._replace(span_id="a"), tree)
    whole, late = stream.getvalue().splitlines()[2:4]
    assert re.fullmatch(r"  front  whole +2\.000 s  ={14}", whole)
    assert re.fullmatch(r"  front    late +1\.000 s {9}={7} error", late)


# Servers


def test_a_server_that_does_not_come_up_says_why() -> None:
    async def start() -> None:
        async with serving("front", "uvicorn", "tests.no_such_app:app", "--port=0", environment={}):
            raise AssertionError("it has started")

    with pytest.raises(ServerEnded, match=r"(?s)front does not listen.*no_such_app"):
        asyncio.run(start())


# The whole


class Demo:
    """A running one, and what it has printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        assert process.stdout is not None
        self._reader = threading.Thread(target=self.lines.extend, args=(process.stdout,))
        self._reader.start()

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def waits_for(self, pattern: str, times: int = 1) -> list[str]:
        def found() -> list[str] | None:
            assert self.process.poll() is None or len(re.findall(pattern, self.text)) >= times, self.text
            return re.findall(pattern, self.text) if len(re.findall(pattern, self.text)) >= times else None

        return eventually(found, pattern)

    def ends(self) -> int:
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status


@contextmanager
def demo(directory: Path, *arguments: str, **environment: str) -> Iterator[Demo]:
    """As a terminal starts it: a process group of its own, which Ctrl-C reaches as a whole."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env={"PYTHONPATH": os.pathsep.join(PACKAGES), "HOME": str(directory), "PYTHONUTF8": "1", **environment},
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    running = Demo(process)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        running.ends()
        assert process.stdout is not None
        process.stdout.close()


def closed(url: str) -> bool:
    address = urlsplit(url)
    with socket.socket() as client:
        return client.connect_ex((address.hostname, address.port)) != 0


def test_exemplars_show_with_their_traces_and_ctrl_c_ends_it_all(tmp_path: Path) -> None:
    """The spans of both services are shown, and went to the user's own collector as well."""
    mine = Traces()
    with (
        receiving(mine) as collector,
        demo(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector[: -len("/v1/traces")]) as run,
    ):
        (page_url,) = set(run.waits_for(r"metrics +(http://\S+)"))
        (stock_url,) = run.waits_for(r"stock +(http://\S+) ")
        run.waits_for(r"stock +(GET|POST) ", times=2)
        shown = run.waits_for(r'trace +([0-9a-f]{32})  exemplar="true"', times=3)
        with urlopen(Request(page_url, headers={"Accept": ACCEPT}), timeout=PATIENCE) as response:
            page = response.read().decode()
        assert "\x1b" not in run.text, "colours, and no terminal"
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.ends() == 0
    assert "Traceback" not in run.text and "The shop is closed." in run.text
    assert closed(page_url) and closed(stock_url)
    assert list(tmp_path.iterdir()) == [], "it leaves something behind"
    assert {found.route for found in exemplars(page)} >= {"/products/{product}", "/products/{product}/orders"}
    for trace_id in shown:
        tree = mine.tree(trace_id)
        assert tree and tree[0][1].service == "front" and tree[0][1].marked
    assert any({span.service for _, span in mine.tree(trace_id)} == {"front", "stock"} for trace_id in shown)


def test_it_ends_by_itself_after_the_seconds_given(tmp_path: Path) -> None:
    with demo(tmp_path, "--seconds", "0.5") as run:
        assert run.ends() == 0
    assert "The shop is closed." in run.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_at_any_moment_of_its_start(tmp_path: Path, number: signal.Signals) -> None:
    """Servers that are just being started are ended too; impatience, a second signal, changes nothing."""
    with demo(tmp_path) as run:
        eventually(lambda: children(run.process.pid), "a server to be started")
        started = children(run.process.pid)
        run.process.send_signal(number)
        time.sleep(0.05)
        if run.process.poll() is None:
            run.process.send_signal(number)
        assert run.ends() == 0
    assert "Traceback" not in run.text
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(("which", "name"), [(0, "stock"), (1, "front")])
def test_a_server_that_dies_ends_it_with_its_last_words(tmp_path: Path, which: int, name: str) -> None:
    with demo(tmp_path) as run:
        (page_url,) = set(run.waits_for(r"metrics +(http://\S+)"))
        run.waits_for(r"trace +[0-9a-f]{32}")
        os.kill(children(run.process.pid)[which], signal.SIGKILL)
        assert run.ends() == 1
    assert f"{name} ended with status -9; its last words:" in run.text
    assert "Traceback" not in run.text.split("last words")[0]
    assert closed(page_url)


def test_a_port_that_is_taken_is_said_and_nothing_is_left_running(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, demo(tmp_path, f"--port={taken.getsockname()[1]}") as run:
        assert run.ends() == 1
    assert "front does not listen" in run.text and "address already in use" in run.text


def test_it_ends_in_silence_when_nobody_reads_any_more(tmp_path: Path) -> None:
    """As in `exemplars demo | head`."""
    process = subprocess.Popen(
        [*COMMAND, "--seconds=60"],
        env={"PYTHONPATH": os.pathsep.join(PACKAGES), "HOME": str(tmp_path)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE) == 0

"""Spans of every worker arrive, the last ones too: under real servers, sent to a real OTLP receiver."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from exemplars.demo.spans import Traces, receiving
from tests.otlp import Collected, receiving_grpc
from tests.programs import eventually
from tests.store import test_group as servers

pytestmark = servers.pytestmark

APP: Final = "tests.apps.traces"
NEVER: Final = "86400000"  # milliseconds between exports: what arrives all the same was flushed
EACH: Final = 5  # requests, at the least


def gunicorn(*arguments: str, app: str = "wsgi") -> list[str]:
    command = ("gunicorn", "-b", servers.ADDRESS, "--keep-alive=0", "-w2", *arguments, f"{APP}:{app}")
    return servers.python(*command)


def gunicorn_uvicorn(*arguments: str) -> list[str]:
    servers.python("uvicorn_worker")
    return gunicorn("-kuvicorn_worker.UvicornWorker", *arguments, app="asgi")


def gunicorn_gevent(*arguments: str) -> list[str]:
    servers.python("gevent")
    return gunicorn("-kgevent", *arguments)


def uvicorn(*arguments: str) -> list[str]:
    return servers.python("uvicorn", "--port=0", *arguments, f"{APP}:asgi")


def uwsgi(*arguments: str) -> list[str]:
    return servers.uwsgi("-p2", *arguments, app=(f"--module={APP}:wsgi",))


def uwsgi_master(*arguments: str) -> list[str]:
    """One that lets workers end their requests at SIGTERM. By itself it cuts them off, and whoever it meets in a
    request, be it at the very end of it, runs nothing more.
    """
    return uwsgi("--master", "--hook-master-start=unix_signal:15 gracefully_kill_them_all", *arguments)


COMMANDS: Final[dict[str, Callable[[], list[str]]]] = {
    "gunicorn": gunicorn,
    "gunicorn --preload": lambda: gunicorn("--preload"),
    "gunicorn --preload gthread": lambda: gunicorn("--preload", "-kgthread", "--threads=4"),
    "gunicorn gevent": gunicorn_gevent,
    "gunicorn --preload gevent": lambda: gunicorn_gevent("--preload"),
    "gunicorn uvicorn": gunicorn_uvicorn,
    "gunicorn --preload uvicorn": lambda: gunicorn_uvicorn("--preload"),
    "uvicorn": lambda: uvicorn("--workers=2"),
    "hypercorn": lambda: servers.python("hypercorn", "-b", servers.ADDRESS, "-w2", f"{APP}:asgi"),
    "granian": lambda: servers.python("granian", "--port=0", "--interface=asgi", "--workers=2", f"{APP}:asgi"),
    "uwsgi": uwsgi_master,
    "uwsgi lazy": lambda: uwsgi_master("--lazy-apps"),
}
PRELOADING: Final = [name for name in COMMANDS if "--preload" in name] + ["uwsgi"]


Receiver = Callable[[Traces], AbstractContextManager[str]]


class Running:
    """A server with two workers, which have answered; *pids* are its own and theirs."""

    def __init__(self, pid: int) -> None:
        self.port: Final[int] = eventually(lambda: servers.listens(pid, *servers.children(pid)), "it to listen")
        self.told: list[dict[str, Any]] = []
        eventually(self._answers, "it to answer")
        self.pids: Final = [pid, *servers.children(pid)]

    def ask(self, path: str = "/") -> dict[str, Any]:
        answer: dict[str, Any] = servers.ask(self.port, path)
        self.told.append(answer)
        return answer

    def ask_both(self) -> dict[int, int]:
        """Ask until both workers have answered often enough; how often each has."""
        counts: dict[int, int] = {}

        def enough() -> bool:
            pid = self.ask()["pid"]
            counts[pid] = counts.get(pid, 0) + 1
            return len(counts) == 2 and min(counts.values()) >= EACH

        while not enough():
            assert len(self.told) < 5000, f"one worker gets no request: {counts}"
        return counts

    def end(self) -> None:
        """By SIGTERM to the master, which tells its workers."""
        os.kill(self.pids[0], signal.SIGTERM)
        eventually(lambda: not any(map(servers.running, self.pids)), "it to end")

    def _answers(self) -> bool:
        with suppress(OSError):
            return bool(self.ask())
        return False


def run(
    name: str, directory: Path, ask: Callable[[Running], object], receiver: Receiver = receiving, **environment: str
) -> tuple[Collected, list[dict[str, Any]]]:
    """Serve, *ask*, end it by SIGTERM; what was received, and what was answered."""
    collected = Collected()
    with receiver(collected) as url:
        environment = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url,
            "OTEL_BSP_SCHEDULE_DELAY": NEVER,
            "SEED": "1",
            **environment,
        }
        with servers.started(directory, COMMANDS[name](), **environment) as pid:
            server = Running(pid)
            try:
                ask(server)
            finally:
                server.end()
    assert "Traceback" not in (directory / "log").read_text()
    return collected, server.told


@pytest.mark.parametrize("name", COMMANDS)
def test_spans_of_every_worker_arrive_up_to_the_last_before_sigterm(name: str, tmp_path: Path) -> None:
    """Each once, under ids that no other has, though the application has seeded what is random before it was forked."""
    if "gevent" in name and (3, 12) <= sys.version_info < (3, 12, 3):
        pytest.skip("gevent resolves names in a thread, and at its exit this Python starts none (cpython#113964)")
    collected, told = run(name, tmp_path, Running.ask_both)
    assert collected.trace_ids == sorted(answer["trace_id"] for answer in told)
    assert len(set(collected.trace_ids)) == len(set(collected.span_ids)) == len(told)

    instances = {(span.attributes["pid"], span.resource["service.instance.id"]) for span in collected.spans}
    assert len(instances) == len({pid for pid, _ in instances}) == len({instance for _, instance in instances}) == 2
    for span in collected.spans:
        assert span.resource["service.name"] == "workers"
        assert span.resource["process.pid"] == span.attributes["pid"]
    if name in PRELOADING:
        assert {answer["threads_at_import"] for answer in told} == {0}, "a thread in the master"


@pytest.mark.parametrize("name", ["gunicorn --preload", "uvicorn", "uwsgi", "uwsgi without a master"])
def test_each_worker_exports_while_it_runs(name: str, tmp_path: Path) -> None:
    """The thread that does is there, not only the flush at the end."""
    collected = Collected()
    with receiving(collected) as url:
        environment = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with servers.started(tmp_path, COMMANDS.get(name, uwsgi)(), **environment) as pid:
            server = Running(pid)
            counts = server.ask_both()
            wanted = sorted(answer["trace_id"] for answer in server.told)
            eventually(lambda: collected.trace_ids == wanted, "all spans", lambda: (wanted, collected.trace_ids))
            assert {span.attributes["pid"] for span in collected.spans} == set(counts)


@pytest.mark.parametrize("name", PRELOADING)
def test_what_the_master_has_traced_before_the_fork_arrives_once(name: str, tmp_path: Path) -> None:
    """From the master, which then has a thread and a connection: workers take over neither."""
    collected, told = run(name, tmp_path, Running.ask_both, EARLY="yes", OTEL_BSP_SCHEDULE_DELAY="200")
    early = [span for span in collected.spans if span.name == "early"]
    assert len(early) == 1
    assert sorted({*collected.trace_ids} - {early[0].trace_id}) == sorted(answer["trace_id"] for answer in told)
    assert len(collected.spans) == len(told) + 1
    assert early[0].resource["process.pid"] == early[0].attributes["pid"]


@pytest.mark.parametrize("name", ["gunicorn", "gunicorn --preload", "uwsgi"])
def test_a_process_that_a_worker_forks_exports_its_own_spans_before_it_ends(name: str, tmp_path: Path) -> None:
    collected, told = run(name, tmp_path, lambda server: server.ask("/process"))
    (child,) = [answer["child"] for answer in told if "child" in answer]
    (span,) = [span for span in collected.spans if span.name == "child"]
    assert (span.trace_id, span.resource["process.pid"]) == (child["trace_id"], child["pid"])
    assert span.resource["service.instance.id"] not in {
        other.resource["service.instance.id"] for other in collected.spans if other is not span
    }


@pytest.mark.parametrize("name", ["gunicorn", "gunicorn --preload", "uvicorn", "uwsgi"])
def test_the_same_holds_over_grpc(name: str, tmp_path: Path) -> None:
    """Whose library does not survive a fork: a master that preloads must not have used it."""
    collected, told = run(name, tmp_path, Running.ask_both, receiving_grpc, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert collected.trace_ids == sorted(answer["trace_id"] for answer in told)


PROGRAM: Final = f"import uvicorn; from {APP} import asgi; uvicorn.run(asgi, port=0)"


@pytest.mark.parametrize("command", [uvicorn, lambda: [sys.executable, "-c", PROGRAM]], ids=["uvicorn", "in a program"])
def test_one_process_of_uvicorn_flushes_before_it_ends(command: Callable[[], list[str]], tmp_path: Path) -> None:
    """Whether the tracing is set up before uvicorn handles signals or after."""
    collected = Collected()
    with receiving(collected) as url:
        environment = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": NEVER}
        with servers.started(tmp_path, command(), **environment) as pid:
            server = Running(pid)
            for _ in range(EACH):
                server.ask()
            server.end()
    assert collected.trace_ids == sorted(answer["trace_id"] for answer in server.told)


def test_a_worker_that_cannot_export_says_so_and_serves(tmp_path: Path) -> None:
    """What the exporter refuses, the workers of a master that preloads learn only when they make it."""
    refused = {
        "OTEL_EXPORTER_OTLP_COMPRESSION": "bzip2",  # by older exporters
        "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "bzip2",  # by newer ones
    }
    with servers.started(tmp_path, gunicorn("--preload"), **refused) as pid:
        Running(pid).ask_both()
    assert (tmp_path / "log").read_text().count("ERROR this process cannot export its spans: ") == 2

"""A port that workers serve together: every scrape finds one that answers for all; a stranger's port is an error."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import pytest

from exemplars.store import ofd
from tests.faults.servers import Server, is_alive, running
from tests.programs import NO_ORDERS, PACKAGES, PATIENCE, eventually, program

pytestmark = pytest.mark.skipif(not ofd.SUPPORTED, reason="workers share on 64-bit Linux only")

GUNICORN: Final = ("gunicorn", "--bind=127.0.0.1:0", "--keep-alive=0", *NO_ORDERS, "tests.apps.port:wsgi")
PRELOADED: Final = (*GUNICORN, "--preload")
COMMANDS: Final = {
    "gunicorn": GUNICORN,
    "gunicorn --preload": PRELOADED,
    "gunicorn --preload gthread": (*PRELOADED, "--worker-class=gthread", "--threads=2"),
    "gunicorn --preload gevent": (*PRELOADED, "--worker-class=gevent"),
    "uvicorn": ("uvicorn", "--port=0", "--lifespan=off", "--no-access-log", "tests.apps.port:asgi"),
}


@pytest.fixture
def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def stranger(port: int, *, shares: bool) -> Iterator[None]:
    """A listener on *port* that is none of the workers."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield


def ask(server: Server, path: str = "/") -> Any:
    with urlopen(f"http://{server.address}{path}", timeout=PATIENCE) as response:
        return json.load(response)


def scrape(port: int) -> tuple[int, int]:
    """The pid of the worker that answers, and how many requests it says were handled; zeroes where none answers."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as response:
            page = response.read().decode()
    except OSError:
        return 0, 0
    pid, handled = (re.search(rf"^{name} (\S+)$", page, re.MULTILINE) for name in ("answering_pid", "handled_total"))
    assert pid is not None and handled is not None, page
    return int(float(pid[1])), int(float(handled[1]))


def scraped(server: Server, port: int, workers: int) -> set[int]:
    """The pids of *workers* living workers that have answered scrapes."""
    answered: set[int] = set()

    def all_have() -> bool:
        answered.add(scrape(port)[0])
        answered.intersection_update(server.children())
        return len(answered) == workers

    eventually(all_have, f"{workers} workers to answer scrapes", lambda: f"{answered} {server.log}")
    return answered


@pytest.mark.parametrize("name", COMMANDS)
def test_workers_serve_one_port_and_each_answers_for_all(name: str, port: int, tmp_path: Path) -> None:
    if "gevent" in name:
        pytest.importorskip("gevent")
    with running(COMMANDS[name], tmp_path, workers=2, environment={"METRICS_PORT": str(port)}) as server:
        workers = scraped(server, port, 2)
        answers = [ask(server) for _ in range(20)]
        counts = {scrape(port) for _ in range(20)}
        assert {count for _, count in counts} == {20}
        assert {pid for pid, _ in counts} <= workers
        preloaded = "--preload" in name
        for answer in answers:
            assert answer["at_import"] == {
                "is_master": preloaded,
                "bound": not preloaded,
                "threads": 0 if preloaded else answer["at_import"]["threads"],
            }
            assert answer["bound"]
            assert answer["port"] == port

        for number in (1, 2):
            killed = list(scraped(server, port, 2))[:number]
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: server.children().isdisjoint(killed), "the killed to be gone")  # noqa: B023
            scraped(server, port, 2)
        assert scrape(port)[1] == 20, "what the killed have counted is not lost"
    with stranger(port, shares=False):
        pass  # nobody has it any more


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "sharing"])
def test_a_port_that_a_stranger_has_ends_the_start(shares: bool, port: int, tmp_path: Path) -> None:
    """A stranger of the same user that shares its port would get a part of the scrapes."""
    with (
        stranger(port, shares=shares),
        running(GUNICORN, tmp_path, workers=2, environment={"METRICS_PORT": str(port)}) as server,
    ):
        eventually(lambda: not is_alive(server.master), "gunicorn to give up", lambda: server.log)
        assert "OSError: [Errno 98] Address already in use" in server.log


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "sharing"])
def test_after_the_fork_a_strangers_port_is_logged_and_served_once_it_is_free(
    shares: bool, port: int, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as until_now:
        until_now.enter_context(stranger(port, shares=shares))
        with running(PRELOADED, tmp_path, workers=2, environment={"METRICS_PORT": str(port)}) as server:
            said = f"this worker cannot serve the page on port {port}"
            eventually(lambda: server.log.count(said) == 2, "both workers to say so", lambda: server.log)
            assert "Address already in use" in server.log
            workers = server.children()
            assert ask(server)["pid"] in workers, "its requests are served all the same"

            until_now.close()
            assert scraped(server, port, 2) == workers
            assert server.log.count(said) == 2


def test_what_was_ended_in_the_master_is_not_served_by_workers(port: int, tmp_path: Path) -> None:
    with running(PRELOADED, tmp_path, workers=2, environment={"METRICS_PORT": str(port), "SERVE": "ended"}) as server:
        eventually(lambda: len({ask(server)["pid"] for _ in range(10)}) == 2, "both workers to answer")
        with stranger(port, shares=False):
            pass
        assert "cannot serve" not in server.log


@pytest.mark.parametrize("command", [GUNICORN, PRELOADED], ids=["imported", "preloaded"])
def test_a_worker_may_end_its_own_server(command: tuple[str, ...], port: int, tmp_path: Path) -> None:
    with running(command, tmp_path, workers=2, environment={"METRICS_PORT": str(port)}) as server:
        workers = scraped(server, port, 2)
        ended = ask(server, "/end")
        assert not ended["bound"]
        assert {scrape(port)[0] for _ in range(20)} == workers - {ended["pid"]}


def test_a_second_server_of_one_worker_is_no_sibling(port: int, tmp_path: Path) -> None:
    with running(GUNICORN, tmp_path, workers=2, environment={"METRICS_PORT": str(port), "SERVE": "twice"}) as server:
        scraped(server, port, 2)
        assert "Address already in use" in ask(server)["refused"]


@pytest.mark.parametrize("command", [GUNICORN, PRELOADED], ids=["imported", "preloaded"])
def test_port_0_gives_every_worker_one_of_its_own(command: tuple[str, ...], tmp_path: Path) -> None:
    with running(command, tmp_path, workers=2, environment={"METRICS_PORT": "0"}) as server:
        ports: dict[int, int] = {}

        def both() -> bool:
            answer = ask(server)
            if answer["port"]:
                ports[answer["pid"]] = answer["port"]
            return len(ports) == 2

        eventually(both, "both workers to answer", lambda: server.log)
        assert len(set(ports.values())) == 2
        assert all(scrape(number)[0] == pid for pid, number in ports.items())


def test_what_a_worker_forks_keeps_neither_the_port_nor_its_part_in_it(port: int, tmp_path: Path) -> None:
    with running(GUNICORN, tmp_path, workers=1, environment={"METRICS_PORT": str(port)}) as server:
        answer = ask(server, "/fork")
        os.kill(answer["pid"], signal.SIGKILL)
        eventually(lambda: scrape(port)[0] not in (0, answer["pid"]), "another worker", lambda: server.log)
        assert is_alive(answer["child"])
        assert all(scrape(port)[0] for _ in range(20)), "no scrape goes where nobody answers"

        workers = server.children()
        for pid in (server.master, *workers):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(map(is_alive, workers)), "the last worker to be gone")
        assert is_alive(answer["child"])

        def is_free() -> bool:
            with contextlib.suppress(OSError), stranger(port, shares=False):
                return True
            return False

        eventually(is_free, "the port to be free")


def test_a_directory_that_is_removed_does_not_part_them(port: int, tmp_path: Path) -> None:
    directory = tmp_path / "shared"
    environment = {"METRICS_PORT": str(port), "EXEMPLARS_DIR": str(directory)}
    with running(GUNICORN, tmp_path, workers=2, environment=environment) as server:
        workers = scraped(server, port, 2)
        (group,) = directory.iterdir()
        assert (group / f"port-{port}-127.0.0.1").exists()
        shutil.rmtree(group)
        eventually(lambda: (group / f"port-{port}-127.0.0.1").exists(), "the port's file to be there again")

        killed = workers.pop()
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: not is_alive(killed), "it to be gone")
        assert workers < scraped(server, port, 2)
        assert "Address already in use" not in server.log


@pytest.mark.parametrize("options", [["--master"], ["--master", "--lazy-apps"], []], ids=["master", "lazy", "none"])
def test_workers_of_uwsgi_serve_one_port(options: list[str], port: int, tmp_path: Path) -> None:
    beside = Path(sys.executable).parent / "uwsgi"
    binary = str(beside) if beside.exists() else program("uwsgi")
    command = [binary, f"--virtualenv={sys.prefix}", "--http-socket=127.0.0.1:0", "--die-on-term", "--enable-threads"]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--module=tests.apps.port:wsgi", "--processes=2", *options],
            env={"PYTHONPATH": os.pathsep.join(PACKAGES), "METRICS_PORT": str(port), "HOME": str(tmp_path)},
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            start_new_session=True,
        )
    try:
        answered: set[int] = set()

        def both() -> bool:
            assert process.poll() is None, log.read_text()
            answered.update({scrape(port)[0]} - {0})
            return len(answered) == 2

        eventually(both, "both workers to answer scrapes", log.read_text)
    finally:
        # All of its session: without a master, its workers outlive it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)

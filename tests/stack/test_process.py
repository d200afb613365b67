"""Programs that tests start: on free ports, again on the same ones, ended whatever they do, heard when they fail."""

import contextlib
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.stack.process import HOST, SOON, Program, free_port, started, text

SERVER = (
    "import sys; from http.server import *;"
    f"ThreadingHTTPServer(({HOST!r}, int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()"
)


class Server(Program):
    names = ("HTTP",)
    code = SERVER

    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", self.code, str(self.ports["HTTP"])]

    def environment(self) -> Mapping[str, str]:
        return {}

    def ready(self) -> bool:
        return bool(text(f"http://{self.address('HTTP')}/", timeout=SOON))


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_it_comes_back_where_it_was(tmp_path: Path, by: signal.Signals) -> None:
    with started(Server("server", tmp_path)) as server:
        first, address = server.pid, server.address("HTTP")
        server.stop(by)
        assert not runs(first)
        server.start()
        assert server.address("HTTP") == address
        assert text(f"http://{address}/")
        second = server.pid
    assert not runs(second)


def test_it_is_ended_though_the_test_fails(tmp_path: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), started(Server("server", tmp_path)) as server:
        pid = server.pid
        raise ZeroDivisionError
    assert not runs(pid)


def test_one_that_ends_by_itself_is_a_failure_that_shows_its_log(tmp_path: Path) -> None:
    class Broken(Server):
        code = "import sys; print('no such file: tempo.yaml'); sys.exit(1)"

    with pytest.raises(pytest.fail.Exception, match="server ended by itself:\nno such file: tempo.yaml"):
        Broken("server", tmp_path).start()


def test_who_finds_its_port_taken_gets_another(tmp_path: Path) -> None:
    """As by somebody who was faster."""
    taken: list[int] = []

    class Late(Server):
        def command(self) -> Sequence[str]:
            if not taken:
                taken.append(self.ports["HTTP"])
                thief.bind((HOST, taken[0]))
                thief.listen()
            return super().command()

    with socket.socket() as thief, started(Late("server", tmp_path)) as server:
        assert server.ports["HTTP"] != taken[0]


def test_one_that_has_nothing_more_to_do_is_not_waited_for(tmp_path: Path) -> None:
    class Stubborn(Server):
        code = f"import signal; signal.signal(signal.SIGTERM, lambda *_: print('all is written', flush=True)); {SERVER}"

        def done(self) -> bool:
            return "all is written" in self.said()

    with started(Stubborn("server", tmp_path)) as server:
        pid = server.pid
    assert not runs(pid)


def test_ports_are_not_those_of_outgoing_connections() -> None:
    first, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    with contextlib.ExitStack() as held:
        ports = {free_port(held) for _ in range(20)}
    assert len(ports) == 20
    assert max(ports) < first

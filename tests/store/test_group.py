"""Workers of one master find one group, and nobody else finds it: under the real servers, and in what they start."""

import concurrent.futures
import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final
from urllib.request import urlopen

import pytest

from exemplars.store import group
from tests.programs import PACKAGES, PATIENCE, eventually, program

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers share on Linux only")

APP: Final = "tests.apps.who"
ADDRESS: Final = "127.0.0.1:0"

MASTER: Final = "this is the server's master, whose workers serve the requests"
CHILD: Final = "this is no worker but a process started by one, or by the server for something else"
ORPHAN: Final = "its server's master has ended"
ALONE: Final = "it runs alone, not under the master of a server known to have workers"
POOL: Final = "it was started by multiprocessing, not by a server known to have workers"


def listens(*pids: int) -> int | None:
    """The port of 127.0.0.1 on which one of *pids* listens, as the kernel tells."""
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = {f"socket:[{row[9]}]": int(row[1].partition(":")[2], 16) for row in table if row[3] == "0A"}
    for pid in pids:
        with contextlib.suppress(OSError):
            for file in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if (port := ports.get(os.readlink(file))) is not None:
                        return port
    return None


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def running(pid: int) -> bool:
    """Whether *pid* has not ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def end(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    eventually(lambda: not running(pid), f"{pid} to end")


def ask(port: int, question: str = "/") -> Any:
    with urlopen(f"http://127.0.0.1:{port}{question}", timeout=PATIENCE) as response:
        return json.load(response)


def answers(port: int) -> bool:
    """Whether a server does there; it may listen before it has a worker, and end one that is asked too early."""
    try:
        ask(port, "/hooked")
    except OSError:
        return False
    return True


def workers(port: int, number: int = 2, question: str = "/", but: Sequence[int] = ()) -> dict[int, Any]:
    """What *number* different processes answer to *question*, by their pid; those *but* are asked in vain."""
    found: dict[int, Any] = {}

    def one(_: int) -> None:
        with contextlib.suppress(OSError):  # of a worker that ends
            told = ask(port, question)
            if told["pid"] not in but:
                found[told["pid"]] = told

    with concurrent.futures.ThreadPoolExecutor(2 * number) as pool:  # at once, so that no worker answers them all

        def complete() -> bool:
            list(pool.map(one, range(2 * number)))
            return len(found) >= number

        eventually(complete, f"{number} workers to answer", lambda: found)
    return found


@dataclass(frozen=True)
class Server:
    pid: int
    port: int


@contextlib.contextmanager
def started(directory: Path, command: Sequence[str], **environment: str) -> Iterator[int]:
    """The pid of *command*, which runs in *directory*. Ended on leaving, with the children it then has."""
    log = directory / "log"
    paths = {"PYTHONPATH": os.pathsep.join(PACKAGES), "PATH": os.environ["PATH"], "HOME": str(directory)}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=paths | environment, stdout=output, stderr=subprocess.STDOUT, cwd=directory
        )
    try:
        yield process.pid
    finally:
        below = children(process.pid)
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            for pid in below:
                end(pid)
            print(log.read_text(errors="replace"))  # pytest shows it where a test fails


@contextlib.contextmanager
def serving(directory: Path, command: Sequence[str], **environment: str) -> Iterator[Server]:
    """The server that *command* starts, when it answers."""

    def port() -> int | None:
        assert running(pid), "it ended"
        return listens(pid, *children(pid))

    with started(directory, command, **environment) as pid:
        server = Server(pid, eventually(port, f"{command} to listen"))
        eventually(lambda: answers(server.port), f"{command} to answer")
        yield server


def python(module: str, *arguments: str) -> list[str]:
    """`python -m`, if *module* is installed; else the test is skipped as for any other program."""
    if importlib.util.find_spec(module) is None:
        program(module)
    return [sys.executable, "-m", module, *arguments]


def gunicorn(*arguments: str, app: str = "wsgi") -> list[str]:
    return python("gunicorn", "-b", ADDRESS, "--graceful-timeout=1", *arguments, f"{APP}:{app}")


def gunicorn_uvicorn(*arguments: str) -> list[str]:
    python("uvicorn_worker")
    return gunicorn("-k", "uvicorn_worker.UvicornWorker", *arguments, app="asgi")


def uvicorn(*arguments: str) -> list[str]:
    return python("uvicorn", "--port=0", *arguments, f"{APP}:asgi")


def hypercorn(*arguments: str) -> list[str]:
    return python("hypercorn", "-b", ADDRESS, *arguments, f"{APP}:asgi")


def granian(interface: str, *arguments: str) -> list[str]:
    return python("granian", "--port=0", f"--interface={interface}", *arguments, f"{APP}:{interface}")


def uwsgi(*arguments: str, app: Sequence[str] = (f"--module={APP}:wsgi",), address: str = ADDRESS) -> list[str]:
    directory = Path(sys.executable).parent
    if importlib.util.find_spec("pyuwsgi") is not None:  # which executes itself again, but not by itself in this venv
        start = [str(directory / "pyuwsgi"), f"--binary-path={sys.executable}"]
    else:
        start = [str(own) if (own := directory / "uwsgi").exists() else program("uwsgi")]
    flags = ("--die-on-term", "--enable-threads", f"--virtualenv={sys.prefix}", f"--http-socket={address}")
    return [*start, *flags, *app, *arguments]


UVICORN_APPLICATION: Final = f"{APP}:asgi {ADDRESS}"
HYPERCORN_APPLICATION: Final = f"{APP}:asgi ['{ADDRESS}']"


@dataclass(frozen=True)
class Case:
    command: Callable[[], list[str]]
    server: str
    application: str = ""
    preloaded: bool = False  # the master imports the application
    pool: str = POOL  # what a child made by multiprocessing says


CASES: Final = {
    "gunicorn sync": Case(lambda: gunicorn("-w2"), "gunicorn", pool=CHILD),
    "gunicorn sync preload": Case(lambda: gunicorn("-w2", "--preload"), "gunicorn", "", True, CHILD),
    "gunicorn gthread": Case(lambda: gunicorn("-w2", "-kgthread", "--threads=3"), "gunicorn", pool=CHILD),
    "gunicorn gthread preload": Case(
        lambda: gunicorn("-w2", "-kgthread", "--threads=3", "--preload"), "gunicorn", "", True, CHILD
    ),
    "gunicorn gevent": Case(lambda: gunicorn("-w2", "-kgevent"), "gunicorn", pool=CHILD),
    "gunicorn gevent preload": Case(lambda: gunicorn("-w2", "-kgevent", "--preload"), "gunicorn", "", True, CHILD),
    "gunicorn uvicorn": Case(lambda: gunicorn_uvicorn("-w2"), "gunicorn", pool=CHILD),
    "gunicorn uvicorn preload": Case(lambda: gunicorn_uvicorn("-w2", "--preload"), "gunicorn", "", True, CHILD),
    "uvicorn": Case(lambda: uvicorn("--workers=2"), "uvicorn", UVICORN_APPLICATION),
    "hypercorn": Case(lambda: hypercorn("-w2"), "hypercorn", HYPERCORN_APPLICATION),
    "hypercorn trio": Case(lambda: hypercorn("-w2", "-ktrio"), "hypercorn", HYPERCORN_APPLICATION),
    "granian asgi": Case(lambda: granian("asgi", "--workers=2"), "granian", f"{APP}:asgi"),
    "granian wsgi": Case(lambda: granian("wsgi", "--workers=2"), "granian", f"{APP}:wsgi"),
    "uwsgi": Case(lambda: uwsgi("--master", "-p2"), "uwsgi", "", True, CHILD),
    "uwsgi lazy": Case(lambda: uwsgi("--master", "-p2", "--lazy-apps"), "uwsgi", pool=CHILD),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_all_workers_of_a_master_find_one_group_and_what_they_start_finds_none(case: Case, tmp_path: Path) -> None:
    with serving(tmp_path, case.command()) as server:
        expected = [case.server, server.pid, case.application]
        for question in ("/", "/thread"):
            told = workers(server.port, 2, question)
            assert {pid: one["group"] for pid, one in told.items()} == dict.fromkeys(told, expected), question
            assert all(one["parent"] == server.pid != pid and not one["is_master"] for pid, one in told.items())

        at_import = ask(server.port, "/import")
        if case.preloaded:
            assert (at_import["group"], at_import["is_master"], at_import["pid"]) == (MASTER, True, server.pid)
        else:
            assert (at_import["group"], at_import["is_master"]) == (expected, False)

        reasons = {"/fork": CHILD, "/adopted": CHILD, "/process": case.pool, "/pool": case.pool}
        if "-kgevent" in case.command():
            del reasons["/pool"]  # it waits for its child, and gevent may miss that child's end
        for question, reason in reasons.items():
            told = ask(server.port, question)
            assert told["pid"] not in children(server.pid)
            assert (told["group"], told["is_master"]) == (reason, False), question


@pytest.mark.parametrize(
    "command", [lambda: gunicorn("-w1"), lambda: uvicorn("--workers=2")], ids=["gunicorn", "uvicorn"]
)
def test_a_child_that_is_a_new_interpreter_finds_none(command: Callable[[], list[str]], tmp_path: Path) -> None:
    with serving(tmp_path, command()) as server:
        assert ask(server.port, "/spawned")["group"] == POOL


@pytest.mark.parametrize(
    "command",
    [lambda: gunicorn("-w1"), lambda: hypercorn("-w1"), lambda: granian("wsgi"), lambda: uwsgi("--master")],
    ids=["gunicorn", "hypercorn", "granian", "uwsgi"],
)
def test_one_worker_is_a_group_where_its_replacement_works_beside_it(
    command: Callable[[], list[str]], tmp_path: Path
) -> None:
    with serving(tmp_path, command()) as server:
        assert ask(server.port)["group"][1] == server.pid


def reloader(directory: Path) -> list[str]:
    """Flask's, as `app.run(debug=True)` starts it."""
    script = directory / "reloading.py"
    script.write_text(
        "from werkzeug.serving import run_simple\n"
        f"from {APP} import wsgi\n"
        "run_simple('127.0.0.1', 0, wsgi, use_reloader=True)\n"
    )
    return [sys.executable, str(script)]


PRIVATE: Final[dict[str, tuple[Callable[[Path], list[str]], str]]] = {
    "uvicorn": (lambda _: uvicorn(), ALONE),
    "uvicorn --reload": (lambda _: uvicorn("--reload"), "uvicorn has one worker only"),
    "hypercorn": (lambda _: hypercorn("-w0"), ALONE),
    "waitress": (lambda _: python("waitress", f"--listen={ADDRESS}", f"{APP}:wsgi"), ALONE),
    "uwsgi": (lambda _: uwsgi(), "uWSGI without a master has one worker only"),
    "werkzeug": (reloader, "a development server that reloads has one worker only"),
}


@pytest.mark.parametrize(("command", "reason"), PRIVATE.values(), ids=PRIVATE.keys())
def test_a_server_with_one_process_is_no_group(
    command: Callable[[Path], list[str]], reason: str, tmp_path: Path
) -> None:
    with serving(tmp_path, command(tmp_path)) as server:
        for question in ("/", "/import", "/thread"):
            told = ask(server.port, question)
            assert (told["group"], told["is_master"]) == (reason, False)


@pytest.mark.parametrize("variable", ["WERKZEUG_RUN_MAIN", "RUN_MAIN"])
def test_what_a_reloader_leaves_in_the_environment_hides_no_group(variable: str, tmp_path: Path) -> None:
    with serving(tmp_path, gunicorn("-w2"), **{variable: "true"}) as server:
        assert ask(server.port)["group"] == ["gunicorn", server.pid, ""]


def test_without_a_master_of_its_own_uwsgi_s_first_worker_stands_for_it(tmp_path: Path) -> None:
    with serving(tmp_path, uwsgi("-p2")) as server:
        told = workers(server.port)
        assert {pid: one["group"] for pid, one in told.items()} == dict.fromkeys(told, ["uwsgi", server.pid, ""])
        assert server.pid in told
        assert ask(server.port, "/import")["group"] == MASTER
        for question in ("/fork", "/adopted", "/process", "/pool"):
            assert ask(server.port, question)["group"] == CHILD, question
        # The first worker is gone: whoever looks only now has nobody to name.
        second = next(pid for pid in told if pid != server.pid)
        end(server.pid)
        try:
            assert workers(server.port, 1)[second]["group"] == ORPHAN
        finally:
            end(second)


def test_an_application_in_a_sub_interpreter_of_uwsgi_is_not_taken_for_that_of_the_main_one(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(
        "import json\nfrom exemplars.store import group\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [json.dumps(group.find()).encode()]\n"
    )
    mounts = ("--mount=/first=two.py", "--mount=/hooked=two.py", "--manage-script-name", "--master")
    with serving(tmp_path, uwsgi(*mounts, app=())) as server:
        assert ask(server.port, "/first") == ["uwsgi", server.pid, ""]
        assert ask(server.port, "/hooked") == "uWSGI runs it in a sub-interpreter beside other applications"


def free_address() -> str:
    """For what must be there again after a reload, where port 0 would be another port then."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


RELOADING: Final = {
    "gunicorn": lambda: gunicorn("-w2"),
    "gunicorn preload": lambda: gunicorn("-w2", "--preload"),
    "uvicorn": lambda: uvicorn("--workers=2"),
    "hypercorn": lambda: hypercorn("-w2"),
    "granian": lambda: granian("asgi", "--workers=2"),
    "uwsgi": lambda: uwsgi("--master", "-p2", address=free_address()),
}


@pytest.mark.parametrize("command", RELOADING.values(), ids=RELOADING.keys())
def test_reloaded_workers_are_of_the_same_group(command: Callable[[], list[str]], tmp_path: Path) -> None:
    with serving(tmp_path, command()) as server:
        before = workers(server.port)
        os.kill(server.pid, signal.SIGHUP)
        after = workers(server.port, but=list(before))

        groups = [one["group"] for one in (*before.values(), *after.values())]
        assert groups == [groups[0]] * 4
        assert groups[0][1] == server.pid


def test_an_upgraded_gunicorn_is_another_group(tmp_path: Path) -> None:
    _, _, module, *arguments = gunicorn("-w2")
    command = [str(Path(sys.executable).parent / module), *arguments]  # it executes what it was started as; no `-m`
    with serving(tmp_path, command) as server:
        before = workers(server.port)
        os.kill(server.pid, signal.SIGUSR2)
        masters = {ask(server.port)["parent"]}
        try:
            after = workers(server.port, but=list(before))
            masters |= {one["parent"] for one in after.values()}

            assert {tuple(one["group"]) for one in before.values()} == {("gunicorn", server.pid, "")}
            assert {tuple(one["group"]) for one in after.values()} == {("gunicorn", max(masters - {server.pid}), "")}
        finally:
            for master in masters - {server.pid}:
                end(master, signal.SIGTERM)


def test_a_worker_whose_master_has_ended_finds_none(tmp_path: Path) -> None:
    with serving(tmp_path, hypercorn("-w2")) as server:
        left = workers(server.port)
        end(server.pid)
        try:
            told = workers(server.port)
            assert {pid: one["group"] for pid, one in told.items()} == dict.fromkeys(left, ORPHAN)
        finally:
            for pid in left:
                end(pid)


def test_servers_started_by_one_script_are_never_one_group(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(
        "import multiprocessing, sys, uvicorn\n"
        "def serve(workers):\n"
        "    sys.stdin = None  # its workers would look for it, and multiprocessing has closed it\n"
        f"    uvicorn.run('{APP}:asgi', port=0, workers=workers)\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context(sys.argv[1])\n"
        "    for workers in (1, 1, 2, 2):\n"
        "        context.Process(target=serve, args=(workers,)).start()\n"
    )
    for method in ("fork", "spawn"):
        with started(tmp_path, [sys.executable, str(script), method]) as pid:

            def ports() -> dict[int, int] | None:
                found = {child: port for child in children(pid) if (port := listens(child))}
                return found if len(found) == 4 and all(map(answers, found.values())) else None

            groups = []
            servers = eventually(ports, "four servers to answer")
            try:
                for master, port in servers.items():
                    told = ask(port)
                    assert told["group"] == (
                        POOL if told["pid"] == master else ["uvicorn", master, UVICORN_APPLICATION]
                    )
                    groups.append(str(told["group"]))
            finally:
                for master in servers:
                    end(master, signal.SIGTERM)
            assert sorted(map(groups.count, groups)) == [1, 1, 2, 2]  # two groups, and two without one


def test_servers_started_by_one_shell_are_never_one_group(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
    with serving(first, gunicorn("-w2")) as one, serving(second, gunicorn("-w2")) as other:
        assert ask(one.port)["group"] == ["gunicorn", one.pid, ""]
        assert ask(other.port)["group"] == ["gunicorn", other.pid, ""]


def test_gunicorn_s_hooks_are_told_who_they_are(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(
        "import json, os\n"
        "from exemplars.store.group import find\n"
        "def note(hook):\n"
        "    with open('notes', 'a') as file:\n"
        "        print(json.dumps([hook, os.getpid(), find()]), file=file)\n"
        "def pre_fork(server, worker): note('pre_fork')\n"
        "def post_fork(server, worker): note('post_fork')\n"
        "def when_ready(server):\n"
        "    note('when_ready')\n"
        "    if (pid := os.fork()) == 0:\n"
        "        note('child')\n"
        "        os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
    )
    with serving(tmp_path, gunicorn("-w1")) as server:
        worker = ask(server.port)["pid"]
        lines = (tmp_path / "notes").read_text().splitlines()
        notes = {hook: (pid, found) for hook, pid, found in map(json.loads, lines)}

    assert notes["pre_fork"] == notes["when_ready"] == (server.pid, MASTER)
    assert notes["post_fork"] == (worker, ["gunicorn", server.pid, ""])
    assert notes["child"][1] == CHILD


def test_this_process_is_alone() -> None:
    assert group.find() == ALONE
    assert not group.is_master()


def test_looking_is_cheap_and_imports_no_server() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from exemplars.store import group; before = set(sys.modules); group.find(); group.is_master();"
            "group.at_unhooked_fork(print); print(*(set(sys.modules) - before))",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": os.pathsep.join(PACKAGES)},
    )
    assert done.stdout.split() == []


def test_a_server_that_is_not_as_expected_means_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    class Touchy(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(f"no {name} today")

    for name in ("gunicorn.arbiter", "uwsgi", "mod_wsgi", "multiprocessing.process"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, Touchy(name))
            found = group.find()
            assert isinstance(found, str)
            assert found.startswith("its server could not be asked: ")
            assert not group.is_master()
            group.at_unhooked_fork(lambda: None)


def multiprocessing_child(
    patch: pytest.MonkeyPatch, module: str, *args: object, parent: int | None = None, **kwargs: object
) -> None:
    """Make this process look like one that multiprocessing started to run a function of *module*."""
    process = SimpleNamespace(_target=SimpleNamespace(__module__=module), _args=args, _kwargs=kwargs)
    fake = SimpleNamespace(
        current_process=lambda: process, parent_process=lambda: SimpleNamespace(pid=parent or os.getppid())
    )
    patch.setitem(sys.modules, "multiprocessing.process", fake)


def uvicorn_config(**changes: object) -> SimpleNamespace:
    values = {"app": "a:app", "reload": False, "workers": 2, "uds": None, "fd": None, "host": "::", "port": 80}
    return SimpleNamespace(**values | changes)


def test_applications_of_one_parent_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [
        uvicorn_config(),
        uvicorn_config(app="b:app"),
        uvicorn_config(port=81),
        uvicorn_config(uds="/run/a"),
        uvicorn_config(fd=3),
    ]
    found = set()
    for config in configs:
        multiprocessing_child(monkeypatch, "uvicorn._subprocess", config=config)
        one = group.find()
        assert isinstance(one, group.Group)
        found.add(one)
    assert len(found) == len(configs)


@pytest.mark.parametrize(
    "make",
    [
        lambda patch: multiprocessing_child(patch, "uvicorn._subprocess", config=uvicorn_config(app=object())),
        lambda patch: multiprocessing_child(patch, "uvicorn._subprocess", config=uvicorn_config(workers=1)),
        lambda patch: multiprocessing_child(patch, "uvicorn._subprocess", config=uvicorn_config(reload=True)),
        lambda patch: multiprocessing_child(patch, "uvicorn._subprocess", config=uvicorn_config(), parent=1 << 22),
        lambda patch: multiprocessing_child(patch, "uvicorn._subprocess", "no config"),
        lambda patch: multiprocessing_child(patch, "uvicorn._subprocess", config=SimpleNamespace()),
        lambda patch: multiprocessing_child(patch, "granian.server.mp", 1, "somebody's loader"),
        lambda patch: multiprocessing_child(patch, "somebody's"),
    ],
    ids=["object", "one worker", "reload", "orphan", "no config", "other config", "other loader", "other module"],
)
def test_a_process_of_multiprocessing_that_is_not_quite_a_worker_is_none(
    make: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    multiprocessing_child(monkeypatch, "uvicorn._subprocess", config=uvicorn_config())
    assert isinstance(group.find(), group.Group)  # as it would be

    make(monkeypatch)
    assert isinstance(group.find(), str)


def daemon(patch: pytest.MonkeyPatch, process_group: str = "shop", application_group: str = "") -> None:
    """Make this process look like one of mod_wsgi's daemon, with a parent that is the same program."""
    fake = SimpleNamespace(process_group=process_group, application_group=application_group)
    patch.setitem(sys.modules, "mod_wsgi", fake)


def in_fork(ask: Callable[[], object]) -> Any:
    """What *ask* says in a forked child of this process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, json.dumps(ask()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        told = json.loads(pipe.read())
    os.waitpid(pid, 0)
    return told


def test_a_daemon_of_mod_wsgi_is_known_by_its_groups_and_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon(monkeypatch)
    assert group.find() == ORPHAN  # this process and its parent are different programs
    assert in_fork(group.find) == CHILD

    def as_apache_forks() -> object:
        monkeypatch.setattr(group, "_forked_from", None)  # what a fork in C leaves
        return group.find()

    assert in_fork(as_apache_forks) == ["mod_wsgi", os.getpid(), "'shop' ''"]
    daemon(monkeypatch, "shop", "localhost|/b")
    assert in_fork(as_apache_forks) == ["mod_wsgi", os.getpid(), "'shop' 'localhost|/b'"]
    daemon(monkeypatch, "")
    assert in_fork(as_apache_forks) == "mod_wsgi is in embedded mode, not in daemon mode"
    monkeypatch.setitem(sys.modules, "mod_wsgi", ModuleType("mod_wsgi"))  # the package, outside Apache
    assert group.find() == ALONE


@pytest.mark.parametrize(("arguments", "hooked"), [(("--master",), 1), (("--master", "--lazy-apps"), 0), ((), 1)])
def test_the_hook_runs_in_workers_that_uwsgi_forks(arguments: Sequence[str], hooked: int, tmp_path: Path) -> None:
    with serving(tmp_path, uwsgi("-p2", *arguments)) as server:
        pids = set(workers(server.port))
        try:
            told = workers(server.port, 2, "/hooked")
            assert {pid: one["hooked"] for pid, one in told.items()} == {pid: [pid] * hooked for pid in pids}
        finally:
            for pid in pids - {server.pid, *children(server.pid)}:
                end(pid)


def test_the_hook_keeps_an_earlier_one_whatever_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fake = SimpleNamespace(post_fork_hook=lambda: calls.append("earlier"))
    monkeypatch.setitem(sys.modules, "uwsgi", fake)

    def fail() -> None:
        calls.append("ours")
        raise RuntimeError

    group.at_unhooked_fork(fail)
    with pytest.raises(RuntimeError):
        fake.post_fork_hook()

    assert calls == ["ours", "earlier"]


def test_elsewhere_the_hook_is_never_called() -> None:
    calls: list[int] = []
    group.at_unhooked_fork(lambda: calls.append(1))
    assert in_fork(lambda: calls) == [] == calls

"""What a process shares, from the first observation on: each test in processes of its own, as all of it is theirs."""

import os
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path
from typing import Final

import pytest

from exemplars.store import group, ofd
from tests.programs import NO_ORDERS, PACKAGES, eventually, serving

pytestmark = pytest.mark.skipif(not ofd.SUPPORTED, reason="workers share on Linux only")

# What every program begins with. `page` are the samples of a page, by their line; `forked` runs a function in a child;
# what `another` gives has a child evaluate an expression, as often as it is asked.
PRELUDE: Final = r"""
    import logging, os, resource, shutil, signal, subprocess, sys, threading, time
    from pathlib import Path
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily
    from exemplars import Counter, Gauge, Histogram, Policy, faults, metrics, render
    from exemplars.store import group, worker
    from exemplars.store.directory import Directory
    from exemplars.store.shared import FileRecord, OwnFile
    from tests.interruptions import every_moment, interrupted

    home = Path(os.environ.get("EXEMPLARS_DIR", "."))
    IDS = {"trace_id": "a" * 32, "span_id": "b" * 16}

    def page(*names, accept="application/openmetrics-text"):
        lines = [line for line in render(accept=accept)[0].decode().splitlines() if not line.startswith("#")]
        return {line.split(" # ")[0].rpartition(" ")[0]: float(line.split(" # ")[0].rpartition(" ")[2])
                for line in lines if not names or line.startswith(names)}

    def forked(function):
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            try:
                function()
                sys.stdout.flush()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0

    def another():
        sys.stdout.flush()
        asked, ask = os.pipe()
        told, tell = os.pipe()
        if not os.fork():
            try:
                os.close(ask)
                for line in os.fdopen(asked):
                    os.write(tell, (repr(eval(line)) + "\n").encode())
            finally:
                os._exit(1)
        os.close(asked)
        os.close(tell)
        answers = os.fdopen(told)
        return lambda expression: (os.write(ask, f"{expression}\n".encode()), eval(answers.readline()))[1]

    class Theirs:
        def collect(self):
            return [GaugeMetricFamily("theirs", "d", value=1.0)]

    def full(*_):
        raise OSError(28, "No space left on device")

    def files():
        return sorted(file.name for file in home.rglob("worker-*"))

    def errors():
        return {kind: count for kind, count in faults.errors.values.items() if count}

    def eventually(ask):
        deadline = time.monotonic() + 60
        while not ask():
            assert time.monotonic() < deadline
            time.sleep(0.05)
"""


def run(script: str, directory: Path | None = None, at: Path | None = None, /, **environment: str) -> str:
    """What *script* prints, in an interpreter of its own, started *at*, that shares in *directory*; it ends well."""
    inherited = {
        name: value for name, value in os.environ.items() if "MULTIPROC" not in name and name != "EXEMPLARS_DIR"
    }
    named = {"EXEMPLARS_DIR": str(directory)} if directory is not None else {}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=250,
        env=inherited | {"PYTHONPATH": os.pathsep.join(PACKAGES), "PYTHONWARNINGS": "ignore"} | named | environment,
        cwd=at,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout.strip() + ("\n" + done.stderr.strip() if "basicConfig" in script else "")


# --- when it is decided ---------------------------------------------------------------------------------------------


def test_nothing_is_decided_by_importing_or_making_metrics(tmp_path: Path) -> None:
    script = """
        counter = Counter("c", "d")
        histogram = Histogram("h", "d", ("a",))
        child = histogram.labels("x")
        Gauge("g", "d")
        before = (os.listdir(home), worker._decided)
        {first}
        print(before, files(), worker._decided)
    """
    for number, first in enumerate(("counter.inc()", "child.observe(1)", "page()", "REGISTRY.collect().__next__()")):
        found = run(script.format(first=first), tmp_path / str(number))
        expected = ["worker-1"] if number < 3 else []
        assert found.startswith("([], False) "), first
        if number < 3:
            assert found == f"([], False) {expected} True", first


def test_a_process_that_belongs_to_nobody_and_names_nothing_stays_alone(tmp_path: Path) -> None:
    script = """
        logging.basicConfig(level=logging.INFO)
        counter, gauge = Counter("c", "d"), Gauge("g", "d")
        gauge.set_function(lambda: 7.0)
        for _ in range(3):
            counter.inc()
        print(page("c", "g", "exemplars_shared"), worker.shared(), worker.workers(), errors())
    """
    printed, log = run(script).split("\n", 1)
    assert printed == "{'c_total': 3.0, 'g': 7.0} False 1 {}"
    assert log.count("numbers are in private memory: it runs alone") == 1


@pytest.mark.parametrize("variable", ["EXEMPLARS_DIR", "PROMETHEUS_MULTIPROC_DIR"])
def test_all_who_name_a_directory_share_one_after_the_other_and_at_once(variable: str, tmp_path: Path) -> None:
    script = """
        logging.basicConfig(level=logging.INFO)
        counter, histogram = Counter("c", "d"), Histogram("h", "d", ("a",), buckets=(1.0,))
        live = Gauge("g", "d")
        counter.inc(2)
        live.inc(3)
        histogram.labels('x"').observe(0.5, IDS)
        print(page("c_", "g", "h_bucket"), worker.shared())
    """
    for turn in (1, 2, 3):
        printed, log = run(script, None, **{variable: str(tmp_path)}).split("\n", 1)
        expected = {
            "c_total": 2.0 * turn,
            'h_bucket{a="x\\"",le="1.0"}': float(turn),
            'h_bucket{a="x\\"",le="+Inf"}': float(turn),
            "g": 3.0,
        }
        assert printed == f"{expected} True"
        assert log.count("numbers are shared in") == 1
        assert f"by all who name it in {variable}" in log
    both = run(
        """
        counter = Counter("c", "d")
        counter.inc()
        forked(lambda: (counter.inc(10), print(page("c_"), worker.workers())))
        print(page("c_"), worker.workers(), files())
        """,
        None,
        **{variable: str(tmp_path)},
    )
    lines = both.splitlines()
    assert lines[0] == "{'c_total': 17.0} 2"
    assert lines[1].startswith("{'c_total': 17.0} 1 ")
    assert sorted(path.name for path in tmp_path.rglob("worker-*")) == ["worker-1", "worker-2"]


@pytest.mark.parametrize("variable", ["EXEMPLARS_DIR", "PROMETHEUS_MULTIPROC_DIR"])
def test_a_named_directory_that_cannot_be_used_is_an_error_at_the_first_metric(variable: str, tmp_path: Path) -> None:
    script = """
        try:
            Counter("c", "d", registry=CollectorRegistry())
        except ValueError as error:
            print(error)
    """
    (tmp_path / "file").touch()
    # prometheus_client itself opens files there when it is imported, so that only a readable place gets to us.
    path = str(tmp_path / "file" / "below") if variable == "EXEMPLARS_DIR" else str(tmp_path / "missing")
    if variable == "PROMETHEUS_MULTIPROC_DIR":
        script = f"os.environ[{variable!r}] = {path!r}\n" + textwrap.dedent(script)
        assert f"{variable} is {path!r}, no directory to use" in run(script)
    else:
        assert f"{variable} is {path!r}, no directory to use" in run(script, None, **{variable: path})


def test_a_relative_directory_is_that_of_where_the_first_metric_was_made(tmp_path: Path) -> None:
    script = """
        counter = Counter("c", "d")
        os.chdir("elsewhere")
        counter.inc()
        forked(lambda: (os.chdir("/"), counter.inc(), print(page("c_"))))
        (group,) = Path("../named").iterdir()
        shutil.rmtree(group)
        os.mkdir("named")
        print(page("c_"), len(list(Path("../named").rglob("worker-*"))), os.listdir("named"))
    """
    (tmp_path / "elsewhere").mkdir()
    lines = run(script, None, tmp_path, EXEMPLARS_DIR="named").splitlines()
    assert lines == ["{'c_total': 2.0}", "{'c_total': 1.0} 1 []"]


@pytest.mark.parametrize("variable", ["EXEMPLARS_DIR", "PROMETHEUS_MULTIPROC_DIR"])
@pytest.mark.parametrize("what", ["_MASTER", "_ORPHAN", "_CHILD"])
def test_what_belongs_to_a_server_and_is_no_worker_joins_nobody_who_names_the_directory(
    what: str, variable: str, tmp_path: Path
) -> None:
    script = f"""
        logging.basicConfig(level=logging.INFO)
        group.find = lambda: group.{what}
        counter = Counter("c", "d")
        counter.inc()
        print(page("c_"), worker.shared())
    """
    for _ in range(2):
        printed, log = run(script, None, **{variable: str(tmp_path)}).split("\n", 1)
        assert printed == "{'c_total': 1.0} False"
        assert f"numbers are in private memory: {getattr(group, what)}" in log
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() or "worker" in path.name]


# --- forks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["os.fork", "multiprocessing", "preexec_fn"])
def test_a_forked_process_writes_into_no_file_of_its_parent_and_does_not_keep_it(way: str, tmp_path: Path) -> None:
    script = f"""
        import multiprocessing
        counter, gauge = Counter("c", "d"), Gauge("g", "d", multiprocess_mode="sum")
        counter.inc(5)
        gauge.set(2)
        own = worker._own
        of_parent = [counter.child(()).record, gauge.child(()).record]
        directory = os.fstat(own.directory.fd)

        def child():
            assert not own.is_ours(), "the lock is open here as well"
            for fd in os.listdir("/proc/self/fd"):
                try:
                    assert not os.path.samestat(os.fstat(int(fd)), directory), "it is open here as well"
                except OSError:
                    pass
            for record in of_parent:
                record.add(0, 1000.0)
                record.set(1000.0)
            assert not isinstance(counter.child(()).record, FileRecord)
            counter.inc(100)
            gauge.inc(1)
            assert worker._own.name != own.name
            print(page("c_", "g"), worker._own.name, flush=True)

        way = {way!r}
        if way == "os.fork":
            forked(child)
        elif way == "multiprocessing":
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join()
            assert process.exitcode == 0
        else:
            subprocess.run(["true"], preexec_fn=child, check=True)
        counter.inc()
        print(page("c_", "g"), own.is_ours(), files())
    """
    lines = run(script, tmp_path).splitlines()
    assert lines == [
        "{'c_total': 105.0, 'g': 3.0} worker-2",
        "{'c_total': 106.0, 'g': 3.0} True ['worker-1', 'worker-2']",
    ]


def test_children_that_only_run_another_program_or_do_nothing_leave_no_file(tmp_path: Path) -> None:
    script = """
        counter = Counter("c", "d")
        counter.inc()
        forked(lambda: None)
        subprocess.run(["true"], check=True)
        print(page("c_"), files())
    """
    assert run(script, tmp_path) == "{'c_total': 1.0} ['worker-1']"


MASTER: Final = """
    master = os.getpid()
    group.find = lambda: group._MASTER if os.getpid() == master else group.Group("gunicorn", master, "")
"""

PRELOADED: Final = f"""
    {MASTER}
    counter, gauge = Counter("c", "d", ("a",)), Gauge("g", "d", multiprocess_mode="max")
    counter.labels("x").inc(7)
    gauge.set(3)
    assert worker._decided and not worker.shared()

    def child():
        counter.labels("x").inc()
        print(page("c_", "g"), flush=True)
"""

SERVED: Final = """
    import os
    from exemplars import Counter, Gauge, render

    counter, gauge = Counter("c", "d"), Gauge("g", "d", multiprocess_mode="max")
    counter.inc(5)
    gauge.set(7)
    made = os.path.exists(os.environ["EXEMPLARS_DIR"])

    def app(environ, start_response):
        body = render()[0] + f"made {made}\\nby {os.getpid()}\\n".encode()
        if environ["PATH_INFO"] == "/child":
            reads, writes = os.pipe()
            pid = os.fork()
            if not pid:
                counter.inc(100)
                os.write(writes, render()[0])
                os._exit(0)
            os.close(writes)
            os.waitpid(pid, 0)
            with os.fdopen(reads, "rb") as page:
                body = page.read()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]
"""


def test_what_a_preloading_gunicorn_counts_is_there_once_and_its_workers_children_count_alone(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(textwrap.dedent(SERVED))
    home = tmp_path / "named"
    server = ("gunicorn", "--preload", "-w3", "-b127.0.0.1:0", "--keep-alive=0", *NO_ORDERS, "served:app")
    with serving("gunicorn", server, tmp_path, EXEMPLARS_DIR=str(home)) as url:

        def page(path: str = "/") -> dict[str, str]:
            with urllib.request.urlopen(url + path, timeout=60) as answer:
                lines = [line.split(" ") for line in answer.read().decode().splitlines() if not line.startswith("#")]
                return {line[0]: line[1] for line in lines}

        workers: set[str] = set()

        def all_have_answered() -> bool:
            workers.add(page()["by"])
            return len(workers) == 3

        eventually(all_have_answered, "all workers to answer")
        for _ in range(10):
            assert {"c_total": "5.0", "g": "7.0", "made": "False"}.items() <= page().items()
        assert page("/child")["c_total"] == "100.0"
        assert page()["c_total"] == "5.0"
        (directory,) = home.iterdir()
        assert directory.name.startswith("group-")


def test_a_preloading_master_neither_makes_nor_judges_the_directory_but_its_workers_do(tmp_path: Path) -> None:
    script = """
        counter = Counter("c", "d")
        counter.inc()
        print(home.exists(), page("c_"))
        forked(lambda: (counter.inc(), print(page("c_"), worker.shared(), home.exists())))
    """
    assert run(textwrap.dedent(MASTER) + textwrap.dedent(script), tmp_path / "new").splitlines() == [
        "False {'c_total': 1.0}",
        "{'c_total': 2.0} True True",
    ]
    bad = run(textwrap.dedent(MASTER) + textwrap.dedent(script), tmp_path / "no" / "no")
    assert bad.splitlines() == ["False {'c_total': 1.0}", "{'c_total': 2.0} False False"]
    script = """
        def child():
            try:
                Counter("c", "d")
            except ValueError as error:
                print("no directory to use" in str(error))
        forked(child)
    """
    assert run(textwrap.dedent(MASTER) + textwrap.dedent(script), tmp_path / "no" / "no") == "True"


def test_numbers_from_before_the_fork_are_counted_once_and_gauges_are_kept(tmp_path: Path) -> None:
    script = """
        import threading
        reads, writes = os.pipe()
        counted, tells = os.pipe()
        pids = []
        for number in range(3):
            pid = os.fork()
            if not pid:
                child()
                os.write(tells, b"x")
                os.read(reads, 1)
                os._exit(0)
            pids.append(pid)
            os.read(counted, 1)
            assert len(files()) == number + 1
        os.write(writes, b"123")
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0
        forked(child)
        forked(lambda: print(page("g")))
    """
    lines = run(textwrap.dedent(PRELOADED) + textwrap.dedent(script), tmp_path).splitlines()
    counts = [f"{{'c_total{{a=\"x\"}}': {count}, 'g': 3.0}}" for count in (8.0, 9.0, 10.0, 11.0)]
    assert lines == [*counts, "{'g': 3.0}"]
    assert len(list(tmp_path.rglob("inherited"))) == 1


def test_the_first_observation_of_each_forked_worker_is_counted_also_where_nothing_was_before(tmp_path: Path) -> None:
    script = """
        counter, histogram = Counter("c", "d"), Histogram("h", "d", buckets=(1.0,))
        for number in range(1, 5):
            forked(counter.inc if number % 2 else lambda: histogram.observe(0.5))
        forked(lambda: forked(counter.inc))
        print(page("c_", "h_count", "h_sum"), files())
        assert not list(home.rglob("inherited"))
    """
    assert run(script, tmp_path) == "{'c_total': 3.0, 'h_count': 2.0, 'h_sum': 1.0} ['worker-1']"


# --- what goes wrong while it runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", ["scrape", "exemplar", "observation", "counter"])
def test_a_directory_that_is_removed_is_made_anew_with_all_that_stood_in_it(seen: str, tmp_path: Path) -> None:
    script = f"""
        counter, histogram = Counter("c", "d", ("a",)), Histogram("h", "d", policy=Policy(min_retention=0.0))
        for number in range(1000):
            counter.labels(number).inc()
        histogram.observe(1, IDS)
        before = page("c_", "h_")
        (group,) = home.iterdir()
        shutil.rmtree(group)
        worker.look_at = 0.0
        if {seen!r} == "scrape":
            after = page("c_", "h_")
            assert before == after
        elif {seen!r} != "counter":
            histogram.observe(1, IDS if {seen!r} == "exemplar" else None)
            assert files() == ["worker-1"]
        counter.labels("5").inc()
        assert files() == ["worker-1"]
        print(errors())
        forked(lambda: print(page("c_", "h_")['c_total{{a="5"}}'], len(page("c_")), page("h_count"), worker.workers()))
        assert errors() == {{"store": 1}}
    """
    lines = run(script, tmp_path).splitlines()
    count = 2.0 if seen in ("exemplar", "observation") else 1.0
    assert lines == ["{'store': 1}", f"2.0 1000 {{'h_count': {count}}} 2"]


def test_where_it_cannot_be_made_anew_nothing_shared_is_on_a_page_until_it_can(tmp_path: Path) -> None:
    """A gap, where this worker's numbers alone would look like a restart."""
    script = """
        logging.basicConfig()
        counter = Counter("c", "d")
        REGISTRY.register(Theirs())
        counter.inc(4)
        pages = [page("c_")]
        shutil.rmtree(home)
        home.write_text("something else")
        for _ in range(3):
            worker._retry_at = 0.0
            counter.inc()
            pages.append(page("c_"))
            assert page("theirs") == {"theirs": 1.0}
        assert errors()["store"] > 3
        home.unlink()
        worker._retry_at = 0.0
        counter.inc()
        pages.append(page("c_"))
        print([shown.get("c_total") for shown in pages], worker.shared(), files())
    """
    printed, log = run(script, tmp_path / "made").split("\n", 1)
    assert printed == "[4.0, None, None, None, 8.0] True ['worker-1']"
    assert log.count("it is made anew") == 1, "the log says it once"


def test_a_lock_that_somebody_closes_is_noticed_and_nothing_is_counted_twice_or_lost(tmp_path: Path) -> None:
    script = """
        counter, gauge = Counter("c", "d", ("a",)), Gauge("g", "d")
        counter.labels("x").inc(3)
        gauge.inc(2)
        first = page("c_", "g")
        os.closerange(3, 256)
        taken = os.open("/dev/null", os.O_RDONLY)
        second = page("c_", "g")
        counter.labels("x").inc()
        gauge.dec()
        third = page("c_", "g")
        os.fstat(taken)
        print(first, second, third, files())
    """
    first = "{'c_total{a=\"x\"}': 3.0, 'g': 2.0}"
    third = "{'c_total{a=\"x\"}': 4.0, 'g': 1.0}"
    assert run(script, tmp_path) == f"{first} {first} {third} ['worker-1']"


def test_without_descriptors_it_counts_in_private_and_shares_later(tmp_path: Path) -> None:
    """And is on no page until then: others may share, and its own numbers alone would look like a restart."""
    script = """
        logging.basicConfig()
        counter = Counter("c", "d")
        held = []
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, limit[1]))
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        for _ in range(5):
            counter.inc()
            worker._retry_at = worker._retry_at and 1e-9
            assert page("c_") == {}
        assert worker.shared() and errors()["store"] > 1
        for fd in held:
            os.close(fd)
        worker._retry_at = worker._retry_at and 1e-9
        counter.inc()
        shown = page("c_")
        for _ in range(100):
            try:
                held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        counter.inc()
        full = page("c_")
        for fd in held[-20:]:
            os.close(fd)
        print(shown, full, worker.shared(), files())
        print(page("c_"))
        forked(lambda: print(page("c_")))
    """
    lines = run(script, tmp_path).splitlines()
    # Where nothing can be read, nothing is shown: what was read before may have fallen behind the others' pages.
    assert lines[:3] == [
        "{'c_total': 6.0} {} True ['worker-1']",
        "{'c_total': 7.0}",
        "{'c_total': 7.0}",
    ]
    assert sum("numbers are in private memory" in line for line in lines) == 1


def test_without_room_a_series_counts_in_private_and_is_on_the_page_when_it_is_in_the_file(tmp_path: Path) -> None:
    script = """
        from exemplars import selfmetrics
        selfmetrics.install(REGISTRY)
        counter, histogram = Counter("c", "d", ("a",)), Histogram("h", "d", ("a",))
        counter.labels("x").inc()
        size = (next(home.rglob("worker-1"))).stat().st_size
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
        for number in range(200):
            histogram.labels(number).observe(1, IDS)
            counter.labels("x").inc()
        alone = [child for child in histogram.every_child() if not worker.is_shared(child)]
        shown = page("h_count", "c_")
        print(len(alone) > 50, len(shown) == 201 - len(alone), set(shown.values()) == {1.0, 201.0}, "store" in errors())
        assert page("exemplars_errors_total")['exemplars_errors_total{kind="store"}'] > 0
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        worker._retry_at = 1e-9
        again = page("h_count", "c_")
        print(len(again), set(again.values()) == {1.0, 201.0}, all(map(worker.is_shared, histogram.every_child())))
        forked(lambda: print(page("h_count", "c_") == again))
    """
    lines = run(script, tmp_path).splitlines()
    assert lines == ["True True True True", "201 True True", "True"]


def test_all_pages_agree_on_a_series_that_has_no_room_in_one_file_and_its_total_never_falls(tmp_path: Path) -> None:
    script = """
        counter, gauge = Counter("c", "d", ("a",)), Gauge("g", "d", ("a",), multiprocess_mode="max")
        other = another()
        other("counter.labels('both').inc(1000)")
        other("gauge.labels('both').set(3)")
        counter.labels("roomy").inc()
        append, OwnFile._append = OwnFile._append, full
        counter.labels("both").inc(50)
        counter.labels("mine").inc(7)
        gauge.labels("both").set(5)
        def pages():
            return [page("c_", "g"), other("page('c_', 'g')"), page("c_", "g")]
        print(*pages()[0].items())
        assert all(shown == pages()[0] for shown in pages())
        OwnFile._append = append
        worker._retry_at = 1e-9
        counter.labels("both").inc()
        assert all(shown == pages()[0] for shown in pages())
        print(*sorted(pages()[0].items()))
    """
    before, after = run(script, tmp_path).splitlines()
    assert before == """('c_total{a="both"}', 1000.0) ('c_total{a="roomy"}', 1.0) ('g{a="both"}', 3.0)"""
    assert after == (
        """('c_total{a="both"}', 1051.0) ('c_total{a="mine"}', 7.0) ('c_total{a="roomy"}', 1.0) ('g{a="both"}', 5.0)"""
    )


def test_a_full_disk_is_asked_once_a_try_and_not_for_each_series(tmp_path: Path) -> None:
    script = """
        counter, asked = Counter("c", "d", ("a",)), []
        counter.labels("first").inc()
        place = OwnFile.place
        def refuse(self, key, retention):
            asked.append(key[0].registry)
            raise OSError(28, "No space left on device")
        OwnFile.place = refuse
        for number in range(500):
            counter.labels(number).inc()
        times = [asked.count("")]
        for _ in range(3):
            worker._retry_at = 1e-9
            page()
            times.append(asked.count(""))
        print(times)
        OwnFile.place = place
        worker._retry_at = 1e-9
        shown = page("c_")
        print(len(shown), set(shown.values()))
    """
    assert run(script, tmp_path).splitlines() == ["[1, 2, 3, 4]", "501 {1.0}"]


def test_a_label_too_long_for_any_file_is_private_for_good(tmp_path: Path) -> None:
    script = """
        counter, asked = Counter("c", "d", ("a",)), []
        counter.labels("x").inc()
        place = OwnFile.place
        OwnFile.place = lambda self, key, retention: (asked.append(key[0].registry), place(self, key, retention))[1]
        counter.labels("y" * 20_000).inc()
        counter.labels("z").inc()
        pages = []
        for _ in range(3):
            worker._retry_at = worker._retry_at and 1e-9
            pages.append(page("c_"))
        counter.labels("y" * 20_000).inc()
        print(errors(), asked.count(""), worker._retry_at, counter.labels("y" * 20_000).read()[1])
        print({'c_total{a="x"}': 1.0, 'c_total{a="z"}': 1.0}.items() <= pages[-1].items())
    """
    assert run(script, tmp_path).splitlines() == ["{'store': 1} 2 0.0 2.0", "True"]


def test_while_this_process_cannot_read_every_file_nothing_shared_is_on_its_page(tmp_path: Path) -> None:
    """What it knew would fall behind the pages of those who can."""
    script = """
        counter = Counter("c", "d")
        REGISTRY.register(Theirs())
        others = [another(), another()]
        for other in others:
            other("counter.inc(1000)")
        counter.inc()
        opened = Directory.open
        def refuse(self, name, flags):
            if name == "worker-1":
                raise OSError(24, "Too many open files")
            return opened(self, name, flags)
        Directory.open = refuse
        print(page("c_", "theirs"), page("c_"))
        Directory.open = opened
        print(page("c_"))
        Directory.open = refuse
        for other in others:
            other("counter.inc(5)")
        print(page("c_"))
        Directory.open = opened
        print(page("c_"))
    """
    assert run(script, tmp_path).splitlines() == [
        "{'theirs': 1.0} {}",
        "{'c_total': 2001.0}",
        "{}",
        "{'c_total': 2011.0}",
    ]


def test_a_stopped_process_in_the_directory_keeps_the_first_attempt_only_and_is_asked_ever_more_seldom(
    tmp_path: Path,
) -> None:
    script = """
        counter, now = Counter("c", "d"), 0.0
        worker.monotonic = lambda: now
        directory = worker.directories.of_group(None, worker.directories.named())
        other = another()
        other("counter.inc(1000)")
        held, tried, waited = directory.try_lock(), [], {}
        assert held is not None

        def wait(signals, seconds):
            waited[now] = waited.get(now, 0.0) + seconds
        worker.directories.signal.sigtimedwait = wait

        try_lock = Directory.try_lock
        def try_it(self):
            tried.append(now)
            return try_lock(self)
        Directory.try_lock = try_it

        counter.inc()
        while now < 200:
            assert page("c_") == {"c_total": 1000.0}, "that of the others"
            now += 0.5
        print(sorted(set(tried)), {at: round(seconds, 3) for at, seconds in waited.items()}, files())
        os.close(held)
        now = 243.0
        print(page("c_"), files())
    """
    assert run(script, tmp_path).splitlines() == [
        "[0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 123.0, 183.0] {0.0: 0.5} ['worker-1']",
        "{'c_total': 1001.0} ['worker-1', 'worker-2']",
    ]


def test_who_waits_for_a_file_shows_nothing_of_a_directory_that_the_others_have_left(tmp_path: Path) -> None:
    """For up to a minute its page would fall behind theirs."""
    script = """
        counter = Counter("c", "d")
        other = another()
        other("counter.inc(1000)")
        OwnFile._new = full
        counter.inc(7)
        worker._retry_at += 60
        print(page("c_"))
        (there,) = home.iterdir()
        there.rename(home / "elsewhere")
        other("page()")
        other("counter.inc(500)")
        print(page("c_"), page("c_"), other("page('c_')"))
    """
    assert run(script, tmp_path).splitlines() == [
        "{'c_total': 1000.0}",
        "{'c_total': 1500.0} {'c_total': 1500.0} {'c_total': 1500.0}",
    ]


def test_what_a_process_that_waits_for_a_file_has_counted_is_not_counted_again_by_its_children(tmp_path: Path) -> None:
    script = """
        counter = Counter("c", "d")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        counter.inc(7)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        child = another()
        child("counter.inc()")
        print(child("page('c_')"))
        worker._retry_at = 1e-9
        counter.inc()
        print(page("c_"), child("page('c_')"))
    """
    assert run(script, tmp_path).splitlines() == ["{'c_total': 1.0}", "{'c_total': 9.0} {'c_total': 9.0}"]


def test_an_orphan_that_could_not_look_at_first_is_on_its_own_page_at_last(tmp_path: Path) -> None:
    script = """
        counter = Counter("c", "d")
        found = [group.Group("gunicorn", os.getpid(), ""), "its server's master has ended"]
        group.find = lambda: found.pop(0)
        group.is_master = lambda: False
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        counter.inc(7)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        worker._retry_at = 1e-9
        print(page("c_"))
    """
    assert run(script, tmp_path) == "{'c_total': 7.0}"


def test_who_gets_no_file_shows_the_others_and_what_it_counted_once_it_has_one(tmp_path: Path) -> None:
    script = """
        logging.basicConfig()
        from exemplars import selfmetrics
        selfmetrics.install(REGISTRY)
        counter = Counter("c", "d")
        other = another()
        other("counter.inc(1000)")
        new, OwnFile._new = OwnFile._new, full
        histogram = Histogram("h", "d")
        histogram.observe(1, IDS)
        other("Histogram('h', 'd').observe(1, IDS)")
        counter.inc(7)
        print(page("c_", "exemplars_workers", "exemplars_shared", "exemplars_taken"))
        other("counter.inc()")
        worker._retry_at = 1e-9
        print(page("c_"), errors()["store"] > 1)
        shutil.rmtree(home)
        home.mkdir()
        other("page('c_')")
        worker._retry_at = 1e-9
        print(page("c_"), page("c_"))
        OwnFile._new = new
        worker._retry_at = 1e-9
        print(page("c_"), other("page('c_')"), files(), page("exemplars_taken"))
    """
    lines = run(script, tmp_path / "shared").splitlines()
    assert lines[:4] == [
        "{'c_total': 1000.0, 'exemplars_taken_total': 1.0, 'exemplars_workers': 1.0, 'exemplars_shared': 1.0}",
        "{'c_total': 1001.0} True",
        "{'c_total': 1001.0} {'c_total': 1001.0}",
        "{'c_total': 1008.0} {'c_total': 1008.0} ['worker-1', 'worker-2'] {'exemplars_taken_total': 2.0}",
    ]
    assert [line.partition(" until")[0] for line in lines[4:] if "until" in line] == [
        "WARNING:exemplars:store: numbers are in private memory, on no page"
    ]


def test_a_number_of_the_library_that_is_none_costs_none_of_the_others(tmp_path: Path) -> None:
    script = """
        from exemplars import selfmetrics
        selfmetrics.install(REGISTRY)
        histogram = Histogram("h", "d")
        histogram.observe(1, IDS)
        faults.note("label", detail="on purpose")
        before = page("exemplars_")
        assert before["exemplars_taken_total"] == 1.0
        for record, _ in worker._told.values():
            record._file_numbers[0] = float({number!r})
        after = page("exemplars_")
        print(before.keys() == after.keys(), len(before) > 15, page("h_count"))
    """
    for number in ("nan", "inf", "-inf"):
        assert run(script.format(number=number), tmp_path / number) == "True True {'h_count': 1.0}"


# --- locks of others ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["attaching", "without room"])
def test_what_the_log_is_told_waits_for_no_handler_while_others_wait_for_us(moment: str, tmp_path: Path) -> None:
    """A handler counts, while another thread, which has our lock, has something to say."""
    script = f"""
        import faulthandler
        faulthandler.dump_traceback_later(60, exit=True)
        lines, other = Counter("lines", "d", ("logger",)), Counter("o", "d", ("a",))
        emitting, inside = threading.Event(), threading.Event()

        class Handler(logging.Handler):
            def emit(self, record):
                if record.name == "app":
                    emitting.set()
                    inside.wait()
                lines.labels(record.name).inc()

        if {moment!r} == "attaching":
            of_group = worker.directories.of_group
            worker.directories.of_group = lambda *given: (inside.set(), of_group(*given))[1]
        else:
            for name in ("app", "exemplars"):
                lines.labels(name).inc(0)
            def refuse(*_):
                inside.set()
                raise OSError(28, "No space left on device")
            OwnFile._append = refuse
        logging.basicConfig(level=logging.INFO, handlers=[Handler()])
        thread = threading.Thread(target=lambda: logging.getLogger("app").info("hello"))
        thread.start()
        emitting.wait()
        other.labels("x").inc()
        thread.join()
        shown = page("lines")
        print(shown['lines_total{{logger="app"}}'], shown['lines_total{{logger="exemplars"}}'] >= 1)
    """
    assert run(script, tmp_path).splitlines()[0] == "1.0 True"


# --- code that comes in in the middle -------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_a_signal_handler_that_counts_while_it_is_decided_loses_nothing(shared: bool, tmp_path: Path) -> None:
    """Each moment in a forked process of its own, which has not decided yet."""
    script = """
        counter, histogram = Counter("c", "d", ("a",)), Histogram("h", "d", ("a",), buckets=(1.0,))
        gauge, alone = Gauge("g", "d"), Counter("alone", "d")
        known = counter.labels("known")

        def operate():
            known.inc(1)
            histogram.labels("x").observe(0.5, IDS)
            gauge.inc(1)

        def come_in():
            known.inc(10)
            histogram.labels("x").observe(0.5, IDS)
            counter.labels("new").inc(100)
            gauge.inc(10)
            alone.inc()

        def at(moment):
            if "EXEMPLARS_DIR" in os.environ:
                os.environ["EXEMPLARS_DIR"] = f"{home}-{moment}"
            interrupted(operate, come_in, at=moment)
            found = page("c_", "h_count", "h_sum", "g", "alone")
            expected = {'c_total{a="known"}': 11.0, 'c_total{a="new"}': 100.0, 'h_count{a="x"}': 2.0,
                        'h_sum{a="x"}': 1.0, "g": 11.0, "alone_total": 1.0}
            assert found == expected, (moment, found)
            assert not errors(), errors()
            assert worker.shared() == ("EXEMPLARS_DIR" in os.environ)
            assert not worker.shared() or all(map(worker.is_shared, [*counter.every_child(), *gauge.every_child()]))
            if worker.shared():
                shutil.rmtree(f"{home}-{moment}")

        def count():
            if "EXEMPLARS_DIR" in os.environ:
                os.environ["EXEMPLARS_DIR"] = f"{home}-0"
            Path(os.environ["MOMENTS"]).write_text(str(len(list(every_moment(operate)))))

        forked(count)
        moments = int(Path(os.environ["MOMENTS"]).read_text())
        step = max(moments // 60, 1)
        for moment in range(1, moments, step):
            forked(lambda: at(moment))
        print("well", moments > 50)
    """
    moments = str(tmp_path / "moments")
    assert run(script, tmp_path / "d" if shared else None, MOMENTS=moments) == "well True"


def test_a_signal_handler_that_counts_and_scrapes_while_it_shares_loses_nothing(tmp_path: Path) -> None:
    script = """
        import random
        newest = Policy(min_retention=0.0)
        counter, gauge = Counter("c", "d", ("a",), policy=newest), Gauge("g", "d")
        histogram = Histogram("h", "d", ("a",), policy=newest, buckets=(1.0,))
        turns = handled = 0

        def operate():
            global turns
            turns += 1
            counter.labels("x").inc(1, {"by": "outer"})
            histogram.labels(turns).observe(0.5, {"by": "outer"})
            gauge.inc()
            counter.remove(str(turns - 1))

        def come_in():
            global handled
            handled += 1
            worker._retry_at = 1e-9  # there is something to mend
            counter.labels("x").inc(1, {"by": "inner"})
            histogram.labels("inner").observe(0.5, IDS)
            counter.labels(turns).inc()
            gauge.inc()
            page()

        operate()
        moments = list(every_moment(operate))
        for moment in random.Random(2).sample(moments, 80):
            interrupted(operate, come_in, at=moment)
        counted = turns + handled
        for _ in range(2):
            shown = page("h_count", "c_", "g")
            print(shown['c_total{a="x"}'] == shown["g"] == counted, handled > 20)
            print(sum(count for name, count in shown.items() if name.startswith("h_count")) == counted)
            worker._reader = worker.Reader(worker._own.directory, print)
        print(errors(), sum(worker.skipped.values.values()))
    """
    assert run(script, tmp_path).splitlines() == ["True True", "True"] * 2 + ["{} 0"]


def test_threads_that_count_and_scrape_from_the_first_moment_on_lose_nothing(tmp_path: Path) -> None:
    script = """
        sys.setswitchinterval(1e-6)
        counter, histogram = Counter("c", "d", ("a",)), Histogram("h", "d", policy=Policy(min_retention=0.0))
        barrier, falls = threading.Barrier(6), []

        def count(thread):
            barrier.wait()
            for number in range(300):
                counter.labels(number % 5).inc()
                histogram.observe(number, {"thread": str(thread)})

        def scrape():
            barrier.wait()
            last = 0
            for _ in range(30):
                now = page("h_count").get("h_count", 0)
                falls.append(now < last)
                last = now

        threads = [threading.Thread(target=count, args=(n,)) for n in range(4)]
        threads += [threading.Thread(target=scrape) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(sum(page("c_").values()), page("h_count"), any(falls), errors(), files())
    """
    assert run(script, tmp_path) == "1200.0 {'h_count': 1200.0} False {} ['worker-1']"


# --- series and metrics that come and go ----------------------------------------------------------------------------


def test_remove_and_clear_act_on_this_worker_and_say_so_once(tmp_path: Path) -> None:
    script = """
        logging.basicConfig()
        counter = Counter("c", "d", ("a", "b"))
        for a in "xyz":
            counter.labels(a, "1").inc()
        forked(lambda: [counter.labels(a, "1").inc(10) for a in "xyz"])
        shown = [page("c_")]
        held = counter.labels("x", "1")
        counter.remove("x", "1")
        held.inc(1000)
        shown.append(page("c_"))
        counter.remove_by_labels({"b": "1"})
        shown.append(page("c_"))
        counter.labels("y", "1").inc(2)
        shown.append(page("c_"))
        counter.clear()
        shown.append(page("c_"))
        for each in shown:
            print(*each.values())
    """
    lines = run(script, tmp_path).splitlines()
    assert lines[:5] == ["11.0 11.0 11.0", "10.0 11.0 11.0", "10.0 10.0 10.0", "10.0 12.0 10.0", "10.0 10.0 10.0"]
    assert sum("act on the worker that calls them" in line for line in lines) == 1


def test_remove_also_reaches_what_an_earlier_owner_left(tmp_path: Path) -> None:
    script = """
        counter = Counter("c", "d", ("a",))
        {then}
        print(*page("c_"))
    """
    assert run(script.format(then="[counter.labels(a).inc() for a in 'xyzw']"), tmp_path).count("c_total") == 4
    left = run(script.format(then="page(); counter.remove('x'); counter.remove_by_labels({'a': 'y'})"), tmp_path)
    assert left == 'c_total{a="z"} c_total{a="w"}'
    assert run(script.format(then="page(); counter.clear()"), tmp_path) == ""


def test_max_series_counts_what_an_earlier_owner_left(tmp_path: Path) -> None:
    script = """
        counter = Counter("c", "d", ("a",), max_series=3)
        page()
        for a in {labels!r}:
            counter.labels(a).inc()
        print({{name.removeprefix("c_total"): value for name, value in page("c_").items()}})
    """
    assert run(script.format(labels="ab"), tmp_path) == "{'{a=\"a\"}': 1.0, '{a=\"b\"}': 1.0}"
    more = run(script.format(labels="cadb"), tmp_path)
    overflow = '{otel_metric_overflow="true"}'
    assert more == str({'{a="a"}': 2.0, '{a="b"}': 2.0, '{a="c"}': 1.0, overflow: 1.0})


@pytest.mark.parametrize("mode", ["min", "max", "sum", "mostrecent", "livemin", "livemax", "livesum", "livemostrecent"])
def test_the_gauges_of_workers_become_one_by_their_mode(mode: str, tmp_path: Path) -> None:
    script = f"""
        gauge = Gauge("g", "d", multiprocess_mode={mode!r})
        gauge.set(5)
        reads, writes = os.pipe()
        def child():
            gauge.set(2)
            print(page("g")["g"])
        forked(child)
        print(page("g")["g"])
        gauge.set(4)
        print(page("g")["g"])
    """
    both = {"min": 2.0, "max": 5.0, "sum": 7.0, "mostrecent": 2.0}[mode.removeprefix("live")]
    dead = 5.0 if mode.startswith("live") else both
    last = 4.0 if mode.startswith("live") else {"min": 2.0, "max": 4.0, "sum": 6.0, "mostrecent": 4.0}[mode]
    assert run(script, tmp_path) == f"{both}\n{dead}\n{last}"


def test_a_function_of_a_gauge_is_refused_where_workers_share(tmp_path: Path) -> None:
    script = """
        gauge = Gauge("g", "d")
        for _ in range(2):
            try:
                gauge.set_function(lambda: 1.0)
            except ValueError as error:
                print("of which each would answer for itself" in str(error))
            gauge.inc()
    """
    assert run(script, tmp_path) == "True\nTrue"


def test_a_metric_that_only_others_have_is_shown_and_one_of_another_shape_is_not_mixed(tmp_path: Path) -> None:
    first = """
        Counter("only_total_total", "of others", ("a",)).labels("x").inc(3)
        Gauge("level", "d", unit="bytes", multiprocess_mode="max").set(9)
        Histogram("h", "d", ("a",), buckets=(1.0, 2.0)).labels("x").observe(1.5, IDS)
        Histogram("other", "d", buckets=(1.0, 2.0)).observe(1.5)
        Counter("elsewhere", "d", registry=CollectorRegistry()).inc()
        page()
    """
    second = """
        Histogram("other", "d", buckets=(1.0,)).observe(0.5)
        print(render(accept="application/openmetrics-text")[0].decode())
    """
    run(first, tmp_path)
    shown = run(second, tmp_path).splitlines()
    for line in (
        "# HELP only_total of others",
        'only_total_total{a="x"} 3.0',
        "# UNIT level_bytes bytes",
        "level_bytes 9.0",
        'h_bucket{a="x",le="1.0"} 0',
        'h_count{a="x"} 1',
        'other_bucket{le="1.0"} 1',
        "other_count 1",
    ):
        assert line in shown, line
    assert any(line.startswith('h_bucket{a="x",le="2.0"} 1 # {trace_id="aaa') for line in shown) is False
    assert not any("elsewhere" in line for line in shown)
    assert len([line for line in shown if line.startswith("# TYPE")]) == len(
        {line for line in shown if line.startswith("# TYPE")}
    )


def test_registries_are_known_by_where_they_are_first_used_and_too_many_stay_private(tmp_path: Path) -> None:
    script = """
        logging.basicConfig()
        def of(registry):
            Counter("c", "d", registry=registry).inc()
        registries = [CollectorRegistry() for _ in range(18)]
        for registry in registries:
            of(registry)
        print([registry.get_sample_value("c_total") for registry in registries])
    """
    for turn in (1.0, 2.0):
        printed, log = run(script, tmp_path).split("\n", 1)
        assert printed == str([turn] * 16 + [1.0] * 2)
        assert log.count("c is not shared, each worker shows its own") == 1


@pytest.mark.parametrize("first", ["page", "request"])
def test_a_registry_first_used_after_the_first_page_or_request_is_private_and_that_is_said_once(
    first: str, tmp_path: Path
) -> None:
    """Which it is in other workers, nobody knows: they may have made other ones, or in another order."""
    script = f"""
        logging.basicConfig()
        from exemplars import WSGIMiddleware
        from tests.drivers import make_environ, run_wsgi
        def respond(environ, start_response):
            start_response("200 OK", [])
            return [b"well"]

        early, measured = CollectorRegistry(), CollectorRegistry()
        app = WSGIMiddleware(respond, registry=measured)
        Counter("early", "d", registry=early).inc()
        page() if {first!r} == "page" else run_wsgi(app, make_environ())
        late = [CollectorRegistry(), CollectorRegistry()]
        for registry in late:
            Counter("orders", "d", registry=registry).inc()
        Counter("more", "d", registry=early).inc()
        Counter("default", "d").inc()
        run_wsgi(app, make_environ())
        print(early.get_sample_value("early_total"), early.get_sample_value("more_total"), page("default"))
        print([registry.get_sample_value("orders_total") for registry in late])
        print(sum(float(sample.value) for family in measured.collect() for sample in family.samples
                  if sample.name == "http_server_request_duration_seconds_count"))
    """
    requests = 1.0 if first == "page" else 2.0
    for turn in (1.0, 2.0):
        lines = run(script, tmp_path).splitlines()
        shared = f"{turn} {turn} {{'default_total': {turn}}}"
        assert lines[:3] == [shared, "[1.0, 1.0]", str(turn * requests)]
        assert sum("orders is not shared, each worker shows its own" in line for line in lines) == 1


def test_what_a_metric_counted_that_is_no_more_leaves_the_file_also_beyond_max_series(tmp_path: Path) -> None:
    script = """
        import gc
        counter = Counter("c", "d", ("a",), max_series=1)
        for a in "xyz":
            counter.labels(a).inc()
        held = counter.labels("x")
        shown = page("c_")
        REGISTRY.unregister(counter)
        del counter
        gc.collect()
        held.inc()
        print(len(shown), page("c_"))
        again = Counter("c", "d", ("a",), max_series=1)
        again.labels("x").inc(5)
        print(page("c_"), errors())
    """
    assert run(script, tmp_path) == "2 {}\n{'c_total{a=\"x\"}': 5.0} {}"


def test_two_metrics_of_one_shape_in_one_process_are_added_up_and_each_leaves_with_itself(tmp_path: Path) -> None:
    script = """
        import gc
        first = Counter("c", "d", ("a",))
        first.labels("x").inc(3)
        REGISTRY.unregister(first)
        second = Counter("c", "d", ("a",))
        second.labels("x").inc(4)
        print(page("c_"))
        first.labels("x").inc(10)
        print(page("c_"))
        del first
        gc.collect()
        print(page("c_"), errors())
    """
    shown = "{{'c_total{{a=\"x\"}}': {}}}"
    lines = run(script, tmp_path).splitlines()
    assert lines == [shown.format(7.0), shown.format(17.0), shown.format(4.0) + " {}"]


def test_the_librarys_own_numbers_are_those_of_all_workers(tmp_path: Path) -> None:
    script = """
        from exemplars import selfmetrics
        selfmetrics.install(REGISTRY)
        histogram = Histogram("h", "d", policy=Policy(min_retention=0.0))
        names = ("exemplars_taken", 'exemplars_errors_total{kind="label"}', "exemplars_plain", "exemplars_workers",
                 "exemplars_shared")
        def work(times):
            for number in range(times):
                histogram.observe(1, IDS)
                faults.note("label", detail="on purpose")
            page(accept="text/plain")
            print(*page(*names).values(), flush=True)
        work(3)
        forked(lambda: work(4))
        print(*page(*names).values())
    """
    # errors, plain, shared, taken, workers: in the order of the page
    first, second, third = ([float(value) for value in line.split()] for line in run(script, tmp_path).splitlines())
    assert sorted(first) == sorted([3, 3, 1, 1, 1])
    assert sorted(second) == sorted([7, 7, 2, 1, 2])
    assert sorted(third) == sorted([7, 7, 2, 1, 1])


def test_a_worker_that_ended_is_no_longer_counted_as_one(tmp_path: Path) -> None:
    script = """
        counter = Counter("c", "d")
        counter.inc()
        pid = os.fork()
        if not pid:
            counter.inc()
            time.sleep(60)
            os._exit(0)
        eventually(lambda: page("c_") == {"c_total": 2.0})
        print(worker.workers())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        print(page("c_"), worker.workers())
    """
    assert run(script, tmp_path) == "2\n{'c_total': 2.0} 1"

"""What a process shares, from the first observation on: each test in processes of its own, as all of it is theirs."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import pytest

from exemplars.store import ofd
from tests.programs import PACKAGES

pytestmark = pytest.mark.skipif(not ofd.SUPPORTED, reason="workers share on Linux only")

# What every program begins with. `page` are the samples of a page, by their line; `forked` runs a function in a child.
PRELUDE: Final = """
    import logging, os, resource, shutil, signal, subprocess, sys, threading, time
    from pathlib import Path
    from prometheus_client import REGISTRY, CollectorRegistry
    from exemplars import Counter, Gauge, Histogram, Policy, faults, metrics, render
    from exemplars.store import worker
    from exemplars.store.shared import FileRecord
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


def run(script: str, directory: Path | None = None, /, **environment: str) -> str:
    """What *script* prints, in an interpreter of its own that shares in *directory*; that it ends well."""
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


# --- forks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["os.fork", "multiprocessing", "preexec_fn"])
def test_a_forked_process_writes_into_no_file_of_its_parent_and_does_not_keep_it(way: str, tmp_path: Path) -> None:
    script = f"""
        import multiprocessing
        counter, gauge = Counter("c", "d"), Gauge("g", "d", multiprocess_mode="sum")
        counter.inc(5)
        gauge.set(2)
        own = worker._own

        def child():
            try:
                os.fstat(own.lock_fd)
                print("the lock is open")
            except OSError:
                pass
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


PRELOADED: Final = """
    # A master that belongs to no group counts in private; its workers do belong to one.
    from exemplars.store import group
    named, master = worker.directories.named, os.getpid()
    worker.directories.named = lambda: None if os.getpid() == master else named()

    counter, gauge = Counter("c", "d", ("a",)), Gauge("g", "d", multiprocess_mode="max")
    counter.labels("x").inc(7)
    gauge.set(3)
    assert worker._decided and not worker.shared()

    def child():
        counter.labels("x").inc()
        print(page("c_", "g"), flush=True)
"""


def test_numbers_from_before_the_fork_are_counted_once_and_gauges_are_kept(tmp_path: Path) -> None:
    script = """
        import threading
        reads, writes = os.pipe()
        pids = []
        for number in range(3):
            pid = os.fork()
            if not pid:
                child()
                os.read(reads, 1)
                os._exit(0)
            pids.append(pid)
            eventually(lambda: len(files()) == number + 1)
            time.sleep(0.3)
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


@pytest.mark.parametrize("seen", ["scrape", "exemplar"])
def test_a_directory_that_is_removed_is_made_anew_with_all_that_stood_in_it(seen: str, tmp_path: Path) -> None:
    script = f"""
        counter, histogram = Counter("c", "d", ("a",)), Histogram("h", "d", policy=Policy(min_retention=0.0))
        for number in range(1000):
            counter.labels(number).inc()
        histogram.observe(1, IDS)
        before = page("c_", "h_")
        (group,) = home.iterdir()
        shutil.rmtree(group)
        worker._look_at = 0.0
        if {seen!r} == "scrape":
            after = page("c_", "h_")
            assert before == after
            counter.labels("5").inc()
        else:
            histogram.observe(1, IDS)
            before["h_count"] += 1
            counter.labels("5").inc()
        assert files() == ["worker-1"]
        print(errors())
        forked(lambda: print(page("c_", "h_")['c_total{{a="5"}}'], len(page("c_")), page("h_count"), worker.workers()))
        assert errors() == {{"store": 1}}
    """
    lines = run(script, tmp_path).splitlines()
    count = 1.0 if seen == "scrape" else 2.0
    assert lines == ["{'store': 1}", f"2.0 1000 {{'h_count': {count}}} 2"]


def test_where_it_cannot_be_made_anew_pages_show_this_workers_numbers_until_it_can(tmp_path: Path) -> None:
    script = """
        logging.basicConfig()
        counter = Counter("c", "d")
        counter.inc(4)
        pages = [page("c_")]
        shutil.rmtree(home)
        home.write_text("something else")
        for _ in range(3):
            worker._retry_at = 0.0
            counter.inc()
            pages.append(page("c_"))
        assert not worker.shared() and errors()["store"] > 3
        home.unlink()
        worker._retry_at = 0.0
        counter.inc()
        pages.append(page("c_"))
        print([shown["c_total"] for shown in pages], worker.shared(), files())
    """
    printed, log = run(script, tmp_path / "made").split("\n", 1)
    assert printed == "[4.0, 5.0, 6.0, 7.0, 8.0] True ['worker-1']"
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
            assert page("c_") == {"c_total": counter.child(()).record.sum}
        assert not worker.shared() and errors()["store"] > 1
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
    # Where nothing can be read, what was read before is shown: a page must not fall.
    assert lines[:3] == [
        "{'c_total': 6.0} {'c_total': 6.0} True ['worker-1']",
        "{'c_total': 7.0}",
        "{'c_total': 7.0}",
    ]
    assert sum("numbers are in private memory" in line for line in lines) == 1


def test_without_room_a_series_counts_in_private_is_on_the_page_and_later_in_the_file(tmp_path: Path) -> None:
    script = """
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
        print(len(alone) > 50, len(shown), sorted(set(shown.values())), "store" in errors())
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        worker._retry_at = 1e-9
        again = page("h_count", "c_")
        print(again == shown, all(map(worker.is_shared, histogram.every_child())))
        forked(lambda: print(page("h_count", "c_") == shown))
    """
    lines = run(script, tmp_path).splitlines()
    assert lines == ["True 201 [1.0, 201.0] True", "True True", "True"]


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


@pytest.mark.parametrize("mode", ["min", "max", "sum", "mostrecent"])
def test_a_gauge_without_room_is_joined_to_the_others_by_its_mode(mode: str, tmp_path: Path) -> None:
    script = f"""
        gauge = Gauge("g", "d", ("a",), multiprocess_mode={mode!r})
        gauge.labels("x").set(5)
        def child():
            # A file that is full: whatever is new counts in private.
            worker.attach()
            gauge.remove("x")
            def refuse(*_):
                raise OSError("full")
            worker._own._append = refuse
            gauge.labels("x").set(2)
            assert not worker.is_shared(gauge.labels("x"))
            print(page("g")['g{{a="x"}}'])
        forked(child)
    """
    assert run(script, tmp_path) == str({"min": 2.0, "max": 5.0, "sum": 7.0, "mostrecent": 2.0}[mode])


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

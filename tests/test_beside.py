"""prometheus_client's metrics where workers share: of all of them, or not at all; never one worker's as if of all."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import pytest

from exemplars.store import ofd
from tests.programs import PACKAGES, PATIENCE, eventually, serving

pytestmark = pytest.mark.skipif(not ofd.SUPPORTED, reason="workers share on 64-bit Linux only")

GUNICORN: Final = ("gunicorn", "-w3", "-b127.0.0.1:0", "--keep-alive=0", "tests.apps.beside:wsgi")


def get(url: str) -> str:
    with urlopen(url, timeout=PATIENCE) as response:
        return str(response.read().decode())


def count_in_every_worker(url: str) -> int:
    """Have requests handled until each of the three workers has had some; how many there were."""
    requests = 0
    pids: set[str] = set()

    def all_have() -> bool:
        nonlocal requests
        requests += 1
        pids.add(get(url))
        return len(pids) == 3

    eventually(all_have, "three workers to answer", lambda: pids)
    return requests


def pages(url: str) -> set[str]:
    """What is on a number of pages, of whichever workers, but for what the scrapes themselves change."""
    return {
        "\n".join(line for line in get(url + "/metrics").splitlines() if "exemplars_plain_text_scrapes" not in line)
        for _ in range(20)
    }


def test_without_its_directory_they_are_left_out_and_the_log_says_how_to_have_them(tmp_path: Path) -> None:
    with serving("gunicorn", GUNICORN, tmp_path) as url:
        requests = count_in_every_worker(url)
        (page,) = pages(url)

    assert f"orders_total {requests}.0\n" in page
    assert "queue_length 7.0" in page, "a collector of others answers for itself"
    assert "jobs" not in page and "job_seconds" not in page and "build_info" not in page
    assert "process_" not in page and "python_" not in page
    said = [line for line in (tmp_path / "gunicorn.log").read_text().splitlines() if "left out of a page" in line]
    assert 1 <= len(said) <= 3, "once in each worker that was scraped"
    for word in ("jobs, job_seconds, build", "PROMETHEUS_MULTIPROC_DIR", "import Counter, Gauge and Histogram from"):
        assert all(word in line for line in said)


def test_with_its_directory_every_page_shows_what_all_workers_counted(tmp_path: Path) -> None:
    directory = tmp_path / "shared"
    directory.mkdir()
    with serving("gunicorn", GUNICORN, tmp_path, PROMETHEUS_MULTIPROC_DIR=str(directory)) as url:
        requests = count_in_every_worker(url)
        (page,) = pages(url)
        (restricted,) = {get(url + "/metrics?name[]=job_seconds_sum") for _ in range(10)}

    for sample in ("orders_total", "jobs_total", "job_seconds_count", "job_seconds_sum"):
        assert page.count(f"\n{sample} {requests}.0\n") == 1
    assert page.count("# TYPE jobs_total counter\n") == 1
    assert "queue_length 7.0" in page
    assert "build_info" not in page and "process_" not in page and "python_" not in page
    assert [line for line in restricted.splitlines() if line[0] != "#"] == [f"job_seconds_sum {requests}.0"]
    assert "neither Info nor Enum: build" in (tmp_path / "gunicorn.log").read_text()
    assert len(list(directory.glob("*.db"))) == 2 * 3, "its files are where it looks for them"
    assert [path.name.partition("-")[0] for path in directory.iterdir() if path.suffix != ".db"] == ["group"]


START: Final = """
import json, os, sys
from pathlib import Path
import prometheus_client as theirs
from prometheus_client import CollectorRegistry, REGISTRY
from prometheus_client.multiprocess import MultiProcessCollector
import exemplars
from exemplars import faults

directory = Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR", ""))
registry = CollectorRegistry()
ours = exemplars.Counter("ours", "Ours.", registry=registry)
ours.inc()
known = theirs.Counter("known", "In the registry.", registry=registry)
known.inc(2)
other = theirs.Gauge("other", "In the default registry.", multiprocess_mode="sum")
other.set(3)

def samples(registry=registry, **options):
    lines = exemplars.render(registry, **options)[0].decode().splitlines()
    found = [line for line in lines if line[0] != "#" and not line.startswith("exemplars_")]
    assert len(set(found)) == len(found), found
    return dict(line.rsplit(" ", 1) for line in found)
"""


def run(source: str, **environment: str) -> Any:
    """What a program, *source* after `START`, prints as JSON in its last line, with its log."""
    done = subprocess.run(
        [sys.executable, "-c", START + source],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(PACKAGES), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "log": done.stderr}


@pytest.fixture
def shared(tmp_path: Path) -> Callable[[str], Any]:
    """`run` in a process that shares its numbers in prometheus_client's directory."""
    directory = tmp_path / "shared"
    directory.mkdir()
    return lambda source: run(source, PROMETHEUS_MULTIPROC_DIR=str(directory))


def test_a_registry_shows_what_it_knows_and_the_default_one_all(shared: Callable[[str], Any]) -> None:
    told = shared("print(json.dumps({'its': samples(), 'default': samples(REGISTRY)}))")
    assert told["its"] == {"ours_total": "1.0", "known_total": "2.0"}
    assert told["default"] == {"known_total": "2.0", "other": "3.0"}
    assert "left out" not in told["log"]


def test_names_restrict_what_is_merged_and_spare_the_work(shared: Callable[[str], Any]) -> None:
    told = shared("""
found = {name: samples(names=[name]) for name in ("known", "ours")} | {"other": samples(REGISTRY, names=["other"])}
(directory / "counter_1.db").write_bytes(b"")  # to read this one would be a fault
samples(names=["ours"])
print(json.dumps(found | {"faults": faults.errors.total}))
""")
    assert (told["known"], told["other"], told["ours"]) == (
        {"known_total": "2.0"},
        {"other": "3.0"},
        {"ours_total": "1.0"},
    )
    assert told["faults"] == 0


def test_a_collector_of_theirs_that_is_registered_is_not_repeated(shared: Callable[[str], Any]) -> None:
    told = shared("MultiProcessCollector(registry); print(json.dumps(samples()))")
    assert (told["ours_total"], told["known_total"], told["other"]) == ("1.0", "2.0", "3.0")


def test_a_name_of_ours_is_ours(shared: Callable[[str], Any]) -> None:
    told = shared("""
theirs.Counter("ours", "Elsewhere.", registry=CollectorRegistry()).inc(100)
mine = exemplars.Counter("mine", "On the default registry.")
theirs.Counter("mine", "Elsewhere.", registry=CollectorRegistry()).inc(100)
mine.inc()
print(json.dumps({"its": samples(), "default": samples(REGISTRY), "faults": faults.errors.values["duplicate_family"]}))
""")
    assert told["its"]["ours_total"] == "1.0"
    assert told["default"]["mine_total"] == "1.0"
    assert told["faults"] > 0
    assert told["log"].count("duplicate_family") == 1 + told["log"].count("kind='duplicate_family'")


@pytest.mark.parametrize("content", [b"", b"\x40" + b"\0" * 3 + b"\x01" * 100], ids=["empty", "garbage"])
def test_a_broken_file_of_theirs_costs_what_is_theirs(shared: Callable[[str], Any], content: bytes) -> None:
    told = shared(f"""
before = samples()
(directory / "counter_1.db").write_bytes({content!r})
found = {{"before": before, "after": samples(), "again": samples(), "faults": faults.errors.values["collector"]}}
(directory / "counter_1.db").unlink()
print(json.dumps(found | {{"restored": samples()}}))
""")
    assert told["before"] == told["restored"] == {"ours_total": "1.0", "known_total": "2.0"}
    assert told["after"] == told["again"] == {"ours_total": "1.0"}
    assert told["faults"] == 2
    assert told["log"].count("cannot be merged from") == 1


def test_a_directory_named_too_late_is_none(tmp_path: Path) -> None:
    told = run(
        """
os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.environ["EXEMPLARS_DIR"]
print(json.dumps(samples()))
""",
        EXEMPLARS_DIR=str(tmp_path),
    )
    assert told.pop("log").count("counts in each by itself: known.") == 1
    assert told == {"ours_total": "1.0"}


def test_in_private_memory_nothing_changes() -> None:
    told = run("print(json.dumps({'its': samples(), 'default': samples(REGISTRY)}))")
    assert told["its"]["known_total"] == "2.0"
    assert told["default"]["other"] == "3.0"
    assert "python_info" in "".join(told["default"])
    assert "left out" not in told["log"]

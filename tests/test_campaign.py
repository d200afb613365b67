"""The campaign in short: what goes wrong where workers share their numbers, done to real servers under load."""

import secrets
from pathlib import Path

import pytest

from tests.faults import clock, damage, disk, forks, kills, recycles, steps, stops
from tests.faults.figures import Figures

KILLS = 60
RECYCLES = {"gunicorn --preload": 170, "gunicorn sync": 110, "uvicorn": 20}
MUTATIONS = 5_000
NOT_HERE = "not to be had here"


@pytest.fixture
def seed() -> int:
    seed = secrets.randbits(32)
    print(f"\nseed {seed}")
    return seed


@pytest.fixture
def named(tmp_path: Path) -> dict[str, str]:
    """An environment that names a directory."""
    return {"EXEMPLARS_DIR": str(tmp_path / "shared")}


def tell(figures: Figures | None) -> Figures:
    """*figures*, printed; without any the test is skipped."""
    if figures is None:
        pytest.skip(NOT_HERE)
    print(f"\n{figures}")
    return figures


@pytest.mark.parametrize("server", kills.SERVERS)
def test_nothing_counted_is_lost_and_nothing_shown_goes_back_when_workers_are_killed(
    server: str, tmp_path: Path, seed: int
) -> None:
    # What must hold of pages, requests and Prometheus is asserted where it is done; here, that it was not too easy.
    figures = tell(kills.run(server, KILLS, tmp_path, seed, {}))

    assert figures["workers killed"] == KILLS
    assert int(figures["responses completed"]) > 10 * KILLS
    assert int(figures["workers that answered them"]) > KILLS / 4
    assert int(figures["workers that answered it"]) > 2
    assert int(figures["different exemplars on them"]) > KILLS
    assert int(figures["exemplars it stored"]) > 0


@pytest.mark.parametrize("server", RECYCLES)
def test_files_memory_and_counts_stay_as_they_are_when_workers_are_recycled(
    server: str, tmp_path: Path, named: dict[str, str]
) -> None:
    figures = tell(recycles.run(server, RECYCLES[server], tmp_path, named))

    assert int(figures["workers recycled"]) >= RECYCLES[server]


@pytest.mark.parametrize(
    ("server", "steps_ms"),
    [("gunicorn sync", 3), ("gunicorn gthread", 800), ("uvicorn", 60_000), ("gunicorn sync", 10_800_000)],
)
def test_exemplars_never_go_back_in_time_though_clocks_do(
    server: str, steps_ms: int, tmp_path: Path, seed: int, named: dict[str, str]
) -> None:
    figures = tell(clock.run(server, steps_ms, 6, tmp_path, seed, named))

    assert int(figures["different exemplars on them"]) > clock.ENOUGH
    assert int(figures["exemplars it stored"]) > 0


@pytest.mark.parametrize("server", ["gunicorn sync", "uvicorn"])
def test_workers_that_stand_still_keep_nobody_from_answering(server: str, tmp_path: Path, seed: int) -> None:
    figures = tell(stops.run(server, 60, tmp_path, seed, {}))

    assert int(figures["answers of the others"]) >= 15


def test_no_state_of_a_file_shows_what_was_not_written_whole(tmp_path: Path, seed: int) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o700)
    figures = tell(steps.run(2, 20, shared, seed))

    assert int(figures["states of a file"]) >= 40
    assert int(figures["of them with half an exemplar"]) > 0


@pytest.mark.parametrize("trouble", disk.TROUBLES)
def test_requests_do_not_suffer_from_failing_storage_and_afterwards_nothing_is_missing(
    trouble: str, tmp_path: Path
) -> None:
    figures = tell(disk.run("gunicorn sync", trouble, 2.0, tmp_path))

    assert int(figures["requests while it lasted"]) > 1_000


def test_of_damaged_files_only_what_checks_is_shown(seed: int) -> None:
    figures = tell(damage.run(MUTATIONS, 5.0, seed))

    assert int(figures["mutations of files"]) == MUTATIONS
    for reason in ("format", "truncated", "record", "unreadable"):
        assert int(figures[f"files skipped as {reason}"]) > MUTATIONS / 200
    assert int(figures["of them adopted"]) > MUTATIONS / 50
    assert int(figures["of them with less"]) > 0


@pytest.mark.parametrize("server", forks.SERVERS)
def test_processes_that_requests_start_neither_write_into_files_of_workers_nor_keep_them(
    server: str, tmp_path: Path
) -> None:
    tell(forks.run(server, 1, tmp_path, {}))

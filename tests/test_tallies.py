"""The plain counters of what the library does: every bump counts, and whoever shares them is told."""

import threading

import pytest

from exemplars import tallies
from exemplars._lock import held
from exemplars.tallies import Tally
from tests.interruptions import every_moment, interrupted


@pytest.fixture
def tally(monkeypatch: pytest.MonkeyPatch) -> Tally:
    """One that does not stay in the list of all."""
    monkeypatch.setattr(tallies, "ALL", [])
    return Tally("t", "d", "kind", ("known",))


def test_a_bump_adds_one_to_its_label_value_and_tells_the_number(tally: Tally) -> None:
    assert [tally.bump("known"), tally.bump("known"), tally.bump("new")] == [1, 2, 1]
    assert tally.values == {"known": 2, "new": 1}
    assert tally.total == 3
    assert tallies.ALL == [tally]


def test_one_without_label_has_one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "ALL", [])
    tally = Tally("t", "d")
    assert (dict(tally.values), tally.bump(), tally.total) == ({"": 0}, 1, 1)


def test_one_that_is_cleared_begins_at_0_with_the_label_values_it_had(tally: Tally) -> None:
    tally.bump("new")
    values = tally.values
    tally.clear()
    assert tally.values == {"known": 0, "new": 0}
    assert values == {"known": 0, "new": 1}, "who still has them sees them whole"


def test_whoever_shares_is_told_of_each_change_under_the_lock(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Tally, str, int, bool]] = []
    monkeypatch.setattr(tallies, "changed", lambda of, value: told.append((of, value, of.values[value], held())))
    tally.bump("known")
    tally.bump("new")
    tally.bump("known")
    assert told == [(tally, "known", 1, True), (tally, "new", 1, True), (tally, "known", 2, True)]


def test_threads_that_bump_at_once_lose_nothing(tally: Tally) -> None:
    barrier = threading.Barrier(4)

    def bump() -> None:
        barrier.wait()
        for number in range(2000):
            tally.bump(str(number % 3))

    threads = [threading.Thread(target=bump) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.total == 8000


@pytest.mark.parametrize("value", ["known", "new"])
def test_a_signal_handler_that_bumps_in_the_middle_loses_nothing(tally: Tally, value: str) -> None:
    moments = list(every_moment(lambda: tally.bump(value)))
    assert moments
    for number, moment in enumerate(moments):
        if value == "new":
            tally.values.pop(value)
        else:
            tally.clear()
        came_in = interrupted(lambda: tally.bump(value), lambda: tally.bump(value), at=moment)
        assert came_in >= moment, number
        assert tally.values[value] == 2, moment

"""The campaign in short: dots of the whole shop open their traces, whoever is killed, and what is lost is what is said.

At length it is `python -m tests.stack.campaign`; its figures are in `summary.txt`.
"""

from pathlib import Path

from tests.faults.figures import Tell
from tests.stack import killing, losing, opening

REQUESTS = 10_000
KILLS = 6


def test_every_dot_of_ours_opens_its_trace_whole_with_its_log_lines(tmp_path: Path, tell: Tell) -> None:
    # What must hold of each dot is asserted where it is asked; here, that it was not too easy.
    figures = opening.opened(tmp_path, REQUESTS, rate=45)
    tell(figures)

    assert int(figures["requests answered"]) >= REQUESTS
    assert int(figures["of them 5xx"]) > 10
    assert int(figures["of them 4xx"]) > 10
    (ours,) = {figures[name] for name in figures if " dots of front open" in name or " dots of stock open" in name}
    assert ours == "100.0 %"
    assert int(figures["traces decided"]) > REQUESTS * 0.9
    assert int(figures["traces kept"]) < int(figures["traces decided"]) / 2, "or any dot would open"


def test_a_killed_worker_costs_dots_of_its_last_moment_only(tmp_path: Path, tell: Tell) -> None:
    figures = killing.killed(tmp_path, KILLS, pause=1.5, calm=200, rate=25)
    tell(figures)

    assert figures["workers killed"] == KILLS
    for job in ("front", "stock"):
        assert figures[f"dead dots of {job} that a scrape after the kill brought"] == 0
    assert int(figures["dots since then, all of which open"]) > 10


def test_a_mark_is_in_vain_only_where_a_decision_fell_before_it(tmp_path: Path, tell: Tell) -> None:
    tell(losing.late(tmp_path))


def test_who_did_not_sample_gets_no_dot_and_a_trace_that_began_elsewhere_opens(tmp_path: Path, tell: Tell) -> None:
    tell(losing.parents(tmp_path, 200))

"""Broken on purpose: a part of the chain is away, and the application does not notice; what is seen, is written down.

In `docs/troubleshooting.md`. The Collector is away for a minute each time in `python -m tests.stack.campaign away`.
"""

from pathlib import Path

from tests.faults.figures import Tell
from tests.stack import broken, filling, middle


def test_without_a_collector_requests_are_unharmed_and_afterwards_every_dot_opens(tmp_path: Path, tell: Tell) -> None:
    figures = tell(broken.collector_away(tmp_path))

    for by in ("SIGTERM", "SIGKILL"):
        assert int(figures[f"{by}: lines of ours, {broken.TRIES_AGAIN!r}"]) > 0, "and nothing says so"
    assert figures["SIGSTOP: workers whose export call hung"] == 4
    lost = figures["between, and SIGKILL is next: dots that are dead"]
    assert int(lost) > 0, "a killed Collector forgets what waits, or it is not asked for what was killed"


def test_a_full_disk_of_tempo_is_told_by_its_log_alone(tmp_path: Path, tell: Tell) -> None:
    figures = tell(filling.filled(tmp_path))

    assert figures["full: spans that the Collector could not send"] == 0
    assert figures["full: spans that wait in the Collector"] == 0


def test_a_service_without_an_sdk_is_a_gap_or_an_end(tmp_path: Path, tell: Tell) -> None:
    figures = tell(middle.without_sdk(tmp_path))

    for route in ("/products/{product}", "/stock/<product>"):
        assert figures[f"dots of {route}: whose trace has both services"] == figures[f"dots of {route}, which all open"]
    for route in ("/reports/{year}", "/movements/<month>"):
        assert figures[f"dots of {route}: whose trace has both services"] == 0

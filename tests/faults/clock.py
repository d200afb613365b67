"""Wall clocks that step to and fro, in each worker by itself: what is shown never goes back in time."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.faults import counting
from tests.faults.figures import Figures
from tests.faults.kills import kill
from tests.faults.load import Load
from tests.faults.pages import Rules
from tests.faults.scraping import Scraper, judge, settled, stored, watched
from tests.faults.servers import COMMANDS, WORKERS, running
from tests.programs import eventually

# Milliseconds by which a clock may be off: what clock services correct, what somebody sets by hand, another time zone.
STEPS_MS: Final = (3, 800, 60_000, 10_800_000)
ENOUGH: Final = 10  # different exemplars, of which more are to be shown before it ends
_MAX_AGE: Final = 2.0  # seconds: exemplars vanish while older ones of other workers are there


def run(name: str, steps_ms: int, kills: int, directory: Path, seed: int, environment: Mapping[str, str]) -> Figures:
    """Let clocks step by up to *steps_ms* until *kills* workers were killed, a few at a time.

    A killed worker's file goes to one whose clock is another. Raises ``AssertionError`` when anything goes back.
    """
    scrapes = directory / "scrapes"
    clocks = {"CLOCK_STEPS_MS": str(steps_ms), "MAX_AGE": str(_MAX_AGE)}
    with (
        running(COMMANDS[name], directory, environment={**environment, **clocks, "SCRAPES": str(scrapes)}) as server,
        watched(server, directory) as prometheus,
    ):
        load = Load(server.host, server.port, pause=0.005)
        rules = Rules(load)
        scraper = Scraper(server, rules.check, most_files=WORKERS, pause=0.01)
        with load.going_on(), scraper.going_on():
            prometheus.scraped("campaign", times=4)
            killed, _ = kill(server, rules, scraper, kills, random.Random(seed))
            prometheus.scraped("campaign", times=8)
            eventually(lambda: len(rules.exemplars) > ENOUGH, "different exemplars", lambda: rules.exemplars)
            eventually(lambda: stored(prometheus), "an exemplar in Prometheus", lambda: server.log[-3000:])
        last = settled(server, WORKERS, rules.check)
        found = Figures({"workers killed": len(killed)})
        found.add(counting.check(rules, last, killed))
        found.add(judge(prometheus, scrapes))
        return found

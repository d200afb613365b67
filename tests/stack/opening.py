"""Every dot of ours opens its trace: the whole shop under load, and every dot asked; an AssertionError where not."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from exemplars import semconv
from tests.faults.figures import Figures
from tests.programs import eventually
from tests.stack.dots import NO_TRACE, PROMISED, Judge, Verdict, counted, dots, found
from tests.stack.keeping import kept, percent
from tests.stack.shop import OURS, SERVICES, Shop, shop

PROMISE: Final = 10.0  # seconds after the decision wait, from when on a dot opens
FAILURES: Final = ("ailures", "vailability")  # in the names of panels for which the risk service has nothing
EVERYTHING: Final = f"{semconv.DURATION}_bucket"
OF_SPANS: Final = "traces_spanmetrics_duration_seconds_bucket"
SHOWN: Final = 10  # verdicts in a message


def judge_of(running: Shop) -> Judge:
    urls = {name: service.url for name, service in running.services.items()}
    return Judge(running.tempo, urls, OURS, running.loki)


def settle(running: Shop) -> float:
    """Let the promise's time pass for every dot that there is; the moment before which these were taken."""
    last = time.time()
    for job in SERVICES:
        running.prometheus.server.scraped(job, 2)  # the second began after that moment
    time.sleep(max(0.0, last + running.wait + PROMISE - time.time()))
    return last


def shown(verdicts: Iterable[Verdict]) -> str:
    return "\n".join(map(str, list(verdicts)[:SHOWN]))


def opened(directory: Path, requests: int, rate: float, seed: int = 1) -> Figures:
    """The shop under *rate* requests a second, more in spikes, until *requests* are answered; then every dot is asked.

    Of ours each one opens its trace, with its mark or error, whole, and with the log lines of all services. How many of
    the others' open one is counted; what of theirs is kept, is whole, too.
    """
    with shop(directory) as running:
        began = time.monotonic()
        with running.customers(rate, seed) as customers:
            customers.until(requests)
        took = time.monotonic() - began
        last = settle(running)
        figures = Figures({"requests answered": customers.answered, "of them a second": customers.answered / took})
        figures |= {f"of them {first}xx": customers.outcomes[first] for first in "245"}
        asked = dots(running.prometheus.server, running.start, last)
        for target, there in asked.items():
            expected = set(SERVICES) - ({"risk"} if any(word in str(target) for word in FAILURES) else set())
            assert {dot.job for dot in there} >= expected, f"{target} has dots of {sorted({dot.job for dot in there})}"
        figures["queries that promise dots"] = len(PROMISED)
        every = {dot for there in asked.values() for dot in there}
        judge = judge_of(running)
        verdicts = judge.judged(every)
        figures |= shares(verdicts)
        late = [verdict.dot for verdict in verdicts if verdict.dot.job in OURS and verdict.wrong]
        figures["dots of ours that opened later than promised"] = len(late)

        def closed() -> list[Verdict]:
            """Nothing that was thrown away comes back: waiting makes no dead dot a good one."""
            return [verdict for verdict in judge.judged(late) if verdict.wrong]

        eventually(lambda: not closed(), "every dot of ours to open", lambda: shown(closed()))
        odd = [v for v in verdicts if v.dot.job not in OURS and {what for what, _ in v.wrong} - {NO_TRACE}]
        assert not odd, shown(odd)
        of_spans = judge.judged(found(running.prometheus.server, OF_SPANS, running.start, last, "service_name"))
        # Those of our services have marks where they happen to be dots of ours as well.
        opening = sum(not verdict.is_dead for verdict in of_spans)
        figures[f"of {len(of_spans):,} dots of the Collector's span metrics open their trace"] = percent(
            opening, len(of_spans)
        )
        figures |= kept(running.collector, running.tempo, running.start, time.time())
        figures["traces whose lines were looked for in Loki"] = len({v.dot.trace_id for v in verdicts if not v.is_dead})
    return figures


def shares(verdicts: Iterable[Verdict]) -> Figures:
    """How many dots of each service open their trace."""
    figures = Figures()
    for job in SERVICES:
        figures |= share(job, [verdict for verdict in verdicts if verdict.dot.job == job])
    return figures


def share(name: str, verdicts: list[Verdict]) -> Figures:
    whole = sum(not verdict.wrong for verdict in verdicts)
    text = f"of {len(verdicts):,} dots of {name} open their trace, whole, with its lines"
    figures = Figures({text: percent(whole, len(verdicts))})
    figures.update({f"dots of {name}: {what}": number for what, number in counted(verdicts).items()})
    return figures

"""What still gets lost, measured: marks that come too late, a Collector's end, its overload, and parents elsewhere."""

import re
import signal
import time
from pathlib import Path
from typing import Any, Final

from exemplars.options import DEFAULT_MARKS_PER_SECOND
from tests.faults.figures import Figures
from tests.stack.dots import NOT_WHOLE, Verdict, counted
from tests.stack.keeping import kept, percent
from tests.stack.lean import Lean, lean
from tests.stack.opening import shown
from tests.stack.process import text

LONG: Final = 30  # requests, each of a route of its own, so that each is a dot


def rates(directory: Path, rate: float, duration: float, workers: int = 2) -> Figures:
    """What is kept at *rate* requests a second for so many seconds; every dot opens."""
    with lean(directory, workers=workers) as running:
        with running.load(rate) as sent:
            time.sleep(duration)
        last = running.settle()
        verdicts = running.judged(last)
        wrong = [verdict for verdict in verdicts if verdict.wrong]
        assert not wrong, shown(wrong)
        assert not sent.broken, sent.broken[:3]
        figures = Figures({"requests a second": sent.answered / sent.seconds, "requests": sent.answered})
        figures["uvicorn workers"] = workers
        figures[f"of {len(verdicts):,} dots open their trace"] = percent(len(verdicts), len(verdicts))
        marked = own(running, "exemplars_marked_total")
        figures["marks a second, of all workers"] = marked / sent.seconds
        figures["marks refused a second"] = own(running, "exemplars_marks_refused_total") / sent.seconds
        figures |= kept(running.collector, running.tempo, running.start, time.time())
    return figures


def own(running: Lean, name: str) -> float:
    """What the application says of itself."""
    page = text(f"http://{running.server.address('HTTP')}/metrics", "application/openmetrics-text")
    return sum(map(float, re.findall(rf"(?m)^{name}(?:{{.*}})? (\S+)$", page)))


def late(directory: Path) -> Figures:
    """Requests that take longer than the decision wait, by which of their spans end before it is over."""
    figures = Figures()
    kinds = (("none", 0), ("one of a quarter of a second", 1), ("some over two seconds", 8))
    with lean(directory) as running:
        ms = (running.wait + 4) * 1000
        # Each of a route of its own, so that each is a dot.
        paths = [f"/{early}/{number}?ms={ms}&early={early}" for _, early in kinds for number in range(LONG)]
        running.send(paths, DEFAULT_MARKS_PER_SECOND)  # whichever worker they come to, there is a mark for each
        every = running.judged(running.settle())
    for said, early in kinds:
        verdicts = [verdict for verdict in every if verdict.dot.route.startswith(f"/{early}/")]
        assert len(verdicts) > LONG / 2
        figures |= dead(f"of requests longer than the decision wait, spans that end within it: {said}", verdicts)
        if early == 1:
            assert sum(verdict.is_dead for verdict in verdicts) > len(verdicts) / 2, (
                "what is said of this is no longer true"
            )
        else:  # what had come was marked, or slow
            assert not any(verdict.wrong for verdict in verdicts), shown(verdicts)
    return figures


def dead(said: str, verdicts: list[Verdict]) -> Figures:
    number = sum(verdict.is_dead for verdict in verdicts)
    figures = Figures({f"of {len(verdicts):,} dots {said}, dead": percent(number, len(verdicts))})
    figures.update({f"{said}: dots with {what}": count for what, count in sorted(counted(verdicts).items())})
    return figures


def restarts(directory: Path, times: int, pause: float, rate: float, by: signal.Signals) -> Figures:
    """The Collector ended *times* times under load, and started again at once."""
    with lean(directory) as running:
        with running.load(rate) as sent:
            time.sleep(pause)
            for _ in range(times):
                running.collector.stop(by)
                running.collector.start()
                time.sleep(pause)
        last = running.settle()
        verdicts = running.judged(last)
        figures = Figures({f"ends of the Collector by {by.name}": times, "requests": sent.answered})
        figures["requests that failed"] = len(sent.broken)
        figures |= dead(f"around {by.name}", verdicts)
        figures[f"dead dots for each {by.name}"] = f"{sum(v.is_dead for v in verdicts) / times:.1f}"
        if by is signal.SIGTERM:
            assert not sent.broken
    return figures


def overload(directory: Path, rate: float, duration: float, **variables: Any) -> Figures:
    """A Collector that has too little of something, by *variables*."""
    with lean(directory, **variables) as running:
        with running.load(rate) as sent:
            time.sleep(duration)
        last = running.settle()
        verdicts = running.judged(last)
        figures = Figures({"requests a second": sent.answered / sent.seconds, "requests that failed": len(sent.broken)})
        page = running.collector.own_metrics()
        for said, name in (
            ("spans refused", "otelcol_receiver_refused_spans"),
            ("spans accepted", "otelcol_receiver_accepted_spans"),
            ("traces decided before their time", "otelcol_processor_tail_sampling_sampling_trace_dropped_too_early"),
        ):
            figures[said] = int(sum(map(float, re.findall(rf"(?m)^{name}(?:{{.*}})? (\S+)$", page))))
        figures |= dead("under overload", verdicts)
        assert not sent.broken, sent.broken[:3]
    return figures


def parents(directory: Path, requests: int) -> Figures:
    """Callers that did not sample, and callers that did and send their spans elsewhere."""
    with lean(directory) as running:
        for name, flags in (("unsampled", "00"), ("elsewhere", "01")):
            paths = [f"/{name}/{number % LONG}" for number in range(requests)]
            sent = running.send(paths, 100, f"00-*-{'1' * 16}-{flags}")
            assert sent.answered == requests
        verdicts = running.judged(running.settle())
    none = [verdict for verdict in verdicts if verdict.dot.route.startswith("/unsampled/")]
    assert not none, f"exemplars of traces that nobody has: {shown(none)}"
    assert len(verdicts) >= LONG / 2
    assert all({what for what, _ in verdict.wrong} == {NOT_WHOLE} for verdict in verdicts), shown(verdicts)
    figures = Figures({f"dots of {requests:,} requests whose caller did not sample": len(none)})
    figures |= dead("whose caller sampled and sends its spans elsewhere", verdicts)
    return figures

"""Does a dot open its trace, whole, with its log lines? What Grafana would find, asked of the real programs.

`dots` is every exemplar that `query_exemplars` returns for the queries of the dashboards that promise some; `Judge`
follows each as a click does, into Tempo and from there into Loki.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from exemplars import semconv
from tests.boards import TARGETS, Target
from tests.programs import Prometheus
from tests.stack.running import Loki, Tempo

PROMISED: Final = [target for target in TARGETS if target.source == "prometheus" and target.exemplar]
AROUND: Final = 60.0  # seconds before and after a dot in which the lines of its trace are looked for
AT_ONCE: Final = 4  # questions
# What is wrong with a dot, the worst first.
NO_TRACE: Final = "no trace"
NO_SPAN: Final = "a trace without its span"
NO_MARK: Final = "neither mark nor error on its span"
NOT_WHOLE: Final = "a trace with a span missing"
NO_LINES: Final = "no log lines of a service"
DEAD: Final = (NO_TRACE, NO_SPAN)


@dataclass(frozen=True)
class Dot:
    """An exemplar as Prometheus has it; *time* in seconds since the epoch."""

    job: str
    trace_id: str
    span_id: str
    time: float
    route: str

    def __str__(self) -> str:
        return f"{self.job} {self.time:.3f} trace {self.trace_id} span {self.span_id}"


def found(prometheus: Prometheus, query: str, start: float, end: float, service: str = "job") -> set[Dot]:
    """The dots of *query* between two times; *service* is the label that names whose they are."""
    return {
        Dot(
            series[service],
            one["labels"][semconv.TRACE_ID],
            one["labels"][semconv.SPAN_ID],
            one["timestamp"],
            series.get(semconv.ROUTE, ""),
        )
        for one in prometheus.exemplars(query, start, end)
        for series in (one["series"],)
    }


def dots(prometheus: Prometheus, start: float, end: float) -> dict[Target, set[Dot]]:
    """What each query of the dashboards that promises dots has between two times, of all services."""
    return {target: found(prometheus, target.asked(), start, end) for target in PROMISED}


@dataclass(frozen=True)
class Verdict:
    """What is wrong with one dot; nothing, where it opens its trace, whole, with its mark and its log lines."""

    dot: Dot
    wrong: tuple[tuple[str, str], ...]  # what, one of the texts above, and where

    @property
    def is_dead(self) -> bool:
        """Whether a click on it shows nothing of its request."""
        return any(what in DEAD for what, _ in self.wrong)

    def __str__(self) -> str:
        return f"{self.dot}: " + "; ".join(f"{what} {where}".strip() for what, where in self.wrong)


class Judge:
    """Asks *tempo* and, if given, *loki*.

    *urls* are of the services that traces go through, by name; *marking* are those which mark what they show.
    """

    def __init__(
        self, tempo: Tempo, urls: Mapping[str, str], marking: Collection[str], loki: Loki | None = None
    ) -> None:
        self._tempo = tempo
        self._urls = urls
        self._marking = marking
        self._loki = loki

    def judged(self, dots: Iterable[Dot]) -> list[Verdict]:
        """What is wrong with each of *dots*, in the order of their times."""
        ordered = sorted(dots, key=lambda dot: (dot.time, dot.span_id))
        traces = self._each(self._tempo.trace, {dot.trace_id for dot in ordered})
        opened = {dot.trace_id: dot.time for dot in ordered if traces[dot.trace_id]}
        lines = self._each(lambda trace_id: self._lines(trace_id, opened[trace_id]), opened)
        return [
            Verdict(dot, tuple(self._wrong(dot, traces[dot.trace_id], lines.get(dot.trace_id, [])))) for dot in ordered
        ]

    def _each(self, ask: Callable[[str], list[dict[str, Any]]], ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        ids = list(ids)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip(ids, pool.map(ask, ids), strict=True))

    def _lines(self, trace_id: str, time: float) -> list[dict[str, Any]]:
        if self._loki is None:
            return []
        query = f'{{service_name=~".+"}} | {semconv.TRACE_ID}="{trace_id}"'
        return self._loki.lines(query, time - AROUND, time + AROUND)

    def _wrong(self, dot: Dot, spans: list[dict[str, Any]], lines: list[dict[str, Any]]) -> Iterable[tuple[str, str]]:
        if not spans:
            yield NO_TRACE, ""
            return
        own = next((span for span in spans if span["spanId"] == dot.span_id), None)
        if own is None:
            yield NO_SPAN, ""
        elif own["service"] != dot.job:
            yield NO_SPAN, f"but one of {own['service']}"
        elif dot.job in self._marking and not is_marked(own) and not is_error(own):
            yield NO_MARK, ""
        yield from ((NOT_WHOLE, where) for where in missing(spans, self._urls))
        if self._loki is not None:
            yield from ((NO_LINES, where) for where in silent(spans, lines))


def is_marked(span: Mapping[str, Any]) -> bool:
    return bool(span["attributes"].get(semconv.MARK) == semconv.MARK_VALUE)


def is_error(span: Mapping[str, Any]) -> bool:
    return bool(span.get("status", {}).get("code") == "STATUS_CODE_ERROR")


def missing(spans: list[dict[str, Any]], urls: Mapping[str, str]) -> Iterable[str]:
    """What a trace lacks: the parent of a span, or, of a call to a service at one of *urls*, the span of its answer."""
    ids = {span["spanId"] for span in spans}
    answered = {(span["parentSpanId"], span["service"]) for span in spans if span["kind"] == "SPAN_KIND_SERVER"}
    for span in spans:
        if span["parentSpanId"] and span["parentSpanId"] not in ids:
            yield f"above {span['name']} of {span['service']}"
        if span["kind"] == "SPAN_KIND_CLIENT":
            called = span["attributes"].get("url.full", "")
            to = next((name for name, url in urls.items() if called.startswith(f"{url}/")), None)
            if to is None:
                yield f"of whoever is at {called!r}"
            elif (span["spanId"], to) not in answered:
                yield f"of {to}, asked by {span['service']}"


def silent(spans: list[dict[str, Any]], lines: list[dict[str, Any]]) -> Iterable[str]:
    """The services of a trace that have no line of a request that they served.

    Every service of the shop writes at least one for each request it serves, and always in a span of its own: that of
    the request or one below it. What a client logs of a call is in its own span, so it stands for no other service.
    """
    written = {(line["labels"].get("service_name"), line["labels"].get(semconv.SPAN_ID)) for line in lines}
    for span in spans:
        if span["kind"] == "SPAN_KIND_SERVER":
            below = of_the_same_request(span, spans)
            if not any((span["service"], one) in written for one in below):
                yield f"{span['service']}, {span['name']}"


def of_the_same_request(server: Mapping[str, Any], spans: list[dict[str, Any]]) -> set[str]:
    """The ids of a server span and of those below it in its own service."""
    ids = {str(server["spanId"])}
    while (
        more := {
            span["spanId"]
            for span in spans
            if span["parentSpanId"] in ids
            and span["service"] == server["service"]
            and span["kind"] != "SPAN_KIND_SERVER"
        }
        - ids
    ):
        ids |= more
    return ids


def counted(verdicts: Iterable[Verdict]) -> Counter[str]:
    """How many dots have what wrong with them, each counted by its worst."""
    order = (NO_TRACE, NO_SPAN, NO_MARK, NOT_WHOLE, NO_LINES)
    return Counter(min((what for what, _ in verdict.wrong), key=order.index) for verdict in verdicts if verdict.wrong)

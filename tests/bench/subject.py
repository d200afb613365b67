"""What stands in a row for requests, the requests it gets, and the proof that it recorded them."""

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from opentelemetry import trace
from opentelemetry.context import Context
from prometheus_client.registry import Collector

from .spans import SpanKind, Spans, current

App = Callable[..., Any]
Request = dict[str, Any]
Jobs = Sequence[tuple[App, Request, Context]]

BARE = "bare"


class Setting(NamedTuple):
    """One cell of the matrix."""

    app: str
    routes: int
    span: SpanKind

    def __str__(self) -> str:
        return f"{self.app}, {self.routes} route{'s' * (self.routes > 1)}, span {self.span}"


@dataclass(frozen=True)
class Recorded:
    """What a contender's metrics say: requests counted, routes told apart, trace ids shown."""

    requests: int
    routes: frozenset[str]
    trace_ids: frozenset[str]


def read(collectors: Iterable[Collector], sample: str, route: str = "") -> Recorded:
    """Read what was recorded from the samples named *sample*, with their label *route*."""
    requests, routes, trace_ids = 0.0, set[str](), set[str]()
    for collector in collectors:
        for family in collector.collect():
            for each in family.samples:
                if each.name == sample:
                    requests += each.value
                    routes.add(each.labels.get(route, ""))
                if each.exemplar:
                    trace_ids.add(each.exemplar.labels["trace_id"])
    return Recorded(round(requests), frozenset(routes), frozenset(trace_ids))


JUDGED_FROM: Final = 2000  # timed requests


@dataclass(frozen=True)
class Subject:
    """
    A contender: the application as it serves with it, and how to read what it *recorded* (None: it shall not record).

    *apps* are served in turn, one for each round of all routes; several where each request shall meet a metric
    that was not used for a while. *routes* and *exemplars* say what to expect of its metrics; *filled* that every
    route shall show an exemplar before it is timed; *own_spans* that it starts its spans itself, so that none is
    made current around it. *taken* counts the exemplars taken so far, in the whole process: the *share* of requests
    that made one is between these.
    """

    name: str
    apps: Sequence[App]
    recorded: Callable[[], Recorded] | None = None
    routes: bool = True
    exemplars: bool = False
    filled: bool = False
    own_spans: bool = False
    taken: Callable[[], int] = lambda: 0
    share: tuple[float, float] = (0.0, 0.0)


class Interface(Protocol):
    """ASGI or WSGI: what a request looks like, and how an application is driven without a server."""

    def request(self, number: int) -> Request:
        """The request for the route of that *number*."""

    def drive(self, jobs: Jobs) -> float:
        """Serve the *jobs*, each with its context current; return the seconds this took."""

    def answer(self, app: App, request: Request) -> object:
        """All that *app* answers to *request*, to be compared."""


class NotRecordedError(Exception):
    """A contender that does not do its work can't be compared."""


@dataclass
class Stream:
    """The requests that one contender gets."""

    subject: Subject
    setting: Setting
    interface: Interface
    spans: Spans
    block: int
    sent: int = 0
    timed: int = 0
    taken: int = 0
    trace_ids: set[str] = field(default_factory=set)

    def warm_up(self) -> None:
        """Serve a block of requests, and remember their traces."""
        spans = self.spans.start(self.block)
        self.trace_ids |= {f"{span.get_span_context().trace_id:032x}" for span in spans}
        self._serve(spans)

    def seconds(self) -> float:
        """Serve a block of requests; return the seconds of one."""
        taken = self.subject.taken()
        seconds = self._serve(self.spans.start(self.block))
        self.taken += self.subject.taken() - taken
        self.timed += self.block
        return seconds / self.block

    def _serve(self, spans: Sequence[trace.Span]) -> float:
        jobs = [self._job(self.sent + number, span) for number, span in enumerate(spans)]
        gc.collect()  # else the first to leave garbage would pay for looking through these
        seconds = self.interface.drive(jobs)
        self.sent += len(jobs)
        for span in spans:
            span.end()
        return seconds

    def _job(self, number: int, span: trace.Span) -> tuple[App, Request, Context]:
        turn, route = divmod(number, self.setting.routes)
        app = self.subject.apps[turn % len(self.subject.apps)]
        return app, self.interface.request(route), Context() if self.subject.own_spans else current(span)

    def answer(self) -> object:
        """What the first of the applications answers to the first request."""
        answer = self.interface.answer(self.subject.apps[0], self.interface.request(0))
        self.sent += 1
        return answer

    def recorded(self) -> Recorded:
        return self.subject.recorded() if self.subject.recorded else Recorded(self.sent, frozenset(), frozenset())

    def check_count(self) -> None:
        """Raise NotRecordedError unless each request sent was counted once and made exemplars as expected."""
        counted = self.recorded().requests
        if counted != self.sent:
            raise NotRecordedError(f"{self.subject.name} ({self.setting}): {self.sent} sent, {counted} counted")
        low, high = self.subject.share
        # Of a few requests chance decides how many are slower than what their bucket shows.
        judged = high == 0.0 or self.timed >= JUDGED_FROM
        if judged and not low * self.timed <= self.taken <= high * self.timed:
            raise NotRecordedError(
                f"{self.subject.name} ({self.setting}): {self.timed} requests, {self.taken} exemplars taken"
            )

    def check_labels(self) -> None:
        """Raise NotRecordedError unless the routes are told apart and the exemplars are sampled traces of ours."""
        subject, recorded = self.subject, self.recorded()
        problem = ""
        if subject.recorded and subject.routes and len(recorded.routes) != self.setting.routes:
            problem = f"{self.setting.routes} routes, recorded: {sorted(recorded.routes)}"
        elif subject.exemplars and self.setting.span == "sampled":
            wanted = self.setting.routes if subject.filled else 1
            if len(recorded.trace_ids) < wanted:
                problem = f"{wanted} exemplars wanted, shown: {len(recorded.trace_ids)}"
            elif not recorded.trace_ids <= self.trace_ids:
                problem = f"exemplars of no span that was current: {sorted(recorded.trace_ids - self.trace_ids)}"
        elif recorded.trace_ids:
            problem = f"exemplars without a sampled span: {sorted(recorded.trace_ids)}"
        if problem:
            raise NotRecordedError(f"{subject.name} ({self.setting}): {problem}")

"""Parts of the chain taken away under load: what the application does meanwhile, what the dots do, what is said where.

Nothing is judged by how long it took: answers are compared with those that each request has, and what does not wait is
shown by what is answered while the other provably stands still. Durations are figures.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from exemplars import semconv
from tests.faults.figures import Figures
from tests.programs import eventually
from tests.stack.asking import Asking, Wish, asking, unharmed
from tests.stack.dots import Dot, Verdict, found
from tests.stack.opening import EVERYTHING, PROMISE, judge_of, shown
from tests.stack.shop import OURS, SERVICES, Service, Shop, shop

GIVES_UP: Final = 10.0  # seconds after which an exporter drops what it could not send (OTEL_EXPORTER_OTLP_TIMEOUT)
MEANWHILE: Final = 45  # requests, far more than there are processes to serve them
# What Python's exporter says, and what each means.
TRIES_AGAIN: Final = "Transient error"
DROPS: Final = "Failed to export spans batch"
NO_ROOM: Final = "Queue full, dropping"


def wishes(running: Shop) -> list[Wish]:
    """Of every route of the shop, and of every way it answers."""
    front = running.front.url
    bill = json.dumps({"order": "kettle-1", "customer": "customer-1", "amount": 20})
    return [
        Wish("GET", f"{front}/products/kettle", frozenset({200})),
        Wish("GET", f"{front}/products/wardrobe", frozenset({200})),
        Wish("GET", f"{front}/products/unicorn", frozenset({404})),
        Wish("GET", f"{front}/search?words=red+kettle", frozenset({200})),
        Wish("POST", f"{front}/products/mirror/orders?pieces=1", frozenset({500})),
        Wish("GET", f"{front}/reports/2020", frozenset({200})),
        Wish("POST", f"{running.payment.url}/payments", frozenset({201}), bill),
        # Cards are declined, and the shop has its bugs: by the number of the order.
        Wish("POST", f"{front}/products/lamp/orders?pieces=1", frozenset({201, 402, 500})),
    ]


@dataclass(frozen=True)
class Phase:
    """A time that something was away, or not."""

    name: str
    start: float
    end: float


class Course:
    """What happens one after the other: each `phase` lasts as long as its block."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.time()
        yield
        self.phases.append(Phase(name, start, time.time()))

    def of(self, moment: float) -> str:
        return next((phase.name for phase in self.phases if phase.start <= moment < phase.end), "between")


def said(service: Service, text: str) -> int:
    """How often *service* has logged *text*."""
    return service.log.read_text(errors="replace").count(text)


def waiting(workers: Iterable[int], port: int) -> dict[int, str]:
    """Of *workers*, those who have sent to *port* of this machine what is not read yet: pid and connection."""
    unread = {}
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = row.split()
        if int(local.split(":")[1], 16) == port and int(queues.split(":")[1], 16) > 0:
            unread[remote] = local
    sockets = {}
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, _, _, _, _, _, inode, *_ = row.split()
        if local in unread and int(remote.split(":")[1], 16) == port:
            sockets[f"socket:[{inode}]"] = local
    hanging = {}
    for pid in workers:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            if (target := os.readlink(descriptor)) in sockets:
                hanging[pid] = sockets[target]
    return hanging


def stands_still(running: Shop, asked: Asking) -> Figures:
    """With the Collector stopped, every worker of ours has an export call that does not return, and all answer.

    So no request waits for one: the same calls stand where they stood when all requests of meanwhile are answered.
    """
    workers = {pid for name in OURS for pid in running.services[name].workers()}
    port = running.collector.ports["HTTP"]

    def once() -> Figures | None:
        before, since, first = waiting(workers, port), time.monotonic(), len(asked.answers)
        if set(before) != workers:
            return None
        asked.more(MEANWHILE)
        asked.all_of_now()
        if waiting(workers, port) != before:  # one has given up, as after `GIVES_UP` each does
            return None
        answered = len(asked.answers) - first
        return Figures(
            {
                "SIGSTOP: workers whose export call hung": len(before),
                "SIGSTOP: requests answered while these very calls hung": answered,
                "SIGSTOP: seconds that they hung at least": time.monotonic() - since,
            }
        )

    return eventually(once, "requests to be answered while the same export call of every worker hangs")


def page(service: Service) -> list[Sample]:
    """All samples of its page, which has to be whole."""
    families = text_string_to_metric_families(service.page())  # type: ignore[no-untyped-call]
    return [sample for family in families for sample in family.samples]


def total(samples: Iterable[Sample], name: str) -> int:
    return int(sum(sample.value for sample in samples if sample.name == name))


def collector_away(directory: Path, outage: float = 0.0, **variables: Any) -> Figures:
    """The Collector ended by SIGTERM, killed, and stopped, for *outage* seconds each time or just as long as it takes.

    Then Prometheus is ended and killed, too. *variables* are those of `shop`.
    """
    course = Course()
    with shop(directory, **variables) as running:
        collector = running.collector
        figures = Figures()

        def away(name: str, end: Callable[[], object], back: Callable[[], object], least: Callable[[], object]) -> None:
            before = {text: told(running, text) for text in (TRIES_AGAIN, DROPS, NO_ROOM)}
            with course.phase(name):
                until = time.monotonic() + outage
                end()
                least()
                for service in OURS:
                    page(running.services[service])
                time.sleep(max(0.0, until - time.monotonic()))
                lines = {text: told(running, text) - count for text, count in before.items()}
                figures.update({f"{name}: lines of ours, {text!r}": count for text, count in lines.items()})
                if outage > GIVES_UP:
                    assert lines[DROPS], "spans are dropped, and nothing says so"
                back()

        def tried() -> None:
            before = told(running, TRIES_AGAIN)
            asked.more(MEANWHILE)
            eventually(lambda: told(running, TRIES_AGAIN) > before, "an exporter to say that it tries again")

        def running_on(name: str, seconds: float) -> None:
            with course.phase(name):
                time.sleep(seconds)

        with asking(wishes(running)) as asked:
            with course.phase("before"):
                asked.more(MEANWHILE)
            away("SIGTERM", partial(collector.stop, signal.SIGTERM), collector.start, tried)
            running_on("between, and SIGKILL is next", running.wait + 2)
            away("SIGKILL", partial(collector.stop, signal.SIGKILL), collector.start, tried)
            running_on("between, and SIGSTOP is next", max(2.0, outage / 2))
            away(
                "SIGSTOP",
                partial(os.kill, collector.pid, signal.SIGSTOP),
                partial(os.kill, collector.pid, signal.SIGCONT),
                lambda: figures.update(stands_still(running, asked)),
            )
            running_on("until every export call of then is over", GIVES_UP if outage else 2.0)  # they were brief
            with course.phase("afterwards"):
                asked.more(MEANWHILE)
        last = time.time()
        for name in OURS:
            there = page(running.services[name])
            assert total(there, "exemplars_errors_total") == 0
        for phase in course.phases:
            figures |= unharmed(phase.name, asked.between(phase.start, phase.end))
        asked_front = sum(answer.wish.url.startswith(running.front.url) for answer in asked.answers)
        counted = total(page(running.front), f"{semconv.DURATION}_count")
        assert counted == asked_front, "each request is counted once"
        for job in SERVICES:
            running.prometheus.server.scraped(job, 2)
        ups = running.prometheus.server.ask("query", query=f'min_over_time(up{{job=~"{"|".join(OURS)}"}}[1h])')
        assert {series["value"][1] for series in ups["result"]} == {"1"}, "a page that could not be scraped"
        figures |= prometheus_away(running, last)
        time.sleep(max(0.0, last + running.wait + PROMISE - time.time()))
        every = {dot for dot in found(running.prometheus.server, EVERYTHING, running.start, last) if dot.job in OURS}
        judge = judge_of(running)
        calm = [dot for dot in every if course.of(dot.time) == "afterwards"]
        assert calm, "no dot since all was back"

        def closed() -> list[Verdict]:
            """Nothing that was thrown away comes back: waiting makes no dead dot a good one."""
            return [verdict for verdict in judge.judged(calm) if verdict.wrong]

        eventually(lambda: not closed(), "every dot since all was back to open", lambda: shown(closed()))
        figures |= opening(course, judge.judged(every))
    return figures


def told(running: Shop, text: str) -> int:
    return sum(said(running.services[name], text) for name in OURS)


def opening(course: Course, verdicts: list[Verdict]) -> Figures:
    """How many of the dots of each phase are dead."""
    figures = Figures()
    for phase in course.phases:
        there = [verdict for verdict in verdicts if course.of(verdict.dot.time) == phase.name]
        dead = sum(verdict.is_dead for verdict in there)
        partly = sum(bool(verdict.wrong) for verdict in there) - dead
        figures[f"{phase.name}: dots"] = len(there)
        figures[f"{phase.name}: dots that are dead"] = dead
        figures[f"{phase.name}: dots that open a part of their trace, or without lines"] = partly
    return figures


def prometheus_away(running: Shop, last: float) -> Figures:
    """Prometheus ended and killed: what it had until *last* it has again."""
    server = running.prometheus

    def dots() -> set[Dot]:
        return found(server.server, EVERYTHING, running.start, last)

    before = dots()
    assert before
    for by in (signal.SIGTERM, signal.SIGKILL):
        server.stop(by)
        server.start()
        eventually(lambda: dots() >= before, "all exemplars of before", lambda: f"{len(dots())} of {len(before)}")
    return Figures({"exemplars that Prometheus has again after SIGTERM and SIGKILL": f"{len(before)} of {len(before)}"})

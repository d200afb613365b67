"""What is promised, checked: how many requests do not fail, and how many take no longer than a bound."""

import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, cast
from urllib.parse import urlsplit

from prometheus_client.utils import floatToGoString

from exemplars import semconv
from exemplars.options import check_buckets

INTERVAL: Final = 30
LEAST_BAD: Final = 5
RUNBOOK: Final = "docs/slo.md"

_PERCENT: Final = re.compile(r"\d{1,3}(\.\d{1,12})?", re.ASCII)
# What Python's regular expressions have and RE2, in part, has not; names of jobs can do without any of it.
_NOT_RE2: Final = re.compile(r"\(\?|\\[^.|()\[\]{}*+?^$/\\-]|[*+?}][+?]|\{|\[\[|\[\^?\]")
go_number: Final = cast(Callable[[float], str], floatToGoString)  # as Prometheus spells it in `le`


@dataclass(frozen=True, slots=True)
class Latency:
    """*percent* of the requests take no longer than *bound* seconds, which is a bucket's."""

    bound: float
    percent: Decimal

    @property
    def slo(self) -> str:
        """Its name, the value of the label `slo`."""
        return f"latency-{short(self.bound)}s"


@dataclass(frozen=True, slots=True)
class Objectives:
    """What is promised, and of whom. Raises ``ValueError``, which names the bad value, for what makes no sense.

    - *availability*: percent of the requests that do not fail; ``None``: nothing is promised.
    - *latencies*: each of another bound.
    - *job*: a regular expression, matched in full, of the services that promise it; ``None``: all that have the
      histogram.
    - *interval*: seconds between evaluations.
    - *least_bad*: so many bad requests, about, have to lie in an alert's long window before it fires: fewer are chance.
    - *dashboard_url*: where Grafana is; empty: links begin with a slash.
    - *runbook_url*: the page whose headings are the alerts' names.
    """

    availability: Decimal | None
    latencies: tuple[Latency, ...] = ()
    job: str | None = None
    interval: int = INTERVAL
    least_bad: int = LEAST_BAD
    dashboard_url: str = ""
    runbook_url: str = RUNBOOK

    def __post_init__(self) -> None:
        if self.availability is None and not self.latencies:
            raise ValueError("nothing is promised: give --objective, --latency or both")
        bounds = [latency.bound for latency in self.latencies]
        if twice := [bound for bound in bounds if bounds.count(bound) > 1]:
            raise ValueError(f"{short(twice[0])} s is promised twice: of two percentages for one bound, keep one")
        # Five minutes is how long Prometheus takes a recorded value for the current one.
        if not 1 <= self.interval <= 240:
            raise ValueError(f"interval is {self.interval}: give 1 to 240 seconds")
        if self.least_bad < 1:
            raise ValueError(f"at least {self.least_bad} bad requests: give 1 or more")
        if self.job is not None:
            _check_job(self.job)
        if self.dashboard_url and not _is_address(self.dashboard_url):
            raise ValueError(f"{self.dashboard_url!r} is no address of Grafana: give one such as http://127.0.0.1:3000")
        if not self.runbook_url or not _is_address(self.runbook_url, bare=True):
            raise ValueError(f"{self.runbook_url!r} is no address of a runbook: give a URL, or a path without blanks")

    @property
    def every(self) -> list[tuple[str, Decimal]]:
        """Name and percentage of each."""
        availability = [] if self.availability is None else [("availability", self.availability)]
        return availability + [(latency.slo, latency.percent) for latency in self.latencies]


def percent(text: str) -> Decimal:
    """The objective that *text* tells, above 0 and below 100. Raises ``ValueError``."""
    if not _PERCENT.fullmatch(text) or not 0 < float(text) / 100 < 1:
        raise ValueError(f"{text!r} is no objective: give a percentage above 0 and below 100, such as 99.9")
    return Decimal(text)


def bounds(text: str) -> tuple[float, ...]:
    """Of the buckets that *text* lists, by commas and in seconds. Raises ``ValueError``."""
    try:
        listed = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} are no buckets: list upper bounds in seconds, such as 0.1,0.25,1") from None
    found = check_buckets(listed)
    if found[0] <= 0:
        raise ValueError(f"buckets has {found[0]!r}: a request takes longer than no time")
    return found


def latency(text: str, buckets: Sequence[float] = semconv.DURATION_BUCKETS) -> Latency:
    """What ``BOUND:PERCENT`` promises: ``0.25:99`` is that 99 % take no longer than 0.25 s.

    Raises ``ValueError``, also for a bound that is none of *buckets*: the histogram does not know how many requests
    took no longer than that, and a rule would never match.
    """
    bound, colon, promised = text.partition(":")
    try:
        seconds = float(bound)
    except ValueError:
        seconds = math.nan
    if not colon or math.isnan(seconds):
        raise ValueError(f"{text!r} is no latency: give seconds and a percentage, such as 0.25:99")
    if seconds not in buckets:
        known = ", ".join(map(short, buckets))
        raise ValueError(f"{bound!r} is no bucket's bound: choose from {known}, or give your own by --buckets")
    return Latency(seconds, percent(promised))


def short(bound: float) -> str:
    """*bound* as people write it."""
    return go_number(bound).removesuffix(".0")


def _check_job(job: str) -> None:
    if not job or not job.isprintable():
        raise ValueError(f"{job!r} matches no job: give one such as front|stock")
    if found := _NOT_RE2.search(job):
        raise ValueError(f"{job!r} has {found[0]!r}, which Prometheus may take otherwise: give names, as front|stock")
    try:
        with warnings.catch_warnings(action="ignore"):  # of what Python may change its mind about
            re.compile(job)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{job!r} is no regular expression for a job: {error}") from None


def _is_address(text: str, *, bare: bool = False) -> bool:
    """Of the web; if *bare*, also a path. Nothing in it may be taken for a template."""
    if not re.fullmatch(r"[!-~]+", text) or "{" in text or "}" in text or "#" in text:
        return False
    parts = urlsplit(text)
    return (parts.scheme in ("http", "https") and bool(parts.netloc)) or (bare and not parts.scheme)

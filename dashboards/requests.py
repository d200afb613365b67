"""Panels of the requests of the chosen services and routes, as they stand on more than one dashboard.

*where* is what their links look for in Tempo.
"""

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import heatmap, stat, timeseries
from grafana_foundation_sdk.models import units

from exemplars import semconv

from . import links, panels
from .links import CHOSEN
from .panels import BLUE, GREEN, GREY, ORANGE, RED, YELLOW, fixed
from .promql import (
    BUCKET,
    COUNT,
    JOB,
    REQUESTS,
    STEP,
    buckets,
    failed_share,
    legend,
    quantile,
    query,
    rate,
    total,
)

IN_FLIGHT: Final = f"{semconv.ACTIVE_REQUESTS}{{{JOB}}}"
PER_SECOND: Final = units.RequestsPerSecond

STATUS_COLORS: Final = (("/2../", GREEN), ("/3../", BLUE), ("/4../", YELLOW), ("/5../", RED), ("/left/", GREY))


def requests_now(where: Sequence[str] = CHOSEN) -> stat.Panel:
    return panels.figure(
        "Requests",
        "Finished requests a second. A fall that nobody planned means that they no longer reach the service: look at "
        "the load balancer and at `up` before you look at the code.",
        PER_SECOND,
        query(total(rate(COUNT)), "requests"),
    ).data_links([links.traces("Traces", *where), links.board("What is left of the budget", links.SLO, "job")])


def errors_now(where: Sequence[str] = CHOSEN) -> stat.Panel:
    return (
        panels.figure(
            "Error share",
            "Share of requests that ended with a 5xx, an exception or an incomplete response; clients that left do not "
            "count. Above 1 % go to the row *What fails*: it names the route and shows the traces.",
            units.PercentUnit,
            query(failed_share(), "failed"),
        )
        .thresholds(panels.thresholds((None, GREEN), (0.01, ORANGE), (0.05, RED)))
        .data_links([links.traces("Failed traces", *where, links.FAILED)])
    )


def p99_now(where: Sequence[str] = CHOSEN) -> stat.Panel:
    return panels.figure(
        "p99",
        "One request in a hundred takes longer than this. When it leaves its usual place, look at the row *How slow*: "
        "p50 rising too means that the whole service is slow, p99 alone means that one route or dependency is.",
        units.Seconds,
        query(quantile(0.99, rate(BUCKET)), "p99"),
    ).data_links([links.traces("Traces at least this slow", *where, links.SLOWER)])


def active_now(where: Sequence[str] = CHOSEN) -> stat.Panel:
    return panels.figure(
        "In flight",
        "Requests being served at this moment, of all routes of the service. Rising while the rate does not: they are "
        "waiting for something, such as a pool, a lock or a slow dependency.",
        units.Short,
        query(total(IN_FLIGHT), "in flight"),
        absent="not counted",
    ).data_links([links.traces("Traces of a second and more", *where, "duration >= 1s")])


NOW: Final = (requests_now, errors_now, p99_now, active_now)


def requests_by_status(where: Sequence[str] = CHOSEN) -> timeseries.Panel:
    # Without a status the legend would be empty.
    named = f'label_replace({total(rate(COUNT), semconv.STATUS)}, "{semconv.STATUS}", "left", "{semconv.STATUS}", "")'
    panel = panels.stacked(
        "Requests by status",
        "Finished requests a second by status code; *left* are clients that were gone before the response began. The "
        "color that grows tells where to look: red is ours, yellow is the caller's.",
        PER_SECOND,
        query(named, legend(semconv.STATUS)),
    )
    for pattern, color in STATUS_COLORS:
        panel = panel.override_by_regexp(pattern, fixed(color))
    return panel.data_links([links.traces("Traces of this time", *where)])


def error_share(where: Sequence[str] = CHOSEN) -> timeseries.Panel:
    return (
        panels.lines(
            "Error share over time",
            "Share of requests that failed. A step is a deployment or a dependency that went away, a slope is "
            "something running full. A click on the line finds failed traces.",
            units.PercentUnit,
            query(failed_share(), "failed"),
        )
        .fill_opacity(15)
        .override_by_name("failed", fixed(RED))
        .data_links([links.traces("Failed traces", *where, links.FAILED)])
    )


def percentiles(matchers: str = REQUESTS, where: Sequence[str] = CHOSEN) -> timeseries.Panel:
    series = rate(BUCKET, matchers)
    panel = panels.lines(
        "Durations: p50, p95, p99",
        "A dot is a request whose trace was kept: click one far above the lines to open it. Of each step Grafana shows "
        "the slowest dots only; zoom in to see more. No dots at all: the dashboard *Pipeline health* tells where "
        "they are lost.",
        units.Seconds,
        query(quantile(0.99, series), "p99", ref="A", dots=True),
        query(quantile(0.95, series), "p95", ref="B"),
        query(quantile(0.5, series), "p50", ref="C"),
    )
    for name, color in (("p99", RED), ("p95", ORANGE), ("p50", GREEN)):
        panel = panel.override_by_name(name, fixed(color))
    return panel.height(11).data_links([links.traces("Traces at least this slow", *where, links.SLOWER)])


def distribution(matchers: str = REQUESTS, where: Sequence[str] = CHOSEN) -> heatmap.Panel:
    panel = panels.squares(
        "Durations: where the requests lie",
        "How many requests took how long: the scale below tells by color. Two bands mean two kinds of requests, which "
        "percentiles hide. A dot is a request whose trace was kept: click it to pin its card, then follow the link "
        "there.",
        buckets(f"increase({BUCKET}{{{matchers}}}[{STEP}])"),
    )
    return panel.height(11).data_links([links.traces("Traces of this time", *where)])


def onward(title: str, *conditions: str) -> list[links.Link]:
    """From a line of a route: to its dashboard, and to traces of it."""
    return [
        links.route("Everything about this route", links.LINE_JOB, links.LINE_ROUTE),
        links.traces(title, *links.OF_LINE, *conditions),
    ]

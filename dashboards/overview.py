"""The dashboard to start at: from "is it bad" down to "which trace", a question a row."""

from typing import Final

from grafana_foundation_sdk.builders import common as viz
from grafana_foundation_sdk.builders import dashboard, table, timeseries
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import DynamicConfigValue

from exemplars import semconv

from . import board, links, panels, requests
from .promql import (
    BUCKET,
    COUNT,
    JOB,
    RANGE,
    failed_share,
    failures,
    legend,
    quantile,
    query,
    rate,
    rows,
    total,
)

BY_ROUTE: Final = ("job", semconv.ROUTE)
KEYS: Final = {"job": "Service", semconv.ROUTE: "Route"}


def failures_by_kind() -> timeseries.Panel:
    labels = (*BY_ROUTE, semconv.ERROR_TYPE)
    panel = (
        panels.stacked(
            "Failures by route and kind",
            "Failed requests a second, by route and by exception, status code or `incomplete_response`. One route: "
            "look at its code. One kind on many routes: look at what they share. A click finds the failed traces.",
            requests.PER_SECOND,
            query(total(failures(COUNT), *labels), legend(*labels)),
        )
        .height(9)
        .data_links(requests.onward("Failed traces of this route", links.FAILED))
    )
    return panels.hot(panel)


def failure_durations() -> timeseries.Panel:
    panel = (
        panels.lines(
            "Durations of failures: p99 by route",
            "Failed requests alone, so that fast ones keep their dots too; each dot is a failed trace. Failures that "
            "all take the same round time are timeouts; failures of a few milliseconds are refusals or bugs.",
            units.Seconds,
            query(quantile(0.99, failures(BUCKET), *BY_ROUTE), legend(*BY_ROUTE), dots=True),
        )
        .height(9)
        .data_links(requests.onward("Failed traces of this route", links.FAILED))
    )
    return panels.hot(panel)


def route_durations() -> timeseries.Panel:
    panel = panels.lines(
        "Durations: p99 by route",
        "Which route is slow. Click its name in the legend to see its line and its dots alone, then click a dot; a "
        "click on the line leads to everything about the route, or to traces that are at least as slow.",
        units.Seconds,
        query(quantile(0.99, rate(BUCKET), *BY_ROUTE), legend(*BY_ROUTE), dots=True),
    )
    onward = requests.onward("Traces of this route at least this slow", links.SLOWER)
    return panels.ranked(panel).span(24).height(11).data_links(onward)


def _listed(panel: table.Panel, first: str) -> table.Panel:
    ways = [
        links.route("Everything about this route", links.ROW_JOB, links.ROW_ROUTE).build(),
        links.traces("Traces of this route", *links.OF_ROW).build(),
    ]
    return (
        panel.height(9)
        .sort_by([viz.TableSortByFieldState().display_name(first).desc(True)])
        .override_by_name("Route", [DynamicConfigValue("links", ways)])
    )


def slowest_routes() -> table.Panel:
    series = rate(BUCKET, over=RANGE)
    panel = panels.listing(
        "Slowest routes, over the whole time range",
        "Every route, the slowest first; what matched no route is the row without a name. Start with a slow one that "
        "gets many requests. A click on the name leads to everything about it.",
        KEYS,
        p99=(units.Seconds, rows(quantile(0.99, series, *BY_ROUTE), ref="A")),
        p50=(units.Seconds, rows(quantile(0.5, series, *BY_ROUTE), ref="B")),
        Requests=(requests.PER_SECOND, rows(total(rate(COUNT, over=RANGE), *BY_ROUTE), ref="C")),
    )
    return _listed(panel, "p99")


def most_failing_routes() -> table.Panel:
    panel = panels.listing(
        "Most failing routes, over the whole time range",
        "Every route, the one with the most failed requests first. A high share of few requests is one broken route, a "
        "low share of many is what users notice first. A click on the name leads to everything about it.",
        KEYS,
        Failed=(requests.PER_SECOND, rows(total(failures(COUNT, over=RANGE), *BY_ROUTE), ref="A")),
        Share=(units.PercentUnit, rows(failed_share(*BY_ROUTE, over=RANGE), ref="B")),
        Requests=(requests.PER_SECOND, rows(total(rate(COUNT, over=RANGE), *BY_ROUTE), ref="C")),
    )
    return _listed(panel, "Failed")


def active() -> timeseries.Panel:
    panel = panels.lines(
        "In flight, by service",
        "Requests being served, as of each scrape. A plateau usually is a limit: of workers, of threads or of a pool. "
        "Compare with the durations at the same time.",
        units.Short,
        query(total(requests.IN_FLIGHT, "job"), legend("job")),
    )
    slow = links.traces("Traces of a second and more", links.OF_LINE_JOB, "duration >= 1s")
    return panel.fill_opacity(15).data_links([slow])


def exemplars() -> timeseries.Panel:
    def per_second(metric: str) -> str:
        return total(rate(metric, JOB))

    return panels.lines(
        "Why are there no dots?",
        "What the library says of itself; services in other languages do not. *taken* at zero: no request is sampled. "
        "*refused*: more traces were worth keeping than `marks_per_second` allows. *plain text*: a scraper or a proxy "
        "asked for the format that knows no exemplars. *errors*: the service's log says more. All well and still no "
        "dots: a click leads to the whole way of a dot.",
        units.OpsPerSecond,
        query(per_second("exemplars_taken_total"), "taken", ref="A"),
        query(per_second("exemplars_marks_refused_total"), "refused", ref="B"),
        query(per_second("exemplars_plain_text_scrapes_total"), "plain text", ref="C"),
        query(per_second("exemplars_errors_total"), "errors", ref="D"),
    ).data_links([links.board("The way of a dot", links.PIPELINE, "job")])


def overview() -> dashboard.Dashboard:
    return board.board(
        links.OVERVIEW,
        "Requests and their traces",
        "Rate, errors and durations of HTTP services, by OpenTelemetry's names. A dot is a request whose trace was "
        "kept: click it. Links into Tempo take a scrape job to be named as its service.",
        (board.METRICS, board.TRACES, board.service(), board.route()),
        (
            (
                "Is it bad?",
                tuple(now() for now in requests.NOW),
            ),
            ("Since when?", (requests.requests_by_status(), requests.error_share())),
            ("How slow, and which trace?", (requests.percentiles(), requests.distribution())),
            ("What fails, and which trace?", (failures_by_kind(), failure_durations())),
            ("Which route?", (slowest_routes(), most_failing_routes())),
            ("Which of its traces?", (route_durations(),)),
            ("And the service itself?", (active(), exemplars())),
        ),
    )

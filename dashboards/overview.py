"""The dashboard to start at: from "is it bad" down to "which trace", a question a row."""

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import common as viz
from grafana_foundation_sdk.builders import dashboard, heatmap, stat, table, timeseries
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DynamicConfigValue,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from exemplars import semconv

from . import links, panels
from .panels import BLUE, GREEN, GREY, ORANGE, RED, YELLOW, Panel, fixed
from .promql import (
    BUCKET,
    COUNT,
    DATASOURCE,
    JOB,
    RANGE,
    REQUESTS,
    STEP,
    buckets,
    failed_share,
    failures,
    legend,
    quantile,
    query,
    rate,
    rows,
    total,
)

IN_FLIGHT: Final = f"{semconv.ACTIVE_REQUESTS}{{{JOB}}}"
REQUESTS_PER_SECOND: Final = units.RequestsPerSecond


def requests_now() -> stat.Panel:
    return panels.figure(
        "Requests",
        "Finished requests a second. A fall that nobody planned means that they no longer reach the service: look at "
        "the load balancer and at `up` before you look at the code.",
        REQUESTS_PER_SECOND,
        query(total(rate(COUNT)), "requests"),
    )


def errors_now() -> stat.Panel:
    return panels.figure(
        "Error share",
        "Share of requests that ended with a 5xx, an exception or an incomplete response; clients that left do not "
        "count. Above 1 % go to the row *What fails*: it names the route and shows the traces.",
        units.PercentUnit,
        query(failed_share(), "failed"),
    ).thresholds(panels.thresholds((None, GREEN), (0.01, ORANGE), (0.05, RED)))


def p99_now() -> stat.Panel:
    return panels.figure(
        "p99",
        "One request in a hundred takes longer than this. When it leaves its usual place, look at the row *How slow*: "
        "p50 rising too means that the whole service is slow, p99 alone means that one route or dependency is.",
        units.Seconds,
        query(quantile(0.99, rate(BUCKET)), "p99"),
    )


def active_now() -> stat.Panel:
    return panels.figure(
        "In flight",
        "Requests being served at this moment. Rising while the rate does not: they are waiting for something, such as "
        "a pool, a lock or a slow dependency.",
        units.Short,
        query(total(IN_FLIGHT), "in flight"),
    )


def requests_by_status() -> timeseries.Panel:
    # Without a status the legend would be empty.
    named = f'label_replace({total(rate(COUNT), semconv.STATUS)}, "{semconv.STATUS}", "left", "{semconv.STATUS}", "")'
    panel = panels.stacked(
        "Requests by status",
        "Finished requests a second by status code; *left* are clients that were gone before the response began. The "
        "color that grows tells where to look: red is ours, yellow is the caller's.",
        REQUESTS_PER_SECOND,
        query(named, legend(semconv.STATUS)),
    )
    for pattern, color in (("/2../", GREEN), ("/3../", BLUE), ("/4../", YELLOW), ("/5../", RED), ("/left/", GREY)):
        panel = panel.override_by_regexp(pattern, fixed(color))
    return panel


def error_share() -> timeseries.Panel:
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
        .data_links([links.traces("Failed traces", links.FAILED)])
    )


def percentiles() -> timeseries.Panel:
    panel = panels.lines(
        "Durations: p50, p95, p99",
        "A dot is a request whose trace was kept: click one far above the lines to open it. Of each step Grafana shows "
        "the slowest dots only; zoom in to see more. No dots at all: see the last panel.",
        units.Seconds,
        query(quantile(0.99, rate(BUCKET)), "p99", ref="A", dots=True),
        query(quantile(0.95, rate(BUCKET)), "p95", ref="B"),
        query(quantile(0.5, rate(BUCKET)), "p50", ref="C"),
    )
    for name, color in (("p99", RED), ("p95", ORANGE), ("p50", GREEN)):
        panel = panel.override_by_name(name, fixed(color))
    return panel.height(11).data_links([links.traces("Traces at least this slow", links.SLOWER)])


def distribution() -> heatmap.Panel:
    return panels.squares(
        "Durations: where the requests lie",
        "The darker, the more requests. Two bands mean two kinds of requests, which percentiles hide. A dot is a "
        "request whose trace was kept: click it to pin its card, then follow the link there.",
        buckets(f"increase({BUCKET}{{{REQUESTS}}}[{STEP}])"),
    ).height(11)


def failures_by_kind() -> timeseries.Panel:
    labels = (semconv.ROUTE, semconv.ERROR_TYPE)
    return (
        panels.stacked(
            "Failures by route and kind",
            "Failed requests a second, by route and by exception, status code or `incomplete_response`. One route: "
            "look at its code. One kind on many routes: look at what they share. A click finds the failed traces.",
            REQUESTS_PER_SECOND,
            query(total(failures(COUNT), *labels), legend(*labels)),
        )
        .height(9)
        .data_links([links.traces("Failed traces of this route", links.FAILED, links.OF_SERIES)])
    )


def failure_durations() -> timeseries.Panel:
    return (
        panels.lines(
            "Durations of failures: p99 by route",
            "Failed requests alone, so that fast ones keep their dots too; each dot is a failed trace. Failures that "
            "all take the same round time are timeouts; failures of a few milliseconds are refusals or bugs.",
            units.Seconds,
            query(quantile(0.99, failures(BUCKET), semconv.ROUTE), legend(semconv.ROUTE), dots=True),
        )
        .height(9)
        .data_links([links.traces("Failed traces of this route", links.FAILED, links.OF_SERIES)])
    )


def route_durations() -> timeseries.Panel:
    return (
        panels.lines(
            "Durations: p99 by route",
            "Which route is slow. Click its name in the legend to see its line and its dots alone, then click a dot; "
            "a click on the line finds more traces of the route that are at least as slow.",
            units.Seconds,
            query(quantile(0.99, rate(BUCKET), semconv.ROUTE), legend(semconv.ROUTE), dots=True),
        )
        .height(11)
        .data_links([links.traces("Traces of this route at least this slow", links.SLOWER, links.OF_SERIES)])
    )


def routes() -> table.Panel:
    by = semconv.ROUTE
    series = rate(BUCKET, over=RANGE)
    panel = panels.listing(
        "Routes, over the whole time range",
        "Every route, the slowest first; what matched no route is the row without a name. Start with a slow or failing "
        "route that gets many requests. A click on a name finds traces of that route.",
        ("Route", by),
        Requests=(REQUESTS_PER_SECOND, rows(total(rate(COUNT, over=RANGE), by), ref="A")),
        Failed=(units.PercentUnit, rows(failed_share(by, over=RANGE), ref="B")),
        p50=(units.Seconds, rows(quantile(0.5, series, by), ref="C")),
        p99=(units.Seconds, rows(quantile(0.99, series, by), ref="D")),
    )
    link = links.traces("Traces of this route", links.OF_CELL).build()
    return (
        panel.height(11)
        .sort_by([viz.TableSortByFieldState().display_name("p99").desc(True)])
        .override_by_name("Route", [DynamicConfigValue("links", [link])])
    )


def active() -> timeseries.Panel:
    return panels.lines(
        "In flight, by service",
        "Requests being served, as of each scrape. A plateau usually is a limit: of workers, of threads or of a pool. "
        "Compare with the durations at the same time.",
        units.Short,
        query(total(IN_FLIGHT, "job"), legend("job")),
    ).fill_opacity(15)


def exemplars() -> timeseries.Panel:
    def per_second(metric: str, *labels: str) -> str:
        return total(rate(metric, JOB), *labels)

    return panels.lines(
        "Why are there no dots?",
        "What the library says of itself. *taken* at zero: no request is sampled. *refused*: more traces were worth "
        "keeping than `marks_per_second` allows. *plain text*: a scraper or a proxy asked for the format that knows no "
        "exemplars. *errors*: the service's log says more. All well and still no dots: Prometheus lacks "
        "`--enable-feature=exemplar-storage`.",
        units.OpsPerSecond,
        query(per_second("exemplars_taken_total"), "taken", ref="A"),
        query(per_second("exemplars_marked_total"), "marked", ref="B"),
        query(per_second("exemplars_marks_refused_total"), "refused", ref="C"),
        query(per_second("exemplars_plain_text_scrapes_total"), "plain text", ref="D"),
        query(per_second("exemplars_errors_total", "kind"), "errors: {{kind}}", ref="E"),
    )


ROWS: Final[Sequence[tuple[str, Sequence[Panel]]]] = (
    ("Is it bad?", (requests_now(), errors_now(), p99_now(), active_now())),
    ("Since when?", (requests_by_status(), error_share())),
    ("How slow, and which trace?", (percentiles(), distribution())),
    ("What fails, and which trace?", (failures_by_kind(), failure_durations())),
    ("Which route, and which trace?", (route_durations(), routes())),
    ("And the service itself?", (active(), exemplars())),
)


def choice(name: str, label: str, values: str) -> dashboard.QueryVariable:
    """Several values, at first all; "all" includes the series that lack the label."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(values)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def overview() -> dashboard.Dashboard:
    built = (
        dashboard.Dashboard("Requests and their traces")
        .uid("exemplars-overview")
        .description(
            "Rate, errors and durations of HTTP services, by OpenTelemetry's names. A dot is a request whose trace was "
            "kept: click it. Links into Tempo take a scrape job to be named as its service."
        )
        .tags(["exemplars", "http", "opentelemetry"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-30m", "now")
        .refresh("30s")
        .with_variable(dashboard.DatasourceVariable("prometheus_datasource").label("Metrics").type("prometheus"))
        .with_variable(dashboard.DatasourceVariable("tempo_datasource").label("Traces").type("tempo"))
        .with_variable(choice("job", "Service", f"label_values({COUNT}, job)"))
        .with_variable(choice("route", "Route", f"label_values({COUNT}{{{JOB}}}, {semconv.ROUTE})"))
    )
    number = 0
    for title, contents in ROWS:
        built = built.with_row(dashboard.Row(title))
        for panel in contents:
            number += 1
            built = built.with_panel(panel.id(number))
    return built

"""One route of one service: how slow, for whom, which of its traces, and what its service wrote meanwhile."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard, logs, table, timeseries
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import DynamicConfigValue, VariableOption

from exemplars import semconv

from . import board, links, logql, panels, requests, traceql
from .promql import BUCKET, COUNT, REQUESTS, failures, legend, quantile, query, rate, total

# Only the row of durations minds the status: an error share of the failed requests alone would say nothing.
OF_STATUS: Final = f'{REQUESTS}, {semconv.STATUS}=~"$status"'
STATUS: Final = f"label_values({COUNT}{{{REQUESTS}}}, {semconv.STATUS})"
SLOW: Final = ("100ms", "250ms", "500ms", "1s", "2500ms", "5s")
SLOW_AT_FIRST: Final = "250ms"


def durations_by_status() -> timeseries.Panel:
    """Failed and refused requests have another time than the served ones, and drag the percentiles of all along."""
    by = semconv.STATUS
    panel = panels.lines(
        "Durations by status: p99, p50",
        "Of each status, p99 and, dashed, p50. A slow 5xx is a timeout, a fast one a bug or a "
        "refusal; a p50 of 2xx that rises means that everyone waits. Click a status in the legend to see its dots "
        "alone.",
        units.Seconds,
        query(quantile(0.99, rate(BUCKET), by), f"{legend(by)} p99", ref="A", dots=True),
        query(quantile(0.5, rate(BUCKET), by), f"{legend(by)} p50", ref="B"),
    )
    for pattern, color in (("/^2/", "green"), ("/^3/", "blue"), ("/^4/", "yellow"), ("/^5/", "red")):
        panel = panel.override_by_regexp(pattern, panels.fixed(color))
    # In the legend once a status, as its color is.
    dashed = {
        "lineStyle": {"fill": "dash", "dash": [4, 4]},
        "hideFrom": {"legend": True, "tooltip": False, "viz": False},
    }
    panel = panel.override_by_regexp("/p50$/", [DynamicConfigValue(f"custom.{k}", v) for k, v in dashed.items()])
    return panel.height(9).data_links([links.traces("Traces at least this slow", *links.CHOSEN_ROUTE, links.SLOWER)])


def failures_by_kind() -> timeseries.Panel:
    panel = (
        panels.stacked(
            "Failures by kind",
            "Failed requests a second, by exception, status code or `incomplete_response`. A kind that was not there "
            "before a deployment came with it. A click finds the failed traces.",
            requests.PER_SECOND,
            query(
                total(failures(COUNT), semconv.STATUS, semconv.ERROR_TYPE), legend(semconv.STATUS, semconv.ERROR_TYPE)
            ),
        )
        .height(9)
        .data_links([links.traces("Failed traces", *links.CHOSEN_ROUTE, links.FAILED)])
    )
    return panels.hot(panel)


def failure_durations() -> timeseries.Panel:
    kind = (semconv.STATUS, semconv.ERROR_TYPE)
    panel = (
        panels.lines(
            "Durations of failures: p99 by kind",
            "Failed requests alone, so that fast ones keep their dots too; each dot is a failed trace. Failures that "
            "all take the same round time are timeouts; failures of a few milliseconds are refusals or bugs.",
            units.Seconds,
            query(quantile(0.99, failures(BUCKET), *kind), legend(*kind), dots=True),
        )
        .height(9)
        .data_links([links.traces("Failed traces", *links.CHOSEN_ROUTE, links.FAILED)])
    )
    return panels.hot(panel)


def _with_logs(panel: table.Panel) -> table.Panel:
    """A click on a trace's name shows its lines in the panel of logs; one on its id the trace, by Grafana itself."""
    trace = "${__data.fields.traceID:percentencode}"
    kept = ("tempo_datasource", "loki_datasource", "job", "route", "status", "slow")
    onward = links.board("Logs of this trace, below", links.ROUTES, *kept, trace=trace).build()
    return panel.override_by_name("Name", [DynamicConfigValue("links", [onward])])


def slow_traces() -> table.Panel:
    return _with_logs(
        panels.found(
            "Slow traces",
            "Requests of the route that took at least what is chosen above as *Slow is*, found by TraceQL: also those "
            "whose exemplar did not survive. None though the heatmap shows slow squares: their traces were not kept, "
            "see the dashboard *Pipeline health*. Tempo finds what is older than half a minute.",
            traceql.search(traceql.OF_SERVICES, traceql.OF_ROUTES, "duration >= $slow"),
        )
    )


def failed_traces() -> table.Panel:
    return _with_logs(
        panels.found(
            "Failed traces",
            "Requests of the route whose span has the status *error*, found by TraceQL. Open one: the span with the "
            "exception is where to look first. A click on the name shows what was logged meanwhile.",
            traceql.search(traceql.OF_SERVICES, traceql.OF_ROUTES, traceql.FAILED),
        )
    )


def lines() -> logs.Panel:
    return panels.log(
        "Logs",
        "What the service logged, of all its routes; of one trace when its id is in *Trace* above, where a click on a "
        "trace's name puts it. Empty with a trace chosen: its lines have no `trace_id`, see `exemplars.logs`.",
        logql.lines("${trace}.*"),
    )


def route() -> dashboard.Dashboard:
    status = board.choice("status", "Status", STATUS)
    slow = (
        dashboard.CustomVariable("slow")
        .label("Slow is")
        .description("Traces that took at least this are listed as slow.")
        .values(",".join(SLOW))
        .current(VariableOption(selected=True, text=SLOW_AT_FIRST, value=SLOW_AT_FIRST))
        .options([VariableOption(selected=value == SLOW_AT_FIRST, text=value, value=value) for value in SLOW])
    )
    trace = (
        dashboard.TextBoxVariable("trace")
        .label("Trace")
        .description("The id of the trace whose lines the logs show; empty: all lines.")
        .default_value("")
    )
    return board.board(
        links.ROUTES,
        "One route and its traces",
        "Durations, failures, traces and logs of the chosen route. A dot is a request whose trace was kept: click it. "
        "Tempo and Loki are asked for a service named as its scrape job.",
        (board.METRICS, board.TRACES, board.LOGS, board.service(), board.route(several=False), status, slow, trace),
        (
            (
                "$route: is it bad?",
                tuple(now(links.CHOSEN_ROUTE) for now in requests.NOW),
            ),
            (
                "How slow, and which trace?",
                (
                    requests.percentiles(OF_STATUS, links.CHOSEN_ROUTE),
                    requests.distribution(OF_STATUS, links.CHOSEN_ROUTE),
                ),
            ),
            ("For whom?", (requests.requests_by_status(links.CHOSEN_ROUTE).height(9), durations_by_status())),
            ("What fails, and which trace?", (failures_by_kind(), failure_durations())),
            ("Its traces, also without a dot", (slow_traces(), failed_traces())),
            ("And what did the service say?", (lines(),)),
        ),
    )

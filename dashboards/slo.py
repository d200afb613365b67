"""How much of the error budget is left, how fast it burns, and which requests burn it.

What the rules record (`exemplars rules`) has no exemplars: the panels with dots ask the histogram itself.
"""

from typing import Final

from grafana_foundation_sdk.builders import common as viz
from grafana_foundation_sdk.builders import dashboard, heatmap, stat, table, timeseries
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import DynamicConfigValue

from exemplars import semconv

from . import board, links, panels, requests
from .panels import GREEN, ORANGE, RED
from .promql import BUCKET, JOB, STEP, buckets, failures, legend, quantile, query, rows

OF_SLO: Final = f'{JOB}, slo=~"$slo"'
BY: Final = ("job", "slo")
NO_RULES: Final = "nothing recorded"

# Rates of burning: at which the budget of thirty days lasts for as many days, and at which the fastest alert pages.
STEADY, PAGE = 1, 14.4

# What the latency rules count: a failed request burns its budget of availability, a client that leaves burns none.
SERVED: Final = f'{JOB}, {semconv.ERROR_TYPE}="", {semconv.STATUS}!~"5.."'


def recorded(name: str) -> str:
    """Without its name, which would be another column or line."""
    return f"max by ({', '.join(BY)}) ({name}{{{OF_SLO}}})"


OBJECTIVE: Final = recorded("job:slo_objective:ratio")
LEFT: Final = recorded("job:slo_error_budget_remaining:ratio")


def burn(window: str) -> str:
    return f"{recorded(f'job:slo_errors_per_request:ratio_rate{window}')} / (1 - {OBJECTIVE})"


def overview(title: str, job: str) -> links.Link:
    return links.board(title, links.OVERVIEW, "tempo_datasource", job=job)


ONWARD: Final = overview("The requests of this service", links.LINE_JOB)


def _tile(title: str, description: str, unit: str, expr: str) -> stat.Panel:
    tile = panels.figure(title, description, unit, query(expr, legend("slo")), absent=NO_RULES)
    return tile.height(5).data_links([ONWARD])


def objective() -> stat.Panel:
    return _tile(
        "Objective",
        "The share of requests that have to be good: *availability* those that did not fail, *latency* those of the "
        "others that took no longer than its bound. Where services have several, the strictest. Too strict if nobody "
        "would get up for it, too lax if users complain first.",
        units.PercentUnit,
        f"max by (slo) ({OBJECTIVE})",
    ).decimals(2)


def left() -> stat.Panel:
    return _tile(
        "Budget left",
        "Share of the error budget that is left, of the service that has least. Below zero the objective is missed: "
        "stop what is risky, and look at *What burns it*.",
        units.PercentUnit,
        f"min by (slo) ({LEFT})",
    ).thresholds(panels.thresholds((None, RED), (0, ORANGE), (0.25, GREEN)))


def burning() -> stat.Panel:
    return _tile(
        "Burn rate, of the last hour",
        "How many times as fast as it may the budget burns, of the service where it burns fastest. At 1 it lasts for "
        "its whole time; at 14.4 an alert pages.",
        units.Short,
        f"max by (slo) ({burn('1h')})",
    ).thresholds(panels.thresholds((None, GREEN), (STEADY, ORANGE), (PAGE, RED)))


def firing() -> stat.Panel:
    return (
        panels.figure(
            "Alerts firing",
            "Burn-rate alerts that fire now, of the chosen services; Prometheus's page of alerts names them. A click "
            "leads to the requests and their traces.",
            units.Short,
            query(f'count(ALERTS{{{OF_SLO}, alertstate="firing"}}) or vector(0)', "firing"),
        )
        .height(5)
        .thresholds(panels.thresholds((None, GREEN), (1, RED)))
        .data_links([links.board("The requests of these services", links.OVERVIEW, "tempo_datasource", "job")])
    )


def burn_rates(long: str, short: str, limit: float, alert: str, gone: str) -> timeseries.Panel:
    # The lower one, in one line instead of two.
    both = f"{burn(long)} < {burn(short)} or {burn(short)}"
    panel = panels.lines(
        f"Burn rate over both {long} and {short}",
        "How many times as fast as it may the budget burns: the lower rate of the two windows, since the long one "
        f"tells that it matters and the short one that it goes on. {alert} above {limit:g}, where a line is red: at "
        f"that rate a month's budget is gone in {gone}. A click leads to the requests.",
        units.Short,
        query(both, legend(*BY)),
    )
    return panels.limited(panel, limit).data_links([ONWARD])


def budget() -> timeseries.Panel:
    return (
        panels.lines(
            "Budget left over time",
            "Share of the error budget that is left. A cliff is an incident, a slope a habit; it comes back as bad "
            "days leave the window.",
            units.PercentUnit,
            query(LEFT, legend(*BY)),
            negative=True,
        )
        .height(9)
        .data_links([ONWARD])
    )


def services() -> table.Panel:
    panel = panels.listing(
        "Services",
        "Every service and objective, the one with the least budget first. A click on its name leads to its requests "
        "and their traces.",
        {"job": "Service", "slo": "Objective of"},
        Left=(units.PercentUnit, rows(LEFT, ref="A")),
        Burn=(units.Short, rows(burn("1h"), ref="B")),
        Objective=(units.PercentUnit, rows(OBJECTIVE, ref="C")),
    )
    way = overview("The requests of this service", links.ROW_JOB).build()
    return (
        panel.height(9)
        .sort_by([viz.TableSortByFieldState().display_name("Left").desc(False)])
        .override_by_name("Service", [DynamicConfigValue("links", [way])])
    )


def slow() -> heatmap.Panel:
    panel = panels.squares(
        "What burns the latency budget",
        "Durations of the requests that did not fail; those above the promised time burn. A dot is a request whose "
        "trace was kept: click it to pin its card, then follow the link there. Zoom in, and more dots show.",
        buckets(f"increase({BUCKET}{{{SERVED}}}[{STEP}])"),
    )
    return panel.height(11).data_links([links.traces("Traces of this time", *links.CHOSEN)])


def failing() -> timeseries.Panel:
    panel = (
        panels.lines(
            "What burns the availability budget",
            "Durations of the failed requests, p99 by route; each dot is a failed trace: click it. One route: look at "
            "its code; many: look at what they share.",
            units.Seconds,
            query(quantile(0.99, failures(BUCKET, JOB), "job", semconv.ROUTE), legend("job", semconv.ROUTE), dots=True),
        )
        .height(11)
        .data_links(requests.onward("Failed traces of this route", links.FAILED))
    )
    return panels.hot(panel)


def slo() -> dashboard.Dashboard:
    chosen = board.choice("slo", "Objective of", "label_values(job:slo_objective:ratio, slo)")
    return board.board(
        links.SLO,
        "Service level objectives",
        "Objectives of availability and latency, what is left of their budgets and how fast they burn, from the rules "
        "that `exemplars rules` writes. The row with dots asks the histogram itself.",
        (board.METRICS, board.TRACES, board.service(), chosen),
        (
            ("Are the objectives met?", (objective(), left(), burning(), firing())),
            (
                "Does it burn so fast that somebody has to get up?",
                (
                    burn_rates("1h", "5m", PAGE, "An alert pages", "two days"),
                    burn_rates("6h", "30m", 6, "An alert pages", "five days"),
                ),
            ),
            (
                "Does it burn so that it will not last?",
                (
                    burn_rates("1d", "2h", 3, "An alert opens a ticket", "ten days"),
                    burn_rates("3d", "6h", STEADY, "An alert opens a ticket", "a month"),
                ),
            ),
            ("How much is left?", (budget(), services())),
            ("What burns it, and which trace?", (failing(), slow())),
        ),
        since="now-6h",
    )

"""What every dashboard has: its variables, the way to the others, rows of panels."""

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from exemplars import semconv

from . import links
from .panels import Panel
from .promql import COUNT, DATASOURCE, JOB

Variable = dashboard.DatasourceVariable | dashboard.QueryVariable | dashboard.CustomVariable | dashboard.TextBoxVariable
Rows = Sequence[tuple[str, Sequence[Panel]]]

# Named as Grafana's own linter asks where there are several; the same everywhere, so that links keep them.
METRICS: Final = dashboard.DatasourceVariable("prometheus_datasource").label("Metrics").type("prometheus")
TRACES: Final = dashboard.DatasourceVariable("tempo_datasource").label("Traces").type("tempo")
LOGS: Final = dashboard.DatasourceVariable("loki_datasource").label("Logs").type("loki")


def choice(
    name: str, label: str, values: str, *, everything: str = ".*", several: bool = True
) -> dashboard.QueryVariable:
    """Of the values of a label, at first all; *everything* also matches the series that lack the label."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(values)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(several)
        .include_all(True)
        .all_value(everything)
        .current(ALL if several else VariableOption(selected=True, text="All", value="$__all"))
    )


ALL: Final = VariableOption(selected=True, text=["All"], value=["$__all"])


def service(metric: str = COUNT) -> dashboard.QueryVariable:
    # `.+`: every series has a job, and Loki takes no selector that matches the empty text.
    return choice("job", "Service", f"label_values({metric}, job)", everything=".+")


def route(*, several: bool = True) -> dashboard.QueryVariable:
    return choice("route", "Route", f"label_values({COUNT}{{{JOB}}}, {semconv.ROUTE})", several=several)


def board(
    uid: str, title: str, description: str, variables: Sequence[Variable], rows: Rows, *, since: str = "now-30m"
) -> dashboard.Dashboard:
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([links.TAG, "http", "opentelemetry"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time(since, "now")
        .refresh("30s")
        .links([links.boards()])
    )
    for variable in variables:
        built = built.with_variable(variable)
    number = 0
    for name, contents in rows:
        built = built.with_row(dashboard.Row(name))
        for panel in contents:
            number += 1
            built = built.with_panel(panel.id(number))
    return built

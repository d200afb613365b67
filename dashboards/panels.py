"""The kinds of panels: one look for all dashboards."""

from collections.abc import Mapping
from typing import Final

from grafana_foundation_sdk.builders import common as viz
from grafana_foundation_sdk.builders import dashboard, heatmap, logs, loki, prometheus, stat, table, tempo, timeseries
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    FieldColorSeriesByMode,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale

from . import logql, traceql
from .promql import DATASOURCE

Panel = stat.Panel | timeseries.Panel | heatmap.Panel | table.Panel | logs.Panel
Column = tuple[str, prometheus.Dataquery]  # its unit and its query

GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "#8e8e8e"
LINE: Final = common.GraphThresholdsStyleMode.LINE
DOTS: Final = "rgba(255, 0, 255, 0.8)"


def thresholds(*steps: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """From each value on, its color; None: from the very bottom."""
    built = [Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(built)


def fixed(color: str) -> list[DynamicConfigValue]:
    return [DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})]


def hot(panel: timeseries.Panel) -> timeseries.Panel:
    """From yellow to red, the higher a line rises: whatever there is is bad, and green would say otherwise."""
    color = dashboard.FieldColor().mode(FieldColorModeId.CONTINUOUS_YL_RD)
    return panel.color_scheme(color.series_by(FieldColorSeriesByMode.MAX))


def figure(
    title: str,
    description: str,
    unit: str,
    target: prometheus.Dataquery,
    *,
    absent: str = "no requests",
    negative: bool = False,
) -> stat.Panel:
    """The newest value, and faintly behind it how it came there; *absent* where there is none. A quarter wide."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .no_value(absent)
        .span(6)
        .height(4)
        .graph_mode(common.BigValueGraphMode.AREA)
        .color_mode(common.BigValueColorMode.VALUE)
        .reduce_options(viz.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(thresholds((None, BLUE)))
        .with_target(target)
    )
    return panel if negative else panel.min(0)


def lines(
    title: str, description: str, unit: str, *targets: prometheus.Dataquery, negative: bool = False
) -> timeseries.Panel:
    """Half wide, from zero on unless *negative*."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(12)
        .height(8)
        .line_width(1)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            viz.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
        )
        .tooltip(viz.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
        .targets(list(targets))
    )
    return panel if negative else panel.min(0)


def ranked(panel: timeseries.Panel) -> timeseries.Panel:
    """For many lines: their names beside the panel, the one that rose highest first."""
    legend = viz.VizLegendOptions().show_legend(True).display_mode(common.LegendDisplayMode.TABLE)
    return panel.legend(
        legend.placement(common.LegendPlacement.RIGHT).calcs(["max", "lastNotNull"]).sort_by("Max").sort_desc(True)
    )


def stacked(title: str, description: str, unit: str, *targets: prometheus.Dataquery) -> timeseries.Panel:
    panel = lines(title, description, unit, *targets)
    return panel.stacking(viz.StackingConfig().mode(common.StackingMode.NORMAL)).fill_opacity(35)


def squares(title: str, description: str, target: prometheus.Dataquery) -> heatmap.Panel:
    """Counts in buckets of seconds. Half wide."""
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(units.Short)
        .span(12)
        .height(8)
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Blues")
            .scale(HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)  # the builder's own 0 are no colors at all, and no square is drawn
            .fill(BLUE)
        )
        .cell_gap(1)
        .y_axis(heatmap.YAxisConfig().unit(units.Seconds).axis_placement(common.AxisPlacement.LEFT))
        .exemplars_color(DOTS)
        .with_target(target)
    )


def listing(title: str, description: str, keys: Mapping[str, str], **columns: Column) -> table.Panel:
    """A row for each combination of labels: *keys* are the columns' names by label. Half wide.

    The columns' queries have the refs A, B, C and so on, in this order: Grafana names their values by them.
    """
    fields = {**keys, **{f"Value #{ref}": name for ref, name in zip("ABCDEFGH", columns, strict=False)}}
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(units.Short)
        .span(12)
        .height(8)
        .targets([target for _, target in columns.values()])
        .with_transformation(DataTransformerConfig("merge", options={}))
        .with_transformation(
            DataTransformerConfig(
                "organize",
                options={
                    "excludeByName": {"Time": True},
                    "indexByName": {field: index for index, field in enumerate(fields)},
                    "renameByName": fields,
                },
            )
        )
    )
    for name, (unit, _) in columns.items():
        panel = panel.override_by_name(name, [DynamicConfigValue("unit", unit)])
    return panel


def found(title: str, description: str, target: tempo.Dataquery) -> table.Panel:
    """Traces that Tempo finds: a row each, the id a link to the trace, the slowest first. Half wide."""
    return (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(traceql.DATASOURCE)
        .unit(units.Milliseconds)  # of the one number that there is, as Tempo gives it
        .no_value("no such trace")
        .span(12)
        .height(9)
        .with_target(target)
        .sort_by([viz.TableSortByFieldState().display_name("Duration").desc(True)])
    )


def log(title: str, description: str, target: loki.Dataquery) -> logs.Panel:
    """Lines, the newest first. The whole width."""
    return (
        logs.Panel()
        .title(title)
        .description(description)
        .datasource(logql.DATASOURCE)
        .unit(units.Short)
        .span(24)
        .height(10)
        .show_time(True)
        .wrap_log_message(True)
        .enable_log_details(True)
        .sort_order(common.LogsSortOrder.DESCENDING)
        .with_target(target)
    )

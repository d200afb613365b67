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


def wide(pixels: int) -> list[DynamicConfigValue]:
    """For a column; the others share what is left. By itself Grafana makes all alike, and the last are out of sight."""
    return [DynamicConfigValue("custom.width", pixels)]


def hot(panel: timeseries.Panel) -> timeseries.Panel:
    """Of failures. From yellow to red, the higher a line rises: green would say that what is there is good."""
    color = dashboard.FieldColor().mode(FieldColorModeId.CONTINUOUS_YL_RD)
    return panel.color_scheme(color.series_by(FieldColorSeriesByMode.MAX)).no_value("no failed requests")


def limited(panel: timeseries.Panel, limit: float) -> timeseries.Panel:
    """A line at *limit*; what ever rises above it is red, the rest blue."""
    color = dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS).series_by(FieldColorSeriesByMode.MAX)
    drawn = viz.GraphThresholdsStyleConfig().mode(LINE)
    return panel.thresholds(thresholds((None, BLUE), (limit, RED))).thresholds_style(drawn).color_scheme(color)


def figure(
    title: str,
    description: str,
    unit: str,
    target: prometheus.Dataquery,
    *,
    absent: str = "no requests",
) -> stat.Panel:
    """The newest value; *absent* where there is none. A quarter wide.

    How it came there is in the rows below: behind the number a line of its color would cross it out.
    """
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .no_value(absent)
        .span(6)
        .height(4)
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.VALUE)
        .reduce_options(viz.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(thresholds((None, BLUE)))
        .with_target(target)
    )


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
    first, *_ = keys.values()
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
    panel = panel.override_by_name(first, wide(90))
    for name, (unit, _) in columns.items():
        panel = panel.override_by_name(name, [DynamicConfigValue("unit", unit), *wide(110)])
    return panel


def found(title: str, description: str, target: tempo.Dataquery) -> table.Panel:
    """Traces that Tempo finds: a row each, the id a link to the trace, the slowest first. Half wide."""
    panel = (
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
    for name, pixels in (("Trace ID", 110), ("Start time", 160), ("Service", 100), ("Duration", 95)):
        panel = panel.override_by_name(name, wide(pixels))
    return panel


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

"""The expressions of the dashboards, and the queries Grafana sends them in.

Where dots come from is decided by Grafana's Prometheus data source, so these rules hold here (tests keep them):
a query that shall bring dots selects `_bucket` series over a range; it is the first of its metric in the panel, because
only that one is asked for exemplars; it filters by labels, never by `le`, which would hide the dots of other buckets;
and its panel is in seconds, because a dot lies at its raw value.
"""

from typing import Final

from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from exemplars import semconv

DATASOURCE: Final = common.DataSourceRef(type_val="prometheus", uid="${prometheus_datasource}")

COUNT: Final = f"{semconv.DURATION}_count"
BUCKET: Final = f"{semconv.DURATION}_bucket"

STEP: Final = "$__rate_interval"
RANGE: Final = "$__range"
JOB: Final = 'job=~"$job"'
REQUESTS: Final = f'{JOB}, {semconv.ROUTE}=~"$route"'

# A failure is a 5xx, an exception or an incomplete response; a client that leaves is none. Our error_type tells in each
# of these cases; not every SDK of other languages adds it to a 5xx, hence the second selector.
LEFT: Final = f"{semconv.CANCELLED}|{semconv.CLIENT_DISCONNECTED}"


def failed(matchers: str = REQUESTS) -> str:
    return f'{matchers}, {semconv.ERROR_TYPE}!~"|{LEFT}"'


def failed_by_status(matchers: str = REQUESTS) -> str:
    return f'{matchers}, {semconv.STATUS}=~"5..", {semconv.ERROR_TYPE}!~"{LEFT}"'


def rate(metric: str, matchers: str = REQUESTS, *, over: str = STEP) -> str:
    return f"rate({metric}{{{matchers}}}[{over}])"


def failures(metric: str, matchers: str = REQUESTS, *, over: str = STEP) -> str:
    """Failed requests, per second, to be summed. Both sides keep all labels, so what is in both is taken once."""
    return f"{rate(metric, failed(matchers), over=over)} or {rate(metric, failed_by_status(matchers), over=over)}"


def total(series: str, *labels: str) -> str:
    return f"sum by ({', '.join(labels)}) ({series})" if labels else f"sum({series})"


def quantile(q: float, series: str, *labels: str) -> str:
    """The labels stay on the lines, so that a click on one in the legend leaves its dots only."""
    return f"histogram_quantile({q}, {total(series, 'le', *labels)})"


def failed_share(*labels: str, over: str = STEP) -> str:
    """Zero where requests came and none failed; nothing where none came."""
    requests = total(rate(COUNT, over=over), *labels)
    return f"({total(failures(COUNT, over=over), *labels)} or 0 * {requests}) / {requests}"


def query(expr: str, legend: str, *, ref: str = "A", dots: bool = False) -> prometheus.Dataquery:
    """*dots* asks for the exemplars of every series that *expr* selects."""
    target = prometheus.Dataquery().datasource(DATASOURCE).ref_id(ref).range().expr(expr)
    return target.legend_format(legend).exemplar(dots)


def buckets(series: str) -> prometheus.Dataquery:
    """For a heatmap, with dots."""
    return query(total(series, "le"), "{{le}}", dots=True).format(PromQueryFormat.HEATMAP)


def rows(expr: str, *, ref: str) -> prometheus.Dataquery:
    """For a table: a row a series, as of the end of the time range."""
    target = prometheus.Dataquery().datasource(DATASOURCE).ref_id(ref).instant().expr(expr)
    return target.format(PromQueryFormat.TABLE).exemplar(False)


def legend(*labels: str) -> str:
    return "  ".join(f"{{{{{label}}}}}" for label in labels)

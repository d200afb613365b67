"""What the dashboards ask Loki: a service's lines, by the names that Loki gives to what comes by OTLP.

`service_name` is an index label, `trace_id` structured metadata. A scrape job is taken to be named as its service.
"""

from typing import Final

from grafana_foundation_sdk.builders import loki
from grafana_foundation_sdk.models import common

from exemplars import semconv

DATASOURCE: Final = common.DataSourceRef(type_val="loki", uid="${loki_datasource}")

SERVICE: Final = "service_name"
LIMIT: Final = 200


def lines(trace: str) -> loki.Dataquery:
    """The lines of the chosen services, of the traces whose id *trace*, a regular expression, matches."""
    expr = f'{{{SERVICE}=~"$job"}} | {semconv.TRACE_ID}=~"{trace}"'
    return loki.Dataquery().datasource(DATASOURCE).ref_id("A").query_type("range").expr(expr).max_lines(LIMIT)

"""What the dashboards ask Tempo: server spans, found by their attributes, so also where no exemplar survived.

A scrape job is taken to be named as its service. Texts are in backticks, as Grafana puts variables in as they are: its
escapes for regular expressions would break a text in quotes.
"""

from typing import Final

from grafana_foundation_sdk.builders import tempo
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.tempo import SearchTableType, TempoQueryType

from exemplars import semconv

DATASOURCE: Final = common.DataSourceRef(type_val="tempo", uid="${tempo_datasource}")

SERVICE: Final = "resource.service.name"
ROUTE: Final = f"span.{semconv.ROUTE.replace('_', '.')}"
FAILED: Final = "status = error"

# The chosen ones. Not every Tempo anchors a regular expression by itself.
OF_SERVICES: Final = f"{SERVICE} =~ `^${{job:regex}}$`"
OF_ROUTES: Final = f"{ROUTE} =~ `^${{route:regex}}$`"

LIMIT: Final = 20


def spans(*conditions: str) -> str:
    """The server spans that meet *conditions*."""
    return f"{{ {' && '.join(('kind = server', *conditions))} }}"


def search(*conditions: str) -> tempo.Dataquery:
    """The traces that have such a span, in the shown time range; the newest, where there are many."""
    target = tempo.Dataquery().datasource(DATASOURCE).ref_id("A").query_type(TempoQueryType.TRACEQL)
    return target.query(spans(*conditions)).limit(LIMIT).table_type(SearchTableType.TRACES)

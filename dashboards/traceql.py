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

LIMIT: Final = 20
NEWEST: Final = "with (most_recent=true)"


def of_route(pattern: str) -> str:
    """A span of a route that *pattern* matches.

    Some SDKs, as Go's for net/http, learn the route too late to set the attribute, but name the span by it.
    """
    # Not every Tempo anchors a regular expression by itself.
    return f"({ROUTE} =~ `^{pattern}$` || name =~ `^[A-Z]+ {pattern}$`)"


# The chosen ones.
OF_SERVICES: Final = f"{SERVICE} =~ `^${{job:regex}}$`"
OF_ROUTES: Final = of_route("${route:regex}")


def spans(*conditions: str) -> str:
    """The server spans that meet *conditions*."""
    return f"{{ {' && '.join(('kind = server', *conditions))} }}"


def search(*conditions: str) -> tempo.Dataquery:
    """The traces that have such a span, in the shown time range.

    Where there are more than LIMIT, the newest: Tempo 2.8 and later heed the hint, older ones take it and find any.
    """
    target = tempo.Dataquery().datasource(DATASOURCE).ref_id("A").query_type(TempoQueryType.TRACEQL)
    return target.query(f"{spans(*conditions)} {NEWEST}").limit(LIMIT).table_type(SearchTableType.TRACES)

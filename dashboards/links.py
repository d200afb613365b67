"""Links from a panel onward: to another dashboard, with time and variables kept, or to the traces behind it in Explore.

Grafana puts the clicked point's value and labels in, and encodes them for a URL, not for the JSON and the regular
expressions that Explore's links are made of: a route that is one itself, as Django's may be, has to be mended there.
"""

import json
import re
from typing import Final
from urllib.parse import quote

from grafana_foundation_sdk.builders.dashboard import DashboardLink
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard
from grafana_foundation_sdk.models.dashboard import DashboardLinkType

from exemplars import semconv

from . import traceql
from .traceql import SERVICE

Link = Builder[dashboard.DashboardLink]

TAG: Final = "exemplars"
OVERVIEW, ROUTES, PIPELINE, SLO = (f"{TAG}-{name}" for name in ("overview", "route", "pipeline", "slo"))

# Of a clicked line, and of a clicked row of a table.
LINE_JOB: Final = "${__field.labels.job:percentencode}"
LINE_ROUTE: Final = f"${{__field.labels.{semconv.ROUTE}:percentencode}}"
ROW_JOB: Final = "${__data.fields.job:percentencode}"
ROW_ROUTE: Final = f"${{__data.fields.{semconv.ROUTE}:percentencode}}"

CHOSEN: Final = (f"{SERVICE} =~ `${{job:pipe}}`",)
CHOSEN_ROUTE: Final = (*CHOSEN, traceql.of_route("${route:percentencode}"))  # where one can be chosen only
OF_LINE_JOB: Final = f"{SERVICE} = `{LINE_JOB}`"
OF_LINE: Final = (OF_LINE_JOB, traceql.of_route(LINE_ROUTE))
OF_ROW: Final = (f"{SERVICE} = `{ROW_JOB}`", traceql.of_route(ROW_ROUTE))
FAILED: Final = traceql.FAILED
SLOWER: Final = "duration >= ${__value.raw}s"

VARIABLE: Final = re.compile(r"(\$\{[^}]+\})")


def traces(title: str, *conditions: str) -> Link:
    """The server spans in the shown time range that meet *conditions*, in Explore."""
    pane = {
        "datasource": "${tempo_datasource}",
        "queries": [
            {"refId": "A", "queryType": "traceql", "query": traceql.spans(*conditions), "limit": traceql.LIMIT}
        ],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    # Grafana replaces variables in the link as it stands, so all but them is encoded.
    parts = VARIABLE.split(json.dumps({"traces": pane}, separators=(",", ":")))
    panes = "".join(part if VARIABLE.fullmatch(part) else quote(part, safe="") for part in parts)
    return DashboardLink(title).url(f"/explore?schemaVersion=1&panes={panes}").target_blank(True)


def board(title: str, uid: str, *kept: str, **chosen: str) -> Link:
    """Another dashboard at the same time: with the variables *kept* as they are, and *chosen* ones as given."""
    variables = [f"${{{name}:queryparam}}" for name in ("prometheus_datasource", *kept)]
    variables += [f"var-{name}={value}" for name, value in chosen.items()]
    return DashboardLink(title).url("&".join((f"/d/{uid}?${{__url_time_range}}", *variables)))


def route(title: str, job: str, name: str) -> Link:
    """The dashboard of one route of one service."""
    return board(title, ROUTES, "tempo_datasource", job=job, route=name)


def boards() -> Link:
    """At the top of every dashboard: the others, with time and variables kept."""
    link = DashboardLink("Exemplars").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.keep_time(True).include_vars(True)

"""Links from a panel to the traces behind it, found by TraceQL in Grafana's Explore."""

import json
import re
from typing import Final
from urllib.parse import quote

from grafana_foundation_sdk.builders.dashboard import DashboardLink

from exemplars import semconv

# Grafana puts the clicked point's value and labels in. Labels of a series can't be encoded by Grafana: a route with a
# quote or a backslash in it, such as one of Django's regexes, has to be mended in Explore.
ROUTE: Final = f"span.{semconv.ROUTE.replace('_', '.')}"
OF_SERIES: Final = f'{ROUTE} = "${{__field.labels.{semconv.ROUTE}}}"'
OF_CELL: Final = f'{ROUTE} = "${{__value.raw:percentencode}}"'
SLOWER: Final = "duration >= ${__value.raw}s"
FAILED: Final = "status = error"

VARIABLE: Final = re.compile(r"(\$\{[^}]+\})")


def traces(title: str, *conditions: str) -> DashboardLink:
    """The server spans of the selected services in the shown time range that meet *conditions*.

    A scrape job is taken to be named as its service.
    """
    selection = " && ".join(('resource.service.name =~ "${job:pipe}"', "kind = server", *conditions))
    pane = {
        "datasource": "${tempo_datasource}",
        "queries": [{"refId": "A", "queryType": "traceql", "query": f"{{ {selection} }}", "limit": 20}],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    # Grafana replaces variables in the link as it stands, so all but them is encoded.
    parts = VARIABLE.split(json.dumps({"traces": pane}, separators=(",", ":")))
    panes = "".join(part if VARIABLE.fullmatch(part) else quote(part, safe="") for part in parts)
    return DashboardLink(title).url(f"/explore?schemaVersion=1&panes={panes}").target_blank(True)

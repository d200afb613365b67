"""Ask Tempo, by id, for the traces that the exemplars of a page point to.

python lookup.py http://localhost:9464/metrics http://localhost:3200
"""

import re
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen


def trace_ids(page: str) -> list[str]:
    request = Request(page, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    with urlopen(request, timeout=10) as response:
        return re.findall(r' # \{trace_id="([0-9a-f]{32})"', response.read().decode())


def has(tempo: str, trace_id: str) -> bool:
    try:
        with urlopen(f"{tempo}/api/traces/{trace_id}", timeout=10):
            return True
    except HTTPError as error:
        if error.code == 404:
            return False
        raise


page, tempo = sys.argv[1:]
for trace_id in dict.fromkeys(trace_ids(page)):
    print(trace_id, "is there" if has(tempo, trace_id) else "is not there")

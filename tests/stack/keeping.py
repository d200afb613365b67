"""What a Collector keeps, and why: figures."""

import json
import re
from urllib.parse import urlencode

from tests.faults.figures import Figures
from tests.stack.process import text
from tests.stack.running import Collector, Tempo

MOST = 100_000  # traces that a search finds


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def votes(collector: Collector) -> dict[str, float]:
    """How many traces each policy wanted kept, since this Collector was started."""
    pattern = r"(?m)^otelcol_processor_tail_sampling_count_traces_sampled\w*\{(.*)\} (\S+)$"
    found: dict[str, float] = {}
    for labels, count in re.findall(pattern, collector.own_metrics()):
        if 'sampled="true"' in labels:
            (policy,) = re.findall(r'policy="([^"]*)"', labels)
            found[policy] = found.get(policy, 0.0) + float(count)
    return found


def traces(tempo: Tempo, query: str, start: float, end: float) -> set[str]:
    """The ids of all traces that a search finds between two times in seconds."""
    span = {"q": query, "start": int(start), "end": int(end) + 1, "limit": MOST, "spss": 1}
    found = json.loads(text(f"{tempo.url}/api/search?{urlencode(span)}"))["traces"]
    return {one["traceID"].rjust(32, "0") for one in found}


def kept(collector: Collector, tempo: Tempo, start: float, end: float, slow: str = "1s") -> Figures:
    """The share of traces that were kept, each by the first reason that there is for it, and what for marks alone."""
    decided = collector.decided()
    total, number = sum(decided.values()), decided.get("true", 0.0)
    every = traces(tempo, "{}", start, end)
    failed = traces(tempo, "{ status = error && kind = server }", start, end)
    refused = traces(tempo, "{ status = error }", start, end) - failed
    lasted = traces(tempo, f"{{ traceDuration >= {slow} }}", start, end) - failed - refused
    marked = traces(tempo, '{ span.exemplar = "true" }', start, end)
    alone = marked - failed - refused - lasted
    figures = Figures({"traces decided": int(total), "traces kept": int(number)})
    figures["of the traces kept"] = percent(number, total)
    for said, ids in (
        ("of the traces kept for an error of a service", failed),
        ("of the traces kept for an error of a client alone (4xx mostly)", refused),
        ("of the traces kept for their duration", lasted),
        ("of the traces kept for a mark and nothing before", alone),
        ("of the traces kept as base share", every - failed - refused - lasted - marked),
    ):
        figures[said] = percent(len(ids), total)
    figures["traces found in the store"] = len(every)
    figures |= {f"votes of the policy {name!r}": int(count) for name, count in sorted(votes(collector).items())}
    return figures

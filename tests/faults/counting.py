"""Whether the counts of the pages are those of the requests, also where workers were killed under them."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from tests.faults.figures import Figures
from tests.faults.load import Request
from tests.faults.pages import Page, Rules


def check(rules: Rules, last: Page, killed: Mapping[int, float]) -> Figures:
    """Hold the pages of *rules*, and the *last* after all requests, against the requests of its load.

    *killed* are pids and the moments just before the kills. A response that came whole from such a worker, but whose
    connection ended only after that, was in flight like one that did not come: it may be counted or not. Every other
    one must be on each page scraped from its end on.
    """
    requests = rules.load.requests
    certain = [r for r in requests if r.completed and r.ended <= killed.get(r.worker, float("inf"))]
    wrong = Counter((r.route, r.status) for r in requests if r.completed and (r.status == 500) != (r.route == "/fail"))
    assert not wrong, f"responses that were not the application's: {wrong}"

    ended, started = _moments(certain, "ended"), _moments(requests, "started")
    for page_started, page_ended, counts in rules.pages:
        for route in started:
            least = bisect_right(ended[route], page_started)
            most = bisect_right(started[route], page_ended)
            count = counts.get(route, 0)
            assert least <= count <= most, f"{route}: {count} on a page that must show {least} to {most}"
    counts = last.counts()
    assert counts.keys() == started.keys()
    for route, count in counts.items():
        least, most = len(ended[route]), len(started[route])
        assert least <= count <= most, f"{route}: {count} at the end, but {least} completed, {most} asked"
    active = last.value("http_server_active_requests")
    assert active == 0, f"{active} active requests at the end"
    completed = sum(request.completed for request in requests)
    return Figures(
        {
            "requests": len(requests),
            "responses completed": completed,
            "of them in flight in killed workers": completed - len(certain),
            "requests that failed": len(requests) - completed,
            "counted at the end": sum(counts.values()),
            "active requests at the end": round(active),
            "pages checked": len(rules.pages),
            "workers that answered them": len(rules.workers),
            "different exemplars on them": len(rules.exemplars),
        }
    )


def _moments(requests: Sequence[Request], moment: str) -> dict[str, list[float]]:
    """Sorted moments by route."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for request in requests:
        found[request.route].append(getattr(request, moment))
    for moments in found.values():
        moments.sort()
    return found

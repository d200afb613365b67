"""The bench itself: it runs, every contender records, and what it says has its shape. No test judges a speed."""

import asyncio
import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from prometheus_client import CollectorRegistry

from tests.bench import asgi, byhand, crew, observations, reading, render, requests, result, served, workers
from tests.bench.processes import FailedError, Process
from tests.bench.rounds import interleave
from tests.bench.spans import SpanKind
from tests.bench.stats import estimate
from tests.bench.subject import BARE, NotRecordedError, Setting, Subject, read

ROOT = Path(__file__).parent.parent
WORKERS = ("shared", "workers", "loop", "cpu")
PEERS = (
    "starlette_exporter",
    "prometheus_fastapi_instrumentator",
    "prometheus_flask_exporter",
    "opentelemetry.exporter.prometheus",
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick run of all rows wrote, in a process of its own: it sets up OpenTelemetry for itself."""
    missing = [peer for peer in PEERS if find_spec(peer) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"not installed: {', '.join(missing)}")
    output = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-W", "error", "-m", "tests.bench", "--quick", "--output", str(output)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert run.stdout == (output / "results.md").read_text() + "\n"
    results: dict[str, Any] = json.loads((output / "results.json").read_text())
    return results


def test_every_setting_has_its_contenders(results: dict[str, Any]) -> None:
    """The matrix is whole: nobody was left out where others were measured."""
    ours = {"exemplars"}
    variants = {
        "exemplars, fresh",
        "exemplars, fresh, no marks",
        "exemplars, expired",
        "exemplars, expired, no marks",
        "exemplars, each taken and marked",
    }
    peers = {
        "Starlette": {"starlette_exporter", "prometheus-fastapi-instrumentator", "OpenTelemetry ASGI"},
        "raw ASGI": {"OpenTelemetry ASGI"},
        "Flask": {"prometheus_flask_exporter", "OpenTelemetry WSGI"},
        "raw WSGI": {"OpenTelemetry WSGI"},
    }
    cells = [cell for cell in results["cells"] if cell["row"] in ("asgi", "wsgi")]
    assert {(cell["group"], cell["name"]) for cell in cells} == {
        (app, f"{routes}, {span}")
        for app in peers
        for routes in ("1 route", "60 routes")
        for span in ("absent", "unsampled", "sampled")
    }
    for cell in cells:
        expected = peers[cell["group"]] | {"prometheus_client by hand"}
        expected |= variants if cell["name"].endswith(", sampled") else ours
        assert set(cell["cost"]) == expected
        assert cell["bare"]["median"] > 0


def test_several_workers_are_measured_against_prometheus_client(results: dict[str, Any]) -> None:
    pages = {"exemplars, cold", "exemplars, every count new", "exemplars, every exemplar new", "exemplars, nothing new"}
    contenders = {
        (cell["row"], cell["group"]): set(cell["cost"]) for cell in results["cells"] if cell["row"] in WORKERS
    }
    assert contenders == {
        ("shared", ""): {
            "exemplars, private memory",
            "exemplars, shared file",
            "prometheus_client, private memory",
            "prometheus_client, multiprocess",
        },
        ("workers", "time"): {"prometheus_client", *pages},
        ("workers", "memory of the first scrape"): {
            f"{side}, {when}" for side in ("exemplars", "prometheus_client") for when in ("at most", "kept afterwards")
        },
        ("workers", "after a start"): {"prometheus_client", "exemplars, cold, a file adopted"},
        ("loop", ""): {f"{name}{of}" for name in ("prometheus_client", *pages) for of in ("", ", CPU time alone")},
        ("cpu", ""): {"the bare application", "exemplars"},
    }


def test_every_estimate_lies_in_its_interval(results: dict[str, Any]) -> None:
    estimates = [value for cell in results["cells"] for value in cell["cost"].values()]
    estimates += [each["ratio"] for cell in results["cells"] for each in cell["ratios"]]
    assert len(estimates) > 200
    for each in estimates:
        assert at(each, "low") <= at(each, "median") <= at(each, "high")


def at(estimate: dict[str, float | None], place: str) -> float:
    """The estimate's value there; beyond measure is null in JSON."""
    value = estimate[place]
    return math.inf if value is None else value


def test_numbers_are_judged_by_the_bad_end_of_the_worst_setting(results: dict[str, Any]) -> None:
    held = Counter(each["what"] for each in results["numbers"])
    assert held == {
        "ASGI request, × prometheus_client by hand": 4,
        "ASGI request, × less than starlette_exporter": 4,
        "WSGI request, × less than prometheus_flask_exporter": 4,
        "page, cold, × less than prometheus_client": 2,
        "page, warm, × less than prometheus_client": 3,
        "observation in a shared file, × exemplars, private memory": 1,
        "page of 8 workers, all new, × less than prometheus_client": 2,
        "page of 8 workers, counts new, × less than prometheus_client": 1,
        "memory for that page, MB": 2,
        "longest gap between turns of the event loop, ms": 8,
        "CPU time of a request under uvicorn, × the bare application": 1,
    }
    judged = [each | {"row": cell["row"]} for cell in results["cells"] for each in cell["ratios"] if "verdict" in each]
    pages = 2 + 3 + 1 + 2 + 1 + 2 + 8 + 1  # and what else has one setting
    assert len(judged) == 2 * 2 * 4 + 2 * 4 + 2 * 4 + pages  # apps, routes, variants; routes, variants
    for number in results["numbers"]:
        assert number["aim"] <= number["must"]
        assert number["verdict"] == verdict(at(number["ratio"], "high"), number["must"], number["aim"])
        bad_ends = [
            at(each["ratio"], "high")
            for each in judged
            if (each["row"], each["ours"]) == (number["row"], number["ours"]) and number["what"].endswith(each["peer"])
        ]
        assert at(number["ratio"], "high") == max(bad_ends)


def verdict(bad_end: float, must: float, aim: float) -> str:
    return "aim reached" if bad_end <= aim else "must reached" if bad_end <= must else "short"


@pytest.mark.parametrize(
    ("count", "low", "high"), [(1, 1, 1), (5, 1, 5), (6, 1, 6), (10, 2, 9), (25, 8, 18), (100, 40, 61)]
)
def test_the_interval_is_that_of_order_statistics(count: int, low: int, high: int) -> None:
    """Ranks as in the tables for 95 %."""
    values = list(range(count, 0, -1))
    assert estimate(values) == ((count + 1) / 2, low, high)


def test_rounds_keep_pairs_together() -> None:
    """Each is called once a round, and the n-th values of all are of one round."""
    calls: list[str] = []

    def timed(name: str) -> float:
        calls.append(name)
        return (len(calls) - 1) // 3

    values = interleave({name: partial(timed, name) for name in "abc"}, 20)
    assert values == {name: list(range(20)) for name in "abc"}
    assert len({tuple(calls[start : start + 3]) for start in range(0, 60, 3)}) > 1


def always(labels: dict[str, str] | None) -> Callable[[], dict[str, str] | None]:
    return lambda: labels


def unchecked() -> dict[str, str]:
    """The exemplar of those who forget to ask whether the span is sampled."""
    context = trace.get_current_span().get_span_context()
    return {"trace_id": trace.format_trace_id(context.trace_id)}


@pytest.mark.parametrize(
    ("span", "exemplar", "complaint"),
    [
        ("sampled", byhand.exemplar, ""),
        ("unsampled", byhand.exemplar, ""),
        ("sampled", always(None), "1 exemplars wanted, shown: 0"),
        ("sampled", always({"trace_id": "1" * 32}), "of no span that was current"),
        ("unsampled", unchecked, "without a sampled span"),
    ],
)
def test_a_contender_without_the_right_exemplars_is_not_measured(
    monkeypatch: pytest.MonkeyPatch,
    registry: CollectorRegistry,
    span: SpanKind,
    exemplar: Callable[[], dict[str, str] | None],
    complaint: str,
) -> None:
    monkeypatch.setattr(byhand, "exemplar", exemplar)
    monkeypatch.setattr(requests, "FILL_SECONDS", 0.0)
    prove(registry, span, lambda app: byhand.ASGI(app, registry, asgi.raw_route), complaint)


def twice(app: Any) -> Any:
    async def contender(scope: Any, receive: Any, send: Any) -> None:
        async def dropped(message: Any) -> None:
            pass

        await app(scope, receive, dropped)
        await app(scope, receive, send)

    return contender


def louder(app: Any) -> Any:
    async def contender(scope: Any, receive: Any, send: Any) -> None:
        async def changed(message: Any) -> None:
            await send(message | {"body": b"HERE YOU ARE"} if "body" in message else message)

        await app(scope, receive, changed)

    return contender


@pytest.mark.parametrize(
    ("wrap", "complaint"),
    [
        (lambda app, registry: byhand.ASGI(app, registry, asgi.raw_route), ""),
        (lambda app, registry: app, "61 sent, 0 counted"),
        (lambda app, registry: twice(byhand.ASGI(app, registry, asgi.raw_route)), "61 sent, 122 counted"),
        (lambda app, registry: louder(byhand.ASGI(app, registry, asgi.raw_route)), "changes the response"),
        (lambda app, registry: byhand.ASGI(app, registry, lambda scope: ""), "60 routes, recorded: ['']"),
    ],
)
def test_a_contender_that_does_other_work_is_not_measured(
    registry: CollectorRegistry, wrap: Callable[[Any, CollectorRegistry], Any], complaint: str
) -> None:
    prove(registry, "absent", lambda app: wrap(app, registry), complaint)


def prove(registry: CollectorRegistry, span: SpanKind, wrap: Callable[[Any], Any], complaint: str) -> None:
    """Let the contender that *wrap* makes prove itself; expect the *complaint*, or none."""
    app = asgi.raw(60)
    count = f"{byhand.DURATION}_count"
    contender = Subject("contender", [wrap(app)], lambda: read([registry], count, "http_route"), exemplars=True)
    expected = pytest.raises(NotRecordedError, match=re.escape(complaint)) if complaint else nullcontext()
    with closing(asgi.Interface()) as interface, expected:
        setting = Setting("raw ASGI", 60, span)
        requests.streams(setting, interface, lambda setting, block: [Subject(BARE, [app]), contender], 60)


def test_an_observation_that_is_not_in_the_file_is_noticed() -> None:
    with observations.subjects() as made:
        for each in made:
            each.observe([0.01] * 7)
            each.check()
        in_file = next(each for each in made if each.name == observations.IN_FILE)
        private = next(each for each in made if each.name == result.PRIVATE)
        in_file.series[0].record = private.series[0].record
        in_file.observe([0.01])
        with pytest.raises(NotRecordedError, match="1 observations, |counted"):
            in_file.check()


def test_a_page_that_does_not_tell_all_that_workers_counted_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real workers, in real files of both kinds; the scraper's page has the exemplars of the last of them."""
    monkeypatch.setattr(workers, "WORKERS", 2)
    with workers.hired() as hired, hired.scraper() as scraper:
        for command in ("ours", "theirs"):
            hired.ask(scraper, command)
        hired.workers[0].ask("counts")
        with pytest.raises(NotRecordedError, match="the page tells"):
            hired.ask(scraper, "ours")
        hired.have("counts")
        hired.ask(scraper, "ours")
        hired.workers[0].ask("exemplars")  # the newest are now those of the first
        hired.said[0]["ours"] += len(render.LABEL_SETS) * len(render.AMOUNTS)
        with pytest.raises(NotRecordedError, match="the page tells"):
            hired.ask(scraper, "ours")


def test_the_gap_is_the_longest_time_without_a_turn() -> None:
    async def blocks() -> None:
        await asyncio.sleep(0)
        time.sleep(0.05)  # noqa: ASYNC251
        await asyncio.sleep(0)
        until = time.thread_time() + 0.01
        while time.thread_time() < until:
            pass

    wall, cpu = asyncio.run(crew.gaps(blocks))
    assert wall >= 0.05
    assert cpu >= 0.01


def test_what_waits_gives_turns() -> None:
    """Time that is waited for is no gap, however long a starved machine makes one of the turns in it."""
    waited = 0.0

    async def waits() -> None:
        nonlocal waited
        started = time.perf_counter()
        for _ in range(20):
            await asyncio.sleep(0.01)
        waited = time.perf_counter() - started

    wall, _ = asyncio.run(crew.gaps(waits))
    assert wall < waited


def test_memory_is_weighed_at_its_most_and_afterwards() -> None:
    left: list[bytes] = []

    def scrape() -> None:
        passing = bytes(5_000_000)
        left.append(bytes(1_000_000))
        del passing

    peak, said, kept = crew.weigh(scrape, lambda: {"said": "all"})
    assert said == {"said": "all"}
    assert 6_000_000 <= peak < 6_100_000
    assert 1_000_000 <= kept < 1_100_000


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        (b'%s{http_route="/shops/{shop_number}/items"} 3\n x # {trace_id="1"}', ""),
        (b'%s{http_route="/shops/{shop_number}/items"} 2\n x # {trace_id="1"}', "3 sent, 2 counted"),
        (b'%s{http_route="/shops"} 3\n x # {trace_id="1"}', "3 sent, 0 counted"),
        (b'%s{http_route="/shops/{shop_number}/items"} 3\n', "not traced"),
    ],
)
def test_a_server_whose_requests_are_not_counted_and_traced_is_not_measured(page: bytes, complaint: str) -> None:
    class Answering(served.Server):
        def get(self, path: str, **headers: str) -> bytes:
            return page % b"http_server_request_duration_seconds_count"

    server = Answering(0)
    server.sent = 3
    with pytest.raises(NotRecordedError, match=complaint) if complaint else nullcontext():
        served.check(server)


def test_a_process_that_ends_instead_of_answering_is_noticed() -> None:
    with Process(crew.__name__, "filler", "nonsense") as process, pytest.raises(FailedError, match="ended with 1"):
        process.ask("filled")


def test_a_point_of_the_picture_is_measured(tmp_path: Path) -> None:
    (point,) = reading.measure([(2, 100)], 1)
    assert (point.workers, point.series) == (2, 100)
    assert all(value > 0 for value in point.milliseconds.values())


def test_the_picture_is_that_of_its_data() -> None:
    data = json.loads(reading.DATA.read_text())
    assert {(each["workers"], each["series"]) for each in data["points"]} == set(reading.points())
    assert reading.PICTURE.read_text() == reading.picture(data)

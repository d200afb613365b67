"""The way over from other libraries: what their dashboards ask, answered by our metrics and the rule files.

What the others counted of the same requests stands in `tests/data/migrating`; `tests.apps.migrating` says how it came
there. Prometheus, the applications and the rules are real ones.
"""

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from exemplars import semconv
from tests.programs import PACKAGES, PATIENCE, Prometheus, eventually, program, prometheus, serving

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = (ROOT / "docs" / "migrating.md").read_text()
RULES: Final = ROOT / "docs" / "migrating"
PEERS: Final = sorted(file.stem for file in RULES.glob("*.yml"))
ANY_JOB: Final = 'job=~".+"'
OTHER: Final = "another-service"
STEP: Final = 15  # seconds between scrapes where time is made up

Labels = frozenset[tuple[str, str]]
Samples = dict[tuple[str, Labels], float]

each_peer = pytest.mark.parametrize("peer", PEERS)


def rules(peer: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES / f"{peer}.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def records(peer: str) -> set[str]:
    return {rule["record"] for rule in rules(peer)}


def source(rule: dict[str, Any]) -> str:
    """The one selector of a rule's expression."""
    (selector,) = re.findall(r"\w+\{[^}]*\}", rule["expr"])
    return str(selector)


def metric(rule: dict[str, Any]) -> str:
    return source(rule).partition("{")[0]


def samples(page: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def counted_before(peer: str) -> Samples:
    return samples((ROOT / "tests" / "data" / "migrating" / f"{peer}.txt").read_text())


def section(peer: str) -> str:
    """What the page says of *peer*."""
    found = re.search(rf"^## From {re.sub('[-_]', '[-_]', peer)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found, f"no section for {peer}"
    return found[1]


def family(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name)


# The files


@each_peer
def test_promtool_accepts_the_rules(peer: str) -> None:
    command = [program("promtool"), "check", "rules", str(RULES / f"{peer}.yml")]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@each_peer
def test_every_rule_waits_for_the_job_to_be_named(peer: str) -> None:
    for rule in rules(peer):
        assert ANY_JOB in source(rule)
    assert f"s/{ANY_JOB}/job=" in PAGE
    assert f"migrating/{peer}.yml" in section(peer)


# The page


def table(peer: str) -> dict[str, str]:
    """What the page says of each old metric."""
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*) \|$", section(peer).split("| label or ")[0], re.M)
    return {name: now for names, now in rows for name in re.findall(r"\w+", names)}


@each_peer
def test_the_page_has_a_word_on_every_old_metric(peer: str) -> None:
    before = {family(name) for name, _ in counted_before(peer)}
    said = table(peer)
    assert said.keys() == before
    with_rule = {name for name, now in said.items() if now.endswith("| rule")}
    assert with_rule == {family(record) for record in records(peer)}
    assert {name for name, now in said.items() if "not measured" in now} == before - with_rule


@each_peer
def test_the_page_names_every_old_label(peer: str) -> None:
    labels = {
        label for (name, key) in counted_before(peer) if family(name) in map(family, records(peer)) for label, _ in key
    }
    assert labels - {"le"} <= set(re.findall(r"`(\w+)`", section(peer)))


CHECK: Final = """
from exemplars import render
from tests.drivers import make_environ, make_scope, run_asgi, run_wsgi

if "FastAPI" in globals():
    run_asgi(app, make_scope("/nowhere"))
else:
    run_wsgi(globals().get("application") or app, make_environ("/nowhere"))
print(render()[0].decode())
"""
DJANGO: Final = """
from django.conf import settings
settings.configure(ROOT_URLCONF=type("Urls", (), {"urlpatterns": ()}), ALLOWED_HOSTS=["*"], SECRET_KEY="not one")
import django
django.setup()
"""


@each_peer
def test_the_snippet_runs_and_keeps_the_bounds_and_measures_what_rules_need(peer: str) -> None:
    (snippet,) = re.findall(r"^```python\n(.*?)^```", section(peer), re.M | re.S)
    program = (DJANGO if "django" in snippet else "") + snippet + CHECK
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment())
    assert run.returncode == 0, run.stderr
    now = samples(run.stdout)
    assert {metric(rule) for rule in rules(peer)} <= {name for name, _ in now}
    assert bounds(now, f"{semconv.DURATION}_bucket") >= {
        bound for name, _ in counted_before(peer) if "seconds" in name for bound in bounds(counted_before(peer), name)
    }


def bounds(of: Samples, name: str) -> set[str]:
    return {value for key, labels in of if key == name for label, value in labels if label == "le"}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(PACKAGES)}


# Asked of a real Prometheus

# What the page says is counted in another place now: labels as they were, and what stands in them now.
RELABELLED: Final[dict[str, list[tuple[tuple[str, str], tuple[str, str]]]]] = {
    "starlette-exporter": [(("method", "XYZ"), ("method", "_OTHER"))],
    "prometheus-fastapi-instrumentator": [
        (("method", "XYZ"), ("method", "_OTHER")),
        (("handler", "/slash"), ("handler", "none")),
    ],
    "prometheus-flask-exporter": [
        (("method", "XYZ"), ("method", "_OTHER")),
        (("path", "/items/7"), ("path", "/items/<int:item_id>")),
        (("path", "/items/8"), ("path", "/items/<int:item_id>")),
        (("path", "/api/things/1"), ("path", "/api/things/<int:thing>")),
        *((("path", path), ("path", "")) for path in ("/items/nine", "/slash", "/only-get", "/nowhere")),
    ],
    "django-prometheus": [(("method", "XYZ"), ("method", "<invalid method>"))],
}

_STARLETTE = {"app_name": "starlette"}
_405, _499 = {"status_code": "405", "path": "/only-get"}, {"status_code": "499", "path": "/waits", "method": "GET"}
_DJANGO_404, _DJANGO_301 = ({"method": "GET", "view": "<unnamed view>", "status": code} for code in ("404", "301"))
# And what the page says is counted otherwise.
OTHERWISE: Final[dict[str, list[tuple[str, dict[str, str], float]]]] = {
    "starlette-exporter": [
        (name, _STARLETTE | labels, value)
        for name in ("starlette_requests_total", "starlette_request_duration_seconds_count")
        for labels, value in (
            (_405 | {"method": "DELETE"}, 5.0),
            (_405 | {"method": "_OTHER"}, 1.0),
            (_499, 2.0),
        )
    ]
    + [
        ("starlette_request_body_bytes_total", _STARLETTE | labels, 0.0)
        for labels in (_405 | {"method": "DELETE"}, _405 | {"method": "_OTHER"}, _499)
    ],
    "prometheus-fastapi-instrumentator": [],
    "prometheus-flask-exporter": [],
    "django-prometheus": [
        ("django_http_requests_latency_seconds_by_view_method_count", {"method": "GET", "view": "fail"}, 7.0),
        ("django_http_responses_total_by_status_total", {"status": "404"}, 12.0),
        ("django_http_responses_total_by_status_total", {"status": "301"}, 3.0),
        ("django_http_responses_total_by_status_view_method_total", _DJANGO_404, 12.0),
        ("django_http_responses_total_by_status_view_method_total", _DJANGO_301, 3.0),
        ("django_http_responses_body_total_bytes_count", {}, 55.0),
    ],
}
# Here the clock, or the frameworks' own pages of errors, decide.
VARIABLE: Final = re.compile(r".*(_bucket|seconds.*_sum|response.*bytes.*(_sum|total))")


def expected(peer: str) -> Samples:
    """What the peer counted, as far as there are rules for it, in the places that the page names."""
    found: Samples = defaultdict(float)
    for (name, labels), value in counted_before(peer).items():
        changed = dict(labels)
        for (label, before), (_, after) in RELABELLED[peer]:
            if changed.get(label) == before:
                changed[label] = after
        found[name, frozenset((label, value) for label, value in changed.items() if value)] += value
    for name, different, value in OTHERWISE[peer]:
        found[name, frozenset(different.items())] = value
    return {key: value for key, value in found.items() if key[0] in records(peer) and not VARIABLE.fullmatch(key[0])}


@dataclass(frozen=True)
class Moved:
    """All peers' applications in our middleware, scraped, and the rules evaluated."""

    prometheus: Prometheus
    pages: dict[str, str]
    at: float  # when all was there: every question is asked of this moment

    def query(self, query: str) -> dict[Labels, float]:
        found = self.prometheus.ask("query", query=query, time=self.at)["result"]
        return {frozenset(series["metric"].items()): float(series["value"][1]) for series in found}

    def recorded(self, peer: str, job: str = "") -> Samples:
        names = "|".join(records(peer))
        found: Samples = {}
        for labels, value in self.query(f'{{__name__=~"{names}", job="{job or peer}"}}').items():
            kept = dict(labels)
            name = kept.pop("__name__")
            del kept["job"], kept["instance"]
            found[name, frozenset(kept.items())] = value
        return found


def page(url: str) -> str:
    with urlopen(f"{url}/metrics", timeout=PATIENCE) as response:
        return str(response.read().decode())


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    directory = tmp_path_factory.mktemp("migrating")
    for peer in PEERS:
        text = (RULES / f"{peer}.yml").read_text()
        text = text.replace(ANY_JOB, f'job="{peer}"').replace(f"interval: {STEP}s", "interval: 1s")
        (directory / f"{peer}.yml").write_text(text)
    with contextlib.ExitStack() as stack:
        urls = {
            peer: stack.enter_context(serving(peer, ["tests.apps.migrating", peer, "serve"], directory))
            for peer in PEERS
        }
        jobs = [
            {"job_name": job, "static_configs": [{"targets": [url.removeprefix("http://")]}]}
            for job, url in {**urls, OTHER: urls[PEERS[0]]}.items()
        ]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(directory / f"{peer}.yml") for peer in PEERS],
            "scrape_configs": jobs,
        }
        running = stack.enter_context(prometheus(directory, config))
        pages = {peer: page(url) for peer, url in urls.items()}

        def complete() -> Moved | None:
            now = Moved(running, pages, time.time())
            others = now.query(f'{semconv.DURATION}_count{{job="{OTHER}"}}')
            return (
                now
                if others and all(records(peer) <= {name for name, _ in now.recorded(peer)} for peer in PEERS)
                else None
            )

        yield eventually(complete, "the rules to be evaluated", running.errors)


@each_peer
def test_the_old_names_and_labels_have_the_old_numbers(peer: str, moved: Moved) -> None:
    recorded = moved.recorded(peer)
    assert {key: value for key, value in recorded.items() if not VARIABLE.fullmatch(key[0])} == expected(peer)


@each_peer
def test_where_the_clock_decides_the_labels_are_still_the_old_ones(peer: str, moved: Moved) -> None:
    """A sum and its buckets have the label sets of their count, which was compared."""
    recorded = moved.recorded(peer)
    for name in filter(VARIABLE.fullmatch, records(peer)):
        twin = f"{family(name)}_count" if family(name) != name else "starlette_requests_total"
        labels = {frozenset((k, v) for k, v in labels if k != "le") for key, labels in recorded if key == name}
        assert labels == {labels for key, labels in recorded if key == twin}, name


@each_peer
def test_nothing_is_lost_or_counted_twice(peer: str, moved: Moved) -> None:
    for rule in rules(peer):
        chosen = source(rule).replace(ANY_JOB, f'job="{peer}"')
        before = moved.query(f"sum by (le) ({chosen})")
        after = moved.query(f'sum by (le) ({rule["record"]}{{job="{peer}"}})')
        assert before and after.keys() == before.keys()
        for labels, value in before.items():
            assert after[labels] == pytest.approx(value), rule["record"]


@each_peer
def test_rules_leave_other_jobs_alone(peer: str, moved: Moved) -> None:
    assert moved.recorded(peer, OTHER) == {}


# A counter under another name is still a counter: published queries, in made-up time, over a restart


def series(name: str, labels: dict[str, str]) -> str:
    return f"{name}{{{','.join(f'{label}={json.dumps(value)}' for label, value in labels.items())}}}"


def scrapes(peer: str, page: str, metrics: set[str]) -> list[dict[str, str]]:
    """Two instances whose counters grow by what the page shows from scrape to scrape; one restarts, the other not."""
    return [
        {
            "series": series(name, {**dict(labels), "job": peer, "instance": instance}),
            "values": f"0+{value}x7 {value}+{value}x12" if instance == "restarts" else f"0+{value}x20",
        }
        for (name, labels), value in samples(page).items()
        if name in metrics
        for instance in ("restarts", "stays")
    ]


def ask_promtool(
    peer: str, page: str, query: str, answer: Mapping[Labels, float], directory: Path, more: Mapping[str, str]
) -> None:
    """Check that *query*, asked of what the rules make of *page*, has *answer*, whose labels have *more* to them."""
    # promtool compares to the last bit, so it is asked how many samples are as they should be.
    asked = (f"count(abs(({query}) - answer) < 1e-9)", f"count(({query}) > 0)")
    test = {
        "interval": f"{STEP}s",
        "input_series": scrapes(peer, page, {metric(rule) for rule in rules(peer) if rule["record"] in query})
        + [
            {"series": series("answer", {**dict(key), **more}), "values": f"{value}+0x20"}
            for key, value in answer.items()
        ],
        "promql_expr_test": [
            {"expr": expr, "eval_time": f"{at}s", "exp_samples": [{"labels": "{}", "value": len(answer)}]}
            for expr in asked
            for at in (9 * STEP, 13 * STEP)
        ],
    }
    files = {"rule_files": [str(RULES / f"{peer}.yml")], "evaluation_interval": f"{STEP}s", "tests": [test]}
    (directory / "test.yml").write_text(yaml.safe_dump(files))
    command = [program("promtool"), "test", "rules", str(directory / "test.yml")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, f"{run.stdout}{run.stderr} of {answer}"


@dataclass(frozen=True)
class Question:
    """A query of a dashboard, alert or README, and how its answer follows from what is recorded after one load."""

    peer: str
    query: str
    answer: Callable[[Samples], dict[Labels, float]]


def rates(
    name: str, by: tuple[str, ...] = (), where: Mapping[str, str] = MappingProxyType({}), times: float = 2 / STEP
) -> Callable[[Samples], dict[Labels, float]]:
    """Per *by*, *times* the sum of *name*'s samples whose labels match the patterns *where*. Both instances: 2."""

    def answer(recorded: Samples) -> dict[Labels, float]:
        sums: dict[Labels, float] = defaultdict(float)
        for (key, labels), value in recorded.items():
            of = dict(labels)
            if key == name and all(re.fullmatch(pattern, of.get(label, "")) for label, pattern in where.items()):
                sums[frozenset((label, of[label]) for label in by if of.get(label))] += value * times
        return sums

    return answer


def ratio(
    above: Callable[[Samples], dict[Labels, float]], below: Callable[[Samples], dict[Labels, float]]
) -> Callable[[Samples], dict[Labels, float]]:
    def answer(recorded: Samples) -> dict[Labels, float]:
        over = below(recorded)
        return {labels: value / over[labels] for labels, value in above(recorded).items()}

    return answer


def quantile(
    q: float, name: str, where: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Samples], dict[Labels, float]]:
    """The quantile by Prometheus' own rule: linear inside the bucket where it lies."""

    def answer(recorded: Samples) -> dict[Labels, float]:
        sums = rates(f"{name}_bucket", ("le",), where)(recorded)
        buckets = sorted((float(dict(labels)["le"]), value) for labels, value in sums.items())
        rank, lower, below = q * buckets[-1][1], 0.0, 0.0
        for bound, value in buckets:
            if value >= rank:
                at = lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (value - below)
                return {frozenset(): at}
            lower, below = bound, value
        raise AssertionError("no bucket holds it")

    return answer


_STARLETTE_TIME = "starlette_request_duration_seconds"
_HIGHR, _LOWR = "http_request_duration_highr_seconds", "http_request_duration_seconds"
_FLASK_TIME = "flask_http_request_duration_seconds"
_DJANGO_TIME = "django_http_requests_latency_seconds_by_view_method"
_DJANGO_STATUS = "django_http_responses_total_by_status_view_method_total"
_DJANGO_VIEWS = "django_http_requests_total_by_view_transport_method_total"
NAMED: Final = "(?!<unnamed view>).*"

QUESTIONS: Final = (
    # As people who use it ask: it has no dashboard of its own.
    Question(
        "starlette-exporter",
        'sum(rate(starlette_requests_total{path="/items/{item_id}",method="GET"}[1m])) by (app_name, status_code)',
        rates(
            "starlette_requests_total",
            ("app_name", "status_code"),
            {"path": re.escape("/items/{item_id}"), "method": "GET"},
        ),
    ),
    Question(
        "starlette-exporter",
        'rate(starlette_requests_total{status_code=~"5..",instance="restarts"}[1m])',
        rates(
            "starlette_requests_total", ("app_name", "method", "path", "status_code"), {"status_code": "5.."}, 1 / STEP
        ),
    ),
    Question(
        "starlette-exporter",
        f"histogram_quantile(0.95, sum(rate({_STARLETTE_TIME}_bucket[1m])) by (le))",
        quantile(0.95, _STARLETTE_TIME),
    ),
    # Likewise.
    Question(
        "prometheus-fastapi-instrumentator",
        'sum by (handler) (rate(http_requests_total{status=~"5..|5xx"}[1m]))',
        rates("http_requests_total", ("handler",), {"status": "5xx"}),
    ),
    Question(
        "prometheus-fastapi-instrumentator",
        f"sum(rate({_LOWR}_sum[1m])) / sum(rate({_LOWR}_count[1m]))",
        ratio(rates(f"{_LOWR}_sum"), rates(f"{_LOWR}_count")),
    ),
    Question(
        "prometheus-fastapi-instrumentator",
        f"histogram_quantile(0.95, sum(rate({_HIGHR}_bucket[1m])) by (le))",
        quantile(0.95, _HIGHR),
    ),
    Question(
        "prometheus-fastapi-instrumentator",
        f'sum by (handler) (rate({_LOWR}_bucket{{le="0.5"}}[1m])) / sum by (handler) (rate({_LOWR}_count[1m]))',
        ratio(rates(f"{_LOWR}_bucket", ("handler",), {"le": "0.5"}), rates(f"{_LOWR}_count", ("handler",))),
    ),
    # Its dashboards/flask_webapp.json, summed up where a panel draws every series.
    Question(
        "prometheus-flask-exporter",
        f'sum(rate({_FLASK_TIME}_count{{status!="200"}}[30s]))',
        rates(f"{_FLASK_TIME}_count", where={"status": "(?!200).*"}),
    ),
    Question(
        "prometheus-flask-exporter",
        'increase(flask_http_request_total{instance="restarts"}[1m])',
        rates("flask_http_request_total", ("method", "status"), times=60 / STEP),
    ),
    Question(
        "prometheus-flask-exporter",
        f'rate({_FLASK_TIME}_sum{{status="200",instance="restarts"}}[30s])'
        f' / rate({_FLASK_TIME}_count{{status="200",instance="restarts"}}[30s])',
        ratio(
            rates(f"{_FLASK_TIME}_sum", ("method", "path", "status"), {"status": "200"}),
            rates(f"{_FLASK_TIME}_count", ("method", "path", "status"), {"status": "200"}),
        ),
    ),
    Question(
        "prometheus-flask-exporter",
        f'sum(increase({_FLASK_TIME}_bucket{{status="200",le="0.25"}}[30s]))'
        f' / ignoring (le) sum(increase({_FLASK_TIME}_count{{status="200"}}[30s]))',
        ratio(
            rates(f"{_FLASK_TIME}_bucket", where={"status": "200", "le": "0.25"}),
            rates(f"{_FLASK_TIME}_count", where={"status": "200"}),
        ),
    ),
    Question(
        "prometheus-flask-exporter",
        f'histogram_quantile(0.9, sum by (le) (rate({_FLASK_TIME}_bucket{{status="200"}}[30s])))',
        quantile(0.9, _FLASK_TIME, {"status": "200"}),
    ),
    # examples/prometheus/django.rules, and the dashboards and alerts of django-mixin.
    Question(
        "django-prometheus",
        "sum(rate(django_http_requests_before_middlewares_total[30s])) by (job)",
        lambda recorded: {
            frozenset({("job", "django-prometheus")}): value
            for value in rates("django_http_requests_before_middlewares_total")(recorded).values()
        },
    ),
    Question(
        "django-prometheus",
        f'sum(rate({_DJANGO_VIEWS}{{view=~".*",view!~"<unnamed view>|prometheus-django-metrics"}}[1m])) by (view)',
        rates(_DJANGO_VIEWS, ("view",), {"view": NAMED}),
    ),
    Question(
        "django-prometheus",
        f'sum(rate({_DJANGO_STATUS}{{status!~"[4-5].*",view!~"<unnamed view>"}}[1m]))'
        f' / sum(rate({_DJANGO_STATUS}{{view!~"<unnamed view>"}}[1m]))',
        ratio(
            rates(_DJANGO_STATUS, where={"status": "[^45].*", "view": NAMED}),
            rates(_DJANGO_STATUS, where={"view": NAMED}),
        ),
    ),
    Question(
        "django-prometheus",
        f'histogram_quantile(0.95, sum(rate({_DJANGO_TIME}_bucket{{view="stream",method="GET"}}[1m])) by (le))',
        quantile(0.95, _DJANGO_TIME, {"view": "stream", "method": "GET"}),
    ),
    Question(
        "django-prometheus",
        "sum by (view) (increase(django_http_exceptions_total_by_view_total[1m]) > 0)",
        rates("django_http_exceptions_total_by_view_total", ("view",), times=2 * 60 / STEP),
    ),
)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.query)
def test_an_old_query_has_the_right_answer_over_a_restart(question: Question, moved: Moved, tmp_path: Path) -> None:
    """One of two instances has restarted within the range that the query looks back on, or shortly before."""
    answer = {key: value for key, value in question.answer(moved.recorded(question.peer)).items() if value}
    assert answer
    one = {"job": question.peer, "instance": "restarts"} if 'instance="restarts"' in question.query else {}
    ask_promtool(question.peer, moved.pages[question.peer], question.query, answer, tmp_path, one)


def test_without_a_label_view_the_route_stands_there(moved: Moved, tmp_path: Path) -> None:
    page = re.sub(r',view="[^"]*"', "", moved.pages["django-prometheus"])
    routes = {"item": "items/<int:item>", "make": "items", "api:thing": "api/things/<int:item>", "slash": "slash/"}
    by_name = rates(_DJANGO_VIEWS, ("view",))(moved.recorded("django-prometheus"))
    by_route = {
        frozenset({("view", routes.get(view, view))}): value for labels, value in by_name.items() for _, view in labels
    }
    ask_promtool("django-prometheus", page, f"sum by (view) (rate({_DJANGO_VIEWS}[1m]))", by_route, tmp_path, {})


def test_flasks_rules_can_tell_the_time_until_the_headers(moved: Moved) -> None:
    """The page's other way to have them: their metric in the place of ours, with the same labels."""
    before, after = re.findall(r"`sed 's/(\w+)/(\w+)/'`", section("prometheus-flask-exporter"))[0]
    shown = samples(moved.pages["prometheus-flask-exporter"])

    def labels(name: str) -> set[str]:
        return {label for key, labels in shown if key == name for label, _ in labels}

    for rule in rules("prometheus-flask-exporter"):
        assert labels(metric(rule)) and labels(metric(rule)) == labels(metric(rule).replace(before, after))
        assert before != after and before in metric(rule)

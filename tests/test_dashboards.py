"""The dashboards: what Grafana would ask, asked of a real Prometheus, and the rules that bring dots."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard
from prometheus_client import CollectorRegistry

import exemplars
from dashboards import build
from exemplars import semconv

from .programs import Prometheus, prometheus

ROOT: Final = Path(__file__).parent.parent
DASHBOARDS: Final = sorted((ROOT / "dashboards").glob("*.json"))
JOB: Final = "shop"


@dataclass(frozen=True)
class Target:
    """A query of a panel."""

    dashboard: str
    panel: str
    kind: str
    unit: str
    ref: str
    expr: str
    exemplar: bool
    range: bool

    def asked(self, route: str = ".*") -> str:
        """The expression as Grafana sends it, its variables replaced."""
        values = {"job": JOB, "route": route, "__rate_interval": "1m", "__range": "1m"}
        return re.sub(r"\$(\w+)", lambda found: values[found[1]], self.expr)


def panels(file: Path) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(file.read_text())["panels"] if panel["type"] != "row"]


def targets() -> list[Target]:
    return [
        Target(
            file.stem,
            panel["title"],
            panel["type"],
            # A heatmap's own unit is the count's; dots lie on its axis.
            panel["options"]["yAxis"]["unit"]
            if panel["type"] == "heatmap"
            else panel["fieldConfig"]["defaults"]["unit"],
            target["refId"],
            target["expr"],
            target["exemplar"],
            target["range"],
        )
        for file in DASHBOARDS
        for panel in panels(file)
        for target in panel["targets"]
    ]


TARGETS: Final = targets()
DOTTED: Final = [target for target in TARGETS if target.exemplar]
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.panel}-{target.ref}")
each_dotted = pytest.mark.parametrize("target", DOTTED, ids=lambda target: target.panel)
each_dashboard = pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)


def links(file: Path) -> Iterator[dict[str, Any]]:
    for panel in panels(file):
        yield from panel["fieldConfig"]["defaults"].get("links", ())
        for override in panel["fieldConfig"]["overrides"]:
            for setting in override["properties"]:
                if setting["id"] == "links":
                    yield from setting["value"]


# What is committed


def test_committed_files_are_what_the_code_generates() -> None:
    assert {file.name: file.read_text() for file in DASHBOARDS} == build.files()


def test_the_wheel_ships_every_dashboard() -> None:
    if (ROOT / "exemplars").exists():
        pytest.skip("runs beside the source tree, so no wheel is tested")
    shipped = files(exemplars).joinpath("dashboards")
    assert {file.name: file.read_text() for file in shipped.iterdir()} == build.files()


@each_dashboard
def test_grafana_can_provision_it(file: Path) -> None:
    """Classic JSON with an identity of its own; data sources are variables, as no `__inputs` are resolved in files."""
    content = json.loads(file.read_text())
    assert content["uid"] and content["title"] and content["description"]
    assert content["editable"] is False
    assert "__inputs" not in content and "id" not in content and "apiVersion" not in content
    variables = {variable["name"]: variable for variable in content["templating"]["list"]}
    assert list(variables) == ["prometheus_datasource", "tempo_datasource", "job", "route"]
    assert variables["prometheus_datasource"]["query"] == "prometheus"
    assert variables["tempo_datasource"]["query"] == "tempo"
    source = {"type": "prometheus", "uid": "${prometheus_datasource}"}
    assert variables["job"]["datasource"] == variables["route"]["datasource"] == source
    for panel in panels(file):
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])


@each_dashboard
def test_grafanas_own_types_know_every_field(file: Path) -> None:
    """Read into them and written again it is the same: what they do not know would be gone."""
    plugins.register_default_plugins()
    content = json.loads(file.read_text())
    assert json.loads(JSONEncoder().encode(GrafanaDashboard.from_json(content))) == content


@each_dashboard
def test_every_panel_says_what_it_shows_and_in_which_unit(file: Path) -> None:
    titles = [panel["title"] for panel in panels(file)]
    assert len(set(titles)) == len(titles)
    for panel in panels(file):
        assert len(panel["description"].split(". ")) >= 2, f"{panel['title']}: what it shows, and what to do"
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@each_dashboard
def test_rows_fill_the_grid(file: Path) -> None:
    """Every row is 24 wide, its panels of one height and one after another; each lies right below the one before."""
    content = json.loads(file.read_text())
    below = 0
    for top, row in groupby(content["panels"], key=lambda panel: panel["gridPos"]["y"]):
        spots = [panel["gridPos"] for panel in row]
        assert top == below
        assert [spot["x"] for spot in spots] == [sum(spot["w"] for spot in spots[:n]) for n in range(len(spots))]
        assert sum(spot["w"] for spot in spots) == 24
        assert len({spot["h"] for spot in spots}) == 1
        below += spots[0]["h"]
    numbers = [panel["id"] for panel in panels(file)]
    assert numbers == list(range(1, len(numbers) + 1))


# The rules that bring dots


@each_dotted
def test_dots_come_from_buckets_over_a_range_in_seconds(target: Target) -> None:
    assert target.kind in ("timeseries", "heatmap"), "no other panel shows dots"
    assert target.range, "instant queries bring none"
    assert target.unit == "s", "a dot lies at its raw value"
    assert not re.search(r"\*\s*1000", target.expr)
    selected = re.findall(r"(\w+)\{", target.expr)
    assert selected and all(name.endswith("_bucket") for name in selected)
    matchers = " ".join(re.findall(r"\{([^}]*)\}", target.expr))
    assert not re.search(r"\ble\s*(=|!)", matchers), "le would filter the dots of all other buckets away"


@each_dashboard
def test_the_first_query_of_a_metric_asks_for_the_dots(file: Path) -> None:
    """Grafana asks for a metric's exemplars once a panel, with its first target; a second one shows every dot twice."""
    for panel in panels(file):
        asking = [target["exemplar"] for target in panel["targets"]]
        assert asking.count(True) <= 1
        assert True not in asking[1:]
        assert not any(target.get("hide") for target in panel["targets"])


def test_the_panels_with_dots_are_these() -> None:
    assert [target.panel for target in DOTTED] == [
        "Durations: p50, p95, p99",
        "Durations: where the requests lie",
        "Durations of failures: p99 by route",
        "Durations: p99 by route",
    ]


@each_target
def test_labels_of_a_legend_stay_on_the_series(target: Target) -> None:
    """A legend click leaves the dots whose labels fit the series, so what names a line must be one of its labels."""
    if target.kind not in ("timeseries", "heatmap"):
        return
    panel = next(
        panel for panel in panels(ROOT / f"dashboards/{target.dashboard}.json") if panel["title"] == target.panel
    )
    legend = next(query["legendFormat"] for query in panel["targets"] if query["refId"] == target.ref)
    kept = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", target.expr) for label in labels.split(",")}
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= kept


# Names


def test_metrics_and_labels_exist_in_our_names(registry: CollectorRegistry) -> None:
    """Metrics that the code names or shows of itself; labels that they have."""
    exemplars.ASGIMiddleware(lambda scope, receive, send: None, registry=registry)  # type: ignore[arg-type, return-value]
    page = exemplars.render(registry)[0].decode()
    families = re.findall(r"^# TYPE (\w+) (\w+)", page, re.MULTILINE)
    endings = {"histogram": ("_bucket", "_count", "_sum"), "gauge": ("",), "counter": ("",)}
    known = {name + ending for name, kind in families for ending in endings[kind]}
    labels = {*semconv.REQUEST_LABELS, *semconv.ACTIVE_LABELS, "le", "job", "kind"}
    for target in TARGETS:
        assert set(re.findall(r"(\w+)\{", target.expr)) <= known
        used = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", target.expr)
        used += [label.strip() for group in re.findall(r"by \(([^)]*)\)", target.expr) for label in group.split(",")]
        assert set(used) <= labels


# Links


@each_dashboard
def test_links_open_explore_with_a_query_for_traces(file: Path) -> None:
    """Decoded as a browser would: a pane of JSON whose query is of Tempo and of the dashboard's services and time."""
    found = list(links(file))
    assert found
    for link in found:
        address = urlsplit(link["url"])
        assert address.path == "/explore"
        panes = json.loads(parse_qs(address.query)["panes"][0])
        (pane,) = panes.values()
        (query,) = pane["queries"]
        assert pane["datasource"] == "${tempo_datasource}"
        assert pane["range"] == {"from": "${__from}", "to": "${__to}"}
        assert query["queryType"] == "traceql"
        assert query["query"].startswith('{ resource.service.name =~ "${job:pipe}" && kind = server')
        assert set(re.findall(r"\$\{(\w+)", link["url"])) <= {
            "tempo_datasource",
            "job",
            "__from",
            "__to",
            "__value",
            "__field",
        }


# Asked of the real Prometheus


@dataclass(frozen=True)
class Case:
    """A kind of request, by its labels, and the one exemplar that its series shows."""

    route: str
    status: str
    error: str
    seconds: float
    failed: bool

    @property
    def trace(self) -> str:
        return f"{CASES.index(self) + 1:032x}"

    def observe(self, durations: exemplars.Histogram) -> None:
        labels = {semconv.ROUTE: self.route, semconv.STATUS: self.status, semconv.ERROR_TYPE: self.error}
        child = durations.labels(**labels, **{semconv.METHOD: "GET", semconv.SCHEME: "http"})
        child.observe(self.seconds, {semconv.TRACE_ID: self.trace, semconv.SPAN_ID: self.trace[16:]})


CASES: Final = (
    Case("/items", "200", "", 0.02, failed=False),
    Case("/items", "404", "", 0.004, failed=False),
    Case("/items", "500", "500", 0.3, failed=True),
    Case("/items", "500", "ValueError", 0.003, failed=True),
    Case("/items", "503", "", 0.06, failed=True),  # as an SDK of another language says it
    Case("/export", "200", "OSError", 6.0, failed=True),
    Case("/export", "200", "incomplete_response", 0.8, failed=True),
    Case("/export", "200", "client_disconnected", 12.0, failed=False),
    Case("/export", "500", "cancelled", 3.0, failed=False),
    Case("/export", "", "client_disconnected", 1.5, failed=False),
    Case("", "404", "", 0.001, failed=False),
)
FAILED_ONES: Final = [case for case in CASES if case.failed]


@dataclass(frozen=True)
class Shop:
    """What was asked of, and when."""

    prometheus: Prometheus
    start: float

    def dots(self, target: Target, route: str = ".*") -> list[str]:
        found = self.prometheus.exemplars(target.asked(route), self.start, time.time() + 1)
        return sorted(exemplar["labels"][semconv.TRACE_ID] for exemplar in found)

    def value(self, target: Target, route: str = ".*") -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.prometheus.ask("query", query=target.asked(route))["result"]
        return result


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A Prometheus that has scraped a page with every case, before and after each was observed once more."""
    registry = CollectorRegistry()
    durations = exemplars.Histogram(
        semconv.DURATION, "Durations.", semconv.REQUEST_LABELS, registry=registry, buckets=semconv.DURATION_BUCKETS
    )
    active = exemplars.Gauge(semconv.ACTIVE_REQUESTS, "In flight.", semconv.ACTIVE_LABELS, registry=registry)
    active.labels("GET", "http").set(3)
    server, thread = exemplars.start_http_server(0, "127.0.0.1", registry)
    scrape = {
        "job_name": JOB,
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"]}],
    }
    try:
        start = time.time() - 1
        for case in CASES:
            case.observe(durations)
        flag = "--enable-feature=exemplar-storage"
        with prometheus(tmp_path_factory.mktemp("prometheus"), {"scrape_configs": [scrape]}, flag) as running:
            running.scraped(JOB, 2)
            for case in CASES:
                case.observe(durations)
            running.scraped(JOB, 2)
            yield Shop(running, start)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def of(panel: str, ref: str = "A") -> Target:
    return next(target for target in TARGETS if (target.panel, target.ref) == (panel, ref))


def traces(cases: list[Case]) -> list[str]:
    return sorted(case.trace for case in cases)


@each_target
def test_prometheus_understands_every_query(target: Target, shop: Shop) -> None:
    if target.range:
        now = time.time()
        shop.prometheus.ask("query_range", query=target.asked(), start=now - 60, end=now, step=5)
    else:
        shop.prometheus.ask("query", query=target.asked())


@pytest.mark.parametrize(
    "target",
    [target for target in TARGETS if semconv.DURATION in target.expr or semconv.ACTIVE_REQUESTS in target.expr],
    ids=lambda target: f"{target.panel}-{target.ref}",
)
def test_every_query_of_requests_has_an_answer(target: Target, shop: Shop) -> None:
    assert shop.value(target)


@each_dotted
def test_every_case_has_its_dot_once(target: Target, shop: Shop) -> None:
    cases = FAILED_ONES if "failures" in target.panel else list(CASES)
    assert shop.dots(target) == traces(cases)


@each_dotted
def test_the_route_chosen_filters_dots(target: Target, shop: Shop) -> None:
    cases = FAILED_ONES if "failures" in target.panel else list(CASES)
    assert shop.dots(target, "/export") == traces([case for case in cases if case.route == "/export"])


@pytest.mark.parametrize("panel", ["Requests", "Requests by status", "Error share", "In flight"])
def test_other_panels_ask_for_no_dots(panel: str) -> None:
    assert not of(panel).exemplar


def test_error_share_counts_failures_and_not_those_who_left(shop: Shop) -> None:
    (series,) = shop.value(of("Error share"))
    assert float(series["value"][1]) == pytest.approx(len(FAILED_ONES) / len(CASES))


def test_error_share_is_zero_without_failures_and_absent_without_requests(shop: Shop) -> None:
    failing_none = of("Error share").asked().replace('http_route=~".*"', 'http_route=""')
    (series,) = shop.prometheus.ask("query", query=failing_none)["result"]
    assert float(series["value"][1]) == 0
    assert shop.value(of("Error share"), "/unheard-of") == []


def test_errors_are_named_by_route_and_kind(shop: Shop) -> None:
    found = shop.value(of("Failures by route and kind"))
    kinds = {(series["metric"][semconv.ROUTE], series["metric"].get(semconv.ERROR_TYPE, "")) for series in found}
    assert kinds == {(case.route, case.error) for case in FAILED_ONES}


def test_a_status_is_shown_for_those_who_left_before_it(shop: Shop) -> None:
    found = shop.value(of("Requests by status"))
    assert {series["metric"][semconv.STATUS] for series in found} == {"200", "404", "500", "503", "left"}


def test_the_table_has_a_row_for_every_route(shop: Shop) -> None:
    table = [target for target in TARGETS if target.kind == "table"]
    assert [target.ref for target in table] == ["A", "B", "C", "D"]
    for target in table:
        rows = {series["metric"].get(semconv.ROUTE, ""): float(series["value"][1]) for series in shop.value(target)}
        assert set(rows) == {case.route for case in CASES}
        if target.ref == "B":
            for route, share in rows.items():
                mine = [case for case in CASES if case.route == route]
                assert share == pytest.approx(sum(case.failed for case in mine) / len(mine))

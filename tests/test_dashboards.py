"""The dashboards as files: generated, valid, with the rules that bring dots, and links that lead somewhere.

What Prometheus answers to their queries is in `test_dashboards_asked`.
"""

import json
import re
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard
from prometheus_client import CollectorRegistry

import exemplars
from dashboards import build
from exemplars import semconv

from .boards import FILES, ROOT, TARGETS, Target, each, each_dashboard, links, panels, used

BOARDS: Final[dict[str, dict[str, Any]]] = {file.stem: json.loads(file.read_text()) for file in FILES}
BY_UID: Final = {board["uid"]: board for board in BOARDS.values()}
DOTTED: Final = [target for target in TARGETS if target.exemplar]
PROMQL: Final = [target for target in TARGETS if target.source == "prometheus"]
each_dotted = each(DOTTED)
SOURCES: Final = {"prometheus": "prometheus_datasource", "tempo": "tempo_datasource", "loki": "loki_datasource"}


def variables(board: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in board["templating"]["list"]}


# What is committed


def test_committed_files_are_what_the_code_generates() -> None:
    assert {file.name: file.read_text() for file in FILES} == build.files()


def test_the_wheel_ships_every_dashboard() -> None:
    if (ROOT / "exemplars").exists():
        pytest.skip("runs beside the source tree, so no wheel is tested")
    shipped = files(exemplars).joinpath("dashboards")
    assert {file.name: file.read_text() for file in shipped.iterdir()} == build.files()


@each_dashboard
def test_grafana_can_provision_it(file: Path) -> None:
    """Classic JSON with an identity of its own; data sources are variables, as no `__inputs` are resolved in files."""
    board = BOARDS[file.stem]
    assert board["uid"] == f"exemplars-{file.stem}" and board["title"] and board["description"]
    assert board["editable"] is False
    assert "__inputs" not in board and "id" not in board and "apiVersion" not in board
    # 36 is Grafana 10.0's; a newer Grafana migrates upwards, an older one ignores what it does not know.
    assert board["schemaVersion"] >= 36


@each_dashboard
def test_every_data_source_is_a_variable_named_for_what_it_is(file: Path) -> None:
    board = BOARDS[file.stem]
    chosen = {name: variable for name, variable in variables(board).items() if variable["type"] == "datasource"}
    assert list(variables(board))[: len(chosen)] == list(chosen), "what depends on them comes after them"
    assert {variable["query"]: name for name, variable in chosen.items()}.items() <= SOURCES.items()
    asking: list[dict[str, Any]] = [variable for variable in variables(board).values() if variable["type"] == "query"]
    for panel in panels(file):
        asking += [panel, *panel["targets"]]
    for one in asking:
        kind = one["datasource"]["type"]
        assert one["datasource"]["uid"] == f"${{{SOURCES[kind]}}}"
        assert SOURCES[kind] in chosen


@each_dashboard
def test_every_variable_that_is_used_is_there_and_every_one_there_is_used(file: Path) -> None:
    board = BOARDS[file.stem]
    assert used(board) == set(variables(board))


@each(TARGETS)
def test_nothing_is_tied_to_one_installation(target: Target) -> None:
    """A job or an instance is what the reader chooses."""
    named = re.findall(r"\b(?:job|instance|service_name|service\.name)\s*=~?\s*[\"`]\^?([^\"`]*)", target.expr)
    assert named, "every query is of something chosen"
    assert all(value.startswith("$") for value in named)


@each_dashboard
def test_grafanas_own_types_know_every_field(file: Path) -> None:
    """Read into them and written again it is the same: what they do not know would be gone."""
    plugins.register_default_plugins()
    assert build.encoded(GrafanaDashboard.from_json(BOARDS[file.stem])) == file.read_text()


@each_dashboard
def test_every_panel_says_what_it_shows_and_in_which_unit(file: Path) -> None:
    titles = [panel["title"] for panel in panels(file)]
    assert len(set(titles)) == len(titles)
    for panel in panels(file):
        assert len(panel["description"].split(". ")) >= 2, f"{panel['title']}: what it shows, and what to do"
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@each_dashboard
def test_heatmaps_have_colors_to_draw_in(file: Path) -> None:
    assert all(panel["options"]["color"]["steps"] > 1 for panel in panels(file) if panel["type"] == "heatmap")


@each_dashboard
def test_rows_fill_the_grid(file: Path) -> None:
    """Every row is 24 wide, its panels of one height and one after another; each lies right below the one before."""
    below = 0
    for top, row in groupby(BOARDS[file.stem]["panels"], key=lambda panel: panel["gridPos"]["y"]):
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
    assert target.source == "prometheus" and target.kind in ("timeseries", "heatmap"), "nothing else shows dots"
    assert target.range, "instant queries bring none"
    assert target.unit == "s", "a dot lies at its raw value"
    assert not re.search(r"\*\s*1000", target.expr)
    selected = re.findall(r"([\w:]+)\{", target.expr)
    assert selected and all(name.endswith("_bucket") for name in selected), "recording rules have no exemplars"
    matchers = " ".join(re.findall(r"\{([^}]*)\}", target.expr))
    assert not re.search(r"\ble\s*(=|!)", matchers), "le would filter the dots of all other buckets away"


@each_dashboard
def test_the_first_query_of_a_metric_asks_for_the_dots(file: Path) -> None:
    """Grafana asks for a metric's exemplars once a panel, with its first target; a second one shows every dot twice."""
    for panel in panels(file):
        asking = [target.get("exemplar", False) for target in panel["targets"]]
        assert asking.count(True) <= 1
        assert True not in asking[1:]
        assert not any(target.get("hide") for target in panel["targets"])


def test_the_panels_with_dots_are_these() -> None:
    assert {(target.dashboard, target.panel) for target in DOTTED} == {
        ("overview", "Durations: p50, p95, p99"),
        ("overview", "Durations: where the requests lie"),
        ("overview", "Durations of failures: p99 by route"),
        ("overview", "Durations: p99 by route"),
        ("route", "Durations: p50, p95, p99"),
        ("route", "Durations: where the requests lie"),
        ("route", "Durations by status: p99, p50"),
        ("route", "Durations of failures: p99 by kind"),
        ("slo", "What burns the latency budget"),
        ("slo", "What burns the availability budget"),
    }


@each([target for target in PROMQL if target.kind in ("timeseries", "heatmap")])
def test_labels_of_a_legend_stay_on_the_series(target: Target) -> None:
    """A legend click leaves the dots whose labels fit the series, so what names a line must be one of its labels."""
    kept = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", target.expr) for label in labels.split(",")}
    named = set(re.findall(r"\{\{(\w+)\}\}", target.legend))
    assert named <= kept or "sum" not in target.expr


# Names


def test_our_metrics_and_labels_exist(registry: CollectorRegistry) -> None:
    """Those that the code names or shows of itself, and labels that they have; the others' are in `tests/stack`."""
    exemplars.ASGIMiddleware(lambda scope, receive, send: None, registry=registry)  # type: ignore[arg-type, return-value]
    page = exemplars.render(registry)[0].decode()
    families = re.findall(r"^# TYPE (\w+) (\w+)", page, re.MULTILINE)
    endings = {"histogram": ("_bucket", "_count", "_sum"), "gauge": ("",), "counter": ("",)}
    known = {name + ending for name, kind in families for ending in endings[kind]}
    labels = {*semconv.REQUEST_LABELS, *semconv.ACTIVE_LABELS, "le", "job", "kind", "metric", "reason"}
    ours = [target for target in PROMQL if re.search(r"\b(http|exemplars)_\w+\{", target.expr)]
    assert len(ours) > 20
    for target in ours:
        names = set(re.findall(r"([\w:]+)\{", target.expr)) - {"rate"}
        assert {name for name in names if name.startswith(("http_", "exemplars_"))} <= known
        if "otelcol_" not in target.expr:
            labelled = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", target.expr)
            grouped = re.findall(r"by \(([^)]*)\)", target.expr)
            labelled += [label.strip() for group in grouped for label in group.split(",")]
            assert set(labelled) <= labels


# Links


@each_dashboard
def test_the_other_dashboards_are_a_click_away_with_time_and_variables_kept(file: Path) -> None:
    (link,) = BOARDS[file.stem]["links"]
    assert link["type"] == "dashboards" and link["keepTime"] and link["includeVars"]
    assert "placement" not in link, "it would be in a menu"
    assert all(set(link["tags"]) <= set(board["tags"]) for board in BOARDS.values())


@each_dashboard
def test_every_panel_leads_onward(file: Path) -> None:
    """But the logs, whose lines bring links of their own."""
    assert [panel["title"] for panel in panels(file) if not list(links(panel)) and panel["type"] != "logs"] == []


@each_dashboard
def test_links_lead_to_traces_or_to_a_dashboard_that_has_their_variables(file: Path) -> None:
    found = [link for panel in panels(file) for link in links(panel)]
    assert found
    for link in found:
        address = urlsplit(link["url"])
        if address.path == "/explore":
            opens_explore(link["url"])
        else:
            assert used(link["url"]) <= set(variables(BOARDS[file.stem]))
            opens_a_dashboard(link["url"])


def opens_explore(url: str) -> None:
    """Decoded as a browser would: a pane of JSON whose query is of Tempo and of the shown time."""
    panes = json.loads(parse_qs(urlsplit(url).query)["panes"][0])
    (pane,) = panes.values()
    (query,) = pane["queries"]
    assert pane["datasource"] == "${tempo_datasource}"
    assert pane["range"] == {"from": "${__from}", "to": "${__to}"}
    assert query["queryType"] == "traceql"
    assert query["query"].startswith("{ kind = server && resource.service.name =")


def opens_a_dashboard(url: str) -> None:
    """By its uid, at the same time, with data sources kept, and with no variable that it does not have."""
    address = urlsplit(url)
    board = BY_UID[address.path.removeprefix("/d/")]
    time, *given = address.query.split("&")
    assert time == "${__url_time_range}"
    names = {found for one in given for found in re.findall(r"^(?:var-(\w+)=.+|\$\{(\w+):queryparam\})$", one)}
    assert len(names) == len(given)
    assert {"prometheus_datasource"} <= {a or b for a, b in names} <= set(variables(board))


@pytest.mark.parametrize(("start", "ends"), [("overview", {"route", "pipeline", "slo"}), ("slo", {"overview"})])
def test_the_way_down_is_there(start: str, ends: set[str]) -> None:
    """From a service to its route, from an objective to the service; where a panel shows requests, also to traces."""
    uids = {urlsplit(link["url"]).path for panel in panels(ROOT / f"dashboards/{start}.json") for link in links(panel)}
    assert {f"/d/exemplars-{end}" for end in ends} <= uids

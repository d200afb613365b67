"""The linter over what we ship, against live pages; and that it catches what each of its rules is there for.

What a Collector exposes is compared in `tests/stack/test_dashboards.py`.
"""

import copy
import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import yaml

from exemplars import semconv

from .boards import ROOT, each_dashboard
from .lint import exposed, findings
from .lint.trees import DIRECTORY, parse
from .programs import PATIENCE, prometheus, serving

RULES: Final = sorted((ROOT / "compose" / "rules").glob("*.yml"))
SOURCES: Final = ROOT / "compose" / "grafana" / "datasources.yaml"
OVERVIEW: Final = ROOT / "dashboards" / "overview.json"
COLLECTOR: Final = ("otelcol_",)

Board = dict[str, Any]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The metrics of a service of ours that has answered, and of a Prometheus that scrapes it."""
    directory = tmp_path_factory.mktemp("pages")
    uvicorn = ("uvicorn", "--port=0", "--no-access-log", "exemplars.demo.front:app")
    with ExitStack() as stack:
        # Nobody listens there, so it fails: an answer as good as any other.
        settings = {"OTEL_SERVICE_NAME": "front", "STOCK_URL": "http://127.0.0.1:1"}
        front = stack.enter_context(serving("front", uvicorn, directory, **settings))
        try:
            urlopen(f"{front}/products/lamp", timeout=PATIENCE).close()
        except HTTPError as error:
            error.close()
        job = {"job_name": "front", "static_configs": [{"targets": [front.removeprefix("http://")]}]}
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]}
        server = stack.enter_context(prometheus(directory, config, "--enable-feature=exemplar-storage"))
        server.scraped("front")
        found: dict[str, set[str]] = {}
        for url in (front, server.url):
            with urlopen(f"{url}/metrics", timeout=PATIENCE) as page:
                found |= exposed.metrics(page.read().decode())
    assert {f"{semconv.DURATION}_bucket", "exemplars_taken_total", "prometheus_tsdb_exemplar_max_exemplars"} <= set(
        found
    )
    return found


@pytest.fixture(scope="module")
def known(pages: dict[str, set[str]]) -> dict[str, set[str]]:
    """What a query may ask for: what is exposed, and what our rules record."""
    return pages | {name: labels for file in RULES for name, labels in findings.recorded(groups(file)).items()}


def groups(file: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = yaml.safe_load(file.read_text())["groups"]
    return content


# What we ship


@each_dashboard
def test_nothing_is_wrong_with_a_dashboard(file: Path, known: dict[str, set[str]]) -> None:
    assert findings.of_board(json.loads(file.read_text()), known, COLLECTOR) == []


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.stem)
def test_nothing_is_wrong_with_the_rules(file: Path, pages: dict[str, set[str]]) -> None:
    assert findings.of_rules(file.name, groups(file), pages) == []


def test_nothing_is_wrong_with_the_data_sources(known: dict[str, set[str]]) -> None:
    assert findings.of_sources(yaml.safe_load(SOURCES.read_text()), known) == []


def test_the_lock_file_names_no_place_and_every_content() -> None:
    """Packages come from whatever registry npm is set to, and are what they were, by their hashes."""
    packages = json.loads((DIRECTORY / "package-lock.json").read_text())["packages"]
    del packages[""]
    assert len(packages) == 6
    assert all(
        "resolved" not in package and package["integrity"].startswith("sha512-") for package in packages.values()
    )


# What the grammars take


@pytest.mark.parametrize(
    ("language", "good", "bad"),
    [
        ("promql", 'sum by (le) (rate(a_bucket{b=~"c"}[5m]))', 'sum by (le (rate(a_bucket{b=~"c"}[5m]))'),
        ("traceql", "{ kind = server && span.http.route =~ `^/a$` }", "{ kind = server && span.http.route =~ ^/a$ }"),
        ("logql", '{service_name=~".+"} | trace_id="x"', '{service_name=~".+"} | trace_id='),
    ],
)
def test_a_grammar_takes_its_language_and_shows_where_another_begins(language: str, good: str, bad: str) -> None:
    taken, refused = parse([(language, good), (language, bad)])
    assert list(findings._errors(findings.Asked("here", language, good), taken)) == []
    (finding, *_) = findings._errors(findings.Asked("here", language, bad), refused)
    assert re.match(rf"here: no {language} at \d+: .*⟨here⟩", finding)


# What each rule catches: a dashboard broken on purpose, and the one finding it has to bring


def panel(board: Board, title: str) -> dict[str, Any]:
    found: dict[str, Any] = next(panel for panel in board["panels"] if panel["title"] == title)
    return found


DURATIONS: Final = "Durations: p50, p95, p99"
HEATMAP: Final = "Durations: where the requests lie"
BREAKERS: Final[list[tuple[Callable[[Board], object], str]]] = []


def breaks(finding: str) -> Callable[[Callable[[Board], object]], Callable[[Board], object]]:
    def add(breaker: Callable[[Board], object]) -> Callable[[Board], object]:
        BREAKERS.append((breaker, finding))
        return breaker

    return add


def target(board: Board, title: str = DURATIONS, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = panel(board, title)["targets"][number]
    return found


def replace(one: dict[str, Any], old: str, new: str) -> None:
    assert old in one["expr"]
    one["expr"] = one["expr"].replace(old, new)


@breaks(f"exemplars-overview / {DURATIONS} / A: no promql at ")
def a_query_that_does_not_parse(board: Board) -> None:
    replace(target(board), "sum by (le)", "sum by (le")


@breaks("nothing exposes http_server_duration_milliseconds_bucket")
def a_metric_that_nothing_exposes(board: Board) -> None:
    replace(target(board, number=1), f"{semconv.DURATION}_bucket", "http_server_duration_milliseconds_bucket")


@breaks(f"{semconv.DURATION}_bucket has no label http_status_code")
def a_label_that_the_metric_does_not_have(board: Board) -> None:
    replace(target(board, number=1), 'job=~"$job"', 'job=~"$job", http_status_code="200"')


@breaks("nothing there has a label path")
def a_grouping_by_a_label_that_nothing_has(board: Board) -> None:
    replace(target(board, number=1), "by (le)", "by (le, path)")


@breaks("the legend names route, which no line has")
def a_legend_of_a_label_that_is_gone(board: Board) -> None:
    target(board, number=1)["legendFormat"] = "{{route}}"


@breaks("there is no variable jobs")
def a_variable_that_is_not_there(board: Board) -> None:
    replace(target(board, number=1), "$job", "$jobs")


@breaks("there is no variable __rate_intervall")
def a_variable_of_grafana_that_it_does_not_have(board: Board) -> None:
    replace(target(board, number=1), "$__rate_interval", "$__rate_intervall")


@breaks("there is no variable services")
def a_link_by_a_variable_that_is_not_there(board: Board) -> None:
    links = panel(board, DURATIONS)["fieldConfig"]["defaults"]["links"]
    links[0]["url"] = links[0]["url"].replace("${job:", "${services:")
    assert "services" in links[0]["url"]


@breaks("no traceql at ")
def a_link_whose_query_does_not_parse(board: Board) -> None:
    links = panel(board, DURATIONS)["fieldConfig"]["defaults"]["links"]
    links[0]["url"] = links[0]["url"].replace("kind%20%3D%20server", "kind%20server")
    assert "kind%20server" in links[0]["url"]


@breaks("variable route: nothing exposes http_requests_total")
def a_variable_that_asks_for_nothing(board: Board) -> None:
    route = next(one for one in board["templating"]["list"] if one["name"] == "route")
    route["query"] = "label_values(http_requests_total, http_route)"


@breaks("no data source prometheus of type prometheus")
def a_data_source_of_one_installation(board: Board) -> None:
    target(board)["datasource"]["uid"] = "prometheus"


@breaks("no data source ${tempo_datasource} of type prometheus")
def a_data_source_of_another_kind(board: Board) -> None:
    panel(board, DURATIONS)["datasource"]["uid"] = "${tempo_datasource}"


@breaks("the unit is ms, and dots lie at seconds")
def lines_in_milliseconds(board: Board) -> None:
    panel(board, DURATIONS)["fieldConfig"]["defaults"]["unit"] = "ms"


@breaks("the unit is ms, and dots lie at seconds")
def squares_in_milliseconds(board: Board) -> None:
    panel(board, HEATMAP)["options"]["yAxis"]["unit"] = "ms"


@breaks("lines are scaled, and dots are not")
def lines_that_are_scaled(board: Board) -> None:
    target(board)["expr"] = f"1000 * {target(board)['expr']}"


@breaks("only a query over a range brings dots")
def an_instant_query(board: Board) -> None:
    target(board).update(range=False, instant=True)


@breaks(f"{semconv.DURATION}_count is no histogram's bucket")
def dots_of_a_count(board: Board) -> None:
    target(board)["expr"] = f'rate({semconv.DURATION}_count{{job=~"$job", http_route=~"$route"}}[$__rate_interval])'


@breaks("le hides the dots of other buckets")
def a_matcher_that_hides_the_slow_ones(board: Board) -> None:
    replace(target(board), 'job=~"$job"', 'job=~"$job", le="0.25"')


@breaks("job:slo_errors_per_request:ratio_rate5m is recorded, and that has no exemplars")
def dots_of_a_recording_rule(board: Board) -> None:
    target(board)["expr"] = 'job:slo_errors_per_request:ratio_rate5m{job=~"$job"}'


@breaks("and only that brings dots")
def dots_asked_for_by_the_second_query(board: Board) -> None:
    target(board)["exemplar"] = False
    target(board, number=1)["exemplar"] = True


@breaks(f"A, B all ask for the dots of {semconv.DURATION}_bucket, so each is drawn twice")
def dots_asked_for_twice(board: Board) -> None:
    target(board, number=1)["exemplar"] = True


@breaks("a hidden query brings no dots")
def dots_of_a_hidden_query(board: Board) -> None:
    target(board)["hide"] = True


@breaks("it speaks of dots, and no query asks for them")
def a_promise_that_is_not_kept(board: Board) -> None:
    target(board, HEATMAP)["exemplar"] = False


@breaks("a stat shows no dots")
def dots_in_a_panel_that_shows_none(board: Board) -> None:
    panel(board, DURATIONS)["type"] = "stat"


@pytest.mark.parametrize(("breaker", "finding"), BREAKERS, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_broken_on_purpose_is_found(
    breaker: Callable[[Board], object], finding: str, known: dict[str, set[str]]
) -> None:
    whole = json.loads(OVERVIEW.read_text())
    broken = copy.deepcopy(whole)
    breaker(broken)
    assert broken != whole
    found = findings.of_board(broken, known, COLLECTOR)
    assert any(finding in one for one in found), found
    assert all(one.startswith("exemplars-overview / ") for one in found)


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("sum by (job) (", "sum by (job (", "no promql at"),
        (f"{semconv.DURATION}_count", "http_requests_total", "nothing exposes http_requests_total"),
        ("error_type", "error", "has no label error "),
        ("ratio_rate5m{", "ratio_rate10m{", "nothing exposes job:slo_errors_per_request:ratio_rate10m"),
        ("ratio_rate5m%s", "ratio_rate10m%s", "description: nothing exposes job:slo_errors_per_request:ratio_rate10m"),
        ("(time() - 3600)", "(time( - 3600)", "dashboard_url: no promql at"),
        ("on (job)", "on (service)", "nothing there has a label service"),
    ],
)
def test_a_broken_file_of_rules_is_found(old: str, new: str, finding: str, pages: dict[str, set[str]]) -> None:
    text = RULES[-1].read_text()
    assert old in text
    found = findings.of_rules("slo.yml", yaml.safe_load(text.replace(old, new))["groups"], pages)
    assert any(finding in one for one in found), found


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("datasourceUid: tempo", "datasourceUid: temp", "there is no data source temp"),
        ("sum by (le) (rate", "sum by (le (rate", "no promql at"),
        ("{$$__tags}[1m])))", "{$__tags}[1m])))", "a dollar sign is left"),
        ("value: http_route", "value: route", "has no label route"),
        ('| trace_id="', '| trace_id "', "no logql at"),
    ],
)
def test_broken_data_sources_are_found(old: str, new: str, finding: str, known: dict[str, set[str]]) -> None:
    text = SOURCES.read_text()
    assert old in text
    found = findings.of_sources(yaml.safe_load(text.replace(old, new)), known)
    assert any(finding in one for one in found), found

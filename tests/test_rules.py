"""Objectives are read or refused, the rules are what is committed, and the alerts fire and clear when they should.

The latter is replayed by promtool, which is Prometheus's own engine on made-up series.
"""

import argparse
import contextlib
import random
import re
import shlex
import subprocess
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

import exemplars
from exemplars import cli, rules, semconv
from exemplars.cli import main
from exemplars.rules.groups import PAGE, TICKET

from .programs import eventually, own_server, program, prometheus
from .slo import FIRING, PAGING, Phase, Query, Service, firing, run

ROOT: Final = Path(__file__).parent.parent
COMMITTED: Final = ROOT / "compose" / "rules" / "slo.yml"
HOUR, DAY = 60, 24 * 60  # in minutes
BOTH: Final = rules.Objectives(Decimal("99.9"), (rules.Latency(0.25, Decimal("99.9")),))
# Days are replayed with fewer evaluations.
BOTH_SLOWLY: Final = rules.Objectives(Decimal("99.9"), (rules.Latency(0.25, Decimal("99.9")),), interval=240)


# Arguments


@given(st.decimals(min_value="0.000001", max_value="99.999999", places=6))
def test_a_percentage_is_taken_to_the_digit(number: Decimal) -> None:
    assert rules.percent(str(number)) == number
    (objective,) = (
        rule["expr"]
        for rule in rules.groups(rules.Objectives(number))[0]["rules"]
        if rule["record"] == "job:slo_objective:ratio"
    )
    assert Decimal(objective.split(" ")[0]) == number / 100


@given(st.text() | st.floats().map(str) | st.sampled_from(["0", "100", "0.0", "99.9%", "-1", "1e1", "٩٩", " 99"]))
def test_what_is_no_percentage_between_0_and_100_is_refused_by_name(text: str) -> None:
    try:
        number = rules.percent(text)
    except ValueError as error:
        assert repr(text) in str(error) and "99.9" in str(error)
    else:
        assert 0 < number < 100 and re.fullmatch(r"[0-9]+([.][0-9]+)?", text) and Decimal(text) == number


@given(st.sampled_from(semconv.DURATION_BUCKETS), st.booleans())
def test_a_latency_is_seconds_and_a_percentage_in_any_spelling_of_the_seconds(bound: float, whole: bool) -> None:
    spelled = str(int(bound)) if whole and bound.is_integer() else repr(bound)
    assert rules.latency(f"{spelled}:99.5") == rules.Latency(bound, Decimal("99.5"))


@given(st.floats(min_value=0, exclude_min=True))
def test_a_bound_that_is_no_bucket_is_refused_with_those_there_are(bound: float) -> None:
    if bound in semconv.DURATION_BUCKETS:
        return
    with pytest.raises(ValueError) as refused:
        rules.latency(f"{bound!r}:99")
    assert repr(str(bound)) in str(refused.value)
    assert "0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10" in str(refused.value)


@given(st.text())
def test_a_latency_of_any_text_is_one_or_refused_by_name(text: str) -> None:
    try:
        assert rules.latency(text).bound in semconv.DURATION_BUCKETS
    except ValueError as error:
        assert repr(text) in str(error) or repr(text.partition(":")[0]) in str(error) or ":" in text


@pytest.mark.parametrize("text", ["0.25", "0.25:", ":99", "nan:99", "x:99", "0.25:0", "0.25:100", "0.25:99:99", ""])
def test_a_latency_without_one_of_its_halves_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="99"):
        rules.latency(text)


@given(st.lists(st.floats(min_value=0.001, max_value=1000), min_size=1, unique=True))
def test_buckets_of_yours_replace_the_default_ones(listed: list[float]) -> None:
    buckets = rules.bounds(",".join(map(repr, sorted(listed))))
    assert buckets == tuple(sorted(listed))
    assert rules.latency(f"{listed[0]!r}:99", buckets).bound == listed[0]


@pytest.mark.parametrize("text", ["", "x", "0.1,,1", "1,0.5", "1,1", "0,1", "-1,1", "nan", "inf", "1;2"])
def test_buckets_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="bucket"):
        rules.bounds(text)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"availability": None}, "--objective"),
        (
            {"latencies": (rules.Latency(0.25, Decimal(99)), rules.Latency(0.25, Decimal(95)))},
            "0.25 s is promised twice",
        ),
        ({"job": "("}, "'('"),
        ({"job": ""}, "''"),
        ({"job": "a\nb"}, "a\\nb"),
        ({"job": "(?=a)b"}, "'(?'"),
        ({"job": r"(a)\1"}, r"'\\1'"),
        ({"job": "a*+"}, "'*+'"),
        ({"interval": 0}, "0"),
        ({"interval": 241}, "241"),
        ({"least_bad": 0}, "0"),
        ({"dashboard_url": "grafana"}, "'grafana'"),
        ({"dashboard_url": "http://"}, "'http://'"),
        ({"dashboard_url": "http://x/{{ $value }}"}, "{{ $value }}"),
        ({"dashboard_url": "http://a b"}, "'http://a b'"),
        ({"runbook_url": ""}, "''"),
        ({"runbook_url": "x#y"}, "'x#y'"),
        ({"runbook_url": "javascript:alert(1)"}, "javascript"),
    ],
)
def test_objectives_that_make_no_sense_are_refused_by_name(bad: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        rules.Objectives(**{"availability": Decimal("99.9"), **bad})


@pytest.mark.parametrize(
    ("percent", "never"),
    [
        ("99.9", []),
        ("93.1", []),
        ("93", ["14.4 (over 1h)"]),
        ("83.3", ["14.4 (over 1h)", "6 (over 6h)"]),
        ("50", ["14.4 (over 1h)", "6 (over 6h)", "3 (over 1d)"]),
    ],
)
def test_an_objective_so_low_that_an_alert_cannot_fire_is_told(percent: str, never: list[str]) -> None:
    lines = rules.out_of_reach(rules.Objectives(Decimal(percent)))
    assert [line.split("never ")[1] for line in lines] == ([", ".join(never)] if never else [])
    for pair in (*PAGE, *TICKET):
        assert (f"{pair.factor:g} (over" in " ".join(lines)) is (1 <= pair.factor * (1 - float(percent) / 100))


# The file


@pytest.mark.parametrize(
    "objectives",
    [
        BOTH,
        rules.Objectives(Decimal("99.9")),
        rules.Objectives(None, (rules.Latency(1.0, Decimal(90)), rules.Latency(10.0, Decimal("99.99")))),
        rules.Objectives(
            Decimal("99.99"),
            (rules.Latency(0.3, Decimal(99)), rules.Latency(0.25, Decimal(90))),
            job='it\'s|"a\\.b"|ü: #x',
            interval=15,
            least_bad=1,
            dashboard_url="https://grafana.example/sub/",
            runbook_url="https://wiki.example/slo?a=1",
        ),
    ],
)
def test_the_file_is_valid_means_what_the_data_says_and_names_the_command_that_writes_it(
    objectives: rules.Objectives, promtool: str | Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = rules.text(objectives)
    assert yaml.safe_load(text) == {"groups": rules.groups(objectives)}
    file = tmp_path / "rules.yml"
    file.write_text(text)
    subprocess.run([promtool, "check", "rules", "--lint-fatal", str(file)], check=True, capture_output=True)

    (line,) = re.findall(r"^#   (exemplars rules .*) --output FILE$", text, re.MULTILINE)
    assert main([*shlex.split(line)[1:], "--output", "-"]) == 0
    assert capsys.readouterr().out == text


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8")) | st.text("ab.*+?|()[]{}^$\\d1-=:<>'\"", min_size=1)))
def test_a_job_that_is_taken_is_taken_by_prometheus(texts: list[str]) -> None:
    jobs = []
    for text in texts:
        with contextlib.suppress(ValueError):
            jobs.append(rules.Objectives(Decimal("99.9"), job=text))
    if not jobs:
        return
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory) / f"{number}.yml" for number in range(len(jobs))]
        for file, objectives in zip(files, jobs, strict=True):
            file.write_text(rules.text(objectives))
        done = subprocess.run([program("promtool"), "check", "rules", *files], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_committed_file_is_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    grafana = "http://127.0.0.1:3000"
    asked = ["--objective", "99.9", "--latency", "0.25:99", "--dashboard-url", grafana, "--output", "-"]
    assert main(["rules", *asked]) == 0
    assert capsys.readouterr() == (COMMITTED.read_text(), "")


def test_names_say_level_metric_and_operation_as_prometheus_asks() -> None:
    recorded = {rule["record"] for group in rules.groups(BOTH) for rule in group["rules"] if "record" in rule}
    assert all(re.fullmatch(r"job:slo_[a-z_]+:(rate5m|ratio|ratio_rate\d+[mhd])", name) for name in recorded)


def test_every_alert_has_its_heading_in_the_runbook() -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "slo.md").read_text(), re.MULTILINE)
    for group in rules.groups(BOTH):
        for rule in group["rules"]:
            if "alert" in rule:
                assert rule["alert"] in headings
                assert rule["annotations"]["runbook_url"] == f"docs/slo.md#{rule['alert'].lower()}"


def test_the_page_of_the_runbook_has_every_option_and_what_the_windows_cost() -> None:
    page = (ROOT / "docs" / "slo.md").read_text()
    parser = next(action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction))
    options = {option for action in parser.choices["rules"]._actions for option in action.option_strings}
    assert options - {"-h", "--help", "--force"} == set(re.findall(r"^[|] `(--[a-z-]+)", page, re.MULTILINE))
    table = re.findall(r"[|] ([\d.]+) [|] (\d+ \w+), (\d+ \w+) [|] (\d+) % [|]", page)
    minutes = {"min": 1, "h": 60, "d": 1440}
    assert len(table) == 4
    for (factor, long, short, gone), pair in zip(table, (*PAGE, *TICKET), strict=True):
        number, unit = long.split()
        assert float(factor) == pair.factor and float(gone) == round(
            pair.factor * int(number) * minutes[unit] / (30 * 1440) * 100
        )
        assert [window.replace(" ", "").replace("min", "m") for window in (long, short)] == list(pair[:2])


def test_the_command_overwrites_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "slo.yml"
    command = ["rules", "--objective", "99.9", "--output", str(file)]
    assert main(command) == 0 and main(command) == 0
    assert capsys.readouterr().out == f"{file}: written\n{file}: unchanged\n"
    ours = file.read_text()
    file.write_text("mine")
    assert main(command) == 1
    message = capsys.readouterr()
    assert message.out == "" and str(file) in message.err and "--force" in message.err and file.read_text() == "mine"
    assert main([*command, "--force"]) == 0
    assert capsys.readouterr().out == f"{file}: overwritten\n" and file.read_text() == ours


def test_the_command_says_what_kept_it_from_writing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "--objective", "99.9", "--output", str(tmp_path)]) == 1
    assert main(["rules", "--objective", "99.9", "--output", str(tmp_path / "none" / "slo.yml")]) == 1
    assert capsys.readouterr().err.count(str(tmp_path)) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--objective 100", "'100'"),
        ("--latency 0.3:99", "'0.3'"),
        ("--latency 0.25:99 --buckets 0.1,0.5", "'0.25'"),
        ("--objective 99 --buckets 1,1", "1.0"),
        ("--objective 99 --job [", "'['"),
        ("", "--objective"),
    ],
)
def test_the_command_refuses_by_name(
    arguments: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "slo.yml"
    assert main(["rules", *arguments.split(), "--output", str(file)]) == 2
    message = capsys.readouterr()
    assert message.out == "" and message.err.startswith("exemplars rules: ") and named in message.err
    assert not file.exists()


def test_a_low_objective_is_written_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "--latency", "0.25:90", "--output", "-"]) == 0
    message = capsys.readouterr()
    assert "never 14.4" in message.err and "never 14.4" in message.out and "groups:" in message.out


# When alerts fire and clear


@pytest.fixture
def promtool() -> str:
    return program("promtool")


def failing_and_slow(*phases: tuple[int, int, int], suffix: str = "") -> list[Service]:
    """Two services, each with so many minutes of good and bad requests a minute: what is bad failed, or was slow."""
    return [
        Service([Phase(minutes, good, failed=bad) for minutes, good, bad in phases], job=f"failing{suffix}"),
        Service([Phase(minutes, good, slow=bad) for minutes, good, bad in phases], job=f"slow{suffix}"),
    ]


PAGED: Final = firing(failing="AvailabilityBudgetBurnsFast", slow="LatencyBudgetBurnsFast")


def burns(window: str, factor: float) -> str:
    """Those whose budget burns faster than that."""
    burn = f"job:slo_errors_per_request:ratio_rate{window} / (1 - job:slo_objective:ratio)"
    return f"count by (job, slo) ({burn} > {factor})"


def test_an_incident_pages_within_minutes_and_clears_minutes_after(promtool: str | Path, tmp_path: Path) -> None:
    """A tenth of the requests is bad: that is 100 times too fast, so after 9 minutes an hour's window is over 14.4."""
    begin, end = 6 * HOUR, 6 * HOUR + 20
    services = failing_and_slow((begin, 100, 0), (end - begin, 90, 10), (60, 100, 0))
    queries: list[Query] = [(minute, PAGING, []) for minute in (begin, begin + 7)]
    queries += [(minute, PAGING, PAGED) for minute in range(begin + 13, end + 3)]
    queries += [(minute, PAGING, []) for minute in range(end + 6, end + 60)]
    run(promtool, tmp_path, BOTH, services, queries=queries)


def test_a_slower_burn_pages_within_hours(promtool: str | Path, tmp_path: Path) -> None:
    """One in a hundred, ten times too fast: never over 14.4; in six hours' window over 6 after 3.6 hours of it."""
    begin, end = 6 * HOUR, 11 * HOUR
    services = failing_and_slow((begin, 100, 0), (end - begin, 99, 1), (60, 100, 0))
    queries: list[Query] = [(minute, PAGING, []) for minute in (begin, begin + 180, begin + 205)]
    queries += [(minute, PAGING, PAGED) for minute in range(begin + 230, end + 20, 10)]
    queries += [(minute, PAGING, []) for minute in range(end + 40, end + 60)]
    queries += [(minute, burns("1h", 14.4), []) for minute in range(10, end + 60, 10)]
    run(promtool, tmp_path, BOTH_SLOWLY, services, queries=queries)


def test_a_smouldering_fire_is_a_ticket_and_no_page(promtool: str | Path, tmp_path: Path) -> None:
    """4 of 1,000 are 4 times too fast: over 3 in a day after 18 hours. 2 of 1,000 never are, but over 1 in three days
    after 36. Both clear when the last six hours are good enough."""
    begin, days, services = 72, {"4": (18, 22), "2": (36, 40)}, []
    for bad, (_, hours) in days.items():
        phases = ((begin * HOUR, 1000, 0), (hours * HOUR, 1000 - int(bad), int(bad)), ((52 - hours) * HOUR, 1000, 0))
        services += failing_and_slow(*phases, suffix=bad)
    queries: list[Query] = []
    for hour in (0, 17, 19, 21, 24, 29, 35, 37, 40, 42, 47, 51):
        burning = [bad for bad, (after, hours) in days.items() if after < hour < hours + 6]
        expected = {f"failing{bad}": "AvailabilityBudgetBurnsSlowly" for bad in burning}
        expected |= {f"slow{bad}": "LatencyBudgetBurnsSlowly" for bad in burning}
        queries.append(((begin + hour) * HOUR, FIRING, firing(**expected)))
    queries.append(((begin + 22) * HOUR, burns("1d", 3), bad_ones("4")))
    queries += [((begin + hour) * HOUR, burns("1d", 3), []) for hour in (17, 40)]
    queries.append(((begin + 40) * HOUR, burns("3d", 1), [*bad_ones("2"), *bad_ones("4")]))
    run(promtool, tmp_path, BOTH_SLOWLY, services, queries=queries)


def bad_ones(suffix: str = "") -> list[dict[str, Any]]:
    return [
        {"labels": f'{{job="failing{suffix}", slo="availability"}}', "value": 1},
        {"labels": f'{{job="slow{suffix}", slo="latency-0.25s"}}', "value": 1},
    ]


def test_what_the_objective_allows_alerts_nobody(promtool: str | Path, tmp_path: Path) -> None:
    """Half of it, for a day, so half of the budget is left."""
    services = failing_and_slow((DAY + 10, 1999, 1))
    queries: list[Query] = [(hour * HOUR, FIRING, []) for hour in (1, 6, 12, 24)]
    left = "count by (job, slo) (job:slo_error_budget_remaining:ratio > 0.49 < 0.51)"
    queries.append((DAY, left, bad_ones()))
    run(promtool, tmp_path, BOTH_SLOWLY, services, queries=queries)


# The alerts against another reckoning of the same: minutes, counted


def reckoned(phases: list[Phase], objectives: rules.Objectives) -> dict[int, bool | None]:
    """At each evaluation, whether failures page; `None` where that is too close to tell."""
    bad = [phase.failed for phase in phases for _ in range(phase.minutes)]
    counted = [phase.failed + phase.fast for phase in phases for _ in range(phase.minutes)]
    changes = {sum(phase.minutes for phase in phases[:number]) for number in range(len(phases))}
    step = objectives.interval // 60
    ticks = range(0, len(bad), step)
    five = {tick: (sum(bad[max(0, tick - 5) : tick]) / 5, sum(counted[max(0, tick - 5) : tick]) / 5) for tick in ticks}

    def over(tick: int, minutes: int, factor: float) -> bool | None:
        window = [five[one] for one in ticks if tick - minutes < one <= tick]
        requests = sum(number for _, number in window)
        return judged(sum(number for number, _ in window) / requests / 0.001 if requests else 0, factor)

    def judged(value: float, limit: float) -> bool | None:
        return None if 0.85 < value / limit < 1.15 else value > limit

    def both(tick: int, long: int, short: int, factor: float) -> bool | None:
        number = sum(five[one][0] for one in ticks if tick - long < one <= tick) * step
        parts = (over(tick, long, factor), over(tick, short, factor), judged(number, objectives.least_bad))
        return False if False in parts else None if None in parts else True

    pages: dict[int, bool | None] = {}
    for tick in ticks:
        pairs = (both(tick, 60, 5, 14.4), both(tick, 360, 30, 6))
        pages[tick] = True if True in pairs else None if None in pairs else False
        # Where a window's edge is at a change: on which side a sample is, is Prometheus's own matter.
        edges = (window for window in (0, 5, 30, 60, 360) for change in changes if -8 <= tick - change - window <= 12)
        if next(edges, None) is not None:
            pages[tick] = None
    return pages


@pytest.mark.parametrize("seed", range(3))
def test_alerts_agree_with_a_count_of_minutes(seed: int, promtool: str | Path, tmp_path: Path) -> None:
    """Services of all kinds of days, some with few requests, some with none at times."""
    chance = random.Random(seed)
    services, queries, told = [], [], {True: 0, False: 0}
    for number in range(8):
        phases = []
        for _ in range(8):
            rate = chance.choice((0, 1, 10, 100, 1000))
            failed = round(rate * chance.choice((0, 0, 0.001, 0.004, 0.01, 0.03, 0.1, 1)))
            phases.append(Phase(chance.randrange(20, 160), rate - failed, failed=failed))
        job = f"job-{number}"
        services.append(Service(phases, job=job))
        for minute, pages in reckoned(phases, BOTH_SLOWLY).items():
            if pages is not None and minute:
                query = f'count by (alertname) (ALERTS{{alertstate="firing",severity="page",job="{job}"}})'
                found = [{"labels": '{alertname="AvailabilityBudgetBurnsFast"}', "value": 1}] if pages else []
                queries.append((minute, query, found))
                told[pages] += 1
    assert told[True] > 50 and told[False] > 50
    run(promtool, tmp_path, BOTH_SLOWLY, services, queries=queries)


def test_clients_that_leave_alert_nobody_and_hide_nothing(promtool: str | Path, tmp_path: Path) -> None:
    """They leave late, nine of ten of them, and are neither good nor bad."""
    leaving = Service([Phase(2 * HOUR, 10, left=90)])
    hiding = Service([Phase(2 * HOUR, 9, failed=1, left=990)], job="other")
    ratio = 'job:slo_errors_per_request:ratio_rate1h{job="%s"}'
    run(
        promtool,
        tmp_path,
        BOTH,
        [leaving, hiding],
        queries=[
            (60, 'ALERTS{job="shop"}', []),
            (119, 'ALERTS{job="shop"}', []),
            (119, f"sum by (slo) ({ratio % 'shop'})", values(availability=0, **{"latency-0.25s": 0})),
            (119, f"round(sum by (slo) ({ratio % 'other'}), 0.001)", values(availability=0.1, **{"latency-0.25s": 0})),
            (119, 'sum by (job) (round(job:slo_requests:rate5m{slo="availability"} * 60))', of_jobs(shop=10, other=10)),
        ],
    )


def values(**of: float) -> list[dict[str, Any]]:
    return [{"labels": f'{{slo="{slo}"}}', "value": value} for slo, value in of.items()]


def of_jobs(**of: float) -> list[dict[str, Any]]:
    return [{"labels": f'{{job="{job}"}}', "value": value} for job, value in of.items()]


def test_without_requests_there_is_neither_an_alert_nor_a_number(promtool: str | Path, tmp_path: Path) -> None:
    """No page either, after an incident that the last requests were part of."""
    idle = Service([Phase(3 * HOUR)])
    ending = Service([Phase(10, 50, failed=50), Phase(170)], job="other")
    ratios = '{__name__=~"job:slo_(errors_per_request|error_budget).*", job="shop"}'
    run(
        promtool,
        tmp_path,
        BOTH,
        [idle, ending],
        queries=[
            *((minute, ratios, []) for minute in (1, 60, 179)),
            (9, PAGING, firing(other="AvailabilityBudgetBurnsFast")),
            (60, PAGING, []),
            (179, PAGING, []),
            (179, "count(job:slo_errors_per_request:ratio_rate5m)", []),
        ],
    )


def test_one_error_in_ten_requests_at_night_wakes_nobody(promtool: str | Path, tmp_path: Path) -> None:
    """It is 100 times too fast, and chance. Five in an hour's window are not: a service that only fails pages."""
    quiet: list[Phase] = []
    for hour in range(8):
        quiet += [Phase(1, failed=1 if hour == 6 else 0, fast=0 if hour == 6 else 1), Phase(5)]
        quiet += [part for _ in range(9) for part in (Phase(1, 1), Phase(5))]
    broken = [part for _ in range(20) for part in (Phase(1, failed=1), Phase(5))]
    burning = 'job:slo_errors_per_request:ratio_rate1h{job="shop",slo="availability"} > 0.014'
    run(
        promtool,
        tmp_path,
        BOTH,
        [Service(quiet), Service(broken, job="other")],
        queries=[
            *((minute, 'ALERTS{job="shop"}', []) for minute in range(0, 8 * HOUR, 2)),
            (6 * HOUR + 3, f"count({burning})", [{"labels": "{}", "value": 1}]),
            (13, PAGING, []),
            (40, PAGING, firing(other="AvailabilityBudgetBurnsFast")),
        ],
    )


@pytest.mark.parametrize("les", [("0.5", "1", "+Inf"), ("0.5", "1.0", "+Inf")], ids=["Go's", "OpenMetrics's"])
def test_a_whole_bound_is_found_in_both_spellings(les: tuple[str, ...], promtool: str | Path, tmp_path: Path) -> None:
    objectives = rules.Objectives(None, (rules.latency("1:99.9"),))
    service = Service([Phase(60, 90, slow=10)], les=les, fast_le="0.5")
    good = Service([Phase(60, 90)], les=les, fast_le=les[1], job="other")
    run(
        promtool,
        tmp_path,
        objectives,
        [service, good],
        queries=[(50, f"sum by (job) (round({RATIO_5M}, 0.001))", of_jobs(shop=0.1, other=0))],
    )


RATIO_5M: Final = "job:slo_errors_per_request:ratio_rate5m"


def test_what_has_no_bucket_of_the_bound_does_not_count_as_slow(promtool: str | Path, tmp_path: Path) -> None:
    """While buckets change from worker to worker, and for a service that has none of it at all."""
    old = Service([Phase(60, 100)], les=("0.3", "+Inf"), fast_le="0.3", instance="old")
    new = Service([Phase(60, 95, slow=5)], instance="new")
    without = Service([Phase(60, 100)], les=("0.3", "+Inf"), fast_le="0.3", job="other")
    latency = f'{RATIO_5M}{{slo="latency-0.25s"}}'
    run(
        promtool,
        tmp_path,
        BOTH,
        [old, new, without],
        queries=[
            (50, f"sum by (job) (round({latency}, 0.001))", of_jobs(shop=0.05)),
            (50, 'count by (job) (job:slo_objective:ratio{slo="latency-0.25s"})', of_jobs(shop=1)),
            (50, 'count by (job) (job:slo_objective:ratio{slo="availability"})', of_jobs(shop=1, other=1)),
        ],
    )


@pytest.mark.parametrize(
    ("failure", "share"),
    [
        ({semconv.STATUS: "500", semconv.ERROR_TYPE: ""}, 0.25),  # an SDK that adds no error type
        ({semconv.STATUS: "503", semconv.ERROR_TYPE: "503"}, 0.25),
        ({semconv.STATUS: "200", semconv.ERROR_TYPE: "ValueError"}, 0.25),  # raised in the body
        ({semconv.STATUS: "200", semconv.ERROR_TYPE: semconv.INCOMPLETE_RESPONSE}, 0.25),
        ({semconv.STATUS: "", semconv.ERROR_TYPE: semconv.INCOMPLETE_RESPONSE}, 0.25),
        ({semconv.STATUS: "404", semconv.ERROR_TYPE: ""}, 0),
        ({semconv.STATUS: "", semconv.ERROR_TYPE: semconv.CANCELLED}, 0),
        ({semconv.STATUS: "200", semconv.ERROR_TYPE: semconv.CLIENT_DISCONNECTED}, 0),
        ({semconv.STATUS: "500", semconv.ERROR_TYPE: semconv.CLIENT_DISCONNECTED}, 0),
    ],
    ids=lambda value: "-".join(value.values()) or "nothing" if isinstance(value, dict) else None,
)
def test_what_fails_burns_availability_once_and_latency_never(
    failure: dict[str, str], share: float, promtool: str | Path, tmp_path: Path
) -> None:
    service = Service([Phase(60, 60, slow=15, failed=25)], failure=failure)
    counted = 75 if failure[semconv.STATUS] != "404" else 100
    run(
        promtool,
        tmp_path,
        BOTH,
        [service],
        queries=[
            (
                50,
                f"sum by (slo) (round({RATIO_5M}, 0.001))",
                values(availability=share, **{"latency-0.25s": 15 / counted}),
            ),
        ],
    )


def test_services_with_objectives_of_their_own_do_not_mind_each_other(promtool: str | Path, tmp_path: Path) -> None:
    """Two files, each for its jobs: 1 % of failures is a page for one, and what the other promised."""
    strict = rules.Objectives(Decimal("99.99"), job="shop")
    lax = rules.Objectives(Decimal("99"), job="other|third")
    services = [Service([Phase(30, 99, failed=1)], job=job) for job in ("shop", "other", "third")]
    run(
        promtool,
        tmp_path,
        [strict, lax],
        services,
        queries=[
            (29, "sum by (job) (job:slo_objective:ratio)", of_jobs(shop=0.9999, other=0.99, third=0.99)),
            (29, 'count by (job) (ALERTS{severity="page"})', of_jobs(shop=1)),
        ],
    )


def test_an_alert_tells_numbers_and_leads_to_its_service_and_time(promtool: str | Path, tmp_path: Path) -> None:
    objectives = rules.Objectives(
        Decimal("99.9"), dashboard_url="http://127.0.0.1:3000", runbook_url="https://wiki.example/slo"
    )
    job = 'a "b" & c'
    service = Service([Phase(60, 90, failed=10)], job=job.replace('"', '\\"'))
    shares = "\n".join(f"10% in {window}" for window in ("5m", "30m", "1h", "6h"))
    overview = "http://127.0.0.1:3000/d/exemplars-overview?var-job=a+%22b%22+%26+c"
    alert = {
        "eval_time": "50m",
        "alertname": "AvailabilityBudgetBurnsFast",
        "exp_alerts": [
            {
                "exp_labels": {"job": job, "slo": "availability", "severity": "page"},
                "exp_annotations": {
                    "summary": f"{job}: the error budget of availability burns 100.0 times as fast as it may",
                    "description": f"Requests to {job} that failed:\n{shares}\n"
                    "The objective availability promises 99.9% good ones.\n"
                    "At this rate a budget of 30 days lasts 7h 12m 0s; left of it: -9900%.",
                    # Times begin at 0 here: an hour back is before them.
                    "dashboard_url": f"{overview}&from={(50 - 60) * 60_000}&to={50 * 60_000}",
                    "runbook_url": "https://wiki.example/slo#availabilitybudgetburnsfast",
                },
            }
        ],
    }
    run(promtool, tmp_path, objectives, [service], alerts=[alert])


# In a Prometheus


def test_a_spike_pages_and_its_link_spans_the_dots_of_the_spike(registry: CollectorRegistry, tmp_path: Path) -> None:
    """A thousand quick requests alert nobody; a thousand slow ones do, and the link leads to where their dots are."""
    durations = exemplars.Histogram(
        semconv.DURATION, "Durations.", semconv.REQUEST_LABELS, registry=registry, buckets=semconv.DURATION_BUCKETS
    )
    labels = {semconv.METHOD: "GET", semconv.ROUTE: "/items", semconv.STATUS: "200", semconv.SCHEME: "http"}
    child = durations.labels(**labels, **{semconv.ERROR_TYPE: ""})
    objectives = rules.Objectives(
        Decimal("99.9"),
        (rules.Latency(0.25, Decimal(99)),),
        interval=1,
        dashboard_url="http://127.0.0.1:3000",
    )
    (tmp_path / "slo.yml").write_text(rules.text(objectives))
    with own_server(registry) as port:
        job = {"job_name": "shop", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [job],
            "rule_files": [str(tmp_path / "slo.yml")],
        }
        with prometheus(tmp_path, config, "--enable-feature=exemplar-storage") as server:

            def pages() -> list[dict[str, Any]]:
                return [alert for alert in server.ask("alerts")["alerts"] if alert["labels"]["severity"] == "page"]

            for _ in range(1000):
                child.observe(0.02, {})
            server.scraped("shop", 2)
            for _ in range(1000):
                child.observe(0.02, {})
            ratio = f'{RATIO_5M}{{job="shop"}} < 0.001'
            eventually(lambda: len(server.ask("query", query=ratio)["result"]) == 2, "both ratios", server.errors)
            assert pages() == []

            trace = f"{0xBAD:032x}"
            for _ in range(1000):
                child.observe(0.9, {semconv.TRACE_ID: trace, semconv.SPAN_ID: trace[16:]})
            (page,) = eventually(pages, "the page", server.errors)
            assert page["labels"] == {
                "alertname": "LatencyBudgetBurnsFast",
                "job": "shop",
                "slo": "latency-0.25s",
                "severity": "page",
            }
            query = f'{semconv.DURATION}_bucket{{job="shop"}}'

            def dots() -> list[dict[str, Any]]:
                """Each evaluation makes the link anew while the alert fires."""
                (page,) = pages()
                address = urlsplit(page["annotations"]["dashboard_url"])
                given = {name: value for name, (value,) in parse_qs(address.query).items()}
                assert address.path == "/d/exemplars-overview" and given["var-job"] == "shop"
                begin, end = (int(given[name]) / 1000 for name in ("from", "to"))
                assert end - begin == pytest.approx(3600, abs=1)
                return server.exemplars(query, begin, end)

            found = eventually(dots, "the dots of the spike", server.errors)
            assert {dot["labels"][semconv.TRACE_ID] for dot in found} == {trace}

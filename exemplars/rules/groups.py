"""The rules as data: what is recorded of each objective, over which windows, and when that is an alert.

Windows and factors are those of https://sre.google/workbook/alerting-on-slos/ (*multiwindow, multi-burn-rate*), of a
budget of 30 days: an alert fires while a long window and a short one both burn faster than its factor.
"""

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

from exemplars import semconv
from exemplars.rules.objectives import Objectives, go_number

DAYS: Final = 30
OVERVIEW: Final = "/d/exemplars-overview"  # the dashboard, by its uid

COUNT: Final = f"{semconv.DURATION}_count"
BUCKET: Final = f"{semconv.DURATION}_bucket"
LEFT: Final = f"{semconv.CANCELLED}|{semconv.CLIENT_DISCONNECTED}"
STAYED: Final = f'{semconv.ERROR_TYPE}!~"{LEFT}"'

REQUESTS: Final = "job:slo_requests:rate5m"
ERRORS: Final = "job:slo_errors:rate5m"
OBJECTIVE: Final = "job:slo_objective:ratio"
RATIO: Final = "job:slo_errors_per_request:ratio_rate"
BUDGET: Final = "job:slo_error_budget_remaining:ratio"

OF_ALERT: Final = '{{ $of := printf "{job=%q,slo=%q}" $labels.job $labels.slo }}'


class Pair(NamedTuple):
    """A long and a short window, and how many times as fast as it may a budget burns in both when it is time to act."""

    long: str
    short: str
    factor: float


PAGE: Final = (Pair("1h", "5m", 14.4), Pair("6h", "30m", 6))
TICKET: Final = (Pair("1d", "2h", 3), Pair("3d", "6h", 1))


def out_of_reach(objectives: Objectives) -> list[str]:
    """A line for each objective that is so low that some alert cannot fire.

    At 90 % a budget burns at most ten times too fast, since no more than all requests are bad.
    """
    lines = []
    for slo, promised in objectives.every:
        most = 100 / (100 - promised)
        if idle := [pair for pair in PAGE + TICKET if pair.factor >= most]:
            factors = ", ".join(f"{pair.factor:g} (over {pair.long})" for pair in idle)
            lines.append(f"{slo} of {promised} % burns its budget at most {most:.3g} times too fast, never {factors}")
    return lines


def groups(objectives: Objectives) -> list[dict[str, Any]]:
    """The groups of a rule file, as YAML has them. Each rule stands after those it builds on."""
    recorded = [rule for slo in _indicators(objectives) for rule in slo]
    of = _braces(_job(objectives))
    recorded.append({"record": f"{RATIO}5m", "expr": f"{ERRORS}{of}\n/\n({REQUESTS}{of} > 0)"})
    recorded += [_ratio(window, of) for window in ("30m", "1h", "2h", "6h")]
    days = [_ratio(window, of) for window in ("1d", "3d", f"{DAYS}d")]
    days.append({"record": BUDGET, "expr": f"1 - {RATIO}{DAYS}d{of} / (1 - {OBJECTIVE})"})
    alerts = []
    for name, what, matcher, promised in (
        ("Availability", "failed", 'slo="availability"', objectives.availability is not None),
        ("Latency", "were too slow", 'slo=~"latency-.+"', bool(objectives.latencies)),
    ):
        if promised:
            alerts.append(_alert(objectives, f"{name}BudgetBurnsFast", "page", PAGE, what, matcher))
            alerts.append(_alert(objectives, f"{name}BudgetBurnsSlowly", "ticket", TICKET, what, matcher))
    # Long windows change slowly; two minutes are still well within the five for which Prometheus shows a value.
    slow = max(objectives.interval, 120)
    return [
        {"name": "slo", "interval": f"{objectives.interval}s", "rules": recorded},
        {"name": "slo_days", "interval": f"{slow}s", "rules": days},
        {"name": "slo_alerts", "interval": f"{objectives.interval}s", "rules": alerts},
    ]


def _indicators(objectives: Objectives) -> list[list[dict[str, Any]]]:
    """What is recorded of each objective: requests and bad ones a second, and the objective itself."""
    job = _job(objectives)
    result = []
    if objectives.availability is not None:
        labels = {"slo": "availability"}
        # Not every SDK of other languages adds an error type to a 5xx. Both keep all labels, so none is taken twice.
        failed = _rate(COUNT, *job, f'{semconv.ERROR_TYPE}!~"|{LEFT}"')
        by_status = _rate(COUNT, *job, f'{semconv.STATUS}=~"5.."', f'{semconv.ERROR_TYPE}=""')
        requests = f"{REQUESTS}{_braces((*job, _slo(labels)))}"
        result.append(
            [
                _recorded(REQUESTS, f"sum by (job) (\n  {_rate(COUNT, *job, STAYED)}\n)", labels),
                _recorded(
                    ERRORS,
                    f"sum by (job) (\n  {failed}\n  or\n  {by_status}\n)\nor on (job)\n0 * {requests}",
                    labels,
                ),
                _recorded(
                    OBJECTIVE, f"{_share(objectives.availability)} * group by (job) ({COUNT}{_braces(job)})", labels
                ),
            ]
        )
    for target in objectives.latencies:
        labels = {"slo": target.slo}
        served = (*job, f'{semconv.ERROR_TYPE}=""', f'{semconv.STATUS}!~"5.."')
        bucket = f'le=~"{_spellings(target.bound)}"'
        fast = _rate(BUCKET, *served, bucket)
        requests = f"{REQUESTS}{_braces((*job, _slo(labels)))}"
        result.append(
            [
                # Only where that bucket is: what has other buckets would all count as slow.
                _recorded(
                    REQUESTS,
                    f"sum by (job) (\n  {_rate(COUNT, *served)}\n  and ignoring (le)\n  {fast}\n)",
                    labels,
                ),
                _recorded(ERRORS, f"clamp_min(\n  {requests}\n  - on (job)\n  sum by (job) ({fast}),\n  0\n)", labels),
                _recorded(
                    OBJECTIVE,
                    f"{_share(target.percent)} * group by (job) ({BUCKET}{_braces((*job, bucket))})",
                    labels,
                ),
            ]
        )
    return result


def _ratio(window: str, of: str) -> dict[str, Any]:
    """Of what was recorded: a fraction of the cost of asking all series anew, and weighted by the load all the same."""
    errors, requests = (f"sum_over_time({name}{of}[{window}])" for name in (ERRORS, REQUESTS))
    return {"record": f"{RATIO}{window}", "expr": f"{errors}\n/\n({requests} > 0)"}


def _alert(
    objectives: Objectives, name: str, severity: str, pairs: Sequence[Pair], what: str, matcher: str
) -> dict[str, Any]:
    of = _braces((*_job(objectives), matcher))

    def burns(window: str, factor: float) -> str:
        return f"{RATIO}{window}{of} / (1 - {OBJECTIVE}) > {factor:g}"

    def either(pair: Pair) -> str:
        bad = f"sum_over_time({ERRORS}{of}[{pair.long}]) * {objectives.interval} >= {objectives.least_bad}"
        both = (burns(pair.long, pair.factor), burns(pair.short, pair.factor), bad)
        return "(\n  " + "\n  and\n  ".join(both) + "\n)"

    windows = sorted({window for pair in pairs for window in pair[:2]}, key=_seconds)
    # While an alert fires there are bad requests in its short windows, and so within this time.
    since = {"page": 3600, "ticket": 6 * 3600}[severity]
    link = f"{objectives.dashboard_url.rstrip('/')}{OVERVIEW}?var-job={{{{ $labels.job | urlquery }}}}"
    return {
        "alert": name,
        "expr": "\nor\n".join(map(either, pairs)),
        "labels": {"severity": severity},
        "annotations": {
            "summary": "{{ $labels.job }}: the error budget of {{ $labels.slo }} burns "
            '{{ $value | printf "%.1f" }} times as fast as it may',
            "description": "\n".join(
                (
                    f"{OF_ALERT}Requests to {{{{ $labels.job }}}} that {what}:",
                    *(f"{_asked(f'{RATIO}{window}')} in {window}" for window in windows),
                    f"The objective {{{{ $labels.slo }}}} promises {_asked(OBJECTIVE)} good ones.",
                    f'At this rate a budget of {DAYS} days lasts {{{{ printf "{DAYS * 86400} / %f" $value | query '
                    f"| first | value | humanizeDuration }}}}; left of it: {_asked(BUDGET)}.",
                )
            ),
            "dashboard_url": f"{link}&from={_milliseconds(f'(time() - {since})')}&to={_milliseconds('time()')}",
            "runbook_url": f"{objectives.runbook_url}#{name.lower()}",
        },
    }


def _asked(series: str) -> str:
    """For an annotation that begins with `OF_ALERT`: the share that *series* has for its service and objective."""
    asked = f'printf "{series}%s" $of | query'
    return f"{{{{ with {asked} }}}}{{{{ . | first | value | humanizePercentage }}}}{{{{ else }}}}unknown{{{{ end }}}}"


def _milliseconds(time: str) -> str:
    """For an annotation: *time*, in PromQL, as Grafana has it in links. It moves on while the alert fires."""
    return f'{{{{ query "{time} * 1000" | first | value | printf "%.0f" }}}}'


def _recorded(name: str, expr: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"record": name, "expr": expr, "labels": labels}


def _rate(metric: str, *matchers: str) -> str:
    return f"rate({metric}{_braces(matchers)}[5m])"


def _job(objectives: Objectives) -> tuple[str, ...]:
    return () if objectives.job is None else (f"job=~{json.dumps(objectives.job, ensure_ascii=False)}",)


def _slo(labels: dict[str, str]) -> str:
    return f'slo="{labels["slo"]}"'


def _braces(matchers: Sequence[str]) -> str:
    return f"{{{', '.join(matchers)}}}" if matchers else ""


def _spellings(bound: float) -> str:
    """Prometheus 3 stores ``1.0``; before it, what the page says, and some clients say ``1``."""
    spelled = go_number(bound)
    return "|".join(re.sub(r"[.+]", r"[\g<0>]", text) for text in dict.fromkeys((spelled, spelled.removesuffix(".0"))))


def _share(promised: Decimal) -> str:
    return f"{(promised / 100).normalize():f}"


def _seconds(window: str) -> int:
    return int(window[:-1]) * {"m": 60, "h": 3600, "d": 86400}[window[-1]]

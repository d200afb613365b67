"""Services of made-up load for `promtool test rules`: what happens a minute, and which alerts have to fire when."""

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from exemplars import rules, semconv

Query = tuple[int, str, list[dict[str, Any]]]  # minute, expression, samples

FIRING: Final = 'count by (alertname, job) (ALERTS{alertstate="firing"})'
PAGING: Final = 'count by (alertname, job) (ALERTS{alertstate="firing", severity="page"})'


@dataclass(frozen=True)
class Phase:
    """So many minutes, with so many requests a minute of each kind."""

    minutes: int
    fast: int = 0
    slow: int = 0
    failed: int = 0  # fast
    left: int = 0  # slow


@dataclass(frozen=True)
class Service:
    """One instance of a job. *les*: how it spells the bounds of its buckets; *failure*: the labels of a failed one."""

    phases: Sequence[Phase]
    job: str = "shop"
    instance: str = "a"
    les: Sequence[str] = ("0.1", "0.25", "+Inf")
    fast_le: str = "0.25"  # a fast request takes no longer, a slow one longer than all but +Inf
    failure: Mapping[str, str] = field(
        default_factory=lambda: {semconv.STATUS: "500", semconv.ERROR_TYPE: "ZeroDivisionError"}
    )

    def series(self) -> list[dict[str, str]]:
        """As promtool reads them: a sample a minute, the first of them before anything has happened."""
        found = []
        left = {semconv.STATUS: "", semconv.ERROR_TYPE: semconv.CLIENT_DISCONNECTED}
        kinds: dict[str, Mapping[str, str]] = {
            "served": {semconv.STATUS: "200", semconv.ERROR_TYPE: ""},
            "failed": self.failure,
            "left": left,
        }
        for kind, labels in kinds.items():
            all_of_it, quick = self._steps(kind, slow=True), self._steps(kind, slow=False)
            if kind != "served" and not any(rate for _, rate in all_of_it):
                continue
            common = {"job": self.job, "instance": self.instance, semconv.ROUTE: "/", **labels}
            found.append(_series(f"{semconv.DURATION}_count", common, all_of_it))
            for le in self.les[self.les.index(self.fast_le) :]:
                steps = all_of_it if le == "+Inf" else quick
                found.append(_series(f"{semconv.DURATION}_bucket", {**common, "le": le}, steps))
        return found

    def _steps(self, kind: str, *, slow: bool) -> list[tuple[int, int]]:
        """Minutes, and requests a minute, of a counter of *kind*; only of the fast ones unless *slow*."""

        def counted(phase: Phase) -> int:
            if kind == "served":
                return phase.fast + slow * phase.slow
            return phase.failed if kind == "failed" else slow * phase.left

        return [(phase.minutes, counted(phase)) for phase in self.phases]


def _series(name: str, labels: Mapping[str, str], steps: Iterable[tuple[int, int]]) -> dict[str, str]:
    text = ",".join(f'{key}="{value}"' for key, value in labels.items() if value)
    values, total = ["0"], 0
    for minutes, rate in steps:
        # `a+bxn` is a and n more.
        values.append(f"{total + rate}+{rate}x{minutes - 1}")
        total += rate * minutes
    return {"series": f"{name}{{{text}}}", "values": " ".join(values)}


def firing(**names: str) -> list[dict[str, Any]]:
    """What `FIRING` and `PAGING` answer while of each job this alert fires, and no other."""
    return [{"labels": f'{{alertname="{name}", job="{job}"}}', "value": 1} for job, name in names.items()]


def run(
    promtool: str | Path,
    directory: Path,
    objectives: rules.Objectives | Sequence[rules.Objectives],
    services: Sequence[Service],
    *,
    queries: Iterable[Query] = (),
    alerts: Iterable[dict[str, Any]] = (),
) -> None:
    """Let promtool replay *services* under the rules of *objectives* and compare: samples of each query at its minute.

    Fails with what promtool says.
    """
    every = [objectives] if isinstance(objectives, rules.Objectives) else list(objectives)
    names = []
    for number, one in enumerate(every):
        file = directory / f"rules-{number}.yml"
        file.write_text(rules.text(one))
        names.append(file.name)
    test = {
        "rule_files": names,
        # promtool evaluates every group that often, whatever the group says.
        "evaluation_interval": f"{every[0].interval}s",
        "tests": [
            {
                "interval": "1m",
                "input_series": [series for service in services for series in service.series()],
                "promql_expr_test": [
                    {"expr": query, "eval_time": f"{minute}m", "exp_samples": samples}
                    for minute, query, samples in queries
                ],
                "alert_rule_test": list(alerts),
            }
        ],
    }
    (directory / "test.yml").write_text(yaml.safe_dump(test, sort_keys=False))
    done = subprocess.run([promtool, "test", "rules", str(directory / "test.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

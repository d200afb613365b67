"""The rules as a file: YAML that can be read, with the command that writes it."""

import re
import shlex
from typing import Any, Final

from exemplars import semconv
from exemplars.rules.groups import groups, out_of_reach
from exemplars.rules.objectives import INTERVAL, LEAST_BAD, RUNBOOK, Objectives, short

_PLAIN: Final = re.compile(r"[A-Za-z_][\w:]*|\d+[smhd]", re.ASCII)


def text(objectives: Objectives) -> str:
    """The rule file, with the command that writes it."""
    head = [
        "Written by",
        "",
        f"  {command(objectives)}",
        "",
        "What each alert means and what to do: docs/slo.md. A client that leaves counts nowhere. A job that is down or",
        "has no requests has no share of bad ones, so it alerts nobody: watch `up`.",
        *(f"Note: {line}." for line in out_of_reach(objectives)),
    ]
    comment = "\n".join(f"# {line}".rstrip() for line in head)
    return f"{comment}\n{_yaml({'groups': groups(objectives)})}\n"


def command(objectives: Objectives) -> str:
    """What to type to have this file again."""
    words = ["exemplars", "rules"]
    if objectives.availability is not None:
        words += ["--objective", str(objectives.availability)]
    for target in objectives.latencies:
        words += ["--latency", f"{short(target.bound)}:{target.percent}"]
    bounds = sorted(target.bound for target in objectives.latencies)
    if not set(bounds) <= set(semconv.DURATION_BUCKETS):
        words += ["--buckets", ",".join(map(short, bounds))]
    for option, value, default in (
        ("--job", objectives.job, None),
        ("--interval", objectives.interval, INTERVAL),
        ("--least-bad", objectives.least_bad, LEAST_BAD),
        ("--dashboard-url", objectives.dashboard_url, ""),
        ("--runbook-url", objectives.runbook_url, RUNBOOK),
    ):
        if value != default:
            words += [option, str(value)]
    return shlex.join([*words, "--output", "FILE"])


def _yaml(value: Any, indent: str = "") -> str:
    """*value* as YAML: mappings, lists of mappings, texts of one line or several."""
    if isinstance(value, dict):
        return "\n".join(f"{indent}{key}:{_below(item, indent)}" for key, item in value.items())
    items = (_yaml(item, f"{indent}  ") for item in value)
    return "\n".join(f"{indent}- {item.lstrip()}" for item in items)


def _below(value: Any, indent: str) -> str:
    deeper = f"{indent}  "
    if not isinstance(value, str):
        return f"\n{_yaml(value, deeper)}"
    if "\n" in value:
        return " |-\n" + "\n".join(f"{deeper}{line}" for line in value.split("\n"))
    return f" {value}" if _PLAIN.fullmatch(value) else " '" + value.replace("'", "''") + "'"

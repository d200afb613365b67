"""The dashboards as Grafana reads them: their panels, what these ask, and where their links lead."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parent.parent
FILES: Final = sorted((ROOT / "dashboards").glob("*.json"))
each_dashboard = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)

# Grafana's own, which need no definition.
BUILT_IN: Final = re.compile(r"__\w+")
VARIABLE: Final = re.compile(r"\$(?:(\w+)|\{(\w+)[^}]*\})")
# What stands for a variable when nobody has chosen anything.
AT_FIRST: Final = {
    "job": ".+",
    "route": ".*",
    "status": ".*",
    "slo": ".*",
    "slow": "250ms",
    "trace": "",
    "prometheus": ".*",
    "collector": ".*",
    "__rate_interval": "1m",
    "__range": "1m",
}


@dataclass(frozen=True)
class Target:
    """A query of a panel."""

    dashboard: str
    panel: str
    kind: str
    unit: str
    ref: str
    source: str  # prometheus, tempo or loki
    expr: str
    exemplar: bool
    range: bool
    legend: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.dashboard}-{self.panel}-{self.ref}"

    def asked(self, **chosen: str) -> str:
        """The query as Grafana sends it, its variables replaced."""
        return filled(self.expr, chosen)


def filled(text: str, chosen: Mapping[str, str]) -> str:
    values = {**AT_FIRST, **chosen}
    return VARIABLE.sub(lambda found: values[found[1] or found[2]], text)


def panels(file: Path) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(file.read_text())["panels"] if panel["type"] != "row"]


def _target(file: Path, panel: dict[str, Any], target: dict[str, Any]) -> Target:
    # A heatmap's own unit is the count's; dots lie on its axis.
    heat = panel["type"] == "heatmap"
    return Target(
        dashboard=file.stem,
        panel=panel["title"],
        kind=panel["type"],
        unit=panel["options"]["yAxis"]["unit"] if heat else panel["fieldConfig"]["defaults"]["unit"],
        ref=target["refId"],
        source=target["datasource"]["type"],
        expr=target["query"] if target["datasource"]["type"] == "tempo" else target["expr"],
        exemplar=target.get("exemplar", False),
        range=target.get("range", False),
        legend=target.get("legendFormat", ""),
    )


TARGETS: Final = [
    _target(file, panel, target) for file in FILES for panel in panels(file) for target in panel["targets"]
]


def of(dashboard: str, panel: str, ref: str = "A") -> Target:
    return next(one for one in TARGETS if (one.dashboard, one.panel, one.ref) == (dashboard, panel, ref))


def each(targets: list[Target]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("target", targets, ids=str)


def links(panel: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of its points and cells."""
    yield from panel["fieldConfig"]["defaults"].get("links", ())
    for override in panel["fieldConfig"]["overrides"]:
        for setting in override["properties"]:
            if setting["id"] == "links":
                yield from setting["value"]


def used(value: object) -> set[str]:
    """The variables of ours that any text in *value* names."""
    return {name for name in mentioned(value) if not BUILT_IN.fullmatch(name)}


def mentioned(value: object) -> Iterator[str]:
    if isinstance(value, str):
        for found in VARIABLE.finditer(value):
            yield found[1] or found[2]
    elif isinstance(value, dict):
        for part in value.values():
            yield from mentioned(part)
    elif isinstance(value, list):
        for part in value:
            yield from mentioned(part)

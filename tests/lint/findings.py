"""What is wrong with a dashboard, a file of rules, or provisioned data sources.

A finding is a line of text that begins with where: dashboard, panel and query, or group and rule.

Where dots come from is decided by Grafana's Prometheus data source: it asks for the exemplars of every series that a
query selects, over a range, once for each metric of a panel with its first visible query, and draws each at its raw
value.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from tests.boards import AT_FIRST, VARIABLE, links
from tests.lint.trees import ERROR, LANGUAGES, Node, parse

Metrics = Mapping[str, Collection[str]]  # their names, with the labels that they have

# Those of Grafana itself that are worth anything in our queries and links: any other is a slip of the pen.
BUILT_IN: Final = frozenset(
    (
        *("__rate_interval", "__range", "__from", "__to", "__url_time_range"),
        *("__all", "__value", "__field", "__data"),
    )
)
TARGET: Final = frozenset(("job", "instance", "__name__"))  # which Prometheus adds
ALERTS: Final = {"ALERTS": {"alertname", "alertstate", "severity", "slo", "job"}}
SHOWS_DOTS: Final = ("timeseries", "heatmap")
PROMISES: Final = re.compile(r"\b([Aa]|[Ee]ach|[Ee]very) dot is\b")


@dataclass(frozen=True)
class Asked:
    """A query, and where it stands."""

    where: str
    language: str
    text: str
    target: Mapping[str, Any] = field(default_factory=dict)
    panel: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Selector:
    """A vector selector of PromQL: *pattern* is the metric's name, or what it has to match."""

    node: Node
    pattern: str
    labels: tuple[str, ...]

    def metrics(self, known: Metrics) -> list[str]:
        return [name for name in known if re.fullmatch(self.pattern, name)]


def selectors(tree: Node) -> list[Selector]:
    found = []
    for node in tree.all("VectorSelector"):
        name = next((child.text for child in node.children if child.name == "Identifier"), "")
        labels = []
        for matcher in node.all("UnquotedLabelMatcher"):
            label, value = (matcher.first(part) for part in ("LabelName", "StringLiteral"))
            if label is None or value is None:
                continue
            if label.text == "__name__":
                name = json.loads(value.text)
            labels.append(label.text)
        found.append(Selector(node, name, tuple(labels)))
    return found


# Dashboards


def of_board(board: Mapping[str, Any], known: Metrics, elsewhere: Sequence[str] = ()) -> list[str]:
    """Everything that is wrong with *board*. Metrics whose names begin as one of *elsewhere* are not looked up."""
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    asked = [one for panel in panels for one in _of_panel(board, panel)]
    asked += [one for variable in board["templating"]["list"] for one in _of_variable(board, variable)]
    trees = _parsed(asked)
    found = list(_unresolved(board))
    found += [finding for panel in panels for finding in _sources(board, panel)]
    for one, tree in zip(asked, trees, strict=True):
        found += _errors(one, tree)
        if one.language == "promql":
            found += _unknown(one, tree, known, elsewhere)
    for panel in panels:
        mine = [(one, tree) for one, tree in zip(asked, trees, strict=True) if one.panel is panel and one.target]
        found += _dots(f"{board['uid']} / {panel['title']}", panel, mine)
    return found


def _of_panel(board: Mapping[str, Any], panel: Mapping[str, Any]) -> Iterator[Asked]:
    for target in panel["targets"]:
        text = target.get("expr") or target.get("query") or ""
        where = f"{board['uid']} / {panel['title']} / {target['refId']}"
        yield Asked(where, LANGUAGES[target["datasource"]["type"]], text, target, panel)
    for link in links(dict(panel)):
        address = urlsplit(link["url"])
        if address.path == "/explore":
            for pane in json.loads(parse_qs(address.query)["panes"][0]).values():
                for query in pane["queries"]:
                    yield Asked(
                        f"{board['uid']} / {panel['title']} / link {link['title']!r}",
                        query["queryType"],
                        query["query"],
                        panel=panel,
                    )


def _of_variable(board: Mapping[str, Any], variable: Mapping[str, Any]) -> Iterator[Asked]:
    """Of `label_values(selector, label)`: the selector grouped by the label, which is PromQL."""
    if variable["type"] == "query":
        query = variable["query"]
        text = query if isinstance(query, str) else query["query"]
        where = f"{board['uid']} / variable {variable['name']}"
        parts = re.fullmatch(r"label_values\((.*), *(\w+)\)", text)
        yield Asked(where, "promql", f"group by ({parts[2]}) ({parts[1]})" if parts else text)


def _parsed(asked: Sequence[Asked]) -> list[Node]:
    return parse([(one.language, _filled(one.text)) for one in asked])


def _filled(text: str) -> str:
    """*text* as it is sent: a variable that nobody knows becomes a word."""
    return VARIABLE.sub(
        lambda found: AT_FIRST.get(found[1] or found[2], "unknown"), re.sub(r"\$\{__\w+[^}]*\}", "1", text)
    )


def _unresolved(board: Mapping[str, Any]) -> Iterator[str]:
    there = {variable["name"] for variable in board["templating"]["list"]}
    for where, text in _texts(board):
        for found in VARIABLE.finditer(unquote(text)):
            name = found[1] or found[2]
            if name not in there | BUILT_IN:
                yield f"{board['uid']} / {where}: there is no variable {name}"


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text in *value*, with the title of what it is in."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        here = value.get("title") if isinstance(value.get("title"), str) else None
        for part in value.values():
            yield from _texts(part, here or where)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, where)


def _sources(board: Mapping[str, Any], panel: Mapping[str, Any]) -> Iterator[str]:
    """Each is a variable of the dashboard, of the kind that is asked."""
    there = {
        f"${{{variable['name']}}}": variable["query"]
        for variable in board["templating"]["list"]
        if variable["type"] == "datasource"
    }
    for one in (panel, *panel["targets"]):
        source = one.get("datasource") or {}
        if there.get(source.get("uid", "")) != source.get("type"):
            where = f"{board['uid']} / {panel['title']} / {one.get('refId', 'panel')}"
            yield f"{where}: no data source {source.get('uid')} of type {source.get('type')}"


def _errors(one: Asked, tree: Node) -> Iterator[str]:
    for node in tree.all(ERROR):
        around = f"{tree.source[max(0, node.start - 20) : node.start]}⟨here⟩{tree.source[node.start : node.end + 20]}"
        yield f"{one.where}: no {one.language} at {node.start}: {around}"


def _unknown(one: Asked, tree: Node, known: Metrics, elsewhere: Sequence[str]) -> Iterator[str]:
    """Metrics that nothing exposes, and labels that they do not have: to match, to group by, to join on, to name."""
    known = {**known, **ALERTS}
    every = selectors(tree)
    labels: dict[int, set[str]] = {}
    for selector in every:
        names = selector.metrics(known)
        if not names and not selector.pattern.startswith(tuple(elsewhere) or ("\0",)):
            yield f"{one.where}: nothing exposes {selector.pattern or selector.node.text} (at {selector.node.start})"
        has = {label for name in names for label in known[name]} | TARGET
        # What is not looked up may have any label, and so may what is unknown: that is one finding, not two.
        labels[selector.node.start] = has if names else set(selector.labels) | {"*"}
        for label in selector.labels:
            if names and label not in has:
                yield f"{one.where}: {selector.pattern} has no label {label} (at {selector.node.start})"
    for node in tree.all("AggregateExpr", "BinaryExpr"):
        below = {label for part in node.all("VectorSelector") for label in labels[part.start]}
        for grouping in (part for child in node.children for part in _groupings(child)):
            for name in grouping.all("LabelName"):
                if "*" not in below and name.text not in below:
                    yield f"{one.where}: nothing there has a label {name.text} (at {name.start})"
    left = _remaining(tree, labels)
    for label in re.findall(r"\{\{\s*(\w+)\s*\}\}", one.target.get("legendFormat", "")):
        if "*" not in left and label not in left:
            yield f"{one.where}: the legend names {label}, which no line has"


def _groupings(child: Node) -> Iterator[Node]:
    """The label lists of an aggregation or of a join: not those of what is inside."""
    if child.name in ("AggregateModifier", "MatchingModifierClause"):
        yield from child.all("GroupingLabels")


def _remaining(node: Node, labels: Mapping[int, set[str]]) -> set[str]:
    """The labels that the answer may have: an aggregation leaves those that it groups by."""
    if node.name == "AggregateExpr":
        modifier = next((child for child in node.children if child.name == "AggregateModifier"), None)
        if modifier is None:
            return set()
        if modifier.first("By"):
            return {label.text for label in modifier.all("LabelName")}
    if node.name == "VectorSelector":
        return labels[node.start]
    return {label for child in node.children for label in _remaining(child, labels)}


# Dots


def _dots(where: str, panel: Mapping[str, Any], asked: Sequence[tuple[Asked, Node]]) -> Iterator[str]:
    seen: set[str] = set()
    promised = panel["type"] in SHOWS_DOTS and PROMISES.search(panel.get("description", ""))
    if promised and not any(one.target.get("exemplar") for one, _ in asked):
        yield f"{where}: it speaks of dots, and no query asks for them"
    for one, tree in asked:
        if one.language != "promql":
            continue
        names = {selector.pattern for selector in selectors(tree)}
        if not one.target.get("exemplar"):
            if not one.target.get("hide"):
                seen |= names
            continue
        if one.target.get("hide"):
            yield f"{one.where}: a hidden query brings no dots"
        if again := sorted(names & seen):
            yield f"{one.where}: the first visible query of {', '.join(again)} is another, and only that brings dots"
        seen |= names
        yield from _dots_of(one, tree, panel)
    asking = [one for one, _ in asked if one.target.get("exemplar")]
    per_metric: dict[str, list[str]] = {}
    for one, tree in asked:
        if one in asking:
            for selector in selectors(tree):
                per_metric.setdefault(selector.pattern, []).append(one.target["refId"])
    for name, refs in per_metric.items():
        if len(set(refs)) > 1:
            yield f"{where}: {', '.join(sorted(set(refs)))} all ask for the dots of {name}, so each is drawn twice"


def _dots_of(one: Asked, tree: Node, panel: Mapping[str, Any]) -> Iterator[str]:
    heat = panel["type"] == "heatmap"
    unit = panel["options"]["yAxis"].get("unit") if heat else panel["fieldConfig"]["defaults"].get("unit")
    if panel["type"] not in SHOWS_DOTS:
        yield f"{one.where}: a {panel['type']} shows no dots"
    if unit != "s":
        yield f"{one.where}: the unit is {unit}, and dots lie at seconds"
    if not one.target.get("range") or one.target.get("instant") or one.target.get("format") == "table":
        yield f"{one.where}: only a query over a range brings dots"
    for selector in selectors(tree):
        if ":" in selector.pattern:
            yield f"{one.where}: {selector.pattern} is recorded, and that has no exemplars"
        elif not selector.pattern.endswith("_seconds_bucket"):
            yield f"{one.where}: {selector.pattern} is no histogram's bucket in seconds"
        if "le" in selector.labels:
            yield f"{one.where}: le hides the dots of other buckets (at {selector.node.start})"
    for node in tree.all("BinaryExpr"):
        if any(child.name in ("Mul", "Div") for child in node.children) and any(
            child.name == "NumberDurationLiteral" for child in node.children
        ):
            yield f"{one.where}: lines are scaled, and dots are not (at {node.start})"


# Rules and data sources


def recorded(groups: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """What a file of rules records, with labels; all that we record is of a service."""
    found: dict[str, set[str]] = {}
    for rule in (rule for group in groups for rule in group["rules"] if "record" in rule):
        found.setdefault(rule["record"], {"job", "slo"}).update(rule.get("labels", ()))
    return found


def of_rules(name: str, groups: Sequence[Mapping[str, Any]], known: Metrics) -> list[str]:
    """Everything that is wrong with a file of rules."""
    known = {**known, **recorded(groups)}
    asked = []
    for group in groups:
        for rule in group["rules"]:
            where = f"{name} / {group['name']} / {rule.get('record') or rule['alert']}"
            asked.append(Asked(where, "promql", rule["expr"]))
            for annotation, text in rule.get("annotations", {}).items():
                for query in re.findall(r'"([^"]+)" (?:\$of )?\| (?:query|first)', text):
                    filled = re.sub(r"%s$", "{}", query).replace("%f", "1")
                    asked.append(Asked(f"{where} / {annotation}", "promql", filled))
    found = []
    for one, tree in zip(asked, _parsed(asked), strict=True):
        found += [*_errors(one, tree), *_unknown(one, tree, known, ())]
    return found


def of_sources(content: Mapping[str, Any], known: Metrics) -> list[str]:
    """Everything that is wrong with provisioned data sources: whom they name, and what they ask each other."""
    sources = {source["uid"]: source for source in content["datasources"]}
    found, asked = [], []
    for source in sources.values():
        for where, uid in _named(source.get("jsonData", {}), source["name"]):
            if uid not in sources:
                found.append(f"{where}: there is no data source {uid}")
        settings = source.get("jsonData", {})
        metrics = settings.get("tracesToMetrics", {})
        tags = ", ".join(f'{tag["value"]}="x"' for tag in metrics.get("tags", ()))
        for query in metrics.get("queries", ()):
            text = query["query"].replace("$$__tags", tags)
            asked.append(Asked(f"{source['name']} / {query['name']}", "promql", text))
        logs = settings.get("tracesToLogsV2", {})
        if logs.get("customQuery"):
            text = re.sub(r"\$\$\{__trace\.traceId\}", "0" * 32, logs["query"])
            asked.append(Asked(f"{source['name']} / logs of a trace", "logql", text.replace("$${__tags}", 'a="b"')))
    for one, tree in zip(asked, _parsed(asked), strict=True):
        if "$" in one.text:
            found.append(f"{one.where}: a dollar sign is left; $$ is one in these files")
        found += _errors(one, tree)
        if one.language == "promql":
            found += _unknown(one, tree, known, ())
    return found


def _named(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            if key == "datasourceUid":
                yield where, part
            else:
                yield from _named(part, f"{where} / {key}")
    elif isinstance(value, list):
        for part in value:
            yield from _named(part, where)

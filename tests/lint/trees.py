"""Queries as trees, by the grammars that Prometheus and Grafana publish for their own editors."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.node import installed
from tests.programs import program

DIRECTORY: Final = Path(__file__).parent / "grammars"
LANGUAGES: Final = {"prometheus": "promql", "tempo": "traceql", "loki": "logql"}  # of each kind of data source
ERROR: Final = "⚠"


@dataclass(frozen=True)
class Node:
    """A part of a query: *source* from *start* to *end*."""

    name: str
    start: int
    end: int
    children: tuple["Node", ...]
    source: str

    @property
    def text(self) -> str:
        return self.source[self.start : self.end]

    def all(self, *names: str) -> Iterator["Node"]:
        """It and what is below it; only nodes of *names*, if some are given."""
        if not names or self.name in names:
            yield self
        for child in self.children:
            yield from child.all(*names)

    def first(self, *names: str) -> "Node | None":
        return next(self.all(*names), None)


def parse(queries: Sequence[tuple[str, str]]) -> list[Node]:
    """The tree of each: a language, which is a value of `LANGUAGES`, and a text. Needs Node.

    Without it the test is skipped; where `CI` is set, it fails.
    """
    node = program("node")
    asked = json.dumps([{"language": language, "text": text} for language, text in queries])
    done = subprocess.run(
        [node, str(installed(DIRECTORY) / "parse.mjs")], input=asked, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [_node(tree, text) for tree, (_, text) in zip(json.loads(done.stdout), queries, strict=True)]


def _node(tree: Any, source: str) -> Node:
    name, start, end, children = tree
    return Node(name, start, end, tuple(_node(child, source) for child in children), source)

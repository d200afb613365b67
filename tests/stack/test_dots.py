"""The judge of dots: what it calls a trace that is not whole, and a service that is silent."""

from typing import Any

import pytest

from tests.stack.dots import missing, silent

URLS = {"front": "http://127.0.0.1:1", "stock": "http://127.0.0.1:2"}


def span(name: str, service: str, kind: str, parent: str = "", url: str = "") -> dict[str, Any]:
    """One whose id is its name."""
    return {
        "name": name,
        "service": service,
        "kind": f"SPAN_KIND_{kind}",
        "spanId": name,
        "parentSpanId": parent,
        "attributes": {"url.full": url} if url else {},
    }


WHOLE = [
    span("served", "front", "SERVER"),
    span("asked", "front", "CLIENT", "served", "http://127.0.0.1:2/stock/lamp"),
    span("answered", "stock", "SERVER", "asked"),
    span("read", "stock", "INTERNAL", "answered"),
]


def line(service: str, span_id: str) -> dict[str, Any]:
    return {"labels": {"service_name": service, "span_id": span_id}}


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (None, []),
        ("served", ["above asked of front"]),
        ("asked", ["above answered of stock"]),
        ("answered", ["of stock, asked by front", "above read of stock"]),
        ("read", []),  # nobody can know
    ],
)
def test_a_trace_lacks_whoever_has_a_child_or_was_called(gone: str | None, said: list[str]) -> None:
    assert list(missing([one for one in WHOLE if one["name"] != gone], URLS)) == said


def test_a_call_to_nobody_we_know_is_told() -> None:
    calls = [WHOLE[0], span("asked", "front", "CLIENT", "served", "http://elsewhere/")]
    assert list(missing(calls, URLS)) == ["of whoever is at 'http://elsewhere/'"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([line("front", "served"), line("stock", "read")], []),
        ([line("front", "asked"), line("stock", "answered")], []),
        ([line("front", "served")], ["stock, answered"]),
        ([line("front", "served"), line("front", "read")], ["stock, answered"]),
        ([line("stock", "answered")], ["front, served"]),
        ([], ["front, served", "stock, answered"]),
    ],
)
def test_each_service_speaks_for_itself(lines: list[dict[str, Any]], said: list[str]) -> None:
    assert list(silent(WHOLE, lines)) == said

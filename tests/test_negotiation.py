"""Negotiation: Accept headers of real servers, the rules of q and wildcards, and headers meant to hurt."""

import json
from pathlib import Path
from typing import Final, TypedDict, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exemplars.negotiation import ESCAPINGS, choose, gzip_accepted

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
DRAFT: Final = "application/openmetrics-text; version=0.0.1; charset=utf-8"
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
TEXT_1: Final = "text/plain; version=1.0.0; charset=utf-8"
ANSWERS: Final = {OPENMETRICS, DRAFT, TEXT, TEXT_1} | {
    f"{type_}; escaping={scheme}" for type_ in (OPENMETRICS, TEXT_1) for scheme in ESCAPINGS
}


class Real(TypedDict):
    """What a Prometheus of these versions sends with this setting, and the content type it should get."""

    server: str
    setting: str
    source: str
    accept: str
    answer: str


REAL: Final = cast(list[Real], json.loads((Path(__file__).parent / "data" / "accept.json").read_text()))


@pytest.mark.parametrize("real", REAL, ids=[f"{real['server']}, {real['setting']}" for real in REAL])
def test_every_real_prometheus_gets_what_it_asks_for(real: Real) -> None:
    assert choose(real["accept"]).content_type == real["answer"]


def test_every_prometheus_with_default_settings_gets_exemplars() -> None:
    defaults = [real for real in REAL if real["setting"].startswith(("default", "native"))]

    assert len(defaults) > 20
    assert all(choose(real["accept"]).openmetrics for real in defaults)


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        ("", TEXT),
        ("*/*", TEXT),  # curl
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", TEXT),  # a browser
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0", OPENMETRICS),
        ("APPLICATION/OpenMetrics-Text ; Version=1.0.0 ; Q=0.3", OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"', OPENMETRICS),
        ("text/plain", TEXT),
        ("text/plain;charset=utf-8", TEXT),
        ("text/*", TEXT),
        ("application/*", OPENMETRICS),
        ("image/png", TEXT),
        ("application/json", TEXT),
    ],
)
def test_simple_headers(accept: str, answer: str) -> None:
    assert choose(accept).content_type == answer


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        ("text/plain;q=0.9, application/openmetrics-text;q=0.8", TEXT),
        ("text/plain;q=0.8, application/openmetrics-text;q=0.9", OPENMETRICS),
        ("text/plain, application/openmetrics-text", OPENMETRICS),  # of equals the one with exemplars
        (
            "application/openmetrics-text;version=0.0.1, application/openmetrics-text;version=1.0.0",
            OPENMETRICS,
        ),
        (
            "application/openmetrics-text;version=0.0.1;q=0.9,application/openmetrics-text;version=1.0.0;q=0.8",
            DRAFT,
        ),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0.000, */*", TEXT),
        ("application/openmetrics-text;q=0, */*;q=0.1", TEXT),
        ("text/plain;q=0, */*", OPENMETRICS),
        ("text/*;q=0, */*", OPENMETRICS),
        ("*/*;q=0", TEXT),
        (
            "application/openmetrics-text;version=1.0.0;q=0,application/openmetrics-text;q=0.5,text/plain;q=0.4",
            DRAFT,
        ),
    ],
)
def test_q_decides_and_zero_refuses(accept: str, answer: str) -> None:
    assert choose(accept).content_type == answer


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        ("application/openmetrics-text;q=0.1, */*;q=2", OPENMETRICS),
        ("application/openmetrics-text;q=0.1, text/*;q=1, */*;q=1", OPENMETRICS),
        ("text/plain;q=0.1, application/*", TEXT),
        ("application/*;q=0.5, */*;q=0.1", OPENMETRICS),
        ("application/*;q=0.1, */*;q=0.5", TEXT),
    ],
)
def test_explicit_types_win_over_wildcards(accept: str, answer: str) -> None:
    assert choose(accept).content_type == answer


@pytest.mark.parametrize("quality", ["abc", "", "-1", "2", "1.5", "1e3", "nan", "inf", "٣", "0x1", "1.0.0", "9" * 400])
def test_a_malformed_q_counts_as_one(quality: str) -> None:
    assert choose(f"application/openmetrics-text;q={quality}, text/plain;q=0.9").openmetrics
    assert not choose(f"text/plain;q={quality}, application/openmetrics-text;q=0.9").openmetrics


@pytest.mark.parametrize("version", ["2.0.0", "9.9.9", "1.1.0", "abc", "1", "-"])
def test_openmetrics_is_never_claimed_in_a_version_that_is_not_spoken(version: str) -> None:
    asked = f"application/openmetrics-text;version={version}"

    assert choose(asked).content_type == TEXT
    assert choose(f"{asked},text/plain;q=0.1").content_type == TEXT
    # Who knows the format and takes anything gets the version that there is, with its exemplars.
    assert choose(f"{asked},*/*;q=0.1").content_type == OPENMETRICS
    assert choose(f"{asked};q=0,*/*;q=0.1").content_type == TEXT


@pytest.mark.parametrize("scheme", sorted(ESCAPINGS))
def test_an_escaping_scheme_is_taken_and_named_where_it_was_asked_for(scheme: str) -> None:
    openmetrics = choose(f"application/openmetrics-text;version=1.0.0;escaping={scheme},text/plain;q=0.1")
    text = choose(f"text/plain;version=1.0.0;escaping={scheme.upper()}")

    assert openmetrics == (True, f"{OPENMETRICS}; escaping={scheme}", scheme)
    assert text == (False, f"{TEXT_1}; escaping={scheme}", scheme)


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=1.0.0",
        "application/openmetrics-text;version=1.0.0;escaping=rot13",
        "application/openmetrics-text;version=0.0.1;escaping=allow-utf-8",
        "text/plain;version=0.0.4;escaping=allow-utf-8",
        "text/plain;version=0.0.4,application/json;escaping=dots",
    ],
)
def test_otherwise_names_are_escaped_by_underscores_and_the_answer_says_nothing_of_it(accept: str) -> None:
    answer = choose(accept)

    assert answer.escaping == "underscores"
    assert "escaping" not in answer.content_type


def test_protobuf_is_never_chosen() -> None:
    protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"

    assert choose(protobuf).content_type == TEXT
    assert choose(f"{protobuf},application/openmetrics-text;q=0.1").content_type == OPENMETRICS


RANGES: Final = st.sampled_from(
    ["application/openmetrics-text", "text/plain", "application/*", "text/*", "*/*", "application/json", ""]
)
PARAMETERS: Final = st.tuples(
    st.sampled_from(["q", "Q", "version", "escaping", "charset", "proto", ""]),
    st.sampled_from(["0", "0.5", "1", "2", "x", "1.0.0", "0.0.1", "0.0.4", "allow-utf-8", "dots", '"1.0.0"', "=", ""]),
).map("=".join)
HEADERS: Final = st.lists(
    st.tuples(RANGES, st.lists(PARAMETERS, max_size=4)).map(lambda both: "; ".join([both[0], *both[1]])),
    max_size=6,
).map(",".join)


@given(st.one_of(HEADERS, st.text(), st.text(alphabet='*/;=,q.01" ')))
def test_any_header_gets_one_of_the_known_answers(accept: str) -> None:
    answer = choose(accept)

    assert answer.content_type in ANSWERS
    assert answer.openmetrics is answer.content_type.startswith("application/openmetrics-text")
    assert answer.escaping in ESCAPINGS


@given(HEADERS)
def test_no_wildcard_brings_back_what_was_refused(header: str) -> None:
    refusal = "application/openmetrics-text;version=1.0.0;q=0,application/openmetrics-text;version=0.0.1;q=0"

    assert "openmetrics-text" in header or not choose(f"{header},{refusal}").openmetrics


@pytest.mark.parametrize("filler", [",", ";", "=", "a", "*/*;q=0.1,", "text/plain;q=0.1;", '"'])
def test_a_very_long_header_is_read_at_its_beginning_only(filler: str) -> None:
    beginning = "application/openmetrics-text;version=1.0.0,"

    assert choose(beginning + filler * 1_000_000).openmetrics
    assert not choose("image/png," * 1000 + beginning).openmetrics
    assert choose(filler * 1_000_000).content_type in ANSWERS


def test_a_long_header_is_never_cut_inside_a_range() -> None:
    """Cut inside, ``text/plain;q=0.3`` would become ``text/plain;q=`` and win."""
    for width in range(4000, 4120):
        padding = "x" * (width - len("application/openmetrics-text;q=0.4,"))
        assert choose(f"application/openmetrics-text;q=0.4,{padding},text/plain;q=0.3,").openmetrics
        padding = "x" * (width - len("gzip;q=0.4,"))
        assert gzip_accepted(f"gzip;q=0.4,{padding},identity;q=0.3,")


@pytest.mark.parametrize(
    ("accept_encoding", "accepted"),
    [
        ("gzip", True),  # Prometheus
        ("gzip, deflate, br, zstd", True),
        ("GZIP;q=0.5", True),
        ("x-gzip", True),
        ("*", True),
        ("br, *;q=0.1", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip;q=0.0, *", False),
        ("*;q=0", False),
        ("identity, gzip;q=0.5", False),
        ("identity;q=0.5, gzip", True),
        ("identity;q=0, gzip;q=0.1", True),
        ("gzipped", False),
    ],
)
def test_gzip_is_used_where_it_is_accepted(accept_encoding: str, accepted: bool) -> None:
    assert gzip_accepted(accept_encoding) is accepted


@given(st.one_of(st.text(), st.text(alphabet="gzip;=,q.01* ")))
def test_any_accept_encoding_gets_an_answer(accept_encoding: str) -> None:
    assert gzip_accepted(accept_encoding) in (True, False)

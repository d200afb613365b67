"""Options: what is refused, by name and value and with the way out, and what the rest becomes."""

import decimal
import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry

from exemplars import ASGIMiddleware, Policy, WSGIMiddleware, instrument, semconv
from exemplars._types import Receive, Scope, Send
from exemplars.options import MEASURES, Options, check_buckets, check_label_name, resolve
from tests.measured import Faults


async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError


def wsgi_app(environ: Any, start_response: Any) -> Any:
    raise AssertionError


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    # The options, what of them the message names, and what way out it tells.
    ({"registry": None}, "registry is None", "give a prometheus_client.CollectorRegistry"),
    ({"registry": CollectorRegistry}, "registry is <class", "give a prometheus_client.CollectorRegistry"),
    ({"registry": 5}, "registry is 5", "give a prometheus_client.CollectorRegistry"),
    ({"buckets": ()}, "buckets is ()", "give at least one finite upper bound"),
    ({"buckets": [math.inf]}, "buckets is [inf]", "give at least one finite upper bound"),
    ({"buckets": [-math.inf, 1]}, "buckets is [-inf, 1]", "give at least one finite upper bound"),
    ({"buckets": [1, 0.5]}, "buckets has 0.5 after 1.0", "must rise strictly"),
    ({"buckets": [1, 1]}, "buckets has 1.0 after 1.0", "must rise strictly"),
    ({"buckets": [math.nan]}, "buckets has nan", "must be a number"),
    ({"buckets": ["1"]}, "buckets has '1'", "must be a number"),
    ({"buckets": [True]}, "buckets has True", "must be a number"),
    ({"buckets": [decimal.Decimal(1)]}, "buckets has Decimal('1')", "must be a number"),
    ({"buckets": [10**400]}, "buckets has 1000", "must be a number"),
    ({"buckets": "0.1"}, "buckets is '0.1'", "give upper bounds such as (0.1, 0.5, 1.0)"),
    ({"buckets": 5}, "buckets is 5", "give upper bounds such as"),
    ({"buckets": None}, "buckets is None", "give upper bounds such as"),
    ({"exclude": "/health"}, "exclude is '/health'", "give a sequence of regular expressions"),
    ({"exclude": b"/health"}, "exclude is b'/health'", "give a sequence of regular expressions"),
    ({"exclude": 5}, "exclude is 5", "give a sequence of regular expressions"),
    ({"exclude": ["("]}, "exclude has '('", "no regular expression: missing ), unterminated subpattern"),
    ({"exclude": [5]}, "exclude has 5", "no regular expression"),
    ({"exclude": [None]}, "exclude has None", "no regular expression"),
    ({"exclude": [b"/health"]}, "exclude has b'/health'", "give a text"),
    ({"exclude": [re.compile(b"/health")]}, "exclude has re.compile(b'/health')", "give a text"),
    ({"route": "/a"}, "route is '/a'", "give a function of the ASGI scope or WSGI environ"),
    ({"labels": [("a", "b")]}, "labels is [('a', 'b')]", "give a mapping from label name to text or function"),
    ({"labels": {"a-b": "x"}}, "'a-b' is no label name", "use letters, digits and underscores, no digit first"),
    ({"labels": {"1a": "x"}}, "'1a' is no label name", "no digit first"),
    ({"labels": {"": "x"}}, "'' is no label name", "use letters"),
    ({"labels": {"ä": "x"}}, "'ä' is no label name", "use letters"),
    ({"labels": {"a\n": "x"}}, "'a\\n' is no label name", "use letters"),
    ({"labels": {5: "x"}}, "5 is no label name", "use letters"),
    ({"labels": {"__a": "x"}}, "'__a' is no label name", "Prometheus's own"),
    ({"labels": {"http_route": "x"}}, "'http_route' is taken", "choose another label name"),
    ({"labels": {"server_port": "x"}}, "'server_port' is taken", "choose another label name"),
    ({"labels": {"le": "x"}}, "'le' is taken", "choose another label name"),
    ({"labels": {"trace_id": "x"}}, "'trace_id' is taken", "choose another label name"),
    ({"labels": {"otel_metric_overflow": "x"}}, "'otel_metric_overflow' is taken", "choose another label name"),
    ({"labels": {"a": 5}}, "labels['a'] is 5", "give a text, or a function of the scope or environ"),
    ({"labels": {"a": None}}, "labels['a'] is None", "give a text, or a function"),
    ({"optional_labels": "server_port"}, "optional_labels is 'server_port'", "give a collection of network_protocol"),
    ({"optional_labels": ["port"]}, "optional_labels has 'port'", "choose from network_protocol_version, server_addr"),
    ({"optional_labels": [5]}, "optional_labels has 5", "choose from"),
    ({"optional_labels": 5}, "optional_labels is 5", "give a collection of"),
    ({"measure": "response_start"}, "measure is 'response_start'", "give a collection of active_requests, request_"),
    ({"measure": ["duration"]}, "measure has 'duration'", "choose from active_requests, request_body_size"),
    ({"measure": None}, "measure is None", "give a collection of"),
    ({"policy": "newest"}, "policy is 'newest'", "give an exemplars.Policy"),
    ({"policy": Policy}, "policy is <class", "give an exemplars.Policy"),
    ({"marks_per_second": -1}, "marks_per_second is -1", "give a number of 0 or more"),
    ({"marks_per_second": math.nan}, "marks_per_second is nan", "give a number of 0 or more"),
    ({"marks_per_second": math.inf}, "marks_per_second is inf", "give a number of 0 or more"),
    ({"marks_per_second": "10"}, "marks_per_second is '10'", "give a number of 0 or more"),
    ({"marks_per_second": True}, "marks_per_second is True", "give a number of 0 or more"),
    ({"marks_per_second": 10**400}, "marks_per_second is 1000", "give a number of 0 or more"),
    ({"max_series": 0}, "max_series is 0", "give a whole number of 1 or more"),
    ({"max_series": 1.5}, "max_series is 1.5", "give a whole number of 1 or more"),
    ({"max_series": True}, "max_series is True", "give a whole number of 1 or more"),
    ({"max_series": None}, "max_series is None", "give a whole number of 1 or more"),
]

CONSTRUCT: dict[str, Callable[[dict[str, Any]], object]] = {
    "resolve": lambda options: resolve(options),
    "ASGIMiddleware": lambda options: ASGIMiddleware(asgi_app, **{"registry": CollectorRegistry(), **options}),
    "WSGIMiddleware": lambda options: WSGIMiddleware(wsgi_app, **{"registry": CollectorRegistry(), **options}),
    "instrument": lambda options: instrument(asgi_app, **{"registry": CollectorRegistry(), **options}),
}


@pytest.mark.parametrize("construct", CONSTRUCT)
@pytest.mark.parametrize(
    ("options", "named", "way_out"), REFUSED, ids=[f"{i} {next(iter(o))}" for i, (o, _, _) in enumerate(REFUSED)]
)
def test_a_bad_value_is_refused_by_name_and_with_the_way_out(
    construct: str, options: dict[str, Any], named: str, way_out: str
) -> None:
    with pytest.raises(ValueError) as refused:
        CONSTRUCT[construct](options)

    assert named in str(refused.value)
    assert way_out in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("construct", CONSTRUCT)
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("bucket", "did you mean 'buckets'?"),
        ("excludes", "did you mean 'exclude'?"),
        ("label", "did you mean 'labels'?"),
        ("max_serie", "did you mean 'max_series'?"),
        ("nonsense", "the options are registry, buckets, exclude, route, labels"),
    ],
)
def test_an_unknown_option_is_refused_with_the_one_that_was_meant(construct: str, name: str, hint: str) -> None:
    with pytest.raises(TypeError) as refused:
        CONSTRUCT[construct]({name: 1})

    assert str(refused.value).startswith(f"unknown option {name!r}: ")
    assert hint in str(refused.value)


def test_what_is_not_given_has_its_default() -> None:
    resolved = resolve({}, {})

    assert resolved.registry is REGISTRY
    assert resolved.buckets == semconv.DURATION_BUCKETS
    assert (resolved.exclude, resolved.labels, resolved.optional_labels) == ((), (), ())
    assert resolved.route is None
    assert resolved.measure == {"active_requests"}
    assert resolved.policy == Policy()
    assert resolved.marks_per_second == 10.0
    assert resolved.max_series == 2000
    assert resolved.known_methods == semconv.KNOWN_METHODS


def test_what_is_given_is_kept() -> None:
    registry = CollectorRegistry()

    def route(scope: object) -> str:
        return "/a"

    given_: Options = {
        "registry": registry,
        "buckets": iter((1, 2.5, math.inf)),  # type: ignore[typeddict-item]  # any iterable will do
        "exclude": (r"/a", re.compile("/b")),  # type: ignore[typeddict-item]  # a compiled one too
        "route": route,
        "labels": MappingProxyType({"a": "x", "b": route}),
        "optional_labels": {"server_port", "server_address"},
        "measure": frozenset(MEASURES),
        "policy": Policy(max_age=60.0),
        "marks_per_second": 0,
        "max_series": 1,
    }
    resolved = resolve(given_, {})

    assert resolved.registry is registry
    assert resolved.buckets == (1.0, 2.5)
    assert [pattern.pattern for pattern in resolved.exclude] == ["/a", "/b"]
    assert resolved.route is route
    assert resolved.labels == (("a", "x"), ("b", route))
    assert resolved.optional_labels == ("server_address", "server_port")
    assert resolved.measure == set(MEASURES)
    assert resolved.policy == Policy(max_age=60.0)
    assert resolved.marks_per_second == 0.0
    assert resolved.max_series == 1


@pytest.mark.parametrize("given_", [["server_port", "server_address"], ["server_address", "server_port"]])
def test_optional_labels_have_one_order_whatever_the_given_one(given_: list[str]) -> None:
    assert resolve({"optional_labels": given_}, {}).optional_labels == ("server_address", "server_port")


@pytest.mark.parametrize(
    ("listed", "known"),
    [
        (None, semconv.KNOWN_METHODS),
        ("", semconv.KNOWN_METHODS),
        (" , ,", semconv.KNOWN_METHODS),
        ("GET", {"GET"}),
        ("GET, PURGE ,get,", {"GET", "PURGE", "get"}),
    ],
)
def test_the_environment_lists_the_known_methods_whole(listed: str | None, known: set[str]) -> None:
    environ: Mapping[str, str] = {} if listed is None else {"OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS": listed}

    assert resolve({}, environ).known_methods == known


numbers = st.floats() | st.integers(-(2**60), 2**60)


@given(st.lists(numbers, max_size=6))
def test_buckets_are_finite_bounds_that_rise_or_are_refused(buckets: list[float]) -> None:
    try:
        bounds = check_buckets(buckets)
    except ValueError:
        as_floats = [float(bound) for bound in buckets]
        assert (
            any(math.isnan(bound) for bound in as_floats)
            or as_floats != sorted(set(as_floats))
            or as_floats in ([], [math.inf])
            or as_floats[0] == -math.inf
        )
    else:
        assert list(bounds) == [float(bound) for bound in buckets if bound != math.inf]
        assert all(math.isfinite(bound) for bound in bounds)
        assert list(bounds) == sorted(set(bounds))


@given(st.text() | st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]*", fullmatch=True))
def test_a_label_name_is_one_that_prometheus_takes(name: str) -> None:
    valid = re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", name, re.ASCII) is not None and "\n" not in name
    try:
        assert check_label_name(name) == name
    except ValueError as refused:
        assert not valid
        assert repr(name) in str(refused)
    else:
        assert valid


def test_a_refusal_is_no_fault() -> None:
    faults = Faults()
    with pytest.raises(ValueError):
        resolve({"max_series": 0})

    assert faults.seen == {}

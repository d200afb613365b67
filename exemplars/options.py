"""The options, stated once; their validation; the one reader of the environment."""

import difflib
import math
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict
from urllib.parse import unquote

from prometheus_client import REGISTRY, CollectorRegistry

from exemplars import semconv
from exemplars._types import LabelValue, RouteResolver
from exemplars.policy import Policy

DEFAULT_MAX_SERIES: Final = 2000
DEFAULT_MARKS_PER_SECOND: Final = 10.0
MEASURES: Final = ("active_requests", "request_body_size", "response_body_size", "response_start")
DEFAULT_MEASURE: Final = ("active_requests",)

_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_RESERVED_LABELS: Final = frozenset(
    (
        *semconv.REQUEST_LABELS,
        *semconv.OPTIONAL_LABELS,
        semconv.OVERFLOW,
        semconv.TRACE_ID,
        semconv.SPAN_ID,
        "le",
    )
)


class Options(TypedDict, total=False):
    """What `instrument`, `ASGIMiddleware` and `WSGIMiddleware` take by keyword.

    - *registry*: where the metrics are registered; ``prometheus_client.REGISTRY`` by default.
    - *buckets*: upper bounds of the duration histogram in seconds, strictly rising; by default OpenTelemetry's.
    - *exclude*: regular expressions; a request whose path one of them matches in full is not measured.
    - *route*: the route template of a request from its ASGI scope or WSGI environ, instead of the framework's own;
      ``None`` when nothing matched. Called at the response's start. If it raises, the label is empty and the fault is
      counted.
    - *labels*: further labels: a fixed text, or a function of the scope or environ that returns one; cut after 256
      characters, empty when the function raises.
    - *optional_labels*: any of ``network_protocol_version``, ``server_address``, ``server_port`` (the last two are
      what the client's ``Host`` header says: *max_series* bounds them).
    - *measure*: any of ``active_requests`` (default), ``request_body_size``, ``response_body_size`` and
      ``response_start``.
    - *policy*: when the exemplar of a bucket is replaced.
    - *marks_per_second*: how many spans a process marks for tail sampling; 0: exemplars without marks, for head
      sampling only.
    - *max_series*: label sets a metric may have before one overflow series takes the rest.
    """

    registry: CollectorRegistry
    buckets: Sequence[float]
    exclude: Sequence[str]
    route: RouteResolver
    labels: Mapping[str, LabelValue]
    optional_labels: Collection[str]
    measure: Collection[str]
    policy: Policy
    marks_per_second: float
    max_series: int


@dataclass(frozen=True, slots=True)
class Resolved:
    """Options after validation, with every default filled in; *known_methods* comes from the environment."""

    registry: CollectorRegistry
    buckets: tuple[float, ...]
    exclude: tuple[re.Pattern[str], ...]
    route: RouteResolver | None
    labels: tuple[tuple[str, LabelValue], ...]
    optional_labels: tuple[str, ...]
    measure: frozenset[str]
    policy: Policy
    marks_per_second: float
    max_series: int
    known_methods: frozenset[str]


def resolve(options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Resolved:
    """Validate *options* and fill in the defaults.

    Raises ``TypeError`` for an unknown option and ``ValueError`` for a bad value; both name it and the way out.
    """
    known = Options.__annotations__
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"the options are {', '.join(known)}"
            raise TypeError(f"unknown option {name!r}: {hint}")
    registry = options.get("registry", REGISTRY)
    methods = (getattr(registry, name, None) for name in ("register", "collect"))
    if isinstance(registry, type) or not all(map(callable, methods)):
        raise ValueError(f"registry is {registry!r}: give a prometheus_client.CollectorRegistry")
    route = options.get("route")
    if route is not None and not callable(route):
        raise ValueError(f"route is {route!r}: give a function of the ASGI scope or WSGI environ")
    policy = options.get("policy", Policy())
    if not isinstance(policy, Policy):
        raise ValueError(f"policy is {policy!r}: give an exemplars.Policy")
    marks = options.get("marks_per_second", DEFAULT_MARKS_PER_SECOND)
    if not _is_number(marks) or not 0 <= marks < math.inf:
        raise ValueError(f"marks_per_second is {marks!r}: give a number of 0 or more")
    return Resolved(
        registry=registry,
        buckets=check_buckets(options.get("buckets", semconv.DURATION_BUCKETS)),
        exclude=_check_exclude(options.get("exclude", ())),
        route=route,
        labels=_check_labels(options.get("labels", {})),
        optional_labels=_check_choice("optional_labels", options.get("optional_labels", ()), semconv.OPTIONAL_LABELS),
        measure=frozenset(_check_choice("measure", options.get("measure", DEFAULT_MEASURE), MEASURES)),
        policy=policy,
        marks_per_second=float(marks),
        max_series=check_max_series(options.get("max_series", DEFAULT_MAX_SERIES)),
        known_methods=_known_methods(environ),
    )


def service_name_of(environ: Mapping[str, str] = os.environ) -> str | None:
    """The name of this service: ``OTEL_SERVICE_NAME``, else ``service.name`` in ``OTEL_RESOURCE_ATTRIBUTES``.

    ``None`` if neither tells one. Never raises: a pair that is none is passed over.
    """
    name = environ.get("OTEL_SERVICE_NAME", "").strip()
    for item in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = item.partition("=")
        if key.strip() == "service.name":
            name = name or unquote(value.strip())
    return name or None


def check_buckets(buckets: Iterable[float]) -> tuple[float, ...]:
    """The finite upper bounds among *buckets* as floats, without a final ``+Inf``, which every histogram has.

    Raises ``ValueError`` unless they are numbers, at least one of them finite, and strictly rising.
    """
    if isinstance(buckets, (str, bytes)) or not isinstance(buckets, Iterable):
        raise ValueError(f"buckets is {buckets!r}: give upper bounds such as (0.1, 0.5, 1.0)")
    bounds = []
    for bound in buckets:
        if not _is_number(bound) or math.isnan(bound):
            raise ValueError(f"buckets has {bound!r}: every upper bound must be a number")
        bounds.append(float(bound))
    for lower, upper in zip(bounds, bounds[1:], strict=False):
        if lower >= upper:
            raise ValueError(f"buckets has {upper!r} after {lower!r}: the upper bounds must rise strictly")
    if bounds and bounds[-1] == math.inf:
        bounds.pop()
    if not bounds or bounds[0] == -math.inf:
        raise ValueError(f"buckets is {buckets!r}: give at least one finite upper bound")
    return tuple(bounds)


def check_max_series(max_series: int) -> int:
    """*max_series* itself. Raises ``ValueError`` unless it is a whole number of 1 or more."""
    if isinstance(max_series, bool) or not isinstance(max_series, int) or max_series < 1:
        raise ValueError(f"max_series is {max_series!r}: give a whole number of 1 or more")
    return max_series


def check_label_name(name: object, reserved: Collection[str] = ()) -> str:
    """*name* itself. Raises ``ValueError`` unless Prometheus allows it as a label's and it is not *reserved*."""
    if not isinstance(name, str) or not _LABEL_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no label name: use letters, digits and underscores, no digit first")
    if name.startswith("__"):
        raise ValueError(f"{name!r} is no label name: two underscores first are Prometheus's own")
    if name in reserved:
        raise ValueError(f"{name!r} is taken: choose another label name")
    return name


def _check_exclude(exclude: object) -> tuple[re.Pattern[str], ...]:
    if isinstance(exclude, (str, bytes)) or not isinstance(exclude, Iterable):
        raise ValueError(f"exclude is {exclude!r}: give a sequence of regular expressions, such as [r'/health/.*']")
    compiled = []
    for pattern in exclude:
        try:
            expression = re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(f"exclude has {pattern!r}, which is no regular expression: {error}") from None
        if not isinstance(expression.pattern, str):
            raise ValueError(f"exclude has {pattern!r}, which never matches a path: give a text")
        compiled.append(expression)
    return tuple(compiled)


def _check_labels(labels: object) -> tuple[tuple[str, LabelValue], ...]:
    if not isinstance(labels, Mapping):
        raise ValueError(f"labels is {labels!r}: give a mapping from label name to text or function")
    for name, value in labels.items():
        check_label_name(name, _RESERVED_LABELS)
        if not isinstance(value, str) and not callable(value):
            raise ValueError(f"labels[{name!r}] is {value!r}: give a text, or a function of the scope or environ")
    return tuple(labels.items())


def _check_choice(option: str, chosen: object, choices: Sequence[str]) -> tuple[str, ...]:
    if isinstance(chosen, str) or not isinstance(chosen, Iterable):
        raise ValueError(f"{option} is {chosen!r}: give a collection of {', '.join(choices)}")
    names = list(chosen)
    for name in names:
        if name not in choices:
            raise ValueError(f"{option} has {name!r}: choose from {', '.join(choices)}")
    return tuple(choice for choice in choices if choice in names)


def _known_methods(environ: Mapping[str, str]) -> frozenset[str]:
    # The whole list, not an addition, and case-sensitive: as the conventions define the variable.
    listed = environ.get("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "")
    methods = frozenset(method.strip() for method in listed.split(",") if method.strip())
    return methods or semconv.KNOWN_METHODS


def _is_number(value: object) -> bool:
    """Tell whether *value* is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, float) or abs(value) <= sys.float_info.max

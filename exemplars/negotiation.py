"""Which format a page gets, by the request's headers alone. Pure; nothing in a header makes it fail."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

OPENMETRICS: Final = "application/openmetrics-text"
TEXT: Final = "text/plain"

# How a name that is not [a-zA-Z_:][a-zA-Z0-9_:]* is written: https://prometheus.io/docs/instrumenting/escaping_schemes/
ESCAPINGS: Final = frozenset(("allow-utf-8", "underscores", "dots", "values"))
DEFAULT_ESCAPING: Final = "underscores"

# What is offered, the first of equals first. OpenMetrics 0.0.1 is the draft of 1.0.0: the same page serves
# both, and whoever asks for the draft alone is told that version, as client_golang does. Never protobuf.
_OFFERS: Final = ((OPENMETRICS, "1.0.0"), (OPENMETRICS, "0.0.1"), (TEXT, "0.0.4"), (TEXT, "1.0.0"))
# Escaping belongs to these: in earlier versions a name cannot be quoted. Prometheus 3.0 to 3.3 ask for it all
# the same, 3.4 (scrape/scrape.go, acceptHeader) no longer does.
_ESCAPED_VERSION: Final = "1.0.0"

_LONGEST: Final = 4096  # characters of a header that are read; Prometheus' longest Accept has 390
_QUALITY: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{0,9})?|\.[0-9]{1,9}")


class Format(NamedTuple):
    """The form of a page: OpenMetrics or text, its content type, and the escaping scheme of names."""

    openmetrics: bool
    content_type: str
    escaping: str


class _Range(NamedTuple):
    name: str
    parameters: dict[str, str]
    quality: float


def choose(accept: str) -> Format:
    """Choose the format for an ``Accept`` header; several of them are joined by commas.

    The explicit type of the highest ``q`` wins, and of equals OpenMetrics, which alone carries exemplars.
    Wildcards count only where no explicit type is acceptable: Prometheus 2.49.0 sends ``*/*;q=2`` by mistake.
    A wildcard gets text, unless the header also names OpenMetrics in a version that is not spoken here: who
    knows the format gets version 1.0.0 of it. ``q=0`` refuses; a ``q`` that is no number counts as 1. Nothing
    acceptable: text 0.0.4. Never raises; only the beginning of a very long header is read.
    """
    return _choose(_bounded(accept))


def gzip_accepted(accept_encoding: str) -> bool:
    """Tell whether an ``Accept-Encoding`` header accepts gzip and does not prefer ``identity`` to it.

    Never raises; only the beginning of a very long header is read.
    """
    return _gzip_accepted(_bounded(accept_encoding))


def _bounded(header: str) -> str:
    # Cut between two ranges: a range cut in the middle could say something else, such as q=0 of a q=0.5.
    return header if len(header) <= _LONGEST else header[:_LONGEST].rpartition(",")[0]


@lru_cache(maxsize=64)
def _choose(accept: str) -> Format:
    ranges = tuple(_ranges(accept))
    knows_openmetrics = any(range_.name == OPENMETRICS and range_.quality for range_ in ranges)
    best, best_rank = _format(TEXT, "0.0.4"), (False, 0.0, False)
    for name, version in _OFFERS:
        specificity, range_ = _match(ranges, name, version)
        if not range_.quality:
            continue
        explicit = specificity > 1
        rank = (explicit, range_.quality, (name == OPENMETRICS) is (explicit or knows_openmetrics))
        if rank > best_rank:
            best, best_rank = _format(name, version, range_.parameters.get("escaping", "").lower()), rank
    return best


def _match(ranges: tuple[_Range, ...], name: str, version: str) -> tuple[int, _Range]:
    """Find the most specific range that covers an offer (RFC 9110, 12.5.1); above 1 it is explicit."""
    best = (-1, _Range("", {}, 0.0))
    for range_ in ranges:
        if range_.name == name:
            asked = range_.parameters.get("version", "")
            specificity = 3 if asked == version else -1 if asked else 2
        elif range_.name == name.partition("/")[0] + "/*":
            specificity = 1
        else:
            specificity = 0 if range_.name == "*/*" else -1
        if specificity >= 0 and (specificity, range_.quality) > (best[0], best[1].quality):
            best = (specificity, range_)
    return best


def _format(name: str, version: str, escaping: str = "") -> Format:
    content_type = f"{name}; version={version}; charset=utf-8"
    if version == _ESCAPED_VERSION and escaping in ESCAPINGS:
        return Format(name == OPENMETRICS, f"{content_type}; escaping={escaping}", escaping)
    return Format(name == OPENMETRICS, content_type, DEFAULT_ESCAPING)


@lru_cache(maxsize=64)
def _gzip_accepted(accept_encoding: str) -> bool:
    qualities = {range_.name: range_.quality for range_ in _ranges(accept_encoding)}
    gzip = qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0)))
    return gzip > 0.0 and gzip >= qualities.get("identity", 0.0)


def _ranges(header: str) -> Iterator[_Range]:
    for part in header.split(","):
        name, *rest = part.split(";")
        parameters = {}
        for parameter in rest:
            key, _, value = parameter.partition("=")
            parameters[key.strip().lower()] = value.strip().strip('"')
        quality = parameters.get("q", "")
        yield _Range(
            name.strip().lower(),
            parameters,
            min(float(quality), 1.0) if _QUALITY.fullmatch(quality) else 1.0,
        )

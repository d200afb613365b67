"""A registry as a page: ours by templates that are kept, other people's by prometheus_client's own encoder."""

import copy
import inspect
import math
import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from functools import partial
from itertools import accumulate, zip_longest
from typing import Any, Final, NamedTuple, cast
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client import Metric as MetricFamily
from prometheus_client.exposition import generate_latest as encode_text
from prometheus_client.openmetrics.exposition import generate_latest as encode_openmetrics
from prometheus_client.utils import floatToGoString

from exemplars import faults, metrics, semconv
from exemplars.metrics import Child, GaugeChild, Histogram, Metric
from exemplars.negotiation import Format, choose
from exemplars.policy import Slot
from exemplars.selfmetrics import SelfMetrics, collectors_of, count_plain_text_scrape

_PIECE: Final = 16_384  # bytes after which a piece is handed on: a fraction of a millisecond's work
_EOF: Final = b"# EOF\n"
_IDS: Final = f'{semconv.TRACE_ID}="%032x",{semconv.SPAN_ID}="%016x"'
_number: Final = cast(Callable[[float], str], floatToGoString)
# prometheus_client escapes names since 0.23.
_ESCAPES: Final = "escaping" in inspect.signature(encode_openmetrics).parameters
# What every escaping scheme but dots leaves as it is.
_LEGACY_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)


def render(
    registry: CollectorRegistry = REGISTRY, *, accept: str = "", names: Collection[str] = ()
) -> tuple[bytes, str]:
    """Render *registry* for a request with this ``Accept`` header; return the page and its content type.

    *names* restricts the page to samples of these names; the name of a family stands for all of its samples. A
    collector or family that fails costs only its own metrics, and is counted. Never raises. Safe under threads:
    every series is shown as it was at one moment.
    """
    chosen = choose(accept)
    return b"".join(pieces(registry, chosen, names)), chosen.content_type


def pieces(registry: CollectorRegistry, chosen: Format, names: Collection[str] = ()) -> Iterator[bytes]:
    """The page of `render` in pieces, each the work of a fraction of a millisecond.

    Except those of other people's collectors, which are asked and rendered family by family.
    """
    if not chosen.openmetrics:
        count_plain_text_scrape()
    wanted = frozenset(names)
    collectors = collectors_of(registry)
    if collectors is None:
        yield from _foreign(registry.collect, chosen, wanted)
        collectors = {}
    ours = frozenset(
        name
        for collector, registered in collectors.items()
        if isinstance(collector, (Metric, SelfMetrics))
        for name in registered
    )
    yield from _foreign(lambda: _target_info(registry), chosen, wanted, ours)
    own: SelfMetrics | None = None
    exposed = 0
    for collector, registered in collectors.items():
        if wanted and registered and wanted.isdisjoint(registered):
            continue
        if isinstance(collector, Metric):
            exposed += yield from _ours(collector, chosen, wanted)
        elif isinstance(collector, SelfMetrics):
            own = collector
        else:
            yield from _foreign(collector.collect, chosen, wanted, ours)
    if own is not None:
        # A whole page has told how many exemplars are exposed; for a part of it they have to be looked for.
        families = own.collect if wanted else partial(own.families, exposed)
        yield b"".join(_foreign(families, chosen, wanted))
    if chosen.openmetrics:
        yield _EOF


class _Text(NamedTuple):
    """The text of one series, and what it was made of."""

    labels: str
    template: str
    exemplar_changes: int
    expires_at: float
    shown: int
    counts: list[int]
    total: float
    text: bytes


class _Writer:
    """Writes one metric in one spelling, and keeps the text of every series until it changes.

    Holds no reference to the metric, which would never go away with one. Kept texts are replaced, not changed: so
    threads may write at once, and a process forked meanwhile finds them whole.
    """

    def __init__(self, metric: Metric[Any], openmetrics: bool, dots: bool, wanted: Collection[str] = ()) -> None:
        self._openmetrics = openmetrics
        self._spell = _spell_dots if dots else str
        self._texts: dict[Child, _Text] = {}
        self._lines = [
            self._line(metric, suffix, extra, conversion) if not wanted or metric.name + suffix in wanted else None
            for suffix, extra, conversion in _samples(metric)
        ]
        family = metric.name + ("_total" if metric.kind == "counter" and not openmetrics else "")
        documentation = metric.documentation.replace("\\", r"\\").replace("\n", r"\n")
        comments = [("HELP", documentation), ("TYPE", metric.kind)]
        if openmetrics:
            comments[0] = ("HELP", documentation.replace('"', r"\""))
            comments += [("UNIT", metric.unit)] if metric.unit else []
        self._header = "".join(f"# {keyword} {self._spell(family)} {text}\n" for keyword, text in comments).encode(
            "utf-8", "replace"
        )

    def write(self, metric: Metric[Any]) -> Generator[bytes, None, int]:
        """Yield the text of *metric* piece by piece; return how many exemplars it has to show."""
        if not any(self._lines):
            return 0
        now = metrics.monotonic()
        texts: dict[Child, _Text] = {}
        chunk, size, shown = [self._header], 0, 0
        for child in metric.series():
            text = texts[child] = self._text(child, self._texts.get(child), now, metric.policy.max_age)
            shown += text.shown
            size += len(text.text)
            chunk.append(text.text)
            if size >= _PIECE:
                yield b"".join(chunk)
                chunk, size = [], 0
        yield b"".join(chunk)
        self._texts = texts
        return shown

    def _text(self, child: Child, last: _Text | None, now: float, max_age: float) -> _Text:
        counts, total, slots, changes = child.record.read()
        if isinstance(child, GaugeChild):
            total = child.value()
        if last is None or changes != last.exemplar_changes or now > last.expires_at:
            labels = last.labels if last is not None else self._labels(child.labels)
            exemplars = [slot if child.shown(slot, now) else None for slot in slots]
            taken_at = [slot.taken_at for slot in exemplars if slot is not None]
            template = self._template(labels, map(_exemplar, exemplars) if self._openmetrics else ())
            expires_at = min(taken_at, default=math.inf) + max_age
            shown = len(taken_at)
        elif counts == last.counts and total == last.total:
            return last
        else:
            labels, template, _, expires_at, shown, _, _, _ = last
        values: tuple[object, ...] = (_number(total),)
        if len(self._lines) > 1:
            cumulated = list(accumulate(counts))
            values = (*cumulated, cumulated[-1], *values)
        # Without a line for the sum, where it could fall, the template takes one value less.
        text = (template % values[: len(self._lines)]).encode()
        return _Text(labels, template, changes, expires_at, shown, counts, total, text)

    def _line(self, metric: Metric[Any], suffix: str, extra: str, conversion: str) -> tuple[str, str]:
        """What stands before and after a series' labels in one of its lines."""
        name = self._spell(metric.name + suffix)
        if metric.labelnames:
            return name + "{", ("," + extra if extra else "") + "} " + conversion
        return name + ("{" + extra + "} " if extra else " ") + conversion, ""

    def _labels(self, labels: Iterable[tuple[str, str]]) -> str:
        return _pairs((self._spell(name), value) for name, value in labels)

    def _template(self, labels: str, exemplars: Iterable[str]) -> str:
        return "".join(
            [
                # A line that is not wanted takes its value and shows nothing.
                "%.0s" if line is None else f"{line[0]}{labels}{line[1]}{exemplar}\n"
                for line, exemplar in zip_longest(self._lines, exemplars, fillvalue="")
            ]
        )


_writers: "WeakKeyDictionary[Metric[Any], dict[tuple[bool, bool], _Writer]]" = WeakKeyDictionary()


def _ours(metric: Metric[Any], chosen: Format, wanted: Collection[str]) -> Generator[bytes, None, int]:
    """The text of a metric of ours; returns how many exemplars it has to show."""
    spelling = (chosen.openmetrics, chosen.escaping == "dots")
    try:
        if wanted and metric.name not in wanted:
            writer = _Writer(metric, *spelling, wanted)
        else:
            kept = _writers.setdefault(metric, {})
            writer = kept.get(spelling) or kept.setdefault(spelling, _Writer(metric, *spelling))
        return (yield from writer.write(metric))
    except Exception as error:
        faults.note("collector", error, f"{metric.name} cannot be rendered: {error!r}")
        return 0


def _samples(metric: Metric[Any]) -> Iterator[tuple[str, str, str]]:
    """Suffix of the name, further label and conversion of the value of each line of a series of *metric*."""
    if not isinstance(metric, Histogram):
        yield "_total" if metric.kind == "counter" else "", "", "%s"
        return
    for le in metric.les:
        yield "_bucket", f'le="{le}"', "%d"
    yield "_count", "", "%d"
    # With negative values the sum can fall, as a counter cannot: then OpenMetrics forbids it.
    if metric.bounds[0] >= 0:
        yield "_sum", "", "%s"


def _exemplar(slot: Slot | None) -> str:
    if slot is None:
        return ""
    if slot.labels is None:
        labels = _IDS % (slot.trace_id, slot.span_id)
    else:
        labels = _pairs(slot.labels.items())
    return f" # {{{labels}}} {_number(slot.value)} {slot.timestamp_ms / 1000}"


def _pairs(labels: Iterable[tuple[str, str]]) -> str:
    """Labels as a page has them, for a template."""
    text = ",".join([f'{name}="{_escape(value)}"' for name, value in labels])
    return text.replace("%", "%%")


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _spell_dots(name: str) -> str:
    """*name* by the escaping scheme dots, in which an underscore is two; ours have no character beyond that."""
    return name.replace("_", "__")


class _Single:
    """A registry of one family, for prometheus_client's encoders."""

    def __init__(self, family: MetricFamily) -> None:
        self._family = family

    def collect(self) -> list[MetricFamily]:
        return [self._family]


def _foreign(
    collect: Callable[[], Iterable[MetricFamily]],
    chosen: Format,
    wanted: Collection[str],
    ours: Collection[str] = (),
) -> Iterator[bytes]:
    """The families that *collect* gives, as prometheus_client writes them, without those that fail."""
    try:
        for family in collect():
            yield _family(family, chosen, wanted, ours)
    except Exception as error:
        faults.note("collector", error, f"a collector failed: {error!r}")


def _family(family: MetricFamily, chosen: Format, wanted: Collection[str], ours: Collection[str]) -> bytes:
    try:
        if wanted and family.name not in wanted:
            family = copy.copy(family)
            family.samples = [sample for sample in family.samples if sample.name in wanted]
            if not family.samples:
                return b""
        names = {family.name, *(sample.name for sample in family.samples)}
        clash = names.intersection(ours)
        if clash:
            faults.note("duplicate_family", detail=f"{min(clash)} is also the name of a metric of exemplars: left out")
            return b""
        return _encode(family, names, chosen)
    except Exception as error:
        faults.note("collector", error, f"a metric family cannot be rendered: {error!r}")
        return b""


def _encode(family: MetricFamily, names: Collection[str], chosen: Format) -> bytes:
    encode = cast(Callable[..., bytes], encode_openmetrics if chosen.openmetrics else encode_text)
    if not _ESCAPES:
        page = encode(_Single(family))
    else:
        escaping = chosen.escaping
        if escaping != "dots" and all(map(_LEGACY_NAME.fullmatch, _with_labels(names, family))):
            # All schemes but dots leave these names alone. prometheus_client 0.26 does not: it rewrites colons, and by
            # the scheme values the names of samples, but not that of their family.
            escaping = "allow-utf-8"
        page = encode(_Single(family), escaping=escaping)
    return page.removesuffix(_EOF) if chosen.openmetrics else page


def _with_labels(names: Collection[str], family: MetricFamily) -> set[str]:
    return {*names, *(label for sample in family.samples for label in sample.labels)}


def _target_info(registry: Any) -> Iterator[MetricFamily]:
    """What ``CollectorRegistry.collect`` gives before its collectors' families."""
    labels = registry.get_target_info() if hasattr(registry, "get_target_info") else None
    if labels:
        family = MetricFamily("target", "Target metadata", "info")
        family.add_sample("target_info", labels, 1)
        yield family

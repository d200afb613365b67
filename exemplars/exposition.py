"""A registry as a page: ours by templates that are kept, other people's by prometheus_client's own encoder."""

import copy
import inspect
import math
import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from io import BytesIO
from itertools import accumulate, compress, groupby, repeat
from typing import Any, Final, NamedTuple, cast
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client import Metric as MetricFamily
from prometheus_client.exposition import generate_latest as encode_text
from prometheus_client.openmetrics.exposition import generate_latest as encode_openmetrics
from prometheus_client.utils import floatToGoString

from exemplars import beside, faults, metrics, semconv
from exemplars.metrics import Histogram, Metric, Series
from exemplars.negotiation import Format, choose
from exemplars.policy import Slot
from exemplars.selfmetrics import SelfMetrics, collectors_of, plain_text_scrapes
from exemplars.store import worker
from exemplars.store.layout import Exemplars, unpack_stored
from exemplars.store.memory import Reading

_PIECE: Final = 16_384  # bytes after which a piece is handed on: a fraction of a millisecond's work
_EOF: Final = b"# EOF\n"
# What follows the value in a line with an exemplar: its labels, value and seconds.
_IDS: Final = f' # {{{semconv.TRACE_ID}="%s",{semconv.SPAN_ID}="%s"}} %s %.3f'
_OWN_LABELS: Final = " # {%s} %s %.3f"
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
    page = BytesIO()  # unlike a list of pieces to be joined, it is there once
    page.writelines(pieces(registry, chosen, names))
    return page.getvalue(), chosen.content_type


def pieces(registry: CollectorRegistry, chosen: Format, names: Collection[str] = ()) -> Iterator[bytes]:
    """The page of `render` in pieces, each the work of a fraction of a millisecond.

    Except those of other people's collectors, which are asked and rendered family by family.
    """
    if not chosen.openmetrics:
        plain_text_scrapes.bump()
    collectors = collectors_of(registry)
    if collectors is None:
        yield from _foreign(registry.collect, chosen, frozenset(names))
    else:
        yield from _registered(registry, collectors, chosen, frozenset(names))
    if chosen.openmetrics:
        yield _EOF


def _registered(
    registry: CollectorRegistry, collectors: Mapping[Any, list[str]], chosen: Format, wanted: Set[str]
) -> Iterator[bytes]:
    """The text of all *collectors*, each known by the names it registered."""
    ours = {
        name
        for collector, registered in collectors.items()
        if isinstance(collector, (Metric, SelfMetrics))
        for name in registered
    }
    metrics.set_up()
    for _ in worker.refresh():
        yield b""
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
        elif not beside.is_of_one_worker(collector):
            yield from _foreign(collector.collect, chosen, wanted, ours)
    taken = {name for other in collectors if not beside.is_of_one_worker(other) for name in collectors[other]}
    yield from _foreign(lambda: beside.merged(registry, collectors, wanted), chosen, wanted, taken)
    known = {name for registered in collectors.values() for name in registered}
    for metric in metrics.metrics_elsewhere(registry, known):
        exposed += yield from _ours(metric, chosen, wanted)
    if own is not None:
        # A whole page has told how many exemplars are exposed; for a part of it they have to be looked for.
        yield from _foreign(own.collect if wanted else partial(own.families, exposed), chosen, wanted)


class _Text(NamedTuple):
    """What is kept of one series: its lines, but for their beginnings and values, and what they were made of."""

    template: str
    labels: str
    exemplar_changes: int
    slots: Sequence[bytes | Slot | None]  # those that were looked at
    expires_at: float  # monotonic seconds after which one of them has to vanish
    shown: int
    total: float
    number: str  # the total as it is written


class _Writer:
    """Writes one metric in one spelling, and keeps a template of every series until its exemplars change.

    Holds no reference to the metric, which would never go away with one. Kept texts are replaced, not changed: so
    threads may write at once, and a process forked meanwhile finds them whole.
    """

    def __init__(self, metric: Metric[Any], openmetrics: bool, dots: bool, wanted: Set[str] = frozenset()) -> None:
        self._openmetrics = openmetrics
        self._spell = _spell_dots if dots else str
        samples = self._samples(metric)
        self._buckets = len(metric.les) if isinstance(metric, Histogram) else 0
        self._totals = len(samples) - self._buckets
        self._wanted = [not wanted or metric.name + suffix in wanted for suffix, _ in samples]
        self._whole = all(self._wanted)
        lines = [self._around_labels(metric, *sample) for sample in compress(samples, self._wanted)]
        # What lines begin with, and how many of them in a row do.
        self._begins = [(before, len(list(alike))) for before, alike in groupby(lines, lambda line: line[0])]
        # What follows the labels, and the value's place; then with an exemplar. Formats of lines that are formats, too.
        self._tails = [f"%%s{after.replace('%', '%%%%')}%%s" for _, after in lines]
        self._with_ids = [tail + _IDS for tail in self._tails]
        self._comments = self._comments_on(metric)
        self._texts: dict[Series, _Text] = {}

    def write(self, metric: Metric[Any]) -> Generator[bytes, None, int]:
        """Yield the text of *metric* piece by piece; return how many exemplars it has to show."""
        if not self._tails:
            return 0
        now = metrics.monotonic()
        series = metric.series()
        piece, size, shown = [self._comments], 0, 0
        for each in series:
            reading = counts, total, _, changes = each.read()
            text = self._texts.get(each)
            if text is None or changes != text.exemplar_changes or now > text.expires_at:
                text = self._texts[each] = self._made(each, reading, text, now, metric.policy.max_age)
            elif total != text.total:
                text = self._texts[each] = text._replace(total=total, number=_number(total))
            filled = text.template % self._values(text, counts)
            shown += text.shown
            size += len(filled)
            piece.append(filled)
            if size >= _PIECE:
                yield "".join(piece).encode()
                piece, size = [], 0
        yield "".join(piece).encode()
        if len(self._texts) > len(series):
            for gone in set(self._texts).difference(series):
                self._texts.pop(gone, None)
        return shown

    def _values(self, text: _Text, counts: Sequence[int]) -> tuple[object, ...]:
        """What a template is filled with: in turn the beginning of a line and its value, in the order of `_samples`."""
        values: list[object]
        if self._buckets:
            values = [*accumulate(counts)]
            values += (values[-1], text.number)[: self._totals]
        else:
            values = [text.number]
        if not self._whole:
            values = [*compress(values, self._wanted)]
        begins: list[object] = []
        for before, times in self._begins:
            begins += [before + text.labels] * times
        filling = begins + values  # of the right length; the order comes now
        filling[::2], filling[1::2] = begins, values
        return tuple(filling)

    def _made(self, series: Series, reading: Reading, last: _Text | None, now: float, max_age: float) -> _Text:
        """What to keep of *series*, taken from *last* where it is what it was."""
        _, total, slots, changes = reading
        kept: Sequence[bytes | Slot | None] = slots.raw if isinstance(slots, Exemplars) else slots
        if not self._whole:
            kept = [*compress(kept, self._wanted)]
        template, shown, oldest = self._template(kept, last, now - max_age)
        if last is not None:
            labels = last.labels
        else:
            labels = _pairs([(self._spell(name), value) for name, value in series.labels])
        number = last.number if last is not None and last.total == total else _number(total)
        return _Text(template, labels, changes, kept, oldest + max_age, shown, total, number)

    def _template(
        self, slots: Sequence[bytes | Slot | None], last: _Text | None, since: float
    ) -> tuple[str, int, float]:
        """A template with those of *slots* that were taken *since*, how many these are and when the first was taken.

        Lines are taken from *last* where they are what they were.
        """
        formats: list[str] = []  # of lines; then, what they are filled with
        filling: list[object] = []
        shown, oldest = 0, math.inf
        known = (last.slots, last.template.split("\n")) if last is not None else (repeat(None), repeat(""))
        for tail, with_ids, slot, last_slot, line in zip(self._tails, self._with_ids, slots, *known, strict=False):
            # Taken apart here, once: a page of many workers has nothing as often as these.
            if isinstance(slot, bytes):
                stamped, value, trace_id, span_id, tenths = unpack_stored(slot)
                taken, milliseconds = tenths / 10, stamped >> 1
            elif slot is not None:
                value, taken, milliseconds = slot.value, slot.taken_at, slot.timestamp_ms
            if slot is None or taken < since:
                formats.append(tail)
                continue
            shown += 1
            if taken < oldest:
                oldest = taken
            amount = value if -1e6 < value < 1e6 else _number(value)  # the same, sooner
            if not self._openmetrics:
                formats.append(tail)
            elif slot is last_slot:
                formats.append("%s")
                filling.append(line)
            elif isinstance(slot, bytes):
                formats.append(with_ids)
                filling += (trace_id.hex(), span_id.hex(), amount, milliseconds / 1000)
            elif slot.labels is None:
                formats.append(with_ids)
                filling += (f"{slot.trace_id:032x}", f"{slot.span_id:016x}", amount, milliseconds / 1000)
            else:
                formats.append(tail + _OWN_LABELS)
                filling += (_pairs(slot.labels.items()).replace("%", "%%"), amount, milliseconds / 1000)
        filled = "\n".join([*formats, *self._tails[len(formats) :]]) % tuple(filling)
        return filled + "\n", shown, oldest  # a copy: what was formatted holds more memory than it shows

    def _samples(self, metric: Metric[Any]) -> list[tuple[str, str]]:
        """Suffix of the name and further label of each sample of a series."""
        if not isinstance(metric, Histogram):
            return [("_total" if metric.kind == "counter" else "", "")]
        samples = [("_bucket", f'le="{le}"') for le in metric.les]
        # The sum of negative values could fall: OpenMetrics forbids it, and the count without it.
        if metric.bounds[0] >= 0:
            samples += (("_count", ""), ("_sum", ""))
        elif not self._openmetrics:
            samples.append(("_count", ""))
        return samples

    def _around_labels(self, metric: Metric[Any], suffix: str, extra: str) -> tuple[str, str]:
        """What stands before and after the labels of a series, in its line for a sample with *suffix*."""
        name = self._spell(metric.name + suffix)
        if metric.labelnames:
            return name + "{", ("," + extra if extra else "") + "} "
        return name, "{" + extra + "} " if extra else " "

    def _comments_on(self, metric: Metric[Any]) -> str:
        """The lines HELP, TYPE and UNIT. Text has no UNIT, escapes no quotes and calls a counter by its sample."""
        name, documentation = metric.name, metric.documentation.replace("\\", r"\\").replace("\n", r"\n")
        if self._openmetrics:
            documentation = documentation.replace('"', r"\"")
        elif metric.kind == "counter":
            name += "_total"
        comments = {"HELP": documentation, "TYPE": metric.kind}
        if self._openmetrics and metric.unit:
            comments["UNIT"] = metric.unit
        lines = [f"# {keyword} {self._spell(name)} {comment}\n" for keyword, comment in comments.items()]
        return "".join(lines).encode("utf-8", "replace").decode()


_writers: "WeakKeyDictionary[Metric[Any], dict[tuple[bool, bool], _Writer]]" = WeakKeyDictionary()


def _ours(metric: Metric[Any], chosen: Format, wanted: Set[str]) -> Generator[bytes, None, int]:
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


def _pairs(labels: Iterable[tuple[str, str]]) -> str:
    return ",".join([f'{name}="{value if value.isalnum() else _escape(value)}"' for name, value in labels])


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
    wanted: Set[str],
    ours: Set[str] = frozenset(),
) -> Iterator[bytes]:
    """The families that *collect* gives, as prometheus_client writes them, without those that fail."""
    try:
        for family in collect():
            yield _family(family, chosen, wanted, ours)
    except Exception as error:
        faults.note("collector", error, f"a collector failed: {error!r}")


def _family(family: MetricFamily, chosen: Format, wanted: Set[str], ours: Set[str]) -> bytes:
    try:
        if wanted and family.name not in wanted:
            family = copy.copy(family)
            family.samples = [sample for sample in family.samples if sample.name in wanted]
            if not family.samples:
                return b""
        names = {family.name, *(sample.name for sample in family.samples)}
        clash = names.intersection(ours)
        if clash:
            faults.note("duplicate_family", detail=f"{min(clash)} is the name of another metric as well: left out")
            return b""
        return _encode(family, names, chosen)
    except Exception as error:
        faults.note("collector", error, f"a metric family cannot be rendered: {error!r}")
        return b""


def _encode(family: MetricFamily, names: Set[str], chosen: Format) -> bytes:
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


def _with_labels(names: Set[str], family: MetricFamily) -> set[str]:
    return {*names, *(label for sample in family.samples for label in sample.labels)}


def _target_info(registry: Any) -> Iterator[MetricFamily]:
    """What ``CollectorRegistry.collect`` gives before its collectors' families.

    Without its lock, which a process that was forked meanwhile would find held by nobody.
    """
    labels = getattr(registry, "_target_info", None)
    if labels:
        family = MetricFamily("target", "Target metadata", "info")
        family.add_sample("target_info", labels, 1)
        yield family

"""The rows for requests: every contender in every setting, against the bare application of the same round."""

import time
from collections.abc import Callable, Iterable
from itertools import product
from typing import Final, get_args

from .result import Cell, Row, compare
from .rounds import interleave
from .spans import SpanKind, Spans
from .stats import estimate
from .subject import BARE, Interface, NotRecordedError, Setting, Stream, Subject

ROUTES: Final = (1, 60)
FILL_SECONDS: Final = 60.0


def settings(apps: Iterable[str]) -> list[Setting]:
    """The matrix."""
    return [Setting(*each) for each in product(apps, ROUTES, get_args(SpanKind))]


def streams(
    setting: Setting,
    interface: Interface,
    subjects: Callable[[Setting, int], list[Subject]],
    block: int,
) -> dict[str, Stream]:
    """
    The contenders in *setting*, warm and proven to record.

    Raises NotRecordedError for one that answers otherwise than the bare application, that does not count every
    request, or whose routes or exemplars are not those of the requests it got.
    """
    spans = Spans(setting.span)
    made = {each.name: Stream(each, setting, interface, spans, block) for each in subjects(setting, block)}
    answer = made[BARE].answer()
    for name, stream in made.items():
        if stream.answer() != answer:
            raise NotRecordedError(f"{name} ({setting}) changes the response")
        warm_up(stream)
        stream.check_count()
        stream.check_labels()
    return made


def warm_up(stream: Stream) -> None:
    """Serve until there are exemplars: what marks them may take its time, since marks have a budget a second."""
    wanted = stream.setting.routes if stream.subject.filled else 1
    if not stream.subject.exemplars or stream.setting.span != "sampled":
        wanted = 0
    until = time.monotonic() + FILL_SECONDS
    stream.warm_up()
    while len(stream.recorded().trace_ids) < wanted and time.monotonic() < until:
        time.sleep(0.1)
        stream.warm_up()


def measure(
    row: Row,
    setting: Setting,
    interface: Interface,
    subjects: Callable[[Setting, int], list[Subject]],
    rounds: int,
    block: int,
) -> Cell:
    """Time the contenders in *setting*, in microseconds a request; see `streams` for what is raised."""
    made = streams(setting, interface, subjects, block)
    seconds = interleave({name: stream.seconds for name, stream in made.items()}, rounds)
    for stream in made.values():
        stream.check_count()
    bare = seconds.pop(BARE)
    added = {
        name: [(with_it - without) * 1e6 for with_it, without in zip(values, bare, strict=True)]
        for name, values in seconds.items()
    }
    return Cell(
        row=row,
        group=setting.app,
        name=f"{setting.routes} route{'s' * (setting.routes > 1)}, {setting.span}",
        unit="µs",
        cost={name: estimate(values) for name, values in added.items()},
        comparisons=compare(row, added, binding=setting.span == "sampled"),
        bare=estimate([each * 1e6 for each in bare]),
    )

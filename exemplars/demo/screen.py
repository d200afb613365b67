"""What the demo prints: at most 80 columns, colours only for a terminal that wants them."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, TextIO

from exemplars.demo.page import Exemplar
from exemplars.demo.spans import Span

_WIDTH: Final = 80
_BAR: Final = 14
_NAME: Final = _WIDTH - 2 - 7 - 10 - 2 - _BAR - 6  # what margin, service, duration, bar and "error" leave

_BOLD, _DIM, _RED, _YELLOW, _GREEN, _CYAN = "1", "2", "31", "33", "32", "36"


class Screen:
    """Prints on *stream*. Raises ``BrokenPipeError`` when nobody reads it any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._coloured = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"
        self._block, self._more = ("━", "…") if unicode else ("=", "~")

    def say(self, *lines: str) -> None:
        print(*lines, sep="\n", file=self._stream, flush=True)

    def greeting(self, front: str, stock: str, rate: float) -> None:
        """Where everything is."""
        path = f"{front}/metrics"
        self.say(
            "",
            f"  {self._in(_BOLD, 'A small shop, its metrics and its exemplars')}",
            "",
            f"  front    {front}   FastAPI, uvicorn",
            f"  stock    {stock}   Flask, gunicorn with one worker",
            f"  load     {rate:g} requests a second, three times that in spikes",
            f"  metrics  {self._in(_CYAN, path)}",
            "",
            "  The page as Prometheus asks for it, with exemplars (they need the header):",
            "",
            "    curl -sH 'Accept: application/openmetrics-text' \\",
            f"      {path} | grep trace_id",
            "",
            "  Every bucket of the latency histogram remembers one request. Here are the",
            "  newest, with the spans of their traces. Ctrl-C ends the shop.",
            "",
        )

    def exemplar(self, exemplar: Exemplar, tree: Sequence[tuple[int, Span]]) -> None:
        """One request: when, how it ended, what, how long; its trace and whether it is marked; a line for each span."""
        clock = time.strftime("%H:%M:%S", time.localtime(exemplar.time))
        status = exemplar.status or "left"
        seconds = f"{exemplar.seconds:.3f} s"
        room = _WIDTH - len(f"  {clock}  {status}    {seconds}")
        what = self._fit(f"{exemplar.method} {exemplar.route or '(no route)'}", room)
        own = next((span for _, span in tree if span.span_id == exemplar.span_id), None)
        note = "its spans have not come" if own is None else 'exemplar="true"' if own.marked else ""
        self.say(
            f"  {self._in(_DIM, clock)}  {self._in(_colour(status), status)}  {self._in(_BOLD, f'{what}  {seconds}')}",
            f"  {self._in(_DIM, 'trace')}     {self._in(_CYAN, exemplar.trace_id)}  {self._in(_GREEN, note)}".rstrip(),
            *self._spans(tree),
            "",
        )

    def farewell(self, outcomes: Counter[str]) -> None:
        """What it came to."""
        done = f"{outcomes['2']} answered, {outcomes['4']} refused (4xx), {outcomes['5']} failed (5xx)"
        lost = f"{outcomes['broken']} broken off, {outcomes['turned away']} turned away at the door"
        self.say(f"  The shop is closed. {outcomes.total()} requests:", f"  {done},", f"  {lost}.")

    def _spans(self, tree: Sequence[tuple[int, Span]]) -> Iterator[str]:
        if not tree:
            return
        start = min(span.start for _, span in tree)
        length = max(span.end for _, span in tree) - start or 1.0
        for depth, span in tree:
            name = self._fit("  " * depth + span.name, _NAME)
            bar = self._bar((span.start - start) / length, (span.end - start) / length) + " error" * span.failed
            colour = _RED if span.failed else _CYAN if span.service == tree[0][1].service else _YELLOW
            yield (
                f"  {self._in(_DIM, f'{span.service[:6]:7}')}{name}{_duration(span.end - span.start):>10}"
                f"  {self._in(colour, bar)}"
            )

    def _bar(self, start: float, end: float) -> str:
        first = min(int(start * _BAR), _BAR - 1)
        return " " * first + self._block * max(round(end * _BAR) - first, 1)

    def _fit(self, text: str, width: int) -> str:
        return text.ljust(width) if len(text) <= width else text[: width - 1] + self._more

    def _in(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._coloured and text else text


def _colour(status: str) -> str:
    return _RED if status.startswith("5") else _YELLOW if status.startswith("4") else _GREEN


def _duration(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"

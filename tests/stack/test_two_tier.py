"""Several Collectors: however the spans of a trace are strewn over the first tier, one of the second decides on all."""

from pathlib import Path

from tests.programs import eventually
from tests.stack import running
from tests.stack.sending import CLIENT, Span, arrive, send


def test_spans_of_a_trace_sent_to_different_collectors_are_kept_or_thrown_away_together(tmp_path: Path) -> None:
    soon = {"DECISION_WAIT": "2s", "BASE_PERCENT": "0"}
    marked = [trace(mark=True) for _ in range(30)]
    others = [trace(mark=False) for _ in range(60)]
    both = [*marked, *others]
    with (
        running.tempo(tmp_path) as tempo,
        running.collector(tmp_path, tempo, None, None, "otel-collector-a", **soon) as a,
        running.collector(tmp_path, tempo, None, None, "otel-collector-b", **soon) as b,
        running.first_tier(tmp_path / "left", a, b) as left,
        running.first_tier(tmp_path / "right", a, b) as right,
    ):
        # The one with the mark goes another way than those without.
        send(left.otlp, [stock for _, _, stock in both])
        send(right.otlp, [span for front, ask, _ in both for span in (front, ask)])
        for spans in marked:
            arrive(tempo, spans)
        # Each trace was one to be decided on, at one place, and both have had some.
        eventually(lambda: decisions(a) + decisions(b) >= len(both), "all decisions")
        assert decisions(a) + decisions(b) == len(both)
        assert decisions(a) > 0
        assert decisions(b) > 0
        assert not any(tempo.trace(spans[0].trace_id) for spans in others)


def decisions(collector: running.Collector) -> float:
    return sum(collector.decided().values())


def trace(mark: bool) -> list[Span]:
    front = Span("front")
    ask = front.child("front", kind=CLIENT)
    stock = ask.child("stock")
    return [front, ask, stock.marked() if mark else stock]

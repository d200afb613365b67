"""When a bucket's exemplar is replaced. Pure: every moment is an argument."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# A wall clock that stepped back is followed at this distance at most; beyond it no exemplar is taken until it caught
# up. Prometheus drops a timestamp that is not newer than the last one, and a far future one blocks all that follow.
MAX_LEAD_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Policy:
    """When the exemplar of a bucket is replaced, and when it vanishes.

    *min_retention* (seconds, 7.0): that long only a slower request replaces it; afterwards the next sampled one does.
    *max_age* (seconds, 240.0): older than that it is no longer shown. Below Mimir's five minutes, above which a backend
    that evicts would be given the same exemplar again and again.

    Raises ``ValueError`` unless ``0 <= min_retention <= max_age`` and ``0 < max_age``, both finite.
    """

    min_retention: float = 7.0
    max_age: float = 240.0

    def __post_init__(self) -> None:
        for name in ("min_retention", "max_age"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"Policy.{name} is {value!r}: give a finite number of seconds")
        if not 0 <= self.min_retention <= self.max_age or self.max_age == 0:
            raise ValueError(
                f"Policy(min_retention={self.min_retention!r}, max_age={self.max_age!r}): "
                "min_retention must be 0 or more and at most max_age, and max_age above 0"
            )

    def expired(self, slot: "Slot", now: float) -> bool:
        """Tell whether *slot* is too old to be shown at *now* (seconds, monotonic)."""
        return now - slot.taken_at > self.max_age

    def freshness(self, slot: "Slot | None", now: float) -> float:
        """How little a bucket needs another exemplar: 0.0 when it shows none, 1.0 when its own is just replaceable.

        In between it falls with the age of what is shown. Inside the retention, where only a slower request replaces,
        the answer is that of an exemplar four retentions old: a slower one matters, but less than an old bucket does.
        """
        if slot is None or self.expired(slot, now):
            return 0.0
        age = now - slot.taken_at
        if age < self.min_retention:
            return 0.25
        retention = self.min_retention or 1.0  # even the newest is worth more than what another bucket lacks
        return min(retention / age, 1.0) if age > 0 else 1.0


class Slot:
    """What one bucket remembers: an exemplar, and until when only a slower request may replace it.

    *value* is the observed amount, *timestamp_ms* the wall clock in whole milliseconds, *taken_at* and *held_until*
    seconds of the monotonic clock. Either *trace_id* and *span_id* are set or *labels* are (a caller's own exemplar).
    Until *held_until* only an amount above *threshold*, at first the value, is welcome. These two alone change, by
    `refuse`.
    """

    __slots__ = ("held_until", "labels", "span_id", "taken_at", "threshold", "timestamp_ms", "trace_id", "value")

    def __init__(
        self,
        value: float,
        timestamp_ms: int,
        taken_at: float,
        held_until: float,
        trace_id: int = 0,
        span_id: int = 0,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.value = self.threshold = value
        self.timestamp_ms = timestamp_ms
        self.taken_at = taken_at
        self.held_until = held_until
        self.trace_id = trace_id
        self.span_id = span_id
        self.labels = labels

    def welcomes(self, value: float, now: float) -> bool:
        """Tell whether an observation of *value* at *now* may replace this exemplar."""
        return now >= self.held_until or value > self.threshold

    def refuse(self, value: float, now: float, wait: float) -> None:
        """Note that the budget had no mark for an observation of *value*, and may have one in *wait* seconds.

        So that a bucket that everybody may take does not make every request ask, nor does one inside its retention.
        """
        self.held_until = max(self.held_until, now + wait)
        self.threshold = value


def next_timestamp(now_ms: int, last_ms: int | None) -> int | None:
    """The timestamp of an exemplar taken at *now_ms* in a bucket whose last one bears *last_ms*.

    At least one millisecond newer than the last, as Prometheus drops anything else, at every scrape, with a warning.
    ``None`` when the wall clock has stepped back so far that this would lead it by more than a second.
    """
    if last_ms is None or now_ms > last_ms:
        return now_ms
    return last_ms + 1 if last_ms + 1 - now_ms <= MAX_LEAD_MS else None

"""Private memory: the numbers of one series as plain Python objects."""

from collections.abc import Sequence
from typing import Final

from exemplars._lock import lock
from exemplars.policy import Slot

_NO_FLOORS: Final[dict[int, int]] = {}

# Counts, sum, slots, and a number that changes with the slots.
Reading = tuple[Sequence[int], float, Sequence[Slot | None], int]


class Record:
    """The numbers of one series: a count per bucket, their sum, and what each bucket remembers as its exemplar.

    Every change of a series passes through `add`, `set` or `put`, under the lock of the process, which the caller
    holds: a store that keeps the numbers elsewhere as well overrides these three. A counter and a gauge have one
    bucket; their value is *sum*. *exemplar_changes* counts what `put` did, so that a reader sees cheaply that nothing
    changed. *floors* are timestamps (milliseconds) by bucket: of exemplars that are gone, and that none older or as
    old may follow. They are replaced, never changed.

    The statements of `add` and `put` call nothing, so that even a signal handler that observes cannot come between the
    reading and the writing of a number: CPython looks for signals only at calls and jumps.
    """

    __slots__ = ("counts", "exemplar_changes", "floors", "set_at", "slots", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum: float = 0.0
        self.slots: list[Slot | None] = [None] * buckets
        self.exemplar_changes = 0
        self.floors = _NO_FLOORS
        self.set_at = 0.0  # seconds, monotonic: of the last `set` that gave its time

    def add(self, index: int, amount: float) -> Slot | None:
        """Count one observation of *amount* in bucket *index*; what that bucket remembers."""
        self.counts[index] += 1
        self.sum += amount
        return self.slots[index]

    def set(self, value: float, at: float = 0.0) -> None:
        """Make *value* the sum: a gauge's value, or a counter's. *at* is when, for a gauge of the most recent value."""
        self.sum = value
        self.set_at = at

    def put(self, index: int, slot: Slot, instead_of: Slot | None) -> bool:
        """Make *slot* what bucket *index* remembers, if that still is *instead_of*; tell whether it was."""
        if self.slots[index] is not instead_of:
            return False  # a signal handler or a destructor came in between, and its exemplar is the newer one
        self.slots[index] = slot
        self.exemplar_changes += 1
        return True

    def go_on(self, last: "Record", *, sum_too: bool = True) -> None:
        """Add the counts of *last*, its sum (*sum_too*) and what exemplars it has that are newer than those here."""
        for index in range(len(self.counts)):
            self.counts[index] += last.counts[index]
        if sum_too:
            self.sum += last.sum
        if last.floors:
            self.floors = last.floors | {i: max(floor, last.floors.get(i, 0)) for i, floor in self.floors.items()}
        for index, slot in enumerate(last.slots):
            here = self.slots[index]
            floor = self.last_timestamp(index)
            if slot is not None and (floor is None or slot.timestamp_ms > floor):
                Record.put(self, index, slot, instead_of=here)
        self.save()

    def save(self) -> None:
        """Bring all of the numbers to where they are kept as well."""

    def last_timestamp(self, index: int) -> int | None:
        """The timestamp, in milliseconds, above which bucket *index* shows the next exemplar; ``None``: any."""
        slot = self.slots[index]
        return slot.timestamp_ms if slot is not None else self.floors.get(index)

    def read(self) -> Reading:
        """Counts, sum, slots and the number of exemplar changes, all of one moment. Takes the lock."""
        with lock:
            changes = self.exemplar_changes  # first: should one be put while the slots are copied, it counts as new
            return self.counts.copy(), self.sum, self.slots.copy(), changes

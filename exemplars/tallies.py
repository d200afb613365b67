"""Plain counters of what the library does, kept by every layer and told by `selfmetrics`."""

from collections.abc import Callable, Iterable
from typing import Final

from exemplars._lock import lock


class Tally:
    """A counter of the process, one number for each value of *label*; without one, the number of ``""``.

    *name* and *documentation* are those of its metric, *values* the label values that are shown before they occur.
    """

    __slots__ = ("documentation", "label", "name", "values")

    def __init__(self, name: str, documentation: str, label: str = "", values: Iterable[str] = ("",)) -> None:
        self.name = name
        self.documentation = documentation
        self.label = label
        self.values: dict[str, int] = dict.fromkeys(values, 0)
        ALL.append(self)

    @property
    def total(self) -> int:
        """The sum over all label values, in this process."""
        return sum(self.values.values())

    def bump(self, value: str = "") -> int:
        """Add 1 to the number of label value *value*; return the number. Safe under threads."""
        with lock:
            self.values.setdefault(value, 0)
            self.values[value] += 1  # calls nothing, so that no signal handler comes in between, nor before the next
            count = self.values[value]
            changed(self, value)
            return count

    def clear(self) -> None:
        """Begin at 0, as a forked process does."""
        self.values = dict.fromkeys(self.values, 0)


ALL: Final[list[Tally]] = []


def _unshared(tally: Tally, value: str) -> None:
    """Nobody else is told."""


# Called, under the lock, at each change; where workers share, the store puts itself here.
changed: Callable[[Tally, str], None] = _unshared

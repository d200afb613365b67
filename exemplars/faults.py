"""What failed inside the library: counted by kind, logged once a kind, never raised."""

import logging
from collections import deque
from typing import Final, Literal, get_args

from exemplars._lock import held
from exemplars.tallies import Tally

Kind = Literal[
    "collector",  # another's collector or metric family could not be collected or rendered
    "duplicate_family",  # a family with the name of one of ours, known only at the scrape
    "exemplar",  # an exemplar given by the caller is not one that OpenMetrics allows
    "hook",  # a framework's hook of ours
    "label",  # a label's function
    "observation",  # a value that cannot be observed, or an observation that failed
    "processor",  # the span processor could not be added to the tracer provider
    "route",  # the route resolver
    "span",  # finding, reading or marking the span
    "store",  # the files that workers share: numbers were kept in private memory meanwhile
]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

errors: Final = Tally(
    "exemplars_errors", "Faults inside the library, which cost a label or an exemplar.", "kind", KINDS
)

_log = logging.getLogger("exemplars")


def note(kind: Kind, error: BaseException | None = None, detail: str = "") -> None:
    """Count one fault of *kind*; log the first of its kind with *error*'s traceback, if there is one.

    Never raises, whatever the logging handlers do: it is called where a request must not be touched. Safe under
    threads.
    """
    if errors.bump(kind) == 1:
        try:
            what = detail or (repr(error) if error is not None else "failed")
        except Exception:  # an error that cannot even be shown
            what = f"a {type(error).__name__}"
        say(
            logging.WARNING,
            "%s: %s (counted in exemplars_errors_total{kind=%r}; further ones are not logged)",
            kind,
            what,
            kind,
            error=error,
        )


_unsaid: Final[deque[tuple[int, str, tuple[object, ...], BaseException | None]]] = deque()


def say(level: int, message: str, *arguments: object, error: BaseException | None = None) -> None:
    """Log *message* with *arguments*; where this thread holds the lock of the process, once it is free.

    A handler may have a lock of its own, of which another thread, while it holds it, may observe. Never raises.
    """
    _unsaid.append((level, message, arguments, error))
    speak()


def speak() -> None:
    """Log what was said while the lock was held, unless this thread still holds it. Never raises."""
    while _unsaid and not held():
        try:
            level, message, arguments, error = _unsaid.popleft()
            _log.log(level, message, *arguments, exc_info=error)
        except Exception:  # a broken logging handler must not reach the request, nor another thread that was faster
            pass

"""The log of one service of the shop.

Warnings and worse go to stderr, for people; everything goes, as lines of JSON, to the end of the file that ``LOG_FILE``
names, if it does.
"""

import logging
import os
from typing import Final

from exemplars.logs import JSONFormatter, TraceContextFilter

# Of the servers, those that may keep their lines to themselves.
_SERVERS: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "gunicorn.error", "gunicorn.access")


class Appending(logging.Handler):
    """Appends each line to the file *path* in one write, so that lines of several processes stay whole.

    Raises ``OSError`` where it cannot be opened. The file may be emptied at any time.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        # Open until the process ends.
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(self._file, f"{self.format(record)}\n".encode())
        except Exception:  # the disk may be full
            self.handleError(record)


def configure() -> None:
    """Set up the log of this process: once, when its server has set up its own."""
    root = logging.getLogger()
    people = logging.StreamHandler()
    people.setLevel(logging.WARNING)
    people.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s trace_id=%(trace_id)s"))
    people.addFilter(TraceContextFilter())
    root.addHandler(people)
    logging.getLogger("exemplars.demo").setLevel(logging.INFO)
    if path := os.environ.get("LOG_FILE"):
        lines = Appending(path)
        lines.setFormatter(JSONFormatter())
        lines.addFilter(TraceContextFilter())
        for logger in (root, *filter(_keeps_to_itself, map(logging.getLogger, _SERVERS))):
            logger.addHandler(lines)


def _keeps_to_itself(logger: logging.Logger) -> bool:
    return not logger.propagate and bool(logger.handlers)  # without any it is off, as by --no-access-log

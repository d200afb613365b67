"""Code that comes in the middle: at any moment at which CPython may run a signal handler or a destructor."""

import dis
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import exemplars

_OURS: Final = str(Path(exemplars.__file__).parent)
# After these CPython looks for signals and, since 3.12, collects garbage; before, an allocation of a container did.
_MOMENTS: Final = ("RESUME", "CALL", "JUMP_BACKWARD", "BUILD_", "LIST_", "DICT_", "SEND", "YIELD")


class _Tracer:
    """Calls *handler* at the moment number *at* in code of ours, and counts the moments."""

    def __init__(self, at: int, handler: Callable[[], object]) -> None:
        self.moments = 0
        self._at = at
        self._handler = handler
        self._last: dict[FrameType, str] = {}
        self._names: dict[CodeType, bytes] = {}

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> "_Tracer | None":
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            code = self._names.setdefault(frame.f_code, frame.f_code.co_code)
            last = self._last.get(frame, "RESUME")
            self._last[frame] = dis.opname[code[frame.f_lasti]]
            if last.startswith(_MOMENTS):
                self.moments += 1
                if self.moments == self._at:
                    self._handler()  # which is not traced itself
        elif event == "return":
            self._last.pop(frame, None)
        return self


def interrupted(operation: Callable[[], object], handler: Callable[[], object], at: int) -> int:
    """Run *operation*, and *handler* at its moment number *at*; how many moments there were."""
    tracer = _Tracer(at, handler)
    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # CPython 3.12 looks at whether any frame wants them when it begins to trace
    sys.settrace(tracer)
    try:
        operation()
    finally:
        sys.settrace(before)
    return tracer.moments


def every_moment(operation: Callable[[], object]) -> Iterator[int]:
    """The number of every moment of *operation*, which is run once more to count them."""
    return iter(range(1, interrupted(operation, lambda: None, at=0) + 1))

"""Other processes that the bench asks: a line of JSON to their input, a line of JSON from their output."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent.parent
CPU_PATH: Final = "/cpu"  # at which a server tells the CPU time it has used, in seconds
PATIENCE: Final = 60.0  # seconds that one may take to end by itself
# Of the environment, what would make a process share its numbers with others than it is told to.
_OF_OTHERS: Final = ("EXEMPLARS_DIR", "PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


class FailedError(Exception):
    """A process that was asked did not answer."""


class Process:
    """`python -m` *module* with *arguments*, which answers what it is asked by `answer`; ended on leaving."""

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._name = " ".join((module, *arguments))
        inherited = {name: value for name, value in os.environ.items() if name not in _OF_OTHERS}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=inherited | dict(environment or {}),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, command: str) -> None:
        """Ask without waiting for the answer, which `heard` gives."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, as `heard` will say

    def heard(self) -> Any:
        """The answer to what was asked. Raises FailedError if the process ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise FailedError(f"{self._name} ended with {self._process.wait(PATIENCE)}")
        return json.loads(line)

    def ask(self, command: str) -> Any:
        """The answer to *command*."""
        self.tell(command)
        return self.heard()

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._process.kill()
        self.__exit__(None, None, None)

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(PATIENCE)
        self._process.stdout.close()


def answer(commands: Mapping[str, Callable[[], object]]) -> None:
    """Answer each line of the input with what the command of that name gives, until the input ends."""
    for line in sys.stdin:
        print(json.dumps(commands[line.strip()]()), flush=True)

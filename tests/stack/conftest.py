"""What the tests of the stack share: the figures that they tell at the end, and which of them may run at once."""

from collections.abc import Callable, Iterable
from typing import Final

import pytest

from tests.faults.figures import Figures, Tell

# Modules whose tests each start a stack of their own and wait for it, the longest first.
_APART: Final = ("test_end_to_end", "test_broken")
_FIGURES: Final = "figures"


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Has the figures that it is given, and gives back, printed when all is over."""

    def tell(figures: Figures) -> Figures:
        record_property(_FIGURES, str(figures))
        return figures

    return tell


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those first; of the other modules each stays with one process."""

    def place(item: pytest.Item) -> int:
        return _APART.index(item.path.stem) if item.path.stem in _APART else len(_APART)

    items.sort(key=place)
    for item in items:
        if place(item) == len(_APART):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports: Iterable[object] = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    for report in reports:
        if isinstance(report, pytest.TestReport) and report.when == "call":
            for name, value in report.user_properties:
                if name == _FIGURES:
                    terminalreporter.section(report.location[2])
                    terminalreporter.line(str(value))

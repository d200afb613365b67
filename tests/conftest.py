"""What all tests share."""

import os
import signal
import sys

import pytest
from hypothesis import settings
from prometheus_client import CollectorRegistry

# No test judges by the clock; and a failure of CI's can be repeated elsewhere.
settings.register_profile("project", deadline=None, print_blob=True)
settings.load_profile("project")

# A thread may hold coverage's lock at the moment of a fork; the child, measured on, would wait for it for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: sys.settrace(None))

# A shell has what it starts in the background ignore Ctrl-C, and so would the programs that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()

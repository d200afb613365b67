"""What all tests share."""

import pytest
from hypothesis import settings
from prometheus_client import CollectorRegistry

# No test judges by the clock; and a failure of CI's can be repeated elsewhere.
settings.register_profile("project", deadline=None, print_blob=True)
settings.load_profile("project")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()

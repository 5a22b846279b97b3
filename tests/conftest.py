"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

SLOW_TAKES_S = 3600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests may take longer than pyproject.toml allows the others."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_TAKES_S))


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """A log that a test has set up writes to the stderr of that test, which is closed after it."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of large files that do not belong into the tree."""
    folder = os.environ.get("STREAMD_ASSETS")
    if not folder:
        pytest.skip("STREAMD_ASSETS names no folder with the test models and videos")
    return Path(folder)

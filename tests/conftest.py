"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog


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

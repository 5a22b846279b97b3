"""What all tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of large files that do not belong into the tree."""
    folder = os.environ.get("STREAMD_ASSETS")
    if not folder:
        pytest.skip("STREAMD_ASSETS names no folder with the test models and videos")
    return Path(folder)

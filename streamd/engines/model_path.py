"""Where a model's file is."""

import sys
from pathlib import Path

from streamd.errors import ModelError

PROJECT_ROOT = Path(__file__).resolve().parent.parent.parent
INSTALLED = Path(sys.prefix) / "share" / "streamd"


def find_model(path: str) -> Path:
    """The model file that `path` names: from the working directory, else as streamd brings it."""
    for candidate in (Path(path), PROJECT_ROOT / path, INSTALLED / path):
        if candidate.is_file():
            return candidate
    if Path(path).is_dir():
        raise ModelError(f"{path}: is a folder")
    raise ModelError(f"{path}: no such file")

"""Which cameras the API may add: what is asked from outside reaches less than the file may."""

import os
import re
import stat
from pathlib import Path, PurePosixPath

from streamd.config.http import HttpConfig
from streamd.config.models import CameraConfig
from streamd.config.section import local_path
from streamd.errors import AdmissionError

_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9+.,-]*:")


def admit(camera: CameraConfig, http: HttpConfig) -> CameraConfig:
    """`camera` as it may be added: of a file, the URL is replaced by its path without links.

    Raises AdmissionError with one line that shows no password.
    """
    if not camera.is_local_file:
        _check_address(camera.url, http)
        return camera
    path = _named_path(camera.url)
    if not http.camera_folders:
        raise AdmissionError("url: files are not taken: http.camera_folders is empty")
    # First by name alone: an answer must not tell which files exist elsewhere.
    named = os.path.abspath(path)
    folders = [os.path.abspath(folder) for folder in http.camera_folders]
    if not any(PurePosixPath(named).is_relative_to(folder) for folder in folders):
        raise AdmissionError("url: lies in none of http.camera_folders")
    return camera.model_copy(update={"url": _resolved(path, http)})


def _check_address(url: str, http: HttpConfig) -> None:
    scheme = url.partition("://")[0]
    if scheme not in http.camera_schemes:
        known = ", ".join(f"{name}://" for name in http.camera_schemes) or "none"
        raise AdmissionError(f"url: {scheme}:// is not taken; http.camera_schemes are {known}")
    if re.search(r"\s", url):
        raise AdmissionError("url: holds a blank")


def _named_path(url: str) -> str:
    prefix = _PREFIX.match(url)
    if prefix and not url.startswith("file://"):
        raise AdmissionError(f"url: {prefix.group()} is no scheme that is taken")
    path = local_path(url)
    if "\0" in path or ".." in PurePosixPath(path).parts:
        raise AdmissionError("url: a path may hold neither .. nor a zero byte")
    return path


def _resolved(path: str, http: HttpConfig) -> str:
    """`path` without links; a regular file inside one of the folders, themselves without links."""
    try:
        real = Path(path).resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError):
        raise AdmissionError("url: no such file") from None
    if not any(real.is_relative_to(Path(folder).resolve()) for folder in http.camera_folders):
        raise AdmissionError("url: a link leads out of http.camera_folders")
    if not stat.S_ISREG(mode):
        raise AdmissionError("url: is no regular file")
    return str(real)

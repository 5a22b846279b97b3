"""Built engines on disk: found by what they were built for, written whole or not at all.

engines/
  yolo11n-3fd2c8a1b04e/           one engine
    manifest.json                 what it was built for, by what, and the checksum of each file
    1.blob, 384x640.plan, ...     what its backend wrote
  .yolo11n-3fd2c8a1b04e.lock      held while it is built
  .building-...                   an engine that is not finished
"""

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from streamd.engines.contract import Built
from streamd.errors import EngineError

_FORMAT = 1
_MANIFEST = "manifest.json"
_UNFINISHED = ".building-"


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that decides whether an engine fits; `device` is a name with its compute capability."""

    model: str
    sha256: str
    backend: str
    version: str
    device: str
    precision: str
    shapes: str
    ladder: str
    graph: str

    @property
    def folder(self) -> str:
        """The name of this engine's folder."""
        packed = json.dumps(asdict(self), sort_keys=True).encode()
        return f"{self.model}-{hashlib.sha256(packed).hexdigest()[:12]}"

    def differences(self, other: "EngineKey") -> dict[str, tuple[str, str]]:
        """Part by part: what `other` has, and what this one has instead."""
        mine, others = asdict(self), asdict(other)
        return {part: (others[part], mine[part]) for part in mine if mine[part] != others[part]}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a built engine. `proof` is how it compared with the model, as JSON.

    `files` has name -> sha256; `created` is epoch seconds.
    """

    key: EngineKey
    built: Built
    proof: dict[str, Any]
    created: int
    build_s: float
    files: dict[str, str]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A built engine in its folder."""

    folder: Path
    manifest: Manifest


class EngineCache:
    """The folder of built engines."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self, key: EngineKey) -> None:
        """Makes the folder. Raises EngineError where an engine of `key` cannot be put there."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise EngineError(f"{self.root}: {error.strerror or error}") from None
        place = self.root / key.folder
        if place.is_dir() and not os.access(place, os.W_OK):
            raise EngineError(f"{place}: is damaged, and another user's")

    def find(self, key: EngineKey) -> Entry | None:
        """The engine of `key`, None if there is none. Raises EngineError if it is damaged."""
        folder = self.root / key.folder
        if not os.path.isdir(folder):  # also where this user may not look
            return None
        entry = Entry(folder, read_manifest(folder))
        for name, expected in entry.manifest.files.items():
            if file_sha256(folder / name) != expected:
                raise EngineError(f"{folder / name}: its checksum is wrong")
        return entry

    def why_missing(self, key: EngineKey) -> str:
        """Which part of `key` differs from the engine of the same model that is nearest to it."""
        related = [e.manifest.key for e in self.entries() if e.manifest.key.model == key.model]
        if not related:
            return f"no engine of {key.model} was built yet"
        differences = min((key.differences(other) for other in related), key=len)
        parts = [f"{part} was {old}, is {new}" for part, (old, new) in differences.items()]
        return "; ".join(_short(part) for part in parts) or "it was removed"

    @contextmanager
    def building(self, key: EngineKey) -> Iterator[Path]:
        """An empty folder to build `key` in, while nobody else does; gone at the end.

        Waits for whoever builds the same engine; look again with `find` then.
        """
        with self._locked(key):
            for left_over in self.root.glob(f"{glob.escape(_UNFINISHED + key.folder)}-*"):
                shutil.rmtree(left_over, ignore_errors=True)
            with _errors_of_the_disk(self.root):
                folder = Path(tempfile.mkdtemp(prefix=f"{_UNFINISHED}{key.folder}-", dir=self.root))
            try:
                with _errors_of_the_disk(self.root):
                    yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def store(self, folder: Path, manifest: Manifest) -> Entry:
        """Puts what was built in `folder` in its place, at once; an older one goes."""
        paths = sorted(path for path in folder.iterdir() if path.is_file())
        whole = replace(
            manifest,
            files={path.name: file_sha256(path) for path in paths},
            size_bytes=sum(path.stat().st_size for path in paths),
        )
        text = json.dumps({"format": _FORMAT, **asdict(whole)}, indent=2)
        (folder / _MANIFEST).write_text(text)
        for path in [*paths, folder / _MANIFEST, folder]:
            _sync(path)
        # It was made for its builder's eyes only; the service may be another user.
        for path in [*paths, folder / _MANIFEST]:
            path.chmod(0o644)
        folder.chmod(0o755)
        place = self.root / manifest.key.folder
        self.remove(place)
        folder.rename(place)
        _sync(self.root)
        return Entry(place, whole)

    def remove(self, folder: Path) -> None:
        """Removes an engine; a half-removed one is never taken for a whole one.

        Raises EngineError where it may not be removed.
        """
        if folder.is_dir():
            with _errors_of_the_disk(folder):
                doomed = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self.root))
                try:
                    folder.rename(doomed / folder.name)
                finally:
                    shutil.rmtree(doomed, ignore_errors=True)

    def entries(self) -> list[Entry]:
        """All whole engines, newest first; files are not verified."""
        found: list[Entry] = []
        if not os.path.isdir(self.root):  # also where this user may not look
            return found
        for path in self.root.glob(f"*/{_MANIFEST}"):
            if not path.parent.name.startswith(_UNFINISHED):
                try:
                    found.append(Entry(path.parent, read_manifest(path.parent)))
                except EngineError:
                    continue
        return sorted(found, key=lambda entry: -entry.manifest.created)

    def leftovers(self) -> list[Path]:
        """Folders of builds that were killed, and engines whose manifest cannot be read."""
        if not os.path.isdir(self.root):
            return []
        known = {entry.folder for entry in self.entries()}
        folders = (path for path in self.root.glob("*") if path.is_dir() and path not in known)
        unreadable = [path for path in folders if (path / _MANIFEST).exists()]
        return [*unreadable, *(p for p in self.root.glob(f"{_UNFINISHED}*") if self._is_idle(p))]

    def _is_idle(self, unfinished: Path) -> bool:
        """Whether nobody builds in that folder."""
        name = unfinished.name.removeprefix(_UNFINISHED).rpartition("-")[0]
        lock = self.root / f".{name}.lock"
        if not lock.exists():
            return True
        with _opened_lock(lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    @contextmanager
    def _locked(self, key: EngineKey) -> Iterator[None]:
        """The lock dies with the process that holds it."""
        with _errors_of_the_disk(self.root):
            file = _opened_lock(self.root / f".{key.folder}.lock")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`. Raises EngineError where it cannot be read."""
    try:
        values = json.loads((folder / _MANIFEST).read_text())
        if values.pop("format") != _FORMAT:
            raise EngineError(f"{folder}: was built by another version of streamd")
        values["key"] = EngineKey(**values["key"])
        values["built"] = Built(**values["built"])
        return Manifest(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise EngineError(f"{folder / _MANIFEST}: cannot be read") from None


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex. Raises EngineError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}") from None


def new_manifest(key: EngineKey, built: Built, proof: dict[str, Any], build_s: float) -> Manifest:
    """A manifest of what was just built; `store` adds the files."""
    return Manifest(key, built, proof, int(time.time()), round(build_s, 2), {}, 0)


def _opened_lock(path: Path) -> IO[str]:
    """Also where it is another user's, such as root's, who has built here before."""
    try:
        file = path.open("w")
    except PermissionError:
        return path.open()
    with suppress(PermissionError):  # it is another's, who lets us write
        os.fchmod(file.fileno(), 0o644)
    return file


@contextmanager
def _errors_of_the_disk(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free_mb = shutil.disk_usage(root).free / 1e6
            raise EngineError(f"{root}: no space left for the engine ({free_mb:.0f} MB)") from None
        raise EngineError(f"{root}: {error.strerror or error}") from None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _short(difference: str, most: int = 160) -> str:
    return difference if len(difference) <= most else f"{difference[: most - 3]}..."

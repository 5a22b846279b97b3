"""What must be there before anything starts: a configuration, files, volumes, a log file, a GPU.

An image says by its environment what it promises to find: STREAMD_VOLUMES has the folders that must
be writable, STREAMD_GPU=required is that of an image which makes no sense on a CPU.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from streamd.config import CameraConfig, Config, ModelConfig
from streamd.config.section import local_path
from streamd.errors import ConfigError, Fault, SetupError
from streamd.log_file import LogFile
from streamd.logs import log_file_of
from streamd.nvidia import driver_missing

_VOLUMES = "STREAMD_VOLUMES"
_GPU = "STREAMD_GPU"


def check_mounted(config: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Raises SetupError where nobody has mounted a configuration, or not a readable one."""
    if _VOLUMES not in environ:
        return
    if not config.exists():
        raise SetupError(f'{config}: no such file; mount one: -v "$PWD/streamd.yaml:{config}:ro"')
    if not os.access(config, os.R_OK):
        raise SetupError(
            f"{config}: user {os.getuid()} may not read it; let others read the file (chmod o+r), "
            f"or start the container as its owner (--user {config.stat().st_uid})"
        )


def check_surroundings(model: ModelConfig, environ: Mapping[str, str] = os.environ) -> None:
    """Raises SetupError where a volume cannot be written to, or a promised GPU is not there."""
    for folder in filter(None, environ.get(_VOLUMES, "").split(":")):
        _check_volume(Path(folder))
    if environ.get(_GPU) == "required" and model.backend in ("auto", "tensorrt"):
        missing = driver_missing()
        if missing:
            raise SetupError(
                f"{missing}: start the container with --gpus all (the host needs NVIDIA's driver "
                "and Container Toolkit), or use the cpu image"
            )


def check_working_folder() -> None:
    """Raises SetupError where a process of this user could not be started in this folder."""
    with suppress(FileNotFoundError):  # it was removed: processes are started in none
        folder = os.getcwd()
        if not os.access(folder, os.X_OK):
            raise SetupError(
                f"{folder}: user {os.getuid()} may not enter this folder; start streamd in another"
            )


def checked_log_file(config: Config) -> LogFile | None:
    """The file that the configuration wants its log in; ConfigError where it cannot be written."""
    file = log_file_of(config.log)
    try:
        if file is not None:
            file.descriptor()
    except OSError as error:
        what = (
            f"{config.log.file}: user {os.getuid()} cannot write it: {error.strerror} "
            "(null keeps the log on stderr alone)"
        )
        raise ConfigError([config.fault(("log", "file"), what)]) from None
    return file


def unwritable_log(config: Config) -> list[Fault]:
    """A fault where this user could not write the file of the log. Nothing is made."""
    file = config.log.file
    if file is None or _could_write(Path(file), folder=False):
        return []
    return [config.fault(("log", "file"), f"{file}: user {os.getuid()} cannot write it")]


def unwritable_spool(config: Config) -> Fault | None:
    """Why events could not wait on disk if Redis were away. Nothing is made."""
    folder = config.redis.spool.path
    if folder is None or _could_write(Path(folder), folder=True):
        return None
    what = f"{folder}: user {os.getuid()} cannot write there: events would wait in memory alone"
    return config.fault(("redis", "spool", "path"), what)


def _could_write(path: Path, *, folder: bool) -> bool:
    # What is not there yet is made in the first folder above it that is.
    there = next(p for p in (path, *path.absolute().parents) if os.path.exists(p))
    is_folder = there.is_dir()
    return os.access(there, os.W_OK) and is_folder == (folder or there != path)


def unreadable_tls_files(config: Config) -> list[Fault]:
    """A fault for each file of TLS that this user cannot read."""
    faults = []
    for key in ("tls_ca", "tls_cert", "tls_key"):
        file = getattr(config.redis, key)
        if file is not None and not (os.path.isfile(file) and os.access(file, os.R_OK)):
            there = os.path.exists(file)
            what = f"user {os.getuid()} cannot read it" if there else "no such file"
            faults.append(config.fault(("redis", key), f"{file}: {what}"))
    return faults


def none_enabled(config: Config) -> list[Fault]:
    """A fault where there is no camera to read."""
    return [] if config.enabled_cameras else [config.fault(("cameras",), "none is enabled")]


def missing_files(config: Config) -> list[Fault]:
    """One fault for each enabled camera whose file is not there."""
    faults = []
    for index, camera in enumerate(config.cameras):
        what = missing_file(camera) if camera.enabled else None
        if what:
            faults.append(config.fault(("cameras", index, "url"), what))
    return faults


def missing_file(camera: CameraConfig) -> str | None:
    """What is wrong with the file of a file camera; None where it is there or no file."""
    if not camera.is_local_file:
        return None
    path = Path(local_path(camera.url))
    try:
        if path.is_dir():
            return f"{path} is a folder"
        return None if path.exists() else f"no such file: {path}"
    except PermissionError as error:  # a folder on the way to it is closed to this user
        return f"{path}: user {os.getuid()} cannot read it: {error.strerror}"


def _check_volume(folder: Path) -> None:
    if os.access(folder, os.W_OK | os.X_OK):
        return
    if not folder.is_dir():
        raise SetupError(f"{folder}: no such folder; mount a volume there: -v NAME:{folder}")
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise SetupError(f"{folder}: is read-only; mount a volume there: -v NAME:{folder}")
    raise SetupError(
        f"{folder}: user {os.getuid()} cannot write to it; it belongs to user "
        f"{folder.stat().st_uid}: start the container as that one, or chown the volume"
    )

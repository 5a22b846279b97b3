"""Reads a configuration file; every fault names the file, the line and the key."""

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from streamd.config.credentials import variables
from streamd.config.document import Document, read_document
from streamd.config.exposure import open_doors
from streamd.config.models import CameraConfig, Config
from streamd.config.secrets import mask_text
from streamd.config.section import Location, key_of
from streamd.errors import ConfigError, Fault

_CAMERA: Location = ("cameras", 0)
_MESSAGES = {
    "missing": "is missing",
    "model_type": "should hold keys",
    "tuple_type": "should be a list",
    "too_short": "should have at least one entry",
}


def load_config(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in the YAML file at `path`.

    `${VAR}` and `${VAR:-default}` are replaced in every text value from `environ` and the
    credentials that it leads to; `$$` is a dollar sign. Raises ConfigError with every fault that
    was found.
    """
    document = read_document(path, variables(environ))
    if document.faults:
        raise ConfigError(sorted(document.faults, key=lambda fault: fault.line))
    try:
        config = Config.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(list(_faults_of(error, document))) from None
    config.located(document.file, document.lines, tuple(document.literal_secrets))
    faults = [*_duplicate_cameras(config), *_events_among_status(config), *open_doors(config)]
    if faults:
        raise ConfigError(faults)
    return config


def load_camera(settings: Mapping[str, Any]) -> CameraConfig:
    """A camera that is in no file. Raises ConfigError, whose faults have the camera's own keys."""
    try:
        return CameraConfig.model_validate(settings)
    except ValidationError as error:
        document = Document("", {"cameras": [settings]})
        faults = list(_faults_of(error, document, _CAMERA))
        prefix = f"{key_of(_CAMERA)}."
        raise ConfigError([replace(f, key=f.key.removeprefix(prefix)) for f in faults]) from None


def _faults_of(error: ValidationError, document: Document, below: Location = ()) -> Iterator[Fault]:
    """Pydantic's errors as faults in file order, one a location; the error's begin `below` one."""
    seen: dict[Location, list[str]] = {}
    for item in error.errors():
        whole: Location = (*below, *item["loc"])
        if item["type"] == "too_short" and document.at(whole):
            continue  # pydantic counts only the valid entries, and those that are not have a fault
        location, what = _plain({**item, "loc": whole}, document)
        seen.setdefault(location, []).append(what)
    for location in sorted(seen, key=document.line):
        what = "; or ".join(dict.fromkeys(seen[location]))
        yield Fault(document.file, document.line(location), key_of(location), mask_text(what))


def _plain(item: Any, document: Document) -> tuple[Location, str]:
    """The location as it stands in the file, and the message without the validator's jargon."""
    kind = str(item["type"])
    location = _location_in_file(item["loc"], document, missing=kind == "missing")
    message = str(item["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return location, f"unknown key{_suggestion(location)}"
    if kind == "string_pattern_mismatch":
        return location, f"{item['input']!r} may hold letters, digits, '_', '-', '.'; at most 64"
    return location, _MESSAGES.get(kind, message[:1].lower() + message[1:])


def _location_in_file(loc: Location, document: Document, *, missing: bool) -> Location:
    """`loc` without the names of union members, which pydantic adds after the key.

    Only a `missing` key is not found in the file.
    """
    location: Location = ()
    node: Any = document.data
    for position, part in enumerate(loc):
        inside = isinstance(node, dict) and part in node
        inside = inside or (isinstance(node, list) and isinstance(part, int) and part < len(node))
        if inside:
            node = node[part]
            location = (*location, part)
        elif missing and position == len(loc) - 1:
            location = (*location, part)
    return location


def _suggestion(location: Location) -> str:
    *parents, name = location
    model: type[BaseModel] | None = Config
    for part in parents:
        if isinstance(part, str) and model is not None:
            model = _submodel(model, part)
    if model is None:
        return ""
    begun = [known for known in model.model_fields if known.startswith(str(name))]
    close = begun or difflib.get_close_matches(str(name), model.model_fields, n=1, cutoff=0.6)
    known = ", ".join(model.model_fields)
    return f", did you mean {close[0]!r}?" if close else f"; known are {known}"


def _submodel(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    info = model.model_fields.get(name)
    candidates = [info.annotation] if info else []
    while candidates:
        annotation = candidates.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
        if get_origin(annotation) in (tuple, list, Union, UnionType):
            candidates.extend(get_args(annotation))
    return None


def _duplicate_cameras(config: Config) -> Iterator[Fault]:
    first: dict[str, int] = {}
    for index, camera in enumerate(config.cameras):
        fault = config.fault(("cameras", index, "id"), "")
        if camera.id in first:
            what = f"{camera.id!r} is already the id of the camera in line {first[camera.id]}"
            yield replace(fault, what=what)
        first.setdefault(camera.id, fault.line)


def _events_among_status(config: Config) -> Iterator[Fault]:
    """With a stream a camera, one may have the name of the status stream."""
    for index, camera in enumerate(config.cameras):
        if config.redis.mixes_with_status(camera.id):
            what = f"its events would go to {config.redis.status_stream}, the redis.status_stream"
            yield config.fault(("cameras", index, "id"), what)

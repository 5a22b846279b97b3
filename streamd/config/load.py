"""Reads a configuration file; every fault names the file, the line and the key."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from streamd.config.models import Config, Location, key_of
from streamd.config.secrets import mask_text
from streamd.errors import ConfigError, Fault

_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_MESSAGES = {
    "missing": "is missing",
    "model_type": "should hold keys",
    "tuple_type": "should be a list",
    "too_short": "should have at least one entry",
}


def load_config(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in the YAML file at `path`.

    `${VAR}` and `${VAR:-default}` are replaced in every text value from `environ`; `$$` is a
    dollar sign. Raises ConfigError with every fault that was found.
    """
    document = _read(path, environ)
    if document.faults:
        raise ConfigError(document.faults)
    try:
        config = Config.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(list(_faults_of(error, document))) from None
    config.located(document.file, document.lines)
    faults = list(_duplicate_cameras(config))
    if faults:
        raise ConfigError(faults)
    return config


@dataclass(slots=True)
class Document:
    """A parsed YAML file: plain data, and the line of each key."""

    file: str
    data: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def line(self, location: Location) -> int:
        """The line of the innermost key on the way to `location` that stands in the file."""
        for end in range(len(location), -1, -1):
            if location[:end] in self.lines:
                return self.lines[location[:end]]
        return 0

    def at(self, location: Location) -> Any:
        """The value at `location`; None where there is none."""
        node = self.data
        for part in location:
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):
                return None
        return node

    def fault(self, location: Location, what: str) -> None:
        """Records a fault at `location`."""
        self.faults.append(Fault(self.file, self.line(location), key_of(location), what))


def _read(path: Path, environ: Mapping[str, str]) -> Document:
    document = Document(str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([Fault(str(path), 0, "", "no such file")]) from None
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise ConfigError([Fault(str(path), 0, "", f"cannot be read: {what}")]) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            found = "is empty" if node is None else "holds no keys"
            raise ConfigError([Fault(str(path), 0, "", f"{found}; at least cameras: is needed")])
        document.data = _build(node, (), document, environ)
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_fault(error, str(path), text)]) from None
    except RecursionError:
        what = "is nested too deeply, or an alias stands within what it names"
        raise ConfigError([Fault(str(path), 0, "", what)]) from None
    return document


def _syntax_fault(error: yaml.YAMLError, file: str, text: str) -> Fault:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    line = mark.line + 1 if mark else 0  # one beyond the last where the end came too soon
    if "${" in "".join(text.splitlines()[line - 1 : line]):
        what += "; inside { } a value with ${...} needs quotes"
    return Fault(file, line, "", f"not valid YAML: {what}")


def _build(
    node: yaml.Node, location: Location, document: Document, environ: Mapping[str, str]
) -> Any:
    document.lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, location, document, environ)
    if isinstance(node, yaml.SequenceNode):
        return [_build(n, (*location, i), document, environ) for i, n in enumerate(node.value)]
    if node.tag == "tag:yaml.org,2002:str" or _VARIABLE.search(node.value):
        return _build_text(node, location, document, environ)
    return _build_scalar(node.tag, node.value, location, document)


def _build_scalar(tag: str, text: str, location: Location, document: Document) -> Any:
    try:
        return yaml.SafeLoader("").construct_object(yaml.ScalarNode(tag, text))
    except (yaml.YAMLError, ValueError, LookupError, AttributeError):
        # PyYAML lets through what its parsing of a text that does not fit its tag happens to raise.
        document.fault(location, f"cannot be read as {tag.rpartition(':')[2]}")
        return None


def _build_mapping(
    node: yaml.MappingNode, location: Location, document: Document, environ: Mapping[str, str]
) -> dict[str, Any]:
    built: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            line = key_node.start_mark.line + 1
            what = "has a key that is no plain text"
            document.faults.append(Fault(document.file, line, key_of(location), what))
            continue
        key = key_node.value
        here = (*location, key)
        if key in built:
            first = document.line(here)
            document.lines[here] = key_node.start_mark.line + 1
            document.fault(here, f"stands twice, first in line {first}")
            continue
        document.lines[here] = key_node.start_mark.line + 1
        built[key] = _build(value_node, here, document, environ)
    return built


def _build_text(
    node: yaml.Node, location: Location, document: Document, environ: Mapping[str, str]
) -> Any:
    def value_of(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        if name is None:
            return "$"
        value = environ.get(name)
        if default is not None:
            return value or str(default)  # as in a shell, an empty variable counts as missing
        if value is None:
            document.fault(location, f"the environment has no variable {name}")
        return value or ""

    text = _VARIABLE.sub(value_of, node.value)
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    if plain and text != node.value and re.fullmatch(r"[\w.+-]+", text):
        # An unquoted ${PORT} means what its value means: a number stays a number.
        loader = yaml.SafeLoader("")
        # types-PyYAML leaves this method without types.
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        return _build_scalar(tag, text, location, document)
    return text


def _faults_of(error: ValidationError, document: Document) -> Iterator[Fault]:
    """Pydantic's errors as faults in file order, one a location."""
    seen: dict[Location, list[str]] = {}
    for item in error.errors():
        if item["type"] == "too_short" and document.at(item["loc"]):
            continue  # pydantic counts only the valid entries, and those that are not have a fault
        location, what = _plain(item, document)
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
    close = difflib.get_close_matches(str(name), model.model_fields, n=1, cutoff=0.6)
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

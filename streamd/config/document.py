"""A YAML file as plain data, with the line of each key; `${VAR}` is replaced on the way."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from streamd.config.secrets import holds_literal_secret
from streamd.config.section import Location, key_of
from streamd.errors import ConfigError, Fault

_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]{0,1000}))?\}")
_LARGEST_BYTES = 4 * 1024 * 1024
# Ten thousand cameras with all their keys. A few nested aliases can stand for billions.
_MOST_VALUES = 200_000
_MERGE = "tag:yaml.org,2002:merge"  # https://yaml.org/type/merge.html
_UNREAD = "x-"  # a key at the top that begins so is for the file's own use, as in Compose files
_TOKEN = ("token",)  # the key whose whole value is a secret


@dataclass(slots=True)
class Document:
    """A parsed YAML file: plain data, and the line of each key."""

    file: str
    data: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    literal_secrets: list[Location] = field(default_factory=list)
    values: int = 0

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


def read_document(path: Path, environ: Mapping[str, str]) -> Document:
    """The file at `path`; faults of single values are in the document.

    Raises ConfigError where it is no YAML file with keys.
    """
    document = Document(str(path))
    try:
        if path.is_file() and path.stat().st_size > _LARGEST_BYTES:
            raise ConfigError([_too_much(document.file)])
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([Fault(str(path), 0, "", "no such file")]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            [Fault(str(path), line, "", "cannot be read: is not UTF-8 text")]
        ) from None
    except OSError as error:
        raise ConfigError([Fault(str(path), 0, "", f"cannot be read: {error.strerror}")]) from None
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


def _too_much(file: str) -> Fault:
    what = f"holds more than {_LARGEST_BYTES >> 20} MiB or {_MOST_VALUES} values, aliases expanded"
    return Fault(file, 0, "", what)


def _syntax_fault(error: yaml.YAMLError, file: str, text: str) -> Fault:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    line = mark.line + 1 if mark else 0  # one beyond the last where the end came too soon
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
    if "${" in "".join(text.splitlines()[line - 1 : line]):
        what += "; inside { } a value with ${...} needs quotes"
    return Fault(file, line, "", f"not valid YAML: {what}")


def _build(
    node: yaml.Node, location: Location, document: Document, environ: Mapping[str, str]
) -> Any:
    document.lines.setdefault(location, node.start_mark.line + 1)
    _count(document)
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
    for key, key_node, value_node in _entries(node, location, document):
        if location or not key.startswith(_UNREAD):
            document.lines[*location, key] = key_node.start_mark.line + 1
            built[key] = _build(value_node, (*location, key), document, environ)
    return built


def _entries(
    node: yaml.MappingNode, location: Location, document: Document
) -> list[tuple[str, yaml.Node, yaml.Node]]:
    """Each key of `node` with its two nodes, then those that `<<` brings and `node` has not."""
    found: dict[str, tuple[str, yaml.Node, yaml.Node]] = {}
    merged: list[yaml.Node] = []
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            _fault_at(key_node, location, document, "has a key that is no plain text")
        elif key_node.tag == _MERGE:
            several = isinstance(value_node, yaml.SequenceNode)
            merged += value_node.value if several else [value_node]
        elif key_node.value in found:
            first = found[key_node.value][1].start_mark.line + 1
            what = f"stands twice, first in line {first}"
            _fault_at(key_node, (*location, key_node.value), document, what)
        else:
            found[key_node.value] = (key_node.value, key_node, value_node)
    for other in merged:
        _count(document)
        if not isinstance(other, yaml.MappingNode):
            _fault_at(other, (*location, "<<"), document, "should name keys with their values")
            continue
        for entry in _entries(other, location, document):
            found.setdefault(entry[0], entry)
    return list(found.values())


def _fault_at(node: yaml.Node, location: Location, document: Document, what: str) -> None:
    document.faults.append(Fault(document.file, node.start_mark.line + 1, key_of(location), what))


def _count(document: Document) -> None:
    document.values += 1
    if document.values > _MOST_VALUES:
        raise ConfigError([_too_much(document.file)])


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

    if holds_literal_secret(_VARIABLE.sub(_default_of, node.value), named=location[-1:] == _TOKEN):
        document.literal_secrets.append(location)
    if "${" in _VARIABLE.sub(_default_of, node.value):
        document.fault(location, "holds a ${ that is no ${NAME}; a dollar sign itself is $$")
    text = _VARIABLE.sub(value_of, node.value)
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    if plain and text != node.value and re.fullmatch(r"[\w.+-]+", text):
        # An unquoted ${PORT} means what its value means: a number stays a number.
        loader = yaml.SafeLoader("")
        # types-PyYAML leaves this method without types.
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        return _build_scalar(tag, text, location, document)
    return text


def _default_of(variable: re.Match[str]) -> str:
    """What of a variable stands in the file itself."""
    return variable.group(2) or ""

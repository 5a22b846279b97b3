"""The reference file: every key with its default, unit and meaning, written from the models.

`python -m streamd.config.reference > config/streamd.yaml` renews it; a test keeps it equal.
"""

import textwrap
from collections.abc import Iterator
from enum import StrEnum

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from streamd.config.models import CameraConfig, Config

_HEAD = """\
# streamd: every key, with its default. Only `cameras` is needed; a file may be as short as
#
#   cameras:
#     - id: gate
#       url: rtsp://${CAM_USER}:${CAM_PASSWORD}@camera-1.example/stream
#
# ${VAR} and ${VAR:-default} are taken from the environment; $$ is a dollar sign. Inside { } quote
# such a value. Relative paths start at the working directory. Unknown keys are errors, but for
# those that begin with x-: what cameras share can stand there, for YAML's merge key (<<: *usual).
# `streamd check FILE` says what is wrong, and where.
"""
_EXAMPLE_CAMERA = {"id": "gate", "url": "rtsp://camera-1.example/stream"}


def render() -> str:
    """The text of config/streamd.yaml."""
    return "\n".join([_HEAD, *_section(Config, "")]) + "\n"


def _section(model: type[BaseModel], indent: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name == "cameras":
            yield from _cameras(field)
            continue
        annotation = field.annotation
        yield from _comment(field, indent)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield f"{indent}{name}:"
            yield from _section(annotation, indent + "  ")
            yield ""
        else:
            yield f"{indent}{name}: {_plain(field.get_default(call_default_factory=True))}"
            if not indent:
                yield ""


def _cameras(field: FieldInfo) -> Iterator[str]:
    yield from _comment(field, "")
    yield "cameras:"
    for number, (name, key) in enumerate(CameraConfig.model_fields.items()):
        yield from _comment(key, "    ")
        value = _EXAMPLE_CAMERA.get(name, key.get_default())
        yield f"  {'- ' if number == 0 else '  '}{name}: {_plain(value)}"


def _comment(field: FieldInfo, indent: str) -> Iterator[str]:
    for line in textwrap.wrap(field.description or "", 96 - len(indent)):
        yield f"{indent}# {line}"


def _plain(value: object) -> str:
    plain = str(value) if isinstance(value, StrEnum) else value
    return str(yaml.safe_dump(plain, default_flow_style=True)).removesuffix("...\n").strip()


if __name__ == "__main__":
    print(render(), end="")

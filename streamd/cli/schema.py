"""`streamd schema`: JSON schemas, for editors and consumers."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from streamd.cli.main import app
from streamd.config import Config


class What(StrEnum):
    """What to describe."""

    CONFIG = "config"
    EVENTS = "events"


@app.command()
def schema(
    what: Annotated[What, typer.Argument(help="config or events")] = What.CONFIG,
) -> None:
    """Print the JSON schema of the configuration or of the events."""
    print(json.dumps(_schema(what), indent=2))


def _schema(what: What) -> dict[str, Any]:
    if what is What.CONFIG:
        dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        return dialect | Config.model_json_schema()
    from streamd.events import event_schema  # noqa: PLC0415  # brings OpenCV

    return event_schema()

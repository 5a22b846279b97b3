"""The `streamd` command."""

from streamd.cli import check, demo, schema, tail  # each registers its commands
from streamd.cli.main import main

__all__ = ["check", "demo", "main", "schema", "tail"]

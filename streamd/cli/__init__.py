"""The `streamd` command."""

from streamd.cli import check, schema, tail  # each registers its commands
from streamd.cli.main import main

__all__ = ["check", "main", "schema", "tail"]

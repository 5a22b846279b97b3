"""The `streamd` command."""

from streamd.cli import build, check, demo, schema, tail  # each registers its commands
from streamd.cli.main import main

__all__ = ["build", "check", "demo", "main", "schema", "tail"]

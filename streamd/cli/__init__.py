"""The `streamd` command."""

from streamd.cli.main import main

__all__ = ["main"]

"""The `streamd` command."""

from streamd.cli import bench, build, check, demo, schema, tail  # each registers its commands
from streamd.cli.main import main

__all__ = ["bench", "build", "check", "demo", "main", "schema", "tail"]

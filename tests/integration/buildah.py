"""buildah, without a daemon: images and containers below one folder."""

import ssl
import subprocess
from pathlib import Path
from typing import Any


class Buildah:
    """Images and containers below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._certificates = ssl.get_default_verify_paths().cafile or ""
        (folder / "pip.conf").write_text(f"[global]\ncert = {self._certificates}\n")
        self._command = [
            *("buildah", "--root", str(folder / "store"), "--runroot", str(folder / "run")),
            *("--storage-driver", "vfs"),
        ]

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout.strip()

    def build(self, context: Path, tag: str, *arguments: str) -> str:
        """`context`'s Dockerfile as an image; pip trusts whom this machine trusts."""
        mounts = (
            f"{self._certificates}:{self._certificates}:ro",
            f"{self.folder}/pip.conf:/etc/pip.conf:ro",
        )
        self(
            *("bud", "--isolation", "chroot", "--network", "host", "--pull=never", "--layers"),
            *("--format", "docker", *(part for mount in mounts for part in ("-v", mount))),
            *("--tag", tag, *arguments, str(context)),
        )
        return tag

    def container(self, image: str) -> str:
        """A new container of `image`."""
        return self("from", "--pull-never", image)

    def start(self, container: str, *command: str, **options: Any) -> "subprocess.Popen[str]":
        """Runs a command in a container: `user`, `volumes` and `env` may be given."""
        user = ("--user", str(options["user"])) if "user" in options else ()
        volumes = [part for volume in options.get("volumes", ()) for part in ("-v", volume)]
        env = [part for variable in options.get("env", ()) for part in ("--env", variable)]
        return subprocess.Popen(
            [
                *(*self._command, "run", "--isolation", "chroot", *user, *volumes, *env),
                *(container, "--", *command),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

"""The cpu image, built by buildah from a Debian made on the spot, and run as its users would.

buildah needs no daemon and, with chroot as isolation, no privileges but root's. A container sees
this host's network, and its root is not read-only: that nothing is written there is looked at.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from streamd.demo.clips import Clip
from streamd.engines.onnx_model import inspect_model
from streamd.testing.redis_server import RedisServer, free_port

from .buildah import Buildah
from .harness import eventually

ROOT = Path(__file__).parents[2]
USER = 10001
_MISSING = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_MISSING), reason=f"no {' and no '.join(_MISSING)} (Debian packages)"),
    pytest.mark.skipif(os.getuid() != 0, reason="debootstrap and chroot need root"),
]
# The context, as .dockerignore leaves it.
_CONTEXT = ("Dockerfile", "pyproject.toml", "README.md", "LICENSE", "streamd", "engines", "deploy")


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    folder = tmp_path_factory.mktemp("buildah")
    yield Buildah(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def base(buildah: Buildah) -> str:
    """Debian with Python, and without what the slim images of Docker's library leave out."""
    root = buildah.folder / "base" / "root"
    packages = "--include=python3,python3-venv,ca-certificates"
    mirror = "http://deb.debian.org/debian"
    command = ["debootstrap", "--variant=minbase", packages, "bookworm", str(root), mirror]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    for surplus in (
        "var/cache/apt",
        "var/lib/apt/lists",
        *(f"usr/share/{x}" for x in ("doc", "man", "locale")),
    ):
        shutil.rmtree(root / surplus)
    (root.parent / "Dockerfile").write_text("FROM scratch\nCOPY root /\n")
    return buildah.build(root.parent, "localhost/base")


@pytest.fixture(scope="module")
def context(buildah: Buildah) -> Path:
    """What is built from, without what else lies about in this tree."""
    folder = buildah.folder / "context"
    folder.mkdir()
    shutil.copy(ROOT / ".dockerignore", folder)
    for name in _CONTEXT:
        here = ROOT / name
        if here.is_dir():
            shutil.copytree(here, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(here, folder)
    return folder


@pytest.fixture(scope="module")
def image(buildah: Buildah, base: str, context: Path) -> str:
    return buildah.build(
        context, "localhost/streamd", "--target", "cpu", "--build-arg", f"BASE={base}"
    )


class Service:
    """A folder with a configuration and volumes, and the container that they are mounted into."""

    def __init__(self, buildah: Buildah, image: str, folder: Path) -> None:
        self.buildah, self.folder = buildah, folder
        self.container = buildah.container(image)
        self.config = folder / "streamd.yaml"
        self.volumes = {
            folder / "engines": "/var/lib/streamd/engines",
            folder / "spool": "/var/lib/streamd/spool",
            folder / "logs": "/var/log/streamd",
        }
        for volume, place in self.volumes.items():
            volume.mkdir()
            os.chown(volume, USER, USER)
            # Else buildah 1.28 mounts one of its own over this one, now and then.
            buildah("config", "--volume", f"{place}-", self.container)
        for path in (folder, *folder.parents):
            path.chmod(path.stat().st_mode | 0o055)

    def start(self, **options: Any) -> "subprocess.Popen[str]":
        """As `docker run` would."""
        mounts = [f"{volume}:{place}" for volume, place in self.volumes.items()]
        if self.config.exists():
            mounts.append(f"{self.config}:/etc/streamd/streamd.yaml:ro")
        mounts += options.pop("volumes", [])
        command = ("streamd", "run", "/etc/streamd/streamd.yaml")
        return self.buildah.start(self.container, *command, volumes=mounts, **options)

    def complaint(self, **options: Any) -> str:
        """The one line of a start that must fail as wrong usage does."""
        process = self.start(**options)
        said, _ = process.communicate(timeout=60)
        buildahs = ("subprocess exited", "Error: exit status")
        lines = [x for x in said.strip().splitlines() if not x.startswith(buildahs)]
        assert (process.returncode, len(lines)) == (2, 1), said
        return lines[0]


@pytest.fixture
def service(buildah: Buildah, image: str, tmp_path: Path) -> Service:
    return Service(buildah, image, tmp_path)


def test_the_image_is_small_and_has_no_installer(buildah: Buildah, image: str) -> None:
    root = Path(buildah("mount", buildah.container(image)))
    size = sum(p.stat().st_size for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    assert size < 800e6
    assert not list((root / "opt/streamd/venv/bin").glob("pip*"))
    labels = buildah("inspect", "--format", "{{.Docker.Config.Labels}}", image)
    assert "org.opencontainers.image.licenses:Apache-2.0" in labels
    assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()
    assert "127.0.0.1:8080/healthz" in buildah(
        "inspect", "--format", "{{.Docker.Config.Healthcheck}}", image
    )


def test_a_file_is_published_by_user_10001_who_writes_to_its_volumes_only(
    service: Service, redis_server: RedisServer, clip: Clip
) -> None:
    video = service.folder / "clip.mp4"
    shutil.copy(clip.path, video)
    video.chmod(0o644)
    port = free_port()
    service.config.write_text(
        f"redis: {{url: '{redis_server.url}'}}\nhttp: {{port: {port}}}\npublish: all\n"
        "log: {file: /var/log/streamd/streamd.jsonl}\n"
        "cameras: [{id: a, url: /videos/clip.mp4, loop: true}]\n"
    )
    service.config.chmod(0o644)
    root = Path(service.buildah("mount", service.container))
    began_s = time.time()
    process = service.start(volumes=[f"{video}:/videos/clip.mp4:ro"])
    try:
        client: Any = redis.Redis.from_url(redis_server.url)
        eventually(lambda: client.xlen("streamd:detections") > 20, 240, "events")
        supervisor = _supervisor_of(process)
        assert set(supervisor.uids()) == {USER}
        supervisor.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
    finally:
        _kill(process)
    assert process.returncode == 0, said
    assert any((service.folder / "engines").iterdir())
    assert '"event": "stopped"' in (service.folder / "logs" / "streamd.jsonl").read_text()
    written = [
        path
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_mtime > began_s
    ]
    # A mount makes the place that it is mounted to.
    places = ("etc", "tmp", "run", "videos")
    assert not [path for path in written if path.parts[len(root.parts)] not in places]


def _kill(process: "subprocess.Popen[str]") -> None:
    """Ends it and all that it has started, where it has not ended by itself."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()


def _supervisor_of(process: "subprocess.Popen[str]") -> psutil.Process:
    """The process that runs streamd among what `process` has started."""
    below = psutil.Process(process.pid).children(recursive=True)
    # buildah's own process inside has the command as its arguments, too.
    (supervisor,) = (
        p
        for p in below
        if p.cmdline()[1:3] == ["/opt/streamd/venv/bin/streamd", "run"]
        and "python" in p.cmdline()[0]
    )
    return supervisor


def test_without_a_configuration_it_says_how_to_mount_one(service: Service) -> None:
    assert service.complaint().startswith("/etc/streamd/streamd.yaml: no such file; mount one: -v")


def test_a_configuration_that_only_root_may_read_is_told(service: Service) -> None:
    service.config.write_text("cameras: [{id: a, url: /none.mp4}]\n")
    service.config.chmod(0o600)
    assert f"user {USER} may not read it; let others read the file" in service.complaint()


def test_another_user_is_told_whose_the_volumes_are(service: Service) -> None:
    service.config.write_text("cameras: [{id: a, url: /none.mp4}]\n")
    service.config.chmod(0o644)
    # The other way round, a volume of root's, buildah mounts one of its own instead.
    assert service.complaint(user=4321) == (
        f"/var/lib/streamd/engines: user 4321 cannot write to it; it belongs to user {USER}: "
        "start the container as that one, or chown the volume"
    )


def test_an_image_for_gpus_without_one_is_told(service: Service) -> None:
    service.config.write_text("cameras: [{id: a, url: /none.mp4}]\n")
    service.config.chmod(0o644)
    line = service.complaint(env=["STREAMD_GPU=required"])
    assert line.startswith("no NVIDIA driver is installed: start the container with --gpus all")


def test_an_image_with_a_model_starts_warm(
    buildah: Buildah, image: str, base: str, context: Path
) -> None:
    shutil.copy(context / "engines" / "shapes.onnx", context / "mine.onnx")
    arguments = ("--target", "cpu", "--build-arg", f"BASE={base}", "--build-arg", "MODEL=mine.onnx")
    warm = buildah.build(context, "localhost/warm", *arguments)
    process = buildah.start(buildah.container(warm), "streamd", "engines")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    (line,) = [line for line in said.splitlines() if "mine-" in line]
    assert "fits" in line


@pytest.mark.assets
def test_the_export_image_turns_a_checkpoint_into_onnx(
    buildah: Buildah, base: str, context: Path, assets: Path, tmp_path: Path
) -> None:
    image = buildah.build(
        context, "localhost/export", "--target", "export", "--build-arg", f"BASE={base}"
    )
    shutil.copy(assets / "models" / "yolov8n_coco.pt", tmp_path / "mine.pt")
    os.chown(tmp_path, USER, USER)
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(path.stat().st_mode | 0o055)
    # What its entry point is, with what a user gives it.
    command = ("yolo", "export", "format=onnx", "dynamic=True", "model=mine.pt")
    process = buildah.start(buildah.container(image), *command, volumes=[f"{tmp_path}:/models"])
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert inspect_model(str(tmp_path / "mine.onnx")).labels[0] == "person"

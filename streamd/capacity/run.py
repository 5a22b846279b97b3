"""Ramps the number of cameras, and says in words, JSON and a chart what was found."""

import json
import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from streamd.capacity.kind import CameraKind
from streamd.capacity.ramp import next_count
from streamd.capacity.trial import Plan, Trial, run_trial
from streamd.config import RedisConfig
from streamd.demo.clips import write_clip
from streamd.errors import SetupError, StreamdError
from streamd.linux.cores import available_cores
from streamd.models.configured_model import check_model
from streamd.scenes import Scene
from streamd.testing.clip import Clip
from streamd.testing.redis_server import RedisServer

_CLIP_S = 10.0


@dataclass(frozen=True, slots=True)
class CapacityOptions:
    """What the user asked for; without `source` a scene is drawn, without `redis` one started."""

    kind: CameraKind
    fps: float | None
    model: str
    target_ms: float
    most: int
    seconds: float
    source: str | None = None
    redis: RedisConfig | None = None
    as_json: bool = False
    plot: Path | None = None


def run_capacity(options: CapacityOptions) -> int:
    """Measures and reports; the exit code is 1 where not even one camera meets the target."""
    if options.plot is not None:
        _check_plot(options.plot)
    check_model(options.model)
    console = Console(stderr=True)
    kind = options.kind if options.source is None else _kind_of(Path(options.source))
    fps = min(options.fps or kind.fps, kind.fps)
    trials: dict[int, Trial] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamd-bench-")))
        named = options.redis
        redis = named or RedisConfig(url=stack.enter_context(RedisServer()).url)
        plan = Plan(
            kind=kind,
            fps=fps,
            clip=_clip(options, folder, console),
            model=options.model,
            redis=redis,
            seconds=options.seconds,
            target_ms=options.target_ms,
        )
        met: dict[int, bool] = {}
        while (count := next_count(met, options.most)) is not None:
            trial = run_trial(plan, count, folder)
            if not trial.meets:  # once more: others may have been busy on this machine
                trial = max(trial, run_trial(plan, count, folder), key=_goodness)
            trials[count], met[count] = trial, trial.meets
            console.print(_line(trial), highlight=False)
    ordered = [trials[count] for count in sorted(trials)]
    answer = sentence(kind, fps, ordered, options.most)
    _report(options, answer, ordered)
    if options.plot is not None:
        _draw(options.plot, ordered, answer)
    return 0 if any(trial.meets for trial in ordered) else 1


def sentence(kind: CameraKind, fps: float, trials: list[Trial], most: int) -> str:
    """The answer in plain words."""
    best = max((t for t in trials if t.meets), key=lambda t: t.cameras, default=None)
    first_bad = next((t for t in trials if not t.meets), None)
    if best is None:
        bad = trials[0]
        return (
            f"not one camera of {kind.name} at {fps:g} fps: {bad.fps:.1f} fps, "
            f"p99 {bad.p99_ms:.0f} ms; {bad.limit} the limit"
        )
    what = f"{best.cameras} {'camera' if best.cameras == 1 else 'cameras'}"
    found = f"{what} of {kind.name} at {fps:g} fps, p99 {best.p99_ms:.0f} ms"
    if first_bad is None:
        return f"{found}; more than {most} were not tried"
    return f"{found}; {first_bad.limit} the limit"


def _goodness(trial: Trial) -> tuple[bool, float]:
    return trial.meets, -trial.p99_ms


def _line(trial: Trial) -> str:
    busy = sum(trial.cpu.values())
    return (
        f"{trial.cameras:4} cameras: {trial.fps:7.1f} of {trial.wanted_fps:.1f} fps, "
        f"p50 {trial.p50_ms:.0f} ms, p99 {trial.p99_ms:.0f} ms, CPU {busy:.0%}: "
        f"{'yes' if trial.meets else 'no'}"
    )


def _kind_of(recording: Path) -> CameraKind:
    """What a camera is that sends `recording`. Raises SetupError where none could."""
    if not recording.is_file():
        raise SetupError(f"--source {recording}: no such file")
    try:
        clip = Clip.open(recording)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error).removeprefix(f"{recording}: ")
        raise SetupError(f"--source {recording}: {what}") from None
    return CameraKind(recording.name, clip.width, clip.height, clip.fps)


def _clip(options: CapacityOptions, folder: Path, console: Console) -> Path:
    if options.source is not None:
        return Path(options.source)
    console.print(f"Drawing {_CLIP_S:.0f} s of {options.kind.name} ...", highlight=False)
    scene = Scene(1, options.kind.width, options.kind.height, fps=options.kind.fps)
    return write_clip(folder / "camera.mp4", scene, _CLIP_S).path


def _report(options: CapacityOptions, answer: str, trials: list[Trial]) -> None:
    best = max((t for t in trials if t.meets), key=lambda t: t.cameras, default=trials[0])
    if options.as_json:
        machine = {"cores": available_cores()}
        found = {"answer": answer, "cameras": best.cameras if best.meets else 0}
        print(json.dumps(found | {"machine": machine, "trials": [t.as_dict() for t in trials]}))
        return
    print(f"\nwhere the time goes with {best.cameras} of them, in % of {available_cores()} cores:")
    for stage, share in sorted(best.cpu.items(), key=lambda item: -item[1]):
        print(f"  {stage:18} {100 * share:5.1f}")
    print(f"\n{answer}")


def _check_plot(path: Path) -> None:
    """Before minutes of measuring, not after."""
    if find_spec("matplotlib") is None:
        raise SetupError("--plot: needs matplotlib: pip install matplotlib")
    from matplotlib.figure import Figure  # noqa: PLC0415  # not part of the base install

    if path.is_dir():
        raise SetupError(f"--plot {path}: is a folder")
    if path.suffix[1:].lower() not in Figure().canvas.get_supported_filetypes():
        raise SetupError(f"--plot {path}: no kind of picture; such are .png, .svg, .pdf")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise SetupError(f"--plot {path}: no such folder")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise SetupError(f"--plot {path}: user {os.getuid()} cannot write it")


def _draw(path: Path, trials: list[Trial], title: str) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415  # not part of the base install

    figure = Figure(figsize=(9, 6))
    ages, cpu = figure.subplots(2, sharex=True)
    counts = [trial.cameras for trial in trials]
    ages.plot(counts, [trial.p99_ms for trial in trials], "o-", label="p99")
    ages.plot(counts, [trial.p50_ms for trial in trials], "o-", label="p50")
    ages.axhline(trials[0].target_ms, color="grey", linestyle="--", label="target")
    ages.set_ylabel("capture to Redis, ms")
    ages.set_yscale("log")
    ages.legend()
    ages.set_title(title, fontsize=10)
    stages = sorted(trials[-1].cpu, key=lambda stage: -trials[-1].cpu[stage])
    shares = [[100 * trial.cpu[stage] for trial in trials] for stage in stages]
    cpu.stackplot(counts, shares, labels=stages)
    cpu.set_ylabel("% of all cores")
    cpu.set_xlabel("cameras")
    cpu.legend(fontsize=7, loc="upper left")
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise StreamdError(f"--plot {path}: cannot be written: {error.strerror}") from None

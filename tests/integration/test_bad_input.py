"""Bad input: one clear line that names the file, key or URL, and the right exit code."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from streamd.demo.clips import Clip
from streamd.testing.daemon_run import PATIENCE_S
from streamd.testing.redis_server import RedisServer
from streamd.testing.rtsp_server import RtspServer

from .harness import DaemonFactory


def streamd(*arguments: str, within_s: float = PATIENCE_S) -> tuple[int, str, list[str]]:
    """Exit code, standard output, and the lines of standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "streamd", *arguments],
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_check_gives_a_line_for_every_fault(tmp_path: Path, clip: Clip) -> None:
    notes = tmp_path / "notes.mp4"
    notes.write_text("no video at all\n")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.path.read_bytes()[:10_000])
    path = written(
        tmp_path,
        f"""\
model: {{path: {tmp_path}/none.onnx}}
cameras:
  - {{id: a, url: {tmp_path}/missing.mp4}}
  - {{id: b, url: {notes}}}
  - {{id: c, url: {cut}}}
  - {{id: d, url: {clip.path}}}
""",
    )
    code, _, errors = streamd("check", str(path))
    assert code == 2
    assert errors == [
        f"{path}:1: model.path: {tmp_path}/none.onnx: no such file",
        f"{path}:3: cameras[0].url: no such file: {tmp_path}/missing.mp4",
        f"{path}:4: cameras[1].url: invalid_data: Invalid data found when processing input",
        f"{path}:5: cameras[2].url: invalid_data: Invalid data found when processing input",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "cameras:\n  - {id: a, urll: x}\n",
            "2: cameras[0].urll: unknown key, did you mean 'url'?",
        ),
        ("model: {batch_size: many}\ncameras: [{id: a, url: x}]\n", "1: model.batch_size: "),
        (
            "cameras:\n  - {id: a, url: x}\n  - {id: a, url: y}\n",
            "3: cameras[1].id: 'a' is already the id of the camera in line 2",
        ),
        ("redis: {url: 'http://x'}\ncameras: [{id: a, url: x}]\n", "1: redis.url: "),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_wrong_configuration_ends_with_2(
    tmp_path: Path, command: str, text: str, line: str
) -> None:
    path = written(tmp_path, text)
    code, _, errors = streamd(command, str(path))
    assert code == 2
    assert any(error.startswith(f"{path}:{line}") for error in errors), errors


def test_a_label_that_the_model_lacks(tmp_path: Path, clip: Clip) -> None:
    path = written(tmp_path, f"cameras:\n  - {{id: a, url: {clip.path}, classes: [zebra]}}\n")
    code, _, errors = streamd("check", str(path))
    assert code == 2
    (error,) = errors
    assert error.startswith(f"{path}:2: cameras[0].classes: 'zebra' is no label of ")


def test_a_model_that_is_no_detector(tmp_path: Path, clip: Clip) -> None:
    taken = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    given = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, 64, 64])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["images"], ["out"])], "g", [taken], [given]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(model, {"task": "classify", "names": "{0: 'cat'}"})
    onnx.save(model, str(tmp_path / "cls.onnx"))
    path = written(
        tmp_path,
        f"model: {{path: {tmp_path}/cls.onnx}}\ncameras: [{{id: a, url: {clip.path}}}]\n",
    )
    code, _, errors = streamd("run", str(path))
    assert code == 2
    assert errors == [
        f"{path}:1: model.path: {tmp_path}/cls.onnx: is a classify model, "
        "streamd runs detection models"
    ]


def test_a_redis_that_refuses_the_password(tmp_path: Path, clip: Clip) -> None:
    with RedisServer(password="right") as server:
        url = server.url.replace("right", "wrong")
        path = written(
            tmp_path,
            f"redis: {{url: '{url}'}}\nhttp: {{port: 0}}\ncameras: [{{id: a, url: {clip.path}}}]\n",
        )
        code, _, errors = streamd("run", str(path))
    assert code == 2
    (error,) = errors
    assert error.startswith(f"redis.url: redis://***@127.0.0.1:{server.port}/0: refused: ")
    assert "wrong" not in error


def test_a_port_in_use(daemon: DaemonFactory, tmp_path: Path, clip: Clip) -> None:
    first = daemon(f"cameras: [{{id: a, url: {clip.path}, loop: true, paced: true}}]")
    port = first.http.rpartition(":")[2]
    path = written(tmp_path, f"http: {{port: {port}}}\ncameras: [{{id: a, url: {clip.path}}}]\n")
    code, _, errors = streamd("run", str(path))
    assert code == 2
    assert errors == [f"http: 127.0.0.1:{port}: cannot listen: Address already in use"]


def test_a_recording_that_breaks_off_is_told_and_not_begun_again(
    daemon: DaemonFactory, clip: Clip, tmp_path: Path
) -> None:
    import av  # noqa: PLC0415  # only this test writes a container by itself

    cut = tmp_path / "cut.ts"
    with av.open(str(clip.path)) as source, av.open(str(cut), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    running = daemon(f"publish: all\ncameras: [{{id: a, url: {cut}}}]", "--until-done")
    running.wait()
    seqs = [event.seq for event in running.events()]
    assert 0 < len(seqs) < len(clip.truth)
    assert len(set(seqs)) == len(seqs)


def test_until_done_without_files_and_with_a_missing_one(
    tmp_path: Path, rtsp_server: RtspServer
) -> None:
    path = written(tmp_path, "cameras: [{id: a, url: 'rtsp://127.0.0.1:1/x'}]\n")
    code, _, errors = streamd("run", str(path), "--until-done")
    assert (code, errors) == (2, [f"{path}:1: cameras: --until-done needs a camera that is a file"])
    path = written(tmp_path, f"cameras: [{{id: a, url: {tmp_path}/none.mp4}}]\n")
    code, _, errors = streamd("run", str(path), "--until-done")
    assert (code, errors) == (
        2,
        [f"{path}:1: cameras[0].url: no such file: {tmp_path}/none.mp4"],
    )


def test_a_log_file_that_cannot_be_written(tmp_path: Path, clip: Clip) -> None:
    (tmp_path / "logs").write_text("no folder")
    file = f"{tmp_path}/logs/streamd.jsonl"
    path = written(tmp_path, f"log:\n  file: {file}\ncameras: [{{id: a, url: {clip.path}}}]\n")
    code, _, errors = streamd("run", str(path))
    assert code == 2
    what = f"{file}: user {os.getuid()} cannot write it: File exists"
    assert errors == [f"{path}:2: log.file: {what} (null keeps the log on stderr alone)"]


def test_usage_errors_end_with_2_and_probe_failures_with_1(rtsp_server: RtspServer) -> None:
    assert streamd("dance")[0] == 2
    assert streamd("run")[0] == 2
    code, _, errors = streamd("probe", f"rtsp://user:secret@127.0.0.1:{rtsp_server.port}/none")
    assert code == 1
    (error,) = errors
    assert error.startswith(f"rtsp://***@127.0.0.1:{rtsp_server.port}/none: not_found")


def test_an_operation_that_nobody_knows_is_named(tmp_path: Path) -> None:
    model = onnx.load(Path(__file__).parents[2] / "engines" / "shapes.onnx")
    model.graph.node[-1].op_type = "Unheard"
    onnx.save(model, str(tmp_path / "odd.onnx"))
    code, _, errors = streamd(
        "build", str(tmp_path / "odd.onnx"), "--backend", "openvino", "--output", str(tmp_path)
    )
    assert (code, errors[-1]) == (
        1,
        f"{tmp_path}/odd.onnx: OpenVINO cannot build it: "
        "No conversion rule found for operations: Unheard-18",
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_line(unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "streamd", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "output: cannot be written: No space left on device\n",
    )


def test_the_exit_code_tells_what_nobody_reads(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "streamd", "check", str(tmp_path / "none.yaml")],
            stderr=full,
            timeout=PATIENCE_S,
            check=False,
        )
    assert done.returncode == 2

"""Neither OpenVINO nor ONNX Runtime tells anybody that it was imported."""

import os
import subprocess
import sys
from pathlib import Path

_SCRIPT = """
from streamd.engines.openvino_engine import OpenVinoBackend
import openvino.tools.ovc.telemetry_utils as used
OpenVinoBackend().platform()
print(used.tm.__name__)
"""


def test_no_message_is_sent_and_no_id_is_kept(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    # OpenVINO's own replacement, which does nothing.
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
    assert not list(tmp_path.iterdir())


def test_onnx_runtime_keeps_no_id_either(tmp_path: Path) -> None:
    """It is loaded by the command; the id would go with its messages to Microsoft."""
    subprocess.run(
        [sys.executable, "-m", "streamd", "engines", "--cache", str(tmp_path / "engines")],
        env=os.environ | {"HOME": str(tmp_path)} | {"CI": "", "GITHUB_ACTIONS": ""},
        capture_output=True,
        check=True,
    )
    assert not list(tmp_path.iterdir())

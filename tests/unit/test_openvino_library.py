"""OpenVINO tells nobody that it was imported."""

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

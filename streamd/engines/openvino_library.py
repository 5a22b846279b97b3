"""OpenVINO, without the message that its import sends to Google Analytics.

It does so through the package openvino_telemetry, and goes on where that cannot be imported.
Nothing leaves a machine with cameras that its owner has not configured.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # "cannot be imported"

import openvino as ov  # noqa: E402  # after the line above
from openvino import opset13, properties  # noqa: E402

__all__ = ["opset13", "ov", "properties"]

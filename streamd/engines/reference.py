"""The model as its file has it, in float32: what every engine is compared with.

Nothing here is shared with the engines' graphs: preprocessing and the choice of the best boxes are
done in NumPy, on the model's own input and output.
"""

import numpy as np
from numpy.typing import NDArray

from streamd.engines.contract import ModelInfo, candidates_of
from streamd.engines.onnx_model import Head, head_of, read_model
from streamd.engines.openvino_library import ov, properties
from streamd.errors import EngineError
from streamd.slots import InputShape


class Reference:
    """Runs the ONNX file of `model` at one input shape, one image at a time."""

    def __init__(self, model: ModelInfo, shape: InputShape) -> None:
        proto = read_model(model.path)
        self._head = head_of(proto, model.path)
        self._batch = model.ladder[0] if model.ladder else 1
        self._most = candidates_of(shape)
        self._size = np.array([shape.width, shape.height] * 2, np.float32)
        core = ov.Core()
        settings = {properties.hint.inference_precision(): ov.Type.f32}
        try:
            # Kept: letting go of a Model crashed OpenVINO.
            self._network = core.read_model(proto.SerializeToString(), b"")
            self._network.reshape([self._batch, 3, shape.height, shape.width])
            self._compiled = core.compile_model(self._network, "CPU", settings)
        except RuntimeError as error:
            line = str(error).strip().splitlines()[-1]
            raise EngineError(f"{model.path}: OpenVINO cannot run it: {line}") from None
        self._dtype = np.dtype(self._compiled.input(0).element_type.to_dtype())

    def infer(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(K, 6) of x1, y1, x2, y2, score, class, best first, of a (height, width, 3) RGB image."""
        nchw = image.transpose(2, 0, 1)[None].repeat(self._batch, axis=0).astype(np.float32) / 255
        output = np.asarray(self._compiled(nchw.astype(self._dtype))[0][0], np.float32)
        if self._head is Head.END_TO_END:
            return output
        if self._head is Head.SELECTED:
            return np.hstack([self._corners(output[:, :4] * self._size), output[:, 4:]])
        return self._best(output.T if self._head is Head.RAW else output)

    def _best(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        scores, labels = rows[:, 4:].max(axis=1), rows[:, 4:].argmax(axis=1)
        order = np.argsort(-scores, kind="stable")[: self._most]
        boxes = rows[order, :4] * (self._size if self._head is Head.QUERIES else 1)
        return np.hstack([self._corners(boxes), scores[order, None], labels[order, None]])

    @staticmethod
    def _corners(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 4) of cx, cy, w, h -> x1, y1, x2, y2."""
        centre, reach = boxes[:, :2], boxes[:, 2:] / 2
        return np.hstack([centre - reach, centre + reach]).astype(np.float32)

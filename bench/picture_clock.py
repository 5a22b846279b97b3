"""A number that is painted into a picture, and survives its coding: cells of black and white.

Also imported by bench/peer_ultralytics.py, in whose environment there is no streamd.
"""

import numpy as np
from numpy.typing import NDArray

_BITS = 12
LARGEST = 2**_BITS - 1
_CELL_HEIGHT = 16


def paint(image: NDArray[np.uint8], number: int) -> None:
    """Paints `number` into the top of a (height, width, 3) uint8 picture."""
    for bit, cells in enumerate(_cells(image)):
        cells[...] = 255 if number >> bit & 1 else 0


def read(image: NDArray[np.uint8]) -> int:
    """The number that was painted into a (height, width, 3) uint8 picture."""
    lit = [cells[4:-4, 4:-4].mean() > 127 for cells in _cells(image)]
    return sum(1 << bit for bit, is_lit in enumerate(lit) if is_lit)


def _cells(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    width = image.shape[1] // _BITS
    return [image[:_CELL_HEIGHT, bit * width : (bit + 1) * width] for bit in range(_BITS)]

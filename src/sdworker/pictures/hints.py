"""What a ControlNet is shown, made of a picture without a model."""

import threading
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Preprocessor", "prepare_hint"]

Preprocessor = Literal["none", "canny", "invert", "threshold"]

_FIRST_USE = threading.Lock()


def prepare_hint(
    pixels: NDArray[np.uint8], preprocessor: Preprocessor, thresholds: tuple[int, int]
) -> NDArray[np.uint8]:
    """The hint, [height, width, 3], of a picture of that shape. Takes milliseconds, in any thread.

    Args:
        thresholds: low and high, of Canny's slopes; of `threshold` the low one alone, of the darkest colour.
    """
    low, high = thresholds
    match preprocessor:
        case "canny":
            return _grey(_canny(pixels, low, high))
        case "invert":
            return 255 - pixels
        case "threshold":
            return _grey(np.where(pixels.min(axis=2) > low, 255, 0).astype(np.uint8))
    return pixels


def _canny(pixels: NDArray[np.uint8], low: int, high: int) -> NDArray[np.uint8]:
    """White edges on black, [height, width]; as diffusers' and the web UI's are made, by OpenCV.

    Source: J. Canny, "A computational approach to edge detection", 1986.
    """
    with _FIRST_USE:
        import cv2  # here: it takes a fifth of a second, and few jobs need it

        cv2.setNumThreads(1)
    edges: NDArray[np.uint8] = cv2.Canny(np.ascontiguousarray(pixels), low, high).astype(np.uint8, copy=False)
    return edges


def _grey(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(levels[:, :, None], 3, axis=2)

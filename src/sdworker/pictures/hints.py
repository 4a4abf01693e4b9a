"""What a ControlNet is shown, made of a picture without a model."""

import threading
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Preprocessor", "prepare_hint"]

Preprocessor = Literal["none", "canny", "sobel", "invert", "threshold"]

_FIRST_USE = threading.Lock()


def prepare_hint(
    pixels: NDArray[np.uint8], preprocessor: Preprocessor, thresholds: tuple[int, int]
) -> NDArray[np.uint8]:
    """The hint, [height, width, 3], of a picture of that shape. Takes milliseconds, in any thread.

    Args:
        thresholds: low and high, of Canny's slopes; of `sobel` the low one alone, likewise; of `threshold` too, of
            the darkest colour.
    """
    low, high = thresholds
    match preprocessor:
        case "canny":
            return _grey(_canny(pixels, low, high))
        case "sobel":
            return _grey(_sobel(pixels, low))
        case "invert":
            return 255 - pixels
        case "threshold":
            return _grey(np.where(pixels.min(axis=2) > low, 255, 0).astype(np.uint8))
    return pixels


def _canny(pixels: NDArray[np.uint8], low: int, high: int) -> NDArray[np.uint8]:
    """White edges on black, [height, width]; as diffusers' and the web UI's are made, by OpenCV.

    Source: J. Canny, "A computational approach to edge detection", 1986.
    """
    edges: NDArray[np.uint8] = (
        _opencv().Canny(np.ascontiguousarray(pixels), low, high).astype(np.uint8, copy=False)
    )
    return edges


def _sobel(pixels: NDArray[np.uint8], low: int) -> NDArray[np.uint8]:
    """White edges some pixels wide on black, [height, width]: where the brightest colour's slope is steeper than
    `low` levels from one pixel to the next. What the embedded `edges` was trained on."""
    cv2 = _opencv()
    smooth = cv2.blur(pixels.astype(np.float32), (3, 3), borderType=cv2.BORDER_REPLICATE)
    across, down = (
        cv2.Sobel(smooth, cv2.CV_32F, dx, 1 - dx, ksize=3, scale=1 / 4, borderType=cv2.BORDER_REPLICATE)
        for dx in (1, 0)
    )
    steepest = np.hypot(across, down).max(axis=2)
    return np.where(steepest > low, 255, 0).astype(np.uint8)


def _opencv() -> Any:
    with _FIRST_USE:
        import cv2  # here: it takes a fifth of a second, and few jobs need it

        cv2.setNumThreads(1)
    return cv2


def _grey(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(levels[:, :, None], 3, axis=2)

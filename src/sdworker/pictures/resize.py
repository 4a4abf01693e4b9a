"""A picture as the engine takes it: pixels of the size that is drawn."""

import numpy as np
from PIL import Image

from sdworker.settings import Resize

__all__ = ["to_pixels"]


def to_pixels(
    picture: Image.Image,
    width: int,
    height: int,
    resize: Resize = "stretch",
    *,
    like: tuple[int, int] | None = None,
) -> np.ndarray:
    """uint8 [height, width, 3] of an "RGB" picture, [height, width] of an "L" one.

    `stretch` (and `keep`, whose size is the picture's own) resizes as diffusers' `VaeImageProcessor` does it:
    Lanczos, without regard to the picture's shape. `crop` and `fill` keep the shape: the one cuts off what is
    too much, the same on both sides, the other repeats the edge's colours where something is missing.

    Args:
        like: of a mask, the size of the picture it is for: what is cut off or added is what would be there,
            whatever the mask's own size.
    """
    shape = like or picture.size
    match resize:
        case "crop":
            return np.array(
                picture.resize((width, height), _BEST, box=_middle(picture.size, shape, width, height))
            )
        case "fill":
            return _filled(picture, shape, width, height)
    return np.array(picture.resize((width, height), _BEST))


_BEST = Image.Resampling.LANCZOS


def _middle(
    size: tuple[int, int], shape: tuple[int, int], width: int, height: int
) -> tuple[float, float, float, float]:
    """The box of a picture of `size` that remains when one of `shape` is cropped to `width` x `height`."""
    scale = max(width / shape[0], height / shape[1])
    kept_x = size[0] * min(width / (shape[0] * scale), 1.0)
    kept_y = size[1] * min(height / (shape[1] * scale), 1.0)
    left, top = (size[0] - kept_x) / 2, (size[1] - kept_y) / 2
    return left, top, left + kept_x, top + kept_y


def _filled(picture: Image.Image, shape: tuple[int, int], width: int, height: int) -> np.ndarray:
    scale = min(width / shape[0], height / shape[1])
    inner_width = min(max(round(shape[0] * scale), 1), width)
    inner_height = min(max(round(shape[1] * scale), 1), height)
    inner = np.array(picture.resize((inner_width, inner_height), _BEST))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    around = [(top, height - inner_height - top), (left, width - inner_width - left)]
    return np.pad(inner, around + [(0, 0)] * (inner.ndim - 2), mode="edge")

"""A picture as the engine takes it: pixels of the size that is drawn."""

import numpy as np
from PIL import Image

__all__ = ["to_pixels"]


def to_pixels(picture: Image.Image, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3] of an "RGB" picture, [height, width] of an "L" one.

    Resized as diffusers' `VaeImageProcessor` does it: Lanczos, without regard to the picture's shape.
    """
    return np.array(picture.resize((width, height), Image.Resampling.LANCZOS))

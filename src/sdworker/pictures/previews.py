"""Previews as small JPEGs."""

import base64
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["MOST_CHARACTERS", "encode_preview"]

MOST_CHARACTERS = 24_000
"""Of a preview in base64."""

_LONGEST_SIDE, _LARGEST_SCALE = 256, 8


def encode_preview(pixels: NDArray[np.uint8]) -> str:
    """A JPEG in base64 of pixels [height, width, 3], enlarged smoothly to at most 256 pixels a side."""
    height, width = pixels.shape[:2]
    scale = min(_LONGEST_SIDE / max(height, width), _LARGEST_SCALE)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    for quality in (80, 60, 40, 20):
        file = BytesIO()
        picture.save(file, "JPEG", quality=quality)
        text = base64.b64encode(file.getvalue()).decode("ascii")
        if len(text) <= MOST_CHARACTERS:
            break
    return text

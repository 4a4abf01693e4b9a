"""Styles as code: what a LoRA is to make of every emoji. uint8 RGB `[n, h, w, 3]` in and out."""

import numpy as np
from PIL import Image, ImageFilter

BLOCK = 8
"""Side of a pixel of the style `pixels`, in pixels of the picture."""


def pencil(rgb: np.ndarray) -> np.ndarray:
    """A grey drawing: outlines by dodging the picture with its own blurred negative, lightly shaded."""
    drawn = []
    for one in rgb:
        grey = Image.fromarray(one).convert("L")
        tones = np.asarray(grey, np.float64)
        negative = np.asarray(
            Image.fromarray(255 - np.asarray(grey)).filter(ImageFilter.GaussianBlur(4)), np.float64
        )
        lines = np.minimum(255, tones * 255 / np.maximum(255 - negative, 1))
        shade = 110 + tones * 145 / 255
        drawn.append(np.minimum(lines, shade * 0.5 + lines * 0.5))
    grey_levels = np.stack(drawn).round().astype(np.uint8)
    return np.repeat(grey_levels[..., None], 3, axis=3)


def pixels(rgb: np.ndarray) -> np.ndarray:
    """Blocks of 8 x 8 pixels, each of its mean colour."""
    height, width = rgb.shape[1:3]
    blocks = rgb.reshape(-1, height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3).mean((2, 4)).round()
    return blocks.astype(np.uint8).repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)


def saturation(rgb: np.ndarray) -> float:
    """Mean over all pixels of HSV's saturation, 0 to 1."""
    high, low = rgb.max(3).astype(np.float64), rgb.min(3)
    return float(((high - low) / np.maximum(high, 1)).mean())


def variance_in_blocks(rgb: np.ndarray) -> float:
    """Mean over all blocks of the variance of their pixels, colour by colour, in squared levels."""
    height, width = rgb.shape[1:3]
    blocks = rgb.reshape(-1, height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3).astype(np.float64)
    return float(blocks.var(axis=(2, 4)).mean())

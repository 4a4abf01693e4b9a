"""The formats of images out: what jobs may ask for, and what files of each are called. Imports nothing heavy."""

from typing import Literal

__all__ = ["EXTENSIONS", "ImageFormat"]

ImageFormat = Literal["png", "jpeg", "webp"]

EXTENSIONS: dict[ImageFormat, str] = {"png": "png", "jpeg": "jpg", "webp": "webp"}

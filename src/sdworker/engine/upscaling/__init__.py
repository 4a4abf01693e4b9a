"""Networks that enlarge pictures: read safely, and run tile by tile between steps.

reading     a file, as spandrel reads it, of whatever architecture
upscaler    pictures through it, in tiles of bounded time and memory
shelf       those that were used last are kept
"""

from sdworker.engine.upscaling.reading import UpscalerError
from sdworker.engine.upscaling.shelf import Shelf
from sdworker.engine.upscaling.upscaler import Upscaler

__all__ = ["Shelf", "Upscaler", "UpscalerError"]

"""Networks that enlarge pictures: read safely, and run tile by tile between steps.

reading     a file, as spandrel reads it, of whatever architecture
upscaler    pictures through it, in tiles of bounded time and memory
"""

from sdworker.engine.upscaling.reading import UpscalerError
from sdworker.engine.upscaling.upscaler import Upscaler

__all__ = ["Upscaler", "UpscalerError"]

"""A job's preview in the terminal: two pixels a character, upper half blocks in 24-bit colour."""

import base64
import io
import shutil
import sys
from typing import TextIO

from PIL import Image

__all__ = ["Watch"]

_WIDEST = 64
_UPPER_HALF = "▀"
_ERASE_LINE = "\x1b[K"


class Watch:
    """Shows pictures in one place of a terminal, each over the one before, with a line of text under it.

    A stream that is no terminal gets the lines of text alone, each once.
    """

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._picture = ""
        self._shown: str | None = None
        self._lines = 0

    def show(self, text: str, preview: object = None) -> None:
        """Show a line, and a preview (base64 of a picture) where there is a new one; what is none is left out."""
        if not self._stream.isatty():
            if text != self._shown:
                print(text, file=self._stream, flush=True)
            self._shown = text
            return
        if isinstance(preview, str):
            self._picture = _drawn(preview) or self._picture
        frame = f"{self._picture}{text}{_ERASE_LINE}\n"
        back = f"\x1b[{self._lines}A" if self._lines else ""
        self._stream.write(f"{back}\r{frame}\x1b[J")
        self._stream.flush()
        self._lines = frame.count("\n")


def _drawn(preview: str) -> str:
    """A picture as lines of coloured blocks; empty for what is none."""
    try:
        image = Image.open(io.BytesIO(base64.b64decode(preview))).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    columns, rows = shutil.get_terminal_size()
    scale = min(1, min(_WIDEST, columns) / image.width, 2 * max(1, rows - 3) / image.height)
    width, height = max(1, round(image.width * scale)), max(2, round(image.height * scale) // 2 * 2)
    pixels = image.resize((width, height)).tobytes()

    def colour(x: int, y: int) -> str:
        at = 3 * (y * width + x)
        return ";".join(str(value) for value in pixels[at : at + 3])

    lines = (
        "".join(f"\x1b[38;2;{colour(x, y)};48;2;{colour(x, y + 1)}m{_UPPER_HALF}" for x in range(width))
        for y in range(0, height, 2)
    )
    return "".join(f"{line}\x1b[0m{_ERASE_LINE}\n" for line in lines)

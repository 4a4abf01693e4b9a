"""A drawing on its way, in the terminal where that shows pictures, else in a file."""

import argparse
import base64
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

__all__ = ["PreviewScreen", "Watcher", "add_previews_option", "escape_for"]

_CHUNK = 4096  # of base64, which is what kitty takes at once


def add_previews_option(parser: argparse.ArgumentParser) -> None:
    """Declare `--previews`, which is `--watch` too."""
    parser.add_argument(
        "--previews",
        "--watch",
        action="store_true",
        help="show the picture on its way: in the terminal where it shows pictures (kitty, iTerm), else in "
        "preview.jpg in --out",
    )


class PreviewScreen:
    """Shows previews, one after another."""

    def __init__(self, out: Path) -> None:
        """
        Args:
            out: the folder in which `preview.jpg` is kept up to date where the terminal shows no pictures.
        """
        self._file = out / "preview.jpg"
        self._escape = escape_for(os.environ) if sys.stderr.isatty() else None
        self._shown = ""

    def show(self, preview: str) -> None:
        """A JPEG in base64; the same one again is nothing new."""
        if preview == self._shown:
            return
        if self._escape is not None:
            sys.stderr.write("\n" + (_kitty if self._escape == "kitty" else _iterm)(preview) + "\n")
            sys.stderr.flush()
        else:
            if not self._shown:
                print(f"previews: {self._file}", file=sys.stderr, flush=True)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_bytes(base64.b64decode(preview))
        self._shown = preview


class Watcher:
    """Wants to see the drawings of a worker in this process, on a screen (`sdworker.engine.previews.Previews`)."""

    def __init__(self, screen: PreviewScreen, *, every_s: float) -> None:
        self._screen = screen
        self._every_s = every_s
        self._next = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="previews")

    def wanted(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() >= self._next

    def show(self, preview: Any, _evaluation: int, _evaluations: int) -> None:
        """One that was wanted; encoded and shown in another thread."""
        self._next = time.monotonic() + self._every_s
        self._thread.submit(self._show, preview)

    def end(self) -> None:
        """Wait for what is being shown."""
        self._thread.shutdown()

    def _show(self, preview: Any) -> None:
        from sdworker.pictures.previews import encode_preview

        self._screen.show(encode_preview(preview.pixels()))


def escape_for(environment: Mapping[str, str]) -> str | None:
    """How this terminal takes pictures: `kitty`, `iterm`, or not at all."""
    program, term = environment.get("TERM_PROGRAM", ""), environment.get("TERM", "")
    if "KITTY_WINDOW_ID" in environment or "kitty" in term or program == "ghostty":
        return "kitty"
    return "iterm" if program in ("iTerm.app", "WezTerm") else None


def _kitty(preview: str) -> str:
    """Source: https://sw.kovidgoyal.net/kitty/graphics-protocol/ (it takes PNG, not JPEG)."""
    from PIL import Image

    file = BytesIO()
    Image.open(BytesIO(base64.b64decode(preview))).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    parts = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    told = ["a=T,f=100,"] + [""] * (len(parts) - 1)
    return "".join(
        f"\x1b_G{first}m={int(number < len(parts) - 1)};{part}\x1b\\"
        for number, (first, part) in enumerate(zip(told, parts, strict=True))
    )


def _iterm(preview: str) -> str:
    """Source: https://iterm2.com/documentation-images.html."""
    return f"\x1b]1337;File=inline=1:{preview}\a"

"""Image files and base64 as the worker makes them, against Pillow's and the standard library's defaults.

Both in this process, in turn, several rounds; the ratio of each round is what counts, because a noisy machine
slows both. JPEG and WebP are Pillow's own work in either case, at the same quality; ours keep full colour
resolution in JPEG, which costs time and bytes. Every PNG is read back and compared bit by bit.
"""

import base64
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pybase64 import b64encode_as_string

from bench.report import spread, table, write_json
from sdworker.image_formats import ImageFormat
from sdworker.pictures import encode_image

__all__ = ["run"]

_SIZES = (512, 768, 1024)
_FORMATS: tuple[ImageFormat, ...] = ("png", "jpeg", "webp")
_QUALITY = 95
_CALLS = 3  # per round, of which the quickest counts


def run(_model: Path, rounds: int) -> None:
    """Measure and report."""
    figures: dict[str, Any] = {}
    rows = []
    for size in _SIZES:
        for content, pixels in (("photo-like", _photo_like(size)), ("drawing", _drawing(size))):
            png = encode_image(pixels, format="png", quality=_QUALITY, parameters="")
            _check_lossless(png, pixels)
            for format in _FORMATS:
                measured = _compare(
                    lambda p=pixels, f=format: encode_image(p, format=f, quality=_QUALITY, parameters=""),  # type: ignore[misc]
                    lambda p=pixels, f=format: _pillow(p, f),  # type: ignore[misc]
                    rounds,
                )
                figures[f"{format} {size} {content}"] = measured
                rows.append((f"{format} {size}² {content}", *_cells(measured)))
            measured = _compare(
                lambda data=png: b64encode_as_string(data),  # type: ignore[misc]
                lambda data=png: base64.b64encode(data).decode("ascii"),  # type: ignore[misc]
                rounds,
            )
            figures[f"base64 {size} {content}"] = measured
            rows.append((f"base64 of the {size}² {content} PNG", *_cells(measured)))
    table(
        f"encode: ours against the defaults of Pillow and base64, {rounds} rounds; every PNG lossless",
        ("what", "ours ms", "default ms", "time, ours / default", "ours KB", "default KB", "size ratio"),
        rows,
    )
    print(f"written to {write_json('encode', figures)}")


def _compare(
    ours: Callable[[], bytes | str], default: Callable[[], bytes | str], rounds: int
) -> dict[str, Any]:
    """Times of both, taken in turn, and the sizes of what they made."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, seconds in zip((ours, default), times, strict=True):
            seconds.append(min(_time(call) for _ in range(_CALLS)))
    return {
        "ours_s": spread(times[0]),
        "default_s": spread(times[1]),
        "ratio": spread([a / b for a, b in zip(*times, strict=True)]),
        "ours_bytes": len(ours()),
        "default_bytes": len(default()),
    }


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _cells(measured: dict[str, Any]) -> tuple[str, ...]:
    ratio = measured["ratio"]
    return (
        f"{measured['ours_s']['median'] * 1000:.2f}",
        f"{measured['default_s']['median'] * 1000:.2f}",
        f"{ratio['median']:.3f} ({ratio['min']:.3f} … {ratio['max']:.3f})",
        f"{measured['ours_bytes'] / 1000:.1f}",
        f"{measured['default_bytes'] / 1000:.1f}",
        f"{measured['ours_bytes'] / measured['default_bytes']:.3f}",
    )


def _pillow(pixels: NDArray[np.uint8], format: ImageFormat) -> bytes:
    options = {} if format == "png" else {"quality": _QUALITY}
    file = BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def _check_lossless(png: bytes, pixels: NDArray[np.uint8]) -> None:
    if not np.array_equal(np.asarray(Image.open(BytesIO(png))), pixels):
        raise AssertionError("the PNG does not hold the pixels that went in")


def _photo_like(size: int) -> NDArray[np.uint8]:
    """Detail at every scale, weaker the finer it is, under a little sensor noise: [size, size, 3]."""
    random = np.random.default_rng(0)
    picture = random.normal(0, 0.005, (size, size, 3))
    for octave in range(1, 8):
        coarse = random.integers(0, 256, (2**octave + 1, 2**octave + 1, 3), dtype=np.uint8)
        fine = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
        picture += np.asarray(fine) / 255 / 1.8**octave
    low, high = picture.min(), picture.max()
    return ((picture - low) / (high - low) * 255).round().astype(np.uint8)


def _drawing(size: int) -> NDArray[np.uint8]:
    """Flat colours and hard edges: [size, size, 3]."""
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)
    eighth = size // 8
    draw.ellipse((eighth, eighth, 7 * eighth, 7 * eighth), fill=(250, 200, 40))
    draw.rectangle((3 * eighth, 3 * eighth, 5 * eighth, 4 * eighth), fill=(20, 20, 200))
    draw.line((0, size, size, 0), fill=(200, 30, 30), width=eighth // 4)
    return np.asarray(picture)

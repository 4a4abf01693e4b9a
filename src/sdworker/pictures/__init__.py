"""Pictures in (URL, data URI, base64) and images out (PNG, JPEG, WebP).

`fetch_picture` gets the file behind what a job sent (`fetch`, `inline`), `decode_picture` and `decode_mask` make
pixels of it, in processes that a hostile file may break (`decoders`). `encode_image` is the way out.
"""

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdworker.decoder.errors import PictureError
from sdworker.decoder.resize import Resize
from sdworker.pictures.decoders import Decoders, Fit, Mode
from sdworker.pictures.encode import encode_image
from sdworker.pictures.fetch import download, is_url
from sdworker.pictures.inline import decode_inline
from sdworker.pictures.limits import PictureLimits

__all__ = [
    "PictureError",
    "PictureFile",
    "PictureLimits",
    "decode_hint",
    "decode_mask",
    "decode_picture",
    "encode_image",
    "fetch_picture",
]

_decoders = Decoders()  # the whole process's, so that all jobs together keep within what pictures may take


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture as it was sent.

    Attributes:
        field: the job's field it came from; error messages begin with it.
    """

    data: bytes
    field: str
    limits: PictureLimits


async def fetch_picture(source: str, *, field: str, limits: PictureLimits) -> PictureFile:
    """The file behind `source`: an http(s) URL, a `data:` URI, or bare base64.

    Raises:
        PictureError: it cannot be had, or is too large.
    """
    try:
        if is_url(source):
            data = await download(source, limits)
        else:
            data = await asyncio.to_thread(decode_inline, source, limits)
    except PictureError as error:
        raise PictureError(f"{field}: {error}") from error.__cause__
    return PictureFile(data, field, limits)


async def decode_picture(file: PictureFile, fit: Fit, resize: Resize = "stretch") -> NDArray[np.uint8]:
    """The picture's pixels [height, width, 3]: first frame, upright, RGB, transparent parts on white.

    Args:
        fit: from the picture's own width and height to those that are wanted. Called in another thread; what it
            raises comes out as it is.
        resize: how it gets that size (`decoder/resize.py`).

    Raises:
        PictureError: it is no picture, is broken, has or takes too much, or there are too many just now.
    """
    return await _decode(file, "RGB", fit, resize)


async def decode_hint(file: PictureFile, size: tuple[int, int], resize: Resize) -> NDArray[np.uint8]:
    """The pixels [height, width, 3] of what a ControlNet is shown, at that width and height; transparent parts are
    black: nothing is there.

    Errors as in `decode_picture`.
    """
    return await _decode(file, "HINT", lambda _: size, resize)


async def decode_mask(
    file: PictureFile,
    size: tuple[int, int],
    resize: Resize = "stretch",
    *,
    like: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """The mask's pixels [height, width] at that width and height: white is repainted, transparent parts are black.

    Args:
        like: the size of the picture it is for, which is resized the same way.

    Errors as in `decode_picture`.
    """
    return await _decode(file, "L", lambda _: size, resize, like)


async def _decode(
    file: PictureFile, mode: Mode, fit: Fit, resize: Resize, like: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    try:
        return await _decoders.decode(file.data, mode, file.limits.max_pixels, fit, resize=resize, like=like)
    except PictureError as error:
        raise PictureError(f"{file.field}: {error}") from error.__cause__

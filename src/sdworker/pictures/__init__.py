"""Pictures in (URL, data URI, base64) and images out (PNG, JPEG, WebP).

`load_picture` and `load_mask` turn what a job sent into a Pillow image of a known mode:
`fetch` or `inline` gets the bytes, `decode` makes pixels of them. `encode_image` is the way out.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from sdworker.pictures.decode import decode_mask, decode_picture
from sdworker.pictures.encode import ImageFormat, encode_image
from sdworker.pictures.fetch import download, is_url
from sdworker.pictures.inline import decode_inline
from sdworker.pictures.limits import PictureError, PictureLimits
from sdworker.pictures.resize import to_pixels

__all__ = [
    "ImageFormat",
    "PictureError",
    "PictureLimits",
    "encode_image",
    "load_mask",
    "load_picture",
    "to_pixels",
]

# Few, because a picture of MAX_IMAGE_MEGAPIXELS takes some 400 MB while it is decoded.
_decoders = ThreadPoolExecutor(4, thread_name_prefix="picture")


async def load_picture(source: str, *, field: str, limits: PictureLimits) -> Image.Image:
    """The picture behind `source`: upright, mode "RGB", transparent parts on white.

    Args:
        source: an http(s) URL, a `data:` URI, or bare base64.
        field: the job's field it came from; error messages begin with it.

    Raises:
        PictureError: it cannot be had, is too large, or is no picture.
    """
    return await _load(source, field, limits, decode_picture)


async def load_mask(source: str, *, field: str, limits: PictureLimits) -> Image.Image:
    """The mask behind `source`: upright, mode "L", white is repainted, transparent parts are black.

    Arguments and errors as in `load_picture`.
    """
    return await _load(source, field, limits, decode_mask)


async def _load(
    source: str, field: str, limits: PictureLimits, decode: Callable[[bytes, PictureLimits], Image.Image]
) -> Image.Image:
    in_thread = asyncio.get_running_loop().run_in_executor
    try:
        if is_url(source):
            data = await download(source, limits)
        else:
            data = await in_thread(_decoders, decode_inline, source, limits)
        return await in_thread(_decoders, decode, data, limits)
    except PictureError as error:
        raise PictureError(f"{field}: {error}") from error.__cause__

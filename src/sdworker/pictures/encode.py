"""Pixels to a picture file that says how it was made, as AUTOMATIC1111's web UI writes it.

PNG carries the text in a `parameters` chunk, JPEG and WebP in the EXIF field UserComment. Tools that
read generation data (the UI's "PNG Info", Civitai, ComfyUI's loaders) look there.
"""

import struct
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from sdworker.image_formats import ImageFormat
from sdworker.pictures.png import encode_png

__all__ = ["encode_image"]

# A JPEG segment holds 65533 bytes; this leaves room for the EXIF structure around the text.
_MAX_COMMENT_BYTES = 65000
_LONG, _UNDEFINED = 4, 7  # TIFF field types


def encode_image(pixels: NDArray[np.uint8], *, format: ImageFormat, quality: int, parameters: str) -> bytes:
    """`pixels` [height, width, 3] (RGB) as a file of `format`.

    PNG is lossless and ignores `quality` (1 to 100). From quality 90 on, JPEG keeps full colour
    resolution (4:4:4), because half of it shows at the edges of red.

    Args:
        parameters: the generation data; in JPEG and WebP what exceeds 32500 characters is cut off.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels must be uint8 [height, width, 3], not {pixels.dtype} {list(pixels.shape)}")
    # What cannot be encoded (half a surrogate pair) must not cost the image.
    text = parameters.encode("utf-8", "replace").decode("utf-8")
    options: dict[str, Any]
    match format:
        case "png":
            return encode_png(pixels, parameters=text)
        case "jpeg":
            options = {"exif": _exif(text), "quality": quality, "subsampling": 0 if quality >= 90 else 2}
        case "webp":
            options = {"exif": _exif(text), "quality": quality}
    file = BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def _exif(text: str) -> bytes:
    """An EXIF block whose one field is UserComment: a character code, then UTF-16 (EXIF 2.3, 4.6.5).

    Big-endian throughout and of type UNDEFINED, as piexif writes and reads it, which is what
    AUTOMATIC1111 uses. By hand, because Pillow writes the type BYTE, on which piexif fails.
    """
    comment = text.encode("utf-16-be")[:_MAX_COMMENT_BYTES].decode("utf-16-be", "ignore").encode("utf-16-be")
    comment = b"UNICODE\0" + comment
    head = struct.pack(">2sHI", b"MM", 42, 8)  # first directory at 8
    first = struct.pack(">HHHIII", 1, ExifTags.IFD.Exif, _LONG, 1, 26, 0)  # EXIF directory at 26
    exif = struct.pack(">HHHIII", 1, ExifTags.Base.UserComment, _UNDEFINED, len(comment), 44, 0)  # text at 44
    return b"Exif\0\0" + head + first + exif + comment

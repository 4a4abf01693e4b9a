"""Bytes of a picture file to pixels, whatever mode the file is in.

Only formats that Pillow decodes inside this process are tried: never EPS, PDF and others that hand
the file to a program. What the header says is judged before any pixel is decoded (`headers.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO

import numpy as np
from PIL import AvifImagePlugin, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from sdworker.decoder.errors import PictureError
from sdworker.decoder.headers import check_file, check_opened

__all__ = ["decode_hint", "decode_mask", "decode_picture"]

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Importing a plugin registers it. Image.open would load all of them, EPS too, to find one of these.
# The process has its few processors for other things, and each thread would have a stack of 8 MB.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
_PLUGINS = (AvifImagePlugin, TiffImagePlugin, WebPImagePlugin)
_BAND_ROWS = 256
_16_TO_8_BIT = (np.arange(65536) / 257).round().astype(np.uint8)
# What people send instead: name, and the bytes that it has at that place.
_NOT_TAKEN = (
    ("HEIC is", 4, (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")),
    ("PDF and PostScript are", 0, (b"%PDF", b"%!PS")),
    ("ICO is", 0, (b"\0\0\1\0",)),
    ("PSD is", 0, (b"8BPS",)),
    ("JPEG 2000 is", 0, (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    ("JPEG XL is", 0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    ("OpenEXR is", 0, (b"\x76\x2f\x31\x01",)),
    ("Radiance HDR is", 0, (b"#?RADIANCE", b"#?RGBE")),
    ("DDS is", 0, (b"DDS ",)),
    ("QOI is", 0, (b"qoif",)),
    ("XCF is", 0, (b"gimp xcf",)),
    ("PPM is", 0, (b"P1\n", b"P2\n", b"P3\n", b"P4\n", b"P5\n", b"P6\n")),
    ("video is", 4, (b"ftypisom", b"ftypmp4", b"ftypqt", b"ftypM4V", b"ftypavc1")),
    ("video is", 0, (b"\x1a\x45\xdf\xa3", b"OggS")),
    ("an archive is", 0, (b"PK\3\4", b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf")),
)
_WANTED = "send PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"


def decode_picture(
    data: bytes, max_pixels: int, on_header: Callable[[int], None] = lambda _: None
) -> Image.Image:
    """The picture in `data`: first frame, upright, mode "RGB", transparent parts on white.

    Args:
        on_header: told for how many pixels room will be made, before it is; what it raises comes out as it is.

    Raises:
        PictureError: no picture, a broken one, or more of anything than is taken.
    """
    return _flatten(_open(data, max_pixels, on_header), background="white")


def decode_hint(
    data: bytes, max_pixels: int, on_header: Callable[[int], None] = lambda _: None
) -> Image.Image:
    """The same with transparent parts black.

    Arguments and errors as in `decode_picture`.
    """
    return _flatten(_open(data, max_pixels, on_header), background="black")


def decode_mask(
    data: bytes, max_pixels: int, on_header: Callable[[int], None] = lambda _: None
) -> Image.Image:
    """The mask in `data`: first frame, upright, mode "L", transparent parts black.

    Arguments and errors as in `decode_picture`.
    """
    # By way of RGB, which every mode converts to; greys come through it unchanged.
    return _flatten(_open(data, max_pixels, on_header), background="black").convert("L")


def _open(data: bytes, max_pixels: int, on_header: Callable[[int], None]) -> Image.Image:
    """The first frame, upright, with 8 bits a channel."""
    if at_once := check_file(data, max_pixels):
        on_header(at_once)
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=_FORMATS)
        pixels = check_opened(image, max_pixels)
    except Exception as error:
        raise _explain(error, data) from error
    on_header(pixels)
    try:
        image.load()
        return _to_8_bit(_upright(image))
    except Exception as error:
        raise _explain(error, data) from error


def _explain(error: Exception, data: bytes) -> PictureError:
    """Decoders fail in every way there is (struct.error, KeyError, SyntaxError, ...) when a file is broken; all of
    them are the file's fault."""
    match error:
        case PictureError():
            return error
        case UnidentifiedImageError():
            return PictureError(_explain_unknown(data))
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return PictureError("the picture has far too many pixels (MAX_IMAGE_MEGAPIXELS)")
        case MemoryError():
            return PictureError("the picture takes more memory to decode than one of its size should")
        case _:
            return PictureError("the picture is damaged, cut short, or of a kind that cannot be read")


def _upright(image: Image.Image) -> Image.Image:
    """`image`, turned as its EXIF orientation says: in place, because it may be large."""
    # The pixels are good; a broken EXIF block is no reason to refuse them.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Modes wider than 8 bits scaled to "L" (or "LA"); Pillow's own conversion would clip them.

    "I;16" spans its 16 bits and "F" 0 to 1 (0 to 255 where a value is above 1). "I" does not say
    what its white is: 255, 65535 or 2**31 - 1, the least that holds its brightest pixel.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    scale = 1.0 if image.mode.startswith("I;16") else 255 / _white_of(image)
    transparent = image.info.get("transparency")
    grey = Image.new("LA" if isinstance(transparent, int) else "L", image.size)
    for top, band in _bands(image):
        values = np.asarray(band)  # [rows, width]
        if band.mode.startswith("I;16"):
            part = Image.fromarray(_16_TO_8_BIT[values])
        else:
            scaled = np.nan_to_num(values.astype(np.float32))
            scaled *= scale
            part = Image.fromarray(scaled.round(out=scaled).clip(0, 255, out=scaled).astype(np.uint8))
        if grey.mode == "LA":
            part.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        grey.paste(part, (0, top))
    return grey


def _white_of(image: Image.Image) -> float:
    brightest = max(
        float(np.nan_to_num(np.asarray(band).astype(np.float32)).max()) for _, band in _bands(image)
    )
    if image.mode == "F":
        return 1 if brightest <= 1 else 255
    return next((limit for limit in (255, 65535) if brightest <= limit), 2**31 - 1)


def _flatten(image: Image.Image, *, background: str) -> Image.Image:
    """`image` as "RGB", laid on `background` if any of it can be transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    flat = Image.new("RGB", image.size)
    for top, band in _bands(image):
        canvas = Image.new("RGBA", band.size, background)
        flat.paste(Image.alpha_composite(canvas, band.convert("RGBA")).convert("RGB"), (0, top))
    return flat


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The picture in bands from top to bottom, each with its first row, so that no step needs it several times."""
    for top in range(0, image.height, _BAND_ROWS):
        yield top, image.crop((0, top, image.width, min(top + _BAND_ROWS, image.height)))


def _explain_unknown(data: bytes) -> str:
    """Why `data` is no picture, as far as its first bytes tell. They are not repeated."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return f"this is a web page, not a picture; give the picture's own URL, or {_WANTED}"
    if start.startswith(b"<svg") or (
        start.startswith((b"<?xml", b"<!doctype svg", b"<!--")) and b"svg" in start
    ):
        return f"SVG is not taken; {_WANTED}"
    for name, at, signatures in _NOT_TAKEN:
        if data.startswith(signatures, at):
            return f"{name} not taken; {_WANTED}"
    return f"this is not a picture, or it is damaged or of a kind that is not taken; {_WANTED}"

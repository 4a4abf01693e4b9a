"""What a file says about itself, judged before anything of it is decoded.

`check_file` reads the bytes of the formats that can ask for much with little; `check_opened` reads what Pillow has
found in the header. Neither decodes a pixel, and both take time in proportion to the file's length, not to what it
claims.

Formats: PNG https://www.w3.org/TR/png-3/, JPEG ITU-T T.81 annex B, WebP RFC 9649, TIFF 6.0.
"""

import re
import struct
from collections.abc import Iterator

from PIL import Image, TiffImagePlugin

from sdworker.decoder.errors import PictureError, refuse_pixels

__all__ = ["MAX_PARTS", "MAX_SCANS", "MAX_SIDE", "check_file", "check_opened"]

# Longer than any camera's or panorama's; a side costs memory of its own (a pointer a row).
MAX_SIDE = 32_768
# Of a progressive JPEG. Encoders write 10 to 15; each goes through the whole picture again, so a large one may
# have fewer: 20 at 32 megapixels.
MAX_SCANS = 100
MAX_SCANNED_PIXELS = 640_000_000
# Chunks, segments, tiles, strips or frames. A photo has some thousands at most.
MAX_PARTS = 100_000
# What the tiles at the edges may reach beyond a picture.
_A_TILE = 2**20

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_START_OF_SCAN, _END_OF_IMAGE, _TEMPORARY = 0xDA, 0xD9, 0x01
_STANDALONE = {_TEMPORARY, *range(0xD0, 0xD9)}  # markers without a length: TEM, RST0 to 7, SOI
_STARTS_OF_FRAME = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the others are tables
# Where coded data end: a marker that is neither a stuffed byte, nor a restart, nor a fill byte.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def check_file(data: bytes, max_pixels: int) -> int:
    """Judge the file by its own bytes; returns for how many pixels room is made as soon as Pillow opens it.

    Raises:
        PictureError: it has too many pixels, too long a side, or too many parts.
    """
    if data.startswith(_PNG):
        _count(_png_chunks(data), "chunks")
    elif data.startswith(_JPEG):
        _check_jpeg(data, max_pixels)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _count(_riff_chunks(data), "frames and chunks")
        if size := _webp_canvas(data):
            check_size(*size, max_pixels)
            return size[0] * size[1]
    return 0


def check_opened(image: Image.Image, max_pixels: int) -> int:
    """Judge what Pillow has opened and not yet loaded; returns how many pixels will be decoded.

    Raises:
        PictureError: it has too many pixels, too long a side, or tiles out of all proportion.
    """
    check_size(image.width, image.height, max_pixels)
    pixels = image.width * image.height
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(pixels, _check_tiles(image, max_pixels))
    return pixels


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises PictureError where there are too many pixels, too long a side or an empty one."""
    if width * height > max_pixels:
        raise refuse_pixels(width, height, max_pixels)
    if max(width, height) > MAX_SIDE:
        raise PictureError(f"the picture has {width}x{height} pixels; a side may have at most {MAX_SIDE}")
    if min(width, height) < 1:
        raise PictureError(f"the picture has {width}x{height} pixels: there is nothing in it")


def _count(parts: Iterator[object], what: str) -> None:
    for number, _ in enumerate(parts, 1):
        if number > MAX_PARTS:
            raise PictureError(f"the picture's file has more than {MAX_PARTS} {what}; save it anew")


def _png_chunks(data: bytes) -> Iterator[int]:
    """Where each chunk begins."""
    at = len(_PNG)
    while at + 12 <= len(data):
        yield at
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _riff_chunks(data: bytes) -> Iterator[int]:
    """Where each chunk begins; each frame of an animation is one."""
    at = 12
    while at + 8 <= len(data):
        yield at
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height that are kept for the whole picture, as the first chunk says; None: it does not."""
    match data[12:16]:
        case b"VP8X" if len(data) >= 30:
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L" if len(data) >= 25:
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 " if len(data) >= 30:
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    return None


def _check_jpeg(data: bytes, max_pixels: int) -> None:
    scans = pixels = 0
    for number, (marker, segment) in enumerate(_jpeg_segments(data), 1):
        scans += marker == _START_OF_SCAN
        if marker in _STARTS_OF_FRAME and len(segment) >= 5:
            height, width = struct.unpack_from(">HH", segment, 1)
            check_size(width, height, max_pixels)
            pixels = max(pixels, width * height)
        if scans > min(MAX_SCANS, MAX_SCANNED_PIXELS // max(pixels, 1)):
            raise PictureError(
                f"the picture is a JPEG of {scans} scans or more; save it anew, not as a progressive one"
            )
        if number > MAX_PARTS:
            raise PictureError(f"the picture's file has more than {MAX_PARTS} segments; save it anew")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The markers of the first picture in the file, each with the beginning of its segment.

    A thumbnail inside a segment is passed over.
    """
    at = 2
    while found := _NEXT_MARKER.search(data, at):
        marker, at = data[found.end() - 1], found.end()
        if marker == _END_OF_IMAGE:
            return
        yield marker, data[at + 2 : at + 7]
        if marker not in _STANDALONE:
            at += int.from_bytes(data[at : at + 2], "big")


def _check_tiles(image: TiffImagePlugin.TiffImageFile, max_pixels: int) -> int:
    """Judge tiles and strips; returns how many pixels they hold, filled up to whole ones.

    A decoder makes room for a whole tile, however little of it shows.
    """
    tags = image.tag_v2
    width, height = _number(tags.get(256), image.width), _number(tags.get(257), image.height)
    tile_width = _number(tags.get(322), width)
    tile_height = _number(tags.get(323), min(_number(tags.get(278), height), height))
    if min(tile_width, tile_height) < 1:
        raise PictureError("the picture is a TIFF of empty tiles")
    across, down = -(-width // tile_width), -(-height // tile_height)
    planes = _number(tags.get(277), 1) if tags.get(284) == 2 else 1
    if across * down * planes > MAX_PARTS:
        raise PictureError(f"the picture is a TIFF of more than {MAX_PARTS} tiles; save it anew")
    stored = across * tile_width * down * tile_height
    if max(tile_width, tile_height) > MAX_SIDE or stored > 1.25 * max_pixels + _A_TILE:
        raise PictureError(
            f"the picture is a TIFF of {width}x{height} pixels in tiles of {tile_width}x{tile_height}; "
            "save it anew, with smaller tiles"
        )
    return stored


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) else default

"""Hostile picture files, made byte by byte: small ones that claim, or hold, far more than they should."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

__all__ = [
    "FORMATS",
    "apng",
    "avif_of",
    "bmp",
    "chunk",
    "gif",
    "gif_of_comments",
    "good",
    "jpeg_of",
    "jpeg_of_scans",
    "png",
    "riff",
    "tiff",
    "webp_canvas",
]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
PNG = b"\x89PNG\r\n\x1a\n"


def good(format: str = "PNG", size: tuple[int, int] = (64, 64), **options: Any) -> bytes:
    """A picture of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    """One chunk of a PNG; `length`: what it says instead of the truth."""
    size = len(data) if length is None else length
    return struct.pack(">I", size) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int,
    height: int,
    rows: bytes | None = None,
    *,
    depth: int = 8,
    colour: int = 0,
    interlaced: int = 0,
    more: bytes = b"",
) -> bytes:
    """A PNG whose header says so; `rows`: its lines with their filter bytes, None: as they should be, black."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    if rows is None:
        rows = b"\0" * ((width * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1) * depth // 8 + 1) * height)
    return PNG + chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND")


def apng(frames: int) -> bytes:
    """One pixel, and so many frames after it."""
    control = struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 1, 0, 0)
    later = b"".join(
        chunk(b"fcTL", struct.pack(">I", 2 * n + 1) + control[4:])
        + chunk(b"fdAT", struct.pack(">I", 2 * n + 2) + zlib.compress(b"\0\0"))
        for n in range(frames)
    )
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    first = chunk(b"acTL", struct.pack(">II", frames + 1, 0)) + chunk(b"fcTL", control)
    return (
        PNG + chunk(b"IHDR", header) + first + chunk(b"IDAT", zlib.compress(b"\0\0")) + later + chunk(b"IEND")
    )


def jpeg_of(width: int, height: int, **options: Any) -> bytes:
    """A JPEG whose header says so; there are 64x64 pixels in it."""
    data = bytearray(good("JPEG", **options))
    at = 2
    while data[at + 1] not in (0xC0, 0xC2):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def jpeg_of_scans(scans: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """A progressive JPEG, its last scan repeated until there are so many."""
    file = BytesIO()
    Image.new("RGB", size, (90, 120, 40)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    have = data.count(b"\xff\xda")
    return data[:last] + data[last:-2] * (scans - have + 1) + b"\xff\xd9"


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def webp_canvas(width: int, height: int, frames: int = 1) -> bytes:
    """An animated WebP with a canvas of that size and frames of 16x16."""
    still = good("WEBP", (16, 16))
    frame = bytes(6) + (15).to_bytes(3, "little") * 2 + (40).to_bytes(3, "little") + b"\0" + still[12:]
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return riff((b"VP8X", b"\x02\0\0\0" + sides), (b"ANIM", bytes(6)), *[(b"ANMF", frame)] * frames)


def gif(width: int, height: int, frame: tuple[int, int, int, int], data: bytes, before: bytes = b"") -> bytes:
    """A GIF of that screen; `frame` is left, top, width, height; `data` are LZW codes of 2 bits and more."""
    blocks = b"".join(bytes([len(part)]) + part for part in _parts(data, 255))
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + b"\0\0\0\xff\xff\xff"
        + before
        + b","
        + struct.pack("<HHHHB", *frame, 0)
        + b"\x02"
        + blocks
        + b"\0;"
    )


def gif_of_comments(count: int) -> bytes:
    """So many comments, which Pillow joins one by one: time by the square of their number."""
    comment = b"!\xfe" + b"\xff" + b"c" * 255 + b"\0"
    return gif(1, 1, (0, 0, 1, 1), b"\x44\x01", comment * count)


def bmp(width: int, height: int, *, bits: int = 24, compression: int = 0, data: bytes = bytes(64)) -> bytes:
    """A BMP whose header says so."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    palette = bytes(1024) if bits <= 8 else b""
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + len(palette)) + header + palette + data


def tiff(data: bytes, **tags: int | list[int]) -> bytes:
    """A little-endian TIFF of one directory, 8x8 grey with 8 bits; `tags`, by number (t256=…), are otherwise."""
    entries: dict[int, int | list[int]] = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    if 322 in entries:
        entries |= {324: entries.get(324, 8), 325: entries.get(325, len(data))}
    else:
        entries |= {273: entries.get(273, 8), 279: entries.get(279, len(data))}
    start = 8 + len(data)
    directory, beyond = b"", b""
    for number, value in sorted(entries.items()):
        values = value if isinstance(value, list) else [value]
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            where = start + 2 + 12 * len(entries) + 4 + len(beyond)
            beyond += packed
            packed = struct.pack("<I", where)
        directory += struct.pack("<HHI", number, 4, len(values)) + packed
    return (
        b"II*\0"
        + struct.pack("<I", start)
        + data
        + struct.pack("<H", len(entries))
        + directory
        + bytes(4)
        + beyond
    )


def avif_of(width: int, height: int) -> bytes:
    """An AVIF whose header says so; there are 64x64 pixels in it."""
    data = bytearray(good("AVIF"))
    at = data.index(b"ispe") + 8
    struct.pack_into(">II", data, at, width, height)
    return bytes(data)


def _parts(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]

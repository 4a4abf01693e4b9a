"""Pictures that were made to do harm: each is refused in words, or read, within what one picture may take.

After every one of them a good picture is read at once, and equals what it was made of.
"""

import asyncio
import base64
import time
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdworker.pictures import (
    PictureError,
    PictureFile,
    PictureLimits,
    decode_mask,
    decode_picture,
    fetch_picture,
)
from sdworker.request import InputError
from sdworker.settings import Settings
from sdworker.startup import build_worker
from sdworker.worker import Worker
from tests.hostile.picture_files import (
    FORMATS,
    apng,
    avif_of,
    bmp,
    chunk,
    gif,
    gif_of_comments,
    good,
    jpeg_of,
    jpeg_of_scans,
    png,
    tiff,
    webp_canvas,
)
from tests.hostile.process_memory import decoders, peak_mib, reset_peak

LIMITS = PictureLimits(max_bytes=20 * 10**6, max_pixels=32 * 10**6, timeout_s=5)
GOOD = good()
GOOD_JPEG = good("JPEG")
PIXELS = np.asarray(Image.open(BytesIO(GOOD)))

PIXELS_REFUSED = r"at most 32 megapixels|far too many pixels"
NO_PICTURE = r"not a picture, or it is damaged"
DAMAGED = r"damaged, cut short"
PARTS = r"more than 100000"
SIDE = r"a side may have at most 32768"
READ = None

Make = Callable[[], bytes]


def squeezed(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


# Name → (the file, what the error says, or READ where it is a picture like any other).
FILES: dict[str, tuple[Make, str | None]] = {
    # Sides and pixels, from headers of every format.
    "a PNG of 1 x 32,000,000": (lambda: png(1, 32_000_000, b"\0\0" * 32_000_000), SIDE),
    "a PNG of 32,000,000 x 1": (lambda: png(32_000_000, 1), SIDE),
    "a PNG that claims 2**31 - 1 squared": (lambda: png(2**31 - 1, 2**31 - 1, b""), PIXELS_REFUSED),
    "a PNG just above the limit": (lambda: png(8000, 4001, b""), PIXELS_REFUSED),
    "a PNG without width": (lambda: png(0, 5), NO_PICTURE),
    "a PNG without height": (lambda: png(5, 0), NO_PICTURE),
    "a JPEG that claims 65535 squared": (lambda: jpeg_of(65535, 65535), PIXELS_REFUSED),
    "a progressive JPEG that claims it": (lambda: jpeg_of(65535, 65535, progressive=True), PIXELS_REFUSED),
    "a JPEG of 65535 x 8": (lambda: jpeg_of(65535, 8), SIDE),
    "a JPEG without width": (lambda: jpeg_of(0, 64), "nothing in it"),
    "a JPEG without height": (lambda: jpeg_of(64, 0), "nothing in it"),
    "a WebP canvas of 16384 squared": (lambda: webp_canvas(16384, 16384), PIXELS_REFUSED),
    "a WebP canvas of 2**24 squared": (lambda: webp_canvas(2**24, 2**24), PIXELS_REFUSED),
    "a WebP canvas of 2**24 x 1": (lambda: webp_canvas(2**24, 1), SIDE),
    "a GIF screen of 65535 squared": (lambda: gif(65535, 65535, (0, 0, 1, 1), b"\x44\x01"), PIXELS_REFUSED),
    "a GIF frame of 65535 squared": (lambda: gif(1, 1, (0, 0, 65535, 65535), b"\x44\x01"), PIXELS_REFUSED),
    "a GIF frame far outside": (lambda: gif(8, 8, (60000, 60000, 8, 8), b"\x44\x01"), PIXELS_REFUSED),
    "a BMP of 2**31 - 1 squared": (lambda: bmp(2**31 - 1, 2**31 - 1), PIXELS_REFUSED),
    "a BMP of negative height": (lambda: bmp(8, -(2**31)), PIXELS_REFUSED),
    "a BMP of negative width": (lambda: bmp(-5, 5), PIXELS_REFUSED),
    "a BMP without sides": (lambda: bmp(0, 0), NO_PICTURE),
    "a TIFF of 2**31 squared": (lambda: tiff(bytes(64), t256=2**31, t257=2**31), PIXELS_REFUSED),
    "a TIFF of 1 x 30,000,000": (lambda: tiff(bytes(64), t256=1, t257=30_000_000), SIDE),
    "a TIFF without sides": (lambda: tiff(b"", t256=0, t257=0), NO_PICTURE),
    "an AVIF that claims 60000 squared": (lambda: avif_of(60000, 60000), NO_PICTURE),
    "an AVIF without sides": (lambda: avif_of(0, 0), NO_PICTURE),
    # Tiles, scans, frames, parts.
    "a TIFF with a tile of 40000 squared": (
        lambda: tiff(squeezed(10**6), t322=40000, t323=40000, t259=8),
        "smaller tiles",
    ),
    "a TIFF with a tile of 30000 x 2000": (
        lambda: tiff(squeezed(10**6), t322=30000, t323=2000, t259=8),
        "smaller tiles",
    ),
    "a TIFF with a tile that its data do not fill": (
        lambda: tiff(squeezed(64), t322=5000, t323=6000, t259=8),
        DAMAGED,
    ),
    "a TIFF of 30 million tiles": (lambda: tiff(bytes(64), t322=1, t323=1, t256=5000, t257=6000), PARTS),
    "a TIFF of empty tiles": (lambda: tiff(bytes(64), t322=0, t323=16), "empty tiles"),
    "a TIFF of endless strips": (lambda: tiff(bytes(64), t278=2**32 - 1), READ),
    "a TIFF of 65535 samples a pixel": (lambda: tiff(bytes(64), t277=65535), NO_PICTURE),
    "a TIFF of 65535 bits a sample": (lambda: tiff(bytes(64), t258=65535), NO_PICTURE),
    "a TIFF whose strip lies outside": (lambda: tiff(bytes(64), t273=2**32 - 1), DAMAGED),
    "a TIFF whose strip has 4 GB": (lambda: tiff(bytes(64), t259=8, t279=2**32 - 1), DAMAGED),
    "a TIFF of unknown compression": (lambda: tiff(bytes(64), t259=99), NO_PICTURE),
    "a TIFF whose strip unpacks to 50 MB": (lambda: tiff(squeezed(50_000_000), t259=8), READ),
    "a JPEG of 15,000 scans": (lambda: jpeg_of_scans(15_000), "101 scans or more"),
    "a JPEG of 200,000 scans": (lambda: jpeg_of_scans(200_000), "101 scans or more"),
    "a JPEG of 99 scans, but small": (lambda: jpeg_of_scans(99), READ),
    "a large JPEG of 30 scans": (lambda: jpeg_of_scans(30, (6000, 5000)), "22 scans or more"),
    "a JPEG of 200,000 comments": (
        lambda: GOOD_JPEG[:2] + b"\xff\xfe\0\x03c" * 200_000 + GOOD_JPEG[2:],
        PARTS,
    ),
    "a JPEG whose segment never ends": (lambda: GOOD_JPEG[:2] + b"\xff\xe1\xff\xff", DAMAGED),
    "a JPEG of fill bytes": (lambda: b"\xff\xd8" + b"\xff" * 10**6, NO_PICTURE),
    "a PNG of 1,500,000 chunks": (lambda: png(1, 1, more=chunk(b"aaAa") * 1_500_000), PARTS),
    "a PNG of 40,000 frames": (lambda: apng(40_000), READ),
    "a PNG of 60,000 frames": (lambda: apng(60_000), PARTS),
    "a WebP of 110,000 frames": (
        lambda: webp_canvas(64, 64, 1) + (b"ANMF" + bytes(4)) * 110_000,
        PARTS,
    ),
    "a GIF of 20,000 comments": (lambda: gif_of_comments(20_000), READ),
    # What unpacks to more than it should.
    "a PNG whose lines unpack to 100 MB": (lambda: png(8, 8, bytes(100_000_000)), READ),
    "a PNG whose text unpacks to 100 MB": (
        lambda: png(1, 1, more=chunk(b"zTXt", b"k\0\0" + squeezed(100_000_000))),
        DAMAGED,
    ),
    "a PNG of a hundred texts of 1 MB": (
        lambda: png(1, 1, more=chunk(b"zTXt", b"k\0\0" + squeezed(900_000)) * 100),
        "more memory|damaged",
    ),
    "a PNG whose profile unpacks to 100 MB": (
        lambda: png(1, 1, more=chunk(b"iCCP", b"k\0\0" + squeezed(100_000_000))),
        DAMAGED,
    ),
    "a BMP of run lengths that go nowhere": (
        lambda: bmp(2000, 1000, bits=8, compression=1, data=b"\0\2\0\0" * 4_900_000),
        "more time to decode",
    ),
    # Broken inside.
    "a PNG of bit depth 7": (lambda: png(5, 5, depth=7), NO_PICTURE),
    "a PNG of colour type 5": (lambda: png(5, 5, colour=5), NO_PICTURE),
    "a PNG chunk that claims 4 GB": (
        lambda: png(1, 1, more=chunk(b"tEXt", b"abc", length=2**32 - 1)),
        DAMAGED,
    ),
    "a PNG without data": (lambda: png(64, 64, b""), DAMAGED),
    "a PNG with too few lines": (lambda: png(64, 64, bytes(65 * 40)), READ),
    "a BMP of 7 bits": (lambda: bmp(5, 5, bits=7), DAMAGED),
    "a BMP of unknown compression": (lambda: bmp(5, 5, compression=9), DAMAGED),
    # Other things than pictures, by name.
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg' onload='x()'/>", "SVG is not taken"),
    "SVG after a declaration": (lambda: b"<?xml version='1.0'?>\n<svg/>", "SVG is not taken"),
    "HEIC": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC is not taken"),
    "HEIC as mif1": (lambda: b"\0\0\0\x18ftypmif1\0\0\0\0heic", "HEIC is not taken"),
    "PDF": (lambda: b"%PDF-1.7\n", "PDF and PostScript are not taken"),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "PDF and PostScript are not taken"),
    "ICO": (lambda: good("ICO", (32, 32)), "ICO is not taken"),
    "PSD": (lambda: b"8BPS\0\1" + bytes(30), "PSD is not taken"),
    "JPEG 2000": (lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(30), "JPEG 2000 is not taken"),
    "JPEG XL": (lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30), "JPEG XL is not taken"),
    "PPM": (lambda: good("PPM"), "PPM is not taken"),
    "MP4": (lambda: b"\0\0\0\x18ftypisom" + bytes(30), "video is not taken"),
    "ZIP": (lambda: b"PK\3\4" + bytes(30), "an archive is not taken"),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(30), "an archive is not taken"),
    "a web page": (lambda: b"\n<!DOCTYPE html><title>404</title>", "a web page, not a picture"),
    "TGA": (lambda: good("TGA"), NO_PICTURE),
    "an FLI film": (lambda: bytes(4) + b"\x12\xaf" + bytes(122), NO_PICTURE),
    "a program": (lambda: b"\x7fELF" + bytes(100), NO_PICTURE),
    "JSON": (lambda: b'{"image": "x"}', NO_PICTURE),
    # Two things at once: what comes first counts.
    "a PNG with a ZIP after it": (lambda: GOOD + b"PK\3\4" + bytes(30), READ),
    "a JPEG with a web page after it": (lambda: GOOD_JPEG + b"<html><script>x()</script>", READ),
    "a ZIP with a PNG after it": (lambda: b"PK\3\4" + GOOD, "an archive is not taken"),
    "a PNG with a PNG bomb after it": (lambda: GOOD + png(2**31 - 1, 2**31 - 1, b""), READ),
    "PNG's first bytes and a JPEG": (lambda: GOOD[:8] + GOOD_JPEG, NO_PICTURE),
    "RIFF that is a sound": (lambda: b"RIFF\x24\0\0\0WAVEfmt " + bytes(30), NO_PICTURE),
}
CUT = [(format, tenth) for format in FORMATS for tenth in range(1, 10)]

# Name → (what the job sends, what the error says).
SOURCES: dict[str, tuple[str, str]] = {
    "a data URI without a comma": ("data:image/png;base64", "no comma"),
    "an empty data URI": ("data:,", NO_PICTURE),
    "an empty base64 data URI": ("data:image/png;base64,", "is empty"),
    "a data URI of garbage": ("data:image/png;base64,!!!!", "nor valid base64"),
    "a data URI of text": ("data:text/plain,hello", NO_PICTURE),
    "a data URI that calls base64 something else": ("data:image/png;base65,AAAA", NO_PICTURE),
    "a data URI in a data URI": ("data:image/png;base64,data:image/png;base64,AAAA", "nor valid base64"),
    "a data URI of percent signs": ("data:image/png," + "%" * 100, NO_PICTURE),
    "a data URI that is too large": ("data:image/png," + "%00" * 21_000_000, "MAX_IMAGE_MB"),
    "base64 of one letter": ("A", "nor valid base64"),
    "base64 with letters after its end": ("QU=JD", "nor valid base64"),
    "base64 of equals signs": ("====", "is empty"),
    "base64 of spaces": ("    ", "is empty"),
    "base64 that is too large": ("A" * 28_000_000, "MAX_IMAGE_MB"),
    "base64 with an emoji": ("/9j/4AAQ🙂", "nor valid base64"),
    "a file URL": ("file:///etc/passwd", "must begin with http"),
    "an FTP URL": ("ftp://example.com/cat.png", "must begin with http"),
    "a path": ("/etc/passwd", NO_PICTURE),
    "a Windows path": ("C:\\cat.png", "nor valid base64"),
    "a javascript URI": ("javascript:alert(1)", "nor valid base64"),
}


async def read(data: bytes, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return await decode_picture(PictureFile(data, "init_image", LIMITS), lambda _: size)


async def assert_next_is_read() -> None:
    np.testing.assert_array_equal(await read(GOOD, (64, 64)), PIXELS)


@pytest.mark.parametrize("name", FILES)
async def test_a_hostile_file_is_refused_in_words_or_read(name: str) -> None:
    make, said = FILES[name]
    data = make()
    if said is READ:
        assert (await read(data)).shape == (8, 8, 3)
    else:
        with pytest.raises(PictureError, match=said) as caught:
            await read(data)
        assert str(caught.value).startswith("init_image: ")
        assert len(str(caught.value)) < 250
    await assert_next_is_read()


@pytest.mark.parametrize(("format", "tenth"), CUT)
async def test_a_file_cut_short_is_an_error(format: str, tenth: int) -> None:
    data = good(format)
    with pytest.raises(PictureError, match=f"{DAMAGED}|{NO_PICTURE}"):
        await read(data[: len(data) * tenth // 10])


@pytest.mark.parametrize("name", SOURCES)
async def test_what_is_no_file_is_refused_in_words(name: str) -> None:
    source, said = SOURCES[name]

    async def load() -> None:
        file = await fetch_picture(source, field="mask", limits=LIMITS)
        await decode_mask(file, (8, 8))

    with pytest.raises(PictureError, match=said):
        await load()


@pytest.fixture(scope="module")
def worker(model: Path) -> Iterator[Worker]:
    worker = build_worker(Settings(model_dir=model).model_copy(update={"max_rows": 16}))
    yield worker
    worker.engine.close()


def job(**fields: Any) -> dict[str, Any]:
    steps = {"prompt": "a red apple", "num_inference_steps": 2, "seed": 1}
    return {"id": "job", "input": {**steps, **fields}}


def uri(data: bytes) -> str:
    return "data:;base64," + base64.b64encode(data).decode()


# Name → (fields, what the error says, or the size that is drawn).
JOBS: dict[str, tuple[dict[str, Any], str | tuple[int, int]]] = {
    "a mask of another size": ({"init_image": uri(GOOD), "mask": uri(good("PNG", (7, 300)))}, (64, 64)),
    "a mask of one pixel": ({"init_image": uri(GOOD), "mask": uri(png(1, 1))}, (64, 64)),
    "a mask that is a bomb": ({"init_image": uri(GOOD), "mask": uri(png(2**31 - 1, 9, b""))}, r"^mask: "),
    "a mask that is no picture": ({"init_image": uri(GOOD), "mask": uri(b"secret")}, r"^mask: this is not a"),
    "a mask cut short": ({"init_image": uri(GOOD), "mask": uri(GOOD[:2000])}, r"^mask: .*cut short"),
    "a picture of one pixel": ({"init_image": uri(png(1, 1))}, (64, 64)),
    "a picture of 1 x 4000": ({"init_image": uri(png(1, 4000))}, r"^init_image: .*set width and height"),
    "a picture of 1 x 4000, to a size": (
        {"init_image": uri(png(1, 4000)), "width": 64, "height": 64},
        (64, 64),
    ),
    "a good picture and a bad mask": ({"init_image": uri(GOOD), "mask": "!"}, r"^mask: "),
    "a bad picture and a good mask": ({"init_image": "!", "mask": uri(GOOD)}, r"^init_image: "),
}


@pytest.mark.parametrize("name", JOBS)
async def test_a_job_with_odd_pictures_is_drawn_or_refused_in_words(worker: Worker, name: str) -> None:
    fields, expected = JOBS[name]
    if isinstance(expected, str):
        with pytest.raises((PictureError, InputError), match=expected):
            await worker.run(job(**fields))
        return
    (image,) = await worker.run(job(**fields))
    assert Image.open(BytesIO(base64.b64decode(image["image"]))).size == expected


# What took gigabytes, eight at once, and what they may take above what there was before, all processes together.
ATTACKS: dict[str, Make] = {
    "PNGs of 1 x 32,000,000": lambda: png(1, 32_000_000, b"\0\0" * 32_000_000),
    "TIFFs with a tile of 40000 squared": lambda: tiff(squeezed(2 * 10**6), t322=40000, t323=40000, t259=8),
    "WebP canvases of 16384 squared": lambda: webp_canvas(16384, 16384),
    "WebP canvases of 32 megapixels": lambda: webp_canvas(8000, 4000),
    "JPEGs of 15,000 scans": lambda: jpeg_of_scans(15_000, (1500, 1500)),
    "JPEGs of 21 scans and 30 megapixels": lambda: jpeg_of_scans(21, (6000, 5000)),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_eight_attackers_at_once_take_bounded_memory_and_hold_up_nobody(name: str) -> None:
    data = ATTACKS[name]()
    await assert_next_is_read()
    reset_peak()
    before = peak_mib()
    attack = [asyncio.create_task(read(data)) for _ in range(8)]
    for _ in range(4):
        began = time.monotonic()
        await assert_next_is_read()
        assert time.monotonic() - began < 30  # large ones may take 60 s each
    for task in attack[2:]:
        task.cancel()  # as jobs are; enough has been seen
    await asyncio.gather(*attack, return_exceptions=True)
    assert peak_mib() - before < 700
    await assert_next_is_read()


async def test_what_a_large_picture_took_is_given_back() -> None:
    await read(webp_canvas(8000, 4000))
    assert len(decoders()) >= 2
    async with asyncio.timeout(180):
        while max(memory.resident_mib for memory in decoders().values()) > 80:  # noqa: ASYNC110 - the kernel's word
            await asyncio.sleep(0.02)

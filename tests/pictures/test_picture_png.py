"""The quick PNG writer and the one that stands in for it make the same picture, by the format's rules."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from sdworker.pictures import png
from sdworker.pictures.png import encode_png

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def picture(height: int, width: int, seed: int, kind: str) -> NDArray[np.uint8]:
    """Noise, flat areas, or slopes that wrap around 255: what each filter is good or bad at."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "flat":
        return noise // 128 * 255
    if kind == "slopes":
        across = np.arange(width)[None, :, None] * random.integers(0, 9)
        down = np.arange(height)[:, None, None] * random.integers(0, 9)
        return (across + down + noise // 64).astype(np.uint8)
    return noise


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of each chunk, with lengths and CRCs checked."""
    assert data.startswith(SIGNATURE)
    found, at = [], len(SIGNATURE)
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        assert crc == zlib.crc32(name + content)
        found.append((name, content))
        at += length + 12
    assert at == len(data)
    return found


def decode(data: bytes) -> NDArray[np.uint8]:
    image = Image.open(BytesIO(data))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image)


@settings(max_examples=100, deadline=None)
@given(
    height=st.one_of(st.integers(1, 9), st.sampled_from([63, 64, 65, 128, 130])),
    width=st.integers(1, 70),
    seed=st.integers(0, 9),
    kind=st.sampled_from(["noise", "flat", "slopes"]),
)
def test_every_picture_comes_back_bit_by_bit(height: int, width: int, seed: int, kind: str) -> None:
    pixels = picture(height, width, seed, kind)
    np.testing.assert_array_equal(decode(encode_png(pixels, parameters="x")), pixels)


@pytest.mark.parametrize("turn", ["view of a larger picture", "upside down", "columns first", "read-only"])
def test_the_pixels_may_lie_in_memory_as_they_like(turn: str) -> None:
    pixels = picture(70, 50, 1, "slopes")
    match turn:
        case "view of a larger picture":
            pixels = pixels[3:60, 5:40]
        case "upside down":
            pixels = pixels[::-1]
        case "columns first":
            pixels = np.asfortranarray(pixels)
        case "read-only":
            pixels.flags.writeable = False
    np.testing.assert_array_equal(decode(encode_png(pixels, parameters="")), pixels)


@pytest.mark.parametrize(("text", "kind"), [("a cat, café", b"tEXt"), ("a cat ☕", b"iTXt")])
def test_chunks_are_in_order_with_the_text_before_the_pixels(text: str, kind: bytes) -> None:
    found = chunks(encode_png(picture(20, 30, 0, "noise"), parameters=text))
    assert [name for name, _ in found] == [b"IHDR", kind, b"IDAT", b"IEND"]
    assert found[0][1] == struct.pack(">IIBBBBB", 30, 20, 8, 2, 0, 0, 0)
    assert found[1][1].startswith(b"parameters\0")


@pytest.mark.parametrize("text", ["a cat, café\nSteps: 20", "a cat ☕"])
def test_without_isal_pillow_writes_the_same_pixels_and_the_same_text(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = picture(64, 48, 0, "slopes")
    ours = encode_png(pixels, parameters=text)
    monkeypatch.setattr(png, "isal_zlib", None)
    pillows = encode_png(pixels, parameters=text)
    np.testing.assert_array_equal(decode(pillows), decode(ours))
    assert chunks(pillows)[:2] == chunks(ours)[:2]
    assert [name for name, _ in chunks(pillows)] == [name for name, _ in chunks(ours)]


def test_each_row_takes_the_filter_that_fits_it() -> None:
    random = np.random.default_rng(0)
    row = random.integers(0, 256, (1, 200, 1), dtype=np.uint8)
    stripes = np.broadcast_to(row, (40, 200, 3))  # equal to the row above: Up
    column = random.integers(0, 256, (40, 1, 3), dtype=np.uint8)
    bars = np.broadcast_to(column, (40, 200, 3))  # equal to the pixel to the left: Sub
    for pixels, filter_type in ((stripes, 2), (bars, 1)):
        stored = zlib.decompress(dict(chunks(encode_png(pixels, parameters="")))[b"IDAT"])
        types = np.frombuffer(stored, np.uint8).reshape(40, 1 + 3 * 200)[1:, 0]
        assert set(types.tolist()) == {filter_type}

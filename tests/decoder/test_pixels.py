"""Whatever a picture file is like inside, the same picture comes out, or one readable error."""

import struct
import warnings
import zlib
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image

from sdworker.decoder.errors import PictureError
from sdworker.decoder.pixels import decode_mask, decode_picture

MAX_PIXELS = 10**6
LOSSLESS = ["PNG", "BMP", "TIFF", "WEBP", "GIF"]
FORMATS = [*LOSSLESS, "JPEG", "AVIF"]


def save(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    if format == "WEBP":
        options = {"lossless": True, "exact": True, **options}
    image.save(file, format, **options)
    return file.getvalue()


def raw_png(width: int, height: int, depth: int, color: int, rows: bytes, transparent: bytes = b"") -> bytes:
    """A PNG of kinds that Pillow does not write. `rows` are big-endian samples without filter bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    stride = len(rows) // height
    lines = b"".join(b"\0" + rows[y * stride : (y + 1) * stride] for y in range(height))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
        + (chunk(b"tRNS", transparent) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def noise(height: int = 13, width: int = 17, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def pixels(data: bytes) -> NDArray[np.uint8]:
    image = decode_picture(data, MAX_PIXELS)
    assert image.mode == "RGB"
    return np.asarray(image)


def mask(data: bytes) -> NDArray[np.uint8]:
    image = decode_mask(data, MAX_PIXELS)
    assert image.mode == "L"
    return np.asarray(image)


class TestModes:
    @pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP"])
    def test_rgb_comes_through_unchanged(self, format: str) -> None:
        rgb = noise()
        np.testing.assert_array_equal(pixels(save(Image.fromarray(rgb), format)), rgb)

    def test_every_format_on_the_list_is_read(self) -> None:
        smooth = np.full((32, 32, 3), (200, 100, 50), np.uint8)
        for format in FORMATS:
            found = pixels(save(Image.fromarray(smooth), format))
            assert np.abs(found.astype(int) - smooth).max() <= 6, format

    @settings(max_examples=30, deadline=None)
    @given(alpha=st.integers(0, 255), value=st.tuples(*[st.integers(0, 255)] * 3))
    def test_transparent_parts_lie_on_white_and_are_black_in_a_mask(
        self, alpha: int, value: tuple[int, int, int]
    ) -> None:
        data = save(Image.new("RGBA", (2, 2), (*value, alpha)))
        on_white = [round(v * alpha / 255 + 255 - alpha) for v in value]
        on_black = round(sum(v * w for v, w in zip(value, (0.299, 0.587, 0.114), strict=True)) * alpha / 255)
        assert np.abs(pixels(data)[0, 0] - np.array(on_white)).max() <= 1
        assert abs(int(mask(data)[0, 0]) - on_black) <= 1

    def test_grey_with_alpha(self) -> None:
        image = Image.merge("LA", [Image.new("L", (2, 1), 40), Image.frombytes("L", (2, 1), b"\x00\xff")])
        assert pixels(save(image))[0].tolist() == [[255] * 3, [40] * 3]
        assert mask(save(image))[0].tolist() == [0, 40]

    def test_palettes_with_and_without_transparency(self) -> None:
        image = Image.new("P", (3, 1))
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        image.putdata([0, 1, 2])
        assert pixels(save(image))[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
        assert pixels(save(image, transparency=1))[0].tolist() == [[255, 0, 0], [255] * 3, [0, 0, 255]]
        half = pixels(save(image, transparency=bytes([255, 0, 128])))[0].tolist()
        assert half == [[255, 0, 0], [255] * 3, [127, 127, 255]]
        assert pixels(save(image, "GIF", transparency=0))[0].tolist()[0] == [255] * 3

    def test_a_transparent_colour_of_rgb_and_of_grey(self) -> None:
        rgb = raw_png(2, 1, 8, 2, bytes([1, 2, 3, 9, 9, 9]), transparent=struct.pack(">HHH", 1, 2, 3))
        assert pixels(rgb)[0].tolist() == [[255] * 3, [9, 9, 9]]
        grey = raw_png(2, 1, 16, 0, struct.pack(">HH", 1000, 514), transparent=struct.pack(">H", 1000))
        assert pixels(grey)[0].tolist() == [[255] * 3, [2] * 3]
        assert mask(grey)[0].tolist() == [0, 2]

    def test_black_and_white(self) -> None:
        image = Image.frombytes("1", (8, 1), b"\xa5")
        assert mask(save(image))[0].tolist() == [255, 0, 255, 0, 0, 255, 0, 255]
        assert pixels(save(image, "TIFF"))[0, 0].tolist() == [255] * 3

    def test_cmyk(self) -> None:
        red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
        for format in ("JPEG", "TIFF"):
            assert np.abs(pixels(save(red, format)).astype(int) - [255, 0, 0]).max() <= 3
        assert abs(int(mask(save(red, "TIFF"))[0, 0]) - 76) <= 1

    @given(values=st.lists(st.integers(0, 65535), min_size=1, max_size=8))
    def test_sixteen_bit_grey_is_scaled_not_clipped(self, values: list[int]) -> None:
        data = raw_png(len(values), 1, 16, 0, struct.pack(f">{len(values)}H", *values))
        expected = np.round(np.array(values) / 257)
        assert np.abs(mask(data)[0] - expected).max() == 0
        assert np.abs(pixels(data)[0, :, 1] - expected).max() == 0

    @pytest.mark.parametrize(("color", "channels"), [(2, 3), (4, 2), (6, 4)])
    def test_sixteen_bits_in_colour_and_with_alpha(self, color: int, channels: int) -> None:
        samples = [0x8000, 0x4000, 0xC000, 0xFFFF][:channels]
        if color in (4, 6):
            samples[-1] = 0xFFFF
        data = raw_png(1, 1, 16, color, struct.pack(f">{channels}H", *samples))
        expected = [128, 64, 192] if channels > 2 else [128] * 3
        assert np.abs(pixels(data)[0, 0].astype(int) - expected).max() <= 1

    def test_wide_greys_of_tiff(self) -> None:
        for dtype, white in ((np.uint16, 65535), (np.int32, 65535), (np.int32, 2**31 - 1), (np.int32, 255)):
            image = Image.fromarray(np.array([[0, white // 2, white]], dtype))
            assert mask(save(image, "TIFF"))[0].tolist() in ([0, 127, 255], [0, 128, 255])
        for white_f in (1.0, 255.0):
            image = Image.fromarray(np.array([[0, white_f / 2, white_f, np.nan]], np.float32))
            assert mask(save(image, "TIFF"))[0].tolist() == [0, 128, 255, 0]

    @pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
    def test_of_an_animation_the_first_frame_counts(self, format: str) -> None:
        frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
        data = save(frames[0], format, save_all=True, append_images=frames[1:])
        assert np.abs(pixels(data).astype(int) - [255, 0, 0]).max() <= 4


class TestOrientation:
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_the_picture_comes_out_upright(self, format: str, orientation: int) -> None:
        upright = np.zeros((32, 48, 3), np.uint8)
        upright[:16, :16] = 255  # a white corner at the top left
        undo = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
        method = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90,
        }
        stored = Image.fromarray(upright)
        if undo != 1:
            stored = stored.transpose(method[undo])
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        data = save(stored, format, exif=exif)
        assert np.abs(pixels(data).astype(int) - upright).max() <= 40
        assert mask(data).shape == (32, 48)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
    def test_a_broken_exif_block_does_not_cost_the_picture(self) -> None:
        rgb = noise()
        for broken in (b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12", b""):
            np.testing.assert_array_equal(pixels(save(Image.fromarray(rgb), exif=broken)), rgb)


class TestBadFiles:
    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
    def test_a_file_cut_short_is_an_error(self, format: str, kept: float) -> None:
        data = save(Image.fromarray(noise(64, 64)), format)
        with pytest.raises(PictureError):
            decode_picture(data[: int(len(data) * kept)], MAX_PIXELS)

    @settings(max_examples=150, deadline=None)
    @given(format=st.sampled_from(FORMATS), where=st.floats(0, 1), junk=st.binary(min_size=1, max_size=20))
    def test_a_file_with_junk_in_it_is_a_picture_or_an_error(
        self, format: str, where: float, junk: bytes
    ) -> None:
        data = save(Image.fromarray(noise()), format)
        at = int(len(data) * where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with suppress(PictureError):
                assert decode_picture(data[:at] + junk + data[at + len(junk) :], MAX_PIXELS).mode == "RGB"

    @settings(max_examples=100, deadline=None)
    @given(data=st.binary(max_size=200))
    def test_any_bytes_give_a_picture_error(self, data: bytes) -> None:
        with pytest.raises(PictureError):
            decode_picture(data, MAX_PIXELS)

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"\n<!DOCTYPE html><html>secret</html>", "web page"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
            (b"<?xml version='1.0'?>\n<svg/>", "SVG"),
            (b"%PDF-1.7", "PDF"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "PostScript"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
            (b"secret", "not a picture"),
            (b"", "not a picture"),
        ],
    )
    def test_what_is_no_picture_is_named_and_not_repeated(self, data: bytes, said: str) -> None:
        with pytest.raises(PictureError, match=said) as caught:
            decode_picture(data, MAX_PIXELS)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("format", ["PPM", "ICO", "TGA", "PCX"])
    def test_formats_off_the_list_are_refused(self, format: str) -> None:
        with pytest.raises(PictureError, match=r"(PPM|ICO) is not taken|not a picture"):
            decode_picture(save(Image.new("RGB", (16, 16)), format), MAX_PIXELS)


class TestBombs:
    @pytest.mark.parametrize("format", FORMATS)
    def test_too_many_pixels_are_refused_by_the_header(self, format: str) -> None:
        data = save(Image.new("L" if format == "PNG" else "RGB", (1001, 1000)), format)
        with pytest.raises(PictureError, match=r"1001x1000 .* 1 megapixels .*MAX_IMAGE_MEGAPIXELS"):
            decode_picture(data, MAX_PIXELS)
        assert decode_picture(save(Image.new("RGB", (1000, 1000)), format), MAX_PIXELS).size == (1000, 1000)

    @pytest.mark.parametrize("side", [10_001, 20_000, 2**31 - 1])
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_a_small_file_that_claims_to_be_vast_is_refused_without_decoding(self, side: int) -> None:
        with pytest.raises(PictureError, match="MAX_IMAGE_MEGAPIXELS"):
            decode_picture(_vast_png(side), MAX_PIXELS)

    @pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
    def test_bombs_are_errors_too_where_warnings_are(self) -> None:
        with pytest.raises(PictureError, match="MAX_IMAGE_MEGAPIXELS"):
            decode_picture(_vast_png(10_001), MAX_PIXELS)

    def test_pillows_own_limit_is_left_alone(self) -> None:
        before = Image.MAX_IMAGE_PIXELS
        pixels(save(Image.fromarray(noise())))
        assert before == Image.MAX_IMAGE_PIXELS


def _vast_png(side: int) -> bytes:
    data = bytearray(raw_png(1, 1, 8, 6, bytes(4)))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)

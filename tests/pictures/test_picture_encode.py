"""What `encode_image` writes is the picture that went in, and says how it was made."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image

from sdworker.image_formats import ImageFormat
from sdworker.pictures import encode_image

SMOOTH = np.linspace(0, 255, 64 * 48 * 3).astype(np.uint8).reshape(64, 48, 3)
FORMATS: list[ImageFormat] = ["png", "jpeg", "webp"]
A1111 = "a cat, café\nNegative prompt: dog\nSteps: 20, Sampler: DPM++ 2M Karras, Seed: 1"


def encode(
    pixels: NDArray[np.uint8] = SMOOTH, format: ImageFormat = "png", quality: int = 95, text: str = A1111
) -> Image.Image:
    image = Image.open(BytesIO(encode_image(pixels, format=format, quality=quality, parameters=text)))
    image.load()
    return image


def read_parameters(image: Image.Image) -> str:
    """As AUTOMATIC1111 reads them: modules/images.py, with piexif.helper.UserComment.load."""
    if "parameters" in image.info:
        return str(image.info["parameters"])
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment.startswith(b"UNICODE\0")
    return str(comment[8:].decode("utf-16-be"))


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 9), flat=st.booleans())
def test_png_is_lossless(height: int, width: int, seed: int, flat: bool) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if flat:
        pixels = pixels // 128 * 100
    np.testing.assert_array_equal(np.asarray(encode(pixels)), pixels)


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_is_what_it_says_and_looks_like_the_picture(format: ImageFormat) -> None:
    image = encode(format=format)
    assert image.format == format.upper()
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - SMOOTH).mean() < 3


@settings(max_examples=30, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300))
@pytest.mark.parametrize("format", FORMATS)
def test_the_generation_data_can_be_read_back(format: ImageFormat, text: str) -> None:
    assert read_parameters(encode(np.zeros((2, 2, 3), np.uint8), format, text=text)) == text


def test_png_text_is_a_text_chunk_where_latin_1_holds_it_and_itxt_else() -> None:
    latin = encode_image(SMOOTH, format="png", quality=1, parameters="café")
    assert b"tEXtparameters\0caf\xe9" in latin
    wide = encode_image(SMOOTH, format="png", quality=1, parameters="café ☕")
    assert b"iTXtparameters\0" in wide


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_exif_is_big_endian_with_the_comment_of_type_undefined(format: ImageFormat) -> None:
    """What piexif, which AUTOMATIC1111 reads with, expects, and what its UTF-16 goes by."""
    data = encode_image(SMOOTH, format=format, quality=90, parameters="x")
    assert b"MM\0*" in data
    assert b"\x92\x86\0\x07" in data


@pytest.mark.parametrize("format", FORMATS)
def test_no_text_costs_the_image(format: ImageFormat) -> None:
    assert read_parameters(encode(format=format, text="half \ud83d pair")) == "half ? pair"
    long = "😀x" * 50_000
    assert long.startswith(read_parameters(encode(format=format, text=long)))


@pytest.mark.parametrize(("quality", "sampling"), [(89, (2, 2)), (90, (1, 1)), (100, (1, 1))])
def test_jpeg_keeps_full_colour_resolution_from_quality_90_on(
    quality: int, sampling: tuple[int, int]
) -> None:
    layers = encode(format="jpeg", quality=quality).layer  # type: ignore[attr-defined]
    assert layers[0][1:3] == sampling


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_more_quality_is_a_larger_file(format: ImageFormat) -> None:
    sizes = [len(encode_image(SMOOTH, format=format, quality=q, parameters="")) for q in (1, 50, 100)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (3, 4, 4), (1, 4, 4, 3)])
def test_only_rgb_arrays_are_taken(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="height, width, 3"):
        encode_image(np.zeros(shape, np.uint8), format="png", quality=90, parameters="")
    with pytest.raises(ValueError, match="uint8"):
        encode_image(np.zeros((4, 4, 3), np.float32), format="png", quality=90, parameters="")

"""What a ControlNet is shown, made of a picture."""

import base64
from io import BytesIO

import cv2
import numpy as np
import pytest
from builder.emoji.addons.controlnet import THRESHOLD, draw_shape, edges
from PIL import Image

from sdworker.decoder.resize import Resize
from sdworker.pictures import PictureLimits, decode_hint, fetch_picture
from sdworker.pictures.hints import Preprocessor, prepare_hint
from sdworker.settings import Settings


@pytest.fixture
def square() -> np.ndarray:
    pixels = np.full((60, 80, 3), 30, np.uint8)
    pixels[20:40, 30:50] = (250, 180, 200)
    return pixels


def test_canny_is_opencvs_in_three_channels(square: np.ndarray) -> None:
    hint = prepare_hint(square, "canny", (100, 200))
    edges = cv2.Canny(square, 100, 200)
    assert edges.any()
    assert hint.shape == square.shape
    assert all(np.array_equal(hint[:, :, channel], edges) for channel in range(3))


def test_sobels_edges_are_those_that_the_embedded_edges_was_trained_on() -> None:
    choice = np.random.default_rng(5)
    for picture in (
        draw_shape("star", (200, 40, 30), choice),
        draw_shape("ring", (250, 240, 0), choice),
        choice.integers(0, 256, (128, 128, 3), dtype=np.uint8),
    ):
        hint = prepare_hint(picture, "sobel", (THRESHOLD, 0))
        apart = (hint != edges(picture[None])[0]).mean()
        assert hint.any()
        assert apart < 1e-3, apart  # what is right at the threshold is a matter of rounding


def test_thresholds_decide_what_is_an_edge(square: np.ndarray) -> None:
    faint = (square * 0.2).astype(np.uint8)
    assert not prepare_hint(faint, "canny", (400, 600)).any()
    assert prepare_hint(faint, "canny", (20, 60)).any()


def test_invert_and_threshold(square: np.ndarray) -> None:
    assert np.array_equal(prepare_hint(square, "invert", (100, 200)), 255 - square)
    white = prepare_hint(square, "threshold", (127, 200))
    assert set(np.unique(white)) == {0, 255}
    assert white[30, 40].tolist() == [255] * 3
    assert not prepare_hint(square, "threshold", (180, 200)).any()


def test_none_changes_nothing(square: np.ndarray) -> None:
    assert np.array_equal(prepare_hint(square, "none", (100, 200)), square)


async def decoded(image: Image.Image, size: tuple[int, int], resize: Resize = "stretch") -> np.ndarray:
    file = BytesIO()
    image.save(file, "JPEG" if image.mode == "CMYK" else "PNG")
    source = base64.b64encode(file.getvalue()).decode()
    limits = PictureLimits.from_settings(Settings())
    return await decode_hint(await fetch_picture(source, field="hint", limits=limits), size, resize)


async def test_where_a_hint_is_transparent_it_is_black() -> None:
    lines = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    lines.paste((255, 255, 255, 255), (20, 20, 24, 50))
    hint = await decoded(lines, (64, 64))
    assert hint.shape == (64, 64, 3)
    assert hint[30, 22].tolist() == [255] * 3
    assert hint.sum() == 4 * 30 * 3 * 255


@pytest.mark.parametrize("preprocessor", ["none", "canny", "sobel"])
@pytest.mark.parametrize("size", [(40, 70), (1, 1), (20_000, 1), (1, 9_000)])
@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB", "LA", "RGBA", "I;16", "CMYK"])
async def test_a_hint_of_any_mode_and_size_comes_to_the_drawings(
    mode: str, size: tuple[int, int], preprocessor: Preprocessor
) -> None:
    hint = await decoded(Image.new(mode, size), (64, 96))
    assert prepare_hint(hint, preprocessor, (40, 200)).shape == (96, 64, 3)


async def test_fit_shows_all_of_it_and_crop_the_middle() -> None:
    wide = Image.new("RGB", (128, 64))
    wide.paste("red", (0, 0, 20, 64))
    fitted = await decoded(wide, (64, 64), "fill")
    cropped = await decoded(wide, (64, 64), "crop")
    assert fitted[32, 3].tolist() == [255, 0, 0]
    assert not cropped.any()

"""How a picture comes to the size that is drawn."""

import numpy as np
import pytest
from PIL import Image

from sdworker.pictures import to_pixels
from sdworker.settings import Resize

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def flag(width: int, height: int) -> Image.Image:
    """Red on the left, green in the middle, blue on the right, a third each."""
    picture = Image.new("RGB", (width, height), GREEN)
    picture.paste(RED, (0, 0, width // 3, height))
    picture.paste(BLUE, (width - width // 3, 0, width, height))
    return picture


def near(pixel: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() < 30)


@pytest.mark.parametrize("resize", ["stretch", "crop", "fill", "keep"])
@pytest.mark.parametrize("size", [(192, 64), (64, 192), (1, 500), (333, 77), (64, 64)])
def test_the_size_is_the_one_asked_for(resize: Resize, size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, RED)
    assert to_pixels(picture, 64, 128, resize).shape == (128, 64, 3)
    assert to_pixels(picture.convert("L"), 64, 128, resize).shape == (128, 64)
    assert near(to_pixels(picture, 64, 128, resize)[5, 5], RED)


def test_stretch_shows_everything_in_another_shape() -> None:
    row = to_pixels(flag(192, 64), 64, 64, "stretch")[32]
    assert (near(row[5], RED), near(row[32], GREEN), near(row[58], BLUE)) == (True, True, True)


def test_crop_shows_the_middle_in_its_shape() -> None:
    row = to_pixels(flag(192, 64), 64, 64, "crop")[32]
    assert all(near(pixel, GREEN) for pixel in row[2:-2])


def test_fill_shows_everything_in_its_shape_and_goes_on_with_the_edges_colour() -> None:
    picture = Image.new("RGB", (64, 32), GREEN)
    picture.paste(RED, (0, 0, 64, 8))
    picture.paste(BLUE, (0, 24, 64, 32))
    column = to_pixels(picture, 64, 64, "fill")[:, 30]
    assert all(near(pixel, RED) for pixel in column[:20])
    assert near(column[32], GREEN)
    assert all(near(pixel, BLUE) for pixel in column[44:])


@pytest.mark.parametrize("resize", ["stretch", "crop", "fill"])
@pytest.mark.parametrize("mask_size", [(192, 64), (96, 32), (64, 64), (40, 200)])
def test_a_mask_of_any_size_stays_over_what_it_covers(resize: Resize, mask_size: tuple[int, int]) -> None:
    picture = flag(192, 64)
    mask = Image.new("L", mask_size, 0)
    mask.paste(255, (round(mask_size[0] / 3), 0, round(mask_size[0] * 2 / 3), mask_size[1]))
    image = to_pixels(picture, 128, 64, resize)
    covered = to_pixels(mask, 128, 64, resize, like=picture.size)
    green = (image[32, :, 1] > 128) & (image[32, :, 0] < 128) & (image[32, :, 2] < 128)
    assert (green == (covered[32] > 128)).mean() > 0.95


def test_stretch_is_what_it_always_was() -> None:
    picture = flag(200, 90)
    plain = np.array(picture.resize((64, 72), Image.Resampling.LANCZOS))
    assert (to_pixels(picture, 64, 72) == plain).all()

"""Compositing, the prepared file, and reading a background's colour back."""

import json
from pathlib import Path

import numpy as np
import pytest
from builder.emoji import pictures
from builder.emoji.evaluate import background_of
from builder.emoji.pictures import COLOURS, Emojis


class TestComposite:
    def test_transparent_shows_the_colour_and_opaque_hides_it(self, emojis: Emojis) -> None:
        drawn = pictures.on_colour(emojis.pictures, "blue")
        assert tuple(drawn[0, 0, 0]) == COLOURS["blue"]
        assert tuple(drawn[0, 64, 64]) == tuple(emojis.pictures[0, 64, 64, :3])

    def test_half_transparent_is_half_way(self, emojis: Emojis) -> None:
        middle = pictures.on_colour(emojis.pictures, "white")[4, 64, 64].astype(int)
        expected = (np.array(emojis.pictures[4, 64, 64, :3], float) + 255) / 2
        assert np.abs(middle - expected).max() <= 1


@pytest.mark.parametrize("colour", COLOURS)
def test_background_is_read_back_from_the_corners(emojis: Emojis, colour: str) -> None:
    assert {background_of(picture) for picture in pictures.on_colour(emojis.pictures, colour)} == {colour}


def test_prepared_file_reads_back(emojis: Emojis, tmp_path: Path) -> None:
    tags = np.array([json.dumps(tags) for tags in emojis.tags])
    np.savez_compressed(
        tmp_path / "data.npz",
        pictures=emojis.pictures,
        names=np.array(emojis.names),
        tags=tags,
        groups=emojis.groups,
    )
    read = pictures.load(tmp_path / "data.npz")
    assert (read.names, read.tags) == (emojis.names, emojis.tags)
    assert (read.pictures == emojis.pictures).all()


def test_contact_sheet_goes_row_by_row(emojis: Emojis) -> None:
    sheet = pictures.contact_sheet(pictures.on_colour(emojis.pictures, "white"), columns=4)
    assert sheet.size == (4 * 128, 2 * 128)
    assert sheet.getpixel((64, 128 + 64)) == tuple(pictures.on_colour(emojis.pictures, "white")[4, 64, 64])

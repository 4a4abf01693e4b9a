"""Six emoji nobody has to download: plain shapes with names."""

import numpy as np
import pytest
from builder.emoji.pictures import SIZE, Emojis
from PIL import Image, ImageDraw

SHAPES = {
    "red circle": ("ellipse", (220, 40, 40, 255)),
    "blue circle": ("ellipse", (40, 60, 220, 255)),
    "green square": ("rectangle", (40, 160, 60, 255)),
    "yellow square": ("rectangle", (240, 220, 60, 255)),
    "orange circle: half seen": ("ellipse", (250, 140, 30, 128)),
    "o’clock": ("rectangle", (20, 20, 20, 255)),
}


@pytest.fixture(scope="session")
def emojis() -> Emojis:
    pictures = []
    for shape, colour in SHAPES.values():
        picture = Image.new("RGBA", (SIZE, SIZE))
        getattr(ImageDraw.Draw(picture), shape)((24, 24, 104, 104), fill=colour)
        pictures.append(np.array(picture))
    return Emojis(
        np.stack(pictures), list(SHAPES), [name.split()[::-1] for name in SHAPES], np.zeros(len(SHAPES), int)
    )

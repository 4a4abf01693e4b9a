"""Is this the dog? What the embedded model draws is, of two dozen pictures, most like the one that was asked for.

`references.png` holds those pictures, shrunk to 32 px, eight in a row, in the order of NAMES: Microsoft's Fluent
emoji, under the licence in models/emoji/LICENSE, from the data that the model was trained on.
"""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine

SIDE = 32
# fmt: off
NAMES = [
    "dog", "cat face", "pizza", "red heart", "rocket", "strawberry", "red apple", "grinning face",
    "frog", "house", "key", "blue book", "crown", "soccer ball", "sun", "ghost",
    "penguin", "hamburger", "elephant", "octopus", "banana", "Christmas tree", "automobile", "sunflower",
]
# fmt: on
REFERENCES = Path(__file__).with_name("references.png")
EXAMPLE_JOB = Path(__file__).resolve().parents[2] / "test_input.json"

PLAIN = Drawing(
    prompt="",
    negative_prompt="",
    width=128,
    height=128,
    steps=20,
    guidance=4.0,
    sampler="DPM++ 2M Karras",
    seeds=(7,),
)


@pytest.fixture(scope="module")
def references() -> np.ndarray:
    """[24, 32, 32, 3] in 0 … 255."""
    sheet = np.asarray(Image.open(REFERENCES).convert("RGB"), np.float64)
    rows = len(NAMES) // 8
    return sheet.reshape(rows, SIDE, 8, SIDE, 3).swapaxes(1, 2).reshape(len(NAMES), SIDE, SIDE, 3)


def most_like(image: np.ndarray, references: np.ndarray) -> str:
    """The name of the reference that differs least, pixel by pixel."""
    small = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    return NAMES[int(((references - small) ** 2).mean((1, 2, 3)).argmin())]


async def draw(engine: Engine, *prompts: str) -> list[np.ndarray]:
    drawn = await asyncio.gather(*(engine.draw(replace(PLAIN, prompt=prompt)) for prompt in prompts))
    return [images[0] for images in drawn]


@pytest.mark.slow
async def test_a_name_draws_what_it_names(engine: Engine, references: np.ndarray) -> None:
    images = await draw(engine, *NAMES)
    assert [most_like(image, references) for image in images] == NAMES


async def test_words_it_never_read_do_not_keep_it_from_those_it_knows(
    engine: Engine, references: np.ndarray
) -> None:
    example = json.loads(EXAMPLE_JOB.read_text("utf-8"))["input"]["prompt"]
    images = await draw(engine, "a cute fluffy white dog in the style of a Pixar animation", example)
    assert [most_like(image, references) for image in images] == ["dog", "dog"]


async def test_the_negative_prompt_counts(engine: Engine) -> None:
    plain, without = await asyncio.gather(
        engine.draw(replace(PLAIN, prompt="dog")),
        engine.draw(replace(PLAIN, prompt="dog", negative_prompt="brown")),
    )
    assert not np.array_equal(plain[0], without[0])


async def test_a_named_background_has_its_colour(engine: Engine) -> None:
    (image,) = await draw(engine, "red heart on a blue background")
    corner = image[:8, :8].reshape(-1, 3).mean(0)
    assert corner.argmax() == 2
    assert corner[2] - corner[0] > 80


async def test_weights_schedules_and_late_words_are_seen(engine: Engine, references: np.ndarray) -> None:
    images = await draw(
        engine,
        "[ghost:sun:1]",
        "[sun:ghost:16]",
        "(ghost:0) (sun:1.4)",
        "sun AND ghost :0",
        "a picture of " * 30 + "red heart",
        "a picture of " * 30 + "BREAK sun",
    )
    assert [most_like(image, references) for image in images] == [
        "sun", "sun", "sun", "sun", "red heart", "sun"
    ]  # fmt: skip


async def test_the_weight_of_a_colour_is_how_much_of_it_there_is(engine: Engine) -> None:
    images = await draw(engine, *(f"a (red:{weight}) heart" for weight in (0.2, 1.0, 1.4)))
    redness = [float((image[..., 0].astype(int) - image[..., 2]).mean()) for image in images]
    assert redness == sorted(redness)

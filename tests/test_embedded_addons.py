"""What lies under models/ does what its cards say: LoRA, embedding, ControlNet and upscaler, all in one batch."""

import asyncio
import base64
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from sdworker.settings import Settings
from sdworker.startup import build_worker

STEPS = 15


def star() -> str:
    """A black five-pointed star on white, 128 px, as a PNG in base64."""
    image = Image.new("RGB", (128, 128), "white")
    turns = np.radians(np.arange(10) * 36 - 90)
    radii = np.where(np.arange(10) % 2, 20, 46)
    points = zip(64 + radii * np.cos(turns), 64 + radii * np.sin(turns), strict=True)
    ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in points], fill="black")
    file = BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


LED = {"controls": [{"model": "edges", "image": star(), "preprocessor": "canny"}]}
JOBS: dict[str, dict[str, Any]] = {
    "red": {"prompt": "red star", **LED},
    "blue": {"prompt": "blue star", **LED, "return_control": True},
    "plain": {"prompt": "red heart"},
    "pencil": {"prompt": "red heart <lora:pencil:1>"},
    "cube": {"prompt": "a photo of a dot-cube"},
    "large": {"prompt": "red heart", "upscale": {"model": "emoji-x2"}},
}


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[np.ndarray]]:
    """Of each job its pictures, uint8 RGB; all jobs at once, by the worker as it starts by itself."""

    async def run() -> list[list[dict[str, Any]]]:
        worker = build_worker(Settings(default_steps=STEPS))
        try:
            return await asyncio.gather(
                *(
                    worker.run({"id": name, "input": {"seed": 7, "guidance_scale": 4, **given}})
                    for name, given in JOBS.items()
                )
            )
        finally:
            worker.engine.close()

    outputs = asyncio.run(run())
    return {
        name: [
            np.asarray(Image.open(BytesIO(base64.b64decode(item["image"]))).convert("RGB")) for item in output
        ]
        for name, output in zip(JOBS, outputs, strict=True)
    }


def saturation(image: np.ndarray) -> float:
    """Mean of (largest - least) / 255 of a pixel's colours."""
    return float((image.max(2).astype(float) - image.min(2)).mean() / 255)


def strongest(image: np.ndarray) -> np.ndarray:
    """The mean colour of what has one."""
    strong: np.ndarray = image[image.max(2).astype(int) - image.min(2) > 60].mean(0)
    return strong


@pytest.mark.parametrize(("name", "channel"), [("red", 0), ("blue", 2)])
def test_the_prompt_decides_the_colour_of_what_the_hint_shapes(
    drawn: dict[str, list[np.ndarray]], name: str, channel: int
) -> None:
    picture, hint = drawn[name][0], drawn["blue"][1]
    assert strongest(picture).argmax() == channel
    near = np.asarray(Image.fromarray(hint).convert("L").filter(ImageFilter.MaxFilter(9))) > 0
    painted = np.pad(picture.max(2).astype(int) - picture.min(2) > 60, 1)
    inner = painted[:-2, 1:-1] & painted[2:, 1:-1] & painted[1:-1, :-2] & painted[1:-1, 2:]
    outline = painted[1:-1, 1:-1] & ~inner
    assert near[outline].mean() > 0.8


def test_the_pencil_takes_colour_out(drawn: dict[str, list[np.ndarray]]) -> None:
    assert saturation(drawn["pencil"][0]) < 0.8 * saturation(drawn["plain"][0])


def test_the_embedding_draws_what_the_model_never_saw(drawn: dict[str, list[np.ndarray]]) -> None:
    red, green, blue = drawn["cube"][0].astype(int).transpose(2, 0, 1)
    assert ((blue - red > 80) & (blue - green > 40)).mean() > 0.2
    assert ((red - blue > 80) & (green - blue > 80)).mean() > 0.01


def test_the_upscaler_doubles_and_changes_nothing_else(drawn: dict[str, list[np.ndarray]]) -> None:
    large, plain = drawn["large"][0], drawn["plain"][0]
    assert large.shape == (256, 256, 3)
    small = np.asarray(Image.fromarray(large).resize((128, 128), Image.Resampling.BOX), float)
    assert np.abs(small - plain).mean() < 6

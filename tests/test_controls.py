"""Jobs with ControlNets, from their input to their output."""

import base64
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from PIL import Image

from sdworker.assets import AddOnError
from sdworker.engine.controls import ControlError, ControlNet
from sdworker.errors import UserError
from sdworker.settings import Settings
from sdworker.startup import build_worker
from sdworker.worker import Worker
from tests.engine.controls.conftest import random_net


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ControlNets for the embedded model, one for another, one that is broken."""
    folder = tmp_path_factory.mktemp("nets")
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    for seed, name in enumerate(("edges", "depth")):
        random_net(unet, seed).save_pretrained(folder / name)
    random_net(unet, 0, cross_attention_dim=96).save_pretrained(folder / "foreign")
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    return folder


@pytest.fixture(scope="module")
def worker(model: Path, folder: Path) -> Iterator[Worker]:
    worker = build_worker(Settings(model_dir=model, controlnet_dir=folder, default_steps=3))
    yield worker
    worker.engine.close()


def encoded(image: Image.Image) -> str:
    file = BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def pixels(item: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(item["image"]))))


@pytest.fixture(scope="module")
def photo() -> str:
    image = Image.new("RGB", (200, 100), "white")
    image.paste("navy", (60, 20, 130, 80))
    return encoded(image)


async def run(worker: Worker, **given: Any) -> list[dict[str, Any]]:
    return await worker.run({"id": "x", "input": {"prompt": "a red apple", "seed": 3, **given}})


async def test_what_the_nets_saw_comes_behind_the_images(worker: Worker, photo: str) -> None:
    output = await run(
        worker,
        num_outputs=2,
        controls=[
            {"model": "edges", "image": photo, "preprocessor": "canny", "resize": "crop"},
            {"model": "Depth", "image": photo, "scale": 0.3},
        ],
        return_control=True,
    )
    assert [sorted(item) for item in output] == [["image", "seed"]] * 2 + [["control", "image"]] * 2
    assert [item["control"] for item in output[2:]] == [0, 1]
    canny, shown = pixels(output[2]), pixels(output[3])
    assert canny.shape == shown.shape == (128, 128, 3)
    assert set(np.unique(canny)) == {0, 255}
    assert shown[0, 0].tolist() == [255] * 3


async def test_a_control_changes_the_image_and_says_so_in_it(worker: Worker, photo: str) -> None:
    plain = await run(worker)
    led = await run(
        worker, controls=[{"model": "edges", "image": photo, "preprocessor": "canny", "end": 0.8}]
    )
    assert len(led) == 1
    assert not np.array_equal(pixels(plain[0]), pixels(led[0]))
    text = Image.open(BytesIO(base64.b64decode(led[0]["image"]))).info["parameters"]
    assert 'ControlNet 0: "Module: canny, Model: edges, Weight: 1.0, ' in text
    assert "Guidance End: 0.8" in text


async def test_without_a_picture_of_its_own_the_net_is_shown_the_init_image(
    worker: Worker, photo: str
) -> None:
    controls = [{"model": "edges", "preprocessor": "canny"}]
    output = await run(worker, init_image=photo, controls=controls, return_control=True)
    assert pixels(output[1]).shape == pixels(output[0]).shape == (96, 200, 3)
    assert pixels(output[1]).any()


@pytest.mark.parametrize("from_init_image", [False, True])
async def test_a_second_pass_is_shown_a_hint_of_its_own_size_made_of_the_picture(
    worker: Worker, photo: str, monkeypatch: pytest.MonkeyPatch, from_init_image: bool
) -> None:
    """Lines that a preprocessor draws are one pixel wide in both."""
    seen: list[np.ndarray] = []
    embed = ControlNet.embed

    def noted(net: ControlNet, hint: np.ndarray) -> Any:
        seen.append(hint)
        return embed(net, hint)

    monkeypatch.setattr(ControlNet, "embed", noted)
    control = {"model": "edges", "preprocessor": "canny", "resize": "stretch"}
    pictures = {"init_image": photo} if from_init_image else {}
    control |= {} if from_init_image else {"image": photo}
    await run(worker, width=64, height=64, hires={"scale": 2}, controls=[control], **pictures)
    small, large = (hint[:, :, 0] for hint in seen)
    assert (small.shape, large.shape) == ((64, 64), (128, 128))
    assert set(np.unique(large)) == {0, 255}
    # Of a rectangle, twice as large: twice as many pixels, not four times.
    assert 1.5 < (large > 0).sum() / (small > 0).sum() < 2.5


@pytest.mark.parametrize(
    ("control", "kind", "message"),
    [
        (
            {"model": "edgs"},
            AddOnError,
            "controls[0].model: there is no ControlNet named 'edgs'; did you mean 'edges'?",
        ),
        (
            {"model": "zebra"},
            AddOnError,
            "there is no ControlNet named 'zebra'; there are broken, depth, edges, foreign",
        ),
        ({"model": "../../secret"}, AddOnError, "there is no ControlNet named"),
        ({"model": "foreign"}, ControlError, "'foreign' is for another kind of model: its texts are 96 wide"),
        ({"model": "broken"}, ControlError, "controls: the ControlNet 'broken' "),
        ({"model": "edges", "image": "data:,"}, UserError, "controls[0].image: "),
        ({"model": "edges", "image": "bm90IGEgcGljdHVyZQ=="}, UserError, "controls[0].image: "),
        ({"model": "edges", "image": "http://127.0.0.1/x.png"}, UserError, "controls[0].image: "),
    ],
)
async def test_what_cannot_be_had_is_refused_by_its_field_and_the_next_job_draws(
    worker: Worker, photo: str, folder: Path, control: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as error:
        await run(worker, controls=[{"image": photo, **control}])
    assert message in str(error.value)
    assert str(folder) not in str(error.value)
    assert await run(worker, controls=[{"model": "edges", "image": photo}])

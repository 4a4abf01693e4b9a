"""Jobs that ask for larger pictures, through the worker: what they get, and what is refused at once."""

import base64
import io
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdworker.errors import UserError
from sdworker.larger import _FILTERS, _LATENT
from sdworker.request.declaration import ENLARGED_BY
from sdworker.settings import Settings
from sdworker.startup import build_worker
from sdworker.worker import Worker

UPSCALERS = Path(__file__).resolve().parents[1] / "models" / "upscalers"
JOB = {"prompt": "a red apple", "width": 64, "height": 64, "steps": 2, "seed": 3}


@pytest.fixture
async def worker(model: Path) -> AsyncIterator[Worker]:
    worker = build_worker(Settings(model_dir=model, max_rows=8, max_pixels=256 * 256, upscaler_dir=UPSCALERS))
    yield worker
    worker.engine.close(finish=False)


async def run(worker: Worker, **job: Any) -> list[Image.Image]:
    items = await worker.run({"id": "one", "input": job})
    return [Image.open(io.BytesIO(base64.b64decode(item["image"]))) for item in items]


def as_input(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)


async def test_images_are_enlarged_once_they_are_done(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sdworker.worker")
    plain = await run(worker, **JOB, num_outputs=2)
    large = await run(worker, **JOB, num_outputs=2, upscale={"model": "emoji-x2"})
    assert [one.size for one in large] == [(128, 128)] * 2
    assert ", upscale " in caplog.text
    for before, after in zip(plain, large, strict=True):
        again = np.asarray(after.convert("RGB").resize((64, 64), Image.Resampling.BOX)).astype(int)
        assert np.abs(again - np.asarray(before.convert("RGB"))).mean() < 8
    assert "Postprocess upscale by: 2.0, Postprocess upscaler: emoji-x2" in large[0].info["parameters"]


@pytest.mark.parametrize("scale", [1.5, 2, 3, 8])
async def test_any_scale_is_made_of_the_networks_own(
    worker: Worker, picture: np.ndarray, scale: float
) -> None:
    (large,) = await run(
        worker, init_image=as_input(picture), steps=0, upscale={"model": "EMOJI-x2", "scale": scale}
    )
    assert large.size == (round(70 * scale), round(50 * scale))


async def test_a_picture_is_only_enlarged_where_there_are_no_steps(
    worker: Worker, picture: np.ndarray
) -> None:
    """And is what the network makes of it, in its own size, whatever the model's is."""
    from sdworker.engine.upscaling import Upscaler

    (large,) = await run(worker, init_image=as_input(picture), steps=0, upscale={"model": "emoji-x2"})
    network = Upscaler.load(UPSCALERS / "emoji-x2.safetensors", "it", device=torch.device("cpu"))
    chore = network.chore(picture)
    while not chore.do_piece():
        pass
    assert chore.coming is not None
    assert np.array_equal(np.asarray(large.convert("RGB")), chore.coming.get())


async def test_hires_and_upscale_together(worker: Worker) -> None:
    told: list[tuple[int, int]] = []
    job = {**JOB, "hires": {"scale": 1.5, "upscaler": "emoji-x2"}, "upscale": {"model": "emoji-x2"}}
    (item,) = await worker.run({"id": "one", "input": job}, lambda *now: told.append(now))
    image = Image.open(io.BytesIO(base64.b64decode(item["image"])))
    assert image.size == (192, 192)
    assert told[-1] == (3, 3)
    assert "Hires upscale: 1.5, Hires steps: 2, Hires upscaler: emoji-x2" in image.info["parameters"]
    assert item["seed"] == 3


async def test_a_masked_picture_is_drawn_again_with_its_own_pixels_around_the_mask(worker: Worker) -> None:
    """What is not repainted was never small: it has the detail of the picture that was sent."""
    fine = np.zeros((256, 256, 3), np.uint8)
    fine[:, np.arange(256) % 32 < 16] = 255  # stripes that the latents of 64 pixels cannot hold
    mask = np.zeros((256, 256), np.uint8)
    mask[128:, 128:] = 255
    job = {**JOB, "init_image": as_input(fine), "mask": as_input(mask), "strength": 0.9}
    (small,) = await run(worker, **job)
    (large,) = await run(worker, **job, hires={"scale": 4, "upscaler": "lanczos", "strength": 0.5})
    (latent,) = await run(worker, **job, hires={"scale": 4})
    assert (small.size, large.size, latent.size) == ((64, 64), (256, 256), (256, 256))

    def contrast(image: Image.Image) -> float:
        return float(np.asarray(image.convert("L"))[:96, :96].std())

    assert min(contrast(large), contrast(latent)) > 2 * contrast(small.resize((256, 256)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upscale": {"model": "emoji-x3"}}, "no upscaler named 'emoji-x3'; did you mean 'emoji-x2'"),
        ({"hires": {"upscaler": "lanczoz"}}, "no upscaler named 'lanczoz'"),
        ({"upscale": {"model": "../../emoji/vae/diffusion_pytorch_model"}}, "no upscaler named"),
        ({"upscale": {}}, "upscale.model: is missing"),
        ({"upscale": {"model": "emoji-x2", "scale": 9}}, "upscale.scale: 9 is not allowed"),
        ({"upscale": {"model": "emoji-x2", "scale": float("nan")}}, "upscale.scale: nan"),
        ({"upscale": "emoji-x2"}, "upscale: 'emoji-x2' is not allowed; allowed: an object with model"),
        ({"hires": {"scale": 5}}, "hires.scale: 5 is not allowed"),
        ({"hires": {"strength": 0}}, "hires.strength: 0 is not allowed"),
        ({"hires": {"scale": 4, "strenght": 1}}, "strenght.* the nearest is strength"),
        ({"hires": {"width": 1024}}, "hires: 1024x1024 is too large; allowed: .*MAX_PIXELS"),
        ({"hires": {"width": 128, "height": 64}}, "hires: 128x64 is of another shape than the 64x64"),
        ({"width": 128, "height": 128, "hires": {"width": 64}}, "hires: 64x64 is smaller than the 128x128"),
        (
            {"hires": {"width": 1024}, "mask": "x", "init_image": "x"},
            "hires: 1024x1024 is too large; allowed: .*MAX_PIXELS",
        ),
        ({"steps": 0}, "0 is not allowed; .* or 0 with an init_image and an upscale"),
        ({"steps": 0, "upscale": {"model": "emoji-x2"}}, "or 0 with an init_image"),
        (
            {"steps": 0, "upscale": {"model": "emoji-x2"}, "init_image": "x", "hires": {}},
            "hires: cannot be had",
        ),
        (
            {"steps": 0, "upscale": {"model": "emoji-x2"}, "init_image": "x", "num_outputs": 2},
            "one picture is enlarged to one",
        ),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_drawn(
    worker: Worker, changes: dict[str, Any], message: str
) -> None:
    drawn: list[Any] = []
    with pytest.raises(UserError, match=message):
        await worker.run({"id": "one", "input": JOB | changes}, lambda *now: drawn.append(now))
    assert drawn == []


async def test_a_picture_too_large_once_it_is_enlarged_is_refused(model: Path, picture: np.ndarray) -> None:
    worker = build_worker(
        Settings(model_dir=model, max_upscaled_pixels=100 * 100, upscaler_dir=UPSCALERS, max_pixels=256 * 256)
    )
    with pytest.raises(UserError, match=r"upscale: 140x100 is 14000 pixels; .*\(MAX_UPSCALED_PIXELS\)"):
        await run(worker, init_image=as_input(picture), steps=0, upscale={"model": "emoji-x2"})
    with pytest.raises(UserError, match="upscale: 128x128"):
        await run(worker, **JOB, upscale={"model": "emoji-x2"})
    worker.engine.close(finish=False)


class TestAutomatic1111:
    def hires_of(self, worker: Worker, **given: Any) -> dict[str, Any]:
        request = worker.contract.parse({"prompt": "x", "width": 64, "height": 64, **given})
        assert request.hires is not None
        return request.hires.model_dump()

    async def test_its_hires_fix_is_understood(self, worker: Worker) -> None:
        hires = self.hires_of(
            worker,
            steps=20,
            enable_hr=True,
            hr_scale=2,
            hr_upscaler="Latent",
            denoising_strength=0.5,
            hr_second_pass_steps=10,
            hr_resize_x=0,
            hr_resize_y=0,
            hr_sampler_name=None,
            hr_prompt="",
        )
        # There all ten steps are run, and here half of twenty.
        assert hires == {
            "scale": 2.0, "width": None, "height": None, "steps": 20, "strength": 0.5, "upscaler": "Latent"
        }  # fmt: skip

    async def test_its_defaults_and_sizes(self, worker: Worker) -> None:
        hires = self.hires_of(worker, steps=15, enable_hr=True, hr_scale=2, hr_resize_x=96, hr_resize_y=96)
        assert (hires["width"], hires["height"], hires["strength"], hires["steps"]) == (96, 96, 0.75, 20)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"enable_hr": 0}, "enable_hr: 0 is not allowed; allowed: true or false"),
            ({"enable_hr": "yes"}, "enable_hr: 'yes' is not allowed; allowed: true or false"),
            ({"enable_hr": True, "hr_prompt": "y"}, "hr_prompt: 'y' asks for a second pass with another one"),
            ({"enable_hr": True, "hr_scale": 9}, r"enable_hr.hr_scale|hires.scale|9"),
            ({"enable_hr": True, "hires": {}}, "hires: is given twice"),
        ],
    )
    async def test_what_it_cannot_have_is_said(
        self, worker: Worker, given: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            self.hires_of(worker, **given)


def test_what_enlarges_without_a_network_is_offered_by_its_name() -> None:
    assert set(ENLARGED_BY) == set(_LATENT | _FILTERS) - {"none"}

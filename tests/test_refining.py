"""A worker whose model has a refiner in its folder: who asks for it gets it, and it shares the memory there is."""

import asyncio
import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from bench.random_model import TINY_SDXL, write_random_model, write_random_refiner
from sdworker.catalogue import list_models
from sdworker.engine.model_config import ModelError
from sdworker.engine.model_files import check_model_folder
from sdworker.engine.networks.families import weights_bytes
from sdworker.request import Contract, InputError, ServedModel
from sdworker.settings import Settings
from sdworker.startup import build_worker
from sdworker.worker import Worker

JOB = {
    "prompt": "a red apple",
    "negative_prompt": "blue",
    "num_inference_steps": 6,
    "refiner_inference_steps": 10,
    "high_noise_frac": 0.5,
    "scheduler": "K_EULER",
    "seed": 7,
    "width": 64,
    "height": 64,
}
PICTURE = "data:image/png;base64,AA=="


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "xl"
    write_random_model(folder, TINY_SDXL)
    write_random_refiner(folder)
    return folder


def settings(**values: Any) -> Settings:
    return Settings(**{"device": "cpu", "warm_up": False, **values})


@pytest.fixture
def worker(folder: Path) -> Iterator[Worker]:
    worker = build_worker(settings(model_dir=folder))
    yield worker
    worker.models.close()
    worker.engine.close()


async def draw(worker: Worker, **fields: Any) -> Image.Image:
    (output,) = await worker.run({"id": "job", "input": {**JOB, **fields}})
    return Image.open(BytesIO(base64.b64decode(output["image"])))


async def test_a_job_is_drawn_as_the_two_calls_of_diffusers_draw_it(worker: Worker, folder: Path) -> None:
    ours = await draw(worker)
    assert "Refiner switch at: 0.5" in ours.info["parameters"]
    base = diffusers.StableDiffusionXLPipeline.from_pretrained(
        folder, dtype=torch.float32, add_watermarker=False
    )
    refiner = diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(
        folder / "refiner", dtype=torch.float32, add_watermarker=False
    )
    for pipeline in (base, refiner):
        pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(base.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
    said: dict[str, Any] = {"prompt": JOB["prompt"], "negative_prompt": "blue", "guidance_scale": 7.5}
    latents = base(
        **said, width=64, height=64, num_inference_steps=6, denoising_end=0.5, output_type="latent",
        generator=torch.Generator().manual_seed(7),
    ).images  # fmt: skip
    (theirs,) = refiner(
        **said, image=latents, num_inference_steps=10, denoising_start=0.5, output_type="np",
        generator=torch.Generator().manual_seed(7),
    ).images  # fmt: skip
    difference = np.abs(np.asarray(ours, int) - (theirs * 255).round())
    assert difference.max() <= 1
    plain = await draw(worker, high_noise_frac=None)
    assert np.abs(np.asarray(ours, int) - np.asarray(plain, int)).max() > 1


async def test_progress_goes_on_counting_and_ends_at_the_end(worker: Worker) -> None:
    told: list[tuple[int, int]] = []
    await worker.run({"id": "job", "input": JOB}, lambda done, count: told.append((done, count)))
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert told[-1][0] == told[-1][1]


async def test_where_model_and_refiner_do_not_both_fit_they_take_turns(folder: Path) -> None:
    largest = max(
        weights_bytes(check_model_folder(place, refines=refines), torch.float32)
        for place, refines in ((folder, False), (folder / "refiner", True))
    )
    worker = build_worker(settings(model_dir=folder, model_memory_gb=1.2 * largest / 1e9))
    async with asyncio.timeout(60):
        images = await asyncio.gather(*(draw(worker, seed=seed) for seed in (1, 2, 1)), draw(worker))
    assert len(worker.models.loaded) == 1
    first, _, again, _ = (np.asarray(image, int) for image in images)
    assert np.abs(first - again).max() <= 1
    worker.models.close()
    worker.engine.close()


async def test_beside_a_picture_nobody_takes_over(worker: Worker) -> None:
    file = BytesIO()
    Image.new("RGB", (64, 64), (200, 80, 40)).save(file, "PNG")
    picture = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    image = await draw(worker, image_url=picture)
    assert "Refiner" not in image.info["parameters"]
    assert "Steps: 10" in image.info["parameters"]


def test_a_damaged_refiner_stops_the_start_by_its_name(folder: Path, tmp_path: Path) -> None:
    write_random_model(tmp_path / "xl", TINY_SDXL)
    write_random_refiner(tmp_path / "xl")
    (tmp_path / "xl" / "refiner" / "unet" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"refiner/unet/config.json is damaged"):
        list_models(settings(model_dir=tmp_path / "xl"))


class TestTheContract:
    WITH = Contract(Settings(), (64, 64), (ServedModel("xl", (64, 64), refines=True),))
    WITHOUT = Contract(Settings(), (64, 64), (ServedModel("xl", (64, 64)),))

    @pytest.mark.parametrize(
        ("given", "label"),
        [
            ({"high_noise_frac": 0.7}, "high_noise_frac: 0.7"),
            ({"refiner_inference_steps": 20}, "refiner_inference_steps (refiner_steps): 20"),
            ({"refiner_steps": 20}, "refiner_steps: 20"),
        ],
    )
    def test_a_model_without_one_says_so_by_the_field(self, given: dict[str, Any], label: str) -> None:
        with pytest.raises(InputError) as caught:
            self.WITHOUT.parse({"prompt": "x", **given})
        assert str(caught.value) == (
            f"{label} asks for a refiner, which this model does not have; leave it out"
        )

    @pytest.mark.parametrize(
        "given",
        [
            {},
            {"high_noise_frac": 0.8, "refiner_inference_steps": 50},
            {"high_noise_frac": 1},
            {"high_noise_frac": None},
        ],
        ids=str,
    )
    def test_what_worker_sdxl_asks_by_default_asks_for_nothing_there(self, given: dict[str, Any]) -> None:
        request = self.WITHOUT.parse({"prompt": "x", **given})
        assert (request.high_noise_frac, request.refiner_steps) == (None, None)

    def test_a_model_that_has_one_takes_them(self) -> None:
        request = self.WITH.parse({"prompt": "x", "high_noise_frac": 0.8, "refiner_inference_steps": 50})
        assert (request.high_noise_frac, request.refiner_steps) == (0.8, 50)

    @pytest.mark.parametrize("value", [0, -1, 1.5, True, "x", float("nan")])
    def test_a_share_that_is_none_is_refused(self, value: Any) -> None:
        with pytest.raises(InputError, match="high_noise_frac"):
            self.WITH.parse({"prompt": "x", "high_noise_frac": value})

    def test_a_second_pass_cannot_be_had_beside_it(self) -> None:
        with pytest.raises(InputError, match="high_noise_frac: cannot be had beside hires"):
            self.WITH.parse({"prompt": "x", "high_noise_frac": 0.8, "hires": {"scale": 2}})

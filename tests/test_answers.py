"""Jobs of worker-sdxl and worker-sdxl-turbo through a real worker, answered as those workers answer."""

import base64
import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.random_model import TINY_SDXL, write_random_model
from sdworker.serverless.progress import Progress
from sdworker.serverless.service import Service
from sdworker.settings import Settings
from sdworker.startup import build_worker
from sdworker.worker import Worker

SDXL = {
    "prompt": "A majestic steampunk dragon soaring through a cloudy sky", "negative_prompt": "blurry, low quality",
    "height": 64, "width": 64, "num_inference_steps": 25, "refiner_inference_steps": 50, "guidance_scale": 7.5,
    "strength": 0.3, "high_noise_frac": 0.8, "seed": 42, "scheduler": "K_EULER", "num_images": 1,
    "image_url": None,
}  # fmt: skip
"""worker-sdxl's own example, but for its size."""

TURBO = {
    "prompt": "a majestic steampunk dragon soaring through a cloudy sky", "negative_prompt": "blurry, low quality",
    "height": 64, "width": 64, "num_inference_steps": 1, "guidance_scale": 0.0, "seed": 1337, "num_images": 1,
}  # fmt: skip
"""worker-sdxl-turbo's, likewise."""


@pytest.fixture(scope="module")
def turbo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny XL with the noise schedule of Turbo."""
    folder = tmp_path_factory.mktemp("models") / "turbo"
    write_random_model(folder, TINY_SDXL)
    file = folder / "scheduler" / "scheduler_config.json"
    schedule = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    file.write_text(json.dumps(json.loads(file.read_text()) | schedule))
    return folder


@pytest.fixture(scope="module")
def xl(turbo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "xl"
    shutil.copytree(turbo, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    schedule = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
    file.write_text(json.dumps(json.loads(file.read_text()) | schedule))
    return folder


def worker_of(folder: Path, **values: Any) -> Iterator[Worker]:
    settings = Settings(device="cpu", warm_up=False, model_dir=folder, **values)
    worker = build_worker(settings)
    yield worker
    worker.engine.close()


@pytest.fixture
def sdxl_worker(xl: Path) -> Iterator[Worker]:
    yield from worker_of(xl, sdxl_defaults=True)


@pytest.fixture
def turbo_worker(turbo: Path) -> Iterator[Worker]:
    yield from worker_of(turbo, answer="sdxl_turbo")


def opened(image: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(image)))


def picture(width: int, height: int) -> str:
    file = BytesIO()
    Image.new("RGB", (width, height), (200, 80, 40)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


async def test_worker_sdxls_example_is_answered_as_there(sdxl_worker: Worker) -> None:
    answer = await sdxl_worker.answer({"id": "job", "input": {**SDXL, "num_images": 2}})
    assert isinstance(answer, dict)
    assert answer.keys() == {"image_url", "images", "seed"}
    assert answer["seed"] == 42
    assert answer["image_url"] == answer["images"][0]
    assert len(answer["images"]) == 2
    beginning, _, data = answer["image_url"].partition(",")
    assert beginning == "data:image/png;base64"
    assert opened(data).size == (64, 64)
    assert "Sampler: Euler" in opened(data).info["parameters"]
    second = await sdxl_worker.run({"id": "job", "input": {**SDXL, "seed": 43}})
    ours, alone = (
        np.asarray(opened(one), int) for one in (answer["images"][1].partition(",")[2], second[0]["image"])
    )
    assert np.abs(ours - alone).max() <= 1


async def test_with_a_picture_the_refiners_steps_are_the_steps_and_its_size_stays(
    sdxl_worker: Worker,
) -> None:
    job = {"prompt": "x", "image_url": picture(72, 64), "refiner_inference_steps": 10, "seed": 1, "width": 64}
    answer = await sdxl_worker.answer({"id": "job", "input": {**job, "num_inference_steps": 25}})
    assert isinstance(answer, dict)
    image = opened(answer["image_url"].partition(",")[2])
    assert image.size == (72, 64)
    assert "Steps: 10, Sampler: DDIM" in image.info["parameters"]
    assert "Denoising strength: 0.3" in image.info["parameters"]


async def test_other_formats_say_what_they_are(sdxl_worker: Worker) -> None:
    answer = await sdxl_worker.answer({"id": "job", "input": {**SDXL, "output_format": "webp"}})
    assert isinstance(answer, dict)
    assert answer["image_url"].startswith("data:image/webp;base64,UklGR")


async def test_worker_sdxl_turbos_example_is_answered_as_there(turbo_worker: Worker) -> None:
    answer = await turbo_worker.answer({"id": "job", "input": TURBO})
    assert isinstance(answer, dict)
    assert answer.keys() == {"images", "generation_time", "parameters"}
    (image,) = answer["images"]
    assert image["seed"] == 1337
    assert opened(image["image"]).size == (64, 64)
    asked = {key: value for key, value in TURBO.items() if key != "num_images"}
    assert answer["parameters"] == asked
    assert answer["generation_time"] > 0


async def test_a_turbo_job_that_says_only_its_prompt_gets_one_step_without_guidance(
    turbo_worker: Worker,
) -> None:
    answer = await turbo_worker.answer({"id": "job", "input": {"prompt": "a dragon"}})
    assert isinstance(answer, dict)
    told = answer["parameters"]
    assert (told["num_inference_steps"], told["guidance_scale"], told["width"]) == (1, 0.0, 64)
    assert told["seed"] == answer["images"][0]["seed"]


async def test_the_platform_is_answered_so_too_and_a_failure_as_ever(xl: Path) -> None:
    service = Service(
        Settings(device="cpu", warm_up=False, model_dir=xl, sdxl_defaults=True, progress_interval_ms=0)
    )
    service.load_model()
    progress = Progress("job", interval_ms=0, addresses=None, session=None)
    answer = await service.answer({"id": "job", "input": {**SDXL, "num_inference_steps": 2}}, progress)
    assert answer["output"].keys() == {"image_url", "images", "seed"}
    answer = await service.answer({"id": "job", "input": {**SDXL, "refiner_inference_steps": 7}}, progress)
    assert answer["error"].startswith(
        "refiner_inference_steps: 7 asks for a refiner, which this worker does not do"
    )
    service._ready_worker.engine.close()

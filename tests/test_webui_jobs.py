"""Jobs of AUTOMATIC1111's web UI with hires and ControlNet, as they stand, and jobs of all kinds side by side."""

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from PIL import Image

from sdworker.engine.controls import ControlNet
from sdworker.engine.networks.autoencoder import Autoencoder
from sdworker.engine.upscaling import Upscaler
from sdworker.errors import UserError
from sdworker.settings import Settings
from sdworker.startup import build_worker
from sdworker.worker import Worker
from tests.engine.controls.conftest import random_net

UPSCALERS = Path(__file__).resolve().parents[1] / "models" / "upscalers"


def encoded(size: tuple[int, int] = (90, 60)) -> str:
    image = Image.new("RGB", size, "white")
    image.paste("navy", (20, 10, 60, 50))
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PHOTO = encoded()
UNIT: dict[str, Any] = {
    "advanced_weighting": None, "animatediff_batch": False, "batch_image_files": [], "batch_images": "",
    "batch_keyframe_idx": None, "batch_mask_dir": None, "batch_modifiers": [], "control_mode": "Balanced",
    "effective_region_mask": None, "enabled": True, "guidance_end": 1.0, "guidance_start": 0.0,
    "hr_option": "Both", "image": {"image": PHOTO, "mask": None},
    "inpaint_crop_input_image": True, "input_mode": "simple",
    "ipadapter_input": None, "is_ui": True, "loopback": False, "low_vram": False, "mask": None,
    "model": "edges [d14c016b]", "module": "canny", "output_dir": "", "pixel_perfect": True, "processor_res": 512,
    "pulid_mode": "Fidelity", "resize_mode": "Crop and Resize", "save_detected_map": True, "threshold_a": 100.0,
    "threshold_b": 200.0, "union_control_type": "Unknown", "weight": 0.8,
}  # fmt: skip
"""One of the web UI's ControlNet units, as its own API lists them."""
OFF = UNIT | {"enabled": False, "image": None, "model": "None", "module": "none"}
TEXT = {
    "prompt": "a (red:1.2) apple", "negative_prompt": "blue", "styles": [], "seed": 3, "subseed": -1,
    "subseed_strength": 0, "seed_resize_from_h": -1, "seed_resize_from_w": -1, "sampler_name": "DPM++ 2M",
    "scheduler": "Karras", "batch_size": 1, "n_iter": 1, "steps": 4, "cfg_scale": 7, "width": 64, "height": 64,
    "restore_faces": False, "tiling": False, "do_not_save_samples": False, "do_not_save_grid": False,
    "s_churn": 0, "s_tmax": None, "s_tmin": 0, "s_noise": 1, "override_settings": {},
    "override_settings_restore_afterwards": True, "refiner_checkpoint": None, "comments": {},
    "send_images": True, "save_images": False,
}  # fmt: skip
"""`/sdapi/v1/txt2img`, with what its schema fills in."""
HIRES = {
    "enable_hr": True, "denoising_strength": 0.5, "hr_scale": 2, "hr_upscaler": "Latent",
    "hr_second_pass_steps": 2,
    "hr_resize_x": 0, "hr_resize_y": 0, "hr_checkpoint_name": None, "hr_sampler_name": None, "hr_scheduler": None,
    "hr_prompt": "", "hr_negative_prompt": "", "firstphase_width": 0, "firstphase_height": 0,
}  # fmt: skip
IMAGE = {
    "init_images": [PHOTO], "denoising_strength": 0.6, "resize_mode": 1, "mask": None, "image_cfg_scale": 0,
    "include_init_images": False,
}  # fmt: skip
LED = {"alwayson_scripts": {"ControlNet": {"args": [UNIT, OFF, OFF]}}}
JOBS: dict[str, dict[str, Any]] = {
    "text": TEXT,
    "hires": TEXT | HIRES,
    "hires by an upscaler": TEXT | HIRES | {"hr_upscaler": "emoji-x2", "hr_scale": 1.5},
    "led": TEXT | LED,
    "led, hires": TEXT | HIRES | LED,
    "led, hires by Lanczos": TEXT | HIRES | LED | {"hr_upscaler": "Lanczos", "sampler_name": "Euler a"},
    "image, led": TEXT | IMAGE | LED,
}
ENLARGED = {"init_image": PHOTO, "num_inference_steps": 0, "upscale": {"model": "emoji-x2"}}


@pytest.fixture(scope="module")
def worker(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("nets")
    random_net(UNet2DConditionModel.from_pretrained(model / "unet"), 0).save_pretrained(folder / "edges")
    worker = build_worker(
        Settings(model_dir=model, controlnet_dir=folder, upscaler_dir=UPSCALERS, max_rows=8)
    )
    yield worker
    worker.engine.close()


async def run(worker: Worker, **given: Any) -> list[np.ndarray]:
    items = await worker.run({"id": "x", "input": given})
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(item["image"])))) for item in items]


async def test_they_run_as_they_stand_and_what_each_asks_for_shows(worker: Worker) -> None:
    drawn = dict(
        zip(JOBS, await asyncio.gather(*(run(worker, **given) for given in JOBS.values())), strict=True)
    )
    sizes = {name: images[0].shape[:2] for name, images in drawn.items()}
    assert sizes == {
        "text": (64, 64), "hires": (128, 128), "hires by an upscaler": (96, 96), "led": (64, 64),
        "led, hires": (128, 128), "led, hires by Lanczos": (128, 128), "image, led": (64, 64),
    }  # fmt: skip
    assert all(len(images) == 1 for images in drawn.values())
    assert not np.array_equal(drawn["text"][0], drawn["led"][0])
    assert not np.array_equal(drawn["hires"][0], drawn["led, hires"][0])


async def test_jobs_that_only_enlarge_come_out_the_same_beside_those_that_draw(worker: Worker) -> None:
    (alone,), (plain,) = await run(worker, **ENLARGED), await run(worker, **TEXT)
    both = [run(worker, **given) for given in (ENLARGED, TEXT, ENLARGED, JOBS["led, hires"], ENLARGED)]
    first, drawn, second, _, third = await asyncio.gather(*both)
    for (image,) in (first, second, third):
        assert image.shape == (120, 180, 3)
        assert np.abs(image.astype(int) - alone).max() <= 1
    assert np.abs(drawn[0].astype(int) - plain).max() <= 1


def lacking(*_: Any, **__: Any) -> Any:
    raise MemoryError


@pytest.mark.parametrize(
    ("fails", "place", "message"),
    [
        ("upscale", (Upscaler, "_run"), "out of memory enlarging 90x60 with the upscaler 'emoji-x2'"),
        ("led", (ControlNet, "__call__"), "out of memory in the ControlNet 'edges'"),
        ("hires", (Autoencoder, "decode_in_pieces"), "out of memory"),
    ],
)
async def test_where_memory_runs_out_for_one_kind_of_work_the_others_are_done(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, fails: str, place: tuple[Any, str], message: str
) -> None:
    jobs = {"upscale": ENLARGED, "led": JOBS["led"], "hires": JOBS["hires"]}
    with monkeypatch.context() as patched:
        patched.setattr(*place, lacking)
        done = await asyncio.gather(
            *(run(worker, **given) for given in jobs.values()), return_exceptions=True
        )
    results = dict(zip(jobs, done, strict=True))
    assert isinstance(results[fails], UserError)
    assert message in str(results[fails])
    if fails != "hires":  # without the VAE nobody's picture comes out
        assert all(isinstance(result, list) for name, result in results.items() if name != fails)
    assert await run(worker, **jobs[fails])

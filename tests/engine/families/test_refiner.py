"""XL's refiner goes on where the model stopped, as diffusers' two calls do it: to a level of 255."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from bench.random_model import TINY_SDXL, write_random_model, write_random_refiner
from sdworker.engine.drawing import Drawing, Latents
from sdworker.engine.engine import Engine
from sdworker.engine.model_files import ModelError, check_model_folder
from sdworker.engine.networks.families import load_checked
from sdworker.engine.networks.families.stable_diffusion_xl import StableDiffusionXL
from sdworker.engine.networks.model import Loading, Model
from sdworker.engine.networks.sharing import SharedWeights
from tests.engine.conftest import CPU, load, run_pipeline

from .conftest import XLReference
from .test_stable_diffusion_xl import CLOSE, apart, base


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "xl"
    write_random_model(folder, TINY_SDXL)
    write_random_refiner(folder)
    return folder


@pytest.fixture(scope="module")
def pair(folder: Path) -> Any:
    """An engine with both, and the refiner."""
    refiner = load_checked(check_model_folder(folder / "refiner", refines=True), Loading(CPU, torch.float32))
    engine = Engine(load(StableDiffusionXL, folder), max_rows=8)
    engine.call(lambda: engine.add(refiner)).result()
    yield engine, refiner
    engine.close()


async def refine(
    engine: Engine, refiner: Model, drawing: Drawing, frac: float, steps: int
) -> list[np.ndarray]:
    values = await engine.draw_latents(replace(drawing, span=(0.0, frac)))
    rest = replace(drawing, span=(frac, 1.0), latents=Latents(values), steps=steps)
    return await engine.draw(rest, model=refiner)


@pytest.mark.parametrize("frac", [0.5, 0.8])
@pytest.mark.parametrize("sampler", ["Euler", "DDIM", "DPM++ 2M Karras", "Heun", "Euler a"])
@pytest.mark.parametrize(
    "changes", [{}, {"negative_prompt": "", "seeds": (7, 8)}, {"guidance": 1.0}], ids=str
)
async def test_it_draws_what_the_two_calls_of_diffusers_draw(
    pair: Any, folder: Path, sampler: str, frac: float, changes: dict[str, Any]
) -> None:
    engine, refiner = pair
    drawing = base(sampler=sampler, steps=6, **changes)
    ours = await refine(engine, refiner, drawing, frac, 10)
    first = XLReference(folder)
    second = diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(
        folder / "refiner", dtype=torch.float32, add_watermarker=False
    )
    for image, seed in zip(ours, drawing.seeds, strict=True):
        said = {"negative_prompt": drawing.negative_prompt or None}
        size = {"width": drawing.width, "height": drawing.height}
        latents = await asyncio.to_thread(
            run_pipeline,
            first.pipeline,
            first.scheduler_config,
            drawing,
            seed,
            denoising_end=frac,
            **size,
            **said,
        )
        pixels = await asyncio.to_thread(
            run_pipeline, second, first.scheduler_config, replace(drawing, steps=10), seed,
            image=latents, denoising_start=frac, output_type="np", **said,
        )  # fmt: skip
        assert apart(image, (pixels[0] * 255).round().astype(np.uint8)) <= CLOSE


async def test_drawings_that_are_refined_share_steps_with_others_and_come_out_as_alone(pair: Any) -> None:
    engine, refiner = pair
    drawings = [base(prompt=f"thing {i}", steps=6, seeds=(i,)) for i in range(3)]
    together = await asyncio.gather(
        *(refine(engine, refiner, one, 0.5, 6) for one in drawings), engine.draw(base(steps=6))
    )
    for drawing, images in zip(drawings, together, strict=False):
        (alone,) = await refine(engine, refiner, drawing, 0.5, 6)
        assert apart(images[0], alone) <= CLOSE


def test_it_shares_its_encoder_and_its_vae_with_the_model(folder: Path) -> None:
    loading = Loading(CPU, torch.float32, shared=SharedWeights())
    model: Any = load_checked(check_model_folder(folder), loading)
    refiner: Any = load_checked(check_model_folder(folder / "refiner", refines=True), loading)
    vaes = [next(one.autoencoder._vae.parameters()).data_ptr() for one in (model, refiner)]
    assert vaes[0] == vaes[1]


def test_a_refiner_is_no_model_and_a_model_no_refiner(folder: Path) -> None:
    with pytest.raises(ModelError, match="this worker serves"):
        check_model_folder(folder / "refiner")
    with pytest.raises(ModelError, match="not XL's refiner"):
        check_model_folder(folder, refines=True)

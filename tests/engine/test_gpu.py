"""What only a GPU can show. Skipped without one; `pytest -m gpu` runs just these."""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.networks import Networks
from sdworker.engine.preparation import Capturing, Means

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DRAWING = Drawing(
    prompt="a red apple",
    negative_prompt="",
    width=128,
    height=128,
    steps=25,
    guidance=5.0,
    sampler="DPM++ 2M Karras",
    seeds=(1,),
)


def psnr_db(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images."""
    error = float(((ours.astype(float) - theirs.astype(float)) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def make_engine(model: Path, device: str, dtype: torch.dtype) -> Engine:
    return Engine(Networks.load(model, device=torch.device(device), dtype=dtype), max_rows=16)


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Engine]:
    made = make_engine(model, "cuda", torch.float16)
    yield made
    made.close()


@pytest.mark.parametrize("sampler", ["DPM++ 2M Karras", "Euler a", "UniPC", "DDIM"])
async def test_half_precision_draws_what_full_precision_on_a_cpu_draws(
    engine: Engine, model: Path, sampler: str
) -> None:
    reference = make_engine(model, "cpu", torch.float32)
    drawing = replace(DRAWING, sampler=sampler)
    (ours,), (theirs,) = await asyncio.gather(engine.draw(drawing), reference.draw(drawing))
    reference.close()
    assert psnr_db(ours, theirs) >= 40


async def test_a_batch_draws_what_each_draws_alone(engine: Engine) -> None:
    drawings = [replace(DRAWING, seeds=(seed,), steps=15 + seed) for seed in range(8)]
    together = await asyncio.gather(*(engine.draw(drawing) for drawing in drawings))
    for drawing, (image,) in zip(drawings, together, strict=True):
        (alone,) = await engine.draw(drawing)
        assert psnr_db(image, alone) >= 45


@pytest.mark.parametrize(
    "means",
    [Means(cuda_graphs=True), Means(compiled=True), Means(fp16_accumulation=True)],
    ids=["CUDA_GRAPHS", "COMPILE", "FP16_ACCUMULATION"],
)
async def test_prepared_forwards_draw_what_plain_ones_draw(engine: Engine, model: Path, means: Means) -> None:
    networks = Networks.load(model, device=torch.device("cuda"), dtype=torch.float16, means=means)
    quicker = Engine(networks, max_rows=8)
    await quicker.calibrate()
    drawings = [replace(DRAWING, seeds=(seed,), steps=15 + seed) for seed in range(5)]
    for drawing, (image,) in zip(
        drawings, await asyncio.gather(*(quicker.draw(drawing) for drawing in drawings)), strict=True
    ):
        (plain,) = await engine.draw(drawing)
        assert psnr_db(image, plain) >= 40
    quicker.close()


@torch.inference_mode()
def test_a_replayed_graph_gives_the_forward_of_the_inputs_it_is_given(model: Path) -> None:
    networks = Networks.load(model, device=torch.device("cuda"), dtype=torch.float16)
    inputs = [networks.example_input(4, (16, 16 + 8 * i)) for i in range(2)]
    capture = Capturing()
    graphs = [capture(networks.denoise, one) for one in inputs]
    kept = []
    for _ in range(3):  # in turn, because they share their working memory
        for graph, one in zip(graphs, inputs, strict=True):
            noisy = replace(one, latents=torch.randn_like(one.latents))
            kept.append((graph(noisy), networks.denoise(noisy)))
    for replayed, plain in kept:
        assert float((replayed - plain).norm() / plain.norm()) <= 0.005


async def test_idle_time_is_used_to_capture_what_was_met_often(model: Path) -> None:
    networks = Networks.load(
        model, device=torch.device("cuda"), dtype=torch.float16, means=Means(cuda_graphs=True)
    )
    engine = Engine(networks, max_rows=8)
    wide = replace(DRAWING, width=192, steps=40)
    before = [(await engine.draw(wide))[0] for _ in range(2)][-1]
    await asyncio.sleep(2)
    (after,) = await engine.draw(wide)
    assert psnr_db(before, after) >= 40
    engine.close()


async def test_a_real_lack_of_memory_halves_the_batch_and_fails_no_job(model: Path) -> None:
    engine = make_engine(model, "cuda", torch.float16)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 300 * 2**20) / total)
    try:
        drawings = [replace(DRAWING, width=1024, height=1024, steps=2, seeds=(seed,)) for seed in range(8)]
        images = await asyncio.gather(*(engine.draw(drawing) for drawing in drawings))
        assert all(len(one) == 1 for one in images)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        engine.close()

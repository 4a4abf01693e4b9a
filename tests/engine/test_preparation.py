"""The means that can be tried without a GPU; the others are in test_gpu.py."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch._dynamo.utils import counters

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.networks.families.stable_diffusion import StableDiffusion
from sdworker.engine.networks.preparation import Means, accumulating_in_fp16, compiled, preparation
from sdworker.engine.unet_input import Conditioning, UNetInput
from sdworker.settings import Settings
from sdworker.startup import build_worker
from tests.engine.conftest import RecordingModel

CPU = torch.device("cpu")


class Network(torch.nn.Module):
    """As little as has something to fuse."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Conv2d(4, 8, 3, padding=1)
        self.norm = torch.nn.GroupNorm(2, 8)

    def forward(self, inputs: UNetInput) -> torch.Tensor:
        mixed = torch.nn.functional.silu(self.norm(self.mix(inputs.latents)))
        told = inputs.conditioning.text.mean((1, 2))
        return mixed * inputs.timesteps[:, None, None, None].sin() + told[:, None, None, None]


@pytest.mark.slow
@torch.inference_mode()
def test_a_compiled_forward_gives_what_the_plain_one_gives_and_is_kept_for_the_next_start(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    build_worker(Settings(model_dir=model, compile=True, compile_cache_dir=tmp_path)).engine.close()
    network = Network()
    for rows in (2, 4):
        inputs = UNetInput(
            torch.randn(rows, 4, 8, 8), torch.rand(rows), Conditioning(torch.randn(rows, 7, 8))
        )
        quicker = compiled(network, inputs)
        inputs = replace(inputs, latents=torch.randn(rows, 4, 8, 8))
        torch.testing.assert_close(quicker(inputs), network(inputs))
    assert any(tmp_path.rglob("*.so"))


def test_a_cache_that_cannot_be_written_is_a_warning_and_no_reason_not_to_compile(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "as it was")
    (tmp_path / "volume").write_text("no folder")
    settings = Settings(model_dir=model, compile=True, compile_cache_dir=tmp_path / "volume" / "compiled")
    build_worker(settings).engine.close()
    assert "will not be there for the next start" in caplog.text
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "as it was"


def test_what_needs_cuda_is_nothing_on_a_cpu() -> None:
    assert preparation(Means(cuda_graphs=True, fp16_accumulation=True), CPU) is None
    assert preparation(Means(), CPU) is None


def test_sums_are_in_fp16_only_while_a_forward_runs() -> None:
    matmul = torch.backends.cuda.matmul
    seen: list[bool] = []

    def forward(inputs: UNetInput) -> torch.Tensor:
        seen.append(matmul.allow_fp16_accumulation)
        if inputs.latents.isnan().any():
            raise ArithmeticError
        return inputs.latents

    fine = UNetInput(torch.zeros(1, 4, 1, 1), torch.zeros(1), Conditioning(torch.zeros(1, 1, 1)))
    quicker = accumulating_in_fp16(forward, fine)
    quicker(fine)
    with pytest.raises(ArithmeticError):
        quicker(replace(fine, latents=torch.full((1, 4, 1, 1), float("nan"))))
    assert seen == [True, True]
    assert not matmul.allow_fp16_accumulation


async def test_the_first_job_after_a_compiled_start_compiles_nothing(
    networks: RecordingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether to compile again is decided before there is any C++, which would take this test minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    small = {
        "block_out_channels": (32,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
        "layers_per_block": 1,
        "attention_head_dim": 8,
    }
    unet = UNet2DConditionModel.from_config(dict(networks._unet.config) | small).eval().requires_grad_(False)
    quick = StableDiffusion(
        tokenizer=networks._tokenizer,
        text_encoder=networks._prompts._text_encoder,
        unet=unet,
        vae=networks.autoencoder._vae,
        scheduler_config=networks.scheduler_config,
        device=CPU,
        dtype=torch.float32,
        means=Means(compiled=True),
    )
    assert quick._prepared is not None
    monkeypatch.setattr(quick._prepared, "_time_call", lambda call: 1.0)  # kept, whatever the clock says
    engine = Engine(quick, max_rows=4)
    await engine.calibrate()
    assert quick._prepared._kept
    compiled_before = counters["stats"]["unique_graphs"]
    assert compiled_before > 0
    drawing = Drawing(
        prompt="a red apple",
        negative_prompt="",
        width=quick.default_size[0],
        height=quick.default_size[1],
        steps=3,
        guidance=4.0,
        sampler="Euler a",
        seeds=(1, 2),
    )
    await engine.draw(drawing)
    await engine.draw(replace(drawing, guidance=1.0))
    assert counters["stats"]["unique_graphs"] == compiled_before
    engine.close()

"""The means that can be tried without a GPU; the others are in test_gpu.py."""

import os
from pathlib import Path

import pytest
import torch

from sdworker.engine.preparation import Means, accumulating_in_fp16, compiled, preparation
from sdworker.settings import Settings
from sdworker.startup import build_worker

CPU = torch.device("cpu")


class Network(torch.nn.Module):
    """As little as has something to fuse."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Conv2d(4, 8, 3, padding=1)
        self.norm = torch.nn.GroupNorm(2, 8)

    def forward(
        self, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor, _condition: object
    ) -> torch.Tensor:
        mixed = torch.nn.functional.silu(self.norm(self.mix(latents)))
        return mixed * timesteps[:, None, None, None].sin() + text.mean((1, 2))[:, None, None, None]


@torch.inference_mode()
def test_a_compiled_forward_gives_what_the_plain_one_gives_and_is_kept_for_the_next_start(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    build_worker(Settings(model_dir=model, compile=True, compile_cache_dir=tmp_path)).engine.close()
    network = Network()
    for rows in (2, 4):
        inputs = [torch.randn(rows, 4, 8, 8), torch.rand(rows), torch.randn(rows, 7, 8), None]
        quicker = compiled(network, inputs)
        inputs[0] = torch.randn(rows, 4, 8, 8)
        torch.testing.assert_close(quicker(*inputs), network(*inputs))
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

    def forward(latents: torch.Tensor) -> torch.Tensor:
        seen.append(matmul.allow_fp16_accumulation)
        if latents.isnan().any():
            raise ArithmeticError
        return latents

    quicker = accumulating_in_fp16(forward, [])
    quicker(torch.zeros(1))
    with pytest.raises(ArithmeticError):
        quicker(torch.full((1,), float("nan")))
    assert seen == [True, True]
    assert not matmul.allow_fp16_accumulation

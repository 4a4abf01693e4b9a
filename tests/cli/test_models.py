"""`sdworker models`: what a worker would serve here, and why it would not."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.random_model import TINY_SDXL, write_random_model
from sdworker import hub_cache
from sdworker.cli import main
from sdworker.settings import Settings
from tests.builder.tiny_model import xl_tensors


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def shelf(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The embedded model, an XL in a folder and in a file; a LoRA and a damaged folder."""
    folder = tmp_path / "shelf"
    shutil.copytree(model, folder / "emoji")
    write_random_model(folder / "tiny-xl", TINY_SDXL)
    shutil.copytree(folder / "tiny-xl", tmp_path / "configs" / "stable-diffusion-xl")
    monkeypatch.setattr("sdworker.checkpoints.folder.OWN_CONFIGS", tmp_path / "configs")
    save_file(xl_tensors(folder / "tiny-xl"), folder / "single.safetensors")
    save_file({"lora_unet_x.lora_up.weight": torch.ones(1)}, folder / "style.safetensors")
    shutil.copytree(model, folder / "damaged")
    os.truncate(folder / "damaged" / "unet" / "diffusion_pytorch_model.safetensors", 5000)
    return folder


def test_each_has_a_line_of_name_family_size_memory_and_place(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELS_DIR", str(shelf))
    assert main(["models"]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in line if cell] for line in lines]
    assert cells == [
        ["emoji", "Stable Diffusion 1.x and 2.x", "128x128", "0.02 GB", str(shelf / "emoji")],
        ["single", "Stable Diffusion XL", "64x64", "0.00 GB", str(shelf / "single.safetensors")],
        ["tiny-xl", "Stable Diffusion XL", "64x64", "0.00 GB", str(shelf / "tiny-xl")],
    ]
    assert not (shelf / ".converted").exists()


def test_a_cached_model_goes_by_its_id(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub_cache, "_PLATFORM", tmp_path)
    snapshot = tmp_path / "models--Owner--Name" / "snapshots" / "0a1b"
    shutil.copytree(model, snapshot)
    monkeypatch.setenv("MODEL_ID", "owner/name")
    assert main(["models"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("owner/name  Stable Diffusion 1.x and 2.x  128x128")
    assert line.rstrip().endswith(str(snapshot))


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("MODEL_DIR", "damaged", "diffusion_pytorch_model.safetensors is damaged"),
        ("MODEL_DIR", "style.safetensors", "style.safetensors is a LoRA, not a model"),
        ("MODELS", "gone", "no model folder at"),
        ("MODEL_MEMORY_GB", "none", "MODEL_MEMORY_GB"),
    ],
)
def test_what_would_stop_the_start_is_told_in_one_line(
    shelf: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    named: str,
) -> None:
    monkeypatch.setenv(variable, str(shelf / value) if variable != "MODEL_MEMORY_GB" else value)
    assert main(["models"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("sdworker: ")
    assert named in output.err
    assert len(output.err.splitlines()) == 1

"""Tiny models of both families as single files, and their configurations in the place of the real ones."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from bench.random_model import TINY_SDXL, write_random_model
from tests.builder.tiny_model import ldm_tensors, make_diffusers_folder, xl_tensors


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models in diffusers' layout, by the names that their families' configurations are kept under."""
    folder = tmp_path_factory.mktemp("configs")
    make_diffusers_folder(folder / "stable-diffusion-1.5")
    write_random_model(folder / "stable-diffusion-xl", TINY_SDXL)
    return folder


@pytest.fixture
def tiny_families(configs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Single checkpoints are as small as tests want them."""
    monkeypatch.setattr("sdworker.checkpoints.folder.OWN_CONFIGS", configs)
    return configs


@pytest.fixture(scope="session")
def singles(configs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same two as `sd.safetensors` and `xl.safetensors`."""
    folder = tmp_path_factory.mktemp("singles")
    save_file(ldm_tensors(configs / "stable-diffusion-1.5"), folder / "sd.safetensors")
    save_file(xl_tensors(configs / "stable-diffusion-xl"), folder / "xl.safetensors")
    return folder

"""A repository of Stable Diffusion XL becomes a model folder that the worker draws with."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builder.errors import FetchError
from builder.fetch_model import fetch
from builder.hub import Hub
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

from bench.random_model import TINY_SDXL, write_random_model
from sdworker.engine.model_files import check_model_folder
from sdworker.model_layout import STABLE_DIFFUSION_XL
from tests.builder.hub_server import FakeHub, Repo, serve_hub

ID = "someone/an-xl"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in fp32, with clutter, and no tokenizer.json in it, as those of old have none."""
    folder = tmp_path_factory.mktemp("pristine") / "xl"
    write_random_model(folder, TINY_SDXL)
    StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32).save_pretrained(folder)
    (folder / "vae_1_0").mkdir()
    (folder / "vae_1_0" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """For the test to spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "xl"))


@pytest.fixture
def server(folder: Path) -> Iterator[FakeHub]:
    with serve_hub() as hub:
        hub.repos[ID] = Repo(folder)
        yield hub


def test_it_comes_from_the_hub_whole_and_in_half_precision(server: FakeHub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fetch(ID, out, hub=Hub(endpoint=server.address, wait_s=0.01))
    checked = check_model_folder(out)
    assert checked.layout is STABLE_DIFFUSION_XL
    assert checked.index["force_zeros_for_empty_prompt"] is True
    for part, stem in STABLE_DIFFUSION_XL.weights.items():
        tensors = load_file(out / part / f"{stem}.safetensors")
        assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.float16}
    for words in ("tokenizer", "tokenizer_2"):
        assert (out / words / "tokenizer.json").is_file()
    assert not (out / "vae_1_0").exists()
    StableDiffusionXLPipeline.from_pretrained(out)


def test_a_folder_does_as_well(folder: Path, tmp_path: Path) -> None:
    fetch(str(folder), tmp_path / "out", hub=Hub(endpoint="http://127.0.0.1:9", tries=1))
    assert check_model_folder(tmp_path / "out").layout is STABLE_DIFFUSION_XL


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        ("model_index.json", {"text_encoder_2": [None, None]}, "names no text_encoder_2"),
        (
            "model_index.json",
            {"text_encoder_2": ["transformers", "CLIPTextModel"]},
            "is a CLIPTextModel,",
        ),
        ("unet/config.json", {"addition_embed_type": None}, "not that of Stable Diffusion XL"),
        ("unet/config.json", {"in_channels": 8}, "8 input channels"),
    ],
    ids=str,
)
def test_what_the_worker_could_not_draw_with_is_refused(
    folder: Path, tmp_path: Path, file: str, values: dict[str, Any], named: str
) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | values))
    with pytest.raises(FetchError, match=named):
        fetch(str(folder), tmp_path / "out", hub=Hub(endpoint="http://127.0.0.1:9", tries=1))
    assert not (tmp_path / "out").exists()

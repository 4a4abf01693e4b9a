"""A random model is a model like any other."""

import asyncio
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench import random_model
from bench.random_model import SD15, Architecture, find_model, write_random_model
from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.networks.families import load_model
from sdworker.engine.networks.model import Loading

TINY = Architecture(
    unet={
        **SD15.unet,
        "sample_size": 8,
        "cross_attention_dim": 32,
        "block_out_channels": (32, 32, 32, 32),
        "layers_per_block": 1,
    },
    vae={**SD15.vae, "sample_size": 64, "block_out_channels": (32, 32, 32, 32), "layers_per_block": 1},
    text_encoder={
        **SD15.text_encoder,
        "vocab_size": 4000,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
)
WEIGHTS = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)


def test_it_is_drawn_with_as_any_model_is_and_is_always_the_same(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_random_model(tmp_path / name, TINY)
    for weights in WEIGHTS:
        assert (tmp_path / "one" / weights).read_bytes() == (tmp_path / "other" / weights).read_bytes()
        tensors = load_file(tmp_path / "one" / weights).values()
        assert {tensor.dtype for tensor in tensors} == {torch.float16}
    engine = Engine(load_model(tmp_path / "one", Loading(torch.device("cpu"), torch.float32)), max_rows=2)
    drawing = Drawing(
        prompt="a red apple",
        negative_prompt="",
        width=64,
        height=64,
        steps=2,
        guidance=5.0,
        sampler="DPM++ 2M Karras",
        seeds=(1,),
    )
    (image,) = asyncio.run(engine.draw(drawing))
    engine.close()
    assert image.shape == (64, 64, 3)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        write_random_model(tmp_path, TINY)


def test_its_name_stands_for_the_one_in_build_written_when_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "build" / "random-sd15"
    monkeypatch.setattr(random_model, "_PLACE", place)
    monkeypatch.setattr(random_model, "write_random_model", lambda folder: folder.mkdir(parents=True))
    assert find_model(Path("models/emoji")) == Path("models/emoji")
    for _ in range(2):
        assert find_model(Path("random-sd15")) == place

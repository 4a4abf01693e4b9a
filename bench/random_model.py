"""Stable Diffusion 1.5 with random weights: as large and as slow as the real one, and nothing to download.

    python -m bench.random_model build/sd15-random

What it draws is noise, but a forward costs what a real one costs. Benches take it as `--model random-sd15`, which
writes it to build/ when it is not there yet (2 GB).
"""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from sdworker.model_place import EMBEDDED_MODEL

__all__ = ["SD15", "Architecture", "find_model", "write_random_model"]

_NAME = Path("random-sd15")
_PLACE = Path("build") / _NAME


@dataclass(frozen=True)
class Architecture:
    """What makes the networks, as diffusers and transformers call it."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]


SD15 = Architecture(
    # diffusers' own defaults for the rest, which are Stable Diffusion 1.x's.
    unet={"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    vae={
        "sample_size": 512,
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
    },
    text_encoder={
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
)
"""That of stable-diffusion-v1-5: parameters are 860 M in the UNet, 84 M in the VAE, 123 M in the text encoder."""


def find_model(model: Path) -> Path:
    """The folder that `--model` names; `random-sd15` is written first where need be."""
    if model != _NAME or model.is_dir():
        return model
    if not _PLACE.is_dir():
        print(f"writing {_PLACE}")
        write_random_model(_PLACE)
    return _PLACE


def write_random_model(folder: Path, architecture: Architecture = SD15) -> None:
    """Write a model in diffusers' layout, in fp16, always of the same weights.

    Tokenizer, scheduler and index are the embedded model's. Its vocabulary is a small one, so most rows of the
    token embedding are never used.

    Raises:
        FileExistsError: the folder is there.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(EMBEDDED_MODEL / name, unfinished / name)
    shutil.copy(EMBEDDED_MODEL / "model_index.json", unfinished)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, network in (
            ("unet", lambda: UNet2DConditionModel(**architecture.unet)),
            ("vae", lambda: AutoencoderKL(**architecture.vae)),
            ("text_encoder", lambda: CLIPTextModel(CLIPTextConfig(**architecture.text_encoder))),
        ):
            network().half().save_pretrained(unfinished / name)
    unfinished.rename(folder)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="bench.random_model", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write it")
    write_random_model(parser.parse_args().folder)


if __name__ == "__main__":
    main()

"""Stable Diffusion with random weights: as large and as slow as the real one, and nothing to download.

    python -m bench.random_model build/sd15-random

What it draws is noise, but a forward costs what a real one costs. Benches take it as `--model random-sd15`, which
writes it to build/ when it is not there yet (2 GB).
"""

import argparse
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdworker.model_place import EMBEDDED_MODEL

__all__ = [
    "SD15",
    "SDXL",
    "TINY_REFINER",
    "TINY_SDXL",
    "Architecture",
    "find_model",
    "write_random_model",
    "write_random_refiner",
]

_NAME = Path("random-sd15")
_PLACE = Path("build") / _NAME


@dataclass(frozen=True)
class Architecture:
    """What makes the networks, as diffusers and transformers call it."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    text_encoder_2: dict[str, Any] | None = None


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

SDXL = Architecture(
    unet={
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    vae={**SD15.vae, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    text_encoder=SD15.text_encoder,
    text_encoder_2={
        "vocab_size": 49408,
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "hidden_act": "gelu",
        "projection_dim": 1280,
    },
)
"""That of stable-diffusion-xl-base-1.0: 2,567 M in the UNet, 84 M in the VAE, 123 M and 695 M for texts."""

_TINY_TEXT = {
    "vocab_size": 4000,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "hidden_act": "gelu",
    "projection_dim": 32,
    "eos_token_id": 2,
}
TINY_SDXL = Architecture(
    unet={
        "sample_size": 32,
        "block_out_channels": (2, 4),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "attention_head_dim": (2, 4),
        "cross_attention_dim": 64,
        "norm_num_groups": 1,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
    },
    vae={
        "sample_size": 128,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
    },
    text_encoder=_TINY_TEXT,
    text_encoder_2=_TINY_TEXT,
)
"""As small as diffusers' own tests have it; it draws in 64x64, a latent being two pixels wide."""

TINY_REFINER = replace(
    TINY_SDXL,
    # It reads the second encoder alone, and is told five numbers of the picture.
    unet={**TINY_SDXL.unet, "cross_attention_dim": 32, "projection_class_embeddings_input_dim": 72},
)
"""The refiner for it."""


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
    index = json.loads((EMBEDDED_MODEL / "model_index.json").read_text())
    if architecture.text_encoder_2 is not None:
        index |= _write_second_words(unfinished)
    (unfinished / "model_index.json").write_text(json.dumps(index, indent=2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, network in (
            ("unet", lambda: UNet2DConditionModel(**architecture.unet)),
            ("vae", lambda: AutoencoderKL(**architecture.vae)),
            ("text_encoder", lambda: CLIPTextModel(CLIPTextConfig(**architecture.text_encoder))),
        ):
            network().half().save_pretrained(unfinished / name)
        if architecture.text_encoder_2 is not None:
            second = CLIPTextModelWithProjection(CLIPTextConfig(**architecture.text_encoder_2))
            second.half().save_pretrained(unfinished / "text_encoder_2")
    unfinished.rename(folder)


def write_random_refiner(model: Path, architecture: Architecture = TINY_REFINER) -> None:
    """Write a refiner into the folder of a random XL, whose second encoder and VAE it has too.

    Raises:
        FileExistsError: there is one.
    """
    write_random_model(model / "refiner", architecture)
    for part in ("text_encoder_2", "vae"):
        shutil.copytree(model / part, model / "refiner" / part, dirs_exist_ok=True)
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(model / "refiner" / part)
    index = model / "refiner" / "model_index.json"
    content = json.loads(index.read_text()) | {
        "_class_name": "StableDiffusionXLImg2ImgPipeline",
        "force_zeros_for_empty_prompt": False,
        "requires_aesthetics_score": True,
        "text_encoder": [None, None],
        "tokenizer": [None, None],
    }
    index.write_text(json.dumps(content, indent=2))


def _write_second_words(folder: Path) -> dict[str, Any]:
    """The second tokenizer, which fills its chunks with exclamation marks; and what the index says of it."""
    shutil.copytree(folder / "tokenizer", folder / "tokenizer_2")
    config = folder / "tokenizer_2" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pad_token": "!"}))
    return {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="bench.random_model", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write it")
    write_random_model(parser.parse_args().folder)


if __name__ == "__main__":
    main()

"""A single `.safetensors` checkpoint, in the original Stable Diffusion layout, made a diffusers folder.

Such a file has weights but no configuration and no tokenizer. Those come from a model that it was trained
from: a folder with its small files. The loader itself is diffusers' `from_single_file`, kept off the network.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.errors import FetchError
from builder.layout import COMPONENTS, INDEX, clean_index
from builder.weights import Entry, read_header, writing

__all__ = ["check", "unpack"]

_FIRST_CONV = "model.diffusion_model.input_blocks.0.0.weight"
_CROSS_ATTENTION = "model.diffusion_model.{}.transformer_blocks.0.attn2.to_k.weight"
_SUPPORTED = "supported: Stable Diffusion 1.x and 2.x, and their 9-channel inpainting models"

# A key's beginning → what a file with such keys is. The first that fits counts.
_OTHER_MODELS = (
    ("conditioner.embedders.", "an SDXL checkpoint"),
    ("model.diffusion_model.joint_blocks.", "an SD3 checkpoint"),
    ("model.diffusion_model.double_blocks.", "a FLUX checkpoint"),
    ("double_blocks.", "a FLUX checkpoint"),
    ("lora_", "a LoRA, not a model"),
    ("control_model.", "a ControlNet, not a model"),
    ("down_blocks.", "a UNet in diffusers' layout: give the whole folder instead"),
    ("text_model.", "a text encoder: give the whole folder instead"),
    ("decoder.", "a VAE, not a model"),
)
_PARTS = {
    "its VAE": ("first_stage_model.decoder.", "first_stage_model.encoder."),
    "its text encoder": ("cond_stage_model.transformer.", "cond_stage_model.model."),
}


def check(checkpoint: Path) -> dict[str, Entry]:
    """The checkpoint's tensors, if it is a whole model that the worker can run.

    Raises:
        FetchError: saying what it is instead, or what it lacks.
    """
    if checkpoint.suffix != ".safetensors":
        raise FetchError(
            f"{checkpoint.name} is not a .safetensors file; pickled checkpoints can run code when they are "
            "read and are refused"
        )
    header = read_header(checkpoint)
    for beginning, description in _OTHER_MODELS:
        if any(key.startswith(beginning) for key in header):
            raise FetchError(f"{checkpoint.name} is {description}; {_SUPPORTED}")
    if _FIRST_CONV not in header:
        raise FetchError(f"{checkpoint.name} is not a Stable Diffusion checkpoint; {_SUPPORTED}")
    if header[_FIRST_CONV].shape[1] not in (4, 9):
        channels = header[_FIRST_CONV].shape[1]
        raise FetchError(f"{checkpoint.name} has a UNet with {channels} input channels; {_SUPPORTED}")
    for part, beginnings in _PARTS.items():
        if not any(key.startswith(beginnings) for key in header):
            raise FetchError(f"{checkpoint.name} is without {part}; a full checkpoint is needed")
    return header


def unpack(checkpoint: Path, configs: Path, out: Path) -> None:
    """Write the checkpoint as a diffusers folder with fp16 weights.

    Args:
        checkpoint: The `.safetensors` file.
        configs: A folder in diffusers' layout, of which only the configuration and the tokenizer are read.
        out: The folder to write; replaced if it is there.

    Raises:
        FetchError: if the file cannot be used, or the configuration is of another kind of model.
    """
    header = check(checkpoint)
    shutil.rmtree(out, ignore_errors=True)
    _adapt_configs(header, configs, out)
    small_files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    networks = _load(checkpoint, out)
    for name, network in networks.items():
        with writing(name):
            network.save_pretrained(out / name)
    # Saving rewrites the configurations, with the paths of this machine in them.
    for path, content in small_files.items():
        path.write_bytes(content)


def _adapt_configs(header: Mapping[str, Entry], configs: Path, out: Path) -> None:
    """Copy the small files, and make the UNet's input what the checkpoint's is."""
    for folder, component in COMPONENTS.items():
        for name in component.configs:
            if (configs / folder / name).is_file():
                (out / folder).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(configs / folder / name, out / folder / name)
    unet_config = json.loads((out / "unet" / "config.json").read_text())
    in_file = _cross_attention_dim(header)
    in_config = unet_config.get("cross_attention_dim")
    if in_file != in_config:
        raise FetchError(
            f"the checkpoint's text embeddings have {in_file} values and the configuration's {in_config}; "
            "name a model of the same kind with --config-from (Stable Diffusion 2.x always needs it)"
        )
    channels = header[_FIRST_CONV].shape[1]
    (out / "unet" / "config.json").write_text(
        json.dumps({**unet_config, "in_channels": channels}, indent=2) + "\n"
    )
    index = json.loads((configs / INDEX).read_text())
    (out / INDEX).write_text(json.dumps(clean_index(index, unet_channels=channels), indent=2) + "\n")


def _cross_attention_dim(header: Mapping[str, Entry]) -> int:
    """Width of the text embeddings the UNet attends to, off its first such layer."""
    places = [f"input_blocks.{i}.1" for i in range(1, 12)] + ["middle_block.1"]
    keys = (_CROSS_ATTENTION.format(place) for place in places)
    return next((header[key].shape[1] for key in keys if key in header), 0)


def _load(checkpoint: Path, configs: Path) -> dict[str, Any]:
    """The three networks in fp16, every weight of them from the checkpoint."""
    import diffusers
    import torch

    index = json.loads((configs / INDEX).read_text())
    pipeline_class = getattr(diffusers, index["_class_name"])
    try:
        pipeline = pipeline_class.from_single_file(
            str(checkpoint), config=str(configs), local_files_only=True, torch_dtype=torch.float16
        )
    except (ValueError, KeyError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise FetchError(f"{checkpoint.name} does not fit the configuration: {first_line}") from error
    networks = {name: getattr(pipeline, name) for name in ("text_encoder", "unet", "vae")}
    for name, network in networks.items():
        lacking = [key for key, value in network.named_parameters() if value.is_meta]
        if lacking:
            raise FetchError(
                f"{checkpoint.name} lacks {len(lacking)} weights of the {name}, {lacking[0]} first"
            )
    return networks

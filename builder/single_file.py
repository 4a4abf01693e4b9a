"""A single `.safetensors` checkpoint, in the original Stable Diffusion layout, made a diffusers folder.

Such a file has weights but no configuration and no tokenizer. Those come from a model that it was trained
from: a folder with its small files. The loader itself is diffusers' `from_single_file`, kept off the network.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.assemble import read_json
from builder.errors import FetchError
from builder.layout import INDEX, clean_index, layout_in
from builder.weights import Entry, is_integer, read_header, read_metadata, rename_tensors, writing
from sdworker.model_layout import STABLE_DIFFUSION

__all__ = ["check", "unpack"]

_FIRST_CONV = "model.diffusion_model.input_blocks.0.0.weight"
_CROSS_ATTENTION = "model.diffusion_model.{}.transformer_blocks.0.attn2.to_k.weight"
_SUPPORTED = "supported: Stable Diffusion 1.x and 2.x, and their 9-channel inpainting models"

# A key's beginning → what a file with such keys is. The first that fits counts.
_OTHER_MODELS = (
    ("conditioner.embedders.", "an SDXL checkpoint, which is taken as a folder in diffusers' layout only"),
    ("model.diffusion_model.joint_blocks.", "an SD3 checkpoint"),
    ("model.diffusion_model.double_blocks.", "a FLUX checkpoint"),
    ("double_blocks.", "a FLUX checkpoint"),
    ("lora_", "a LoRA, not a model"),
    ("control_model.", "a ControlNet, not a model"),
    ("down_blocks.", "a UNet in diffusers' layout: give the whole folder instead"),
    ("text_model.", "a text encoder: give the whole folder instead"),
    ("decoder.", "a VAE, not a model"),
)
_CLIP = "cond_stage_model.transformer."
# The key that a text encoder is known by: that of CLIP, of CLIP in files of long ago, of OpenCLIP.
_WEIGHTS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
_TOKENS = (
    f"{_CLIP}text_model.embeddings.token_embedding.weight",
    f"{_CLIP}embeddings.token_embedding.weight",
    "cond_stage_model.model.token_embedding.weight",
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
    if len(header[_FIRST_CONV].shape) != 4:
        raise FetchError(f"{checkpoint.name}: {_FIRST_CONV} has the shape {list(header[_FIRST_CONV].shape)}")
    if header[_FIRST_CONV].shape[1] not in (4, 9):
        channels = header[_FIRST_CONV].shape[1]
        raise FetchError(f"{checkpoint.name} has a UNet with {channels} input channels; {_SUPPORTED}")
    for part, beginnings in _PARTS.items():
        if not any(key.startswith(beginnings) for key in header):
            raise FetchError(f"{checkpoint.name} is without {part}; a full checkpoint is needed")
    if not any(key in header for key in _TOKENS):
        clip = any(key.startswith(_CLIP) for key in header)
        raise FetchError(f"{checkpoint.name} lacks a weight: {_TOKENS[0] if clip else _TOKENS[2]}")
    for key, entry in header.items():
        if is_integer(entry) and key.startswith(_WEIGHTS) and not key.endswith(".position_ids"):
            raise FetchError(
                f"{checkpoint.name}: {key} is of the type {entry.dtype}; weights are not whole numbers"
            )
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
    _adapt_schedule(header, read_metadata(checkpoint), out / "scheduler" / "scheduler_config.json")
    small_files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    _check_weights(checkpoint.name, header, out)
    networks = _load(_with_todays_names(checkpoint, header, out), out, name=checkpoint.name)
    for name, network in networks.items():
        with writing(name):
            network.save_pretrained(out / name)
    # Saving rewrites the configurations, with the paths of this machine in them.
    for path, content in small_files.items():
        path.write_bytes(content)


def _adapt_configs(header: Mapping[str, Entry], configs: Path, out: Path) -> None:
    """Copy the small files, and make the UNet's input what the checkpoint's is."""
    layout = layout_in(read_json(configs / INDEX))
    if layout is not STABLE_DIFFUSION:
        raise FetchError(f"--config-from names a {layout.name}; {_SUPPORTED}")
    for folder, component in layout.parts.items():
        for name in component.configs:
            if (configs / folder / name).is_file():
                (out / folder).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(configs / folder / name, out / folder / name)
    unet_config = read_json(out / "unet" / "config.json")
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
    index = read_json(configs / INDEX)
    (out / INDEX).write_text(json.dumps(clean_index(index, unet_channels=channels), indent=2) + "\n")


def _adapt_schedule(header: Mapping[str, Entry], metadata: Mapping[str, str], config: Path) -> None:
    """What the file says of how it was trained: to predict velocity, to a signal-to-noise ratio of zero.

    Trainers put empty tensors `v_pred` and `ztsnr` into the file, or say it in its metadata, as ModelSpec has it
    (https://github.com/Stability-AI/ModelSpec). The schedule for zero terminal SNR is that of arXiv 2305.08891:
    rescaled betas, and steps that begin at the very last timestep.
    """
    prediction = {"v": "v_prediction", "epsilon": "epsilon"}.get(
        metadata.get("modelspec.prediction_type", "")
    )
    changes: dict[str, Any] = {"prediction_type": prediction} if prediction else {}
    if "v_pred" in header:
        changes["prediction_type"] = "v_prediction"
    if "ztsnr" in header:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if changes:
        config.write_text(json.dumps({**read_json(config), **changes}, indent=2) + "\n")


def _with_todays_names(checkpoint: Path, header: Mapping[str, Entry], out: Path) -> Path:
    """The checkpoint, or where its text encoder has the names of long ago, one beside `out` with today's."""
    if _TOKENS[1] not in header or _TOKENS[0] in header:
        return checkpoint

    def rename(key: str) -> str:
        rest = key.removeprefix(_CLIP)
        return key if rest == key or rest.startswith("text_model.") else f"{_CLIP}text_model.{rest}"

    renamed = out.with_name("renamed.safetensors")
    rename_tensors(checkpoint, renamed, rename)
    return renamed


def _check_weights(name: str, header: Mapping[str, Entry], configs: Path) -> None:
    """Every weight of the UNet and the VAE is there, in the shape that the configuration gives it.

    By names and shapes alone, before gigabytes are read: diffusers would leave what lacks without a value, and
    fail at the first thing that is done with it. Weights are told by the names that diffusers gives them.
    """
    import diffusers
    import torch
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    tensors = {key: torch.empty(entry.shape, device="meta") for key, entry in header.items()}
    for part, cls in (("unet", diffusers.UNet2DConditionModel), ("vae", diffusers.AutoencoderKL)):
        config = read_json(configs / part / "config.json")
        try:
            with torch.device("meta"):
                wanted = cls.from_config(config).state_dict()
            convert = SINGLE_FILE_LOADABLE_CLASSES[cls.__name__]["checkpoint_mapping_fn"]
            given = convert(config=dict(cls.from_config(config).config), checkpoint=dict(tensors))
        except KeyError as error:
            raise FetchError(f"{name} lacks a weight of the {part}: {error.args[0]}") from error
        except Exception as error:  # the configuration makes no network; the libraries raise anything
            raise FetchError(
                f"{name} does not fit the configuration: its {part}: {_reason(error)}"
            ) from error
        lacking = sorted(wanted.keys() - given.keys())
        if lacking:
            raise FetchError(f"{name} lacks {len(lacking)} weights of the {part}, {lacking[0]} first")
        for key in sorted(wanted):
            if wanted[key].shape != given[key].shape:
                raise FetchError(
                    f"{name} does not fit the configuration: {key} of the {part} has the shape "
                    f"{list(given[key].shape)}, and should have {list(wanted[key].shape)}"
                )


def _cross_attention_dim(header: Mapping[str, Entry]) -> int:
    """Width of the text embeddings the UNet attends to, off its first such layer."""
    places = [f"input_blocks.{i}.1" for i in range(1, 12)] + ["middle_block.1"]
    keys = (_CROSS_ATTENTION.format(place) for place in places)
    return next((header[key].shape[-1] for key in keys if key in header and header[key].shape), 0)


def _load(checkpoint: Path, configs: Path, *, name: str) -> dict[str, Any]:
    """The three networks in fp16, every weight of them from the checkpoint, which errors call `name`."""
    import diffusers
    import torch

    pipeline_class = getattr(diffusers, read_json(configs / INDEX)["_class_name"])
    try:
        pipeline = pipeline_class.from_single_file(
            str(checkpoint), config=str(configs), local_files_only=True, torch_dtype=torch.float16
        )
    except MemoryError:
        raise
    except Exception as error:  # the libraries raise anything; the cause is kept
        raise FetchError(f"{name} does not fit the configuration: {_reason(error)}") from error
    networks = {part: getattr(pipeline, part) for part in ("text_encoder", "unet", "vae")}
    for part, network in networks.items():
        lacking = [key for key, value in network.named_parameters() if value.is_meta]
        if lacking:
            raise FetchError(f"{name} lacks {len(lacking)} weights of the {part}, {lacking[0]} first")
    return networks


def _reason(error: BaseException) -> str:
    """The first line of what a library says, or what diffusers means with a long one."""
    text = str(error).strip() or type(error).__name__
    shape = re.search(r"(\S+) expected shape torch\.Size\((.+?)\), but got torch\.Size\((.+?)\)", text)
    if shape:
        return f"{shape[1]} has the shape {shape[3]}, and should have {shape[2]}"
    return text.splitlines()[0]

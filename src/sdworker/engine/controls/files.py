"""ControlNets from files: a folder as diffusers saves it, or a single file in diffusers' or the original layout.

A single file does not say how its network is built; but for the hint's embedding, whose sizes are read off its
weights, that is how the model's UNet is built. Nothing is downloaded, and no pickle is opened.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file

from sdworker.engine.controls.errors import ControlError
from sdworker.engine.controls.net import ControlNet
from sdworker.engine.model_config import ModelError
from sdworker.engine.model_files import check_finite
from sdworker.engine.networks.model import Model
from sdworker.engine.pretrained import from_pretrained

__all__ = ["load_control_net"]

_EMBEDDING = "controlnet_cond_embedding"
# Of a network's configuration, what must be as the UNet has it, and what an error says of it.
_MUST_FIT = {
    "addition_embed_type": "it is {theirs} beside the text, this model's UNet is {ours}",
    "cross_attention_dim": "its texts are {theirs} wide, this model's {ours}",
    "block_out_channels": "its levels have {theirs} channels, this model's {ours}",
    "layers_per_block": "its levels have {theirs} layers, this model's {ours}",
}
# Names of weights that tell other kinds of files, which people take for ControlNets.
_OTHER_KINDS = (
    ("lora_controlnet", "a Control-LoRA"),
    ("body.0.block1.weight", "a T2I-Adapter"),
    ("adapter.body.0.block1.weight", "a T2I-Adapter"),
    ("control_add_embedding.linear_1.weight", "a ControlNet Union"),
    ("task_embedding", "a ControlNet Union"),
)


def load_control_net(path: Path, *, name: str, model: Model) -> ControlNet:
    """A ControlNet for that model, on the CPU, in the model's precision.

    Args:
        path: a folder in diffusers' layout, or a `.safetensors` file.
        name: as jobs call it.
        model: only its configuration is looked at.

    Raises:
        ControlError: it is damaged, of another kind, or for another kind of model; naming it.
    """
    diffusers_logging.set_verbosity_error()
    try:
        load = _from_folder if path.is_dir() else _from_file
        module = load(path, model.unet_config, model.dtype).eval().requires_grad_(False)
        _check_ends(module.config, model)
        check_finite(path, module)
    except ControlError as error:
        raise ControlError(f"the ControlNet {name!r} {error}") from error.__cause__
    except ModelError as error:
        raise ControlError(f"the ControlNet {name!r} is damaged or incomplete") from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ControlError(f"the ControlNet {name!r} does not fit into memory") from error
    except Exception as error:  # the libraries raise anything; the cause is kept, for the log
        raise ControlError(f"the ControlNet {name!r} cannot be loaded: its files are damaged") from error
    return ControlNet(module, name)


def _from_folder(folder: Path, unet: Mapping[str, Any], dtype: torch.dtype) -> Any:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    kind = config.get("_class_name")
    if kind != "ControlNetModel":
        raise ControlError(f"is a {str(kind)[:60]}; ControlNetModel is served")
    defaults = inspect.signature(ControlNetModel.__init__).parameters
    _check_fit({key: config.get(key, defaults[key].default) for key in _MUST_FIT}, unet)
    variant = None if (folder / "diffusion_pytorch_model.safetensors").is_file() else "fp16"
    return from_pretrained(ControlNetModel, folder, dtype=dtype, variant=variant)


def _from_file(file: Path, unet: Mapping[str, Any], dtype: torch.dtype) -> Any:
    weights = load_file(file)
    for key, kind in _OTHER_KINDS:
        if key in weights:
            raise ControlError(f"is {kind}; only ControlNets are served")
    weights = {
        name: weight for name, weight in _in_diffusers_names(weights, unet).items() if weight is not None
    }
    if f"{_EMBEDDING}.conv_in.weight" not in weights:
        raise ControlError("is no ControlNet: it takes no hint")
    wide = weights.get("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight")
    wide = weights.get("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", wide)
    if wide is not None:
        _check_fit({"cross_attention_dim": wide.shape[1]}, unet)
    with torch.device("meta"):
        module = ControlNetModel(**_config(unet, weights))
    expected = module.state_dict()
    lacking = expected.keys() - weights.keys()
    if lacking or weights.keys() - expected.keys():
        raise ControlError("is for another kind of model: it is built otherwise")
    for name, weight in weights.items():
        if weight.shape != expected[name].shape:
            raise ControlError(
                f"is for another kind of model: its weight {name} has the shape {tuple(weight.shape)}, "
                f"and should have {tuple(expected[name].shape)}"
            )
    module.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, assign=True)
    return module


def _in_diffusers_names(weights: dict[str, torch.Tensor], unet: Mapping[str, Any]) -> dict[str, Any]:
    """The weights by diffusers' names, whatever names the file has."""
    bare = {name.removeprefix("control_model."): weight for name, weight in weights.items()}
    if "time_embed.0.weight" not in bare:
        return weights
    converted: dict[str, Any] = convert_controlnet_checkpoint(bare, unet)
    return converted


def _config(unet: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """How a ControlNet for that UNet is built, with an embedding of the hint as the weights have it."""
    shared = {key: unet[key] for key in inspect.signature(ControlNetModel.__init__).parameters if key in unet}
    first = weights[f"{_EMBEDDING}.conv_in.weight"]
    widths = [len(first)]
    while (block := weights.get(f"{_EMBEDDING}.blocks.{2 * len(widths) - 1}.weight")) is not None:
        widths.append(len(block))
    return shared | {
        "in_channels": weights["conv_in.weight"].shape[1],
        "conditioning_channels": first.shape[1],
        "conditioning_embedding_out_channels": tuple(widths),
    }


def _check_fit(config: Mapping[str, Any], unet: Mapping[str, Any]) -> None:
    """Raises: ControlError: the configurations are of different kinds of models."""
    for key, words in _MUST_FIT.items():
        if key in config and _plain(config[key]) != _plain(unet[key]):
            theirs, ours = _in_words(key, config[key]), _in_words(key, unet[key])
            raise ControlError(f"is for another kind of model: {words.format(theirs=theirs, ours=ours)}")


def _check_ends(config: Mapping[str, Any], model: Model) -> None:
    """Raises: ControlError: hint or latents do not go into it as they are."""
    if config["conditioning_channels"] != 3:
        raise ControlError(f"takes hints of {config['conditioning_channels']} channels; 3 are served")
    latents = model.autoencoder.latent_channels
    if config["in_channels"] != latents:
        raise ControlError(
            f"is for another kind of model: it takes {config['in_channels']} channels, this model's latents have "
            f"{latents}"
        )
    scale = 2 ** (len(config["conditioning_embedding_out_channels"]) - 1)
    if scale != model.autoencoder.pixels_per_latent:
        raise ControlError(
            f"is for another kind of model: it makes one of {scale} pixels, this model's VAE of "
            f"{model.autoencoder.pixels_per_latent}"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _in_words(key: str, value: Any) -> str:
    if key == "addition_embed_type":
        if value == "text_time":
            return "told text_time as Stable Diffusion XL's"
        return "told nothing" if value is None else f"told {value}"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(one) for one in value)
    return str(value)

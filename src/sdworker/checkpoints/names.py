"""The weights of a checkpoint under the names that diffusers and transformers have for them.

The UNet's and the VAE's names are many and irregular: diffusers' own conversion maps them. A text encoder comes as
transformers has it, or as OpenCLIP does: with one matrix for queries, keys and values, a projection that is
transposed, and other names.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdworker.checkpoints.recognise import WORDS, Checkpoint

if TYPE_CHECKING:
    import torch

__all__ = ["given_weights", "saved_name", "wanted_shapes"]

Tensors = Mapping[str, "torch.Tensor"]

_OPEN_CLIP = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def given_weights(part: str, checkpoint: Checkpoint, tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """A part's weights, by their names in a folder of diffusers' layout.

    Args:
        tensors: all of the checkpoint's; on any device, `meta` too. Those that are returned are views of them.
        config: the part's configuration.

    Raises:
        KeyError: a weight is missing that others cannot do without.
    """
    if part in ("unet", "vae"):
        return _by_diffusers(part, tensors, config)
    words = WORDS[checkpoint.layout][part]
    if words.clip is not None and any(key.startswith(words.clip) for key in tensors):
        given = {
            key.removeprefix(words.clip): value
            for key, value in tensors.items()
            if key.startswith(words.clip)
        }
        return {key.removeprefix("text_model."): value for key, value in given.items()}
    assert words.open_clip is not None, "it is known by either"
    return _from_open_clip(words.open_clip, tensors)


def wanted_shapes(part: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every weight that a part needs, and its shape.

    Raises:
        Exception: the configuration makes no network; diffusers raises anything.
    """
    if part not in ("unet", "vae"):
        return _text_shapes(config, projects=part == "text_encoder_2")
    import torch

    with torch.device("meta"):
        network = _class_of(part).from_config(dict(config))
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def saved_name(part: str, name: str) -> str:
    """What a part's weight is called in its file, as transformers saves it: a text encoder with a projection
    has the encoder inside."""
    is_inside = part == "text_encoder_2" and not name.startswith("text_projection")
    return f"text_model.{name}" if is_inside else name


def _class_of(part: str) -> Any:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    return {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part]


def _by_diffusers(part: str, tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    import torch
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    with torch.device("meta"):
        whole = dict(_class_of(part).from_config(dict(config)).config)
    convert = {"unet": convert_ldm_unet_checkpoint, "vae": convert_ldm_vae_checkpoint}[part]
    converted: Tensors = convert(dict(tensors), whole)
    return converted


def _from_open_clip(beginning: str, tensors: Tensors) -> Tensors:
    given: dict[str, torch.Tensor] = {}
    for key, value in tensors.items():
        name = key.removeprefix(beginning)
        if name == key:
            continue
        if name in _OPEN_CLIP:
            given[_OPEN_CLIP[name]] = value
        elif name == "text_projection":
            given["text_projection.weight"] = value.T
        elif name.startswith("transformer.resblocks."):
            number, _, inner = name.removeprefix("transformer.resblocks.").partition(".")
            layer = f"encoder.layers.{number}"
            if inner.startswith("attn.in_proj_"):
                kind = inner.removeprefix("attn.in_proj_")
                for one, share in zip(_PROJECTIONS, value.chunk(3), strict=False):
                    given[f"{layer}.self_attn.{one}.{kind}"] = share
                continue
            module, _, kind = inner.rpartition(".")
            given[f"{layer}.{_OPEN_CLIP_LAYER.get(module, module)}.{kind}"] = value
    return given


def _text_shapes(config: Mapping[str, Any], *, projects: bool) -> dict[str, tuple[int, ...]]:
    """Of transformers' `CLIPTextModel`, or of that `WithProjection`."""
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    positions = int(config.get("max_position_embeddings", 77))
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.token_embedding.weight": (int(config.get("vocab_size", 49408)), width),
        "embeddings.position_embedding.weight": (positions, width),
        "final_layer_norm.weight": (width,),
        "final_layer_norm.bias": (width,),
    }
    linears = {
        **{f"self_attn.{name}": (width, width) for name in (*_PROJECTIONS, "out_proj")},
        "mlp.fc1": (inner, width),
        "mlp.fc2": (width, inner),
    }
    for number in range(int(config["num_hidden_layers"])):
        layer = f"encoder.layers.{number}"
        for name, shape in linears.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}.{name}.{kind}": (width,) for kind in ("weight", "bias")}
    if projects:
        shapes["text_projection.weight"] = (int(config.get("projection_dim", 512)), width)
    return shapes

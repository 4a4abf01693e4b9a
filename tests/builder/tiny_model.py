"""A Stable Diffusion of a few hundred kilobytes with random weights, in diffusers' and in the original layout."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

__all__ = ["ldm_tensors", "make_diffusers_folder", "save_ldm", "xl_tensors"]

_WIDTH = 32


def make_diffusers_folder(folder: Path, *, unet_channels: int = 4) -> None:
    """Write what a hub repository of a full model holds: all components in fp32, and clutter around them."""
    torch.manual_seed(0)
    UNet2DConditionModel(
        in_channels=unet_channels,
        sample_size=8,
        layers_per_block=2,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
        cross_attention_dim=_WIDTH,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        layers_per_block=1,
        latent_channels=4,
    ).save_pretrained(folder / "vae")
    tokens = _write_tokenizer(folder / "tokenizer")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=tokens,
            hidden_size=_WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=tokens - 2,
            eos_token_id=tokens - 1,
            pad_token_id=tokens - 1,
        )
    ).save_pretrained(folder / "text_encoder")
    _write_json(
        folder / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "PNDMScheduler",
            "beta_schedule": "scaled_linear",
            "clip_sample": False,
            "num_train_timesteps": 1000,
            "skip_prk_steps": True,
            "steps_offset": 1,
        },
    )
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.6.0",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    for name in ("safety_checker/model.safetensors", "unet/diffusion_pytorch_model.bin", "vae/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not wanted")
    (folder / "README.md").write_text("A card.")


def ldm_tensors(folder: Path, *, open_clip: bool = False) -> dict[str, torch.Tensor]:
    """The folder's networks under the names that the original Stable Diffusion code gives their weights.

    Stable Diffusion 1.x keeps its text encoder as transformers names it, 2.x as OpenCLIP does.
    """
    tensors = _picture_tensors(folder, attends_above=False)
    text = load_file(folder / "text_encoder" / "model.safetensors")
    text = {key.removeprefix("text_model."): value for key, value in text.items()}
    if open_clip:
        tensors |= {f"cond_stage_model.model.{key}": value for key, value in _open_clip(text).items()}
    else:
        tensors |= {f"cond_stage_model.transformer.text_model.{key}": value for key, value in text.items()}
        # What else real checkpoints carry, here and below.
        positions = torch.arange(77)[None]
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = positions
    return _as_found(tensors)


def xl_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The same of a Stable Diffusion XL of two levels, of which the second attends to the text."""
    tensors = _picture_tensors(folder, attends_above=True)
    for number, name in enumerate(("text_encoder", "text_encoder_2")):
        text = load_file(folder / name / "model.safetensors")
        text = {key.removeprefix("text_model."): value for key, value in text.items()}
        beginning = f"conditioner.embedders.{number}."
        if number == 0:
            tensors |= {f"{beginning}transformer.text_model.{key}": value for key, value in text.items()}
        else:
            tensors |= {f"{beginning}model.{key}": value for key, value in _open_clip(text).items()}
    return _as_found(tensors)


def _as_found(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With what else real checkpoints carry."""
    tensors["model_ema.decay"] = torch.tensor(0.9999)
    tensors["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    return {key: value.contiguous() for key, value in tensors.items()}


def _picture_tensors(folder: Path, *, attends_above: bool) -> dict[str, torch.Tensor]:
    """The UNet's and the VAE's.

    Args:
        attends_above: the UNet attends to the text in its second level, not in its first.
    """
    tensors = {}
    for key, value in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        tensors["model.diffusion_model." + _unet_name(key, attends_above)] = value
    for key, value in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        name = _vae_name(key)
        # The original attention is made of 1x1 convolutions.
        is_projection = ".attn_1." in name and value.ndim == 2
        tensors["first_stage_model." + name] = value[:, :, None, None] if is_projection else value
    return tensors


def _open_clip(text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenCLIP has one matrix for queries, keys and values, a transposed projection, and other names."""
    text = dict(text)
    projection = text.pop("text_projection.weight", torch.eye(_WIDTH))
    tensors = {"logit_scale": torch.tensor(1.0), "text_projection": projection.T}
    for key, value in text.items():
        if ".q_proj." in key:
            kind = key.rsplit(".", 1)[1]
            joined = torch.cat([text[key.replace("q_proj", name)] for name in ("q_proj", "k_proj", "v_proj")])
            name = key.replace("self_attn.q_proj." + kind, f"attn.in_proj_{kind}")
        elif ".k_proj." in key or ".v_proj." in key:
            continue
        else:
            joined, name = value, key
        for ours, theirs in _OPEN_CLIP:
            name = name.replace(ours, theirs)
        tensors[name] = joined
    return tensors


_OPEN_CLIP = (
    ("embeddings.token_embedding", "token_embedding"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm", "ln_final"),
    ("encoder.layers.", "transformer.resblocks."),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("self_attn.out_proj", "attn.out_proj"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)
_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)


def _unet_name(key: str, attends_above: bool) -> str:
    """For two levels of two layers each: blocks 1, 2 are level 0, 3 goes down, 4 and 5 are level 1."""
    head, *rest = key.split(".")
    fixed = {
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "time_embedding": "time_embed",
    }
    if head in ("time_embedding", "add_embedding"):
        place = "time_embed" if head == "time_embedding" else "label_emb.0"
        return f"{place}.{ {'linear_1': 0, 'linear_2': 2}[rest[0]] }.{rest[1]}"
    if head in fixed:
        return ".".join([fixed[head], *rest])
    if head == "mid_block":
        kind, index, *tail = rest
        place = f"middle_block.{int(index) * 2 if kind == 'resnets' else 1}"
        return f"{place}.{_inner(kind, tail)}"
    level, kind, index, *tail = rest
    if head == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{3 * (int(level) + 1)}.0.op.{tail[-1]}"
        place = f"input_blocks.{3 * int(level) + int(index) + 1}"
    else:
        if kind == "upsamplers":
            attends = (level == "0") == attends_above
            return f"output_blocks.{3 * int(level) + 2}.{2 if attends else 1}.conv.{tail[-1]}"
        place = f"output_blocks.{3 * int(level) + int(index)}"
    return f"{place}.{0 if kind == 'resnets' else 1}.{_inner(kind, tail)}"


def _inner(kind: str, tail: list[str]) -> str:
    name = ".".join(tail)
    if kind == "resnets":
        for ours, theirs in _RESNET:
            name = name.replace(ours, theirs)
    return name


def _vae_name(key: str) -> str:
    if key.startswith(("quant_conv", "post_quant_conv")):
        return key
    side, head, *rest = key.split(".")
    if head == "conv_norm_out":
        return f"{side}.norm_out.{rest[0]}"
    if head == "mid_block":
        kind, index, *tail = rest
        name = ".".join(tail)
        if kind == "attentions":
            for ours, theirs in (
                ("group_norm", "norm"),
                ("to_q", "q"),
                ("to_k", "k"),
                ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ):
                name = name.replace(ours, theirs)
            return f"{side}.mid.attn_1.{name}"
        return f"{side}.mid.block_{int(index) + 1}.{name}"
    if head in ("down_blocks", "up_blocks"):
        level, kind, index, *tail = rest
        name = ".".join(tail).replace("conv_shortcut", "nin_shortcut")
        direction = head.split("_")[0]
        # The original counts the decoder's levels from the full size inwards.
        number = int(level) if direction == "down" else 1 - int(level)
        if kind in ("downsamplers", "upsamplers"):
            return f"{side}.{direction}.{number}.{direction}sample.{name}"
        return f"{side}.{direction}.{number}.block.{index}.{name}"
    return f"{side}.{head}.{'.'.join(rest)}"


def _write_tokenizer(folder: Path) -> int:
    """CLIP's byte-pair tokenizer with single letters and a few merges. Returns its size."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o")]
    words = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    _write_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special},
    )
    return len(vocabulary)


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))


def save_ldm(folder: Path, path: Path, *, open_clip: bool = False) -> None:
    """Write the folder's model as a single file."""
    save_file(ldm_tensors(folder, open_clip=open_clip), path)

"""A LoRA file, checked and brought to one form.

Only safetensors: a pickle runs code when it is read. Every tensor of a file must find its place, or the file is
refused: half a LoRA is another picture than its author's.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sdworker.engine.lora.low_rank import LowRank, Target
from sdworker.engine.lora.names import Directory, Place, split_key
from sdworker.engine.lora.products import ShapeMismatch, to_low_rank
from sdworker.errors import UserError

__all__ = ["LoraError", "LoraWeights", "read_lora"]

# Of any product; a LoRA of higher rank costs more than the layer it changes.
_HIGHEST_RANK = 1024
# SDXL's layers, all of them, with five tensors each, are half of that. To read 300,000 takes seconds of a thread.
_MOST_TENSORS = 20_000
_FLOATS = ("F64", "F32", "F16", "BF16")
# What a file is when its keys have these in them; said where they find no place.
_OTHER_KINDS = (
    ("lora_te2_", "SDXL"),
    ("text_encoder_2.", "SDXL"),
    ("double_blocks", "Flux"),
    ("single_transformer_blocks", "Flux"),
    ("joint_blocks", "Stable Diffusion 3"),
    ("lora_transformer_", "a transformer model (Flux or Stable Diffusion 3)"),
    ("transformer.", "a transformer model (Flux or Stable Diffusion 3)"),
)
# Cross-attention's width → which models have it.
_TEXT_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
_NOT_READ = (
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("oft_blocks", "OFT"),
    ("oft_diag", "OFT"),
    ("on_input", "IA3"),
    ("diff_b", "changed biases"),
    ("w_norm", "changed norms"),
    ("b_norm", "changed norms"),
    ("bundle_emb.", "embeddings packed into it"),
)
_METADATA = "lora_adapter_metadata"


class LoraError(UserError):
    """A file cannot be used as a LoRA of this model; the message says why, and names no path."""


@dataclass(frozen=True, eq=False)
class LoraWeights:
    """A LoRA in one form.

    Attributes:
        parts: network (`unet`, `text_encoder`, `text_encoder_2`) → layer → what is added to its weight.
    """

    parts: Mapping[str, Mapping[str, LowRank]]

    @property
    def rank(self) -> int:
        """The highest of any layer."""
        return max(low_rank.rank for part in self.parts.values() for low_rank in part.values())

    @property
    def bytes_(self) -> int:
        return sum(low_rank.bytes_ for part in self.parts.values() for low_rank in part.values())


def read_lora(path: Path, directory: Directory) -> LoraWeights:
    """Read a file for a model; on any thread.

    Args:
        path: of a safetensors file.
        directory: the model's layers.

    Raises:
        LoraError: it is no LoRA, is damaged, or is one for another kind of model.
    """
    tensors, metadata = _read(path)
    if not tensors:
        raise LoraError("holds no tensors")
    placed: defaultdict[Place, dict[str, torch.Tensor]] = defaultdict(dict)
    lost: list[str] = []
    for key, tensor in tensors.items():
        split = split_key(key)
        place = split and directory.find(split[0])
        if not split or not place or split[1] in placed[place]:
            lost.append(key)
        else:
            placed[place][split[1]] = tensor
    if lost:
        raise LoraError(_describe_lost(lost, tensors))
    alphas = _Alphas.of(metadata, path, tensors)
    return LoraWeights(_convert(placed, directory.targets, alphas, tensors))


def _convert(
    placed: Mapping[Place, dict[str, torch.Tensor]],
    targets: Mapping[str, Mapping[str, Target]],
    alphas: "_Alphas",
    tensors: Mapping[str, torch.Tensor],
) -> dict[str, dict[str, LowRank]]:
    parts: defaultdict[str, dict[str, LowRank]] = defaultdict(dict)
    wrong: list[str] = []
    for place, pieces in placed.items():
        rank = len(pieces["down"]) if "down" in pieces and pieces["down"].ndim else 0
        try:
            low_rank = to_low_rank(pieces, targets[place.part][place.layer], alphas.of_layer(place, rank))
        except ShapeMismatch as error:
            wrong.append(f"{place.layer} {error}")
            continue
        if low_rank.rank > _HIGHEST_RANK:
            raise LoraError(f"has rank {low_rank.rank} in {place.layer}; at most {_HIGHEST_RANK} is served")
        if not (low_rank.down.isfinite().all() and low_rank.up.isfinite().all()):
            raise LoraError(f"holds numbers that are not finite, in {place.layer}")
        parts[place.part][place.layer] = low_rank
    if wrong:
        raise LoraError(
            f"does not fit this model: {len(wrong)} of {len(placed)} layers have another shape"
            f"{_meant_for(tensors)}; the first: {wrong[0]}"
        )
    return dict(parts)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors in float32, and the header's metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            keys = list(file.keys())
            if len(keys) > _MOST_TENSORS:
                raise LoraError(f"holds {len(keys)} tensors; at most {_MOST_TENSORS} are read")
            for key in keys:
                kind = file.get_slice(key).get_dtype()
                if kind not in _FLOATS:
                    raise LoraError(f"holds {kind} numbers; {', '.join(_FLOATS)} are read")
            return {key: file.get_tensor(key).float() for key in keys}, metadata
    except SafetensorError as error:
        raise LoraError("is no whole safetensors file; pickles (.pt, .ckpt, .bin) are not read") from error
    except OSError as error:
        raise LoraError(f"cannot be read: {error.strerror or type(error).__name__}") from error


def _describe_lost(lost: list[str], tensors: Mapping[str, torch.Tensor]) -> str:
    for mark, what in _NOT_READ:
        if any(mark in key for key in lost):
            return f"holds {what}, which is not served"
    return (
        f"{len(lost)} of its {len(tensors)} tensors have no place in this model{_meant_for(tensors)}; "
        f"the first: {_shown(lost[0])}"
    )


def _shown(key: str) -> str:
    printable = "".join(character for character in key if character.isprintable())
    return printable if len(printable) <= 100 else printable[:97] + "..."


def _meant_for(tensors: Mapping[str, torch.Tensor]) -> str:
    """` (it is for SDXL)`, where the file's keys or shapes tell."""
    kind = next((kind for mark, kind in _OTHER_KINDS if any(mark in key for key in tensors)), None)
    if kind is None:
        widths = {
            tensor.shape[1]
            for key, tensor in tensors.items()
            if re.search(r"attn2[._]to_k", key)
            and re.search(r"lora_down|lora_A|lora\.down", key)
            and tensor.ndim > 1
        }
        kind = next((_TEXT_WIDTHS[width] for width in widths if width in _TEXT_WIDTHS), None)
    return f" (it is for {kind})" if kind else ""


@dataclass(frozen=True)
class _Alphas:
    """What scales a PEFT LoRA: its configuration's words, which are not among its tensors.

    Attributes:
        parts: network → PEFT's LoraConfig as a mapping; the network "" for all.
    """

    parts: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, metadata: Mapping[str, str], path: Path, tensors: Iterable[str]) -> "_Alphas":
        """From the header, as diffusers writes it, or the file beside it, as PEFT does.

        Raises:
            LoraError: a file of PEFT's own has neither, so its strength cannot be known.
        """
        try:
            if _METADATA in metadata:
                given = json.loads(metadata[_METADATA])
                parts: defaultdict[str, dict[str, Any]] = defaultdict(dict)
                for name, value in given.items():
                    part, _, key = name.rpartition(".")
                    parts[part][key] = value
                return cls(parts)
            if any(key.startswith("base_model.model.") for key in tensors):
                beside = path.with_name("adapter_config.json")
                return cls({"": json.loads(beside.read_text("utf-8"))})
        except OSError as error:
            raise LoraError("is PEFT's own format; its adapter_config.json must lie beside it") from error
        except (ValueError, AttributeError) as error:
            raise LoraError("has metadata that cannot be understood") from error
        return cls({})

    def of_layer(self, place: Place, rank: int) -> float | None:
        config = self.parts.get(place.part, self.parts.get(""))
        if not config or not rank:
            return None
        alpha: Any = config.get("lora_alpha")
        for pattern, value in (config.get("alpha_pattern") or {}).items():
            # PEFT's own rule: a pattern names the end of a layer's path.
            if place.layer == pattern or place.layer.endswith(f".{pattern}"):
                alpha = value
        if not isinstance(alpha, (int, float)):
            return None
        return alpha * rank**0.5 if config.get("use_rslora") else float(alpha)

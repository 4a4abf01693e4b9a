"""Textual inversion: files whose vectors stand in a prompt for tokens, where their name is written.

Only safetensors: a pickle (`.pt`, `.bin`) runs code when it is read. AUTOMATIC1111's files hold one tensor
`emb_params`, diffusers' one of any name, those of Stable Diffusion XL `clip_l` and `clip_g` for its two encoders.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from sdworker.errors import UserError

__all__ = ["Embedding", "EmbeddingError", "Vectors", "read_vectors"]

_FLOATS = ("F64", "F32", "F16", "BF16")
_FIRST, _SECOND = "text_encoder", "text_encoder_2"
# Of Stable Diffusion XL's files: key → the encoder it is for.
_PAIR = {"clip_l": _FIRST, "clip_g": _SECOND}
_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "Stable Diffusion XL"}
_MOST_VECTORS = 1000  # no chunk holds a tenth of them
_MOST_TENSORS = 100  # of which one or two are an embedding; to read 300,000 takes seconds of a thread


class EmbeddingError(UserError):
    """A file cannot be used as an embedding of this model; the message says why, and names no path."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """What an embedding's file holds.

    Attributes:
        parts: text encoder (`text_encoder`, `text_encoder_2`) → [n, width] in float32; n is one for all.
    """

    parts: Mapping[str, torch.Tensor]

    @property
    def count(self) -> int:
        """How many vectors, and so tokens of the prompt, it is."""
        return len(next(iter(self.parts.values())))

    @property
    def bytes_(self) -> int:
        return sum(4 * tensor.numel() for tensor in self.parts.values())


@dataclass(frozen=True, eq=False)
class Embedding:
    """An embedding of a drawing.

    Attributes:
        name: what stands for it in the prompts.
        key: equal where the file is the same.
    """

    name: str
    key: Hashable
    vectors: Vectors


def read_vectors(path: Path, widths: Mapping[str, int]) -> Vectors:
    """Read a file for a model.

    Args:
        path: of a safetensors file.
        widths: text encoder → numbers of a token's embedding.

    Raises:
        EmbeddingError: it is no embedding, is damaged, or is one for another kind of model.
    """
    tensors = _read(path)
    given = _by_encoder(tensors)
    for part, tensor in given.items():
        _check(tensor, widths.get(part))
    if given.keys() != widths.keys():
        families = {
            1: "Stable Diffusion 1.x or 2.x (one text encoder)",
            2: "Stable Diffusion XL (two text encoders)",
        }
        raise EmbeddingError(f"is for {families[len(given)]}; this model is {families[len(widths)]}")
    if len({len(tensor) for tensor in given.values()}) > 1:
        raise EmbeddingError("has more vectors for one text encoder than for the other")
    return Vectors(given)


def _by_encoder(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if tensors.keys() == _PAIR.keys():
        return {_PAIR[key]: _rows(tensor) for key, tensor in tensors.items()}
    if "emb_params" in tensors:
        return {_FIRST: _rows(tensors["emb_params"])}
    if len(tensors) != 1:
        raise EmbeddingError(f"holds {len(tensors)} tensors; an embedding is one, or clip_l and clip_g")
    return {_FIRST: _rows(next(iter(tensors.values())))}


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """[n, width]; a single vector may be stored as [width]."""
    return tensor[None] if tensor.ndim == 1 else tensor


def _check(tensor: torch.Tensor, width: int | None) -> None:
    if tensor.ndim != 2 or not tensor.numel():
        raise EmbeddingError("holds no vectors")
    if width is not None and tensor.shape[1] != width:
        meant = _WIDTHS.get(tensor.shape[1])
        raise EmbeddingError(
            f"has vectors of {tensor.shape[1]} numbers, this model's have {width}"
            f"{f' (it is for {meant})' if meant else ''}"
        )
    if len(tensor) > _MOST_VECTORS:
        raise EmbeddingError(f"has {len(tensor)} vectors; at most {_MOST_VECTORS} are read")
    if not tensor.isfinite().all():
        raise EmbeddingError("holds numbers that are not finite")


def _read(path: Path) -> dict[str, torch.Tensor]:
    """All tensors in float32."""
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            if len(keys) > _MOST_TENSORS:
                raise EmbeddingError(f"holds {len(keys)} tensors; at most {_MOST_TENSORS} are read")
            for key in keys:
                kind = file.get_slice(key).get_dtype()
                if kind not in _FLOATS:
                    raise EmbeddingError(f"holds {kind} numbers; {', '.join(_FLOATS)} are read")
            return {key: file.get_tensor(key).float() for key in keys}
    except SafetensorError as error:
        raise EmbeddingError(
            "is no whole safetensors file; pickles (.pt, .ckpt, .bin) are not read"
        ) from error
    except OSError as error:
        raise EmbeddingError(f"cannot be read: {error.strerror or type(error).__name__}") from error

"""CLIP's text encoder and tokenizer, without importing transformers, which takes a second or two.

The same arithmetic in the same order as transformers' `CLIPTextModel`, and the same tokens as its `CLIPTokenizer`:
tests/engine/test_text.py compares them bit by bit. Whatever is not the plain case (a tokenizer of another make,
an activation not listed here, an attention mask) is left to transformers.
"""

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from sdworker.engine.model_files import check_complete

__all__ = ["TextEncoder", "Tokens", "load_text_encoder", "load_tokenizer"]

_ACTIVATIONS = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": nn.functional.gelu,
}
# What CLIPTokenizer makes of any vocabulary. A tokenizer.json that says the same can be used as it is.
_CLIP_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Lowercase"},
    ],
}
_CLIP_SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_CLIP_PRE_TOKENIZER = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": _CLIP_SPLIT}, "behavior": "Removed", "invert": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


class Tokens(Protocol):
    """A tokenizer: a prompt to ids and mask, each [1, length], cut and padded to the model's length."""

    def __call__(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]: ...


class TextEncoder(nn.Module):
    """CLIP's text model up to the last hidden state. Parameters are named as in the weights' file."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.positions: int = config["max_position_embeddings"]  # the most tokens of a prompt
        self.embeddings = nn.ModuleDict(
            {
                "token_embedding": _embedding(config["vocab_size"], width),
                "position_embedding": _embedding(config["max_position_embeddings"], width),
            }
        )
        layers = (_Layer(config) for _ in range(config["num_hidden_layers"]))
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.final_layer_norm = nn.LayerNorm(width, eps=config["layer_norm_eps"])

    def forward(self, ids: torch.Tensor, _mask: torch.Tensor) -> torch.Tensor:
        """`ids` [rows, length] → [rows, length, width]."""
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        hidden = self.embeddings["token_embedding"](ids) + self.embeddings["position_embedding"](positions)
        layers: Any = self.encoder["layers"]
        for layer in layers:
            hidden = layer(hidden)
        return self.final_layer_norm(hidden)


def _embedding(count: int, width: int) -> nn.Embedding:
    """Not filled with random numbers, which on the meta device would import torch's compiler."""
    return nn.Embedding.from_pretrained(torch.empty(count, width))


class _Layer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self._heads = config["num_attention_heads"]
        self._activation = _ACTIVATIONS[config["hidden_act"]]
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
        self.self_attn = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})
        self.layer_norm1 = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        self.layer_norm2 = nn.LayerNorm(width, eps=config["layer_norm_eps"])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self._attend(self.layer_norm1(hidden))
        inner = self._activation(self.mlp["fc1"](self.layer_norm2(hidden)))
        return hidden + self.mlp["fc2"](inner)

    def _attend(self, hidden: torch.Tensor) -> torch.Tensor:
        """Causal self-attention, [rows, length, width] to the same."""
        rows, length, width = hidden.shape
        query, key, value = (
            self.self_attn[name](hidden).view(rows, length, self._heads, -1).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.self_attn["out_proj"](attended.transpose(1, 2).reshape(rows, length, width))


def load_text_encoder(folder: Path, *, dtype: torch.dtype, variant: str | None) -> Any:
    """A module on the CPU, called with ids and mask, [rows, length] each: → [rows, length, width].

    Raises:
        ModelError: the weights do not fit the configuration.
        Exception: a file cannot be read or understood; safetensors and transformers raise what they like.
    """
    config = _CONFIG_DEFAULTS | json.loads((folder / "config.json").read_text("utf-8"))
    weights = folder / (f"model.{variant}.safetensors" if variant else "model.safetensors")
    if not _is_plain(config) or not weights.is_file():
        return _EncoderOfTransformers(folder, dtype=dtype, variant=variant)
    with torch.device("meta"):
        encoder = TextEncoder(config)
    given = {name.removeprefix("text_model."): tensor for name, tensor in load_file(weights).items()}
    wanted = encoder.state_dict()
    check_complete(
        folder,
        {
            "missing_keys": wanted.keys() - given.keys(),
            "mismatched_keys": [n for n in wanted.keys() & given.keys() if wanted[n].shape != given[n].shape],
        },
    )
    encoder.load_state_dict({name: given[name].to(dtype) for name in wanted}, assign=True)
    return encoder


def _is_plain(config: dict[str, Any]) -> bool:
    return (
        config["model_type"] == "clip_text_model"
        and config["hidden_act"] in _ACTIVATIONS
        and not config.get("use_attention_mask")
        and "quantization_config" not in config
    )


# transformers' CLIPTextConfig leaves out of config.json what is as by default.
_CONFIG_DEFAULTS = {
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


class _EncoderOfTransformers(nn.Module):
    def __init__(self, folder: Path, *, dtype: torch.dtype, variant: str | None) -> None:
        from transformers import CLIPTextModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        super().__init__()
        self.model, info = CLIPTextModel.from_pretrained(
            folder,
            dtype=dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        check_complete(folder, info)
        self.positions: int = self.model.config.max_position_embeddings

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        masked = getattr(self.model.config, "use_attention_mask", False)
        return self.model(ids, attention_mask=mask if masked else None)[0]


def load_tokenizer(folder: Path, positions: int) -> Tokens:
    """The folder's tokenizer; by transformers unless its tokenizer.json is what CLIPTokenizer would make of it.

    Args:
        positions: the most tokens that the text encoder takes.
    """
    plain = _plain_tokenizer(folder, positions)
    if plain is None:
        return _tokenizer_of_transformers(folder, positions)

    def tokenize(prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        encoding = plain.encode(prompt)
        return torch.tensor([encoding.ids]), torch.tensor([encoding.attention_mask])

    return tokenize


def _plain_tokenizer(folder: Path, positions: int) -> Tokenizer | None:
    """None where anything is not as CLIPTokenizer makes it."""
    try:
        described = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        added = {token["content"]: token for token in described["added_tokens"]}
        vocabulary = described["model"]["vocab"]
        as_expected = (
            described["normalizer"] == _CLIP_NORMALIZER
            and described["pre_tokenizer"] == _CLIP_PRE_TOKENIZER
            and described["model"]["end_of_word_suffix"] == "</w>"
            and described["model"]["unk_token"] == _EOS
            and described["model"].get("dropout") is None
            and not described["model"].get("byte_fallback")
            and not described["model"].get("ignore_merges")
            and described["post_processor"]["type"] == "RobertaProcessing"
            and described["post_processor"]["sep"] == [_EOS, vocabulary[_EOS]]
            and described["post_processor"]["cls"] == [_BOS, vocabulary[_BOS]]
            and added.keys() == {_BOS, _EOS}
            and all(token["special"] for token in added.values())
            and [_text_of(config[name]) for name in ("bos_token", "eos_token", "pad_token")]
            == [_BOS, _EOS, _EOS]
            and not (folder / "added_tokens.json").exists()
        )
        length = min(int(config["model_max_length"]), positions)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not as_expected:
        return None
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=vocabulary[_EOS], pad_token=_EOS)
    return tokenizer


def _text_of(token: Any) -> Any:
    """A special token as the configuration has it: its text, or in older models an object with it."""
    return token["content"] if isinstance(token, dict) else token


def _tokenizer_of_transformers(folder: Path, positions: int) -> Tokens:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)

    def tokenize(prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = tokenizer(
            prompt,
            padding="max_length",
            # A tokenizer without its configuration knows no limit of its own.
            max_length=min(tokenizer.model_max_length, positions),
            truncation=True,
            return_tensors="pt",
        )
        return tokens.input_ids, tokens.attention_mask

    return tokenize

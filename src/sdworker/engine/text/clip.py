"""CLIP's text encoder, without importing transformers, which takes a second or two.

The same arithmetic in the same order as transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`:
tests/engine/text/test_clip.py compares them bit by bit. Whatever is not the plain case (an activation not listed
here, an attention mask) is left to transformers.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from sdworker.engine.model_files import check_complete
from sdworker.engine.pretrained import from_pretrained

__all__ = ["ACTIVATIONS", "Layer", "TextEncoder", "Vectors", "load_text_encoder"]

ACTIVATIONS = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": nn.functional.gelu,
}

Vectors = tuple[int, int, torch.Tensor]
"""Row, first position, and [n, width] in place of the tokens there (textual inversion)."""


class TextEncoder(nn.Module):
    """CLIP's text model. Parameters are named as in the weights' file.

    Attributes:
        positions: the most tokens it takes at once, BOS and EOS included; 77.
        layers: how many it has; all but one may be skipped.
        width: numbers of a token's embedding.
    """

    def __init__(self, config: dict[str, Any], *, projects: bool = False) -> None:
        """
        Args:
            projects: it is a `CLIPTextModelWithProjection`.
        """
        super().__init__()
        width = config["hidden_size"]
        self.positions: int = config["max_position_embeddings"]
        self.layers: int = config["num_hidden_layers"]
        self.width: int = width
        self.embeddings = nn.ModuleDict(
            {
                "token_embedding": _embedding(config["vocab_size"], width),
                "position_embedding": _embedding(config["max_position_embeddings"], width),
            }
        )
        layers = (Layer(config) for _ in range(self.layers))
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.final_layer_norm = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        self._eos: int = config["eos_token_id"]
        self.text_projection = nn.Linear(width, config["projection_dim"], bias=False) if projects else None

    def forward(
        self, ids: torch.Tensor, _mask: torch.Tensor, *, skip: int = 0, vectors: Iterable[Vectors] = ()
    ) -> torch.Tensor:
        """`ids` [rows, length] → the last hidden state, [rows, length, width].

        Args:
            skip: layers left out at the end, 0 … `layers` − 1; the final norm is not.
            vectors: what stands in for tokens.
        """
        hidden = self._embed(ids, vectors)
        layers: Any = self.encoder["layers"]
        for layer in layers[: self.layers - skip]:
            hidden = layer(hidden)
        return self.final_layer_norm(hidden)

    def penultimate(
        self, ids: torch.Tensor, _mask: torch.Tensor, *, skip: int = 0, vectors: Iterable[Vectors] = ()
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What Stable Diffusion XL takes of a text.

        Args:
            skip: further layers left out, 0 … `layers` − 2.
            vectors: what stands in for tokens.

        Returns:
            The last hidden state but one, without the final norm, [rows, length, width]; and of an encoder that
            projects, the text as a whole, of all its layers, [rows, projected].
        """
        hidden = self._embed(ids, vectors)
        layers: Any = self.encoder["layers"]
        kept = self.layers - 1 - skip
        for layer in layers[:kept]:
            hidden = layer(hidden)
        if self.text_projection is None:
            return hidden, None
        last = hidden
        for layer in layers[kept:]:
            last = layer(last)
        # As transformers finds it: where the vocabulary's end is unknown (2, in configurations of old), it is the
        # largest number there is.
        ends = ids.argmax(-1) if self._eos == 2 else (ids == self._eos).int().argmax(-1)
        at_end = self.final_layer_norm(last)[torch.arange(len(ids), device=ids.device), ends]
        return hidden, self.text_projection(at_end)

    def _embed(self, ids: torch.Tensor, vectors: Iterable[Vectors]) -> torch.Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        tokens = _replace(self.embeddings["token_embedding"](ids), vectors)
        embedded: torch.Tensor = tokens + self.embeddings["position_embedding"](positions)
        return embedded


def _replace(tokens: torch.Tensor, vectors: Iterable[Vectors]) -> torch.Tensor:
    """Token embeddings [rows, length, width] with vectors in place of some."""
    for row, start, given in vectors:
        tokens[row, start : start + len(given)] = given.to(tokens)
    return tokens


def _embedding(count: int, width: int) -> nn.Embedding:
    """Not filled with random numbers, which on the meta device would import torch's compiler."""
    return nn.Embedding.from_pretrained(torch.empty(count, width))


class Layer(nn.Module):
    """One of CLIP's, of its text model or of its vision model, which looks both ways."""

    def __init__(self, config: dict[str, Any], *, is_causal: bool = True) -> None:
        super().__init__()
        self._is_causal = is_causal
        width, inner = config["hidden_size"], config["intermediate_size"]
        self._heads = config["num_attention_heads"]
        self._activation = ACTIVATIONS[config["hidden_act"]]
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
        """Self-attention, [rows, length, width] to the same."""
        rows, length, width = hidden.shape
        query, key, value = (
            self.self_attn[name](hidden).view(rows, length, self._heads, -1).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=self._is_causal)
        return self.self_attn["out_proj"](attended.transpose(1, 2).reshape(rows, length, width))


def load_text_encoder(
    folder: Path, *, dtype: torch.dtype, variant: str | None, projects: bool = False
) -> Any:
    """A module on the CPU, called as `TextEncoder` is: with ids and mask, [rows, length] each.

    Args:
        projects: it is a `CLIPTextModelWithProjection`.

    Raises:
        ModelError: the weights do not fit the configuration.
        Exception: a file cannot be read or understood; safetensors and transformers raise what they like.
    """
    config = _CONFIG_DEFAULTS | json.loads((folder / "config.json").read_text("utf-8"))
    weights = folder / (f"model.{variant}.safetensors" if variant else "model.safetensors")
    if not _is_plain(config) or not weights.is_file():
        return _EncoderOfTransformers(folder, dtype=dtype, variant=variant, projects=projects)
    with torch.device("meta"):
        encoder = TextEncoder(config, projects=projects)
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
        and config["hidden_act"] in ACTIVATIONS
        and not config.get("use_attention_mask")
        and "quantization_config" not in config
        and isinstance(config["eos_token_id"], int)
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
    "eos_token_id": 49407,
    "projection_dim": 512,
}


class _EncoderOfTransformers(nn.Module):
    def __init__(self, folder: Path, *, dtype: torch.dtype, variant: str | None, projects: bool) -> None:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        super().__init__()
        kind = CLIPTextModelWithProjection if projects else CLIPTextModel
        self.model = from_pretrained(kind, folder, dtype=dtype, variant=variant)
        self.positions: int = self.model.config.max_position_embeddings
        self.layers: int = self.model.config.num_hidden_layers
        self.width: int = self.model.config.hidden_size

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, *, skip: int = 0, vectors: Iterable[Vectors] = ()
    ) -> torch.Tensor:
        output = self._run(ids, mask, vectors, hidden_states=skip > 0)
        if skip == 0:
            return output[0]
        return self.model.final_layer_norm(output.hidden_states[-1 - skip])

    def penultimate(
        self, ids: torch.Tensor, mask: torch.Tensor, *, skip: int = 0, vectors: Iterable[Vectors] = ()
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        output = self._run(ids, mask, vectors, hidden_states=True)
        return output.hidden_states[-2 - skip], getattr(output, "text_embeds", None)

    def _run(
        self, ids: torch.Tensor, mask: torch.Tensor, vectors: Iterable[Vectors], *, hidden_states: bool
    ) -> Any:
        masked = getattr(self.model.config, "use_attention_mask", False)
        replaced = self.model.get_input_embeddings().register_forward_hook(
            lambda _module, _ids, tokens: _replace(tokens, vectors)
        )
        with replaced:
            return self.model(
                ids, attention_mask=mask if masked else None, output_hidden_states=hidden_states
            )

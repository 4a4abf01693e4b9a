"""CLIP's vision model, without importing transformers; the arithmetic is that of its `CLIPVisionModel`."""

from collections.abc import Generator
from typing import Any

import torch
from torch import nn

from sdworker.engine.text.clip import Layer

__all__ = ["VisionModel"]


class VisionModel(nn.Module):
    """Parameters are named as in the weights' file."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        self._width = width
        positions = (config["image_size"] // patch) ** 2 + 1
        self.embeddings = nn.Module()
        self.embeddings.class_embedding = nn.Parameter(torch.empty(width))
        self.embeddings.patch_embedding = nn.Conv2d(
            config["num_channels"], width, kernel_size=patch, stride=patch, bias=False
        )
        # Not filled with random numbers, which on the meta device would import torch's compiler.
        self.embeddings.position_embedding = nn.Embedding.from_pretrained(torch.empty(positions, width))
        self.pre_layrnorm = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        layers = (Layer(config, is_causal=False) for _ in range(config["num_hidden_layers"]))
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.post_layernorm = nn.LayerNorm(width, eps=config["layer_norm_eps"])

    def in_pieces(self, pixels: torch.Tensor) -> Generator[None, None, torch.Tensor]:
        """The pooled output [rows, width] of [rows, 3, side, side]; a layer for each item taken."""
        embeddings: Any = self.embeddings
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = embeddings.class_embedding.expand(len(pixels), 1, -1)
        hidden = torch.cat([first, patches], dim=1) + embeddings.position_embedding.weight
        hidden = self.pre_layrnorm(hidden)
        layers: Any = self.encoder["layers"]
        for layer in layers:
            yield
            hidden = layer(hidden)
        pooled: torch.Tensor = self.post_layernorm(hidden[:, 0])
        return pooled

"""What a network's forward takes beside another's: multiplications, counted from the shapes of its weights.

For what is not worth measuring, and is needed before it has run: a ControlNet's forward beside its UNet's.
"""

import re
from collections.abc import Iterable

import torch

__all__ = ["multiplications"]

_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.")
_SKIP = re.compile(r"controlnet_down_blocks\.(\d+)\.")
# Run once a row or over its text, not at every place of it.
_ELSEWHERE = re.compile(
    r"time_emb|^(time|add|class)_embedding|^controlnet_cond_embedding|encoder_hid_proj|attn2\.to_[kv]\."
)


def multiplications(named_weights: Iterable[tuple[str, torch.Tensor]], levels: int) -> float:
    """Of a row's forward through a UNet of diffusers' or its ControlNet, over the places of its latents.

    Each weight is used once at every place of its level, and a level has a quarter of the places of the one above.
    What attention does beside its weights is left out, so it suits for proportions of networks of one build:
    within a twentieth of what is counted when they run.

    Args:
        named_weights: as `named_parameters` gives them.
        levels: how many it has.
    """
    weights = [(name, weight) for name, weight in named_weights if weight.ndim >= 2]
    skips = 1 + max((int(found[1]) for name, _ in weights if (found := _SKIP.match(name))), default=-1)
    total = 0.0
    for name, weight in weights:
        if not _ELSEWHERE.search(name):
            total += weight.numel() / 4 ** _level(name, levels, skips)
    return total


def _level(name: str, levels: int, skips: int) -> int:
    """At which level of the network a weight is used; 0 is where the latents come in."""
    if found := _BLOCK.match(name):
        number = int(found[2])
        if found[1] == "down":
            return number + (".downsamplers." in name)
        return levels - 1 - number - (".upsamplers." in name)
    if found := _SKIP.match(name):
        return int(found[1]) * levels // skips
    return levels - 1 if name.startswith(("mid_block", "controlnet_mid_block")) else 0

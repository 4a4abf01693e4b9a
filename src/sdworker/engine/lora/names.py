"""Which layer a tensor of a LoRA file belongs to.

Three ways of writing are read: kohya's (`lora_unet_down_blocks_0_…_to_q.lora_down.weight`, with `lora_te_`,
`lora_te1_`, `lora_te2_` for text encoders, the UNet's layers by diffusers' names or by the original ones),
diffusers' and PEFT's (`unet.down_blocks.0.….to_q.lora_A.weight`), and diffusers' older attention processors
(`….attn1.processor.to_q_lora.down.weight`). Dots and underscores are taken for the same, since kohya's names have
lost the difference.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from sdworker.engine.lora.low_rank import Target
from sdworker.engine.lora.products import PIECES

__all__ = ["Directory", "Place", "split_key"]

# How a key ends → the piece it is. The longest that fits counts.
_ENDINGS = {
    **{piece: piece for piece in PIECES - {"down", "up", "mid"}},
    **{f"lora_{piece}.weight": piece for piece in ("down", "up", "mid")},
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    **{f"lora.{piece}.weight": piece for piece in ("down", "up")},
    **{f"lora_linear_layer.{piece}.weight": piece for piece in ("down", "up")},
}
# Of diffusers' older attention processors: the last of the path names the layer.
_PROCESSOR = re.compile(r"(.*)\.processor\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight")

_PARTS = {
    "lora_unet_": "unet",
    "unet.": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "text_encoder.": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "text_encoder_2.": "text_encoder_2",
}


class Place(NamedTuple):
    """A layer: which network's (`unet`, `text_encoder`, `text_encoder_2`), and its name there."""

    part: str
    layer: str


def split_key(key: str) -> tuple[str, str] | None:
    """A key's layer, as the file writes it, and which piece it is; None where it is no piece of a LoRA."""
    if match := _PROCESSOR.fullmatch(key):
        path, layer, piece = match.groups()
        return f"{path}.{layer.replace('to_out', 'to_out.0')}", piece
    for start in _cuts(key):
        piece = _ENDINGS.get(key[start + 1 :])
        if piece is not None:
            return key[:start], piece
    return None


def _cuts(key: str) -> Iterator[int]:
    """Where a key can be cut in two: its dots from the left, so that the longest ending comes first."""
    return (match.start() for match in re.finditer(r"\.", key))


class Directory:
    """The layers of a model, found by any of the names that files have for them.

    Attributes:
        targets: network (`unet`, `text_encoder`, `text_encoder_2`) → its layers by name.
    """

    def __init__(self, targets: Mapping[str, Mapping[str, Target]]) -> None:
        self.targets = targets
        self._layers = {part: {_plain(name): name for name in layers} for part, layers in targets.items()}
        if "unet" in targets:
            known = self._layers["unet"]
            for name, original in original_names(targets["unet"]).items():
                known.setdefault(_plain(original), name)

    def find(self, written: str) -> Place | None:
        """The layer that a file calls so, or None if the model has none of that name."""
        written = written.removeprefix("base_model.model.")
        for prefix, part in _PARTS.items():
            if written.startswith(prefix):
                return self._find(part, written.removeprefix(prefix))
        # PEFT's own files name no network; neither do diffusers' first ones.
        for part in self._layers:
            place = self._find(part, written)
            if place is not None:
                return place
        return None

    def _find(self, part: str, layer: str) -> Place | None:
        name = self._layers.get(part, {}).get(_plain(layer))
        return None if name is None else Place(part, name)


def _plain(name: str) -> str:
    name = name.replace(".", "_")
    return name.removeprefix("text_model_")


_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_SINGLE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_FIRST = "resnets", "conv1"
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def original_names(layers: Collection[str]) -> dict[str, str]:
    """The names of a UNet's layers in the original implementation (CompVis, Stability AI), of those that have one.

    Source: the layout of `ldm/modules/diffusionmodules/openaimodel.py`, where input and output blocks are counted
    through and a down- or upsampler is one more.
    """
    blocks = [match.groups() for match in map(_BLOCK.fullmatch, layers) if match]
    # Each resnet has a first convolution.
    resnets = Counter((side, block) for side, block, kind, _, rest in blocks if (kind, rest) == _FIRST)
    with_attention = {(side, block) for side, block, kind, *_ in blocks if kind == "attentions"}
    names = {name: _original_name(name, resnets, with_attention) for name in layers}
    return {name: original for name, original in names.items() if original is not None}


def _original_name(
    name: str, resnets: Mapping[tuple[str, str], int], with_attention: Collection[tuple[str, str]]
) -> str | None:
    """
    Args:
        resnets: how many each block has.
        with_attention: the blocks that have it.
    """
    if name in _SINGLE:
        return _SINGLE[name]
    if match := _MIDDLE.fullmatch(name):
        kind, number, rest = match.groups()
        return f"middle_block.{2 * int(number) if kind == 'resnets' else 1}.{_inner(kind, rest)}"
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    side, block, kind, number, rest = match.groups()
    each = resnets[side, block]
    if side == "down":
        first = 1 + int(block) * (each + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + each}.0.op"
        return f"input_blocks.{first + int(number)}.{int(kind == 'attentions')}.{_inner(kind, rest)}"
    first = int(block) * each
    if kind == "upsamplers":
        return f"output_blocks.{first + each - 1}.{2 if (side, block) in with_attention else 1}.conv"
    return f"output_blocks.{first + int(number)}.{int(kind == 'attentions')}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    return _RESNET.get(rest, rest) if kind == "resnets" else rest

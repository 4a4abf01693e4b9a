"""The one form that every LoRA is brought to: what it adds to a layer's weights, as a product of two factors."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["LowRank", "Target", "merge", "targets_of"]


@dataclass(frozen=True)
class Target:
    """A layer that a LoRA may change.

    Attributes:
        outputs, inputs: features of a linear layer, channels of a convolution.
        kernel: height and width of a convolution's kernel; (1, 1) for a linear layer.
        convolves: whether it is a convolution.
    """

    outputs: int
    inputs: int
    kernel: tuple[int, int] = (1, 1)
    convolves: bool = False

    @property
    def full_rank(self) -> int:
        """No difference of the weights has a higher rank."""
        return min(self.outputs, self.inputs * self.kernel[0] * self.kernel[1])

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the layer's weight."""
        shape = (self.outputs, self.inputs)
        return (*shape, *self.kernel) if self.convolves else shape


@dataclass(frozen=True, eq=False)
class LowRank:
    """What a LoRA at strength 1 adds to a layer's weight: `up @ down`.

    Attributes:
        down: [rank, inputs, kernel height, kernel width] in float32; a linear layer's kernel is 1 x 1.
        up: [outputs, rank] in float32; everything that scales is in it.
    """

    down: torch.Tensor
    up: torch.Tensor

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def bytes_(self) -> int:
        return 4 * (self.down.numel() + self.up.numel())

    def difference(self) -> torch.Tensor:
        """The product, [outputs, inputs, kernel height, kernel width]."""
        return (self.up @ self.down.flatten(1)).unflatten(1, self.down.shape[1:])


def targets_of(network: nn.Module) -> dict[str, Target]:
    """Every layer of a network that a LoRA may change, by its name."""
    targets: dict[str, Target] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear):
            targets[name] = Target(layer.out_features, layer.in_features)
        elif isinstance(layer, nn.Conv2d) and layer.groups == 1:
            height, width = layer.kernel_size
            targets[name] = Target(layer.out_channels, layer.in_channels, (height, width), convolves=True)
    return targets


@torch.no_grad()
def merge(network: nn.Module, weights: Mapping[str, LowRank], scale: float) -> None:
    """Add a LoRA to a network's weights for good.

    Args:
        weights: by the names that `targets_of` gives.
        scale: how strongly.
    """
    for name, low_rank in weights.items():
        weight = network.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        difference = scale * low_rank.difference().view(weight.shape)
        # In float32 also where the weights are half: rounded once, not twice.
        weight.copy_((weight.float() + difference.to(weight.device)).to(weight.dtype))

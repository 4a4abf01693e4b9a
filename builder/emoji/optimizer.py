"""Muon for the matrices, AdamW for the rest, in one optimizer with one state to save.

Muon (Keller Jordan, 2024) replaces a matrix's momentum by the nearest orthogonal matrix, so that rare
directions are learned as fast as common ones; a convolution counts as a matrix `[out, in * height * width]`.
torch.optim.Muon takes two-dimensional parameters only, hence this one.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn

from builder.emoji.precision import multiplies_bfloat16

# Newton-Schulz coefficients of the reference implementation: steep at zero, singular values end near 1.
_A, _B, _C = 3.4445, -4.7750, 2.0315

# Their rows or columns are pixels, latents or words, not features of which any mixture is as good.
OUTER_LAYERS = ("conv_in", "conv_out", "quant_conv", "token_embedding", "position_embedding")


class MuonAdamW(torch.optim.Optimizer):
    """`rate` is AdamW's learning rate; matrices move by `muon_factor` times it, at the scale of AdamW's."""

    def __init__(
        self,
        modules: Iterable[nn.Module],
        rate: float,
        *,
        muon_factor: float = 1.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        decay: float = 0.0,
    ) -> None:
        matrices, others = split_parameters(modules)
        defaults: dict[str, Any] = {"lr": rate, "decay": decay}
        super().__init__(
            [
                {"params": matrices, "muon": True, "momentum": momentum, "factor": muon_factor},
                {"params": others, "muon": False, "betas": betas},
            ],
            defaults,
        )

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next step."""
        for group in self.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["muon"]:
                self._step_muon(parameters, group)
            else:
                self._step_adamw(parameters, group)

    def _step_muon(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            by_shape[parameter.shape].append(parameter)
        for shape, alike in by_shape.items():
            updates = []
            for parameter in alike:
                gradient = cast(torch.Tensor, parameter.grad)
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(gradient, 1 - group["momentum"])
                updates.append(torch.lerp(gradient, momentum, group["momentum"]).reshape(shape[0], -1))
            orthogonal = orthogonalize(torch.stack(updates))
            # An orthogonal matrix has entries of size 1/sqrt(longer side); 0.2 is the usual size of AdamW's.
            step = 0.2 * max(orthogonal.shape[1:]) ** 0.5 * group["lr"] * group["factor"]
            for parameter, update in zip(alike, orthogonal, strict=True):
                parameter.mul_(1 - group["lr"] * group["decay"])
                parameter.add_(update.view(shape), alpha=-step)

    def _step_adamw(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        for parameter in parameters:
            state = self.state[parameter]
            mean = state.setdefault("mean", torch.zeros_like(parameter))
            square = state.setdefault("square", torch.zeros_like(parameter))
            state["steps"] = steps = state.get("steps", 0) + 1
            mean.lerp_(parameter.grad, 1 - first)
            square.mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
            scale = (square / (1 - second**steps)).sqrt_().add_(1e-8)
            parameter.addcdiv_(mean, scale, value=-group["lr"] / (1 - first**steps))


def split_parameters(modules: Iterable[nn.Module]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices inside the networks, and all others: biases, norms, embeddings, first and last layers."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            outer = any(part in name for part in OUTER_LAYERS)
            (others if parameter.ndim < 2 or outer else matrices).append(parameter)
    return matrices, others


def orthogonalize(matrices: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """Each of `[n, rows, columns]` with its singular values brought near 1 (Newton-Schulz, quintic)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    if x.is_cuda or multiplies_bfloat16():
        x = x.bfloat16()
    for _ in range(rounds):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    x = x.to(matrices.dtype)
    return x.mT if tall else x

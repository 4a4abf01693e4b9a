"""Which rows of a UNet forward are led by which ControlNets, and what that adds to the UNet.

Each net runs once over the rows that it leads, whosever they are, and what it says is added to zeros at their
places: so rows that are led and rows that are not share the UNet's forward. A prepared forward gets the sums as
inputs like any other, and serves whatever nets made them.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sdworker.engine.controls.errors import ControlError
from sdworker.engine.controls.net import ControlNet
from sdworker.engine.device import send
from sdworker.engine.unet_input import Conditioning, UNetInput

__all__ = ["Lead", "Residuals", "RowControls", "unet_arguments", "with_residuals"]


@dataclass(frozen=True, eq=False)
class Lead:
    """What leads a row.

    Attributes:
        hint: embedded, [1, c, h, w].
        strengths: [residuals], what each is multiplied by.
    """

    net: ControlNet
    hint: torch.Tensor
    strengths: torch.Tensor


@dataclass(frozen=True, eq=False)
class RowControls:
    """Of so many rows, which are led, and by what.

    Attributes:
        rows: how many it speaks of.
        leads: rows with what leads them; a row may have several.
    """

    rows: int
    leads: tuple[tuple[int, Lead], ...] = ()

    @classmethod
    def none(cls, rows: int) -> "RowControls":
        return cls(rows)

    @staticmethod
    def cat(parts: "Sequence[RowControls]") -> "RowControls":
        """The rows of all, one after another."""
        leads: list[tuple[int, Lead]] = []
        done = 0
        for part in parts:
            leads += [(done + row, lead) for row, lead in part.leads]
            done += part.rows
        return RowControls(done, tuple(leads))

    def __getitem__(self, rows: slice) -> "RowControls":
        start, stop, _ = rows.indices(self.rows)
        inside = tuple((row - start, lead) for row, lead in self.leads if start <= row < stop)
        return RowControls(max(0, stop - start), inside)

    def pad(self, rows: int) -> "RowControls":
        """With rows behind that nothing leads, so many in all."""
        return RowControls(rows, self.leads)

    def tensors(self) -> list[torch.Tensor]:
        """The hints and strengths, row by row."""
        return [tensor for _, lead in self.leads for tensor in (lead.hint, lead.strengths)]

    @property
    def key(self) -> Hashable:
        return tuple((row, id(lead.net)) for row, lead in self.leads)

    @property
    def nets(self) -> list[ControlNet]:
        """Those that lead any row, in the order in which they first do."""
        return list({id(lead.net): lead.net for _, lead in self.leads}.values())

    def of(self, net: ControlNet) -> list[tuple[int, Lead]]:
        """The rows that a net leads."""
        return [(row, lead) for row, lead in self.leads if lead.net is net]


@dataclass(frozen=True, eq=False)
class Residuals:
    """What all nets together add to the UNet.

    Attributes:
        layers: of each skip connection, then of the middle: [rows, c, h, w].
    """

    layers: tuple[torch.Tensor, ...]

    @classmethod
    def none(cls, rows: int) -> "Residuals":
        raise TypeError("residuals are made for a whole forward; rows without any have zeros in them")

    @staticmethod
    def cat(parts: "Sequence[Residuals]") -> "Residuals":
        """The rows of all, one after another."""
        return Residuals(
            tuple(torch.cat(layers) for layers in zip(*(part.layers for part in parts), strict=True))
        )

    def __getitem__(self, rows: slice) -> "Residuals":
        return Residuals(tuple(layer[rows] for layer in self.layers))

    def pad(self, rows: int) -> "Residuals":
        """With rows of zeros behind, so many in all."""
        missing = rows - len(self.layers[0])
        return Residuals(
            tuple(torch.cat([one, one.new_zeros(missing, *one.shape[1:])]) for one in self.layers)
            if missing
            else self.layers
        )

    def tensors(self) -> list[torch.Tensor]:
        return list(self.layers)

    @property
    def key(self) -> Hashable:
        return tuple(layer.shape[1:] for layer in self.layers)


def unet_arguments(told: Conditioning) -> dict[str, Any]:
    """What a UNet of diffusers' is called with beside, for a conditioning that `with_residuals` has seen."""
    if told.controls is None:
        return {}
    assert isinstance(told.controls, Residuals), "the ControlNets have not run"
    *down, middle = told.controls.layers
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


def with_residuals(inputs: UNetInput, free_memory: Callable[[], None]) -> UNetInput:
    """The same input with what the nets say in place of who they are; as it is where no net leads any row.

    Args:
        free_memory: gives back what is kept only for speed.

    Raises:
        ControlError: memory does not suffice for a net and a single row.
    """
    controls = inputs.conditioning.controls
    if not isinstance(controls, RowControls):
        return inputs
    layers: list[torch.Tensor] | None = None
    for net in controls.nets:
        said = _run(net, controls.of(net), inputs, free_memory)
        layers = said if layers is None else [one + other for one, other in zip(layers, said, strict=True)]
    residuals = None if layers is None else Residuals(tuple(layers))
    return replace(inputs, conditioning=replace(inputs.conditioning, controls=residuals))


def _run(
    net: ControlNet, leads: list[tuple[int, Lead]], inputs: UNetInput, free_memory: Callable[[], None]
) -> list[torch.Tensor]:
    """What a net adds to all rows of a forward: zeros but where it leads."""
    sums: list[torch.Tensor] | None = None
    done, most = 0, len(leads)
    while done < len(leads):
        part = leads[done : done + most]
        try:
            sums = _add(net, part, inputs, sums)
        except (torch.OutOfMemoryError, MemoryError) as error:
            free_memory()
            if len(part) == 1:
                raise ControlError(
                    f"out of memory in the ControlNet {net.name!r}; ask for a smaller image, or draw without it"
                ) from error
            most = len(part) // 2
        else:
            done += len(part)
    assert sums is not None, "only nets that lead are run"
    return sums


def _add(
    net: ControlNet, leads: list[tuple[int, Lead]], inputs: UNetInput, sums: list[torch.Tensor] | None
) -> list[torch.Tensor]:
    told, rows = inputs.conditioning, [row for row, _ in leads]
    hints = torch.cat([lead.hint for _, lead in leads])
    strengths = torch.stack([lead.strengths for _, lead in leads])
    if rows == list(range(inputs.rows)):
        said = net(inputs.latents, inputs.timesteps, told.text, told.added, hints)
        scaled = [_scaled(one, strengths[:, layer]) for layer, one in enumerate(said)]
        return scaled if sums is None else [one + more for one, more in zip(sums, scaled, strict=True)]
    places = send(torch.tensor(rows), inputs.latents.device)
    said = net(
        inputs.latents[places],
        inputs.timesteps[places],
        told.text[places],
        {name: tensor[places] for name, tensor in told.added.items()},
        hints,
    )
    scaled = [_scaled(one, strengths[:, layer]) for layer, one in enumerate(said)]
    if sums is None:
        sums = [one.new_zeros(inputs.rows, *one.shape[1:]) for one in scaled]
    for layer, one in zip(sums, scaled, strict=True):
        layer.index_add_(0, places, one)
    return sums


def _scaled(residual: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
    """Each row [c, h, w] by its own strength."""
    return residual * strengths.to(residual.dtype)[:, None, None, None]

"""What the UNet is told: one value that can be concatenated, sliced, padded and named by a key.

The loop, the prepared forwards and the benches pass it on and look at none of it. A new kind of conditioning is a
field of `Conditioning`, filled in by a family (`networks/families/`) and read by its UNet; nothing between the two
has to know.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import torch

from sdworker.engine.costs import Shape

__all__ = ["Conditioning", "PerRow", "UNetInput"]


class PerRow(Protocol):
    """Something else that each row is told, where some rows may be told nothing.

    Adapters: of each row the slots on the UNet's layers and their strengths; controls: nets, hints and strengths.
    What a row has in common with others, the LoRA's weights say, is named by number and kept with the network.
    """

    @classmethod
    def none(cls, rows: int) -> Self:
        """So many rows that are told nothing."""

    @staticmethod
    def cat(parts: "Sequence[Any]") -> "PerRow":
        """The rows of all, one after another; all parts are of this kind."""

    def __getitem__(self, rows: slice) -> Self: ...

    def pad(self, rows: int) -> Self:
        """With rows behind that are told nothing, so many in all."""

    def tensors(self) -> "list[torch.Tensor]":
        """Everything that differs from one forward to the next, always in the same order."""

    @property
    def key(self) -> Hashable:
        """Equal where one prepared forward serves both."""


@dataclass(frozen=True)
class Conditioning:
    """All that the UNet is told beside latents and time, for some rows.

    Attributes:
        text: [rows, tokens, d].
        added: name → [rows, …]: what else the family's UNet takes (`timestep_cond` of a latent consistency model).
        channels: [rows, c, h, w], put behind the latents' own: the mask and the masked picture of a UNet made for
            inpainting.
        adapters: which LoRA slots a row uses, and how strongly.
        controls: what ControlNets make of a row.
    """

    text: torch.Tensor
    added: Mapping[str, torch.Tensor] = field(default_factory=dict)
    channels: torch.Tensor | None = None
    adapters: PerRow | None = None
    controls: PerRow | None = None

    @property
    def rows(self) -> int:
        return len(self.text)

    @classmethod
    def cat(cls, parts: "Sequence[Conditioning]") -> "Conditioning":
        """The rows of all, of one family and shape; texts are tiled to the least common multiple of their lengths.

        Attention over keys that are all repeated equally often gives what it gives over them once, so no mask is
        needed and nothing changes but the rounding.
        """
        length = math.lcm(*(part.text.shape[1] for part in parts))
        first = parts[0]
        return Conditioning(
            text=torch.cat([_tiled(part.text, length) for part in parts]),
            added={name: torch.cat([part.added[name] for part in parts]) for name in first.added},
            channels=None
            if first.channels is None
            else torch.cat([part.channels for part in parts if part.channels is not None]),
            adapters=_cat_some([(part.adapters, part.rows) for part in parts]),
            controls=_cat_some([(part.controls, part.rows) for part in parts]),
        )

    def __getitem__(self, rows: slice) -> "Conditioning":
        return self._map(lambda tensor: tensor[rows], lambda told: told[rows])

    def pad(self, rows: int) -> "Conditioning":
        """With rows of zeros behind, so many in all."""
        return self._map(lambda tensor: _padded(tensor, rows), lambda told: told.pad(rows))

    def for_images(self, images: int) -> "Conditioning":
        """One image's rows, each repeated for so many images: the first row of every image, then the second …"""
        if images == 1:
            return self
        parts = [self[row : row + 1] for row in range(self.rows) for _ in range(images)]
        return Conditioning.cat(parts)

    def _map(self, one: Callable[[torch.Tensor], torch.Tensor], told: Callable[[Any], Any]) -> "Conditioning":
        return Conditioning(
            text=one(self.text),
            added={name: one(tensor) for name, tensor in self.added.items()},
            channels=None if self.channels is None else one(self.channels),
            adapters=None if self.adapters is None else told(self.adapters),
            controls=None if self.controls is None else told(self.controls),
        )


@dataclass(frozen=True)
class UNetInput:
    """One forward's input.

    Attributes:
        latents: [rows, 4, h, w].
        timesteps: [rows] in float32.
        conditioning: of the same rows.
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    conditioning: Conditioning

    @property
    def rows(self) -> int:
        return len(self.latents)

    @property
    def shape(self) -> Shape:
        """Latent height and width."""
        return self.latents.shape[2], self.latents.shape[3]

    @classmethod
    def cat(cls, parts: "Sequence[UNetInput]") -> "UNetInput":
        """The rows of all, of one family and shape."""
        return cls(
            latents=torch.cat([part.latents for part in parts]),
            timesteps=torch.cat([part.timesteps for part in parts]),
            conditioning=Conditioning.cat([part.conditioning for part in parts]),
        )

    def __getitem__(self, rows: slice) -> "UNetInput":
        return UNetInput(self.latents[rows], self.timesteps[rows], self.conditioning[rows])

    def pad(self, rows: int) -> "UNetInput":
        """With rows of zeros behind, so many in all."""
        return UNetInput(
            _padded(self.latents, rows), _padded(self.timesteps, rows), self.conditioning.pad(rows)
        )

    def to(self, dtype: torch.dtype) -> "UNetInput":
        """With the latents, and what goes beside them, in that type."""
        channels = self.conditioning.channels
        return replace(
            self,
            latents=self.latents.to(dtype),
            conditioning=replace(
                self.conditioning, channels=None if channels is None else channels.to(dtype)
            ),
        )

    def tensors(self) -> list[torch.Tensor]:
        """All of it that differs from one forward to the next, in the same order for all inputs of one key."""
        told = self.conditioning
        found = [self.latents, self.timesteps, told.text, *(told.added[name] for name in sorted(told.added))]
        found += [] if told.channels is None else [told.channels]
        for more in (told.adapters, told.controls):
            found += [] if more is None else more.tensors()
        return found

    @property
    def key(self) -> Hashable:
        """Beside rows and shape, what must be equal for one prepared forward to serve two inputs."""
        told = self.conditioning
        return (
            told.text.shape[1],
            tuple(sorted(told.added)),
            told.channels is not None,
            None if told.adapters is None else told.adapters.key,
            None if told.controls is None else told.controls.key,
        )

    def clone(self) -> "UNetInput":
        """The same in memory of its own, laid out as what `cat` makes."""
        return UNetInput.cat([self])


def _tiled(text: torch.Tensor, length: int) -> torch.Tensor:
    times = length // text.shape[1]
    return text if times == 1 else text.repeat(1, times, 1)


def _padded(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    missing = rows - len(tensor)
    return tensor if missing == 0 else torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])


def _cat_some(parts: Sequence[tuple[PerRow | None, int]]) -> PerRow | None:
    kind = next((type(told) for told, _ in parts if told is not None), None)
    if kind is None:
        return None
    return kind.cat([kind.none(rows) if told is None else told for told, rows in parts])

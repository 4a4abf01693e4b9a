"""Pictures through an upscaler, in tiles of bounded time and memory, one between two steps; small ones of several
pictures at once, as long as together they take no longer than a large one."""

import itertools
import math
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from sdworker.engine.chores import Chore, Joint
from sdworker.engine.device import fetch, mark, send
from sdworker.engine.networks.autoencoder import ComingImage, NotFinite
from sdworker.engine.upscaling.reading import UpscalerError, read

__all__ = ["Upscaler"]

# A tile is given so many pixels of what lies around it, which it shows nothing of.
_AROUND = 16
# Multiplications of a tile, about; each weight is used once a pixel. And its sides, with what lies around it.
_BUDGET = {"cpu": 2 * 10**9, "cuda": 4 * 10**11}
_SHORTEST, _LONGEST = 96, 512
# More at once gain nothing.
_MOST_TILES = 16


class Upscaler:
    """One network.

    Attributes:
        name: what jobs call it.
        scale: how many times as large it makes pictures.
        bytes_: of its weights, in memory.
    """

    def __init__(self, name: str, described: Any, *, device: torch.device) -> None:
        """
        Args:
            described: spandrel's `ImageModelDescriptor`, on the CPU.
            device: where it will run; it goes there with its first tile.
        """
        self.name = name
        self.scale: int = described.scale
        self._described = described
        self._device = device
        self._dtype = torch.float16 if device.type == "cuda" and described.supports_half else torch.float32
        parameters = list(described.model.parameters())
        self.bytes_ = sum(each.numel() for each in parameters) * self._dtype.itemsize
        self._weights = max(1, sum(each.numel() for each in parameters))

    @classmethod
    def load(cls, file: Path, name: str, *, device: torch.device) -> Self:
        """The upscaler in a file; for any thread.

        Raises:
            UpscalerError: it cannot be used.
        """
        described = read(file, name)
        finite = all(bool(each.isfinite().all()) for each in described.model.parameters())
        described.model.requires_grad_(False)
        if not finite:
            raise UpscalerError(f"the upscaler {name!r} holds numbers that are not finite")
        return cls(name, described, device=device)

    def tile_side(self, shortages: int = 0) -> int:
        """Of a tile with what lies around it, in pixels before they are enlarged.

        Args:
            shortages: how often memory did not suffice.
        """
        budget = _BUDGET.get(self._device.type, _BUDGET["cpu"])
        side = int(math.sqrt(budget / self._weights))
        return max(min(max(side, _SHORTEST), _LONGEST) >> shortages, 3 * _AROUND)

    def chore(self, pixels: np.ndarray) -> Chore[np.ndarray]:
        """Enlarges uint8 [h, w, 3] to [h · scale, w · scale, 3]."""
        height, width = pixels.shape[:2]
        return Chore(
            partial(self._enlarge, pixels),
            kind=("upscale", self.name, self._weights),
            joins=(id(self), height, width),
            explain=partial(self._explain, height, width),
        )

    def tiles_at_once(self, height: int, width: int) -> int:
        """Of that size, with what lies around them."""
        budget = _BUDGET.get(self._device.type, _BUDGET["cpu"])
        return min(max(1, budget // (self._weights * height * width)), _MOST_TILES)

    @torch.inference_mode()
    def _run(self, tiles: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """[1, 3, h, w] each, enlarged in one forward."""
        drawn: torch.Tensor = self._described(torch.cat(list(tiles)))
        return drawn.split(1)

    @torch.inference_mode()
    def _enlarge(self, pixels: np.ndarray, shortages: int) -> Generator[Joint, torch.Tensor, ComingImage]:
        self._described.to(self._device).to(self._dtype)
        given = send(torch.from_numpy(pixels), self._device)
        height, width = pixels.shape[:2]
        scale = self.scale
        large = torch.empty(height * scale, width * scale, 3, dtype=torch.uint8, device=self._device)
        finite = torch.ones((), dtype=torch.bool, device=self._device)
        columns = _tiles(width, self.tile_side(shortages))
        for top, bottom, first_row, last_row in _tiles(height, self.tile_side(shortages)):
            for left, right, first_column, last_column in columns:
                tile = given[first_row:last_row, first_column:last_column].to(self._dtype)
                size = last_row - first_row, last_column - first_column
                (drawn,) = yield Joint(
                    key=(id(self), size),
                    given=tile.div(255).permute(2, 0, 1)[None],
                    run=self._run,
                    most=self.tiles_at_once(*size),
                )
                rows = slice((top - first_row) * scale, (bottom - first_row) * scale)
                kept = drawn[:, rows, (left - first_column) * scale : (right - first_column) * scale].float()
                finite &= kept.isfinite().all()
                shown = kept.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
                large[top * scale : bottom * scale, left * scale : right * scale] = shown
        return ComingImage(
            fetch(large), fetch(torch.stack([torch.ones_like(finite), finite])), mark(self._device)
        )

    def _explain(self, height: int, width: int, error: Exception) -> Exception:
        if isinstance(error, UpscalerError):
            return error
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            told = f"out of memory enlarging {width}x{height} with the upscaler {self.name!r}; ask for less"
        elif isinstance(error, NotFinite):
            told = f"the upscaler {self.name!r} made numbers that are not finite; try another one"
        else:
            told = f"the upscaler {self.name!r} failed on a picture of {width}x{height}"
        explained = UpscalerError(told)
        explained.__cause__ = error
        return explained


def _tiles(length: int, side: int) -> list[tuple[int, int, int, int]]:
    """Along one axis: from and to of what each tile shows, and of what it is given."""
    if length <= side:
        return [(0, length, 0, length)]
    count = math.ceil(length / (side - 2 * _AROUND))
    edges = [round(i * length / count) for i in range(count + 1)]
    return [(a, b, max(0, a - _AROUND), min(length, b + _AROUND)) for a, b in itertools.pairwise(edges)]

"""LoRAs on the device, and forwards in which every row has its own.

A network's linear layers and convolutions get, for each rank in use, one tensor with the factors of all slots. A
forward is told for each row which slots it uses and how strongly; each layer gathers its rows' factors and adds
two batched products, however many LoRAs there are:

    output[row] += Σ strength · up[slot] @ (down[slot] @ input[row])

Ranks are padded to a few sizes, so that few products serve all. A forward that is told of none costs nothing
more. Slot numbers and strengths are tensors like any other input: a forward that was captured or compiled serves
whatever lies in the slots.

The idea is Punica's and S-LoRA's for language models (Chen et al. 2023, Sheng et al. 2023), here with PyTorch's
own products, and for convolutions too: rows are groups of one grouped convolution.
"""

from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from sdworker.engine.lora.low_rank import LowRank, Target, targets_of
from sdworker.engine.lora.rows import RowAdapters

__all__ = ["RANKS", "AdapterSlots", "NoSlotFree", "Slot"]

RANKS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""A LoRA's factors are padded with zeros to the next of these."""
_MORE = 4  # slots of a layer are made so many at a time
_PIECE = 24  # layers that are laid into a slot at a time


class NoSlotFree(Exception):
    """Every slot is in use."""


class Slot(NamedTuple):
    """Where a LoRA lies: among those of its padded rank, its number there, from 1."""

    rank: int
    number: int


class _Held:
    """A LoRA in its slot, and how many generations draw with it."""

    def __init__(self, slot: Slot, bytes_: int) -> None:
        self.slot = slot
        self.bytes_ = bytes_
        self.users = 0


class AdapterSlots:
    """One network's slots; a `Layout`. On the engine's thread only, but for `targets` and `bytes_of`.

    LoRAs that nobody uses stay until their memory is needed; the one that was used least recently goes first.

    Attributes:
        targets: the network's layers that a LoRA may change.
        budget_bytes: most memory of all LoRAs together, as they lie here (padded).
        version: counts how often the slots' tensors became others.
    """

    def __init__(self, network: nn.Module, *, budget_bytes: int) -> None:
        """
        Args:
            network: its layers are given hooks, which stay.
        """
        parameter = next(network.parameters())
        self.targets = targets_of(network)
        self.budget_bytes = budget_bytes
        self.version = 0
        self._device, self._dtype = parameter.device, parameter.dtype
        self._held: OrderedDict[Hashable, _Held] = OrderedDict()
        self._free: dict[int, list[int]] = {}
        self._layers: dict[str, _Layer] = {}
        self._network = network
        self._gathered: _Gathered | None = None

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def used_bytes(self) -> int:
        """Memory of the LoRAs held, padded."""
        return sum(held.bytes_ for held in self._held.values())

    def bytes_of(self, weights: Mapping[str, LowRank]) -> int:
        """What a LoRA would take here."""
        rank = _padded(max(low_rank.rank for low_rank in weights.values()))
        return sum(self._dtype.itemsize * rank * _length(self.targets[layer]) for layer in weights)

    def holds(self, key: Hashable) -> bool:
        """Whether a LoRA is here."""
        return key in self._held

    def fits(self, wanted: Mapping[Hashable, int]) -> bool:
        """Whether these could all be held now, besides those in use.

        Args:
            wanted: LoRA → what it takes (`bytes_of`).
        """
        missing = sum(bytes_ for key, bytes_ in wanted.items() if key not in self._held)
        if not missing:
            return True
        staying = sum(held.bytes_ for key, held in self._held.items() if held.users or key in wanted)
        in_use = any(held.users for held in self._held.values())
        return staying + missing <= self.budget_bytes or not in_use

    def hold(self, key: Hashable) -> Slot | None:
        """Count one more user of a LoRA that is here; None if it is not."""
        held = self._held.get(key)
        if held is None:
            return None
        self._held.move_to_end(key)
        held.users += 1
        return held.slot

    def place(self, key: Hashable, weights: Mapping[str, LowRank]) -> Slot:
        """Bring a LoRA onto the device, for one user; others that nobody uses make room.

        Args:
            key: what it is found by; it is not here yet.
            weights: layer → what is added to its weight.

        Raises:
            NoSlotFree: those in use leave no memory for it.
            torch.OutOfMemoryError: the device has less than the budget.
        """
        pieces = self.place_in_pieces(key, weights)
        while True:
            try:
                next(pieces)
            except StopIteration as done:
                slot: Slot = done.value
                return slot

    def place_in_pieces(self, key: Hashable, weights: Mapping[str, LowRank]) -> Generator[None, None, Slot]:
        """The same, some layers for each item taken; ended early, it is as if nothing had been."""
        needed = self.bytes_of(weights)
        self._make_room(needed)
        rank = _padded(max(low_rank.rank for low_rank in weights.values()))
        slot = Slot(rank, self._take_number(rank))
        held = self._held[key] = _Held(slot, needed)
        held.users = 1
        try:
            for count, (name, low_rank) in enumerate(weights.items(), start=1):
                self._layer(name).put(slot, low_rank)
                if count % _PIECE == 0:
                    yield
        except BaseException:
            del self._held[key]
            self._clear(slot)
            raise
        return slot

    def release(self, key: Hashable) -> None:
        """One user less."""
        self._held[key].users -= 1

    def forget_unused(self) -> None:
        """Give back the memory of all that nobody uses."""
        self._make_room(self.budget_bytes + 1, only_try=True)

    @contextmanager
    def using(self, rows: RowAdapters | None, *, gather_anew: bool = False) -> Iterator[None]:
        """Inside, the network's forwards have these LoRAs.

        Args:
            rows: for each row of the batch; None or empty for none.
            gather_anew: pick the rows' factors in this forward, as one that is captured must; else once for as
                long as the rows are equal.
        """
        if not rows:
            self._gathered = None
            yield
            return
        if gather_anew or self._gathered is None or self._gathered.rows != rows:
            self._gathered = _Gathered(rows)
        for layer in self._layers.values():
            layer.gathered = self._gathered
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.gathered = None
            if gather_anew:
                self._gathered = None

    def _make_room(self, needed: int, *, only_try: bool = False) -> None:
        while self.used_bytes + needed > self.budget_bytes:
            key = next((key for key, held in self._held.items() if not held.users), None)
            if key is None:
                # One alone may be larger than the budget: then it has all of it.
                if only_try or not self._held:
                    return
                raise NoSlotFree
            slot = self._held.pop(key).slot
            self._clear(slot)

    def _take_number(self, rank: int) -> int:
        free = self._free.setdefault(rank, [])
        if free:
            return free.pop()
        taken = [held.slot.number for held in self._held.values() if held.slot.rank == rank]
        return max(taken, default=0) + 1

    def _clear(self, slot: Slot) -> None:
        """Forget what lies in a slot; the memory of the last ones is given back."""
        for layer in self._layers.values():
            layer.clear(slot)
        self._gathered = None
        taken = {held.slot.number for held in self._held.values() if held.slot.rank == slot.rank}
        most = max(taken, default=0)
        self._free[slot.rank] = [number for number in range(1, most) if number not in taken]
        for layer in self._layers.values():
            layer.shrink(slot.rank, most)

    def _layer(self, name: str) -> "_Layer":
        layer = self._layers.get(name)
        if layer is None:
            layer = _Layer(
                self._network.get_submodule(name), self.targets[name], self._device, self._dtype, self._moved
            )
            self._layers[name] = layer
        return layer

    def _moved(self) -> None:
        self.version += 1


class _Gathered:
    """The factors of a batch's rows, layer by layer, kept while the batch is the same."""

    def __init__(self, rows: RowAdapters) -> None:
        self.rows = rows
        self.factors: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        """id of a layer → down [rows, ranks, inputs · kernel] and up [rows, ranks, outputs], for each rank."""


class _Layer:
    """A linear layer or convolution with slots beside its weight."""

    def __init__(
        self,
        layer: nn.Module,
        target: Target,
        device: torch.device,
        dtype: torch.dtype,
        moved: Callable[[], None],
    ) -> None:
        """
        Args:
            moved: told when the slots are other tensors than before.
        """
        self.gathered: _Gathered | None = None
        self._moved = moved
        self._target = target
        self._device, self._dtype = device, dtype
        self._down: dict[int, torch.Tensor] = {}
        self._up: dict[int, torch.Tensor] = {}
        self._filled: dict[int, set[int]] = {}
        self._layer: Any = layer
        layer.register_forward_hook(self._add)

    def put(self, slot: Slot, low_rank: LowRank) -> None:
        """Lay factors into a slot."""
        self._grow(slot)
        down, up = self._down[slot.rank][slot.number], self._up[slot.rank][slot.number]
        down.zero_()
        up.zero_()
        down[: low_rank.rank] = low_rank.down.flatten(1).to(down)
        up[: low_rank.rank] = low_rank.up.T.to(up)
        self._filled.setdefault(slot.rank, set()).add(slot.number)

    def clear(self, slot: Slot) -> None:
        if slot.number in self._filled.get(slot.rank, ()):
            self._filled[slot.rank].remove(slot.number)
            self._down[slot.rank][slot.number].zero_()
            self._up[slot.rank][slot.number].zero_()

    def shrink(self, rank: int, most: int) -> None:
        """Keep no slots beyond so many."""
        if rank not in self._down:
            return
        count = _rounded(most)
        if not self._filled.get(rank):
            del self._down[rank], self._up[rank]
        elif len(self._down[rank]) > count:
            self._down[rank] = self._down[rank][:count].clone()
            self._up[rank] = self._up[rank][:count].clone()
        else:
            return
        self._moved()

    def _grow(self, slot: Slot) -> None:
        for factors, length in (
            (self._down, self._target.inputs * self._target.kernel[0] * self._target.kernel[1]),
            (self._up, self._target.outputs),
        ):
            known = factors.get(slot.rank)
            if known is not None and len(known) > slot.number:
                continue
            count = _rounded(slot.number)
            grown = torch.zeros(count, slot.rank, length, device=self._device, dtype=self._dtype)
            if known is not None:
                grown[: len(known)] = known
            factors[slot.rank] = grown
            self._moved()

    def _add(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> Any:
        """The hook: the layer's output with what its rows' LoRAs add."""
        if self.gathered is None:
            return None
        factors = self.gathered.factors.get(id(self))
        if factors is None:
            factors = self.gathered.factors[id(self)] = self._gather(self.gathered.rows)
        if not factors:
            return None
        add = self._add_to_convolution if self._target.convolves else self._add_to_linear
        for down, up in factors:
            output = add(inputs[0], output, down, up)
        return output

    def _gather(self, rows: RowAdapters) -> list[tuple[torch.Tensor, torch.Tensor]]:
        gathered = []
        for rank, (numbers, strengths) in rows.by_rank.items():
            if rank not in self._down:
                continue
            # This layer may have fewer slots than there are LoRAs of the rank: those beyond do not touch it.
            numbers = numbers.where(numbers < len(self._down[rank]), 0)
            down = self._down[rank][numbers].flatten(1, 2)
            up = self._up[rank][numbers] * strengths[:, :, None, None].to(self._dtype)
            gathered.append((down, up.flatten(1, 2)))
        return gathered

    def _add_to_linear(
        self, inputs: torch.Tensor, output: torch.Tensor, down: torch.Tensor, up: torch.Tensor
    ) -> torch.Tensor:
        """`inputs` [rows, …, inputs], `output` [rows, …, outputs]."""
        rows = len(down)
        inner = torch.bmm(inputs.reshape(rows, -1, inputs.shape[-1]), down.transpose(1, 2))
        added = torch.baddbmm(output.reshape(rows, -1, output.shape[-1]), inner, up)
        return added.view(output.shape)

    def _add_to_convolution(
        self, inputs: torch.Tensor, output: torch.Tensor, down: torch.Tensor, up: torch.Tensor
    ) -> torch.Tensor:
        """`inputs` [rows, inputs, h, w], `output` [rows, outputs, h', w']."""
        rows, ranks = down.shape[:2]
        layer, target = self._layer, self._target
        if target.kernel == (1, 1) and layer.stride == (1, 1) and layer.padding == (0, 0):
            inner = torch.bmm(down, inputs.flatten(2))
        else:
            # One group a row: every row is convolved with its own kernels.
            kernels = down.view(rows * ranks, target.inputs, *target.kernel)
            together = inputs.reshape(1, -1, *inputs.shape[2:])
            convolved = nn.functional.conv2d(
                together, kernels, None, layer.stride, layer.padding, layer.dilation, groups=rows
            )
            inner = convolved.view(rows, ranks, -1)
        return output + torch.bmm(up.transpose(1, 2), inner).view(output.shape)


def _rounded(number: int) -> int:
    """How many slots there are where the last one used has this number: slot 0 and whole lots."""
    return 1 + -(-number // _MORE) * _MORE


def _padded(rank: int) -> int:
    return next(size for size in RANKS if size >= rank)


def _length(target: Target) -> int:
    """Numbers of both factors for one rank."""
    return target.outputs + target.inputs * target.kernel[0] * target.kernel[1]

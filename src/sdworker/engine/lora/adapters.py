"""A model's LoRAs: the slots of each of its networks, and what a drawing holds of them while it is drawn."""

from collections.abc import Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from sdworker.engine.lora.low_rank import LowRank, Target, merge
from sdworker.engine.lora.names import Directory
from sdworker.engine.lora.reader import LoraWeights
from sdworker.engine.lora.rows import RowAdapters, Use
from sdworker.engine.lora.slots import AdapterSlots, Slot
from sdworker.engine.text.embeddings import Embedding

__all__ = ["NO_LORAS", "UNET", "Adapters", "Applied", "Held", "LoraUse"]

UNET = "unet"
# Text encoders are a tenth of a model, and need theirs only while a text is encoded.
_TEXT_SHARE = 8


@dataclass(frozen=True, eq=False)
class LoraUse:
    """A LoRA of a drawing.

    Attributes:
        key: equal where the file is the same.
        scale: how strongly it changes the UNet; 1 is as it was trained.
        text_scale: how strongly it changes the text encoders.
    """

    key: Hashable
    weights: LoraWeights
    scale: float = 1.0
    text_scale: float = 1.0

    def strength(self, part: str) -> float:
        return self.scale if part == UNET else self.text_scale


@dataclass(frozen=True)
class Applied:
    """What a text is encoded with.

    Attributes:
        key: equal where the encoder is the same; () where it is the model's own.
        embeddings: name → what it is known by, and its vectors [n, width], for texts that were planned with these
            names.
    """

    key: tuple[Hashable, ...] = ()
    slots: AdapterSlots | None = None
    rows: RowAdapters | None = None
    embeddings: Mapping[str, tuple[Hashable, torch.Tensor]] = field(default_factory=dict, compare=False)

    def key_with(self, names: Iterable[str]) -> tuple[Hashable, ...]:
        """The same for a text in which these embeddings stand."""
        return self.key + tuple(self.embeddings[name][0] for name in names)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the encoder's forwards of one row have them."""
        if self.slots is None:
            yield
            return
        with self.slots.using(self.rows):
            yield


class Adapters:
    """The slots of a model's networks. On the engine's thread, but for `targets`, `directory` and `needs`.

    Attributes:
        targets: network → its layers that a LoRA may change.
    """

    def __init__(self, networks: Mapping[str, nn.Module], *, budget_bytes: int) -> None:
        """
        Args:
            networks: `unet` and the text encoders, by the names of their folders.
            budget_bytes: most memory of the UNet's slots.
        """
        self._slots = {
            part: AdapterSlots(
                network, budget_bytes=budget_bytes if part == UNET else budget_bytes // _TEXT_SHARE
            )
            for part, network in networks.items()
        }
        self.targets: Mapping[str, Mapping[str, Target]] = {
            part: slots.targets for part, slots in self._slots.items()
        }

    @cached_property
    def directory(self) -> Directory:
        """Where files' names for these layers are looked up."""
        return Directory(self.targets)

    @property
    def budget_bytes(self) -> int:
        """Most memory of the UNet's."""
        return self._slots[UNET].budget_bytes

    @property
    def used_bytes(self) -> int:
        """Memory of those held, used or not, in all networks."""
        return sum(slots.used_bytes for slots in self._slots.values())

    def needs(self, loras: Sequence[LoraUse]) -> dict[Hashable, int]:
        """What a drawing needs in the UNet's slots: LoRA → bytes."""
        return {lora.key: self._slots[UNET].bytes_of(part) for lora, part in _with_part(loras, UNET)}

    def fits(self, needs: Mapping[Hashable, int]) -> bool:
        """Whether they could be held now, besides those in use."""
        return self._slots[UNET].fits(needs)

    def missing(self, needs: Mapping[Hashable, int]) -> int:
        """How many of them would have to be brought onto the device."""
        return sum(not self._slots[UNET].holds(key) for key in needs)

    def hold(self, loras: Sequence[LoraUse]) -> "Generator[None, None, Held]":
        """Bring a drawing's LoRAs onto the device and keep them there until it lets go; piece by piece.

        Raises:
            NoSlotFree: others hold too many; `fits` says so before.
            torch.OutOfMemoryError: the device has less memory than was thought.
        """
        held = Held(self._slots, loras)
        try:
            yield from held._bring()
        except BaseException:
            held.release()
            raise
        return held

    @contextmanager
    def using(self, rows: RowAdapters | None, *, gather_anew: bool = False) -> Iterator[None]:
        """Inside, the UNet's forwards have these (`AdapterSlots.using`)."""
        with self._slots[UNET].using(rows, gather_anew=gather_anew):
            yield

    def fuse(self, lora: LoraUse) -> None:
        """Add one to the networks' weights for good, before anything is drawn."""
        for part, slots in self._slots.items():
            if weights := lora.weights.parts.get(part):
                merge(slots.network, weights, lora.strength(part))

    def forget_unused(self) -> None:
        """Give back the memory of all that nobody uses."""
        for slots in self._slots.values():
            slots.forget_unused()


class Held:
    """The LoRAs of a drawing, on the device until `release`."""

    def __init__(self, slots: Mapping[str, AdapterSlots], loras: Sequence[LoraUse]) -> None:
        self._slots = slots
        self._loras = loras
        self._places: dict[tuple[str, Hashable], Slot] = {}

    def rows(self, rows: int) -> RowAdapters | None:
        """What the UNet is told of so many rows; None: nothing."""
        uses = self._uses(UNET)
        return RowAdapters.of(uses, rows, self._slots[UNET]) if uses else None

    def applied(self, part: str, embeddings: Sequence[Embedding] = ()) -> Applied:
        """What a text encoder encodes with."""
        vectors = {one.name: (one.key, one.vectors.parts[part]) for one in embeddings}
        uses = self._uses(part)
        if not uses:
            return Applied(embeddings=vectors)
        slots = self._slots[part]
        told = tuple((lora.key, lora.text_scale) for lora, _ in _with_part(self._loras, part))
        return Applied(told, slots, RowAdapters.of(uses, 1, slots), vectors)

    def release_texts(self) -> None:
        """The texts are encoded: only the UNet's are needed any more."""
        for part, key in [place for place in self._places if place[0] != UNET]:
            del self._places[part, key]
            self._slots[part].release(key)

    def release(self) -> None:
        """Let go of all; may be called again."""
        while self._places:
            (part, key), _ = self._places.popitem()
            self._slots[part].release(key)

    def _uses(self, part: str) -> list[Use]:
        return [
            Use(*self._places[part, lora.key], lora.strength(part))
            for lora, _ in _with_part(self._loras, part)
        ]

    def _bring(self) -> Generator[None, None, None]:
        """First those that are there, lest they make room for the others."""
        missing = []
        for part, slots in self._slots.items():
            for lora, weights in _with_part(self._loras, part):
                if (part, lora.key) in self._places:
                    continue
                place = slots.hold(lora.key)
                if place is None:
                    missing.append((part, lora.key, weights))
                else:
                    self._places[part, lora.key] = place
        for part, key, weights in missing:
            if (part, key) not in self._places:
                self._places[part, key] = yield from self._slots[part].place_in_pieces(key, weights)
                yield


NO_LORAS = Held({}, ())
"""Held by a drawing that has none."""


def _with_part(loras: Sequence[LoraUse], part: str) -> list[tuple[LoraUse, Mapping[str, LowRank]]]:
    """Those that change a network, and how."""
    return [
        (lora, lora.weights.parts[part])
        for lora in loras
        if lora.weights.parts.get(part) and lora.strength(part)
    ]

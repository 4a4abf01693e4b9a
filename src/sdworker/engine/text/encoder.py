"""Texts as what the UNet is told: embeddings, chunk by chunk.

A chunk is the unit of work, so that whoever draws meanwhile waits for one at most, and of memory: chunks that many
prompts share, the empty one above all, are encoded once.
"""

from collections import OrderedDict
from collections.abc import Generator, Hashable
from typing import Any, cast

import torch

from sdworker.engine.device import send
from sdworker.engine.lora import Applied
from sdworker.engine.text.chunks import Chunk
from sdworker.engine.text.clip import Vectors
from sdworker.engine.text.prompt import Text
from sdworker.reading import Emphasis

__all__ = ["PenultimateEncoder", "PromptEncoder"]

_CACHED_CHUNKS = 256
_PLAIN = Applied()
_Key = tuple[Chunk, Emphasis, int, Hashable]


class PromptEncoder:
    """Encodes texts with one text encoder, and remembers their chunks. Lives on the engine's thread.

    Attributes:
        layers: of the text encoder; at most one less may be skipped.
    """

    def __init__(
        self,
        text_encoder: Any,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """
        Args:
            text_encoder: called as `clip.TextEncoder` is.
            dtype: of the embeddings.
        """
        self._text_encoder = text_encoder
        self._device = device
        self._dtype = dtype
        self._known: OrderedDict[_Key, torch.Tensor] = OrderedDict()

    @property
    def layers(self) -> int:
        return int(self._text_encoder.layers)

    @property
    def width(self) -> int:
        """Numbers of a token's embedding."""
        return int(self._text_encoder.width)

    def encode(self, text: Text, applied: Applied = _PLAIN) -> torch.Tensor:
        """A text's embedding, [1, 77k, d] for k chunks."""
        pieces = self.encode_in_pieces(text, applied)
        while True:
            try:
                next(pieces)
            except StopIteration as done:
                return cast(torch.Tensor, done.value)

    def encode_in_pieces(self, text: Text, applied: Applied = _PLAIN) -> Generator[None, None, torch.Tensor]:
        """The same, one chunk for each item taken; a chunk that is remembered is no item.

        Args:
            applied: the LoRAs and embeddings it is encoded with.
        """
        chunks = []
        for chunk in text.chunks:
            known = self.knows(chunk, text.emphasis, text.clip_skip, applied)
            chunks.append(self.encode_chunk(chunk, text.emphasis, text.clip_skip, applied))
            if not known:
                yield
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=1)

    @torch.inference_mode()
    def encode_chunk(
        self, chunk: Chunk, emphasis: Emphasis, clip_skip: int, applied: Applied = _PLAIN
    ) -> torch.Tensor:
        """One chunk's embedding, [1, 77, d]; at once if it is remembered."""
        key = chunk, emphasis, clip_skip, _key(chunk, applied)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._encode(chunk, emphasis, clip_skip, applied)
            self._forget()
        self._known.move_to_end(key)
        return known

    def knows(self, chunk: Chunk, emphasis: Emphasis, clip_skip: int, applied: Applied = _PLAIN) -> bool:
        """Whether encoding it costs nothing."""
        return (chunk, emphasis, clip_skip, _key(chunk, applied)) in self._known

    def _encode(self, chunk: Chunk, emphasis: Emphasis, clip_skip: int, applied: Applied) -> torch.Tensor:
        hidden = self._hidden(chunk, clip_skip, applied)
        if all(weight == 1 for weight in chunk.weights):
            return hidden.to(self._dtype)
        weights = send(torch.tensor(chunk.weights), self._device)
        return _emphasise(hidden.float(), weights, emphasis).to(self._dtype)

    def _hidden(self, chunk: Chunk, clip_skip: int, applied: Applied) -> torch.Tensor:
        """The hidden state that a chunk's embedding is made of, [1, 77, d]."""
        ids, mask, vectors = self._inputs(chunk, applied)
        with applied.in_place():
            hidden: torch.Tensor = self._text_encoder(ids, mask, skip=clip_skip, vectors=vectors)
        return hidden

    def _inputs(self, chunk: Chunk, applied: Applied) -> tuple[torch.Tensor, torch.Tensor, list[Vectors]]:
        """Ids and mask, [1, 77] each, and what stands in for tokens."""
        ids = torch.tensor([chunk.tokens])
        mask = (torch.arange(len(chunk.tokens)) < chunk.used + 2).long()[None]
        vectors: list[Vectors] = [
            (0, insert.start, applied.embeddings[insert.name][1]) for insert in chunk.inserts
        ]
        return send(ids, self._device), send(mask, self._device), vectors

    def _forget(self) -> None:
        """What was not asked for longest; never the empty text, which most jobs have for a negative prompt."""
        while len(self._known) > _CACHED_CHUNKS:
            del self._known[next(key for key in self._known if key[0].used or key[3])]


class PenultimateEncoder(PromptEncoder):
    """Encodes texts as Stable Diffusion XL takes them: by the last hidden state but one; and as a whole.

    Attributes:
        layers: that can be skipped, and one.
    """

    def __init__(self, text_encoder: Any, **options: Any) -> None:
        """
        Args:
            text_encoder: called by its `penultimate`, as `clip.TextEncoder`'s.
            options: as for `PromptEncoder`.
        """
        super().__init__(text_encoder, **options)
        self._wholes: OrderedDict[tuple[Chunk, Hashable], torch.Tensor] = OrderedDict()

    @property
    def layers(self) -> int:
        return super().layers - 1

    @torch.inference_mode()
    def encode_whole(self, text: Text, applied: Applied = _PLAIN) -> torch.Tensor:
        """A text as a whole, [1, projected]: what its first chunk says, whatever the weights and layers skipped.

        At once where its chunks were encoded just before.
        """
        chunk = text.chunks[0]
        key = chunk, _key(chunk, applied)
        if key not in self._wholes:
            self._hidden(chunk, text.clip_skip, applied)
        return self._wholes[key]

    def _hidden(self, chunk: Chunk, clip_skip: int, applied: Applied) -> torch.Tensor:
        ids, mask, vectors = self._inputs(chunk, applied)
        hidden: torch.Tensor
        with applied.in_place():
            hidden, whole = self._text_encoder.penultimate(ids, mask, skip=clip_skip, vectors=vectors)
        if whole is not None:
            key = chunk, _key(chunk, applied)
            self._wholes[key] = whole.to(self._dtype)
            self._wholes.move_to_end(key)
            while len(self._wholes) > _CACHED_CHUNKS:
                self._wholes.popitem(last=False)
        return hidden


def _key(chunk: Chunk, applied: Applied) -> Hashable:
    return applied.key_with(insert.name for insert in chunk.inserts)


def _emphasise(hidden: torch.Tensor, weights: torch.Tensor, emphasis: Emphasis) -> torch.Tensor:
    """A chunk's embedding [1, length, d] times its tokens' weights [length]; `original` gives it its old mean."""
    weighted = hidden * weights[:, None]
    if emphasis == "no_norm":
        return weighted
    ratio = hidden.mean() / weighted.mean()
    # Weights that cancel out leave no mean to be scaled by; what they leave of the text is then taken as it is.
    return weighted * torch.where(ratio.isfinite(), ratio, 1.0)

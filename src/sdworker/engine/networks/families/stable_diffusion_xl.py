"""Stable Diffusion XL, its 9-channel inpainting models, and what was distilled from it (Turbo, Lightning)."""

import json
from collections.abc import Generator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from sdworker.engine.device import send
from sdworker.engine.drawing import Drawing
from sdworker.engine.lora import Held
from sdworker.engine.model_config import ModelError, shown
from sdworker.engine.model_files import ModelFolder
from sdworker.engine.networks.families.stable_diffusion import StableDiffusion, check_channels
from sdworker.engine.networks.loading import load_text
from sdworker.engine.networks.model import Loading
from sdworker.engine.text.encoder import PenultimateEncoder
from sdworker.engine.text.prompt import Text
from sdworker.engine.text.tokens import ClipTokenizer
from sdworker.engine.unet_input import Conditioning

__all__ = ["StableDiffusionXL"]


class StableDiffusionXL(StableDiffusion):
    """The UNet is told what two CLIP text encoders say of each token, beside each other; what the second says of
    the text as a whole; and the size of the picture.

    Both encoders read the same chunks. Where the VAE must not run in half precision, it runs in float32.
    """

    def __init__(
        self,
        *,
        text_encoder: Any,
        text_encoder_2: Any,
        tokenizer_2: ClipTokenizer,
        forgets_empty_negative: bool = True,
        **parts: Any,
    ) -> None:
        """
        Args:
            forgets_empty_negative: an empty negative prompt is told as zeros, not as the encoders have it.
            parts: as for `StableDiffusion`.
        """
        super().__init__(
            text_encoder=text_encoder, more_text_encoders={"text_encoder_2": text_encoder_2}, **parts
        )
        placed: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        self._prompts: PenultimateEncoder = PenultimateEncoder(text_encoder, **placed)
        self._prompts_2 = PenultimateEncoder(text_encoder_2, **placed)
        self._pad_2 = tokenizer_2.pad
        self._forgets_empty_negative = forgets_empty_negative

    @classmethod
    def _load_parts(cls, checked: ModelFolder, loading: Loading) -> dict[str, Any]:
        parts = super()._load_parts(checked, loading)
        text_encoder_2, tokenizer_2 = load_text(checked, "text_encoder_2", loading, projects=True)
        if not parts["tokenizer"].reads_like(tokenizer_2):
            raise ModelError(
                f"{shown(checked.path / 'tokenizer_2')} knows other words than tokenizer; prompts would differ"
            )
        return parts | {
            "text_encoder_2": text_encoder_2,
            "tokenizer_2": tokenizer_2,
            "forgets_empty_negative": bool(checked.index.get("force_zeros_for_empty_prompt", True)),
        }

    @classmethod
    def vae_dtype(cls, checked: ModelFolder, dtype: torch.dtype) -> torch.dtype:
        config = json.loads((checked.path / "vae" / "config.json").read_text("utf-8"))
        return torch.float32 if dtype is torch.float16 and config.get("force_upcast", True) else dtype

    @classmethod
    def _check_unet(cls, unet: Any, folder: Path) -> None:
        check_channels(unet, folder)

    @property
    def _most_skipped(self) -> int:
        return min(self._prompts.layers, self._prompts_2.layers) - 1

    @property
    def _text_width(self) -> int:
        return self._prompts.width + self._prompts_2.width

    def _tell(
        self, text: Text, drawing: Drawing, held: Held, *, is_negative: bool
    ) -> Generator[None, None, Conditioning]:
        text_2 = _padded_with(text, self._pad_2)
        applied = held.applied("text_encoder", drawing.embeddings)
        applied_2 = held.applied("text_encoder_2", drawing.embeddings)
        embedded = yield from self._prompts.encode_in_pieces(text, applied)
        embedded_2 = yield from self._prompts_2.encode_in_pieces(text_2, applied_2)
        told = torch.cat([embedded, embedded_2], dim=-1)
        whole = self._prompts_2.encode_whole(text_2, applied_2)
        if is_negative and self._forgets_empty_negative and not drawing.negative_prompt:
            told, whole = torch.zeros_like(told), torch.zeros_like(whole)
        added = {"text_embeds": whole, "time_ids": self._size_numbers(drawing.width, drawing.height)}
        return Conditioning(told, added=added | self._embedded(drawing.guidance))

    def example_conditioning(self) -> Conditioning:
        text = self._read_plainly("")
        text_2 = _padded_with(text, self._pad_2)
        told = torch.cat([self._prompts.encode(text), self._prompts_2.encode(text_2)], dim=-1)
        added = {
            "text_embeds": self._prompts_2.encode_whole(text_2),
            "time_ids": self._size_numbers(*self.default_size),
        }
        return Conditioning(told, added=added | self._embedded(1.0))

    def _added_conditions(self, told: Conditioning) -> dict[str, torch.Tensor]:
        return {name: told.added[name] for name in ("text_embeds", "time_ids")}

    def _size_numbers(self, width: int, height: int) -> torch.Tensor:
        """The picture's own size, where it was cut, and the size that is wanted, [1, 6]: as if it had been drawn
        from one of its own size that nothing was cut off."""
        return send(torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32), self.device)


@lru_cache(maxsize=256)
def _padded_with(text: Text, pad: int) -> Text:
    """The same text for a tokenizer that fills its chunks with another token."""
    chunks = (
        replace(
            chunk,
            tokens=chunk.tokens[: chunk.used + 2] + (pad,) * (len(chunk.tokens) - chunk.used - 2),
        )
        for chunk in text.chunks
    )
    return replace(text, chunks=tuple(chunks))

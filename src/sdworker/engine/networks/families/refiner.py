"""Stable Diffusion XL's refiner, which goes on where another model stopped."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from sdworker.engine.device import send
from sdworker.engine.drawing import Drawing
from sdworker.engine.lora import Held
from sdworker.engine.model_files import ModelFolder
from sdworker.engine.networks.families.stable_diffusion import StableDiffusion, check_channels
from sdworker.engine.networks.families.stable_diffusion_xl import StableDiffusionXL
from sdworker.engine.networks.model import Loading
from sdworker.engine.text.encoder import PenultimateEncoder
from sdworker.engine.text.prompt import Text
from sdworker.engine.unet_input import Conditioning

__all__ = ["Refiner"]

# How beautiful the picture is to be, as its training data were judged; and what it is not to be like. diffusers'.
_SCORE, _SCORE_WITHOUT = 6.0, 2.5


class Refiner(StableDiffusion):
    """The UNet is told what XL's second text encoder says, of each token and of the whole; and of the picture its
    size and how beautiful it is."""

    _encoder = "text_encoder_2"

    def __init__(self, *, text_encoder: Any, forgets_empty_negative: bool = False, **parts: Any) -> None:
        """
        Args:
            text_encoder: XL's second.
            forgets_empty_negative, parts: as for `StableDiffusionXL`.
        """
        super().__init__(text_encoder=text_encoder, **parts)
        self._prompts: PenultimateEncoder = PenultimateEncoder(
            text_encoder, device=self.device, dtype=self.dtype
        )
        self._forgets_empty_negative = forgets_empty_negative

    @classmethod
    def _load_parts(cls, checked: ModelFolder, loading: Loading) -> dict[str, Any]:
        forgets = bool(checked.index.get("force_zeros_for_empty_prompt", True))
        return {**super()._load_parts(checked, loading), "forgets_empty_negative": forgets}

    @classmethod
    def vae_dtype(cls, checked: ModelFolder, dtype: torch.dtype) -> torch.dtype:
        return StableDiffusionXL.vae_dtype(checked, dtype)

    @classmethod
    def _check_unet(cls, unet: Any, folder: Path) -> None:
        check_channels(unet, folder)

    def _tell(
        self, text: Text, drawing: Drawing, held: Held, *, is_negative: bool
    ) -> Generator[None, None, Conditioning]:
        applied = held.applied(self._encoder, drawing.embeddings)
        told = yield from self._prompts.encode_in_pieces(text, applied)
        whole = self._prompts.encode_whole(text, applied)
        if is_negative and self._forgets_empty_negative and not drawing.negative_prompt:
            told, whole = torch.zeros_like(told), torch.zeros_like(whole)
        score = _SCORE_WITHOUT if is_negative else _SCORE
        return Conditioning(told, added=self._added(whole, drawing.width, drawing.height, score))

    def example_conditioning(self) -> Conditioning:
        text = self._read_plainly("")
        whole = self._prompts.encode_whole(text)
        return Conditioning(self._prompts.encode(text), added=self._added(whole, *self.default_size, _SCORE))

    def _added_conditions(self, told: Conditioning) -> dict[str, torch.Tensor]:
        return {name: told.added[name] for name in ("text_embeds", "time_ids")}

    def _added(self, whole: torch.Tensor, width: int, height: int, score: float) -> dict[str, torch.Tensor]:
        numbers = torch.tensor([[height, width, 0, 0, score]], dtype=torch.float32)
        return {"text_embeds": whole, "time_ids": send(numbers, self.device)}

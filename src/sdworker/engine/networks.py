"""The model: text encoder, UNet, VAE and tokenizer, loaded and placed.

The only file that calls the networks. Everything here runs on the engine's thread. Shapes: `h`, `w` are the
image's height and width in pixels, `s` is `pixels_per_latent` (8 for Stable Diffusion).
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging

from sdworker.engine.device import fetch, mark, send, time_call
from sdworker.engine.model_config import ModelError, shown
from sdworker.engine.model_files import check_complete, check_finite, check_model_folder, why_not
from sdworker.engine.preparation import Means, preparation
from sdworker.engine.prepared import Prepared
from sdworker.engine.text.chunks import Chunk
from sdworker.engine.text.clip import load_text_encoder
from sdworker.engine.text.encoder import PromptEncoder
from sdworker.engine.text.prompt import Text
from sdworker.engine.text.tokens import ClipTokenizer, load_tokenizer
from sdworker.engine.vae import ComingImage, Posterior
from sdworker.model_place import pixels_per_latent, trained_size

__all__ = ["Networks"]

_REPEATS = 3
_PLAIN = Means()


class Networks:
    """A loaded model. Make one with `Networks.load`."""

    def __init__(
        self,
        *,
        tokenizer: ClipTokenizer,
        text_encoder: Any,
        unet: Any,
        vae: Any,
        scheduler_config: dict[str, Any],
        device: torch.device,
        dtype: torch.dtype,
        means: Means = _PLAIN,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.scheduler_config = scheduler_config
        self._tokenizer = tokenizer
        self._prompts = PromptEncoder(text_encoder, device=device, dtype=dtype)
        self._unet = unet
        self._vae = vae
        self._prepared = self._make_prepared(means)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        xformers: bool = False,
        channels_last: bool = True,
        means: Means = _PLAIN,
    ) -> "Networks":
        """Load a model from a folder in diffusers' layout; nothing is downloaded.

        Args:
            folder: the model's.
            device, dtype: where and in what the networks run.
            xformers: let xformers compute attention.
            channels_last: lay the UNet's and the VAE's weights out as convolutions like them best.
            means: what to prepare the UNet's forwards with (`prepare`).

        Raises:
            ModelError: a file is missing or broken, or the model is of a kind that is not served.
        """
        checked = check_model_folder(folder)
        diffusers_logging.set_verbosity_error()
        diffusers_logging.disable_progress_bar()

        def network(name: str, kind: Any) -> Any:
            module, info = _load(
                folder / name,
                lambda: kind.from_pretrained(
                    folder / name,
                    dtype=dtype,
                    variant=checked.variants[name],
                    use_safetensors=True,
                    local_files_only=True,
                    output_loading_info=True,
                ),
            )
            check_complete(folder / name, info)
            module = module.to(device).eval().requires_grad_(False)
            check_finite(folder / name, module)
            return module

        unet = network("unet", UNet2DConditionModel)
        _check_unet(unet, folder)
        vae = network("vae", AutoencoderKL)
        if xformers:
            _use_xformers(unet, vae)
        if channels_last:
            for module in (unet, vae):
                module.to(memory_format=torch.channels_last)
        text_encoder = _load(
            folder / "text_encoder",
            lambda: load_text_encoder(
                folder / "text_encoder", dtype=dtype, variant=checked.variants["text_encoder"]
            ),
        )
        text_encoder = text_encoder.to(device).eval().requires_grad_(False)
        check_finite(folder / "text_encoder", text_encoder)
        return cls(
            tokenizer=_load(
                folder / "tokenizer", lambda: load_tokenizer(folder / "tokenizer", text_encoder.positions)
            ),
            text_encoder=text_encoder,
            unet=unet,
            vae=vae,
            scheduler_config=checked.scheduler_config,
            device=device,
            dtype=dtype,
            means=means,
        )

    @property
    def pixels_per_latent(self) -> int:
        """Pixels along one side of a latent; 8 for Stable Diffusion."""
        return pixels_per_latent(self._vae.config)

    @property
    def default_size(self) -> tuple[int, int]:
        """Width and height, in pixels, that the model was trained for."""
        return trained_size(self._unet.config, self._vae.config)

    @property
    def default_shape(self) -> tuple[int, int]:
        """Latent height and width of the default size."""
        width, height = self.default_size
        return height // self.pixels_per_latent, width // self.pixels_per_latent

    @property
    def latent_channels(self) -> int:
        return int(self._vae.config.latent_channels)

    @property
    def inpaints_natively(self) -> bool:
        """The UNet takes the mask and the masked picture's latents beside the noisy ones (9 channels)."""
        return int(self._unet.config.in_channels) == 2 * self.latent_channels + 1

    @property
    def embeds_guidance(self) -> bool:
        """The UNet is told the guidance scale instead of running twice (latent consistency models)."""
        return self._unet.config.time_cond_proj_dim is not None

    @torch.inference_mode()
    def encode_text(self, prompt: str) -> torch.Tensor:
        """The prompt's embedding, [1, 77, d]; cut at 77 tokens, as diffusers' pipelines do."""
        words = self._tokenizer
        ids = words.encode(prompt)[: words.room]
        tokens = (words.bos, *ids, words.eos, *[words.pad] * (words.room - len(ids)))
        return self._prompts.encode(Text((Chunk(tokens, (1.0,) * words.positions, (), len(ids)),)))

    @torch.inference_mode()
    def encode_image(self, pixels: torch.Tensor) -> Posterior:
        """The distribution of a picture's latents.

        Args:
            pixels: [1, 3, h, w] in -1 … 1.
        """
        latents = self._vae.encode(send(pixels, self.device).to(self.dtype)).latent_dist
        return Posterior(latents.mean.float(), latents.std.float(), self._vae.config.scaling_factor)

    @torch.inference_mode()
    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        text: torch.Tensor,
        guidance: torch.Tensor | None,
    ) -> torch.Tensor:
        """One UNet forward.

        Args:
            latents: [rows, 4 or 9, h/s, w/s].
            timesteps: [rows] in float32.
            text: [rows, 77, d].
            guidance: [rows], for a model that embeds it; else None.

        Returns:
            [rows, 4, h/s, w/s] in float32: what the model predicts (noise, or velocity).
        """
        forward = self._forward if self._prepared is None else self._prepared
        return forward(latents.to(self.dtype), timesteps, text, self._condition(guidance)).float()

    @torch.inference_mode()
    def prepare(self, rows: int, shape: tuple[int, int] | None = None) -> None:
        """Make forwards of so many rows, and of somewhat fewer, quicker by the means it was loaded with.

        Args:
            shape: latent height and width; None: of the model's own size.
        """
        if self._prepared is not None:
            latents, timesteps, text, guidance = self.example_inputs(rows, shape)
            self._prepared.prepare(latents.to(self.dtype), timesteps, text, self._condition(guidance))

    @property
    def wants_preparing(self) -> bool:
        """Whether a shape was met that could be prepared."""
        return self._prepared is not None and self._prepared.is_wanted

    @torch.inference_mode()
    def prepare_wanted(self) -> None:
        """Prepare for one of the shapes met; takes a second at most."""
        if self._prepared is not None:
            self._prepared.prepare_wanted()

    def free_memory(self) -> None:
        """Give back what is kept only for speed."""
        if self.device.type == "cuda":
            if self._prepared is not None:
                self._prepared.forget()
            torch.cuda.empty_cache()

    def example_inputs(
        self, rows: int, shape: tuple[int, int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Arguments for `predict`: so many rows of noise, at the model's own size or another, halfway through, of
        no text."""
        noise = torch.randn(
            (rows, self._unet.config.in_channels, *(shape or self.default_shape)),
            generator=torch.Generator("cpu").manual_seed(0),
        )
        timesteps = torch.full((rows,), 500.0, device=self.device)
        guidance = torch.full((rows,), 1.0, device=self.device) if self.embeds_guidance else None
        return noise.to(self.device), timesteps, self.encode_text("").expand(rows, -1, -1), guidance

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> ComingImage:
        """One image from its finished latents [1, 4, h/s, w/s]."""
        scaled = (latents / self._vae.config.scaling_factor).to(self.dtype)
        pixels = self._vae.decode(scaled, return_dict=False)[0].float()
        finite = torch.stack([latents.isfinite().all(), pixels.isfinite().all()])
        bytes_ = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        return ComingImage(fetch(bytes_[0].permute(1, 2, 0).contiguous()), fetch(finite), mark(self.device))

    def _forward(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        text: torch.Tensor,
        condition: torch.Tensor | None,
    ) -> torch.Tensor:
        """The UNet as diffusers has it, with the condition on a guidance scale embedded."""
        output: torch.Tensor = self._unet(
            latents, timesteps, encoder_hidden_states=text, timestep_cond=condition, return_dict=False
        )[0]
        return output

    def _condition(self, guidance: torch.Tensor | None) -> torch.Tensor | None:
        """What a model that embeds the guidance scale is given of it."""
        if guidance is None:
            return None
        return _embed_guidance(guidance - 1.0, self._unet.config.time_cond_proj_dim).to(self.dtype)

    def _make_prepared(self, means: Means) -> Prepared | None:
        prepare = preparation(means, self.device)
        if prepare is None:
            return None
        return Prepared(
            self._forward,
            prepare,
            lambda call: min(time_call(self.device, call, _REPEATS)),
            when_idle=not means.compiled,
        )


def _load(folder: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ModelError:
        raise
    except Exception as error:  # the libraries raise anything, down to bare Exception; the cause is kept
        raise ModelError(f"{shown(folder)} cannot be loaded: {why_not(error)}") from error


def _check_unet(unet: Any, folder: Path) -> None:
    config = unet.config
    if config.in_channels not in (4, 9):
        raise ModelError(
            f"{folder / 'unet'} takes {config.in_channels} input channels; "
            "4 (text to image) and 9 (inpainting) are served"
        )
    if config.addition_embed_type is not None or config.class_embed_type is not None:
        raise ModelError(
            f"{folder / 'unet'} needs more than a prompt; Stable Diffusion 1.x and 2.x are served"
        )


def _use_xformers(unet: Any, vae: Any) -> None:
    try:
        unet.enable_xformers_memory_efficient_attention()
        vae.enable_xformers_memory_efficient_attention()
    except (ImportError, ModuleNotFoundError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"ATTENTION=xformers cannot be had here: {why_not(error)}; use ATTENTION=sdpa"
        ) from error


def _embed_guidance(scale: torch.Tensor, dimension: int) -> torch.Tensor:
    """Sinusoidal embedding of the guidance scale, [rows, dimension].

    Source: https://github.com/google-research/vdm/blob/dc27b98a554f65cdc654b800da5aa1846545d41b/model_vdm.py#L298,
    as diffusers' `get_guidance_scale_embedding` has it.
    """
    half = dimension // 2
    frequencies = torch.exp(
        torch.arange(half, dtype=torch.float32, device=scale.device) * -(math.log(10000.0) / (half - 1))
    )
    angles = (scale.float() * 1000.0)[:, None] * frequencies[None, :]
    embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.nn.functional.pad(embedding, (0, dimension % 2))

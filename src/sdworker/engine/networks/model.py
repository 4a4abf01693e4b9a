"""What the engine draws with: a loaded model, of whatever family.

The only files that call the networks are this one, the families' and `autoencoder.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch

from sdworker.engine.controls.rows import with_residuals
from sdworker.engine.costs import multiplications
from sdworker.engine.device import free_bytes, time_call
from sdworker.engine.drawing import Drawing
from sdworker.engine.lora import NO_LORAS, Adapters, Held
from sdworker.engine.lora.adapters import UNET
from sdworker.engine.lora.rows import RowAdapters
from sdworker.engine.model_files import ModelFolder
from sdworker.engine.networks.autoencoder import Autoencoder
from sdworker.engine.networks.preparation import Means, preparation
from sdworker.engine.networks.prepared import Prepared
from sdworker.engine.networks.sharing import SharedWeights
from sdworker.engine.plan import Plan
from sdworker.engine.previews import Previewer
from sdworker.engine.unet_input import Conditioning, UNetInput
from sdworker.model_place import trained_size

__all__ = ["Loading", "Model"]

_REPEATS = 3
# Of the memory that is free once the networks are loaded.
_LORA_SHARE = 1 / 8
_PLAIN = Means()


@dataclass(frozen=True)
class Loading:
    """Where and how a model is loaded.

    Attributes:
        device, dtype: where and in what the networks run.
        lora_bytes: most memory of the LoRAs that lie on the device. None: an eighth of what is free beside the
            model.
        xformers: let xformers compute attention.
        channels_last: lay the UNet's and the VAE's weights out as convolutions like them best.
        means: what to prepare the UNet's forwards with (`Model.prepare`).
        shared: where weights are kept that models may have in common. None: nowhere.
    """

    device: torch.device
    dtype: torch.dtype
    lora_bytes: int | None = None
    xformers: bool = False
    channels_last: bool = True
    means: Means = _PLAIN
    shared: SharedWeights | None = None


class Model(ABC):
    """A loaded model. Families say how it is loaded, what its UNet is told and how that is called.

    Attributes:
        device, dtype: where and in what the networks run.
        scheduler_config: its noise schedule, as diffusers' `scheduler_config.json` has it.
        autoencoder: pictures to latents and back.
        adapters: the LoRAs in its networks.
        text_widths: text encoder → numbers of a token's embedding.
    """

    def __init__(
        self,
        *,
        unet: Any,
        vae: Any,
        text_encoders: Mapping[str, Any],
        scheduler_config: dict[str, Any],
        device: torch.device,
        dtype: torch.dtype,
        lora_bytes: int | None = None,
        means: Means = _PLAIN,
    ) -> None:
        """
        Args:
            text_encoders: by the names of their folders; LoRAs may change them.
        """
        self.device = device
        self.dtype = dtype
        self.scheduler_config = scheduler_config
        self.autoencoder = Autoencoder(vae, device=device, dtype=vae.dtype)
        self._unet = unet
        self.text_widths = {name: int(encoder.width) for name, encoder in text_encoders.items()}
        self.adapters = Adapters(
            {UNET: unet, **text_encoders},
            budget_bytes=int(_LORA_SHARE * free_bytes(device)) if lora_bytes is None else lora_bytes,
        )
        self._prepared = self._make_prepared(means)
        self._previewer: Previewer | None = None

    @classmethod
    @abstractmethod
    def load(cls, checked: ModelFolder, loading: Loading) -> Self:
        """The model in a folder of this family.

        Raises:
            ModelError: a file is broken, or the model is of a kind that is not served.
        """

    @classmethod
    def vae_dtype(cls, checked: ModelFolder, dtype: torch.dtype) -> torch.dtype:
        """In what the VAE of a folder of this family runs where the rest runs in `dtype`."""
        del checked
        return dtype

    @abstractmethod
    def plan(self, drawing: Drawing, evaluations: int) -> Plan:
        """How a drawing will be told to the UNet in so many evaluations; for any thread.

        Raises:
            EngineError: it cannot be.
        """

    @abstractmethod
    def condition(
        self, drawing: Drawing, plan: Plan, held: Held = NO_LORAS
    ) -> Generator[None, None, Sequence[Conditioning]]:
        """What the UNet is told of one image, as planned: its rows, without a prompt first. One piece of the work,
        a text say, for each item taken.

        Args:
            held: the drawing's LoRAs, which text encoders encode with. The UNet's are not its affair.
        """

    @abstractmethod
    def example_conditioning(self) -> Conditioning:
        """What the UNet is told in one row of no text."""

    @abstractmethod
    def forward(self, inputs: UNetInput) -> torch.Tensor:
        """The UNet as diffusers has it; `denoise` is what to call."""

    def previewer(self) -> Previewer:
        """What makes previews of its drawings; fitted at the first call, in some tenths of a second at most."""
        if self._previewer is None:
            self._previewer = Previewer(self.autoencoder, self.scheduler_config)
        return self._previewer

    @property
    def unet_config(self) -> Mapping[str, Any]:
        """How the UNet is built: what goes beside it must be built likewise."""
        config: Mapping[str, Any] = self._unet.config
        return config

    @cached_property
    def multiplications(self) -> float:
        """What a row's forward takes, beside that of a network of its kind (`costs/arithmetic.py`)."""
        return multiplications(self._unet.named_parameters(), len(self.unet_config["block_out_channels"]))

    @property
    def architecture(self) -> str:
        """Equal for models whose steps cost the same."""
        described = {name: value for name, value in self.unet_config.items() if not name.startswith("_")}
        return f"{type(self).__name__} {self.dtype} {sorted(described.items())}"

    def release(self) -> None:
        """Give up its networks, at once and whoever still refers to it; it cannot be used any more."""
        vars(self).clear()

    @property
    def default_size(self) -> tuple[int, int]:
        """Width and height, in pixels, that the model was trained for."""
        return trained_size(self._unet.config, self.autoencoder.config)

    @property
    def default_shape(self) -> tuple[int, int]:
        """Latent height and width of the default size."""
        width, height = self.default_size
        return height // self.autoencoder.pixels_per_latent, width // self.autoencoder.pixels_per_latent

    @property
    def inpaints_natively(self) -> bool:
        """The UNet takes the mask and the masked picture's latents beside the noisy ones (9 channels)."""
        return int(self._unet.config.in_channels) == 2 * self.autoencoder.latent_channels + 1

    @torch.inference_mode()
    def denoise(self, inputs: UNetInput) -> torch.Tensor:
        """One UNet forward, and before it one of each ControlNet that leads any of its rows.

        Returns:
            [rows, 4, h/s, w/s] in float32: what the model predicts (noise, or velocity).

        Raises:
            ControlError: memory does not suffice for a ControlNet.
        """
        forward = self._adapted if self._prepared is None else self._prepared
        return forward(with_residuals(inputs.to(self.dtype), self.free_memory)).float()

    def _adapted(self, inputs: UNetInput) -> torch.Tensor:
        """The forward with its rows' LoRAs. One that is captured gathers them whenever it is replayed, from slots
        and strengths that are inputs of it."""
        rows = inputs.conditioning.adapters
        assert rows is None or isinstance(rows, RowAdapters)
        is_captured = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        with self.adapters.using(rows, gather_anew=is_captured):
            return self.forward(inputs)

    @torch.inference_mode()
    def prepare(self, rows: int, shape: tuple[int, int] | None = None) -> None:
        """Make forwards of so many rows, and of somewhat fewer, quicker by the means it was loaded with.

        Args:
            shape: latent height and width; None: of the model's own size.
        """
        if self._prepared is not None:
            self._prepared.prepare(self.example_input(rows, shape).to(self.dtype))

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
        self.adapters.forget_unused()
        if self.device.type == "cuda":
            if self._prepared is not None:
                self._prepared.forget()
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def example_input(self, rows: int, shape: tuple[int, int] | None = None) -> UNetInput:
        """An argument for `denoise`, laid out in memory as those of drawings are: so many rows of noise, at the
        model's own size or another, halfway through, of no text."""
        channels = self.autoencoder.latent_channels
        noise = torch.randn(
            (rows, self._unet.config.in_channels, *(shape or self.default_shape)),
            generator=torch.Generator("cpu").manual_seed(0),
        ).to(self.device)
        told = self.example_conditioning().for_images(rows)
        if self.inpaints_natively:
            told = replace(told, channels=noise[:, channels:])
        timesteps = torch.full((rows,), 500.0, device=self.device)
        return UNetInput(noise[:, :channels], timesteps, told).clone()

    def _make_prepared(self, means: Means) -> Prepared | None:
        prepare = preparation(means, self.device)
        if prepare is None:
            return None
        return Prepared(
            self._adapted,
            prepare,
            lambda call: min(time_call(self.device, call, _REPEATS)),
            when_idle=not means.compiled,
        )

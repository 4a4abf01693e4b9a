"""Which family a checkpoint is of, by the names of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdworker.checkpoints.errors import CheckpointError
from sdworker.checkpoints.header import Entry, is_integer, read_header, read_metadata
from sdworker.model_layout import STABLE_DIFFUSION, STABLE_DIFFUSION_XL, Layout

__all__ = ["SUPPORTED", "UNET", "VAE", "Checkpoint", "read_checkpoint"]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
SUPPORTED = "supported: Stable Diffusion 1.x, 2.x and XL, and their 9-channel inpainting models"

_FIRST_CONV = f"{UNET}input_blocks.0.0.weight"
_CROSS_ATTENTION = UNET + "{}.transformer_blocks.0.attn2.to_k.weight"
_REFINER = "conditioner.embedders.0.model."
# A key's beginning → what a file with such keys is. The first that fits counts.
_OTHER_MODELS = (
    (_REFINER, "an SDXL refiner, which draws nothing alone"),
    ("model.diffusion_model.joint_blocks.", "an SD3 checkpoint"),
    ("model.diffusion_model.double_blocks.", "a FLUX checkpoint"),
    ("double_blocks.", "a FLUX checkpoint"),
    ("lora_", "a LoRA, not a model"),
    ("control_model.", "a ControlNet, not a model"),
    ("down_blocks.", "a UNet in diffusers' layout: give the whole folder instead"),
    ("text_model.", "a text encoder: give the whole folder instead"),
    ("decoder.", "a VAE, not a model"),
)


@dataclass(frozen=True)
class _Words:
    """Where a text encoder's weights are.

    Attributes:
        clip, open_clip: beginnings of their names in the layout of transformers, and in that of OpenCLIP; None: it
            does not come so.
    """

    clip: str | None
    open_clip: str | None

    @property
    def beginnings(self) -> tuple[str, ...]:
        return tuple(one for one in (self.clip, self.open_clip) if one is not None)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The key that the encoder is known by: CLIP's, CLIP's in files of long ago, OpenCLIP's."""
        found = []
        if self.clip is not None:
            found += [f"{self.clip}{inner}embeddings.token_embedding.weight" for inner in ("text_model.", "")]
        if self.open_clip is not None:
            found.append(f"{self.open_clip}token_embedding.weight")
        return tuple(found)


WORDS: Mapping[Layout, Mapping[str, _Words]] = {
    STABLE_DIFFUSION: {"text_encoder": _Words("cond_stage_model.transformer.", "cond_stage_model.model.")},
    STABLE_DIFFUSION_XL: {
        "text_encoder": _Words("conditioner.embedders.0.transformer.", None),
        "text_encoder_2": _Words(None, "conditioner.embedders.1.model."),
    },
}
"""Of each family, text encoder → where its weights are."""


@dataclass(frozen=True)
class Checkpoint:
    """A file that is a whole model.

    Attributes:
        path: the file.
        header: its tensors.
        metadata: what it says of itself.
        layout: of which family it is.
    """

    path: Path
    header: Mapping[str, Entry]
    metadata: Mapping[str, str]
    layout: Layout

    @property
    def unet_channels(self) -> int:
        """What the UNet takes in: 4, or 9 of an inpainting model."""
        return self.header[_FIRST_CONV].shape[1]

    @property
    def text_width(self) -> int:
        """Width of the text embeddings that the UNet attends to, off its first such layer; 0: there is none."""
        places = [f"input_blocks.{i}.1" for i in range(1, 12)] + ["middle_block.1"]
        keys = (_CROSS_ATTENTION.format(place) for place in places)
        found = (self.header[key].shape for key in keys if key in self.header)
        return next((shape[-1] for shape in found if shape), 0)

    @property
    def predicts(self) -> dict[str, object]:
        """What the file says of how it was trained, as `scheduler_config.json` has it: to predict velocity, to a
        signal-to-noise ratio of zero.

        Trainers put empty tensors `v_pred` and `ztsnr` into the file, or say it in its metadata, as ModelSpec has
        it (https://github.com/Stability-AI/ModelSpec). The schedule for zero terminal SNR is that of arXiv
        2305.08891: rescaled betas, and steps that begin at the very last timestep.
        """
        said = self.metadata.get("modelspec.prediction_type", "")
        prediction = {"v": "v_prediction", "epsilon": "epsilon"}.get(said)
        found: dict[str, object] = {"prediction_type": prediction} if prediction else {}
        if "v_pred" in self.header:
            found["prediction_type"] = "v_prediction"
        if "ztsnr" in self.header:
            found |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return found

    def begins(self, part: str) -> tuple[str, ...]:
        """How the names of a part's weights begin."""
        own = {"unet": (UNET,), "vae": (VAE,)}
        return own[part] if part in own else WORDS[self.layout][part].beginnings

    def count(self, part: str) -> int:
        """How many numbers a part's weights are, about: a file may hold more than is used."""
        beginnings = self.begins(part)
        total = 0
        for key, entry in self.header.items():
            if key.startswith(beginnings) and not is_integer(entry):
                size = 1
                for side in entry.shape:
                    size *= side
                total += size
        return total


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a file, if it is a whole model that the worker can run.

    Raises:
        CheckpointError: saying what it is instead, or what it lacks.
    """
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path.name} is not a .safetensors file; pickled checkpoints can run code when they are "
            "read and are refused"
        )
    header = read_header(path)
    for beginning, description in _OTHER_MODELS:
        if any(key.startswith(beginning) for key in header):
            raise CheckpointError(f"{path.name} is {description}; {SUPPORTED}")
    if _FIRST_CONV not in header:
        raise CheckpointError(f"{path.name} is not a Stable Diffusion checkpoint; {SUPPORTED}")
    shape = header[_FIRST_CONV].shape
    if len(shape) != 4:
        raise CheckpointError(f"{path.name}: {_FIRST_CONV} has the shape {list(shape)}")
    if shape[1] not in (4, 9):
        raise CheckpointError(f"{path.name} has a UNet with {shape[1]} input channels; {SUPPORTED}")
    is_xl = any(key.startswith("conditioner.embedders.") for key in header)
    layout = STABLE_DIFFUSION_XL if is_xl else STABLE_DIFFUSION
    _check_parts(path.name, header, layout)
    _check_types(path.name, header, layout)
    return Checkpoint(path, header, read_metadata(path), layout)


def _check_parts(name: str, header: Mapping[str, Entry], layout: Layout) -> None:
    if not any(key.startswith((f"{VAE}decoder.", f"{VAE}encoder.")) for key in header):
        raise CheckpointError(f"{name} is without its VAE; a full checkpoint is needed")
    for part, words in WORDS[layout].items():
        called = "its text encoder" if part == "text_encoder" else "its second text encoder"
        there = [one for one in words.beginnings if any(key.startswith(one) for key in header)]
        if not there:
            raise CheckpointError(f"{name} is without {called}; a full checkpoint is needed")
        if not any(key in header for key in words.tokens):
            expected = next(key for key in words.tokens if key.startswith(there[0]))
            raise CheckpointError(f"{name} lacks a weight: {expected}")


def _check_types(name: str, header: Mapping[str, Entry], layout: Layout) -> None:
    weights = (UNET, VAE, *(one for words in WORDS[layout].values() for one in words.beginnings))
    for key, entry in header.items():
        if is_integer(entry) and key.startswith(weights) and not key.endswith(".position_ids"):
            raise CheckpointError(
                f"{name}: {key} is of the type {entry.dtype}; weights are not whole numbers"
            )

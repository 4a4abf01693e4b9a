"""The parts of a model folder in diffusers' layout, for each family of models.

A leaf that imports nothing: the worker checks folders by it (`engine/model_files.py`) and the builder makes them
(`builder/layout.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = [
    "INDEX",
    "LAYOUTS",
    "REFINER",
    "SAFETY",
    "STABLE_DIFFUSION",
    "STABLE_DIFFUSION_XL",
    "Layout",
    "Part",
    "layout_of",
]

INDEX = "model_index.json"


@dataclass(frozen=True)
class Part:
    """One folder.

    Attributes:
        classes: what the index may say it is; empty: anything.
        configs: its configuration files, of which the first must be there.
        weights: the stem of its weights' file, None where it has none.
    """

    classes: tuple[str, ...]
    configs: tuple[str, ...]
    weights: str | None = None


@dataclass(frozen=True, eq=False)
class Layout:
    """The folders of one family.

    Attributes:
        name: what it is called to a user.
        pipelines: what its index may say it is, its `_class_name`. What is drawn with it does not depend on that.
        parts: folder → what is in it.
    """

    name: str
    pipelines: tuple[str, ...]
    parts: Mapping[str, Part]

    @property
    def weights(self) -> Mapping[str, str]:
        """Folder → the stem of its weights' file."""
        return {folder: part.weights for folder, part in self.parts.items() if part.weights is not None}

    @property
    def text_encoders(self) -> Mapping[str, str]:
        """Folder of a text encoder → that of its tokenizer."""
        return {
            folder: folder.replace("text_encoder", "tokenizer")
            for folder in self.parts
            if folder.startswith("text_encoder")
        }


_TOKENIZER = Part(
    ("CLIPTokenizer", "CLIPTokenizerFast"),
    (
        "vocab.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
    ),
)
_CONFIG = ("config.json",)

STABLE_DIFFUSION = Layout(
    name="Stable Diffusion 1.x and 2.x",
    pipelines=(
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "LatentConsistencyModelPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
    ),
    parts=MappingProxyType(
        {
            "scheduler": Part((), ("scheduler_config.json",)),
            "text_encoder": Part(("CLIPTextModel",), _CONFIG, "model"),
            "tokenizer": _TOKENIZER,
            "unet": Part(("UNet2DConditionModel",), _CONFIG, "diffusion_pytorch_model"),
            "vae": Part(("AutoencoderKL",), _CONFIG, "diffusion_pytorch_model"),
        }
    ),
)

STABLE_DIFFUSION_XL = Layout(
    name="Stable Diffusion XL",
    pipelines=(
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
    ),
    parts=MappingProxyType(
        {
            "scheduler": Part((), ("scheduler_config.json",)),
            "text_encoder": Part(("CLIPTextModel",), _CONFIG, "model"),
            "text_encoder_2": Part(("CLIPTextModelWithProjection",), _CONFIG, "model"),
            "tokenizer": _TOKENIZER,
            "tokenizer_2": _TOKENIZER,
            "unet": Part(("UNet2DConditionModel",), _CONFIG, "diffusion_pytorch_model"),
            "vae": Part(("AutoencoderKL",), _CONFIG, "diffusion_pytorch_model"),
        }
    ),
)

REFINER = Layout(
    name="Stable Diffusion XL's refiner",
    pipelines=("StableDiffusionXLImg2ImgPipeline",),
    parts=MappingProxyType(
        {
            name: part
            for name, part in STABLE_DIFFUSION_XL.parts.items()
            if name not in ("text_encoder", "tokenizer")
        }
    ),
)
"""Of a folder `refiner` in another model's; none is served alone."""

SAFETY: Mapping[str, Part] = MappingProxyType(
    {
        "feature_extractor": Part(
            ("CLIPImageProcessor", "CLIPFeatureExtractor"), ("preprocessor_config.json",)
        ),
        "safety_checker": Part(("StableDiffusionSafetyChecker",), _CONFIG, "model"),
    }
)
"""What any family's folder may hold beside its own parts."""

LAYOUTS: tuple[Layout, ...] = (STABLE_DIFFUSION, STABLE_DIFFUSION_XL)
"""Those that are served."""


def layout_of(pipeline: object) -> Layout | None:
    """The layout whose index may say `pipeline`, its `_class_name`."""
    return next((layout for layout in LAYOUTS if pipeline in layout.pipelines), None)

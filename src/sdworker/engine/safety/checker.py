"""diffusers' `StableDiffusionSafetyChecker`: which pictures show what they should not.

A picture's direction, as CLIP sees it, is compared with those of some concepts, each with an angle of its own.
Where one of the "special care" concepts is near, the others need be less so. Source: diffusers'
`pipelines/stable_diffusion/safety_checker.py`.
"""

import json
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from sdworker.engine.chores import Chore
from sdworker.engine.device import Mark, fetch, mark, send
from sdworker.engine.errors import EngineError
from sdworker.engine.model_config import ModelError, shown
from sdworker.engine.model_files import check_complete, check_finite, why_not
from sdworker.engine.safety.preparation import Preparation
from sdworker.engine.safety.vision import VisionModel
from sdworker.engine.text.clip import ACTIVATIONS

__all__ = ["SafetyChecker", "has_checker", "weights_of"]

_CONCEPTS, _SPECIAL = 17, 3
# By so much less near need other concepts be, where one of special care is.
_ADJUSTMENT = 0.01


class _Network(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        projected = config["projection_dim"]
        vision = config["vision_config"]
        self.vision_model = VisionModel(vision)
        self.visual_projection = nn.Linear(vision["hidden_size"], projected, bias=False)
        self.concept_embeds = nn.Parameter(torch.empty(_CONCEPTS, projected))
        self.special_care_embeds = nn.Parameter(torch.empty(_SPECIAL, projected))
        self.concept_embeds_weights = nn.Parameter(torch.empty(_CONCEPTS))
        self.special_care_embeds_weights = nn.Parameter(torch.empty(_SPECIAL))

    def in_pieces(self, pixels: torch.Tensor) -> Generator[None, None, torch.Tensor]:
        """Cosines to the concepts of special care and to the others, [rows, 3 + 17]."""
        pooled = yield from self.vision_model.in_pieces(pixels)
        seen = nn.functional.normalize(self.visual_projection(pooled))
        known = (self.special_care_embeds, self.concept_embeds)
        return torch.cat([seen @ nn.functional.normalize(concepts).t() for concepts in known], dim=1)


class SafetyChecker:
    """Judges pictures, each by itself.

    Attributes:
        bytes_: of its weights.
    """

    def __init__(
        self, network: _Network, preparation: Preparation, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.bytes_ = sum(each.numel() * each.element_size() for each in network.parameters())
        self._network = network
        self._prepare = preparation
        self._device = device
        self._dtype = dtype
        angles = (network.special_care_embeds_weights, network.concept_embeds_weights)
        self._angles = torch.cat([each.float().cpu() for each in angles]).tolist()

    @classmethod
    def load(cls, folder: Path, *, device: torch.device, dtype: torch.dtype) -> Self:
        """The checker in a folder: a model's, with `safety_checker/` and `feature_extractor/`, or one that holds
        the files of both.

        Raises:
            ModelError: a file is missing or broken, or it is of another kind.
        """
        networks, processors = (
            folder / name if (folder / name).is_dir() else folder
            for name in ("safety_checker", "feature_extractor")
        )
        try:
            config = _read_config(networks / "config.json")
            weights = weights_of(folder)
            if not weights.is_file():
                raise ModelError(f"{shown(networks)} has no model.safetensors")
            given = {_renamed(name): tensor for name, tensor in load_file(weights).items()}
        except ModelError:
            raise
        except Exception as error:  # safetensors and JSON raise what they like; the cause is kept
            raise ModelError(f"{shown(networks)} is no safety checker: {why_not(error)}") from error
        try:
            preparation = Preparation.load(processors / "preprocessor_config.json")
        except Exception as error:
            raise ModelError(
                f"{shown(processors / 'preprocessor_config.json')} cannot be used: {why_not(error)}"
            ) from error
        side = config["vision_config"]["image_size"]
        if preparation.crop != (side, side):
            raise ModelError(
                f"{shown(processors)} gives pictures of another size than {shown(networks)} takes"
            )
        with torch.device("meta"):
            network = _Network(config)
        wanted = network.state_dict()
        wrong = [n for n in wanted.keys() & given.keys() if wanted[n].shape != given[n].shape]
        check_complete(networks, {"missing_keys": wanted.keys() - given.keys(), "mismatched_keys": wrong})
        network.load_state_dict({name: given[name].to(dtype) for name in wanted}, assign=True)
        network = network.to(device).eval().requires_grad_(False)
        check_finite(networks, network)
        return cls(network, preparation, device=device, dtype=dtype)

    def prepare(self, pixels: np.ndarray) -> torch.Tensor:
        """A picture, uint8 [h, w, 3], as the network takes it; for any thread."""
        return torch.from_numpy(self._prepare(pixels))

    def chore(self, prepared: torch.Tensor) -> Chore[bool]:
        """Judges a prepared picture: whether it is flagged."""
        return Chore(partial(self._judge, prepared), kind=("judge", *prepared.shape), explain=_explain)

    @torch.inference_mode()
    def try_out(self) -> None:
        """Judge a grey picture: what is wrong with it shows here, not in every job.

        Raises:
            ModelError: it does not judge.
        """
        grey = np.full((*self._prepare.crop, 3), 128, np.uint8)
        chore = self.chore(self.prepare(grey))
        try:
            while not chore.do_piece():
                pass
            assert chore.coming is not None, "it is done"
            chore.coming.get()
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a network that is no checker raises anything; the cause is kept
            raise ModelError(f"the safety checker loads, but does not judge: {why_not(error)}") from error

    def _judge(self, prepared: torch.Tensor, _shortages: int) -> "Generator[None, None, _ComingVerdict]":
        pixels = send(prepared, self._device).to(self._dtype)
        cosines = yield from self._network.in_pieces(pixels)
        return _ComingVerdict(fetch(cosines[0].float()), self._angles, mark(self._device))


class _ComingVerdict:
    """Cosines on their way from the device."""

    def __init__(self, cosines: torch.Tensor, angles: list[float], arrived: Mark) -> None:
        self._cosines = cosines
        self._angles = angles
        self._arrived = arrived

    def is_here(self) -> bool:
        return self._arrived.query()

    def get(self) -> bool:
        """Whether a concept is nearer than its angle; rounded as diffusers rounds it.

        Raises:
            EngineError: the cosines are not finite, so nothing is known.
        """
        self._arrived.synchronize()
        cosines = self._cosines.numpy()
        if not np.isfinite(cosines).all():
            raise EngineError(
                "the safety checker gave numbers that are not finite, so the picture is not returned; run the "
                "worker with PRECISION=fp32"
            )
        above = [cosine - angle for cosine, angle in zip(cosines, self._angles, strict=True)]
        adjustment = 0.0
        for excess in above[:_SPECIAL]:
            if round(excess + adjustment, 3) > 0:
                adjustment = _ADJUSTMENT
        return any(round(excess + adjustment, 3) > 0 for excess in above[_SPECIAL:])


def has_checker(model: Path) -> bool:
    """Whether a model's folder has one."""
    return (model / "safety_checker" / "config.json").is_file()


def weights_of(folder: Path) -> Path:
    """The file of the weights in a folder that `SafetyChecker.load` takes."""
    networks = folder / "safety_checker" if (folder / "safety_checker").is_dir() else folder
    files = [networks / name for name in ("model.safetensors", "model.fp16.safetensors")]
    return next((file for file in files if file.is_file()), files[0])


def _explain(error: Exception) -> Exception:
    if isinstance(error, EngineError):
        return error
    explained = EngineError(
        "out of memory in the safety checker; send the job again"
        if isinstance(error, (torch.OutOfMemoryError, MemoryError))
        else "the safety checker failed inside the worker; its log has the cause"
    )
    explained.__cause__ = error
    return explained


def _read_config(file: Path) -> dict[str, Any]:
    """The checker's configuration with the vision model's complete.

    Raises:
        Exception: it cannot be read, or is that of another network.
    """
    said = json.loads(file.read_text("utf-8"))
    vision = _VISION_DEFAULTS | (said.get("vision_config") or {}) | (said.get("vision_config_dict") or {})
    if said.get("model_type", "clip") != "clip" or vision["hidden_act"] not in ACTIVATIONS:
        raise ValueError("it is made of something else than CLIP's vision model")
    return {"projection_dim": said.get("projection_dim", 512), "vision_config": vision}


def _renamed(name: str) -> str:
    """Files of before transformers 5 have the vision model in a module of its own."""
    return name.replace("vision_model.vision_model.", "vision_model.", 1)


# transformers' CLIPVisionConfig leaves out of config.json what is as by default.
_VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}

"""Families of models: how a folder is loaded, and how a drawing becomes what the UNet is told.

A family is a subclass of `Model`, named in `FAMILIES` under its layout (`sdworker/model_layout.py`), which says
which folders are its.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from sdworker.engine.model_files import ModelFolder, check_model_folder
from sdworker.engine.networks.families.refiner import Refiner
from sdworker.engine.networks.families.stable_diffusion import StableDiffusion
from sdworker.engine.networks.families.stable_diffusion_xl import StableDiffusionXL
from sdworker.engine.networks.model import Loading, Model
from sdworker.model_layout import REFINER, STABLE_DIFFUSION, STABLE_DIFFUSION_XL, Layout

__all__ = ["FAMILIES", "load_checked", "load_model", "weights_bytes"]

FAMILIES: Mapping[Layout, type[Model]] = {
    STABLE_DIFFUSION: StableDiffusion,
    STABLE_DIFFUSION_XL: StableDiffusionXL,
    REFINER: Refiner,
}


def load_model(folder: Path, loading: Loading) -> Model:
    """The model in a folder in diffusers' layout; nothing is downloaded.

    Raises:
        ModelError: a file is missing or broken, or the model is of a kind that is not served.
    """
    return load_checked(check_model_folder(folder, half=loading.dtype is torch.float16), loading)


def load_checked(checked: ModelFolder, loading: Loading) -> Model:
    """The same of a folder that was just checked."""
    return FAMILIES[checked.layout].load(checked, loading)


def weights_bytes(checked: ModelFolder, dtype: torch.dtype) -> int:
    """What a model's weights take in memory where it runs in `dtype`."""
    vae = FAMILIES[checked.layout].vae_dtype(checked, dtype)
    return sum(count * (vae if part == "vae" else dtype).itemsize for part, count in checked.weights.items())

"""Families of models: how a folder is loaded, and how a drawing becomes what the UNet is told.

A family is a subclass of `Model`, named in `FAMILIES` under its layout (`sdworker/model_layout.py`), which says
which folders are its.
"""

from collections.abc import Mapping
from pathlib import Path

from sdworker.engine.model_files import check_model_folder
from sdworker.engine.networks.families.stable_diffusion import StableDiffusion
from sdworker.engine.networks.families.stable_diffusion_xl import StableDiffusionXL
from sdworker.engine.networks.model import Loading, Model
from sdworker.model_layout import STABLE_DIFFUSION, STABLE_DIFFUSION_XL, Layout

__all__ = ["FAMILIES", "load_model"]

FAMILIES: Mapping[Layout, type[Model]] = {
    STABLE_DIFFUSION: StableDiffusion,
    STABLE_DIFFUSION_XL: StableDiffusionXL,
}


def load_model(folder: Path, loading: Loading) -> Model:
    """The model in a folder in diffusers' layout; nothing is downloaded.

    Raises:
        ModelError: a file is missing or broken, or the model is of a kind that is not served.
    """
    checked = check_model_folder(folder)
    return FAMILIES[checked.layout].load(checked, loading)

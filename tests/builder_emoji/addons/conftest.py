"""What the add-ons' tests share: the committed files, the model they belong to, and spandrel."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from builder.emoji import architecture
from diffusers import StableDiffusionPipeline

MODELS = Path(__file__).parents[3] / "models"


@pytest.fixture
def pipeline() -> StableDiffusionPipeline:
    """The committed model, fresh: what is loaded into it is gone with the test."""
    return architecture.load(MODELS / "emoji")


@pytest.fixture(scope="session")
def spandrel() -> ModuleType:
    """spandrel, which imports torchvision for two architectures that no test needs.

    There is no torchvision for every build of torch; where it is missing, empty modules stand in for it
    during the import, and are taken away again lest others think that it is there.
    """
    names = ["torchvision", "torchvision.transforms", "torchvision.transforms.functional"]
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # the latter where it was built for another torch
        missing = [name for name in names if name not in sys.modules]
        for name in missing:
            sys.modules[name] = ModuleType(name)
        for name in ("InterpolationMode", "rotate", "normalize"):
            setattr(sys.modules[names[-1]], name, None)
    else:
        missing = []
    try:
        import spandrel
    finally:
        for name in missing:
            del sys.modules[name]
    return spandrel

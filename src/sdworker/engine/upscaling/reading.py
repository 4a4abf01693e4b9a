"""An upscaler's file: which architecture it is, found out and loaded by spandrel, without running what it holds.

spandrel reads safetensors, and `.pth` by an unpickler that knows tensors and nothing else. It asks for
torchvision, of which there is none for some builds of torch, and uses it for two architectures that enlarge
nothing (LaMa, RestoreFormer); where it is missing, empty modules stand in for it while spandrel is imported.
"""

import contextlib
import pickle
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from sdworker.engine.pretrained import BUILDING
from sdworker.errors import UserError

__all__ = ["SUFFIXES", "UpscalerError", "read"]

SUFFIXES = (".safetensors", ".pth")
"""Of files that are read. TorchScript (`.pt`) is code."""

_TORCHVISION = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
_USED_OF_IT = ("InterpolationMode", "rotate", "normalize")
_importing = threading.Lock()


class UpscalerError(UserError):
    """An upscaler cannot be used; the message names it and says why."""


def read(file: Path, name: str) -> Any:
    """What spandrel makes of a file: an `ImageModelDescriptor` of a network on the CPU that enlarges RGB pictures.

    Args:
        name: what the job calls it.

    Raises:
        UpscalerError: it is damaged, or of another kind.
    """
    with _importing, _torchvision_or_nothing():
        import spandrel
    if file.suffix.lower() not in SUFFIXES:
        raise UpscalerError(f"the upscaler {name!r} is not a {' or '.join(SUFFIXES)} file")
    try:
        with BUILDING:
            found = spandrel.ModelLoader("cpu").load_from_file(file)
    except pickle.UnpicklingError as error:
        raise UpscalerError(
            f"the upscaler {name!r} holds more than weights ({_first_line(error)}) and is not read; convert it to "
            "safetensors"
        ) from error
    except spandrel.UnsupportedModelError as error:
        raise UpscalerError(f"the upscaler {name!r} is of no architecture that is known") from error
    except Exception as error:  # what is damaged raises anything; the cause is kept
        raise UpscalerError(f"the upscaler {name!r} cannot be read: {_first_line(error)}") from error
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.scale < 2:
        raise UpscalerError(f"{name!r} ({found.architecture.name}) does not enlarge pictures")
    if (found.input_channels, found.output_channels) != (3, 3):
        raise UpscalerError(f"{name!r} is for pictures of {found.input_channels} channels, not for RGB")
    if found.tiling is spandrel.ModelTiling.INTERNAL:
        raise UpscalerError(
            f"{name!r} ({found.architecture.name}) wants whole pictures, and pictures are enlarged tile by tile"
        )
    return found


@contextlib.contextmanager
def _torchvision_or_nothing() -> Iterator[None]:
    """While it is open, torchvision can be imported."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # the latter where it was built for another torch
        missing = [name for name in _TORCHVISION if name not in sys.modules]
    else:
        yield
        return
    for name in missing:
        sys.modules[name] = ModuleType(name)
    for name in _USED_OF_IT:
        setattr(sys.modules[_TORCHVISION[-1]], name, None)
    try:
        yield
    finally:  # lest others think that it is there
        for name in missing:
            del sys.modules[name]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]

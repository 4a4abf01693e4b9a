"""What goes wrong in the engine, in words for whoever sent the job."""

import logging

import torch

from sdworker.engine.drawing import Drawing
from sdworker.engine.networks.autoencoder import NotFinite
from sdworker.errors import UserError

__all__ = ["DeviceLost", "EngineError", "EngineLost", "explain", "is_fatal"]

log = logging.getLogger(__name__)


class EngineError(UserError):
    """A drawing failed; the message says what its user can do."""


class EngineLost(EngineError):
    """The engine's thread has ended and cannot be begun again: nothing is drawn any more in this process."""


class DeviceLost(EngineLost):
    """The device is in a state that only a new process can leave."""


def explain(drawing: Drawing, error: Exception, dtype: torch.dtype) -> UserError:
    """The error a user gets of whatever went wrong: what happened and what to do about it."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, NotFinite):
        precision = str(dtype).removeprefix("torch.")
        explained = EngineError(
            f"the picture came out empty: {error}. The likely cause is overflow in {precision}; lower "
            "guidance_scale, try another scheduler, or run the worker with PRECISION=fp32"
        )
    elif isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        explained = EngineError(
            f"out of memory at {drawing.width}x{drawing.height} with {len(drawing.seeds)} images of "
            f"{drawing.steps} steps; ask for smaller or fewer images"
        )
    else:
        log.error("a drawing failed", exc_info=error)
        explained = EngineError("the drawing failed inside the worker; its log has the cause")
    explained.__cause__ = error
    return explained


def is_fatal(error: BaseException) -> bool:
    """A CUDA error other than running out of memory poisons the process's context for good."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)

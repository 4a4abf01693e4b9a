"""Networks as diffusers and transformers load them from their folders, one at a time in the whole process."""

import threading
from pathlib import Path
from typing import Any

import torch

from sdworker.engine.model_files import check_complete

__all__ = ["BUILDING", "from_pretrained"]

BUILDING = threading.Lock()
"""Held while a network is built. The libraries build one whose weights are still to come by changing what every
network of the process is built with (accelerate's `init_empty_weights`): another one that is built meanwhile, by
whatever library, would be without weights too, and where both change it, it might stay so."""


def from_pretrained(kind: Any, folder: Path, *, dtype: torch.dtype, variant: str | None) -> Any:
    """A network, on the CPU.

    Args:
        kind: its class, of diffusers or transformers.
        variant: of the weights' file, `fp16` say.

    Raises:
        ModelError: some of its weights are lacking.
        Exception: a file cannot be read or understood; the libraries raise what they like.
    """
    with BUILDING:
        module, info = kind.from_pretrained(
            folder,
            dtype=dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    check_complete(folder, info)
    return module

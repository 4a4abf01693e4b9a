"""A network from its folder, checked and placed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging

from sdworker.engine.model_files import ModelError, ModelFolder, check_complete
from sdworker.engine.networks.model import Loading

__all__ = ["load_network", "naming", "place", "use_xformers"]


def load_network(checked: ModelFolder, name: str, kind: Any, loading: Loading) -> Any:
    """One of diffusers' networks, on its device.

    Args:
        name: the folder's, `unet` say.
        kind: its class.

    Raises:
        ModelError: naming the file.
    """
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    folder = checked.path / name
    module, info = naming(
        folder,
        lambda: kind.from_pretrained(
            folder,
            dtype=loading.dtype,
            variant=checked.variants[name],
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        ),
    )
    check_complete(folder, info)
    module = place(module, loading)
    if loading.xformers:
        use_xformers(module)
    if loading.channels_last:
        module.to(memory_format=torch.channels_last)
    return module


def place(module: Any, loading: Loading) -> Any:
    """The network on its device, to be used and not trained."""
    return module.to(loading.device).eval().requires_grad_(False)


def naming(folder: Path, load: Callable[[], Any]) -> Any:
    """What `load` returns.

    Raises:
        ModelError: whatever it raised, naming the folder.
    """
    try:
        return load()
    except ModelError:
        raise
    except Exception as error:  # the libraries raise anything, down to bare Exception; the cause is kept
        raise ModelError(f"{folder} cannot be loaded: {_first_line(error)}") from error


def use_xformers(network: Any) -> None:
    """Let xformers compute the network's attention.

    Raises:
        ModelError: it cannot.
    """
    try:
        network.enable_xformers_memory_efficient_attention()
    except (ImportError, ModuleNotFoundError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"ATTENTION=xformers cannot be had here: {_first_line(error)}; use ATTENTION=sdpa"
        ) from error


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

"""A network from its folder, checked and placed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging

from sdworker.engine.model_config import ModelError, shown
from sdworker.engine.model_files import ModelFolder, check_finite, why_not
from sdworker.engine.networks.model import Loading
from sdworker.engine.pretrained import from_pretrained
from sdworker.engine.text.clip import load_text_encoder
from sdworker.engine.text.tokens import ClipTokenizer, load_tokenizer

__all__ = ["load_network", "load_text", "naming", "place", "use_xformers"]


def load_network(
    checked: ModelFolder,
    name: str,
    kind: Any,
    loading: Loading,
    *,
    dtype: torch.dtype | None = None,
    may_share: bool = False,
) -> Any:
    """One of diffusers' networks, on its device.

    Args:
        name: the folder's, `unet` say.
        kind: its class.
        dtype: None: as the others are.
        may_share: other models may have the same.

    Raises:
        ModelError: naming the file.
    """
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    folder = checked.path / name
    module = naming(
        folder,
        lambda: from_pretrained(kind, folder, dtype=dtype or loading.dtype, variant=checked.variants[name]),
    )
    if may_share:
        _share(module, folder, loading)
    module = place(folder, module, loading)
    if loading.xformers:
        use_xformers(module)
    if loading.channels_last:
        module.to(memory_format=torch.channels_last)
    return module


def load_text(
    checked: ModelFolder, name: str, loading: Loading, *, projects: bool = False
) -> tuple[Any, ClipTokenizer]:
    """One of its text encoders, on its device, and the tokenizer for it.

    Args:
        name: the encoder's folder, `text_encoder` say.
        projects: it is a `CLIPTextModelWithProjection`.

    Raises:
        ModelError: naming the file.
    """
    folder = checked.path / name
    encoder = naming(
        folder,
        lambda: load_text_encoder(
            folder, dtype=loading.dtype, variant=checked.variants[name], projects=projects
        ),
    )
    _share(encoder, folder, loading)
    encoder = place(folder, encoder, loading)
    words = checked.path / checked.layout.text_encoders[name]
    return encoder, naming(words, lambda: load_tokenizer(words, encoder.positions))


def _share(network: Any, folder: Path, loading: Loading) -> None:
    if loading.shared is not None:
        naming(folder, lambda: loading.shared.adopt(network, sorted(folder.glob("*.safetensors"))))  # type: ignore[union-attr]


def place(folder: Path, module: Any, loading: Loading) -> Any:
    """The network on its device, to be used and not trained.

    Raises:
        ModelError: a weight is not finite; naming the folder.
    """
    module = module.to(loading.device).eval().requires_grad_(False)
    check_finite(folder, module)
    return module


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
        raise ModelError(f"{shown(folder)} cannot be loaded: {why_not(error)}") from error


def use_xformers(network: Any) -> None:
    """Let xformers compute the network's attention.

    Raises:
        ModelError: it cannot.
    """
    try:
        network.enable_xformers_memory_efficient_attention()
    except (ImportError, ModuleNotFoundError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"ATTENTION=xformers cannot be had here: {why_not(error)}; use ATTENTION=sdpa"
        ) from error

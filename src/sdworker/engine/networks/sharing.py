"""Weights that several models have in common, kept once: text encoders and VAEs hardly ever differ."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from weakref import WeakValueDictionary

from torch import nn

__all__ = ["SharedWeights"]


class SharedWeights:
    """Knows the networks that are loaded by what their files hold. For one thread at a time."""

    def __init__(self) -> None:
        self._networks: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()

    def adopt(self, network: nn.Module, files: Iterable[Path]) -> bool:
        """Let a network that was read from these files have the weights of one that was read from equal ones.

        The networks stay two; their weights are the same memory. Whatever changes those must not do it in place.

        Returns:
            Whether there was one.
        """
        dtype = next(network.parameters()).dtype
        key = f"{type(network).__name__} {dtype} {_digest(files)}"
        known = self._networks.get(key)
        theirs = dict(known.named_parameters()) if known is not None else {}
        ours = dict(network.named_parameters())
        fits = bool(theirs) and all(
            name in theirs and theirs[name].shape == one.shape and theirs[name].dtype == one.dtype
            for name, one in ours.items()
        )
        if fits:
            for name, one in ours.items():
                one.data = theirs[name].data
        self._networks[key] = network
        return fits


def _digest(files: Iterable[Path]) -> str:
    """Of what they hold, in order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

"""LoRAs that a deployment has in the weights of its models: merged when a model is loaded, for every job."""

import contextlib
import json
import logging
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sdworker.assets import AddOns, Kind
from sdworker.catalogue import ListedModel
from sdworker.engine.lora import Directory, LoraError, LoraUse, Target, read_lora
from sdworker.engine.model_files import ModelFolder
from sdworker.engine.networks.model import Model
from sdworker.errors import UserError
from sdworker.settings import Settings, SettingsError

__all__ = ["FusedLoras"]

log = logging.getLogger(__name__)

_LARGEST_SCALE = 10.0


@dataclass(frozen=True)
class _Fused:
    """A file, what the setting calls it, and how strongly it counts."""

    name: str
    path: Path
    scale: float


class FusedLoras:
    """Each is merged into every model that it fits."""

    def __init__(self, settings: Settings, models: Sequence[ListedModel]) -> None:
        """
        Args:
            models: those that are served; not loaded.

        Raises:
            SettingsError: one is not there, fits none of the models, or its scale is no number.
        """
        add_ons = AddOns.from_settings(settings)
        self._fused = [_parse(item, add_ons) for item in settings.fused_loras]
        for one in self._fused:
            reasons = [_why_not(one.path, model.checked) for model in models]
            if None in reasons:
                continue
            told = "; ".join(
                f"{model.served.name}: {reason}" if len(models) > 1 else str(reason)
                for model, reason in zip(models, reasons, strict=True)
            )
            raise SettingsError(f"FUSED_LORAS: {one.name}: {told}")

    def __bool__(self) -> bool:
        return bool(self._fused)

    @torch.inference_mode()
    def merge_into(self, model: Model, name: str) -> None:
        """Merge those that fit into a model that has just been loaded, before any text is encoded, and kept."""
        for one in self._fused:
            try:
                weights = read_lora(one.path, model.adapters.directory)
            except LoraError as error:
                log.info("LoRA %s is not merged into %s: it %s", one.name, name, error)
                continue
            model.adapters.fuse(LoraUse(one.path, weights, one.scale, one.scale))
            log.info("merged LoRA %s into %s at %g", one.name, name, one.scale)


def _parse(item: str, add_ons: AddOns) -> _Fused:
    """`NAME` or `NAME:SCALE`.

    Raises:
        SettingsError: it is neither, or there is none of that name.
    """
    name, colon, number = item.rpartition(":")
    try:
        scale = float(number) if colon else 1.0
    except ValueError:
        raise SettingsError(f"FUSED_LORAS: {number!r} is no scale; write NAME:SCALE") from None
    if not abs(scale) <= _LARGEST_SCALE:
        raise SettingsError(f"FUSED_LORAS: {number!r} is out of range; allowed: -10 to 10")
    name = name or item
    try:
        return _Fused(name, add_ons.find_here(Kind.LORA, name), scale)
    except UserError as error:
        raise SettingsError(f"FUSED_LORAS: {name}: {error}") from error


def _why_not(path: Path, model: ModelFolder) -> str | None:
    """Why a file cannot be a LoRA of a model, if so; unknown of a checkpoint that is not a folder yet."""
    parts = ("unet", *model.layout.text_encoders)
    if not all((model.path / part).is_dir() for part in parts):
        return None
    try:
        read_lora(path, Directory({part: _layers_in(model.path / part) for part in parts}))
    except LoraError as error:
        return str(error)
    return None


def _layers_in(folder: Path) -> Mapping[str, Target]:
    """A network's linear layers and convolutions, by the headers of its files: the network is not built for it.

    Embeddings look like linear layers here; no LoRA names one.
    """
    layers = {}
    for file in folder.glob("*.safetensors"):
        for key, entry in _header(file).items():
            name, _, kind = key.rpartition(".")
            if kind != "weight" or len(entry["shape"]) not in (2, 4):
                continue
            outputs, inputs, *kernel = entry["shape"]
            height, width = kernel or (1, 1)
            layers[name] = Target(outputs, inputs, (height, width), convolves=bool(kernel))
    return layers


def _header(file: Path) -> dict[str, dict[str, list[int]]]:
    """Of a file whose header was checked; {} where it is gone since."""
    with contextlib.suppress(OSError, struct.error, ValueError), file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header: dict[str, dict[str, list[int]]] = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        return header
    return {}

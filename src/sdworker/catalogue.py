"""Which models a worker serves: found by the settings, checked, and not loaded.

    MODEL_DIR, MODEL_ID     one model: a folder, or one of the platform's cached models
    MODELS                  several, with commas between: name=folder, a folder, or owner/name from the cache
    MODELS_DIR              every model in a folder

They are served in this order; the first is what jobs get that name none. None of these set: the image's baked
model and then every model in `/runpod-volume/models`; where there is neither, the embedded one.

Wherever a folder may be named, a single `.safetensors` checkpoint may be too. It is known by its header, and made
a folder when it is first drawn with (`checkpoints/`).
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdworker.checkpoints import CheckpointError, described, kept_folder
from sdworker.engine.model_config import ModelError, shown
from sdworker.engine.model_files import ModelFolder, check_model_folder
from sdworker.hub_cache import cached_snapshot, is_hub_id
from sdworker.model_layout import INDEX
from sdworker.model_place import BAKED_MODEL, EMBEDDED_MODEL, own_defaults, trained_size
from sdworker.request import Contract, ServedModel
from sdworker.settings import Settings

__all__ = ["ListedModel", "contract_of", "list_models", "name_of"]

log = logging.getLogger(__name__)

_VOLUME_MODELS = Path("/runpod-volume/models")
_CHECKPOINT = ".safetensors"


@dataclass(frozen=True)
class ListedModel:
    """A model that would be served.

    Attributes:
        served: what the contract knows of it.
        checked: its folder; of a single checkpoint, what will be in it.
        checkpoint: that file, if it is one.
        converted_dir: where it is kept as a folder; None: beside it.
    """

    served: ServedModel
    checked: ModelFolder
    checkpoint: Path | None = None
    converted_dir: Path | None = None

    @property
    def place(self) -> Path:
        """The folder or file that it is."""
        return self.checkpoint or self.checked.path

    def folder(self) -> Path:
        """Its folder; a checkpoint that is none yet is made one now.

        Raises:
            ModelError: it cannot be.
        """
        if self.checkpoint is None:
            return self.checked.path
        try:
            return kept_folder(self.checkpoint, self.converted_dir)
        except CheckpointError as error:
            raise ModelError(str(error)) from error


def list_models(settings: Settings, *, half: bool = False) -> list[ListedModel]:
    """The models, at least one; each name once.

    Args:
        half: weights in half precision are preferred where a folder has both.

    Raises:
        ModelError: one that was named is not there or damaged, or there is none. What lies in MODELS_DIR and is
            no model is left out with a warning.
    """
    found: dict[str, ListedModel] = {}
    for name, place in _named(settings):
        model = _listed(name, place, settings, half=half)
        found.setdefault(model.served.name, model)
    models_dir = settings.models_dir
    if not found and models_dir is None:
        if BAKED_MODEL.is_dir():
            model = _listed(None, BAKED_MODEL, settings, half=half)
            found[model.served.name] = model
        models_dir = _VOLUME_MODELS if _VOLUME_MODELS.is_dir() else None
    if models_dir is not None:
        for place in _lying_in(models_dir):
            try:
                model = _listed(None, place, settings, half=half)
            except ModelError as error:
                log.warning("not served: %s", error)
                continue
            found.setdefault(model.served.name, model)
    if not found and settings.models_dir is not None:
        raise ModelError(f"MODELS_DIR: {shown(settings.models_dir)} holds no model that can be served")
    if not found:
        if not EMBEDDED_MODEL.is_dir():
            raise ModelError("there is no model: set MODEL_DIR to a folder in diffusers' layout")
        model = _listed(None, EMBEDDED_MODEL, settings, half=half)
        found[model.served.name] = model
    return list(found.values())


def contract_of(settings: Settings) -> Contract:
    """The input contract of the models that would be served.

    Raises:
        DeploymentError: there is none such.
    """
    models = [model.served for model in list_models(settings)]
    return Contract(settings, models[0].size, tuple(models))


def name_of(folder: Path) -> str:
    """What a model calls itself: the source its manifest names, else the folder."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        return str(manifest["source"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name


def _named(settings: Settings) -> Iterator[tuple[str | None, Path]]:
    """What the settings name: a name where they give one, and the folder or file."""
    if settings.model_dir is not None:
        yield None, settings.model_dir
    if settings.model_id is not None:
        yield settings.model_id, cached_snapshot(settings.model_id)
    for entry in settings.models:
        name, separator, place = entry.partition("=")
        if not separator:
            name, place = "", entry
        path = Path(place)
        if is_hub_id(place) and not path.exists():
            yield name or place, cached_snapshot(place)
        else:
            yield name or None, path


def _lying_in(folder: Path) -> list[Path]:
    """Folders in diffusers' layout and single checkpoints, by name."""
    try:
        places = sorted(folder.iterdir(), key=lambda place: place.name.removesuffix(_CHECKPOINT).casefold())
    except OSError as error:
        raise ModelError(f"MODELS_DIR: {shown(folder)} cannot be read: {error.strerror}") from None
    return [
        place
        for place in places
        if not place.name.startswith(".") and (place.suffix == _CHECKPOINT or (place / INDEX).exists())
    ]


def _listed(name: str | None, place: Path, settings: Settings, *, half: bool) -> ListedModel:
    is_file = place.suffix == _CHECKPOINT and not place.is_dir()
    checked = _described(place) if is_file else check_model_folder(place, half=half)
    own = place.stem if is_file else name_of(place)
    called = name or own
    also = {own, own.rpartition("/")[2], called.rpartition("/")[2], place.name}
    unet, vae = (_config(checked.path, part) for part in ("unet", "vae"))
    served = ServedModel(
        called,
        trained_size(unet, vae),
        tuple(sorted(also - {called})),
        own_defaults(checked.scheduler_config),
    )
    return ListedModel(served, checked, place if is_file else None, settings.converted_dir)


def _described(file: Path) -> ModelFolder:
    """The folder that a checkpoint will be, with configurations as they are kept for its family."""
    if not file.is_file():
        raise ModelError(f"there is no checkpoint at {shown(file)}")
    try:
        found = described(file)
    except CheckpointError as error:
        raise ModelError(str(error)) from error
    return ModelFolder(
        path=found.configs,
        layout=found.layout,
        index=found.index,
        variants=dict.fromkeys(found.weights),
        weights=found.weights,
        scheduler_config=found.scheduler_config,
    )


def _config(folder: Path, part: str) -> Mapping[str, Any]:
    content: dict[str, Any] = json.loads((folder / part / "config.json").read_text("utf-8"))
    return content

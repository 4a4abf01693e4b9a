"""Which models a worker serves: found by the settings, checked, and not loaded.

    MODEL_DIR, MODEL_ID     one model: a folder, or one of the platform's cached models
    MODELS                  several, with commas between: name=folder, a folder, or owner/name from the cache
    MODELS_DIR              every model in a folder

They are served in this order; the first is what jobs get that name none. None of these set: the image's baked
model, else the embedded one.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdworker.engine.model_config import ModelError, shown
from sdworker.engine.model_files import ModelFolder, check_model_folder
from sdworker.hub_cache import cached_snapshot, is_hub_id
from sdworker.model_layout import INDEX
from sdworker.model_place import model_folder, own_defaults, trained_size
from sdworker.request import Contract, ServedModel
from sdworker.settings import Settings

__all__ = ["ListedModel", "contract_of", "list_models", "name_of"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedModel:
    """A model that would be served.

    Attributes:
        served: what the contract knows of it.
        checked: its folder.
    """

    served: ServedModel
    checked: ModelFolder


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
        model = _listed(name, place, half=half)
        found.setdefault(model.served.name, model)
    if settings.models_dir is not None:
        for place in _lying_in(settings.models_dir):
            try:
                model = _listed(None, place, half=half)
            except ModelError as error:
                log.warning("not served: %s", error)
                continue
            found.setdefault(model.served.name, model)
    if not found and settings.models_dir is not None:
        raise ModelError(f"MODELS_DIR: {shown(settings.models_dir)} holds no model that can be served")
    if not found:
        folder = model_folder(None)
        if not folder.is_dir():
            raise ModelError("there is no model: set MODEL_DIR to a folder in diffusers' layout")
        model = _listed(None, folder, half=half)
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
    """Folders in diffusers' layout, by name."""
    try:
        places = sorted(folder.iterdir(), key=lambda place: place.name.casefold())
    except OSError as error:
        raise ModelError(f"MODELS_DIR: {shown(folder)} cannot be read: {error.strerror}") from None
    return [place for place in places if not place.name.startswith(".") and (place / INDEX).exists()]


def _listed(name: str | None, folder: Path, *, half: bool) -> ListedModel:
    checked = check_model_folder(folder, half=half)
    own = name_of(folder)
    called = name or own
    also = {own, own.rpartition("/")[2], called.rpartition("/")[2], folder.name}
    unet, vae = (_config(folder, part) for part in ("unet", "vae"))
    served = ServedModel(
        called,
        trained_size(unet, vae),
        tuple(sorted(also - {called})),
        own_defaults(checked.scheduler_config),
    )
    return ListedModel(served, checked)


def _config(folder: Path, part: str) -> Mapping[str, Any]:
    content: dict[str, Any] = json.loads((folder / part / "config.json").read_text("utf-8"))
    return content

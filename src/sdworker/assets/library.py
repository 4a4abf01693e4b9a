"""All add-ons of a deployment, by kind: where they lie, which names there are, and the file that a name means."""

import os
import tempfile
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Self

from sdworker.assets.cache import FileCache
from sdworker.assets.download import Limits
from sdworker.assets.folders import Folders
from sdworker.assets.sources import CIVITAI, HUB
from sdworker.assets.store import AddOnStore
from sdworker.settings import Settings

__all__ = ["AddOns", "Kind"]

_BAKED = Path("/opt/addons")  # where the Dockerfile puts them
_EMBEDDED = Path(__file__).resolve().parents[3] / "models"  # the repository's own
_VOLUME = Path("/runpod-volume")


class Kind(Enum):
    """A kind of add-on: what errors call it, the folder it lies in, and the setting that names another folder.

    Attributes:
        word: for errors.
        folder: under `models/` in the image and under the network volume.
        setting: of the deployment's own folder.
        suffixes: of its files.
        whole_with: a folder that holds this file is one add-on, as diffusers saves networks.
    """

    LORA = ("LoRA", "loras", "lora_dir")
    EMBEDDING = ("embedding", "embeddings", "embedding_dir")
    CONTROLNET = ("ControlNet", "controlnets", "controlnet_dir", "config.json")
    UPSCALER = ("upscaler", "upscalers", "upscaler_dir", None, (".safetensors", ".pth"))

    def __init__(
        self,
        word: str,
        folder: str,
        setting: str,
        whole_with: str | None = None,
        suffixes: tuple[str, ...] = (".safetensors",),
    ) -> None:
        self.word, self.folder, self.setting = word, folder, setting
        self.whole_with, self.suffixes = whole_with, suffixes


class AddOns:
    """Finds any add-on by name. For one event loop."""

    def __init__(self, folders: Mapping[Kind, Folders], store: AddOnStore) -> None:
        self._folders = folders
        self._store = store

    @classmethod
    def from_settings(cls, settings: Settings, *, baked: Path | None = None, volume: Path = _VOLUME) -> Self:
        """Those of a deployment. Nothing is read or made yet.

        Args:
            baked: where the image has its own, a folder for each kind. None: the Dockerfile's place, else the
                repository's.
            volume: the network volume, which may not be there.
        """
        if baked is None:
            baked = _BAKED if _BAKED.is_dir() else _EMBEDDED
        tokens = {
            host: secret.get_secret_value()
            for host, secret in ((HUB, settings.hf_token), (CIVITAI, settings.civitai_token))
            if secret is not None
        }
        store = AddOnStore(
            FileCache(_cache_folder(settings, volume), most_bytes=int(settings.addon_cache_gb * 10**9)),
            Limits(
                most_bytes=int(settings.addon_max_mb * 10**6),
                timeout_s=settings.addon_timeout_s,
                public_only=not settings.runpod_allow_private_download_urls,
                tokens=tokens,
            ),
            hosts=settings.addon_hosts,
            endpoints={} if settings.hf_endpoint is None else {HUB: str(settings.hf_endpoint).rstrip("/")},
        )
        return cls({kind: _folders_of(kind, settings, baked, volume) for kind in Kind}, store)

    def names(self, kind: Kind) -> list[str]:
        """Those in the folders, in order; looks at the disk."""
        return self._folders[kind].names()

    def all_names(self) -> dict[str, list[str]]:
        """The same of every kind, by its folder's name."""
        return {kind.folder: self.names(kind) for kind in Kind}

    def find_here(self, kind: Kind, name: str) -> Path:
        """The one of the folders; looks at the disk.

        Raises:
            AddOnError: there is none.
        """
        folders = self._folders[kind]
        found = folders.find(name)
        if found is None:
            raise folders.unknown(name, kind.word)
        return found

    async def find(self, kind: Kind, name: str, *, sha256: str | None = None) -> Path:
        """The file, or for some kinds the folder, that a job's name means; fetched where it is a remote one.

        Raises:
            AddOnError: there is none, or it cannot be had; with a message for the user.
        """
        return await self._store.find(name, self._folders[kind], kind.word, sha256=sha256)


def _folders_of(kind: Kind, settings: Settings, baked: Path, volume: Path) -> Folders:
    """The deployment's own first: it was named last."""
    own: Path | None = getattr(settings, kind.setting)
    places = [*([] if own is None else [own]), volume / kind.folder, baked / kind.folder]
    return Folders(places, kind.suffixes, whole_with=kind.whole_with)


def _cache_folder(settings: Settings, volume: Path) -> Path:
    if settings.addon_cache_dir is not None:
        return settings.addon_cache_dir
    if volume.is_dir():
        return volume / "addons"
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError:  # nothing can be written anywhere: only what has to be fetched fails, and then
        temporary = Path.cwd()
    return temporary / f"sdworker-addons-{os.getuid()}"

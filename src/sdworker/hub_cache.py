"""Models in a hub's cache on this machine: the platform's cached models, and what the hub's client has fetched.

    <cache>/models--owner--name/refs/main            the commit that `main` was
    <cache>/models--owner--name/snapshots/<commit>/  its files, links into `blobs/`

Nothing is downloaded. Owner and name are found in whatever case the folder is written.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sdworker.engine.model_config import ModelError, shown

__all__ = ["cached_snapshot", "is_hub_id"]

_PLATFORM = Path("/runpod-volume/huggingface-cache/hub")
_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_INDEX = "model_index.json"


def is_hub_id(text: str) -> bool:
    """Whether this is `owner/name`, as a hub calls its models."""
    return _ID.fullmatch(text) is not None


def cached_snapshot(model_id: str) -> Path:
    """The folder of a model's files: of the commit that `main` was, else of the one that was fetched last.

    Raises:
        ModelError: the cache does not have it, or not all of it yet.
    """
    looked_in = []
    for cache in _caches():
        looked_in.append(shown(cache))
        for folder in _folders_of(model_id, cache):
            snapshots = _snapshots(folder)
            whole = next((one for one in snapshots if (one / _INDEX).exists()), None)
            if whole is not None:
                return whole
            if snapshots or (folder / "blobs").is_dir():
                raise ModelError(
                    f"the model {model_id} is not whole in {shown(folder)}: no snapshot has its {_INDEX}; it may "
                    "still be on its way, or be a model that is not in diffusers' layout"
                )
    raise ModelError(
        f"the model {model_id} is in no cache on this machine; looked in {', '.join(looked_in)}. Name it as the "
        "endpoint's cached model, or bake it into the image"
    )


def _caches() -> Iterator[Path]:
    """Where the hub's client keeps models, in the order in which it looks; the platform's first."""
    yield _PLATFORM
    if cache := os.environ.get("HF_HUB_CACHE"):
        yield Path(cache)
    if home := os.environ.get("HF_HOME"):
        yield Path(home) / "hub"
    yield Path("~/.cache/huggingface/hub").expanduser()


def _folders_of(model_id: str, cache: Path) -> list[Path]:
    """The folders of that name, the one written exactly so first."""
    wanted = "models--" + model_id.replace("/", "--")
    try:
        found = [path for path in cache.iterdir() if path.name.casefold() == wanted.casefold()]
    except OSError:
        return []
    return sorted(found, key=lambda path: path.name != wanted)


def _snapshots(folder: Path) -> list[Path]:
    """Of the commit that `main` was, then the newest first."""
    try:
        found = [path for path in (folder / "snapshots").iterdir() if path.is_dir()]
    except OSError:
        return []
    try:
        main = (folder / "refs" / "main").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        main = ""
    return sorted(found, key=lambda path: (path.name != main, -path.stat().st_mtime))

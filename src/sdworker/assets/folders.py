"""Add-ons in folders: baked into the image, on the network volume, in a folder of the deployment's own."""

import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdworker.assets.errors import AddOnError

__all__ = ["Folders"]

_MOST_NAMES = 10_000
_DEEPEST = 4
_NAMED_IN_ERRORS = 8


class Folders:
    """Files of some suffixes in several folders, by name: the path below its folder, without the suffix.

    Looked at anew at every call, since a volume's files come and go while a worker lives. What is in an earlier
    folder hides what a later one has of the same name.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        suffixes: tuple[str, ...] = (".safetensors",),
        *,
        whole_with: str | None = None,
    ) -> None:
        """
        Args:
            whole_with: a folder that holds a file of this name is one add-on as it is, by the folder's name.
        """
        self._folders = tuple(folders)
        self._suffixes = suffixes
        self._whole_with = whole_with

    def names(self) -> list[str]:
        """All names, in order."""
        return sorted({name for name, _ in self._files()}, key=lambda name: (name.casefold(), name))

    def find(self, name: str) -> Path | None:
        """The file or whole folder of that name, None if there is none.

        Case and the suffix do not matter, nor the folders below, where the last part alone says which it is.
        """
        wanted = self._bare(name)
        known = dict(reversed(list(self._files())))
        if wanted in known:
            return known[wanted]
        wanted = wanted.casefold()
        same = [path for other, path in known.items() if other.casefold() == wanted]
        if not same:
            same = [path for other, path in known.items() if other.casefold().rpartition("/")[2] == wanted]
        return same[0] if len(same) == 1 else None

    def unknown(self, name: str, kind: str) -> AddOnError:
        """The error for a name that is not there: with the nearest that is."""
        names = self.names()
        shown = _shown(name)
        if not names:
            return AddOnError(f"there is no {kind} named {shown}, nor any other in this deployment")
        near = difflib.get_close_matches(name.casefold(), [other.casefold() for other in names], 1, 0.6)
        if near:
            nearest = next(other for other in names if other.casefold() == near[0])
            return AddOnError(f"there is no {kind} named {shown}; did you mean {nearest!r}?")
        listed = ", ".join(names[:_NAMED_IN_ERRORS]) + (", …" if len(names) > _NAMED_IN_ERRORS else "")
        return AddOnError(f"there is no {kind} named {shown}; there are {listed}")

    def _bare(self, name: str) -> str:
        """A name without its suffix."""
        suffix = next((suffix for suffix in self._suffixes if name.endswith(suffix)), "")
        return name.removesuffix(suffix)

    def _files(self) -> Iterator[tuple[str, Path]]:
        """Names and files, folder by folder. Only what lies below a folder can be found, whatever a name says."""
        count = 0
        for folder in self._folders:
            for path, is_whole in _walk(folder, _DEEPEST, self._whole_with):
                if (is_whole or path.name.endswith(self._suffixes)) and not path.name.startswith("."):
                    count += 1
                    if count > _MOST_NAMES:
                        return
                    name = path.relative_to(folder).as_posix()
                    yield name if is_whole else self._bare(name), path


def _walk(folder: Path, deepest: int, whole_with: str | None) -> Iterator[tuple[Path, bool]]:
    """Files below a folder, in order, and folders that are taken whole; one that cannot be read has none."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:
            continue
        path = Path(entry.path)
        if is_file:
            yield path, False
        elif is_folder and whole_with is not None and (path / whole_with).is_file():
            yield path, True
        elif is_folder and deepest > 1 and not entry.name.startswith("."):
            yield from _walk(path, deepest - 1, whole_with)


def _shown(name: str) -> str:
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:76]}...'"

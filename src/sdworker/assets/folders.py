"""Add-on files in folders: baked into the image, on the network volume, in a folder of the deployment's own."""

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
    """Files of one suffix in several folders, by name: the path below its folder, without the suffix.

    Looked at anew at every call, since a volume's files come and go while a worker lives. What is in an earlier
    folder hides what a later one has of the same name.
    """

    def __init__(self, folders: Sequence[Path], suffix: str = ".safetensors") -> None:
        self._folders = tuple(folders)
        self._suffix = suffix

    def names(self) -> list[str]:
        """All names, in order."""
        return sorted({name for name, _ in self._files()}, key=lambda name: (name.casefold(), name))

    def find(self, name: str) -> Path | None:
        """The file of that name, None if there is none. Case and the suffix do not matter."""
        wanted = name.removesuffix(self._suffix)
        known = dict(reversed(list(self._files())))
        if wanted in known:
            return known[wanted]
        same = [path for other, path in known.items() if other.casefold() == wanted.casefold()]
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

    def _files(self) -> Iterator[tuple[str, Path]]:
        """Names and files, folder by folder. Only what lies below a folder can be found, whatever a name says."""
        count = 0
        for folder in self._folders:
            for path in _walk(folder, _DEEPEST):
                if path.name.endswith(self._suffix) and not path.name.startswith("."):
                    count += 1
                    if count > _MOST_NAMES:
                        return
                    yield path.relative_to(folder).as_posix().removesuffix(self._suffix), path


def _walk(folder: Path, deepest: int) -> Iterator[Path]:
    """Files below a folder, in order; a folder that is missing or cannot be read has none."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:
            continue
        if is_file:
            yield Path(entry.path)
        elif is_folder and deepest > 1 and not entry.name.startswith("."):
            yield from _walk(Path(entry.path), deepest - 1)


def _shown(name: str) -> str:
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:76]}...'"

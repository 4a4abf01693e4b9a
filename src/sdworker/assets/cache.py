"""Fetched files on disk, under the hash of what they are, bounded in size; the least recently used go first.

Several workers may share the folder, on a network volume. Nothing is ever written where it is read: a download
grows in `parts/`, and what is whole and right is moved over in one step. A process that is killed leaves a part,
from which the next one goes on.

    blobs/<sha256>            whole files; a file's access is noted in its modification time
    names/<sha256 of source>  which blob a source was
    parts/<sha256 of source>  what is on its way
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from sdworker.assets.errors import AddOnError

__all__ = ["FileCache", "Part"]

_STALE_PART_S = 24 * 3600.0
_CHUNK_BYTES = 1024 * 1024


class FileCache:
    """One folder of fetched files. Its methods block; run them off the event loop."""

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._blobs, self._names, self._parts = (folder / name for name in ("blobs", "names", "parts"))
        self._most_bytes = most_bytes

    def find(self, source: str, sha256: str | None = None) -> Path | None:
        """The file that came from there, or of that hash; None if it is not kept."""
        if sha256 is None:
            try:
                sha256 = json.loads((self._names / _digest(source)).read_text("utf-8"))["sha256"]
            except (OSError, ValueError, KeyError, TypeError):
                return None
        path = self._blobs / str(sha256)
        try:
            os.utime(path)  # it was used just now
        except OSError:
            return path if path.is_file() else None
        return path

    @contextlib.contextmanager
    def part(self, source: str) -> "Iterator[Part]":
        """What has arrived of a source, to be gone on with; nobody else goes on with it meanwhile.

        Raises:
            BlockingIOError: another worker is at it.
            OSError: the folder cannot be written.
        """
        for folder in (self._blobs, self._names, self._parts):
            folder.mkdir(parents=True, exist_ok=True)
        path = self._parts / _digest(source)
        with path.open("ab") as file:
            _lock(file.fileno())
            if not _is_still(path, file.fileno()):
                # Whoever had it locked has finished it: this is the kept file now.
                raise BlockingIOError("it was finished in the meantime")
            yield Part(path, file.fileno())

    def keep(self, source: str, part: "Part", sha256: str) -> Path:
        """Make a whole part a kept file; called while it is locked.

        Raises:
            OSError: the folder cannot be written.
        """
        blob = self._blobs / sha256
        os.fsync(part.number)
        part.path.replace(blob)
        note = self._names / f".{_digest(source)}.{os.getpid()}"
        note.write_text(json.dumps({"sha256": sha256, "source": source}), "utf-8")
        note.replace(self._names / _digest(source))
        part.forget_origin()
        return blob

    def make_room(self, coming_bytes: int) -> None:
        """Delete what was used least recently until so much more fits.

        Raises:
            AddOnError: it cannot fit.
        """
        if coming_bytes > self._most_bytes:
            raise AddOnError(
                f"its {coming_bytes} bytes are more than this deployment keeps (ADDON_CACHE_GB allows "
                f"{self._most_bytes})"
            )
        self._drop_stale_parts()
        kept = sorted(_files(self._blobs), key=lambda entry: entry[1].st_mtime)
        total = sum(status.st_size for _, status in kept)
        for path, status in kept:
            if total + coming_bytes <= self._most_bytes and self._free_bytes() > coming_bytes:
                return
            # Whoever has it open reads on; POSIX deletes the name only.
            with contextlib.suppress(OSError):
                path.unlink()
                total -= status.st_size
        if self._free_bytes() <= coming_bytes:
            raise AddOnError("the disk that add-ons are kept on is full")

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._blobs).free

    def _drop_stale_parts(self) -> None:
        oldest = time.time() - _STALE_PART_S
        for path, status in _files(self._parts):
            if status.st_mtime < oldest:
                with contextlib.suppress(OSError):
                    path.unlink()


class Part:
    """A file on its way.

    Attributes:
        number: its file descriptor, open for appending, locked.
    """

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number
        self._origin = path.with_suffix(".json")

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return os.fstat(self.number).st_size

    @property
    def validator(self) -> str | None:
        """What the server called this version of the file; without it a part cannot be gone on with."""
        try:
            validator = json.loads(self._origin.read_text("utf-8"))["validator"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return validator if isinstance(validator, str) else None

    def begin(self, validator: str | None) -> None:
        """Begin from the first byte, of the version that the server calls so."""
        os.ftruncate(self.number, 0)
        self._origin.write_text(json.dumps({"validator": validator}), "utf-8")

    def append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.number, view) :]

    def digest(self) -> str:
        """SHA-256 of what has arrived, in hexadecimal."""
        sha256 = hashlib.sha256()
        with self.path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                sha256.update(chunk)
        return sha256.hexdigest()

    def drop(self) -> None:
        """It is of no use."""
        os.ftruncate(self.number, 0)
        self.forget_origin()

    def forget_origin(self) -> None:
        self._origin.unlink(missing_ok=True)


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def _lock(number: int) -> None:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        # A file system without locks: at worst two workers fetch the same file, and the last one's counts.
        return


def _is_still(path: Path, number: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(number))
    except FileNotFoundError:
        return False


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_file() and not entry.name.startswith("."):
                    found.append((Path(entry.path), entry.stat()))
    return found

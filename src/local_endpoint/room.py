"""Room on the data folder's disk: how much is left, and some that is kept back for the worst moment.

Deleting from SQLite needs space first: what is deleted is written to its log before the pages are given back. On
a disk that is full nothing could be deleted any more, and it would stay full for ever. So a file of some megabytes
is held in reserve, to be let go for that, and new work is refused while there is room to finish what is there.
"""

import contextlib
import os
import shutil
from pathlib import Path

from local_endpoint.config import MB

__all__ = ["Room"]

_RESERVE_BYTES = 32 * MB
_MARGIN_BYTES = 128 * MB
_RESERVE_SHARE, _MARGIN_SHARE = 1 / 12, 1 / 4  # of the disk, where that is less


class Room:
    """One folder's disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "reserve"
        total = shutil.disk_usage(folder).total
        self._reserve_bytes = int(min(_RESERVE_BYTES, _RESERVE_SHARE * total))
        self._margin_bytes = int(min(_MARGIN_BYTES, _MARGIN_SHARE * total))

    @property
    def free_bytes(self) -> int:
        """What is left for this process; 0 where the folder has gone."""
        try:
            return shutil.disk_usage(self.folder).free
        except OSError:
            return 0

    @property
    def is_full(self) -> bool:
        """Whether there is next to nothing left."""
        return self.free_bytes < MB

    def has_room_for(self, bytes_: int) -> bool:
        """Whether so much may come, and something be left for what nobody foresaw."""
        return self.free_bytes - bytes_ >= self._margin_bytes

    def let_go(self) -> None:
        """Free the reserve."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    def hold(self) -> None:
        """Take the reserve (again), where the disk has as much to spare."""
        with contextlib.suppress(OSError):
            if self._path.exists() and self._path.stat().st_size >= self._reserve_bytes:
                return
            if self.free_bytes < 2 * self._reserve_bytes:
                return
            number = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(number, 0, self._reserve_bytes)
            finally:
                os.close(number)

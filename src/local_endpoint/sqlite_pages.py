"""The rows in a SQLite file, read page by page, however damaged the rest of it is.

SQLite itself refuses a file whose first page is gone, and stops at the first bad page of a table's tree. But each
leaf page of a table says by itself which rows it holds; so this looks at every page for one. It only reads.

Format: https://www.sqlite.org/fileformat2.html, sections 1.3, 1.6, 2.1 and 4 (the write-ahead log).
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["Value", "rows_of"]

Value = int | float | str | bytes | None

_PAGE_BYTES = 4096
_TABLE_LEAF = 0x0D
_WAL_HEAD_BYTES, _FRAME_HEAD_BYTES = 32, 24
_LARGEST_ROW_BYTES = 1 << 30
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_BROKEN = (IndexError, ValueError, struct.error)


def rows_of(path: Path) -> Iterator[tuple[int, list[Value]]]:
    """Every row that can be read, of any table, as its rowid and its columns; what cannot be is left out.

    A column that stands for the rowid is None. Nothing comes for a file that is no database. Raises `OSError`.
    """
    data, log = _bytes_of(path), _bytes_of(path.with_name(f"{path.name}-wal"))
    size = _page_bytes(data)
    newer = _logged_pages(log, size)
    pages = _Pages(data, log, size, newer)
    for number in range(1, pages.count + 1):
        yield from _rows_of_page(pages, number)


def _bytes_of(path: Path) -> "bytes | mmap.mmap":
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ValueError):  # an empty file cannot be mapped
        return b""


def _page_bytes(data: "bytes | mmap.mmap") -> int:
    given = int.from_bytes(data[16:18], "big")
    size = 65_536 if given == 1 else given
    known = data[:15] == b"SQLite format 3" and 512 <= size <= 65_536 and not size & (size - 1)
    return size if known else _PAGE_BYTES


def _logged_pages(log: "bytes | mmap.mmap", size: int) -> dict[int, int]:
    """Where in the log each page stands that was committed to it last."""
    committed: dict[int, int] = {}
    pending: dict[int, int] = {}
    salts = log[16:24]
    at = _WAL_HEAD_BYTES
    while at + _FRAME_HEAD_BYTES + size <= len(log) and log[at + 8 : at + 16] == salts:
        number, pages_after = struct.unpack(">II", log[at : at + 8])
        pending[number] = at + _FRAME_HEAD_BYTES
        if pages_after:
            committed |= pending
            pending = {}
        at += _FRAME_HEAD_BYTES + size
    return committed


class _Pages:
    """The pages of a database and its log, from number 1."""

    def __init__(
        self, data: "bytes | mmap.mmap", log: "bytes | mmap.mmap", size: int, newer: Mapping[int, int]
    ) -> None:
        self.size = size
        self.count = max([-(-len(data) // size), *newer])
        self._data = data
        self._log = log
        self._newer = newer

    def __getitem__(self, number: int) -> bytes:
        if (at := self._newer.get(number)) is not None:
            return self._log[at : at + self.size]
        return self._data[(number - 1) * self.size : number * self.size]


def _rows_of_page(pages: _Pages, number: int) -> Iterator[tuple[int, list[Value]]]:
    page = pages[number]
    if number == 1 or not page or page[0] != _TABLE_LEAF:
        return  # the first page holds the names of the tables
    for cell in range(int.from_bytes(page[3:5], "big")):
        try:
            (at,) = struct.unpack(">H", page[8 + 2 * cell : 10 + 2 * cell])
            length, at = _varint(page, at)
            rowid, at = _varint(page, at)
            yield rowid, _columns(_payload(pages, page, at, length))
        except _BROKEN:
            continue


def _payload(pages: _Pages, page: bytes, at: int, length: int) -> bytes:
    """A row's bytes: on its page, and what does not fit there on a chain of others."""
    if length > _LARGEST_ROW_BYTES:
        raise ValueError
    most = pages.size - 35
    if length <= most:
        here = length
    else:
        least = (pages.size - 12) * 32 // 255 - 23
        here = least + (length - least) % (pages.size - 4)
        here = here if here <= most else least
    parts = [page[at : at + here]]
    left = length - here
    (following,) = struct.unpack(">I", page[at + here : at + here + 4]) if left else (0,)
    while left:
        overflow = pages[following] if following else b""
        if len(overflow) < 4:
            raise ValueError
        part = overflow[4 : 4 + left]
        (following,) = struct.unpack(">I", overflow[:4])
        parts.append(part)
        left -= len(part)
        if not part:
            raise ValueError
    payload = b"".join(parts)
    if len(payload) != length:
        raise ValueError
    return payload


def _columns(payload: bytes) -> list[Value]:
    head_length, at = _varint(payload, 0)
    kinds = []
    while at < head_length:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    if at != head_length:
        raise ValueError
    columns: list[Value] = []
    for kind in kinds:
        value, at = _column(payload, at, kind)
        columns.append(value)
    if at != len(payload):
        raise ValueError
    return columns


def _column(payload: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind in _INTEGER_BYTES:
        end = at + _INTEGER_BYTES[kind]
        return int.from_bytes(payload[at:end], "big", signed=True), end
    if kind == 7:
        return struct.unpack(">d", payload[at : at + 8])[0], at + 8
    if kind < 12:
        raise ValueError
    end = at + (kind - 12) // 2
    data = payload[at:end]
    return (data.decode() if kind % 2 else data), end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends."""
    value = 0
    for n in range(9):
        byte = data[at + n]
        if n == 8:
            return (value << 8) | byte, at + 9
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, at + n + 1
    raise ValueError

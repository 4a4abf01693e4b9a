"""The ledger for asyncio: writes grouped into few commits by one thread, reads beside them.

`await store.write(op)` returns when what `op` did is on the disk. While one commit waits for the disk the
next writes gather, so throughput does not depend on how slow the disk is, and each still has a savepoint
of its own. When SQLite cannot write (disk full, folder gone) everything in that group is undone and each
of its writers gets `StoreUnavailable`.
"""

import asyncio
import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from local_endpoint.ledger import Ledger
from local_endpoint.room import Room
from local_endpoint.salvage import salvage

__all__ = ["DiskFull", "FolderInUse", "Store", "StoreUnavailable"]

T = TypeVar("T")
_GROUP = 500


class StoreUnavailable(Exception):
    """SQLite could not write; nothing of what was asked has happened."""


class DiskFull(StoreUnavailable):
    """There is no room on the folder's disk."""


class FolderInUse(Exception):
    """Another endpoint is running on this folder."""


@dataclass(frozen=True, slots=True)
class _Housekeeping:
    """Work on the store's file that has to run outside a transaction."""

    do: Callable[[Ledger], Any]

    def __call__(self, ledger: Ledger) -> Any:
        return self.do(ledger)


@dataclass(slots=True)
class _Write:
    op: Callable[[Ledger], Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class Store:
    """One folder's ledger. Create and use it inside a running event loop, and `close` it."""

    def __init__(
        self,
        folder: Path,
        *,
        retention_ms: int,
        sync_retention_ms: int,
        keep_past_ttl: bool = False,
        salvage_damaged: bool = False,
    ) -> None:
        """Raises `FolderInUse`, `sqlite3.DatabaseError` for a foreign file, and `OSError`.

        Args:
            salvage_damaged: put a damaged or foreign file aside, with what can be read in a new one (`salvaged`).
        """
        self._lock_fd = _lock(folder)
        self.room = Room(folder)
        open_ledger = partial(
            Ledger.open,
            folder,
            retention_ms=retention_ms,
            sync_retention_ms=sync_retention_ms,
            keep_past_ttl=keep_past_ttl,
        )
        try:
            self.salvaged = salvage(folder, retention_ms) if salvage_damaged else None
            try:
                self._writer = open_ledger()
            except sqlite3.OperationalError:
                # Even opening needs a little space.
                self.room.let_go()
                self._writer = open_ledger()
            self.reader = open_ledger(read_only=True)
            """For small reads on the event loop; they see every write that has returned."""
            self._thread_reader = open_ledger(read_only=True)
        except BaseException:
            os.close(self._lock_fd)
            raise
        self.room.hold()
        self._thread_reader_lock = threading.Lock()
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, op: Callable[[Ledger], T]) -> T:
        """Run `op` in the writer's thread; return its result once it is committed.

        Raises what `op` raised (nothing of it is kept then), or `StoreUnavailable`.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Write(op, future))
        # Whoever asked may be cancelled; the write is not.
        return await asyncio.shield(future)

    async def read_large(self, op: Callable[[Ledger], T]) -> T:
        """Run a read of megabytes beside the event loop."""

        def locked() -> T:
            with self._thread_reader_lock:
                return op(self._thread_reader)

        return await asyncio.to_thread(locked)

    async def vacuum(self) -> None:
        """Give back what deletions freed, if the disk lets us."""
        await self.write(_Housekeeping(Ledger.vacuum))

    async def make_room(self, now_ms: int) -> int:
        """Delete expired jobs from a full disk; returns how many.

        Raises `StoreUnavailable` when even that cannot be written.
        """

        def make_room(ledger: Ledger) -> int:
            self.room.let_go()
            try:
                return ledger.make_room(now_ms)
            finally:
                self.room.hold()

        return await self.write(_Housekeeping(make_room))

    def close(self) -> None:
        """Finish the writes under way, then let go of the folder."""
        self._queue.put(None)
        self._thread.join()
        for ledger in (self.reader, self._thread_reader, self._writer):
            ledger.close()
        os.close(self._lock_fd)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            group, closing = [first], False
            while len(group) < _GROUP:
                try:
                    write = self._queue.get_nowait()
                except Empty:
                    break
                if write is None:
                    closing = True
                    break
                group.append(write)
            if writes := [write for write in group if not isinstance(write.op, _Housekeeping)]:
                self._commit(writes)
            for housekeeping in (write for write in group if isinstance(write.op, _Housekeeping)):
                self._keep_house(housekeeping)
            self._loop.call_soon_threadsafe(_settle, group)
            if closing:
                break

    def _commit(self, group: list[_Write]) -> None:
        """One transaction for all; if it fails, one for each, so that only what does not fit is refused."""
        db = self._writer.db
        try:
            db.execute("BEGIN IMMEDIATE")
            for write in group:
                self._apply(write)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if len(group) > 1:
                for write in group:
                    write.error = None
                    self._commit([write])
            else:
                group[0].error = self._unavailable(error)

    def _keep_house(self, write: _Write) -> None:
        try:
            write.result = write.op(self._writer)
        except sqlite3.Error as error:
            write.error = self._unavailable(error)

    def _unavailable(self, error: sqlite3.Error) -> StoreUnavailable:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        # SQLite says that it is full only of the database's file, not of those beside it.
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self.room.is_full):
            return DiskFull("the disk of the endpoint's data folder is full")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StoreUnavailable(
                f"the store is damaged ({error}); a start with --salvage keeps what can be read"
            )
        return StoreUnavailable(f"the store cannot write: {error}")

    def _apply(self, write: _Write) -> None:
        db = self._writer.db
        db.execute("SAVEPOINT one")
        try:
            write.result = write.op(self._writer)
        except sqlite3.Error:
            raise
        except Exception as error:
            db.execute("ROLLBACK TO one")
            write.error = error
        db.execute("RELEASE one")


def _settle(group: list[_Write]) -> None:
    for write in group:
        if write.future.cancelled():
            continue
        if write.error is not None:
            write.future.set_exception(write.error)
            # Whoever asked may have gone; asyncio need not complain about it.
            write.future.exception()
        else:
            write.future.set_result(write.result)


def _lock(folder: Path) -> int:
    """Hold the folder for this process; the lock goes with the process, however it ends."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        if error.errno != errno.ENOSPC or not (folder / "reserve").exists():
            raise
        (folder / "reserve").unlink()
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise FolderInUse(f"another endpoint is running on {folder}") from None
    return fd

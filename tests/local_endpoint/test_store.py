"""Grouped commits: fast together, and each for itself when something goes wrong."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from local_endpoint.jobs import Job, NotAllowed
from local_endpoint.ledger import FILE_NAME, Ledger, UnknownJob
from local_endpoint.store import FolderInUse, Store, StoreUnavailable


def submit(name: str, size: int = 10) -> Callable[[Ledger], Job]:
    job = Job(
        id=name,
        sync=False,
        low_priority=False,
        execution_timeout_ms=1,
        ttl_ms=1,
        created_ms=0,
        queued_ms=0,
    )
    return lambda ledger: ledger.submit(job, b"x" * size, b"{}", None)


@pytest.fixture
async def store(quick_path: Path) -> AsyncIterator[Store]:
    store = Store(quick_path, retention_ms=1000, sync_retention_ms=1000)
    yield store
    store.close()


async def test_what_was_answered_is_there_for_everyone(store: Store) -> None:
    await store.write(submit("a"))
    assert store.reader.get("a", 0).id == "a"
    assert (await store.read_large(lambda ledger: ledger.get("a", 0))).id == "a"


async def test_one_that_fails_takes_nothing_of_itself_and_nobody_else_along(store: Store) -> None:
    def fails(ledger: Ledger) -> None:
        submit("half")(ledger)
        raise NotAllowed("changed my mind")

    _, failed, _ = await asyncio.gather(
        store.write(submit("a")), store.write(fails), store.write(submit("b")), return_exceptions=True
    )
    assert isinstance(failed, NotAllowed)
    assert store.reader.has_queued()
    assert [job.id for job in store.reader.recent(0, 10)] == ["b", "a"]


async def test_what_does_not_fit_on_the_disk_is_refused_alone(store: Store) -> None:
    await store.write(lambda ledger: ledger.db.execute("PRAGMA max_page_count = 60").fetchall())
    results = await asyncio.gather(
        store.write(submit("a")),
        store.write(submit("large", 1_000_000)),
        store.write(submit("b")),
        return_exceptions=True,
    )
    assert isinstance(results[1], StoreUnavailable)
    assert {job.id for job in store.reader.recent(0, 10)} == {"a", "b"}


async def test_a_caller_who_leaves_changes_nothing(store: Store) -> None:
    writing = asyncio.create_task(store.write(submit("a")))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await store.write(lambda ledger: None)
    assert store.reader.get("a", 0)


async def test_a_rolled_back_job_is_unknown(store: Store) -> None:
    with pytest.raises(UnknownJob):
        await store.write(lambda ledger: ledger.get("nothing", 0))


async def test_a_folder_has_one_endpoint(store: Store, quick_path: Path) -> None:
    with pytest.raises(FolderInUse):
        Store(quick_path, retention_ms=1, sync_retention_ms=1)


async def test_a_foreign_file_or_version_is_refused(quick_path: Path) -> None:
    (quick_path / FILE_NAME).write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        Store(quick_path, retention_ms=1, sync_retention_ms=1)
    (quick_path / FILE_NAME).unlink()
    with sqlite3.connect(quick_path / FILE_NAME) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(sqlite3.DatabaseError, match="version 99"):
        Store(quick_path, retention_ms=1, sync_retention_ms=1)


async def test_another_programs_database_is_left_as_it_was(quick_path: Path) -> None:
    with sqlite3.connect(quick_path / FILE_NAME) as db:
        db.execute("CREATE TABLE notes (text)")
    before = (quick_path / FILE_NAME).read_bytes()
    with pytest.raises(sqlite3.DatabaseError, match=r"another program's database.*--salvage"):
        Store(quick_path, retention_ms=1, sync_retention_ms=1)
    assert (quick_path / FILE_NAME).read_bytes() == before

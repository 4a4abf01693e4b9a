"""A damaged or foreign store: what can be read goes into a new one, and the old file stays, under another name.

A job whose input or result cannot be read is kept as FAILED and says so; its caller can send it again.
"""

import json
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from local_endpoint.jobs import Status
from local_endpoint.ledger import FILE_NAME, TABLES, VERSION, Ledger
from local_endpoint.sqlite_pages import Value, rows_of

__all__ = ["Salvaged", "is_sound", "salvage"]

_BESIDE = ("-wal", "-shm")
_JOB_KINDS = "-TIIIIIITttiiIIt"
_KINDS: dict[str, Any] = {"-": NoneType, "T": str, "I": int, "t": str | None, "i": int | None}
_LOST = "the job's {} was lost when the endpoint's store was damaged: send it again"
_LIVE = (Status.IN_QUEUE, Status.IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What became of a store."""

    aside: Path
    """Where the old file is now."""
    jobs: int
    waiting: int
    results: int
    lost_data: int
    """How many of the jobs are FAILED now, because their input or result could not be read."""

    def __str__(self) -> str:
        return (
            f"the store was damaged, or was none; it is kept as {self.aside}. Salvaged: {self.jobs} jobs, "
            f"{self.waiting} of them waiting, and {self.results} results. Jobs that are FAILED now because their "
            f"data is lost: {self.lost_data}"
        )


def is_sound(path: Path) -> bool:
    """Whether this file is a whole store of this version."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            whole = db.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok"
    except (sqlite3.Error, UnicodeDecodeError, TypeError):
        return False
    return version == VERSION and whole and tables >= set(TABLES)


def salvage(folder: Path, retention_ms: int) -> Salvaged | None:
    """Make the folder's store whole again; None where it is, or there is none. The folder must be locked.

    Args:
        retention_ms: how long what is FAILED now can be asked for.

    Raises `OSError`; the old file is where it was then.
    """
    path = folder / FILE_NAME
    if not path.exists() or is_sound(path):
        return None
    aside = _name_aside(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix="salvage-") as new:
        try:
            counts = _rebuild(path, Path(new), retention_ms)
        except sqlite3.Error as error:
            raise OSError(f"{folder}: there is no room for what can be salvaged: {error}") from error
        for end in _BESIDE:
            if (beside := path.with_name(path.name + end)).exists():
                beside.rename(aside.with_name(aside.name + end))
        path.rename(aside)
        (Path(new) / FILE_NAME).rename(path)
    return Salvaged(aside, **counts)


def _name_aside(folder: Path) -> Path:
    """A name with the date that nothing has yet."""
    stem = f"jobs-damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    n = 1
    while (aside := folder / f"{stem}{f'-{n}' if n > 1 else ''}.sqlite3").exists():
        n += 1
    return aside


def _rebuild(path: Path, new: Path, retention_ms: int) -> dict[str, int]:
    """Write what can be read into a new store; returns how much it was."""
    jobs = _jobs_in(path)
    ledger = Ledger.open(new, retention_ms=0, sync_retention_ms=0)
    db = ledger.db
    try:
        db.execute("BEGIN")
        db.executemany(f"INSERT INTO jobs VALUES ({', '.join('?' * 16)})", list(jobs.values()))
        for table, rowid, values in _rest_of(path):
            if table == "counters":
                db.execute("UPDATE counters SET value = max(value, ?) WHERE name = ?", values[::-1])
            elif (values[0] if table == "chunks" else rowid) in jobs:
                marks = ", ".join("?" * (1 + len(values)))
                db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", (rowid, *values))
        lost = _fail_what_is_lost(db, retention_ms)
        waiting = len(_seqs(db, "status = 'IN_QUEUE'"))
        results = db.execute("SELECT count(*) FROM results WHERE output IS NOT NULL").fetchone()[0]
        found = {"jobs": len(jobs), "waiting": waiting, "results": results, "lost_data": lost}
        db.execute("COMMIT")
        ledger.empty_log()
        return found
    finally:
        ledger.close()


def _jobs_in(path: Path) -> dict[int, tuple[Value, ...]]:
    """The rows of table `jobs` by `seq`. Of two for one job, which a moved page can leave, the later counts."""
    found: dict[Value, tuple[Value, ...]] = {}
    for rowid, values in rows_of(path):
        if not _is_job(values):
            continue
        row = (rowid, *values[1:])
        other = found.get(row[1])
        if other is None or _age(row) > _age(other):
            found[row[1]] = row
    return {row[0]: row for row in found.values() if isinstance(row[0], int)}


def _age(row: tuple[Value, ...]) -> list[int]:
    return [time_ms if isinstance(time_ms, int) else 0 for time_ms in (row[7], row[12], row[11])]


def _is_job(values: list[Value]) -> bool:
    """Whether these are the columns of table `jobs`: `T`ext, `I`nteger, small where there may be none."""
    return (
        len(values) == len(_JOB_KINDS)
        and all(isinstance(value, _KINDS[kind]) for value, kind in zip(values, _JOB_KINDS, strict=True))
        and values[8] in set(Status)
    )


def _rest_of(path: Path) -> Iterator[tuple[str, int, tuple[Value, ...]]]:
    """The rows of the other tables, told apart by the kinds of their columns."""
    for rowid, values in rows_of(path):
        match values:
            case [None, bytes() as input_, bytes() as extras] if _is_object(input_) and _is_object(extras):
                yield "inputs", rowid, (input_, extras)
            case [None, bytes() | None as output, str() | None as error] if output is None or _is_json(
                output
            ):
                yield "results", rowid, (output, error)
            case [None, int() as seq, bytes() as output] if _is_json(output):
                yield "chunks", rowid, (seq, output)
            case [None, int() as tries, int() as next_ms]:
                yield "webhooks", rowid, (tries, next_ms)
            case [str() as name, int() as value]:
                yield "counters", rowid, (name, value)
            case _:
                continue


def _is_json(text: bytes) -> bool:
    """A row's text goes into answers as it is, so it has to be sound."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_object(text: bytes) -> bool:
    return text.startswith(b"{") and _is_json(text)


def _fail_what_is_lost(db: sqlite3.Connection, retention_ms: int) -> int:
    """Jobs that cannot go on, or be shown as they were, say so; returns how many there are."""
    live, now_ms = ", ".join(f"'{status}'" for status in _LIVE), int(time.time() * 1000)
    inputs = _seqs(db, f"status IN ({live}) AND seq NOT IN (SELECT seq FROM inputs)")
    results = _seqs(db, "status = 'COMPLETED' AND seq NOT IN (SELECT seq FROM results)")
    for seq in inputs:
        sql = "UPDATE jobs SET status = 'FAILED', finished_ms = ?, due_ms = ? WHERE seq = ?"
        db.execute(sql, (now_ms, now_ms + retention_ms, seq))
        db.execute("INSERT OR REPLACE INTO results VALUES (?, NULL, ?)", (seq, _LOST.format("input")))
    for seq in results:
        db.execute("UPDATE jobs SET status = 'FAILED' WHERE seq = ?", (seq,))
        db.execute("INSERT INTO results VALUES (?, NULL, ?)", (seq, _LOST.format("result")))
    db.execute("INSERT OR IGNORE INTO inputs SELECT seq, CAST('{}' AS BLOB), CAST('{}' AS BLOB) FROM jobs")
    return len(inputs) + len(results)


def _seqs(db: sqlite3.Connection, where: str) -> list[int]:
    return [seq for (seq,) in db.execute(f"SELECT seq FROM jobs WHERE {where}")]

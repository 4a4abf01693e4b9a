"""Jobs in SQLite: every transition of `jobs.py` with all that goes with it, each meant for one transaction.

Synchronous and without a clock of its own. `store.py` runs it in a thread and groups its commits.

Small facts that change often sit in `jobs`; inputs and outputs, up to 20 MB each, sit in tables of their
own so that a transition never rewrites them. Both are JSON text as it arrived, spliced into answers
unparsed. Deleted data is overwritten (`secure_delete`), and `vacuum` gives its pages back.
"""

import os
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from local_endpoint.jobs import Job, NotAllowed, Status

__all__ = ["FILE_NAME", "TABLES", "VERSION", "Chunks", "Ledger", "Taken", "UnknownJob", "View", "Webhook"]

FILE_NAME = "jobs.sqlite3"
VERSION = 1

_VACUUM_PAGES = 512
_FEW = 4
_LEAST_BYTES = 512

# `due_ms` is when the clock alone does something to the job: ends it while it lives, deletes it after.
_SCHEMA = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    sync INTEGER NOT NULL,
    low_priority INTEGER NOT NULL,
    execution_timeout_ms INTEGER NOT NULL,
    ttl_ms INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    queued_ms INTEGER NOT NULL,
    status TEXT NOT NULL,
    worker TEXT,
    gpu TEXT,
    taken_ms INTEGER,
    finished_ms INTEGER,
    lost_workers INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    webhook TEXT
) STRICT;
CREATE INDEX jobs_queue ON jobs (low_priority, seq) WHERE status = 'IN_QUEUE';
CREATE INDEX jobs_held ON jobs (worker) WHERE status = 'IN_PROGRESS';
CREATE INDEX jobs_due ON jobs (due_ms);
CREATE TABLE inputs (seq INTEGER PRIMARY KEY, input BLOB NOT NULL, extras BLOB NOT NULL) STRICT;
CREATE TABLE results (seq INTEGER PRIMARY KEY, output BLOB, error TEXT) STRICT;
CREATE TABLE chunks (n INTEGER PRIMARY KEY AUTOINCREMENT, seq INTEGER NOT NULL, output BLOB NOT NULL) STRICT;
CREATE INDEX chunks_seq ON chunks (seq, n);
CREATE TABLE webhooks (seq INTEGER PRIMARY KEY, tries INTEGER NOT NULL, next_ms INTEGER NOT NULL) STRICT;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO counters VALUES ('completed', 0), ('failed', 0), ('retried', 0);
"""

TABLES = ("jobs", "inputs", "results", "chunks", "webhooks", "counters")

_FIELDS = [field.name for field in fields(Job)]
_COLUMNS = ", ".join(f"jobs.{name}" for name in _FIELDS)
_FIXED = {"id", "sync", "low_priority", "execution_timeout_ms", "ttl_ms", "created_ms"}
_CHANGING = [name for name in _FIELDS if name not in _FIXED]
_SAVE = f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in _CHANGING)}, due_ms = ? WHERE id = ?"
_INSERT = (
    f"INSERT INTO jobs ({', '.join(_FIELDS)}, due_ms, webhook) VALUES ({', '.join('?' * (len(_FIELDS) + 2))})"
)
_COUNTER = {Status.COMPLETED: "completed", Status.FAILED: "failed", Status.TIMED_OUT: "failed"}


class UnknownJob(Exception):
    """There is no such job, or its data has expired."""


@dataclass(frozen=True, slots=True)
class View:
    """A job with as much of its data as a status answer shows; JSON text where it is bytes."""

    job: Job
    input: bytes | None
    output: bytes | None
    error: str | None
    output_bytes: int
    """Size of the output, also where `output` was left out for being large."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A job as its worker gets it. `extras` is a JSON object of what came beside the input."""

    job: Job
    input: bytes
    extras: bytes


@dataclass(frozen=True, slots=True)
class Chunks:
    """The part of a job's stream that has not been read yet, and whether more is left after it."""

    job: Job
    outputs: list[bytes]
    more: bool


@dataclass(frozen=True, slots=True)
class Webhook:
    """A final job that its caller still has to be told of."""

    seq: int
    job_id: str
    url: str
    tries: int


class Ledger:
    """The jobs of one folder. Not for use by two threads at once.

    Methods that look a job up raise `UnknownJob`, those that change one `NotAllowed`, before they write.
    """

    def __init__(
        self, db: sqlite3.Connection, *, retention_ms: int, sync_retention_ms: int, keep_past_ttl: bool
    ) -> None:
        self.db = db
        self._keep_past_ttl = keep_past_ttl
        self._retention_ms = retention_ms
        self._sync_retention_ms = sync_retention_ms

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        retention_ms: int,
        sync_retention_ms: int,
        keep_past_ttl: bool = False,
        read_only: bool = False,
    ) -> "Ledger":
        """Open the folder's store, creating both as needed, for the owner's eyes only.

        Args:
            keep_past_ttl: a job that its `ttl` has ended can be asked for as long as any other; else it is gone.

        Raises `sqlite3.DatabaseError` for a file that is not such a store, or of another version, with the file's
        name and what can be done.
        """
        path = folder / FILE_NAME
        try:
            ledger = cls(
                _connect(path, read_only=read_only),
                retention_ms=retention_ms,
                sync_retention_ms=sync_retention_ms,
                keep_past_ttl=keep_past_ttl,
            )
            if not read_only:
                ledger.look_through()
        except sqlite3.Error as error:
            raise type(error)(f"{path}: {error}{_remedy(error)}") from error
        return ledger

    def look_through(self) -> None:
        """Read what a start reads: damage there is better told at once. Raises `sqlite3.Error`."""
        self.latest_ms()
        self.counts()
        self.queued_bytes()
        self.held()

    def close(self) -> None:
        """Close the connection; the last one folds the log into the database."""
        self.db.close()

    # What callers do.

    def submit(self, job: Job, input_json: bytes, extras_json: bytes, webhook: str | None) -> Job:
        """Add a new job to the queue."""
        values = [getattr(job, name) for name in _FIELDS]
        seq = self.db.execute(_INSERT, [*values, self._due_ms(job), webhook]).lastrowid
        self.db.execute("INSERT INTO inputs VALUES (?, ?, ?)", (seq, input_json, extras_json))
        return job

    def view(self, job_id: str, now_ms: int, *, inputs_up_to: int, outputs_up_to: int) -> View:
        """The job as its callers see it, leaving out an input or output longer than so many bytes."""
        row = self.db.execute(
            f"SELECT {_COLUMNS}, CASE WHEN length(input) <= ? THEN input END, "
            "CASE WHEN length(output) <= ? THEN output END, error, coalesce(length(output), 0) "
            "FROM jobs JOIN inputs USING (seq) LEFT JOIN results USING (seq) WHERE id = ?",
            (inputs_up_to, outputs_up_to, job_id),
        ).fetchone()
        if row is None:
            raise UnknownJob(job_id)
        job = self._unexpired(_job(row), now_ms)
        return View(job, *row[len(_FIELDS) :])

    def get(self, job_id: str, now_ms: int) -> Job:
        """The job alone."""
        row = self.db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise UnknownJob(job_id)
        return self._unexpired(_job(row), now_ms)

    def cancel(self, job_id: str, now_ms: int) -> Job:
        """Cancel a live job."""
        return self._end(self.get(job_id, now_ms).cancel(now_ms), now_ms)

    def retry(self, job_id: str, now_ms: int) -> Job:
        """Queue a failed job again, its old result gone."""
        job = self.get(job_id, now_ms).retry(now_ms)
        self._save(job)
        self._drop_results(job.id)
        self._count("retried")
        return job

    def purge_queue(self, now_ms: int) -> list[Job]:
        """Cancel every waiting job."""
        waiting = self._jobs("status = 'IN_QUEUE'")
        return [self._end(job.cancel(now_ms), now_ms) for job in waiting]

    def pop_chunks(self, job_id: str, now_ms: int, *, max_bytes: int) -> Chunks:
        """Read on in the job's stream: each chunk is given out once, at most so many bytes together."""
        job = self.get(job_id, now_ms)
        outputs: list[bytes] = []
        size, last, more = 0, 0, False
        rows = self.db.execute(
            "SELECT n, chunks.output FROM chunks JOIN jobs USING (seq) WHERE id = ? ORDER BY n", (job_id,)
        )
        for n, output in rows:
            if outputs and size + len(output) > max_bytes:
                more = True
                break
            outputs.append(output)
            size, last = size + len(output), n
        rows.close()
        if outputs:
            self.db.execute(
                "DELETE FROM chunks WHERE seq = (SELECT seq FROM jobs WHERE id = ?) AND n <= ?",
                (job_id, last),
            )
        return Chunks(job, outputs, more)

    def has_chunks(self, job_id: str) -> bool:
        """Whether something of the job's stream has not been read yet."""
        sql = "SELECT 1 FROM chunks JOIN jobs USING (seq) WHERE id = ? LIMIT 1"
        return self.db.execute(sql, (job_id,)).fetchone() is not None

    # What workers do.

    def has_queued(self) -> bool:
        """Whether any job waits."""
        return self.db.execute("SELECT 1 FROM jobs WHERE status = 'IN_QUEUE' LIMIT 1").fetchone() is not None

    def take(self, worker: str, gpu: str | None, most: int, sharers: int, now_ms: int) -> list[Taken]:
        """Hand a worker up to `most` jobs, but no more than its share while `sharers` others wait too."""
        sql = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE status = 'IN_QUEUE' LIMIT ?)"
        waiting: int = self.db.execute(sql, (most * (sharers + 1),)).fetchone()[0]
        share = min(most, -(-waiting // (sharers + 1)))
        rows = self.db.execute(
            f"SELECT {_COLUMNS}, input, extras FROM jobs JOIN inputs USING (seq) "
            "WHERE status = 'IN_QUEUE' ORDER BY low_priority, seq LIMIT ?",
            (share,),
        ).fetchall()
        taken = [Taken(_job(row).take(worker, gpu, now_ms), *row[len(_FIELDS) :]) for row in rows]
        for item in taken:
            self._save(item.job)
        return taken

    def give_back(self, job_ids: Collection[str], worker: str) -> None:
        """Undo a take that could not be delivered, for those of these jobs that are still the worker's."""
        for job in self.held(worker):
            if job.id in job_ids:
                self._save(job.give_back())

    def progress(self, job_id: str, worker: str, output: bytes, now_ms: int) -> Job:
        """Keep a worker's latest word on a job it is at."""
        job = self.get(job_id, now_ms)
        if not job.held_by(worker):
            raise NotAllowed(f"job is {job.status} and not with this worker")
        self._put_result(job.id, output, None)
        return job

    def finish(
        self, job_id: str, worker: str, status: Status, output: bytes | None, error: str | None, now_ms: int
    ) -> Job:
        """Take a worker's result; see `Job.finish` for whose results count."""
        job = self._end(self.get(job_id, now_ms).finish(worker, status, now_ms), now_ms)
        self._put_result(job.id, output, error)
        return job

    def add_chunk(self, job_id: str, worker: str, output: bytes, now_ms: int) -> Job:
        """Append to the stream of a job this worker is at."""
        job = self.get(job_id, now_ms)
        if not job.held_by(worker):
            raise NotAllowed(f"job is {job.status} and not with this worker")
        sql = "INSERT INTO chunks (seq, output) SELECT seq, ? FROM jobs WHERE id = ?"
        self.db.execute(sql, (output, job_id))
        return job

    def held(self, worker: str | None = None) -> list[Job]:
        """The jobs that a worker, or any worker, is at."""
        if worker is None:
            return self._jobs("status = 'IN_PROGRESS'")
        return self._jobs("status = 'IN_PROGRESS' AND worker = ?", worker)

    def lose_worker(self, job_ids: Collection[str], worker: str, max_requeues: int, now_ms: int) -> list[Job]:
        """Take these jobs away from a lost worker; skips those it does not hold (any more)."""
        lost = []
        for job in self.held(worker):
            if job.id not in job_ids:
                continue
            after, reason = job.lose_worker(max_requeues, now_ms)
            self._drop_results(job.id)
            if reason is None:
                self._save(after)
                self._count("retried")
            else:
                self._end(after, now_ms)
                self._put_result(job.id, None, reason)
            lost.append(after)
        return lost

    # What time does.

    def anything_due(self, now_ms: int) -> bool:
        """Whether `end_overdue` or `delete_expired` has something to do."""
        return (
            self.db.execute("SELECT 1 FROM jobs WHERE due_ms <= ? LIMIT 1", (now_ms,)).fetchone() is not None
        )

    def end_overdue(self, now_ms: int, limit: int = 1000) -> list[Job]:
        """Time out live jobs whose deadline has passed."""
        overdue = self._jobs("due_ms <= ? AND status IN ('IN_QUEUE', 'IN_PROGRESS') LIMIT ?", now_ms, limit)
        ended = []
        for job in overdue:
            after, reason = job.expire(now_ms)
            self._end(after, now_ms)
            self._put_result(job.id, None, reason)
            ended.append(after)
        return ended

    def delete_expired(self, now_ms: int, limit: int = 1000) -> int:
        """Delete final jobs past their retention, all but those whose webhook is still being tried."""
        rows = self.db.execute(
            "SELECT seq FROM jobs LEFT JOIN webhooks USING (seq) WHERE due_ms <= ? AND webhooks.seq IS NULL "
            "AND status NOT IN ('IN_QUEUE', 'IN_PROGRESS') LIMIT ?",
            (now_ms, limit),
        ).fetchall()
        for table in ("inputs", "results", "chunks", "jobs"):
            self.db.executemany(f"DELETE FROM {table} WHERE seq = ?", rows)
        return len(rows)

    def vacuum(self) -> None:
        """Give deleted pages back to the file system and empty the log. Not inside a transaction."""
        self.empty_log()
        # A piece at a time: what is moved goes through the log, which must not outgrow the disk.
        while left := self.db.execute("PRAGMA freelist_count").fetchone()[0]:
            # `execute` would take one step of it, which is one page; `executescript` goes to the end.
            self.db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
            self.empty_log()
            if self.db.execute("PRAGMA freelist_count").fetchone()[0] >= left:
                break

    def empty_log(self) -> None:
        """Fold the log into the database and give its space back. Not inside a transaction."""
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def make_room(self, now_ms: int) -> int:
        """Delete expired jobs on a disk that is full, a few at a time. Not inside a transaction.

        What is deleted is not overwritten then, which would need as much space again; its pages are given back.
        """
        self.db.execute("PRAGMA secure_delete = OFF").fetchall()
        deleted = 0
        try:
            self.empty_log()
            while count := self.delete_expired(now_ms, limit=_FEW):
                deleted += count
                self.empty_log()
            self.vacuum()
        finally:
            self.db.execute("PRAGMA secure_delete = ON").fetchall()
        return deleted

    # Webhooks.

    def due_webhooks(self, now_ms: int, limit: int) -> list[Webhook]:
        """Webhooks to send now."""
        rows = self.db.execute(
            "SELECT seq, id, webhook, tries FROM webhooks JOIN jobs USING (seq) WHERE next_ms <= ? "
            "ORDER BY next_ms LIMIT ?",
            (now_ms, limit),
        )
        return [Webhook(*row) for row in rows]

    def next_webhook_ms(self) -> int | None:
        """When the next webhook is due, or None when there is none."""
        return self.db.execute("SELECT min(next_ms) FROM webhooks").fetchone()[0]

    def settle_webhook(self, seq: int, tries: int, next_ms: int | None) -> None:
        """Note another try of a webhook, and when the next one is, or None when it was the last."""
        if next_ms is None:
            self.db.execute("DELETE FROM webhooks WHERE seq = ?", (seq,))
        else:
            self.db.execute("UPDATE webhooks SET tries = ?, next_ms = ? WHERE seq = ?", (tries, next_ms, seq))

    # Overviews.

    def queued_bytes(self) -> int:
        """What the waiting jobs' inputs take."""
        sql = "SELECT coalesce(sum(length(input) + length(extras)), 0) FROM jobs JOIN inputs USING (seq) "
        return self.db.execute(f"{sql} WHERE status = 'IN_QUEUE'").fetchone()[0]

    def counts(self) -> dict[str, int]:
        """Counters since the store began, and how many jobs wait and run now."""
        counts: dict[str, int] = dict(self.db.execute("SELECT name, value FROM counters").fetchall())
        for name, status in (("inQueue", Status.IN_QUEUE), ("inProgress", Status.IN_PROGRESS)):
            # The literal, not a parameter: only so does SQLite see that the partial index fits.
            sql = f"SELECT count(*) FROM jobs WHERE status = '{status}'"
            counts[name] = self.db.execute(sql).fetchone()[0]
        return counts

    def recent(self, now_ms: int, limit: int) -> list[Job]:
        """The newest jobs whose data has not expired."""
        sql = f"SELECT {_COLUMNS} FROM jobs ORDER BY seq DESC LIMIT ?"
        jobs = (_job(row) for row in self.db.execute(sql, (limit,)))
        return [job for job in jobs if not job.final or now_ms < self._due_ms(job)]

    def latest_ms(self) -> int:
        """The newest time written anywhere: time must not be seen to run backwards over a restart."""
        sql = (
            "SELECT max(max(queued_ms), max(coalesce(taken_ms, 0)), max(coalesce(finished_ms, 0))) FROM jobs"
        )
        return self.db.execute(sql).fetchone()[0] or 0

    # Helpers.

    def _due_ms(self, job: Job) -> int:
        if job.finished_ms is None or not job.final:
            return job.deadline_ms
        if job.outlived_ttl and not self._keep_past_ttl:
            return job.finished_ms
        return job.finished_ms + (self._sync_retention_ms if job.sync else self._retention_ms)

    def _unexpired(self, job: Job, now_ms: int) -> Job:
        if job.final and now_ms >= self._due_ms(job):
            raise UnknownJob(job.id)
        return job

    def _jobs(self, where: str, *values: Any) -> list[Job]:
        sql = f"SELECT {_COLUMNS} FROM jobs WHERE {where}"
        return [_job(row) for row in self.db.execute(sql, values)]

    def _save(self, job: Job) -> None:
        self.db.execute(_SAVE, [*(getattr(job, name) for name in _CHANGING), self._due_ms(job), job.id])

    def _end(self, job: Job, now_ms: int) -> Job:
        """Save a job that has just become final, count it, and have its caller told."""
        self._save(job)
        if name := _COUNTER.get(job.status):
            self._count(name)
        if job.status is Status.CANCELLED:
            self._drop_results(job.id)
        self.db.execute(
            "INSERT OR REPLACE INTO webhooks SELECT seq, 0, ? FROM jobs WHERE id = ? AND webhook IS NOT NULL",
            (now_ms, job.id),
        )
        return job

    def _count(self, name: str) -> None:
        self.db.execute("UPDATE counters SET value = value + 1 WHERE name = ?", (name,))

    def _put_result(self, job_id: str, output: bytes | None, error: str | None) -> None:
        sql = "INSERT OR REPLACE INTO results SELECT seq, ?, ? FROM jobs WHERE id = ?"
        self.db.execute(sql, (output, error, job_id))

    def _drop_results(self, job_id: str) -> None:
        for table in ("results", "chunks", "webhooks"):
            sql = f"DELETE FROM {table} WHERE seq = (SELECT seq FROM jobs WHERE id = ?)"
            self.db.execute(sql, (job_id,))


def _job(row: tuple[Any, ...]) -> Job:
    values = dict(zip(_FIELDS, row, strict=False))
    values["sync"] = bool(values["sync"])
    values["low_priority"] = bool(values["low_priority"])
    values["status"] = Status(values["status"])
    return Job(**values)


def _remedy(error: sqlite3.Error) -> str:
    """What to do about a store that cannot be opened."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return "; is its disk full or read-only? make room on it, or name another folder with --data"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or any(
        sign in str(error) for sign in ("no such", "not a database")
    ):
        return "; --salvage keeps what can be read and puts the damaged file aside"
    return ""


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    if not read_only:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives its -wal and -shm files the permissions of the database file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
        if 0 < path.stat().st_size < _LEAST_BYTES:
            # SQLite would take it for empty and write over it.
            raise sqlite3.DatabaseError("file is not a database")
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    if read_only:
        db.execute("PRAGMA query_only = ON")
    else:
        _set_up(db)
    return db


def _set_up(db: sqlite3.Connection) -> None:
    """Set the connection up for writing and create the tables in a new file."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and db.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise sqlite3.DatabaseError(
            "it is another program's database; name another folder with --data, or put it aside with --salvage"
        )
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL")
    # A commit is on the disk when it returns: an answer that was given survives a power cut too.
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")
    if version == 0:
        db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
    elif version != VERSION:
        raise sqlite3.DatabaseError(
            f"the store is of version {version}; this endpoint reads version {VERSION}; "
            "name another folder with --data"
        )

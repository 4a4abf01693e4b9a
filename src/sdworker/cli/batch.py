"""A file of jobs, several under way at once, with a log by which the same command goes on when interrupted.

The log is JSON lines, appended only: `{"job": KEY, "id": …, "status": …}` when a job was queued, and again when
it is over, with its files or its error. KEY is a digest of the job and how many equal ones stood before it, so
lines may be added to the file of jobs and moved. What is COMPLETED is not done again; what was queued is asked
for first; all else is sent anew. A job that was queued in the instant of a `kill -9`, before the log knew of it,
is drawn twice.
"""

import fcntl
import hashlib
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sdworker.cli.client import FINAL, Client, EndpointError, UsageError
from sdworker.cli.results import save_images

__all__ = ["PATIENCE_S", "BatchJob", "read_jobs", "run"]

PATIENCE_S = 600
"""How long a queue that is full, or an endpoint that is away, is waited for."""
_POLL_S = 0.5
_HOPELESS = (401, 403, 405)


@dataclass(frozen=True, slots=True)
class BatchJob:
    """One line of the file."""

    line: int
    key: str
    body: dict[str, Any]


def read_jobs(file: Path, fields: dict[str, Any]) -> list[BatchJob]:
    """The jobs of a file, each with these input fields set. Raises `UsageError` that names the line."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"--jobs {file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--jobs {file}: is no text: {error}") from error
    jobs: list[BatchJob] = []
    seen: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            body = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"--jobs {file}: line {number} is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise UsageError(
                f'--jobs {file}: line {number} should be a job, as in {{"prompt": "a red apple"}}'
            )
        if not isinstance(body.get("input"), dict):
            body = {"input": body}
        body["input"] |= fields
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
        jobs.append(BatchJob(number, f"{digest}-{seen[digest]}", body))
        seen[digest] += 1
    if not jobs:
        raise UsageError(f"--jobs {file}: there is no job in it")
    return jobs


def run(client: Client, jobs: list[BatchJob], out: Path, log_file: Path, parallel: int) -> int:
    """Do all of them that are not done yet; returns the exit code.

    Raises `UsageError` when the log cannot be used, `EndpointError` when there is no use in going on.
    """
    from tqdm import tqdm

    with _log(log_file) as log:
        left = [job for job in jobs if log.entries.get(job.key, {}).get("status") != "COMPLETED"]
        done = len(jobs) - len(left)
        if done:
            print(f"{done} of {len(jobs)} are done already, says {log_file}", file=sys.stderr)
        if left:
            client.check_reachable()
        failed, hopeless, interrupted = 0, None, False
        runner = _Runner(client, out, log)
        pool = ThreadPoolExecutor(parallel)
        bar = tqdm(total=len(jobs), initial=done, unit="job", disable=None)
        try:
            futures = {pool.submit(runner.do, job): job for job in left}
            for future in as_completed(futures):
                job = futures[future]
                try:
                    files = future.result()
                except EndpointError as error:
                    failed += 1
                    bar.set_postfix(failed=failed)
                    bar.write(f"sdworker: line {job.line}: {error}", file=sys.stderr)
                    if error.status in _HOPELESS or runner.unreachable:
                        hopeless = error
                        break
                else:
                    done += 1
                    for path, what in files:
                        bar.write(f"{path}  {what}", file=sys.stdout)
                bar.update()
        except KeyboardInterrupt:
            interrupted = True
            print("sdworker: cancelling what is under way …", file=sys.stderr)
        finally:
            runner.stop()
            pool.shutdown(cancel_futures=True)
            bar.close()
    if interrupted or hopeless:
        how = "interrupted" if interrupted else "given up"
        print(f"sdworker: {how}; {done} of {len(jobs)} are done, the same command goes on", file=sys.stderr)
        return 130 if interrupted else 1
    if failed:
        print(f"sdworker: {failed} of {len(jobs)} failed; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


class _Log:
    """What is known of each job, by its key; written by one process and several threads."""

    def __init__(self, file: IO[bytes]) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self._file = file
        self._lock = threading.Lock()
        file.seek(0)
        ends_well = True
        for line in file:
            ends_well = line.endswith(b"\n")
            try:
                entry = json.loads(line)
                self.entries[entry["job"]] = entry
            except (ValueError, TypeError, KeyError):
                continue  # half a line, from a kill or a full disk
        if not ends_well:
            file.write(b"\n")

    def note(self, job: BatchJob, job_id: str, status: str, **more: Any) -> None:
        """Append what has become of a job."""
        entry = {"job": job.key, "line": job.line, "id": job_id, "status": status, **more}
        with self._lock:
            self.entries[job.key] = entry
            self._file.write(json.dumps(entry).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())


@contextmanager
def _log(path: Path) -> Iterator[_Log]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise UsageError(f"--log {path}: cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"--log {path}: another run is writing it") from None
        yield _Log(file)


class _Runner:
    """Does single jobs in the pool's threads, until it is stopped."""

    def __init__(self, client: Client, out: Path, log: _Log) -> None:
        self.unreachable = False
        self._client = client
        self._out = out
        self._log = log
        self._stopped = client.hurry

    def stop(self) -> None:
        """Have what is under way cancelled, and nothing new begun."""
        self._stopped.set()

    def do(self, job: BatchJob) -> list[tuple[Path, Any]]:
        """Have one job done, and its images saved; returns their paths and seeds. Raises `EndpointError`."""
        try:
            return self._do(job)
        except EndpointError as error:
            self.unreachable |= "cannot be reached" in str(error)
            raise
        except OSError as error:
            raise EndpointError(f"{self._out} takes no images: {error.strerror or error}") from error

    def _do(self, job: BatchJob) -> list[tuple[Path, Any]]:
        known = self._log.entries.get(job.key, {})
        status = None
        if known.get("status") == "IN_QUEUE":
            status = self._ask_again(known["id"])
        if status is None:
            if self._stopped.is_set():
                raise EndpointError("not begun")
            job_id = self._client.run(job.body)
            self._log.note(job, job_id, "IN_QUEUE")
            status = {"id": job_id, "status": "IN_QUEUE"}
        while status["status"] not in FINAL:
            if self._stopped.wait(_POLL_S):
                status = self._client.cancel(status["id"])
                if status["status"] != "COMPLETED":
                    self._log.note(job, status["id"], "CANCELLED")
                    raise EndpointError("cancelled")
            status = self._client.status(status["id"])
        if status["status"] != "COMPLETED":
            error = str(status.get("error", "no reason given"))
            self._log.note(job, status["id"], status["status"], error=error)
            raise EndpointError(f"{status['status']}: {error}")
        files = list(save_images(status["id"], status.get("output"), self._out))
        self._log.note(job, status["id"], "COMPLETED", files=[str(path) for path, _ in files])
        return files

    def _ask_again(self, job_id: str) -> dict[str, Any] | None:
        """A job of an earlier run; None where it is not known any more, or came to nothing."""
        try:
            status = self._client.status(job_id)
        except EndpointError as error:
            if error.status != 404:
                raise
            return None
        return None if status["status"] in ("FAILED", "CANCELLED", "TIMED_OUT") else status

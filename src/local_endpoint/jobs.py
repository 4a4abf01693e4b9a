"""What can happen to a job: a pure state machine.

    IN_QUEUE ──take──▶ IN_PROGRESS ──finish──▶ COMPLETED | FAILED
       ▲                   │  │
       ├──requeue──────────┘  └──▶ FAILED, after too many lost workers
       ├──retry─── FAILED | TIMED_OUT
    any live job ──cancel──▶ CANCELLED
    any live job ──expire──▶ TIMED_OUT

Every transition returns a new `Job` or raises `NotAllowed`; nothing here knows of SQL, HTTP or a clock.
Times are milliseconds since the epoch and come from the caller.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

__all__ = ["Job", "NotAllowed", "Status"]


class Status(StrEnum):
    """The six states that callers see."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


_LIVE = frozenset({Status.IN_QUEUE, Status.IN_PROGRESS})
_RETRYABLE = frozenset({Status.FAILED, Status.TIMED_OUT})


class NotAllowed(Exception):
    """The job's state does not allow this; the message says why, in words for the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job without its input and output, which can be megabytes and stay in the store."""

    id: str
    sync: bool
    low_priority: bool
    execution_timeout_ms: int
    ttl_ms: int
    created_ms: int
    queued_ms: int
    """When the wait began that `delayTime` reports: arrival, or the caller's retry."""
    status: Status = Status.IN_QUEUE
    worker: str | None = None
    """Who has the job, or had it last: a result is accepted from nobody else."""
    gpu: str | None = None
    taken_ms: int | None = None
    finished_ms: int | None = None
    lost_workers: int = 0

    @property
    def final(self) -> bool:
        """Whether nothing but a retry can change this job any more."""
        return self.status not in _LIVE

    def delay_ms(self, now_ms: int) -> int:
        """Time in the queue, so far if the job still waits."""
        waiting = self.status is Status.IN_QUEUE or self.taken_ms is None
        end_ms = (self.finished_ms or now_ms) if waiting else self.taken_ms
        return max(0, (end_ms or now_ms) - self.queued_ms)

    @property
    def execution_ms(self) -> int | None:
        """Time with the worker that ended it, or None if no worker had it or has ended it yet."""
        if self.finished_ms is None or self.taken_ms is None:
            return None
        return max(0, self.finished_ms - self.taken_ms)

    @property
    def outlived_ttl(self) -> bool:
        """Whether its time from arrival to end has ended it."""
        if self.status is not Status.TIMED_OUT or self.finished_ms is None:
            return False
        return self.finished_ms >= self.queued_ms + self.ttl_ms

    @property
    def deadline_ms(self) -> int:
        """When the clock alone ends this live job."""
        end_of_life = self.queued_ms + self.ttl_ms
        if self.status is Status.IN_PROGRESS and self.taken_ms is not None:
            return min(end_of_life, self.taken_ms + self.execution_timeout_ms)
        return end_of_life

    def take(self, worker: str, gpu: str | None, now_ms: int) -> "Job":
        """Hand the job to a worker."""
        if self.status is not Status.IN_QUEUE:
            raise NotAllowed(f"job is {self.status}, not IN_QUEUE")
        return replace(
            self, status=Status.IN_PROGRESS, worker=worker, gpu=gpu, taken_ms=now_ms, finished_ms=None
        )

    def held_by(self, worker: str) -> bool:
        """Whether this worker is at it."""
        return self.status is Status.IN_PROGRESS and self.worker == worker

    def finish(self, worker: str, status: Status, now_ms: int) -> "Job":
        """Take a worker's result.

        A job that went back to the queue because its worker seemed lost still accepts that worker's
        result while nobody else has taken it: the work is done, and no second result can follow.
        """
        if self.final:
            raise NotAllowed(f"job is already {self.status}")
        if self.worker != worker:
            raise NotAllowed("job is not this worker's")
        return replace(self, status=status, finished_ms=now_ms)

    def cancel(self, now_ms: int) -> "Job":
        """End a live job at the caller's wish; whoever works on it is told to stop."""
        if self.final:
            raise NotAllowed(f"job is already {self.status}")
        return replace(self, status=Status.CANCELLED, finished_ms=now_ms)

    def expire(self, now_ms: int) -> tuple["Job", str]:
        """End a live job whose deadline has passed; returns the reason too."""
        if self.final or now_ms < self.deadline_ms:
            raise NotAllowed("deadline has not passed")
        in_time = now_ms < self.queued_ms + self.ttl_ms
        reason = (
            f"executionTimeout of {self.execution_timeout_ms} ms passed"
            if in_time
            else f"ttl of {self.ttl_ms} ms passed"
        )
        return replace(self, status=Status.TIMED_OUT, finished_ms=now_ms), reason

    def give_back(self) -> "Job":
        """Undo a take whose worker hung up before the job could be sent."""
        if self.status is not Status.IN_PROGRESS:
            raise NotAllowed(f"job is {self.status}, not IN_PROGRESS")
        return replace(self, status=Status.IN_QUEUE, worker=None, gpu=None, taken_ms=None)

    def lose_worker(self, max_requeues: int, now_ms: int) -> tuple["Job", str | None]:
        """Back to the queue, or FAILED with a reason when it has lost too many workers."""
        if self.status is not Status.IN_PROGRESS:
            raise NotAllowed(f"job is {self.status}, not IN_PROGRESS")
        lost = self.lost_workers + 1
        if lost > max_requeues:
            reason = f"given up: {lost} workers in a row were lost with this job, the last one {self.worker}"
            return replace(self, status=Status.FAILED, finished_ms=now_ms, lost_workers=lost), reason
        return replace(self, status=Status.IN_QUEUE, lost_workers=lost), None

    def retry(self, now_ms: int) -> "Job":
        """Queue a failed job again, as new but for its id: its old result must be dropped."""
        if self.status not in _RETRYABLE:
            raise NotAllowed(f"only FAILED and TIMED_OUT jobs can be retried; this one is {self.status}")
        return replace(
            self,
            status=Status.IN_QUEUE,
            queued_ms=now_ms,
            worker=None,
            gpu=None,
            taken_ms=None,
            finished_ms=None,
            lost_workers=0,
        )

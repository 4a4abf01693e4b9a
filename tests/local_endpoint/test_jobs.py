"""The state machine alone: which transitions there are, and what each leaves behind."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_endpoint.jobs import Job, NotAllowed, Status

FINAL = [Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.TIMED_OUT]


def queued(**changes: object) -> Job:
    job = Job(
        id="j",
        sync=False,
        low_priority=False,
        execution_timeout_ms=1000,
        ttl_ms=5000,
        created_ms=100,
        queued_ms=100,
    )
    return replace(job, **changes)  # type: ignore[arg-type]


def running() -> Job:
    return queued().take("w", "24", 200)


class TestTaking:
    def test_a_queued_job_goes_to_its_worker(self) -> None:
        job = running()
        assert (job.status, job.worker, job.gpu, job.taken_ms) == (Status.IN_PROGRESS, "w", "24", 200)

    def test_a_job_is_with_one_worker_only(self) -> None:
        with pytest.raises(NotAllowed, match="IN_PROGRESS"):
            running().take("other", None, 300)

    def test_giving_back_leaves_no_trace(self) -> None:
        assert running().give_back() == queued()


class TestResults:
    def test_only_from_the_worker_that_has_the_job(self) -> None:
        with pytest.raises(NotAllowed, match="not this worker's"):
            running().finish("other", Status.COMPLETED, 300)

    @pytest.mark.parametrize("status", FINAL)
    def test_a_final_job_takes_none(self, status: Status) -> None:
        with pytest.raises(NotAllowed, match=f"already {status}"):
            replace(running(), status=status, finished_ms=300).finish("w", Status.COMPLETED, 400)

    def test_of_a_worker_that_seemed_lost_count_while_nobody_else_has_the_job(self) -> None:
        requeued, _ = running().lose_worker(3, 300)
        assert requeued.finish("w", Status.COMPLETED, 400).status is Status.COMPLETED
        with pytest.raises(NotAllowed):
            requeued.take("other", None, 350).finish("w", Status.COMPLETED, 400)

    def test_of_the_first_try_do_not_count_after_a_retry(self) -> None:
        again = running().finish("w", Status.FAILED, 300).retry(400)
        with pytest.raises(NotAllowed):
            again.finish("w", Status.COMPLETED, 500)


class TestTimes:
    def test_delay_is_the_wait_and_execution_the_work(self) -> None:
        done = running().finish("w", Status.COMPLETED, 1234)
        assert (done.delay_ms(99_999), done.execution_ms) == (100, 1034)

    def test_delay_grows_while_the_job_waits(self) -> None:
        assert queued().delay_ms(350) == 250

    def test_a_job_cancelled_in_the_queue_stops_waiting(self) -> None:
        assert queued().cancel(400).delay_ms(9999) == 300

    def test_execution_timeout_counts_from_the_take(self) -> None:
        assert running().deadline_ms == 1200
        after, reason = running().expire(1200)
        assert after.status is Status.TIMED_OUT
        assert reason == "executionTimeout of 1000 ms passed"

    def test_ttl_counts_from_the_arrival_and_cuts_the_work_short(self) -> None:
        assert queued().deadline_ms == 5100
        late = queued().take("w", None, 4900)
        assert late.deadline_ms == 5100
        assert late.expire(5100)[1] == "ttl of 5000 ms passed"

    def test_nothing_expires_early(self) -> None:
        with pytest.raises(NotAllowed):
            running().expire(1199)


class TestLostWorkers:
    def test_a_job_fails_when_it_has_lost_too_many(self) -> None:
        job = queued()
        for n in range(2):
            job, reason = job.take("w", None, 200 + n).lose_worker(2, 300 + n)
            assert (job.status, reason) == (Status.IN_QUEUE, None)
        job, reason = job.take("last", None, 400).lose_worker(2, 500)
        assert job.status is Status.FAILED
        assert reason is not None
        assert "3 workers" in reason
        assert "last" in reason

    def test_a_retry_begins_anew(self) -> None:
        failed, _ = running().lose_worker(0, 300)
        assert failed.retry(900) == queued(queued_ms=900)


@pytest.mark.parametrize("status", [*FINAL, Status.IN_QUEUE, Status.IN_PROGRESS])
def test_only_failed_and_timed_out_jobs_can_be_retried(status: Status) -> None:
    job = replace(running(), status=status, finished_ms=300)
    if status in (Status.FAILED, Status.TIMED_OUT):
        assert job.retry(500).status is Status.IN_QUEUE
    else:
        with pytest.raises(NotAllowed, match=status):
            job.retry(500)


def step(job: Job, name: str, worker: str, now_ms: int) -> Job:
    match name:
        case "take":
            return job.take(worker, None, now_ms)
        case "finish":
            return job.finish(worker, Status.COMPLETED, now_ms)
        case "fail":
            return job.finish(worker, Status.FAILED, now_ms)
        case "cancel":
            return job.cancel(now_ms)
        case "expire":
            return job.expire(now_ms)[0]
        case "lose":
            return job.lose_worker(2, now_ms)[0]
        case "give_back":
            return job.give_back()
        case _:
            return job.retry(now_ms)


STEPS = st.tuples(
    st.sampled_from(["take", "finish", "fail", "cancel", "expire", "lose", "give_back", "retry"]),
    st.sampled_from(["a", "b"]),
    st.integers(0, 3000),
)


@given(st.lists(STEPS, max_size=30))
def test_whatever_happens_the_times_make_sense_and_a_final_state_holds_until_a_retry(
    steps: list[tuple[str, str, int]],
) -> None:
    job, now_ms = queued(), 100
    for name, worker, pause_ms in steps:
        now_ms += pause_ms
        before = job
        try:
            job = step(before, name, worker, now_ms)
        except NotAllowed:
            continue
        assert not before.final or name == "retry"
        assert job.final == (job.finished_ms is not None)
        assert job.delay_ms(now_ms) >= 0
        assert job.execution_ms is None or job.execution_ms >= 0
        assert (job.status is Status.IN_PROGRESS) <= (job.worker is not None)

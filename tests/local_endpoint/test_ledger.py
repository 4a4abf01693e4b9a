"""The store against a plain model of it: whatever is done in whatever order, both tell the same."""

import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from local_endpoint.jobs import Job, NotAllowed, Status
from local_endpoint.ledger import Ledger, UnknownJob

RETENTION_MS, SYNC_RETENTION_MS = 1000, 200
WORKERS = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(0, 12)


def open_ledger(folder: Path) -> Ledger:
    ledger = Ledger.open(folder, retention_ms=RETENTION_MS, sync_retention_ms=SYNC_RETENTION_MS)
    ledger.db.execute("PRAGMA synchronous = OFF")  # nobody pulls the plug here, and every step commits
    return ledger


def new_job(n: int, now_ms: int, *, sync: bool = False, low: bool = False, ttl_ms: int = 10_000) -> Job:
    return Job(
        id=f"job-{n}",
        sync=sync,
        low_priority=low,
        execution_timeout_ms=500,
        ttl_ms=ttl_ms,
        created_ms=now_ms,
        queued_ms=now_ms,
    )


class Model:
    """What the ledger should say of one job."""

    def __init__(self, order: tuple[bool, int]) -> None:
        self.order = order
        self.status = Status.IN_QUEUE
        self.worker: str | None = None
        self.output: bytes | None = None
        self.results = 0


class LedgerMachine(RuleBasedStateMachine):
    """Callers, workers and the clock, all at once."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = open_ledger(Path(self.folder.name))
        self.now_ms = 1_000_000
        self.models: dict[str, Model] = {}
        self.submitted = 0

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()

    def pick(self, n: int) -> str:
        return f"job-{n % max(1, self.submitted)}"

    @rule(sync=st.booleans(), low=st.booleans())
    def submit(self, sync: bool, low: bool) -> None:
        job = new_job(self.submitted, self.now_ms, sync=sync, low=low)
        self.ledger.submit(job, b'{"p":1}', b"{}", None)
        self.models[job.id] = Model((low, self.submitted))
        self.submitted += 1

    @rule(worker=WORKERS, most=st.integers(1, 4), sharers=st.integers(0, 2))
    def take(self, worker: str, most: int, sharers: int) -> None:
        waiting = sorted(
            (model.order, job_id) for job_id, model in self.models.items() if model.status is Status.IN_QUEUE
        )
        taken = [item.job.id for item in self.ledger.take(worker, None, most, sharers, self.now_ms)]
        share = min(most, -(-len(waiting) // (sharers + 1)))
        assert taken == [job_id for _, job_id in waiting[:share]]
        for job_id in taken:
            self.models[job_id].status, self.models[job_id].worker = Status.IN_PROGRESS, worker

    @rule(n=NUMBERS, worker=WORKERS, good=st.booleans())
    def finish(self, n: int, worker: str, good: bool) -> None:
        job_id, model = self.pick(n), self.models.get(self.pick(n))
        status, output = (Status.COMPLETED, f"{self.now_ms}".encode()) if good else (Status.FAILED, None)
        error = None if good else "no"
        try:
            self.ledger.finish(job_id, worker, status, output, error, self.now_ms)
        except UnknownJob:
            assert model is None
        except NotAllowed:
            assert model is not None
            assert model.worker != worker or model.status not in (Status.IN_QUEUE, Status.IN_PROGRESS)
        else:
            assert model is not None
            assert model.worker == worker
            model.status, model.output, model.results = status, output, model.results + 1
            assert model.results == 1

    @rule(n=NUMBERS, worker=WORKERS)
    def progress(self, n: int, worker: str) -> None:
        model = self.models.get(self.pick(n))
        try:
            self.ledger.progress(self.pick(n), worker, b'{"step":1}', self.now_ms)
        except (UnknownJob, NotAllowed):
            assert model is None or model.status is not Status.IN_PROGRESS or model.worker != worker
        else:
            assert model is not None
            model.output = b'{"step":1}'

    @rule(n=NUMBERS)
    def cancel(self, n: int) -> None:
        model = self.models.get(self.pick(n))
        try:
            self.ledger.cancel(self.pick(n), self.now_ms)
        except (UnknownJob, NotAllowed):
            assert model is None or model.status not in (Status.IN_QUEUE, Status.IN_PROGRESS)
        else:
            assert model is not None
            model.status, model.output = Status.CANCELLED, None

    @rule(n=NUMBERS)
    def retry(self, n: int) -> None:
        model = self.models.get(self.pick(n))
        try:
            self.ledger.retry(self.pick(n), self.now_ms)
        except (UnknownJob, NotAllowed):
            assert model is None or model.status not in (Status.FAILED, Status.TIMED_OUT)
        else:
            assert model is not None
            model.status, model.worker, model.output, model.results = Status.IN_QUEUE, None, None, 0

    @rule(worker=WORKERS)
    def lose(self, worker: str) -> None:
        held = {job.id for job in self.ledger.held(worker)}
        for job in self.ledger.lose_worker(held, worker, 1, self.now_ms):
            self.models[job.id].status, self.models[job.id].output = job.status, None
            held.discard(job.id)
        assert not held

    @rule(pause_ms=st.sampled_from([1, 100, 600, 2000]))
    def time_passes(self, pause_ms: int) -> None:
        self.now_ms += pause_ms
        for job in self.ledger.end_overdue(self.now_ms):
            self.models[job.id].status, self.models[job.id].output = Status.TIMED_OUT, None
        self.ledger.delete_expired(self.now_ms)
        for job_id in list(self.models):
            try:
                self.ledger.get(job_id, self.now_ms)
            except UnknownJob:
                assert self.models[job_id].status not in (Status.IN_QUEUE, Status.IN_PROGRESS)
                del self.models[job_id]

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = open_ledger(Path(self.folder.name))

    @invariant()
    def tells_the_same(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for job_id, model in self.models.items():
            view = self.ledger.view(job_id, self.now_ms, inputs_up_to=100, outputs_up_to=100)
            assert (view.job.status, view.output) == (model.status, model.output)
            assert view.input == b'{"p":1}'
        counts = self.ledger.counts()
        states = [model.status for model in self.models.values()]
        assert counts["inQueue"] == states.count(Status.IN_QUEUE)
        assert counts["inProgress"] == states.count(Status.IN_PROGRESS)


LedgerMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestLedger = LedgerMachine.TestCase


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path / "store")


class TestExpiry:
    def test_expired_data_is_gone_at_once_for_callers(self, ledger: Ledger) -> None:
        ledger.submit(new_job(0, 0, sync=True), b"{}", b"{}", None)
        ledger.cancel("job-0", 100)
        assert ledger.get("job-0", 100 + SYNC_RETENTION_MS - 1)
        with pytest.raises(UnknownJob):
            ledger.get("job-0", 100 + SYNC_RETENTION_MS)

    def test_expired_data_is_gone_from_the_disk_and_its_pages_given_back(
        self, ledger: Ledger, tmp_path: Path
    ) -> None:
        secret = b"a-prompt-nobody-shall-find" * 4000
        ledger.submit(new_job(0, 0), b'"' + secret + b'"', b"{}", None)
        ledger.take("a", None, 1, 0, 10)
        ledger.finish("job-0", "a", Status.COMPLETED, b'"' + secret + b'"', None, 20)
        assert any(secret[:26] in path.read_bytes() for path in (tmp_path / "store").iterdir())
        assert ledger.delete_expired(20 + RETENTION_MS) == 1
        ledger.vacuum()
        for path in (tmp_path / "store").iterdir():
            assert secret[:26] not in path.read_bytes()
            assert path.stat().st_size < len(secret)

    def test_a_job_waits_for_its_webhook(self, ledger: Ledger) -> None:
        ledger.submit(new_job(0, 0), b"{}", b"{}", "http://x/")
        ledger.cancel("job-0", 0)
        assert ledger.delete_expired(RETENTION_MS) == 0
        (webhook,) = ledger.due_webhooks(0, 10)
        ledger.settle_webhook(webhook.seq, 1, None)
        assert ledger.delete_expired(RETENTION_MS) == 1


class TestStream:
    def test_each_chunk_is_given_out_once_and_in_order(self, ledger: Ledger) -> None:
        ledger.submit(new_job(0, 0), b"{}", b"{}", None)
        ledger.take("a", None, 1, 0, 0)
        for n in range(5):
            ledger.add_chunk("job-0", "a", b"%d" % n, 0)
        first = ledger.pop_chunks("job-0", 0, max_bytes=3)
        rest = ledger.pop_chunks("job-0", 0, max_bytes=100)
        assert (first.outputs, first.more) == ([b"0", b"1", b"2"], True)
        assert (rest.outputs, rest.more) == ([b"3", b"4"], False)
        assert ledger.pop_chunks("job-0", 0, max_bytes=100).outputs == []

    def test_nobody_else_adds_to_it(self, ledger: Ledger) -> None:
        ledger.submit(new_job(0, 0), b"{}", b"{}", None)
        ledger.take("a", None, 1, 0, 0)
        with pytest.raises(NotAllowed):
            ledger.add_chunk("job-0", "b", b"0", 0)


def test_files_are_readable_by_their_owner_only(tmp_path: Path, ledger: Ledger) -> None:
    ledger.submit(new_job(0, 0), b"{}", b"{}", None)
    folder = tmp_path / "store"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_low_priority_jobs_come_last(ledger: Ledger) -> None:
    ledger.submit(new_job(0, 0, low=True), b"{}", b"{}", None)
    ledger.submit(new_job(1, 0), b"{}", b"{}", None)
    assert [item.job.id for item in ledger.take("a", None, 2, 0, 0)] == ["job-1", "job-0"]


def test_time_continues_from_the_newest_entry(ledger: Ledger) -> None:
    assert ledger.latest_ms() == 0
    ledger.submit(new_job(0, 5), b"{}", b"{}", None)
    ledger.take("a", None, 1, 0, 77)
    assert ledger.latest_ms() == 77

"""What workers are promised, and what becomes of everything that they can do wrong."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.local_endpoint.conftest import MakeEndpoint
from tests.local_endpoint.harness import KEY, Endpoint, eventually

MB = 1024 * 1024


class TestTaking:
    def test_a_waiting_worker_gets_a_new_job_at_once(self, endpoint: Endpoint) -> None:
        delays_ms = []
        for _ in range(5):
            with ThreadPoolExecutor() as pool:
                taken = pool.submit(endpoint.take)
                time.sleep(0.1)
                job_id = endpoint.run()
                assert taken.result()["id"] == job_id
            delays_ms.append(endpoint.status(job_id)["delayTime"])
            endpoint.done(job_id)
        assert min(delays_ms) < 50

    def test_the_first_come_are_first_served_and_jobs_spread(self, endpoint: Endpoint) -> None:
        with ThreadPoolExecutor() as pool:
            taken = []
            for n in range(3):
                taken.append(pool.submit(endpoint.take, f"w{n}"))
                time.sleep(0.1)
            ids = [endpoint.run() for _ in range(3)]
            assert [one.result()["id"] for one in taken] == ids

    def test_a_batch_is_a_list_of_no_more_than_asked_for(self, endpoint: Endpoint) -> None:
        ids = [endpoint.run() for _ in range(5)]
        answer = endpoint.worker_http.get(f"{endpoint.url}/job-take-batch/w?batch_size=3")
        assert [job["id"] for job in answer.json()] == ids[:3]

    @pytest.mark.parametrize("size", ["0", "-1", "x", "1001", "9" * 5000])
    def test_a_batch_size_that_makes_no_sense_is_400(self, endpoint: Endpoint, size: str) -> None:
        answer = endpoint.worker_http.get(f"{endpoint.url}/job-take-batch/w?batch_size={size}")
        assert answer.status_code == 400

    def test_a_worker_that_hung_up_while_waiting_gets_no_job(self, endpoint: Endpoint) -> None:
        with pytest.raises(httpx.ReadTimeout):
            endpoint.worker_http.get(f"{endpoint.url}/job-take/gone", timeout=0.3)
        job_id = endpoint.run()
        assert endpoint.status(job_id)["status"] == "IN_QUEUE"
        assert endpoint.take("other")["id"] == job_id

    def test_callers_keys_open_nothing_here(self, endpoint: Endpoint) -> None:
        headers: list[dict[str, str]] = [{}, {"Authorization": KEY}, {"Authorization": f"Bearer {KEY}"}]
        start_s = time.monotonic()
        with ThreadPoolExecutor() as pool:
            url = f"{endpoint.url}/job-take/w"
            answers = list(pool.map(lambda header: httpx.get(url, headers=header), headers))
        assert [answer.status_code for answer in answers] == [401, 401, 401]
        assert time.monotonic() - start_s > 0.9, "the SDK would ask again at once"

    def test_and_workers_keys_open_nothing_there(self, endpoint: Endpoint) -> None:
        key = endpoint.worker_http.headers["authorization"]
        answer = httpx.get(f"{endpoint.url}/health", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 401


class TestResults:
    """Each way a result can be late, wrong or doubled has one outcome."""

    def test_a_repeated_result_is_ignored(self, shared: Endpoint) -> None:
        job_id = shared.run()
        shared.take()
        assert shared.done(job_id, output=1).json() == {}
        assert shared.done(job_id, output=2).json() == {"ignored": "job is already COMPLETED"}
        assert shared.status(job_id)["output"] == 1

    def test_a_result_of_a_cancelled_job_is_ignored(self, shared: Endpoint) -> None:
        job_id = shared.run()
        shared.take()
        shared.http.post(f"{shared.url}/cancel/{job_id}")
        assert shared.done(job_id, output=1).json() == {"ignored": "job is already CANCELLED"}
        status = shared.status(job_id)
        assert (status["status"], "output" in status) == ("CANCELLED", False)

    def test_a_result_for_another_workers_job_is_ignored(self, shared: Endpoint) -> None:
        job_id = shared.run()
        shared.take("holder")
        assert shared.done(job_id, "other", output=1).json() == {"ignored": "job is not this worker's"}
        assert shared.status(job_id)["status"] == "IN_PROGRESS"
        shared.done(job_id, "holder")

    def test_a_result_for_a_job_that_was_never_handed_out_is_ignored(self, shared: Endpoint) -> None:
        job_id = shared.run()
        assert shared.done(job_id, output=1).json() == {"ignored": "job is not this worker's"}
        shared.http.post(f"{shared.url}/cancel/{job_id}")

    def test_a_result_for_an_unknown_job_is_404(self, shared: Endpoint) -> None:
        assert shared.done("nothing", output=1).status_code == 404

    def test_a_progress_after_the_result_is_ignored(self, shared: Endpoint) -> None:
        job_id = shared.run()
        shared.take()
        shared.done(job_id, output="result")
        answer = shared.done(job_id, status="IN_PROGRESS", output={"step": 3})
        assert "ignored" in answer.json()
        status = shared.status(job_id)
        assert (status["status"], status["output"]) == ("COMPLETED", "result")

    def test_progress_is_the_output_until_the_result_comes(self, shared: Endpoint) -> None:
        job_id = shared.run()
        shared.take()
        shared.done(job_id, status="IN_PROGRESS", output={"step": 3})
        assert shared.status(job_id)["output"] == {"step": 3}
        shared.done(job_id, error="no")
        assert "output" not in shared.status(job_id)

    @pytest.mark.parametrize("error", [{"code": 3}, ["a"], 3])
    def test_an_error_that_is_no_string_still_fails_the_job(self, shared: Endpoint, error: object) -> None:
        job_id = shared.run()
        shared.take()
        shared.done(job_id, error=error)
        status = shared.status(job_id)
        assert status["status"] == "FAILED"
        assert isinstance(status["error"], str)

    def test_a_result_that_is_too_large_fails_its_job_saying_so(self, shared: Endpoint) -> None:
        job_id = shared.run()
        shared.take()
        assert shared.done(job_id, output="x" * (10 * MB)).status_code == 413
        status = shared.status(job_id)
        assert (status["status"], "10 MB" in status["error"]) == ("FAILED", True)

    @pytest.mark.parametrize(("size_mb", "status"), [(19, 200), (20, 413)])
    def test_a_result_of_runsync_may_be_twice_as_large(
        self, size_mb: int, status: int, shared: Endpoint
    ) -> None:
        waiting = shared.http.post(f"{shared.url}/runsync?wait=1000", json={"input": {}})
        job_id = waiting.json()["id"]
        shared.take()
        assert shared.done(job_id, output="x" * (size_mb * MB)).status_code == status

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b'{"output": NaN}', b'{"output": "\\ud800"}', b"\xff"]
    )
    def test_a_result_that_is_no_json_object_fails_its_job_saying_so(
        self, shared: Endpoint, body: bytes
    ) -> None:
        job_id = shared.run()
        shared.take()
        url = f"{shared.url}/job-done/w/{job_id}?gpu=24&isStream=false"
        assert shared.worker_http.post(url, content=body).status_code == 400
        assert "the worker's result was refused" in shared.status(job_id)["error"]


class TestStreams:
    def test_each_chunk_is_given_out_once(self, shared: Endpoint) -> None:
        job_id = shared.run()
        shared.take()
        stream = f"{shared.url}/stream/{job_id}"
        assert shared.http.get(stream).json() == {"status": "IN_PROGRESS", "stream": []}
        for letter in "ab":
            shared.worker_http.post(
                f"{shared.url}/job-stream/w/{job_id}?isStream=false", json={"output": letter}
            )
        outputs = [{"output": "a"}, {"output": "b"}]
        assert shared.http.get(stream).json() == {"status": "IN_PROGRESS", "stream": outputs}
        shared.done(job_id, output=[])
        assert shared.http.get(stream).json() == {"status": "COMPLETED", "stream": []}

    def test_a_job_is_not_said_to_be_over_while_chunks_are_left(self, shared: Endpoint) -> None:
        job_id = shared.run()
        shared.take()
        chunk = "x" * (MB - 100)
        for _ in range(6):
            shared.worker_http.post(f"{shared.url}/job-stream/w/{job_id}", json={"output": chunk})
        shared.done(job_id, output=[])
        answers = [shared.http.get(f"{shared.url}/stream/{job_id}").json() for _ in range(2)]
        assert [len(answer["stream"]) for answer in answers] == [4, 2]
        assert [answer["status"] for answer in answers] == ["IN_PROGRESS", "COMPLETED"]

    def test_a_chunk_over_the_limit_is_413(self, shared: Endpoint) -> None:
        job_id = shared.run()
        shared.take()
        answer = shared.worker_http.post(f"{shared.url}/job-stream/w/{job_id}", json={"output": "x" * MB})
        assert answer.status_code == 413
        shared.done(job_id)


class TestLostWorkers:
    def test_a_silent_worker_is_dead_and_its_job_goes_to_another(self, make_endpoint: MakeEndpoint) -> None:
        endpoint = make_endpoint("--worker-timeout", "1")
        job_id = endpoint.run()
        endpoint.take("dies")
        assert endpoint.take("lives")["id"] == job_id
        assert endpoint.health()["jobs"]["retried"] == 1
        assert endpoint.done(job_id, "dies", output="late").json() == {"ignored": "job is not this worker's"}
        endpoint.done(job_id, "lives", output="right")
        assert endpoint.status(job_id)["output"] == "right"

    def test_a_result_that_comes_before_anyone_else_has_the_job_counts(
        self, make_endpoint: MakeEndpoint
    ) -> None:
        endpoint = make_endpoint("--worker-timeout", "0.5")
        job_id = endpoint.run()
        endpoint.take("slow")
        eventually(lambda: endpoint.status(job_id)["status"] == "IN_QUEUE")
        endpoint.done(job_id, "slow", output="late but right")
        assert endpoint.status(job_id)["output"] == "late but right"

    def test_a_job_that_loses_too_many_workers_fails_saying_so(self, make_endpoint: MakeEndpoint) -> None:
        endpoint = make_endpoint("--worker-timeout", "0.5", "--max-requeues", "1")
        job_id = endpoint.run()
        for worker in ("first", "second"):
            assert endpoint.take(worker)["id"] == job_id
        status = endpoint.final(job_id)
        assert (status["status"], "2 workers in a row were lost" in status["error"]) == ("FAILED", True)
        assert endpoint.health()["jobs"] | {"completed": 0} == {
            "completed": 0,
            "failed": 1,
            "inProgress": 0,
            "inQueue": 0,
            "retried": 1,
        }

    def test_pings_keep_a_busy_worker_alive(self, make_endpoint: MakeEndpoint) -> None:
        endpoint = make_endpoint("--worker-timeout", "1")
        job_id = endpoint.run()
        endpoint.take()
        for _ in range(8):
            endpoint.ping("w", job_id)
            time.sleep(0.25)
        assert endpoint.status(job_id)["status"] == "IN_PROGRESS"

    def test_but_not_one_whose_open_requests_broke_off(self, make_endpoint: MakeEndpoint) -> None:
        """The SDK's ping process goes on when the worker is killed."""
        endpoint = make_endpoint("--worker-timeout", "1")
        job_id = endpoint.run()
        endpoint.take()
        with pytest.raises(httpx.ReadTimeout):
            endpoint.worker_http.get(f"{endpoint.url}/job-stop/w", timeout=0.2)

        def requeued() -> bool:
            endpoint.ping("w", job_id)
            return endpoint.status(job_id)["status"] == "IN_QUEUE"

        eventually(requeued, pause_s=0.2)
        assert endpoint.health()["workers"]["running"] == 0

    def test_a_job_missing_from_its_workers_pings_is_queued_again(self, make_endpoint: MakeEndpoint) -> None:
        """The answer to job-take, or the result, got lost on the way; the worker is fine."""
        endpoint = make_endpoint("--ping-interval", "1")
        lost, kept = endpoint.run(), endpoint.run()
        endpoint.take()
        endpoint.take()

        def requeued() -> bool:
            endpoint.ping("w", kept)
            return endpoint.status(lost)["status"] == "IN_QUEUE"

        eventually(requeued, pause_s=0.3)
        assert endpoint.status(kept)["status"] == "IN_PROGRESS"

    def test_a_ping_with_a_job_that_is_not_the_workers_has_it_stopped(self, endpoint: Endpoint) -> None:
        job_id = endpoint.run()
        endpoint.take()
        endpoint.http.post(f"{endpoint.url}/cancel/{job_id}")
        stops = f"{endpoint.url}/job-stop/w"
        assert endpoint.worker_http.get(stops).json() == {"jobsToStop": [job_id]}
        endpoint.ping("w", job_id)
        assert endpoint.worker_http.get(stops).json() == {"jobsToStop": [job_id]}

    def test_a_worker_that_asks_to_be_replaced_gets_no_more_jobs(self, endpoint: Endpoint) -> None:
        job_id = endpoint.run()
        endpoint.take("tired")
        endpoint.done(job_id, "tired", error="out of memory", stopPod=True)
        assert endpoint.status(job_id)["status"] == "FAILED"
        other = endpoint.run()
        assert endpoint.worker_http.get(f"{endpoint.url}/job-take/tired").status_code == 204
        assert endpoint.take("fresh")["id"] == other

"""What callers are promised: bodies, states, times, limits and errors."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.local_endpoint.conftest import MakeEndpoint
from tests.local_endpoint.harness import ENDPOINT_ID, KEY, Endpoint, eventually

UNKNOWN = "c80ffee4-f315-4e25-a146-0f3d98cf024b"
MB = 1024 * 1024


class TestStates:
    """One job's way, seen from outside, as the documents show it."""

    def test_run_answers_at_once_with_id_and_state(self, shared: Endpoint) -> None:
        answer = shared.http.post(f"{shared.url}/run", json={"input": {"prompt": "dog"}}).json()
        assert set(answer) == {"id", "status"}
        assert answer["status"] == "IN_QUEUE"
        assert shared.status(answer["id"])["status"] == "IN_QUEUE"
        shared.http.post(f"{shared.url}/cancel/{answer['id']}")

    def test_while_in_progress_input_delay_and_worker_are_shown(self, shared: Endpoint) -> None:
        job_id = shared.run({"prompt": "dog"})
        time.sleep(0.05)
        shared.take("worker-7")
        status = shared.status(job_id)
        assert status["delayTime"] >= 50
        assert status | {"delayTime": 0} == {
            "delayTime": 0,
            "id": job_id,
            "input": {"prompt": "dog"},
            "status": "IN_PROGRESS",
            "workerId": "worker-7",
        }
        shared.done(job_id, "worker-7")

    def test_when_done_times_gpu_and_output_are_shown(self, shared: Endpoint) -> None:
        job_id = shared.run({"prompt": "dog"})
        shared.take("w")
        time.sleep(0.05)
        shared.done(job_id, "w", output=[{"image": "abc", "seed": 1}])
        status = shared.status(job_id)
        assert status["executionTime"] >= 50
        assert status["output"] == [{"image": "abc", "seed": 1}]
        assert (status["status"], status["gpu"], status["workerId"]) == ("COMPLETED", "24", "w")

    def test_an_error_fails_the_job_and_is_told_as_it_is(self, shared: Endpoint) -> None:
        job_id = shared.run()
        shared.take()
        shared.done(job_id, error="steps: 900 given, 1 to 500 allowed")
        status = shared.status(job_id)
        assert (status["status"], status["error"]) == ("FAILED", "steps: 900 given, 1 to 500 allowed")

    def test_a_long_input_is_not_sent_back(self, shared: Endpoint) -> None:
        job_id = shared.run({"image": "x" * 100_000})
        assert shared.take()["input"]["image"] == "x" * 100_000
        assert "input" not in shared.status(job_id)
        shared.done(job_id)

    def test_a_large_output_comes_whole(self, shared: Endpoint) -> None:
        job_id, image = shared.run(), "x" * (9 * MB)
        shared.take()
        assert shared.done(job_id, output=[{"image": image}]).status_code == 200
        assert shared.status(job_id)["output"] == [{"image": image}]

    @pytest.mark.parametrize(
        "output", [None, True, 0, "text", [], {"a": "\u2028 ü 🐶"}, 12345678901234567890]
    )
    def test_any_json_is_an_output(self, shared: Endpoint, output: Any) -> None:
        job_id = shared.run()
        shared.take()
        shared.done(job_id, output=output)
        assert shared.status(job_id)["output"] == output

    def test_the_v1_url_of_the_documents_works_too(self, shared: Endpoint) -> None:
        job_id = shared.run()
        assert shared.http.get(f"{shared.base}/v1/{ENDPOINT_ID}/status/{job_id}").json()["id"] == job_id
        shared.http.post(f"{shared.url}/cancel/{job_id}")


class TestWaiting:
    def test_runsync_waits_for_the_end(self, shared: Endpoint) -> None:
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(shared.http.post, f"{shared.url}/runsync", json={"input": {}})
            job = shared.take()
            assert job["id"].startswith("sync-")
            shared.done(job["id"], output="done")
            assert answer.result().json()["output"] == "done"

    def test_runsync_answers_with_the_state_so_far_after_its_wait(self, shared: Endpoint) -> None:
        start_s = time.monotonic()
        answer = shared.http.post(f"{shared.url}/runsync?wait=1", json={"input": {}}).json()
        assert 0.9 < time.monotonic() - start_s < 60
        assert answer["status"] == "IN_QUEUE"
        shared.http.post(f"{shared.url}/cancel/{answer['id']}")

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_status_sync_waits_too(self, shared: Endpoint, method: str) -> None:
        job_id = shared.run()
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(shared.http.request, method, f"{shared.url}/status-sync/{job_id}?wait=20000")
            shared.take()
            shared.done(job_id, output=1)
            assert answer.result().json()["status"] == "COMPLETED"

    @pytest.mark.parametrize("wait", ["x", "-1", "1.5", "", "١"])
    def test_a_wait_that_is_no_number_is_refused(self, shared: Endpoint, wait: str) -> None:
        answer = shared.http.post(f"{shared.url}/runsync", params={"wait": wait}, json={"input": {}})
        assert answer.status_code == 400
        assert "wait" in answer.json()["error"]


class TestCancel:
    def test_a_queued_job_is_never_handed_out(self, endpoint: Endpoint) -> None:
        cancelled, other = endpoint.run(), endpoint.run()
        assert endpoint.http.post(f"{endpoint.url}/cancel/{cancelled}").json()["status"] == "CANCELLED"
        assert endpoint.take()["id"] == other

    def test_the_worker_of_a_running_job_is_told_to_stop_it(self, endpoint: Endpoint) -> None:
        job_id = endpoint.run()
        endpoint.take()
        with ThreadPoolExecutor() as pool:
            stops = pool.submit(endpoint.worker_http.get, f"{endpoint.url}/job-stop/w?gpu=24")
            time.sleep(0.2)
            endpoint.http.post(f"{endpoint.url}/cancel/{job_id}")
            assert stops.result().json() == {"jobsToStop": [job_id]}

    def test_a_job_that_is_over_stays_as_it_is(self, endpoint: Endpoint) -> None:
        job_id = endpoint.run()
        endpoint.take()
        endpoint.done(job_id, output=1)
        assert endpoint.http.post(f"{endpoint.url}/cancel/{job_id}").json()["status"] == "COMPLETED"
        assert endpoint.status(job_id)["output"] == 1

    def test_purging_cancels_what_waits_and_nothing_else(self, endpoint: Endpoint) -> None:
        running = endpoint.run()
        endpoint.take()
        waiting = [endpoint.run() for _ in range(3)]
        answer = endpoint.http.post(f"{endpoint.url}/purge-queue").json()
        assert answer == {"removed": 3, "status": "completed"}
        assert {endpoint.status(job_id)["status"] for job_id in waiting} == {"CANCELLED"}
        assert endpoint.status(running)["status"] == "IN_PROGRESS"


class TestRetry:
    def test_a_failed_job_runs_again_under_its_id(self, endpoint: Endpoint) -> None:
        job_id = endpoint.run({"prompt": "dog"})
        endpoint.take()
        endpoint.done(job_id, error="no")
        answer = endpoint.http.post(f"{endpoint.url}/retry/{job_id}").json()
        assert answer == {"id": job_id, "status": "IN_QUEUE"}
        assert "error" not in endpoint.status(job_id)
        assert endpoint.take()["input"] == {"prompt": "dog"}
        endpoint.done(job_id, output=1)
        assert endpoint.status(job_id)["status"] == "COMPLETED"

    def test_no_other_job_can_be_retried(self, endpoint: Endpoint) -> None:
        answer = endpoint.http.post(f"{endpoint.url}/retry/{endpoint.run()}")
        assert answer.status_code == 400
        assert "only FAILED and TIMED_OUT" in answer.json()["error"]


class TestPolicy:
    def test_a_job_past_its_execution_timeout_is_timed_out_and_its_worker_told(
        self, make_endpoint: MakeEndpoint
    ) -> None:
        endpoint = make_endpoint("--no-strict")
        job_id = endpoint.run(policy={"executionTimeout": 300})
        endpoint.take()
        status = endpoint.final(job_id)
        assert (status["status"], status["error"]) == ("TIMED_OUT", "executionTimeout of 300 ms passed")
        stops = endpoint.worker_http.get(f"{endpoint.url}/job-stop/w").json()
        assert stops == {"jobsToStop": [job_id]}

    def test_a_job_that_waits_past_its_ttl_is_timed_out_where_it_is_not_strict(
        self, make_endpoint: MakeEndpoint
    ) -> None:
        endpoint = make_endpoint("--no-strict")
        job_id = endpoint.run(policy={"ttl": 300})
        assert endpoint.final(job_id)["error"] == "ttl of 300 ms passed"

    def test_a_job_past_its_ttl_is_gone_as_on_the_platform(self, make_endpoint: MakeEndpoint) -> None:
        endpoint = make_endpoint("--ttl", "0.5")
        job_id = endpoint.run()
        eventually(lambda: endpoint.http.get(f"{endpoint.url}/status/{job_id}").status_code == 404)
        assert endpoint.health()["jobs"]["inQueue"] == 0

    @pytest.mark.parametrize(("name", "least_ms"), [("executionTimeout", 5000), ("ttl", 10_000)])
    def test_times_that_the_platform_refuses_are_refused(
        self, name: str, least_ms: int, endpoint: Endpoint
    ) -> None:
        def run(value: int | None) -> Any:
            return endpoint.http.post(f"{endpoint.url}/run", json={"input": {}, "policy": {name: value}})

        assert run(least_ms).status_code == 200
        assert run(None).status_code == 200
        refused = run(least_ms - 1)
        assert refused.status_code == 400
        assert f"policy.{name} must be between {least_ms} and" in refused.json()["error"]

    def test_low_priority_jobs_come_last(self, endpoint: Endpoint) -> None:
        low = endpoint.run(policy={"lowPriority": True})
        other = endpoint.run()
        assert [endpoint.take()["id"], endpoint.take()["id"]] == [other, low]

    def test_the_worker_gets_what_came_beside_the_input(self, endpoint: Endpoint) -> None:
        s3 = {"accessId": "i", "accessSecret": "s", "bucketName": "b", "endpointUrl": "http://s3"}
        beside = {"webhook": "http://127.0.0.1:9/", "policy": {"ttl": 15000}, "s3Config": s3}
        job_id = endpoint.run({"prompt": "dog"}, **beside)
        assert endpoint.take() == {"id": job_id, "input": {"prompt": "dog"}, **beside}
        assert "accessSecret" not in json.dumps(endpoint.status(job_id))


class TestRetention:
    def test_results_expire_sooner_for_runsync(self, make_endpoint: MakeEndpoint) -> None:
        endpoint = make_endpoint("--retention", "30", "--sync-retention", "0.5")
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(endpoint.http.post, f"{endpoint.url}/runsync", json={"input": {}})
            job = endpoint.take()
            endpoint.done(job["id"], output="done")
            assert answer.result().json()["status"] == "COMPLETED"
        other = endpoint.run()
        endpoint.take()
        endpoint.done(other, output=1)
        url = f"{endpoint.url}/status/{job['id']}"
        assert endpoint.http.get(url).status_code == 200
        time.sleep(0.6)
        assert endpoint.http.get(url).status_code == 404
        assert endpoint.status(other)["status"] == "COMPLETED"

    def test_expired_prompts_leave_the_disk(self, make_endpoint: MakeEndpoint) -> None:
        endpoint = make_endpoint("--retention", "0.2")
        secret = "a-prompt-nobody-shall-find"
        job_id = endpoint.run({"prompt": secret})
        endpoint.http.post(f"{endpoint.url}/cancel/{job_id}")

        def on_disk() -> bool:
            return any(secret.encode() in path.read_bytes() for path in endpoint.folder.iterdir())

        assert on_disk()
        eventually(lambda: not on_disk(), timeout_s=180)


class TestErrors:
    """Every error is JSON with one readable sentence."""

    @pytest.mark.parametrize("given", [None, "wrong", "Bearer wrong", f"Token {KEY}"])
    @pytest.mark.parametrize("route", ["run", "status/x", "cancel/x", "health", "stream/x", "requests"])
    def test_no_or_a_wrong_key_is_401(self, shared: Endpoint, given: str | None, route: str) -> None:
        header = {} if given is None else {"Authorization": given}
        method = "POST" if route in ("run", "cancel/x") else "GET"
        answer = httpx.request(method, f"{shared.url}/{route}", headers=header)
        assert answer.status_code == 401
        assert "API key" in answer.json()["error"]

    @pytest.mark.parametrize("given", [KEY, f"Bearer {KEY}", f"bearer {KEY}"])
    def test_a_key_is_taken_with_bearer_and_without_as_on_the_platform(
        self, shared: Endpoint, given: str
    ) -> None:
        answer = httpx.get(f"{shared.url}/health", headers={"Authorization": given})
        assert answer.status_code == 200

    @pytest.mark.parametrize("route", ["status", "status-sync", "stream", "cancel", "retry"])
    def test_an_unknown_job_is_404(self, shared: Endpoint, route: str) -> None:
        method = "POST" if route in ("cancel", "retry") else "GET"
        answer = shared.http.request(method, f"{shared.url}/{route}/{UNKNOWN}")
        assert (answer.status_code, answer.json()) == (404, {"error": "no such job, or its data has expired"})

    def test_an_unknown_endpoint_is_404(self, shared: Endpoint) -> None:
        assert shared.http.get(f"{shared.base}/v2/other/health").status_code == 404

    def test_an_unknown_route_is_404_and_a_wrong_method_405_in_json(self, shared: Endpoint) -> None:
        assert shared.http.get(f"{shared.url}/nothing").json() == {"error": "no such route"}
        answer = shared.http.delete(f"{shared.url}/run")
        assert (answer.status_code, answer.json()) == (405, {"error": "DELETE is not a method of this route"})

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b"", "not valid JSON"),
            (b"{", "not valid JSON"),
            (b"[]", "must be a JSON object"),
            (b"null", "must be a JSON object"),
            (b"{}", "input must be a JSON object"),
            (b'{"input": null}', "input must be"),
            (b'{"input": "a dog"}', "input must be"),
            (b'{"input": {"a": NaN}}', "not valid JSON"),
            (b'{"input": {"a": 1e999}}', "out of range"),
            (b'{"input": {"a": "\xff"}}', "not valid JSON"),
            (b'{"input": {"a": "\\ud800"}}', "not valid JSON"),
            (b'{"input": {"a": ' + b"9" * 5000 + b"}}", "not valid JSON"),
            (b'{"input": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}", "recursion"),
            (b'{"input": {}, "policy": []}', "policy must be"),
            (b'{"input": {}, "policy": {"ttl": "1"}}', "policy.ttl must be"),
            (b'{"input": {}, "policy": {"executionTimeout": 0}}', "policy.executionTimeout must be"),
            (b'{"input": {}, "policy": {"executionTimeout": true}}', "policy.executionTimeout must be"),
            (b'{"input": {}, "policy": {"lowPriority": 1}}', "policy.lowPriority must be"),
            (b'{"input": {}, "webhook": "ftp://x"}', "webhook must be"),
            (b'{"input": {}, "webhook": "http://[x"}', "webhook must be"),
            (b'{"input": {}, "s3Config": "b"}', "s3Config must be"),
            (b'{"input": {}, "s3Config": {"accessId": 1}}', "s3Config.accessId must be"),
        ],
    )
    @pytest.mark.parametrize("route", ["run", "runsync"])
    def test_a_bad_body_is_400(self, shared: Endpoint, route: str, body: bytes, said: str) -> None:
        answer = shared.http.post(f"{shared.url}/{route}", content=body)
        assert answer.status_code == 400
        assert said in answer.json()["error"]

    @pytest.mark.parametrize(("route", "limit"), [("run", 10 * MB), ("runsync?wait=1000", 20 * MB)])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_a_body_over_the_limit_is_413(
        self, shared: Endpoint, route: str, limit: int, chunked: bool
    ) -> None:
        def post(size: int) -> httpx.Response:
            body = b'{"input": {"image": "%s"}}' % (b"x" * (size - 24))
            return shared.http.post(f"{shared.url}/{route}", content=iter([body]) if chunked else body)

        too_large = post(limit + 1)
        assert too_large.status_code == 413
        assert too_large.json()["error"] == f"the body is larger than the limit of {limit // MB} MB"
        accepted = post(limit)
        assert accepted.status_code == 200
        shared.http.post(f"{shared.url}/cancel/{accepted.json()['id']}")

    def test_strange_ids_and_queries_are_only_unknown(self, shared: Endpoint) -> None:
        for path in (
            "status/%00",
            "status/%ff%fe",
            "status/..%2f..",
            f"status/{'x' * 5000}",
            "status/'%20OR%201=1",
        ):
            assert shared.http.get(f"{shared.url}/{path}").status_code == 404
        assert shared.http.get(f"{shared.url}/health?%ff=%fe&&=").status_code == 200


class TestOverviews:
    def test_health_counts_jobs_and_workers(self, endpoint: Endpoint) -> None:
        done, failed = endpoint.run(), endpoint.run()
        endpoint.run()
        endpoint.run()
        endpoint.take("a")
        endpoint.take("a")
        endpoint.done(done, "a", output=1)
        endpoint.done(failed, "a", error="no")
        endpoint.take("b")
        assert endpoint.health() == {
            "jobs": {"completed": 1, "failed": 1, "inProgress": 1, "inQueue": 1, "retried": 0},
            "workers": {"idle": 1, "initializing": 0, "ready": 1, "running": 1, "throttled": 0},
        }

    def test_requests_lists_the_newest_jobs_without_their_data(self, endpoint: Endpoint) -> None:
        ids = [endpoint.run({"prompt": "secret"}) for _ in range(3)]
        answer = endpoint.http.get(f"{endpoint.url}/requests")
        assert [job["id"] for job in answer.json()["requests"]] == ids[::-1]
        assert "secret" not in answer.text

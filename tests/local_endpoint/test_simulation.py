"""`--simulate`, seen by the official Python client with an SDK worker behind the endpoint."""

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
import runpod

from local_endpoint.simulation import Fate, Simulation
from tests.local_endpoint.conftest import MakeEndpoint
from tests.local_endpoint.harness import ENDPOINT_ID, KEY, SDK_WORKER, Endpoint, eventually


class TestSpecification:
    def test_all_of_it(self) -> None:
        text = "cold-start=8,throttled=2,rate=0.05:429, rate=0.1:503,lose-worker=0.1,webhook-delay=5,seed=7"
        assert Simulation.parse(text) == Simulation(
            cold_start_s=8,
            throttled=2,
            refusals=((0.05, 429), (0.1, 503)),
            lose_worker=0.1,
            webhook_delay_s=5,
            seed=7,
        )

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "'' is not known; allowed: cold-start=SECONDS"),
            ("weather=bad", "'weather=bad' is not known"),
            ("cold-start", "'cold-start' is not known"),
            ("cold-start=-1", "cold-start should be SECONDS; it is '-1'"),
            ("cold-start=nan", "cold-start should be SECONDS"),
            ("idle=inf", "idle should be SECONDS"),
            ("throttled=1.5", "throttled should be WORKERS"),
            ("throttled=-1", "throttled should be WORKERS"),
            ("rate=5:429", "rate should be SHARE:STATUS"),
            ("rate=0.5:200", "rate should be SHARE:STATUS"),
            ("rate=0.6:429,rate=0.6:500", "more than 1"),
            ("lose-worker=2", "lose-worker should be SHARE"),
            ("seed=x", "seed should be NUMBER"),
        ],
    )
    def test_what_is_none_is_said_in_one_line(self, text: str, said: str) -> None:
        with pytest.raises(ValueError, match=re.escape(said)) as failed:
            Simulation.parse(text)
        assert "\n" not in str(failed.value)

    def test_the_same_seed_is_the_same_fate(self) -> None:
        def fate(seed: int) -> list[tuple[int | None, bool]]:
            drawn = Fate(Simulation.parse(f"rate=0.3:429,rate=0.2:500,lose-worker=0.5,seed={seed}"))
            return [(drawn.refusal(), drawn.loses_worker()) for _ in range(200)]

        assert fate(1) == fate(1)
        assert fate(1) != fate(2)
        statuses = [refused for refused, _ in fate(1)]
        assert 40 < statuses.count(429) < 80
        assert 20 < statuses.count(500) < 60

    def test_nothing_is_simulated_unless_asked_for(self) -> None:
        fate = Fate(Simulation())
        assert not any(fate.refusal() or fate.loses_worker() for _ in range(1000))


@pytest.fixture
def client_of(monkeypatch: pytest.MonkeyPatch) -> "ClientOf":
    return ClientOf(monkeypatch)


class ClientOf:
    """The official client of an endpoint."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, endpoint: Endpoint) -> runpod.Endpoint:
        self._monkeypatch.setattr(runpod, "endpoint_url_base", f"{endpoint.base}/v2")
        return runpod.Endpoint(ENDPOINT_ID, api_key=KEY)


def asking(endpoint: Endpoint) -> bool:
    return any(worker.asks for worker in endpoint.server.core.workers)  # type: ignore[attr-defined]


def endpoint_with_worker(make_endpoint: MakeEndpoint, simulate: str, *options: str) -> Endpoint:
    endpoint = make_endpoint("--no-rate-limits", "--simulate", simulate, *options)
    endpoint.sdk_worker("sdk-1", script=SDK_WORKER, **environment(endpoint))
    eventually(lambda: asking(endpoint), timeout_s=180)
    return endpoint


def environment(endpoint: Endpoint) -> dict[str, str]:
    """An endpoint in a thread prints none."""
    from local_endpoint.worker_api import worker_environment

    endpoint.log.touch()
    return worker_environment(endpoint.server.core.config, endpoint.base, "sdk-1", "24")  # type: ignore[attr-defined]


def test_a_cold_start_is_delay_and_a_worker_that_initializes(
    make_endpoint: MakeEndpoint, client_of: ClientOf
) -> None:
    endpoint = endpoint_with_worker(make_endpoint, "cold-start=3,throttled=2")
    client = client_of(endpoint)
    asleep = client.health()["workers"]
    assert (asleep["ready"], asleep["initializing"], asleep["throttled"]) == (0, 0, 2)
    job = client.run({"seed": 1})
    eventually(lambda: client.health()["workers"]["initializing"] == 1)
    assert job.status() == "IN_QUEUE"
    assert job.output(timeout=180)[0]["seed"] == 1
    cold_ms = endpoint.status(job.job_id)["delayTime"]
    assert cold_ms >= 3000
    assert client.health()["workers"]["ready"] == 1

    warm = client.run({"seed": 2})
    assert warm.output(timeout=180)[0]["seed"] == 2
    assert endpoint.status(warm.job_id)["delayTime"] < cold_ms


@pytest.mark.slow
def test_a_worker_that_idled_starts_cold_again(make_endpoint: MakeEndpoint) -> None:
    endpoint = endpoint_with_worker(make_endpoint, "cold-start=2,idle=1")
    for _ in range(2):
        job_id = endpoint.run()
        assert endpoint.final(job_id, timeout_s=180)["delayTime"] >= 2000
        time.sleep(1.5)


def test_refusals_reach_the_caller(make_endpoint: MakeEndpoint, client_of: ClientOf) -> None:
    """The official client raises on a refused POST, and asks again by itself what a 429 was the answer to."""
    endpoint = make_endpoint("--simulate", "rate=0.5:429,seed=3")
    client = client_of(endpoint)
    ids, refused = [], []
    for n in range(30):
        try:
            ids.append(client.run({"seed": n}).job_id)
        except requests.HTTPError as error:
            assert error.response is not None  # noqa: PT017
            refused.append(error.response)
    assert 5 < len(refused) < 25
    for answer in refused:
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
        assert "simulated" in answer.json()["error"]
    assert client.health()["jobs"]["inQueue"] == len(ids), "what was refused was not queued"


@pytest.mark.slow
def test_a_lost_worker_is_another_try_and_in_the_end_a_failure(
    make_endpoint: MakeEndpoint, client_of: ClientOf
) -> None:
    endpoint = endpoint_with_worker(make_endpoint, "lose-worker=0.5,lose-after=0.2,seed=2")
    client = client_of(endpoint)
    jobs = [client.run({"seed": n}) for n in range(12)]
    results = [job.output(timeout=90) for job in jobs]
    for n, (job, result) in enumerate(zip(jobs, results, strict=True)):
        if job.status() == "COMPLETED":
            assert result[0]["seed"] == n
        else:
            assert "workers in a row were lost" in endpoint.status(job.job_id)["error"]
    assert client.health()["jobs"]["retried"] > 0
    assert client.health()["jobs"]["completed"] > 0

    hopeless = endpoint_with_worker(make_endpoint, "lose-worker=1,lose-after=0.1", "--max-requeues", "1")
    job = client_of(hopeless).run({"seed": 1})
    eventually(lambda: job.status() == "FAILED")
    assert "2 workers in a row were lost" in hopeless.status(job.job_id)["error"]


def test_a_webhook_is_late(make_endpoint: MakeEndpoint, client_of: ClientOf) -> None:
    arrived: list[float] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.append(time.monotonic())
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = make_endpoint("--simulate", "webhook-delay=2")
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    job = client_of(endpoint).run({"input": {"seed": 1}, "webhook": url})
    endpoint.take()
    done_s = time.monotonic()
    endpoint.done(job.job_id, output=1)
    assert job.status() == "COMPLETED"
    eventually(lambda: arrived)
    assert arrived[0] - done_s >= 2
    server.shutdown()
    server.server_close()

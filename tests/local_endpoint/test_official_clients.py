"""The documents' own commands and both official clients, with an SDK worker behind the endpoint."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import runpod

from tests.local_endpoint.harness import ENDPOINT_ID, KEY, Endpoint

UNKNOWN = "c80ffee4-f315-4e25-a146-0f3d98cf024b"


def bash(endpoint: Endpoint, command: str, cwd: Path | None = None) -> str:
    """Run a command of the documents, with nothing changed but host and key."""
    command = (
        command.replace("https://api.runpod.ai", endpoint.base)
        .replace("{Your_API_KEY}", KEY)
        .replace("x" * 40, KEY)
        .replace("[Your API Key]", KEY)
        .replace("{ID}", ENDPOINT_ID)
    )
    ran = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=180, cwd=cwd, check=True
    )
    return ran.stdout


RUNSYNC = r"""curl -X POST https://api.runpod.ai/v2/stable-diffusion-v1/runsync \
    -H 'Content-Type: application/json' \
    -H 'Authorization: Bearer {Your_API_KEY}' \
    -d '{"input": {"prompt": "a cute magical flying dog, fantasy art drawn by disney concept artists"}}'"""
RUN = r"""curl -X POST https://api.runpod.ai/v2/stable-diffusion-v1/run \
    -H 'Content-Type: application/json' \
    -H 'Authorization: Bearer {Your_API_KEY}' \
    -d '{"input": {"prompt": "a cute magical flying dog, fantasy art drawn by disney concept artists"}}'"""
RUN_SPACED = r"""curl -X POST https://api.runpod.ai/v2/stable-diffusion-v1/run \
    -H 'Content-Type: application/json'                             \
    -H 'Authorization: Bearer xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'    \
    -d '{"input": {"prompt": "a cute magical flying dog, fantasy art drawn by disney concept artists"}}'"""
STATUS = r"""curl https://api.runpod.ai/v2/stable-diffusion-v1/status/c80ffee4-f315-4e25-a146-0f3d98cf024b \
    -H 'Content-Type: application/json' \
    -H 'Authorization: Bearer {Your_API_KEY}'"""
HEALTH = r"""curl --request GET \
     --url https://api.runpod.ai/v2/stable-diffusion-v1/health \
     --header 'accept: application/json' \
     --header 'authorization: Bearer {Your_API_KEY}'"""
SAVE = r"""curl https://api.runpod.ai/v2/{ID}/status/c80ffee4-f315-4e25-a146-0f3d98cf024b \
-H 'Content-Type: application/json' \
-H 'Authorization: Bearer [Your API Key]' | jq . > output.json"""
DECODE = """
import json, base64
with open("output.json", "r") as file:
    data = json.load(file)
base64_image = data["output"][0]["image"]
decoded_image_data = base64.b64decode(base64_image)
with open("decoded_image.png", "wb") as image_file:
    image_file.write(decoded_image_data)
"""


class TestDocuments:
    def test_runsync_returns_the_images(self, served: Endpoint) -> None:
        answer = json.loads(bash(served, RUNSYNC))
        assert answer["status"] == "COMPLETED"
        assert set(answer["output"][0]) == {"image", "seed"}

    @pytest.mark.parametrize("run", [RUN, RUN_SPACED])
    def test_run_and_status(self, served: Endpoint, run: str) -> None:
        answer = json.loads(bash(served, run))
        assert answer["status"] == "IN_QUEUE"
        served.final(answer["id"])
        status = json.loads(bash(served, STATUS.replace(UNKNOWN, answer["id"])))
        assert {"delayTime", "executionTime", "gpu", "id", "input", "output", "status"} <= set(status)
        assert status["gpu"] == "24"

    def test_the_status_line_as_it_stands_names_no_job(self, served: Endpoint) -> None:
        assert "error" in json.loads(bash(served, STATUS))

    def test_health(self, served: Endpoint) -> None:
        assert set(json.loads(bash(served, HEALTH))) == {"jobs", "workers"}

    @pytest.mark.skipif(not shutil.which("jq"), reason="needs jq")
    def test_saving_and_decoding_an_image(self, served: Endpoint, tmp_path: Path) -> None:
        picture = b"\x89PNG not really"
        job_id = served.run({"prompt": "dog", "image": base64.b64encode(picture).decode()})
        served.final(job_id)
        bash(served, SAVE.replace(UNKNOWN, job_id), cwd=tmp_path)
        subprocess.run(["python3", "-c", DECODE], cwd=tmp_path, check=True)
        assert (tmp_path / "decoded_image.png").read_bytes() == picture


@pytest.fixture
def python(served: Endpoint, monkeypatch: pytest.MonkeyPatch) -> runpod.Endpoint:
    monkeypatch.setattr(runpod, "endpoint_url_base", f"{served.base}/v2")
    return runpod.Endpoint(ENDPOINT_ID, api_key=KEY)


class TestPython:
    def test_run_status_and_output(self, python: runpod.Endpoint) -> None:
        job = python.run({"prompt": "dog", "seed": 7})
        assert job.status() in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
        assert job.output(timeout=180) == [{"image": "x" * 10, "seed": 7}]
        assert job.status() == "COMPLETED"

    def test_run_sync(self, python: runpod.Endpoint) -> None:
        assert python.run_sync({"input": {"prompt": "dog"}}, timeout=180)[0]["seed"] == 1

    def test_cancel_stops_the_worker_too(self, python: runpod.Endpoint, served: Endpoint) -> None:
        job = python.run({"sleep_s": 60})
        served_status = served.status
        end_s = time.monotonic() + 60
        while served_status(job.job_id)["status"] != "IN_PROGRESS" and time.monotonic() < end_s:
            time.sleep(0.05)
        assert job.cancel()["status"] == "CANCELLED"
        assert job.status() == "CANCELLED"
        log = served.folder.parent / "sdk-1.log"
        while "Job stopped." not in log.read_text():
            assert time.monotonic() < end_s
            time.sleep(0.1)

    def test_health_and_purge(self, python: runpod.Endpoint) -> None:
        assert python.health()["workers"]["idle"] + python.health()["workers"]["running"] == 1
        assert python.purge_queue() == {"removed": 0, "status": "completed"}

    def test_a_wrong_key_is_said_to_be_one(self, python: runpod.Endpoint) -> None:
        with pytest.raises(RuntimeError, match="401"):
            runpod.Endpoint(ENDPOINT_ID, api_key="wrong").health()

    def test_an_unknown_job_is_an_http_error(self, python: runpod.Endpoint) -> None:
        job = python.run({})
        job.job_id = UNKNOWN
        with pytest.raises(Exception, match="404"):
            job.status()

    async def test_asyncio(self, python: runpod.Endpoint) -> None:
        async with aiohttp.ClientSession() as session:
            endpoint = runpod.AsyncioEndpoint(ENDPOINT_ID, session, api_key=KEY)
            job = await endpoint.run({"prompt": "dog"})
            assert (await job.output(timeout=180))[0]["seed"] == 1
            assert await job.status() == "COMPLETED"
            slow = await endpoint.run({"sleep_s": 60})
            await asyncio.sleep(0.2)
            assert (await slow.cancel())["status"] == "CANCELLED"
            assert set(await endpoint.health()) == {"jobs", "workers"}
            assert (await endpoint.purge_queue())["status"] == "completed"


JAVASCRIPT = """
import runpodSdk from "runpod-sdk";
const sdk = runpodSdk(process.env.KEY, { baseUrl: process.env.BASE });
const endpoint = sdk.endpoint(process.env.ENDPOINT_ID);
const found = {};
found.runSync = await endpoint.runSync({ input: { prompt: "dog", sleep_s: 1.2 } }, 1000 * 20);
const { id } = await endpoint.run({ input: { prompt: "dog", sleep_s: 30 } });
found.status = await endpoint.status(id);
found.cancel = await endpoint.cancel(id);
const done = await endpoint.run({ input: { prompt: "dog" } });
found.statusSync = await endpoint.statusSync(done.id);
found.stream = [];
for await (const part of endpoint.stream(done.id)) found.stream.push(part);
found.health = await endpoint.health();
found.purge = await endpoint.purgeQueue();
const refused = (what) => what().catch((error) => error.response?.status);
found.unknown = await refused(() => endpoint.status("nothing"));
found.wrongKey = await refused(() => runpodSdk("wrong", { baseUrl: process.env.BASE })
  .endpoint(process.env.ENDPOINT_ID).health());
process.stderr.write(JSON.stringify(found));
"""


def javascript(endpoint: Endpoint, npm_folder: Path, script: str) -> Any:
    """Run a script with the official client and return what it wrote to stderr, as JSON."""
    path = npm_folder / f"test-{os.getpid()}.mjs"
    path.write_text(script)
    env = {**os.environ, "KEY": KEY, "BASE": f"{endpoint.base}/v2", "ENDPOINT_ID": ENDPOINT_ID}
    try:
        ran = subprocess.run(
            ["node", path], env=env, capture_output=True, text=True, timeout=180, check=False
        )
    finally:
        path.unlink()
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stderr)


def test_javascript(served: Endpoint, npm_folder: Path) -> None:
    found = javascript(served, npm_folder, JAVASCRIPT)
    assert found["runSync"]["succeeded"]
    assert found["runSync"]["output"][0]["seed"] == 1
    assert found["status"]["status"] in ("IN_QUEUE", "IN_PROGRESS")
    assert found["cancel"]["status"] == "CANCELLED"
    assert found["statusSync"]["succeeded"]
    assert found["stream"] == []
    assert found["health"]["workers"]["ready"] == 1
    assert found["purge"]["status"] == "completed"
    assert (found["unknown"], found["wrongKey"]) == (404, 401)


@pytest.fixture(scope="module")
def streaming(quick_disk: Path) -> Any:
    """An endpoint whose worker's handler is a generator."""
    endpoint = Endpoint(quick_disk / "streaming" / "data").start()
    endpoint.sdk_worker("streamer", "--stream")
    endpoint.wait_ready()
    yield endpoint
    endpoint.close()


class TestStreaming:
    def test_python(self, streaming: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runpod, "endpoint_url_base", f"{streaming.base}/v2")
        job = runpod.Endpoint(ENDPOINT_ID, api_key=KEY).run({"prompt": "abc"})
        assert list(job.stream()) == ["a", "b", "c"]
        assert job.output() == ["a", "b", "c"]

    def test_javascript(self, streaming: Endpoint, npm_folder: Path) -> None:
        script = JAVASCRIPT.split("const found")[0] + (
            'const { id } = await endpoint.run({ input: { prompt: "abc" } });\n'
            "const found = [];\n"
            "for await (const part of endpoint.stream(id)) found.push(part.output);\n"
            "process.stderr.write(JSON.stringify(found));\n"
        )
        assert javascript(streaming, npm_folder, script) == ["a", "b", "c"]


class TestSdkWorker:
    """What the unmodified SDK does with what it is given here."""

    def test_progress_shows_in_the_status(self, served: Endpoint) -> None:
        job_id = served.run({"num_inference_steps": 8, "step_s": 0.15})
        seen = set()
        while (status := served.status(job_id))["status"] in ("IN_QUEUE", "IN_PROGRESS"):
            if "output" in status:
                seen.add(status["output"]["step"])
            time.sleep(0.03)
        assert len(seen) >= 4
        assert status["output"][0]["seed"] == 1

    def test_what_came_beside_the_input_reaches_the_handler(self, served: Endpoint) -> None:
        s3 = {"accessId": "i", "accessSecret": "s", "bucketName": "b", "endpointUrl": "http://s3"}
        status = served.final(served.run({"echo_job": True}, s3Config=s3, policy={"ttl": 60_000}))
        assert status["output"]["s3Config"] == s3

    def test_an_error_is_the_jobs_error(self, served: Endpoint) -> None:
        assert served.final(served.run({"fail": "no such sampler"}))["error"] == "no such sampler"

    def test_a_timed_out_job_is_stopped_at_the_worker(self, served: Endpoint) -> None:
        job_id = served.run({"sleep_s": 60}, policy={"executionTimeout": 500})
        assert served.final(job_id)["status"] == "TIMED_OUT"
        log = served.folder.parent / "sdk-1.log"
        end_s = time.monotonic() + 60
        while not any(job_id in line and "Job stopped." in line for line in log.read_text().splitlines()):
            assert time.monotonic() < end_s
            time.sleep(0.1)

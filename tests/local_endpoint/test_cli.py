"""`sdworker serve` and `sdworker submit`, as processes."""

import argparse
import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import runpod

from sdworker.cli import serve, submit
from tests.local_endpoint.harness import KEY, SDK_WORKER, Endpoint, eventually, free_port

PNG = b"\x89PNG\r\n\x1a\n and the rest"
PROGRAM = """
import argparse, sys
from sdworker.cli import {module} as command
parser = argparse.ArgumentParser()
command.add_parser(parser.add_subparsers())
arguments = parser.parse_args()
sys.exit(arguments.run(arguments))
"""


def command(name: str, *options: str) -> list[str]:
    """The subcommand alone, however the rest of the command line looks."""
    return [sys.executable, "-c", PROGRAM.format(module=name), name, *options]


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


Submit = Callable[..., Ran]


@pytest.fixture
def submitted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Run `submit` in this process: a new one would import the client for seconds."""
    monkeypatch.setattr(runpod, "endpoint_url_base", runpod.endpoint_url_base)

    def submitted(url: str, out: Path, *options: str, key: str = KEY) -> Ran:
        parser = argparse.ArgumentParser()
        submit.add_parser(parser.add_subparsers())
        line = ["submit", "a dog", "--endpoint", url, "--key", key, "--out", str(out), *options]
        code = submit.run(parser.parse_args(line))
        return Ran(code, *capsys.readouterr())

    return submitted


class TestSubmit:
    def test_saves_base64_images_and_prints_their_seeds(
        self, served: Endpoint, submitted: Submit, tmp_path: Path
    ) -> None:
        image = base64.b64encode(PNG).decode()
        ran = submitted(served.url, tmp_path / "out", "--set", f"image={image}", "--set", "seed=7")
        assert ran.returncode == 0, ran.stderr
        (path,) = (tmp_path / "out").iterdir()
        assert ran.stdout == f"{path}  seed 7\n"
        assert (path.suffix, path.read_bytes()) == (".png", PNG)

    def test_fetches_images_that_come_as_urls(
        self, served: Endpoint, submitted: Submit, bucket: str, tmp_path: Path
    ) -> None:
        ran = submitted(served.url, tmp_path, "--set", f"image={bucket}/picture.png")
        assert ran.returncode == 0, ran.stderr
        assert next(tmp_path.iterdir()).read_bytes() == PNG
        missing = submitted(served.url, tmp_path, "--set", f"image={bucket}/gone")
        assert missing.returncode == 1
        assert "cannot be fetched" in missing.stderr

    def test_says_in_one_line_why_a_job_failed(
        self, served: Endpoint, submitted: Submit, tmp_path: Path
    ) -> None:
        ran = submitted(served.url, tmp_path, "--set", "fail=no such sampler")
        assert (ran.returncode, ran.stderr) == (1, "sdworker: the job is FAILED: no such sampler\n")

    def test_says_that_a_key_is_wrong(self, served: Endpoint, submitted: Submit, tmp_path: Path) -> None:
        ran = submitted(served.url, tmp_path, key="wrong")
        assert ran.returncode == 1
        assert "401" in ran.stderr
        assert "Traceback" not in ran.stderr

    def test_the_platforms_key_in_the_environment_is_not_sent_to_an_endpoint_on_this_machine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = tmp_path / "keys.json"
        keys.write_text(json.dumps({"key": "made-here", "worker_key": "w"}))
        monkeypatch.setattr(submit, "_LOCAL_KEYS", keys)
        monkeypatch.setenv("RUNPOD_API_KEY", "the-platforms")
        assert submit._key(None, "http://127.0.0.1:8000/v2") == "made-here"
        assert submit._key(None, "https://api.runpod.ai/v2") == "the-platforms"
        assert submit._key("given", "http://127.0.0.1:8000/v2") == "given"

    def test_says_at_once_that_nothing_listens(self, submitted: Submit, tmp_path: Path) -> None:
        start_s = time.monotonic()
        ran = submitted(f"http://127.0.0.1:{free_port()}", tmp_path)
        assert ran.returncode == 1
        assert "cannot be reached: Connection refused" in ran.stderr
        assert time.monotonic() - start_s < 2

    def test_ctrl_c_cancels_the_job(self, served: Endpoint, tmp_path: Path) -> None:
        options = ["--endpoint", served.url, "--key", KEY, "--out", str(tmp_path), "--set", "sleep_s=60"]
        process = subprocess.Popen(command("submit", "a dog", *options), stderr=subprocess.PIPE)
        known = {job["id"] for job in requests(served)}
        job_id = eventually(
            lambda: next((job["id"] for job in requests(served) if job["id"] not in known), None)
        )
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
        assert (process.returncode, stderr.decode().strip()) == (130, "sdworker: cancelled")
        assert served.status(str(job_id))["status"] == "CANCELLED"

    @pytest.mark.parametrize(
        ("endpoint", "address"),
        [
            ("abc123", ("https://api.runpod.ai/v2", "abc123")),
            ("http://h:8000", ("http://h:8000/v2", "stable-diffusion-v1")),
            ("http://h:8000/", ("http://h:8000/v2", "stable-diffusion-v1")),
            ("https://h/v2/mine/runsync", ("https://h/v2", "mine")),
        ],
    )
    def test_takes_an_id_or_any_of_the_endpoints_urls(self, endpoint: str, address: tuple[str, str]) -> None:
        assert submit._address(endpoint) == address


def requests(endpoint: Endpoint) -> list[dict[str, str]]:
    return list(endpoint.http.get(f"{endpoint.url}/requests").json()["requests"])


class Bucket(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/picture.png"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(PNG if found else b"no")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def bucket() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def processes_of(folder: Path) -> list[str]:
    """Every process that has this folder in its environment."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and str(folder).encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "99999"], "--port must be"),
        (["--retention", "0"], "--retention must be"),
        (["--ttl", "inf"], "--ttl must be"),
        (["--key", ""], "a key must be"),
        (["--worker-key", "two words"], "a key must be"),
        (["--input-schema", "/nowhere"], "No such file"),
        (["--workers", "-1"], "--workers must be"),
    ],
)
def test_options_that_make_no_sense_are_said_in_one_line(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["serve", "--port", "0", "--data", str(tmp_path), *options])
    assert serve.run(arguments) == 1
    stderr = capsys.readouterr().err
    assert stderr.startswith("sdworker: cannot serve: ")
    assert said in stderr


class TestServe:
    @pytest.fixture
    def serving(self, tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", str, Path]]:
        port = free_port()
        line = command(
            "serve",
            *("--handler", str(SDK_WORKER), "--workers", "2"),
            *("--port", str(port), "--data", str(tmp_path / "data"), "--key", KEY),
            # Else it would be learnt from the worker's code, with seconds of imports.
            *("--input-schema", str(SDK_WORKER.with_name("input_schema.json"))),
        )
        env = {**os.environ, "TEST_FOLDER": str(tmp_path)}
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        yield process, f"http://127.0.0.1:{port}/v2/stable-diffusion-v1", tmp_path
        process.kill()
        process.wait()

    def test_from_the_start_to_ctrl_c(self, serving: tuple["subprocess.Popen[str]", str, Path]) -> None:
        process, url, folder = serving
        assert process.stdout is not None
        printed = ""
        while "Try it:" not in printed or "-d '" not in printed:
            line = process.stdout.readline()
            assert line, (folder / "log").read_text()
            printed += line
        http = httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=60)

        # Both workers are ready when it says so, and the printed line works as it is.
        assert http.get(f"{url}/health").json()["workers"]["ready"] == 2
        curl = printed.split("Try it:")[1]
        ran = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=60, check=True)
        assert '"status":"COMPLETED"' in ran.stdout

        # A worker that is killed is started again, and its job is not lost.
        job_id = http.post(f"{url}/run", json={"input": {"sleep_s": 1.5}}).json()["id"]
        held = eventually(lambda: http.get(f"{url}/status/{job_id}").json().get("workerId"))
        for process_folder in Path("/proc").glob("[0-9]*"):
            try:
                environ = (process_folder / "environ").read_bytes()
            except OSError:
                continue
            if f"RUNPOD_POD_ID={held}".encode() in environ and str(folder).encode() in environ:
                os.kill(int(process_folder.name), signal.SIGKILL)

        def ready() -> int:
            return int(http.get(f"{url}/health").json()["workers"]["ready"])

        def status() -> dict[str, object]:
            return dict(http.get(f"{url}/status/{job_id}").json())

        eventually(lambda: status()["status"] == "COMPLETED")

        # One that asks to be replaced is.
        eventually(lambda: ready() == 2)
        worn = http.post(f"{url}/runsync", json={"input": {"refresh": True}}).json()
        assert (worn["status"], worn["error"]) == ("FAILED", "worn out")
        assert ready() == 1
        eventually(lambda: ready() == 2)

        # Ctrl-C: what is in progress is finished, and nobody is left.
        last = http.post(f"{url}/run", json={"input": {"sleep_s": 1}}).json()["id"]
        eventually(lambda: http.get(f"{url}/status/{last}").json()["status"] == "IN_PROGRESS")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, (folder / "log").read_text()
        eventually(lambda: not processes_of(folder))
        again = Endpoint(folder / "data")
        again.start()
        assert again.status(last)["status"] == "COMPLETED"
        again.close()

    def test_a_worker_that_cannot_start_is_said_in_one_line(self, tmp_path: Path) -> None:
        handler = tmp_path / "handler.py"
        handler.write_text("import sys; sys.exit(7)")
        line = command("serve", "--handler", str(handler), "--port", "0", "--data", str(tmp_path / "data"))
        ran = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 1
        assert "worker local-1 ended with exit code 7" in ran.stderr
        assert "Traceback" not in ran.stderr

    def test_a_ctrl_c_while_it_starts_stops_it_too(self, tmp_path: Path) -> None:
        handler = tmp_path / "handler.py"
        handler.write_text("import time; time.sleep(60)")
        data = tmp_path / "data"
        line = command("serve", "--handler", str(handler), "--port", "0", "--data", str(data))
        env = {**os.environ, "TEST_FOLDER": str(tmp_path)}
        process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=env)
        eventually(lambda: len(processes_of(tmp_path)) >= 2)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
        assert process.returncode == 0, stderr
        assert "Traceback" not in stderr
        eventually(lambda: not processes_of(tmp_path))

    def test_help_tells_every_option_with_its_default(self) -> None:
        parser = argparse.ArgumentParser()
        subparsers = parser.add_subparsers()
        serve.add_parser(subparsers)
        text = subparsers.choices["serve"].format_help()
        for option in (
            "--port",
            "--key",
            "--workers",
            "--retention",
            "--execution-timeout",
            "--worker-timeout",
        ):
            assert option in text
        assert "1800" in text

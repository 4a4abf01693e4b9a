"""`sdworker serve` and `sdworker submit`, as processes."""

import argparse
import base64
import fcntl
import json
import os
import shutil
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

from sdworker.cli import client, fields, main, serve, submit
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
def submitted(capsys: pytest.CaptureFixture[str]) -> Submit:
    """Run `submit` in this process: a new one would import for a while."""

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

    def test_a_hint_is_sent_with_the_net_that_it_leads(
        self, served: Endpoint, submitted: Submit, tmp_path: Path
    ) -> None:
        (tmp_path / "edges.png").write_bytes(PNG)
        hint, address = f"edges={tmp_path / 'edges.png'}", "depth=https://h/a.png?x=1"
        drawn = f"image={base64.b64encode(PNG).decode()}"
        ran = submitted(served.url, tmp_path / "out", "--set", drawn, "--control", hint, "--control", address)
        assert ran.returncode == 0, ran.stderr
        (newest, *_) = requests(served)
        uri = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
        assert served.status(str(newest["id"]))["input"]["controls"] == [
            {"model": "edges", "image": uri},
            {"model": "depth", "image": "https://h/a.png?x=1"},
        ]
        twice = submitted(served.url, tmp_path, "--control", address, "--set", "controls=[]")
        assert (twice.returncode, "give one of them" in twice.stderr) == (2, True)
        bare = submitted(served.url, tmp_path, "--control", "edges.png")
        assert bare.stderr == "sdworker: --control edges.png: should be MODEL=FILE\n"

    def test_watch_asks_for_previews_and_keeps_the_latest_in_a_file(
        self, served: Endpoint, submitted: Submit, tmp_path: Path
    ) -> None:
        fields = ["num_inference_steps=8", "step_s=0.2", f"image={base64.b64encode(PNG).decode()}"]
        options = [option for field in fields for option in ("--set", field)]
        ran = submitted(served.url, tmp_path, "--watch", *options)
        assert ran.returncode == 0, ran.stderr
        assert (tmp_path / "preview.jpg").read_bytes().startswith(b"\xff\xd8")
        (newest, *_) = requests(served)
        assert served.status(str(newest["id"]))["input"]["previews"] is True

    def test_says_in_one_line_why_a_job_failed(
        self, served: Endpoint, submitted: Submit, tmp_path: Path
    ) -> None:
        ran = submitted(served.url, tmp_path, "--set", "fail=no such sampler")
        assert ran.returncode == 1
        told, why = ran.stderr.splitlines()
        assert told.startswith("job ")
        assert why == "sdworker: the job is FAILED: no such sampler"

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
        monkeypatch.setattr(client, "_LOCAL_KEYS", keys)
        monkeypatch.setenv("RUNPOD_API_KEY", "the-platforms")
        assert client.key_for(None, "http://127.0.0.1:8000/v2") == "made-here"
        assert client.key_for(None, "https://api.runpod.ai/v2") == "the-platforms"
        assert client.key_for("given", "http://127.0.0.1:8000/v2") == "given"

    def test_says_at_once_that_nothing_listens(self, submitted: Submit, tmp_path: Path) -> None:
        start_s = time.monotonic()
        ran = submitted(f"http://127.0.0.1:{free_port()}", tmp_path)
        assert ran.returncode == 1
        assert "cannot be reached: Connection refused" in ran.stderr
        assert time.monotonic() - start_s < 60  # most of it is Python's own start

    def test_ctrl_c_cancels_the_job(self, served: Endpoint, tmp_path: Path) -> None:
        options = ["--endpoint", served.url, "--key", KEY, "--out", str(tmp_path), "--set", "sleep_s=60"]
        known = {job["id"] for job in requests(served)}
        process = subprocess.Popen(command("submit", "a dog", *options), stderr=subprocess.PIPE)
        assert process.stderr is not None
        said = process.stderr.readline()
        (job_id,) = {job["id"] for job in requests(served)} - known
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=180)
        assert process.returncode == 130
        assert (said + stderr).decode().splitlines() == [f"job {job_id}", "sdworker: cancelled"]
        assert served.status(str(job_id))["status"] == "CANCELLED"

    @pytest.mark.parametrize(
        ("endpoint", "address"),
        [
            ("abc123", ("https://api.runpod.ai/v2", "abc123")),
            ("http://h:8000", ("http://h:8000/v2", "stable-diffusion-v1")),
            ("http://h:8000/", ("http://h:8000/v2", "stable-diffusion-v1")),
            ("https://h/v2/mine/runsync", ("https://h/v2", "mine")),
            ("127.0.0.1:8311", ("http://127.0.0.1:8311/v2", "stable-diffusion-v1")),
            ("localhost", ("http://localhost/v2", "stable-diffusion-v1")),
            ("[::1]:8000/v2/mine", ("http://[::1]:8000/v2", "mine")),
            ("api.runpod.ai/v2/abc123", ("https://api.runpod.ai/v2", "abc123")),
            ("http://h/behind/v2/a%2Fb", ("http://h/behind/v2", "a/b")),
        ],
    )
    def test_takes_an_id_or_any_of_the_endpoints_urls(self, endpoint: str, address: tuple[str, str]) -> None:
        assert client.address_of(endpoint) == address

    @pytest.mark.parametrize(
        "endpoint",
        [
            "",
            "a b",
            "a?b",
            "http://",
            "http://h:99999",
            "ftp://h",
            "http://h/x",
            "http://u:p@h",
            "http://h/v2/a?b",
        ],
    )
    def test_what_is_no_endpoint_is_said_to_be_none(self, endpoint: str) -> None:
        with pytest.raises(client.UsageError, match="--endpoint"):
            client.address_of(endpoint)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--set", "seed"], "--set seed: should be FIELD=VALUE"),
            (
                ["--set", "init_image=@nowhere.png"],
                "--set init_image: nowhere.png cannot be read: No such file",
            ),
            (["--set", "init_image=@"], "--set init_image: the file cannot be read: Is a directory"),
            (["--init-image", "text"], "--init-image: text is not a picture"),
            (["--set", "x=@bytes"], "--set x: bytes is neither a picture nor text"),
            (["--parallel", "0"], "--parallel must be between 1 and 200; it is 0"),
            (["--parallel", "-3"], "--parallel must be between 1 and 200; it is -3"),
            (["--key", "ключ"], "--key: a key has printable ASCII characters only"),
            (["--key", "a\nb"], "--key: a key has printable ASCII characters only"),
            (["--job", "nowhere.json"], "nowhere.json cannot be read: No such file"),
            (["--jobs", "jobs.jsonl"], "--jobs holds whole jobs"),
            (["--log", "l"], "--log goes with --jobs"),
            (["--out", "text"], "--out text: is not a folder"),
            (["--out", "/proc/nowhere"], "--out /proc/nowhere: nothing can be written there"),
        ],
    )
    def test_what_makes_no_sense_is_told_in_one_line_before_anything_is_sent(
        self,
        options: list[str],
        said: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("text").write_text("words")
        Path("bytes").write_bytes(b"\xff\xfe\x00")
        nobody = f"127.0.0.1:{free_port()}"
        assert main(["submit", "a dog", "--key", KEY, "--endpoint", nobody, *options]) == 2
        stderr = capsys.readouterr().err
        assert stderr.startswith(f"sdworker: {said}")
        assert stderr.count("\n") == 1

    def test_files_become_data_uris_and_text(self, tmp_path: Path) -> None:
        picture, words = tmp_path / "a.png", tmp_path / "words.txt"
        picture.write_bytes(PNG)
        words.write_text("a red apple\n")
        uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
        parser = argparse.ArgumentParser()
        submit.add_parser(parser.add_subparsers())
        line = ["submit", "--set", f"a=@{picture}", "--set", f"b=@{words}", "--set", "c=@@me", "--set", "d=7"]
        line += ["--init-image", str(picture), "--mask", "https://h/mask.png"]
        assert fields.read_fields(parser.parse_args(line)) == {
            "a": uri,
            "b": "a red apple",
            "c": "@me",
            "d": 7,
            "init_image": uri,
            "mask": "https://h/mask.png",
        }

    def test_a_prompt_may_come_by_set_and_a_job_from_a_file(
        self, served: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        job = tmp_path / "job.json"
        job.write_text(json.dumps({"input": {"prompt": "x", "seed": 5}}))
        common = ["--endpoint", served.url, "--key", KEY, "--out", str(tmp_path), "--set", "prompt=draw"]
        assert main(["submit", *common]) == 0
        assert capsys.readouterr().out.endswith("seed 40264\n")
        assert main(["submit", *common, "--job", str(job)]) == 0
        assert capsys.readouterr().out.endswith("seed 5\n")
        with pytest.raises(SystemExit) as exit_:
            main(["submit", "--nonsense"])
        assert exit_.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


class TestManage:
    def test_a_jobs_life(self, served: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def ran(*line: str) -> Ran:
            code = main([*line, "--endpoint", f"127.0.0.1:{served.port}", "--key", KEY])
            return Ran(code, *capsys.readouterr())

        done = served.run({"prompt": "draw", "seed": 3})
        served.final(done)
        told = ran("status", done, "--out", str(tmp_path))
        assert told.returncode == 0
        assert told.stdout.startswith(f"{done}  COMPLETED, ")
        assert "with sdk-1" in told.stdout
        assert (tmp_path / f"{done}_0.png").read_bytes().startswith(b"\x89PNG")
        assert json.loads(ran("status", done, "--json").stdout)["output"][0]["seed"] == 3

        failed = served.run({"fail": "no such sampler"})
        served.final(failed)
        assert ran("status", failed).stdout.endswith(", no such sampler\n")
        assert ran("retry", failed).stdout == f"{failed}  IN_QUEUE\n"
        served.final(failed)

        waits = served.run({"sleep_s": 60})
        assert ran("cancel", waits, done).stdout == f"{waits}  CANCELLED\n{done}  COMPLETED\n"
        refused = ran("retry", waits)
        assert refused.returncode == 1
        assert "CANCELLED (HTTP 400)" in refused.stderr
        unknown = ran("status", "no such?job", done)
        assert unknown.returncode == 1
        assert unknown.stderr == "sdworker: no such?job: no such job, or its data has expired (HTTP 404)\n"
        assert unknown.stdout.startswith(f"{done}  COMPLETED")

        assert ran("health").stdout.splitlines()[1].startswith("workers  idle ")
        assert json.loads(ran("health", "--json").stdout)["workers"]["ready"] == 1
        assert ran("purge").stdout == "0 cancelled\n"

    def test_the_schema_is_the_workers(
        self, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MODEL_DIR", str(model))
        assert main(["schema"]) == 0
        assert "prompt" in json.loads(capsys.readouterr().out)["properties"]

    @pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
    def test_the_shell_completes_commands_and_options(self, tmp_path: Path) -> None:
        script = subprocess.run(
            [sys.executable, "-m", "sdworker.cli", "completion", "bash"],
            capture_output=True,
            text=True,
            check=True,
            timeout=180,
        ).stdout
        ask = (
            'complete_line() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); '
            '_shtab_sdworker "" "${COMP_WORDS[COMP_CWORD]}"; echo "${COMPREPLY[*]}"; }\n'
            "complete_line sdworker su; complete_line sdworker submit --para\n"
            "complete_line sdworker completion f\n"
        )
        ran = subprocess.run(
            ["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True, timeout=180
        )
        assert ran.stdout.split() == ["submit", "--parallel", "fish"]


class TestBatch:
    @staticmethod
    def jobs_file(tmp_path: Path, *lines: object) -> Path:
        path = tmp_path / "jobs.jsonl"
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        return path

    @staticmethod
    def line(endpoint: Endpoint, jobs: Path, *options: str) -> list[str]:
        where = ["--endpoint", endpoint.url, "--key", KEY, "--out", str(jobs.parent / "out")]
        return ["submit", "--jobs", str(jobs), *where, *options]

    def test_all_are_done_at_once_and_only_once(
        self, served: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        jobs = self.jobs_file(
            tmp_path,
            {"prompt": "draw", "seed": 1},
            "",
            {"input": {"prompt": "draw", "seed": 2}, "policy": {"ttl": 60_000}},
            {"prompt": "draw", "seed": 1},
            {"fail": "no such sampler"},
        )
        assert main(self.line(served, jobs, "--parallel", "3")) == 1
        first = capsys.readouterr()
        assert sorted(line.split()[-1] for line in first.out.splitlines()) == ["1", "1", "2"]
        assert "sdworker: line 5: FAILED: no such sampler\n" in first.err
        assert "1 of 4 failed" in first.err
        assert len(list((tmp_path / "out").glob("*.png"))) == 3

        before = {job["id"] for job in requests(served)}
        jobs.write_text(jobs.read_text() + '{"prompt": "draw", "seed": 3}\n')
        assert main(self.line(served, jobs)) == 1
        second = capsys.readouterr()
        assert "3 of 5 are done already" in second.err
        assert second.out.split()[-1] == "3"
        assert len({job["id"] for job in requests(served)} - before) == 2, "the new one and the failed one"

    def test_a_killed_run_is_gone_on_with_and_what_was_queued_is_not_sent_again(
        self, served: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        jobs = self.jobs_file(tmp_path, *({"prompt": "draw", "seed": n, "sleep_s": 1.5} for n in range(6)))
        before = {job["id"] for job in requests(served)}
        log = tmp_path / "out" / "jobs-log.jsonl"
        line = self.line(served, jobs, "--parallel", "6")
        process = subprocess.Popen([sys.executable, "-m", "sdworker.cli", *line], stderr=subprocess.DEVNULL)
        eventually(lambda: log.exists() and log.read_bytes().count(b"\n") >= 6, timeout_s=180)
        process.kill()
        process.wait()
        with log.open("a") as file:
            file.write('{"job": "half a li')
        assert main(line) == 0
        capsys.readouterr()
        assert len({job["id"] for job in requests(served)} - before) == 6
        assert len(list((tmp_path / "out").glob("*.png"))) == 6

    def test_ctrl_c_cancels_what_is_under_way_and_the_same_command_goes_on(
        self, served: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        jobs = self.jobs_file(tmp_path, *({"prompt": "draw", "seed": n, "sleep_s": 60} for n in range(9)))
        log = tmp_path / "out" / "jobs-log.jsonl"
        line = self.line(served, jobs, "--parallel", "3")
        process = subprocess.Popen(
            [sys.executable, "-m", "sdworker.cli", *line], stderr=subprocess.PIPE, text=True
        )
        eventually(lambda: log.exists() and log.read_bytes().count(b"\n") >= 3, timeout_s=180)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=180)
        assert process.returncode == 130
        assert "interrupted; 0 of 9 are done, the same command goes on" in stderr
        assert "Traceback" not in stderr
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        cancelled = {entry["id"] for entry in entries if entry["status"] == "CANCELLED"}
        assert len(cancelled) == 3
        assert {served.status(job_id)["status"] for job_id in cancelled} == {"CANCELLED"}

    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            (["{"], "line 1 is not JSON"),
            (['{"prompt": "x"}', "7"], "line 2 should be a job"),
            ([], "there is no job in it"),
        ],
    )
    def test_a_file_that_makes_no_sense_is_told_before_anything_is_sent(
        self,
        shared: Endpoint,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        lines: list[str],
        said: str,
    ) -> None:
        assert main(self.line(shared, self.jobs_file(tmp_path, *lines))) == 2
        assert said in capsys.readouterr().err
        assert requests(shared) == []

    def test_a_wrong_key_ends_it_at_once(
        self, shared: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        jobs = self.jobs_file(tmp_path, *({"seed": n} for n in range(50)))
        assert main([*self.line(shared, jobs), "--key", "wrong"]) == 1
        assert "given up; 0 of 50 are done" in capsys.readouterr().err

    def test_one_log_has_one_run(
        self, shared: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        log = tmp_path / "log"
        with log.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            line = self.line(shared, self.jobs_file(tmp_path, {"seed": 1}), "--log", str(log))
            assert main(line) == 2
        assert "another run is writing it" in capsys.readouterr().err


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


def answers(http: httpx.Client, url: str, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None
    try:
        return http.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


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
        (["--max-requeues", "-1"], "--max-requeues must be"),
        (["--endpoint-id", "a/b?c"], "--endpoint-id 'a/b?c': should be"),
        (["--endpoint-id", ""], "--endpoint-id '': should be"),
    ],
)
def test_options_that_make_no_sense_are_said_in_one_line(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["serve", "--port", "0", "--data", str(tmp_path), *options])
    assert serve.run(arguments) == 2
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
        http = httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=180)

        # Both workers are ready when it says so, and the printed line works as it is.
        assert http.get(f"{url}/health").json()["workers"]["ready"] == 2
        curl = printed.split("Try it:")[1]
        ran = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=180, check=True)
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
        assert process.wait(180) == 0, (folder / "log").read_text()
        eventually(lambda: not processes_of(folder))
        again = Endpoint(folder / "data")
        again.start()
        assert again.status(last)["status"] == "COMPLETED"
        again.close()

    @pytest.mark.slow
    @pytest.mark.parametrize("worker_too", [True, False], ids=["with its worker", "alone"])
    def test_killed_and_started_again_its_own_workers_jobs_go_on_at_once(
        self, tmp_path: Path, worker_too: bool
    ) -> None:
        """Not by a time limit: those are ten minutes here. A worker that still is at its job is let finish it."""
        port = free_port()
        line = command(
            "serve",
            *("--handler", str(SDK_WORKER), "--port", str(port), "--data", str(tmp_path / "data")),
            *("--key", KEY, "--worker-timeout", "600", "--ping-interval", "600"),
            *("--input-schema", str(SDK_WORKER.with_name("input_schema.json"))),
        )
        env = {**os.environ, "TEST_FOLDER": str(tmp_path)}
        http = httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=180)
        url = f"http://127.0.0.1:{port}/v2/stable-diffusion-v1"

        def start() -> "subprocess.Popen[bytes]":
            with (tmp_path / "log").open("ab") as log:
                process = subprocess.Popen(line, stdout=log, stderr=log, env=env)
            eventually(lambda: answers(http, url, process), timeout_s=180)
            return process

        process = start()
        job_id = http.post(f"{url}/run", json={"input": {"until": str(tmp_path / "go")}}).json()["id"]
        eventually(
            lambda: http.get(f"{url}/status/{job_id}").json()["status"] == "IN_PROGRESS", timeout_s=180
        )
        (pid, _), *others = json.loads((tmp_path / "data" / "workers.json").read_text()).values()
        assert not others
        process.kill()
        process.wait()
        if worker_too:
            os.killpg(pid, signal.SIGKILL)
        process = start()
        if worker_too:
            eventually(lambda: http.get(f"{url}/health").json()["jobs"]["retried"] == 1, timeout_s=180)
        (tmp_path / "go").write_text("")
        try:
            done = eventually(
                lambda: (
                    status
                    if (status := http.get(f"{url}/status/{job_id}").json())["status"] == "COMPLETED"
                    else None
                ),
                timeout_s=60,
            )
            assert done["workerId"] == "local-1"
            assert http.get(f"{url}/health").json()["jobs"]["retried"] == worker_too
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(180) == 0
        eventually(lambda: not processes_of(tmp_path))
        assert json.loads((tmp_path / "data" / "workers.json").read_text()) == {}

    def test_a_port_in_use_is_named_with_the_remedy(self, shared: Endpoint, tmp_path: Path) -> None:
        line = command("serve", "--port", str(shared.port), "--data", str(tmp_path / "data"))
        ran = subprocess.run(line, capture_output=True, text=True, timeout=180, check=False)
        assert ran.returncode == 1
        assert f"port {shared.port} of 127.0.0.1 is in use; name another with --port" in ran.stderr
        assert "Traceback" not in ran.stderr

    def test_a_worker_that_cannot_start_is_said_in_one_line(self, tmp_path: Path) -> None:
        handler = tmp_path / "handler.py"
        handler.write_text("import sys; sys.exit(7)")
        line = command("serve", "--handler", str(handler), "--port", "0", "--data", str(tmp_path / "data"))
        ran = subprocess.run(line, capture_output=True, text=True, timeout=180, check=False)
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
        _, stderr = process.communicate(timeout=180)
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

"""The worker's process: killed, ended, without a log or a disk, with variables of nonsense, with a dead engine."""

import asyncio
import base64
import contextlib
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.standin import Platform, platform
from sdworker.process import environment, log_stream, redaction
from sdworker.serverless import wire
from sdworker.serverless.outbox import encode
from tests.serverless.conftest import ROOT, running_worker, signal_group

from .faults import Faults

JOB = {"prompt": "x", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 5}
LONG = {**JOB, "num_inference_steps": 120}
FAST_PINGS: dict[str, Any] = {"RUNPOD_PING_INTERVAL": "100", "PROGRESS_INTERVAL_MS": "50"}


async def drawing(standin: Platform, *names: str) -> None:
    """Submit long jobs and wait until they are being drawn."""
    for name in names:
        standin.submit(name, **LONG)
    await standin.until(lambda: set(names) <= {job_id for job_id, _ in standin.posts})


# Ends, by real signals.


async def test_a_worker_that_is_killed_pings_no_more_and_leaves_nothing_behind() -> None:
    async with running_worker(**FAST_PINGS) as worker:
        await drawing(worker.platform, "killed")
        await worker.platform.until(lambda: "killed" in worker.platform.pings)
        worker.process.kill()
        assert await worker.exit_code() == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            signal_group(worker.process.pid, 0)
        pings = len(worker.platform.pings)
        await asyncio.sleep(1.0)
        assert len(worker.platform.pings) <= pings + 1  # one may have been on its way


@pytest.mark.slow
async def test_nothing_can_be_killed_that_would_end_the_pings_alone() -> None:
    """They are the worker's own, not one of its children's."""
    async with running_worker(**FAST_PINGS) as worker:
        await worker.platform.until(lambda: len(worker.platform.pings) > 3)
        for child in children_of(worker.process.pid):
            os.kill(int(child), signal.SIGKILL)
        pings = len(worker.platform.pings)
        await worker.platform.until(lambda: len(worker.platform.pings) > pings + 3)


def children_of(pid: int) -> list[str]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return "".join((thread / "children").read_text("ascii") for thread in threads).split()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_the_whole_group_lets_jobs_drain_and_pings_go_on(number: int) -> None:
    async with running_worker(**FAST_PINGS) as worker:
        standin = worker.platform
        await drawing(standin, "drains")
        signal_group(worker.process.pid, number)
        pings = len(standin.pings)
        await standin.until(lambda: "drains" in standin.pings[pings + 2 :] or "drains" in standin.results)
        assert "output" in await standin.result("drains")
        assert await worker.exit_code() == 0
        assert "drains" in standin.pings[pings:]


@pytest.mark.parametrize(
    ("number", "decoders"), [(signal.SIGTERM, "started just then"), (signal.SIGINT, "at work before")]
)
async def test_pictures_are_decoded_after_a_signal_to_the_whole_group(number: int, decoders: str) -> None:
    """As a shell sends it; to them too, then, were they of the group."""
    file = io.BytesIO()
    Image.new("RGB", (1500, 1500), "red").save(file, "PNG")
    with_picture = {**JOB, "init_image": base64.b64encode(file.getvalue()).decode("ascii")}
    async with running_worker(CONCURRENCY="4", **FAST_PINGS) as worker:
        standin = worker.platform
        if decoders == "at work before":
            standin.submit("before", **with_picture)
            assert "output" in await standin.result("before")
        await drawing(standin, "drains")
        for i in range(2):
            standin.submit(f"picture-{i}", **with_picture)
        await standin.until(lambda: "picture-1" in standin.taken)
        signal_group(worker.process.pid, number)
        for name in ("drains", "picture-0", "picture-1"):
            assert "output" in await standin.result(name)
        assert await worker.exit_code() == 0


async def test_sigterm_waits_for_a_platform_that_is_away() -> None:
    faults = Faults()
    async with running_worker(middlewares=(faults.middleware,), **FAST_PINGS) as worker:
        await drawing(worker.platform, "late")
        faults.away = True
        worker.terminate()
        await asyncio.sleep(5)
        assert worker.process.returncode is None
        faults.away = False
        assert await worker.exit_code(120) == 0
        assert "output" in worker.platform.results["late"]


@pytest.mark.parametrize("answer", ["hang", pytest.param(503, marks=pytest.mark.slow)])
async def test_sigterm_gives_up_a_result_after_the_grace_and_says_which(answer: int | str) -> None:
    faults = Faults()
    faults.of_results("lost", *[answer] * 1000)
    async with running_worker(middlewares=(faults.middleware,), SHUTDOWN_GRACE_S="1", **FAST_PINGS) as worker:
        worker.platform.submit("lost", **JOB)
        async with asyncio.timeout(180):
            while not faults.offers:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        worker.terminate()
        assert await worker.exit_code(60) == 1
        assert "job lost: its result of" in worker.text


@pytest.mark.slow
async def test_sigterm_twice_loses_nothing() -> None:
    async with running_worker(**FAST_PINGS) as worker:
        await drawing(worker.platform, "once")
        worker.terminate()
        worker.terminate()
        assert await worker.exit_code(120) == 0
        assert "output" in worker.platform.results["once"]


async def test_sigterm_while_the_model_loads_ends_it() -> None:
    async with running_worker() as worker:
        async with asyncio.timeout(180):
            while "loading" not in worker.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        worker.terminate()
        assert await worker.exit_code() == 0
        assert "Traceback" not in worker.text


# An engine that dies.


@pytest.mark.parametrize(
    "how", ["panic", *(pytest.param(how, marks=pytest.mark.slow) for how in ("SystemExit", "GeneratorExit"))]
)
async def test_an_engine_that_dies_fails_its_jobs_reports_it_and_ends_the_process(how: str) -> None:
    async with running_worker(
        script=("tests/hostile/dying_handler.py", how), CONCURRENCY="4", **FAST_PINGS
    ) as worker:
        for i in range(3):
            worker.platform.submit(f"on-board-{i}", **LONG)
        results = [await worker.platform.result(f"on-board-{i}") for i in range(3)]
        assert all("send the job again" in result["error"] for result in results), results
        assert any(result.get("stopPod") for result in results)
        assert await worker.exit_code() == 1
        assert worker.platform.reports[-1]["check"] == "engine"
        assert len(worker.platform.taken) == 3


# The log.


@asynccontextmanager
async def logging_to(
    stdout: int | None, *, preexec: Callable[[], None] | None = None, **settings: str
) -> AsyncIterator[tuple[Platform, asyncio.subprocess.Process]]:
    """A worker whose log goes where it is told to."""
    async with platform() as standin:
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("RUNPOD_", "BUCKET_"))
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "handler.py",
            cwd=ROOT,
            env={**clean, **standin.environment(), **settings},
            stdout=stdout,
            stderr=stdout,
            start_new_session=True,
            preexec_fn=preexec,
        )
        try:
            yield standin, process
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal_group(process.pid, signal.SIGKILL)
            await process.wait()


def _close_all() -> None:
    for descriptor in (0, 1, 2):
        os.close(descriptor)


async def draws_and_ends(standin: Platform, process: asyncio.subprocess.Process, jobs: int = 3) -> None:
    for i in range(jobs):
        standin.submit(f"job-{i}", **JOB)
        assert "output" in await standin.result(f"job-{i}")
    await standin.until(lambda: standin.parked == 1)
    process.terminate()
    async with asyncio.timeout(180):
        assert await process.wait() == 0


async def test_a_log_reader_that_goes_away_stops_no_job() -> None:
    reading, writing = os.pipe()
    async with logging_to(writing) as (standin, process):
        os.close(writing)
        await standin.until(lambda: standin.parked == 1)
        os.close(reading)
        await draws_and_ends(standin, process)


@pytest.mark.slow
async def test_a_log_reader_that_stops_reading_stops_no_job() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    async with logging_to(writing, RUNPOD_LOG_LEVEL="DEBUG") as (standin, process):
        os.close(writing)
        await draws_and_ends(standin, process, jobs=20)
    os.close(reading)


@pytest.mark.slow
async def test_a_full_disk_for_logs_stops_no_job() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    async with logging_to(full) as (standin, process):
        os.close(full)
        await draws_and_ends(standin, process)


@pytest.mark.slow
async def test_a_process_without_standard_streams_stops_no_job() -> None:
    async with logging_to(None, preexec=_close_all) as (standin, process):
        await draws_and_ends(standin, process)


def test_lines_that_could_not_be_written_are_counted() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 16384)
    stream = log_stream.LogStream(writing)
    for i in range(400):
        print(f"line {i} " + "x" * 100, file=stream)
    first = os.read(reading, 65536).decode()
    print("after", file=stream)
    second = os.read(reading, 65536).decode()
    assert first.startswith("line 0 ")
    assert "lines of the log could not be written]\nafter\n" in second
    os.close(reading)
    os.close(writing)


# A disk that is read-only throughout.

_READ_ONLY = """
import errno, os, sys

def refuse(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writes = flags and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and not str(path).startswith(("/dev/", "/proc/")) and not isinstance(path, int):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
    elif event in ("os.mkdir", "os.rename", "os.remove", "tempfile.mkstemp", "tempfile.mkdtemp"):
        raise OSError(errno.EROFS, "Read-only file system", str(arguments[0]))

sys.addaudithook(refuse)
"""


@pytest.mark.slow
async def test_a_disk_that_is_read_only_throughout_stops_no_job(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_READ_ONLY, "utf-8")
    async with running_worker(PYTHONPATH=str(tmp_path)) as worker:
        worker.platform.submit("dry", **JOB)
        assert "output" in await worker.platform.result("dry")
        await worker.platform.until(lambda: worker.platform.parked == 1)
        worker.terminate()
        assert await worker.exit_code() == 0
        assert "Traceback" not in worker.text


# Variables.

_10_S = "10000"
# name, given → used, a part of the sentence that says so (None: nothing is said).
VARIABLES: list[tuple[str, str, str | None, str | None]] = [
    ("RUNPOD_LOG_LEVEL", "LOUD", "INFO", "is not a level; allowed: NOTSET"),
    ("RUNPOD_LOG_LEVEL", "2", "INFO", "is not a level"),
    ("RUNPOD_LOG_LEVEL", "info", "INFO", None),
    ("RUNPOD_LOG_LEVEL", " debug\n", "DEBUG", None),
    ("RUNPOD_LOG_LEVEL", "warning", "WARN", None),
    ("RUNPOD_LOG_LEVEL", "", None, None),
    ("RUNPOD_LOG_LEVEL", "x" * 100_000, "INFO", "..."),
    ("RUNPOD_DEBUG_LEVEL", "?", "INFO", "RUNPOD_DEBUG_LEVEL: '?'"),
    ("RUNPOD_PING_INTERVAL", "soon", _10_S, "is not a number of milliseconds"),
    ("RUNPOD_PING_INTERVAL", "0", _10_S, "between 100 and 300000; using 10000"),
    ("RUNPOD_PING_INTERVAL", "-1000", _10_S, "'-1000'"),
    ("RUNPOD_PING_INTERVAL", "1" * 400, _10_S, "is not a number"),
    ("RUNPOD_PING_INTERVAL", "nan", _10_S, "'nan'"),
    ("RUNPOD_PING_INTERVAL", "inf", _10_S, "'inf'"),
    ("RUNPOD_PING_INTERVAL", "1e3", "1000", None),
    ("RUNPOD_PING_INTERVAL", "2500.5", "2500", None),
    ("RUNPOD_PING_INTERVAL", "86400000", _10_S, "'86400000'"),
    ("RUNPOD_PING_INTERVAL", "", _10_S, None),
    ("RUNPOD_PING_INTERVAL", "4000", "4000", None),
    ("RUNPOD_REALTIME_PORT", "http", None, "left out"),
    ("RUNPOD_REALTIME_PORT", "70000", None, "left out"),
    ("RUNPOD_REALTIME_CONCURRENCY", "0", None, "left out"),
    ("RUNPOD_AI_API_KEY", "a-key\n", "a-key", None),
]


@pytest.mark.parametrize(("name", "given", "used", "said"), VARIABLES)
def test_a_variable_of_the_sdks_that_is_unusable_is_told_in_one_sentence_and_replaced(
    name: str, given: str, used: str | None, said: str | None
) -> None:
    sentences: list[str] = []
    variables = {name: given}
    environment.mend(variables, sentences.append)
    assert variables.get(name) == used
    assert len(sentences) == (0 if said is None else 1)
    assert said is None or (said in sentences[0] and len(sentences[0]) < 200)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"RUNPOD_LOG_LEVEL": "LOUD", "RUNPOD_PING_INTERVAL": "soon"},
        {"RUNPOD_LOG_LEVEL": "", "RUNPOD_PING_INTERVAL": "0", "RUNPOD_REALTIME_PORT": "x"},
        {"RUNPOD_WEBHOOK_PING": "no url", "RUNPOD_PING_INTERVAL": "-5", "QUICK_START": "0"},
    ],
    ids=lambda variables: " ".join(variables),
)
async def test_with_such_variables_the_worker_starts_and_draws(variables: dict[str, Any]) -> None:
    async with running_worker(**variables) as worker:
        worker.platform.submit("all the same", **JOB)
        assert "output" in await worker.platform.result("all the same")
        assert "Traceback" not in worker.text


_URL = "http://127.0.0.1:9/"
# variable, its value → a part of the sentence that refuses it; None: it is taken.
ADDRESSES: list[tuple[str, str, str | None]] = [
    ("GET_JOB", "", "RUNPOD_WEBHOOK_GET_JOB: is not set"),
    ("GET_JOB", "job-take", "is not an http or https URL"),
    ("GET_JOB", "ftp://host/job-take/$ID?", "is not an http"),
    ("GET_JOB", "http://", "is not an http"),
    ("GET_JOB", "http:///job-take/$ID", "is not an http"),
    ("GET_JOB", "http://host:port/job-take/$ID", "is not an http"),
    ("GET_JOB", "http://host:99999/job-take/$ID", "is not an http"),
    ("GET_JOB", "http://host:0/job-take/$ID", "is not an http"),
    ("GET_JOB", "http://ho st/job-take/$ID", "is not an http"),
    ("GET_JOB", "http://[::1/job-take/$ID", "is not an http"),
    ("GET_JOB", "http://[::1]:80/job-take/$ID?gpu=x", None),
    ("GET_JOB", "http://host/job-take/\x00", "is not an http"),
    ("GET_JOB", f"{_URL}take-without-a-question/$ID", None),
    ("GET_JOB", f"  {_URL}job-take/$ID?x=1\n", None),
    ("POST_OUTPUT", "", "RUNPOD_WEBHOOK_POST_OUTPUT: is not set"),
    ("POST_OUTPUT", f"{_URL}job-done/$RUNPOD_POD_ID", "has no $ID in it"),
    ("POST_OUTPUT", "//host/$ID", "is not an http"),
    ("POST_OUTPUT", f"{_URL}job-done/$RUNPOD_POD_ID/$ID", None),
    ("PING", "nonsense", "RUNPOD_WEBHOOK_PING: is not an http"),
    ("PING", "", None),
    ("PING", "PING_NOT_SET", None),
]


@pytest.mark.parametrize(("name", "value", "refused"), ADDRESSES)
def test_an_address_of_the_platforms_is_judged_at_start(name: str, value: str, refused: str | None) -> None:
    variables = {**Platform(port=9).environment(), f"RUNPOD_WEBHOOK_{name}": value}
    if refused is not None:
        with pytest.raises(wire.AddressError) as error:
            wire.Addresses.from_environment("w", variables)
        assert refused in str(error.value)
        return
    addresses = wire.Addresses.from_environment("w", variables)
    for url in (addresses.take(1, busy=False), addresses.take(4, busy=True), addresses.done("a/b?c")):
        assert url.count("?") == 1
    assert "a%2Fb%3Fc" in addresses.done("a/b?c")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RUNPOD_WEBHOOK_GET_JOB", "nonsense"),
        ("RUNPOD_WEBHOOK_POST_OUTPUT", "http://host/no-id"),
        ("RUNPOD_AI_API_KEY", "schlüssel"),
    ],
)
def test_a_worker_that_could_not_speak_with_the_platform_says_so_in_one_sentence(
    variable: str, value: str
) -> None:
    done = subprocess.run(
        [sys.executable, "handler.py"],
        cwd=ROOT,
        env={**os.environ, **Platform(port=9).environment(), variable: value},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert f"The worker cannot start. {variable}: " in done.stderr
    assert "Traceback" not in done.stderr


# What must not stand in a log.

_SIGNATURE = "0f3a" * 16
_KEY_ID, _SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
_LINK = (
    f"https://b.s3.amazonaws.com/a.png?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={_KEY_ID}%2F2026"
    f"%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20260101T000000Z&X-Amz-Signature={_SIGNATURE}"
)
SECRETS: list[tuple[str, str]] = [
    (f"Handler output: [{{'image': '{_LINK}', 'seed': 1}}]", _SIGNATURE),
    (f"Handler output: [{{'image': '{_LINK}', 'seed': 1}}]", _KEY_ID),
    (json.dumps({"message": json.dumps({"image": _LINK})}), _SIGNATURE),
    (f"https://b.example/a?AWSAccessKeyId=GOOG1EXAMPLEID&Signature={_SECRET}&Expires=1", _SECRET),
    (f"https://b.example/a?AWSAccessKeyId={_SECRET}&Expires=1", _SECRET),
    (f"https://storage.example/a?X-Goog-Credential=me&X-Goog-Signature={_SIGNATURE}", _SIGNATURE),
    (f"https://blob.example/a?sv=2024&sig={_SIGNATURE}", _SIGNATURE),
    (
        f"Authorization: AWS4-HMAC-SHA256 Credential=me/2026, SignedHeaders=h, Signature={_SIGNATURE}",
        _SIGNATURE,
    ),
    (f"AWS4-HMAC-SHA256 Credential={_SECRET}/20260101/us-east-1/s3/aws4_request, SignedHeaders=x", _SECRET),
    (f"{{'Authorization': 'Bearer {_SECRET}'}}", _SECRET),
    (f"{{'Authorization': '{_SECRET}'}}", _SECRET),
    (f'{{"s3Config": {{"accessId": "{_SECRET}", "accessSecret": "s"}}}}', _SECRET),
    (f"{{'accessId': 'a', 'accessSecret': '{_SECRET}'}}", _SECRET),
    (f'"{{\\"accessSecret\\": \\"{_SECRET}\\"}}"', _SECRET),
    (f"aws_access_key_id={_SECRET}", _SECRET),
    (f"aws_secret_access_key: {_SECRET}", _SECRET),
    (f"BUCKET_SECRET_ACCESS_KEY={_SECRET}", _SECRET),
    (f"RUNPOD_AI_API_KEY={_SECRET}", _SECRET),
    (f"x-amz-security-token: {_SECRET}", _SECRET),
    (f"connecting to https://user:{_SECRET}@bucket.example/", _SECRET),
    (f"a key id on its own, {_KEY_ID}, in a sentence", _KEY_ID),
    (f"image: {'iVBORw0KGgo' * 100}", "iVBORw0KGgo" * 50),
]


@pytest.mark.parametrize(("line", "secret"), SECRETS)
def test_a_secret_does_not_stand_in_the_log(line: str, secret: str) -> None:
    assert secret in line
    assert secret not in redaction.redact(line)


@pytest.mark.parametrize(
    "line",
    [
        "job 5: 1 x 64x64, 20 steps of DPM++ 2M Karras; read 0 ms",
        "the monkey=banana, the signature of a function, a token: fine",
        "https://example.com/picture.png?width=5&keyword=cat",
        "/models/emoji/unet/diffusion_pytorch_model.safetensors is damaged",
    ],
)
def test_a_plain_line_stands_as_it_is(line: str) -> None:
    assert redaction.redact(line) == line


def test_a_secret_that_a_job_brought_is_known_wherever_it_turns_up() -> None:
    redaction.remember("an unlikely secret")
    assert redaction.redact("boto says: an unlikely secret, yes") == "boto says: [redacted], yes"


def test_a_line_of_quotes_takes_no_time() -> None:
    for line in ("\"'" * 200_000, "\\" * 200_000, "accessId" * 50_000, "https://" * 50_000, "sig=" * 100_000):
        redaction.redact(line)


async def test_at_debug_neither_keys_nor_links_nor_pictures_are_logged() -> None:
    async with running_worker(RUNPOD_LOG_LEVEL="DEBUG") as worker:
        config = {
            "accessId": _KEY_ID,
            "accessSecret": _SECRET,
            "bucketName": "b",
            "endpointUrl": f"https://user:{_SECRET}@127.0.0.1",
        }
        worker.platform.submit_job({"id": "s3", "input": JOB, "s3Config": config})
        await worker.platform.result("s3")
        worker.platform.submit("plain", **JOB)
        image = (await worker.platform.result("plain"))["output"][0]["image"]
        for secret in (_KEY_ID, _SECRET, image[:600]):
            assert secret not in worker.text


def test_the_stream_redacts_what_arrives_in_pieces() -> None:
    reading, writing = os.pipe()
    stream = log_stream.LogStream(writing, original=io.StringIO())
    for piece in ("accessSec", f"ret: {_SECRET[:10]}", f"{_SECRET[10:]}\n"):
        stream.write(piece)
    assert _SECRET[:10] not in os.read(reading, 65536).decode()
    os.close(reading)
    os.close(writing)


@dataclass
class _Unsendable:
    """No JSON can hold it."""


@pytest.mark.parametrize(
    "value", [_Unsendable(), "\ud800", {1, 2}, b"bytes"], ids=lambda it: type(it).__name__
)
def test_a_result_that_cannot_be_written_becomes_an_error_that_can(value: Any) -> None:
    assert "cannot be sent" in json.loads(encode({"output": [value]}))["error"]

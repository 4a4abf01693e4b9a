"""A platform that sends nonsense, is away, is slow, refuses: nothing but what is at fault suffers.

The real worker, the real SDK in its production mode; the stand-in platform with faults in front of it.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from bench.standin import Body
from tests.serverless.conftest import WorkerProcess, running_worker

from .faults import Faults, at_once, endless

pytestmark = pytest.mark.asyncio(loop_scope="module")

JOB = {"prompt": "x", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 5}
LONG = {**JOB, "num_inference_steps": 120}


@dataclass
class Served:
    worker: WorkerProcess
    faults: Faults

    def __post_init__(self) -> None:
        self.platform = self.worker.platform
        self._number = 0

    async def still_serves(self) -> None:
        """The next job is unaffected."""
        self._number += 1
        name = f"fine-{self._number}"
        self.platform.submit(name, **JOB)
        assert (await self.platform.result(name))["output"][0]["seed"] == 5


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Served]:
    """One worker for all that leave it as it was."""
    faults = Faults()
    async with running_worker(
        middlewares=(faults.middleware,), CONCURRENCY="4", PROGRESS_INTERVAL_MS="50"
    ) as worker:
        yield Served(worker, faults)


def batch(*jobs: Any) -> bytes:
    return json.dumps(list(jobs)).encode()


def good(name: str) -> dict[str, Any]:
    return {"id": name, "input": JOB}


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
UNEVEN = {"id": "uneven", "input": {"prompt": [[[["x"] * 50] * 3] * 3]}}

# What the platform sends, and what becomes of it: job → a part of its error, or "drawn"; "" for a line of the log.
SENT: dict[str, tuple[bytes, dict[str, str]]] = {
    "an id that is a number is answered under its text": (
        batch({"id": 7001, "input": JOB}, good("a1")),
        {"7001": "is a number", "a1": "drawn"},
    ),
    "a negative number likewise": (batch({"id": -3, "input": JOB}), {"-3": "is a number"}),
    "null is no id": (batch({"id": None, "input": JOB}, good("a2")), {"a2": "drawn", "": "whose id is null"}),
    "nor is a list": (batch({"id": ["x"], "input": JOB}, good("a3")), {"a3": "drawn", "": "whose id is a list"}),
    "nor an object": (batch({"id": {"x": 1}, "input": JOB}, good("a4")), {"a4": "drawn", "": "id is an object"}),
    "nor true": (batch({"id": True, "input": JOB}, good("a5")), {"a5": "drawn", "": "id is true or false"}),
    "nor a fraction": (batch({"id": 1.5, "input": JOB}, good("a6")), {"a6": "drawn", "": "whose id is a number"}),
    "nor an empty text": (batch({"id": "", "input": JOB}, good("a7")), {"a7": "drawn", "": "whose id is blank"}),
    "nor blanks": (batch({"id": " \t", "input": JOB}, good("a8")), {"a8": "drawn", "": "whose id is blank"}),
    "nor half a character": (
        b'[{"id": "\\ud800", "input": {}}, ' + json.dumps(good("a9")).encode() + b"]",
        {"a9": "drawn", "": "which no address can name"},
    ),
    "nor the folder above": (
        batch({"id": "..", "input": JOB}, good("a10")),
        {"a10": "drawn", "": "which no address can name"},
    ),
    "nor a book": (
        batch({"id": "x" * 100_000, "input": JOB}, good("a11")),
        {"a11": "drawn", "": "100000 characters long"},
    ),
    "nor a number of thousands of digits": (
        b'[{"id": ' + b"9" * 5000 + b', "input": {}}, ' + json.dumps(good("a12")).encode() + b"]",
        {"a12": "drawn", "": "a job that could not be read"},
    ),
    "an id with a line break is answered, not run": (
        batch({"id": "two\nlines", "input": JOB}, good("a13")),
        {"two\nlines": "cannot be printed", "a13": "drawn"},
    ),
    "an id with a slash and a question is an id": (
        batch({"id": "a/../b?c=d#e%2F&f", "input": JOB}),
        {"a/../b?c=d#e%2F&f": "drawn"},
    ),
    "an id in another alphabet is an id": (batch({"id": "задание-猫", "input": JOB}), {"задание-猫": "drawn"}),
    "no id": (batch({"input": JOB}, good("a14")), {"a14": "drawn", "": "a job without an id"}),
    "keys of Python's objects": (
        batch({**good("b1"), "self": 1, "__class__": 2, "__dict__": 3, "__init__": 4, "__eq__": None}),
        {"b1": "drawn"},
    ),
    "an id among keys of the SDK's": (
        batch({**good("b2"), "webhook": 5, "batchId": [1], "kwargs": {}, "id ": "x"}),
        {"b2": "drawn"},
    ),
    "no input": (batch({"id": "b3"}, good("b4")), {"b3": "input", "b4": "drawn"}),
    "input null": (batch({"id": "b5", "input": None}), {"b5": "input"}),
    "input a list": (batch({"id": "b6", "input": [JOB]}), {"b6": "input"}),
    "input a text": (batch({"id": "b7", "input": "draw"}), {"b7": "input"}),
    "input a number": (batch({"id": "b8", "input": 5}), {"b8": "input"}),
    "input true": (batch({"id": "b9", "input": True}), {"b9": "input"}),
    "input empty": (batch({"id": "b10", "input": {}}), {"b10": "prompt"}),
    "junk in the list": (
        batch(1, None, "x", [], [good("inner")], {}, True, good("c1")),
        {"c1": "drawn", "": "null in a job's place"},
    ),
    "a job, not in a list": (json.dumps(good("c2")).encode(), {"c2": "drawn"}),
    "the same job twice": (batch(good("c3"), good("c3")), {"c3": "drawn"}),
    "more jobs than were asked for": (batch(*(good(f"d{i}") for i in range(30))), {"d0": "drawn", "d29": "drawn"}),
    "a job deeper than the parser goes": (
        b'[{"id": "e1", "input": ' + DEEP + b"}, " + json.dumps(good("e2")).encode() + b"]",
        {"e1": "nested too deeply", "e2": "drawn"},
    ),
    "its id after what is deep": (
        b'[{"input": ' + DEEP + b', "id": "e3"}, ' + json.dumps(good("e4")).encode() + b"]",
        {"e3": "nested too deeply", "e4": "drawn"},
    ),
    "a job as deep as the parser goes": (
        b'[{"id": "e5", "input": ' + b"[" * 400 + b"]" * 400 + b"}, " + json.dumps(good("e6")).encode() + b"]",
        {"e5": "nested deeper than 64 levels", "e6": "drawn"},
    ),
    "deep brackets and nothing else": (b"[" * 500_000 + batch(good("no")), {"": "could not be read"}),
    "a list that is cut off": (
        batch(good("f1"), {"id": "f2", "input": JOB})[:-30],
        {"f1": "drawn", "f2": "is not whole"},
    ),
    "a list that is cut off in an id": (b'[{"input": {}, "id": "f', {"": "could not be read"}),
    "a trailing comma": (batch(good("f3"))[:-1] + b",]", {"f3": "drawn"}),
    "a stray byte in a prompt": (
        b'[{"id": "f4", "input": {"prompt": "caf\xe9", "width": 64, "height": 64, "steps": 1}}]',
        {"f4": "drawn"},
    ),
    "UTF-16": (json.dumps([good("f5")]).encode("utf-16"), {"f5": "drawn"}),
    "a byte order mark": (b"\xef\xbb\xbf" + batch(good("f6")), {"f6": "drawn"}),
    "NaN and Infinity": (
        b'[{"id": "f7", "input": {"prompt": "x", "guidance_scale": NaN, "strength": -Infinity}}]',
        {"f7": "guidance_scale"},
    ),
    "a policy of nonsense": (
        batch({**good("g1"), "policy": {"executionTimeout": "soon"}}, {**good("g2"), "policy": [1]}),
        {"g1": "drawn", "g2": "drawn"},
    ),
    "an executionTimeout without an end": (
        b'[{"id": "g3", "input": ' + json.dumps(JOB).encode() + b', "policy": {"executionTimeout": 1e999}}]',
        {"g3": "drawn"},
    ),
    "an s3Config that is a number": (batch({**good("g4"), "s3Config": 5}), {"g4": ""}),
    "a million keys": (
        batch({**good("h1"), **{f"k{i}": i for i in range(200_000)}}),
        {"h1": "drawn"},
    ),
    "8 MB of text in the input": (batch({"id": "h2", "input": {"prompt": "x" * 8_000_000}}), {"h2": "prompt"}),
    "lists in lists where a text belongs": (batch(UNEVEN), {"uneven": "prompt"}),
}  # fmt: skip


@pytest.mark.parametrize("what", SENT)
async def test_a_body_with_jobs(served: Served, what: str) -> None:
    body, expected = SENT[what]
    served.platform.submit_body(Body(body))
    for job_id, becomes in expected.items():
        if not job_id:
            continue
        result = await served.platform.result(job_id)
        if becomes == "drawn":
            assert "output" in result, result
        else:
            assert becomes in result["error"]
            assert "Traceback" not in result["error"]
    await served.still_serves()
    if "" in expected:
        assert expected[""] in served.worker.text
    assert "inner" not in served.platform.results


async def test_none_of_them_takes_a_job_with_it_that_is_being_drawn(served: Served) -> None:
    names = [f"drawn-meanwhile-{i}" for i in range(3)]
    for name in names:
        served.platform.submit(name, **LONG)
    await served.platform.until(lambda: set(names) <= {job_id for job_id, _ in served.platform.posts})
    for body, _ in SENT.values():
        served.platform.submit_body(Body(body))
    results = [await served.platform.result(name) for name in names]
    assert all("output" in result for result in results)
    await served.still_serves()


# What offers of a result are answered with, and what becomes of it: "delivered", "replaced" by an error, "lost".
OFFERS: dict[str, tuple[tuple[int | str, ...], str]] = {
    "500 four times": ((500,) * 4, "delivered"),
    "500 once": ((500,), "delivered"),
    "502 and 504": ((502, 504), "delivered"),
    "503 five times": ((503,) * 5, "delivered"),
    "429 twice": ((429, 429), "delivered"),
    "408": ((408,), "delivered"),
    "425": ((425,), "delivered"),
    "520, a proxy's own": ((520,), "delivered"),
    "a redirect": ((302,), "delivered"),
    "moved for good, then not": ((301, 308), "delivered"),
    "not modified": ((304,), "delivered"),
    "connections that break": (("drop",) * 4, "delivered"),
    "taken, but the answer is lost": (("swallow",), "delivered"),
    "401 in passing": ((401, 401), "delivered"),
    "403 in passing": ((403,), "delivered"),
    "404 three times": ((404,) * 3, "delivered"),
    "404 for good": ((404,) * 4, "lost"),
    "401 for good": ((401,) * 4, "lost"),
    "403 for good": ((403,) * 4, "lost"),
    "409 for good": ((409,) * 4, "lost"),
    "410 for good": ((410,) * 4, "lost"),
    "418 for good": ((418,) * 4, "lost"),
    "400": ((400,), "replaced"),
    "413": ((413,), "replaced"),
    "422": ((422,), "replaced"),
    "413 after a 500": ((500, 413), "replaced"),
    "400, its error too": ((400, 400), "lost"),
    "400 after one that may have arrived": (("drop", 400), "lost"),
    "everything by turns": ((500, "drop", 429, 302, 503, 408), "delivered"),
    "201": ((201,), "taken"),
    "204": ((204,), "taken"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def offered(served: Served) -> Served:
    """All of them at once, each as a job of its own; none waits for another."""
    for i, (answers, _) in enumerate(OFFERS.values()):
        served.faults.of_results(f"offered-{i}", *answers)
        served.platform.submit(f"offered-{i}", **JOB)
    return served


@pytest.mark.parametrize("what", OFFERS)
async def test_a_result_that_is_not_taken_at_once(offered: Served, what: str) -> None:
    answers, becomes = OFFERS[what]
    job_id = f"offered-{list(OFFERS).index(what)}"
    if becomes in ("delivered", "replaced"):
        result = await offered.platform.result(job_id)
        assert ("output" in result) == (becomes == "delivered")
        assert "error" not in result or "the platform refused this job's result" in result["error"]
    else:
        await offered.platform.until(lambda: offers_of(offered, job_id) >= len(answers))
    if becomes in ("lost", "replaced"):
        await seen(offered, f"job {job_id}: its result of ")
    else:
        assert f"job {job_id}: its result of " not in offered.worker.text
    await offered.still_serves()
    assert offers_of(offered, job_id) == len(answers) + (becomes in ("delivered", "replaced"))


def offers_of(served: Served, job_id: str) -> int:
    return sum(offered == job_id for offered, _ in served.faults.offers)


async def seen(served: Served, text: str) -> None:
    async with asyncio.timeout(180):
        while text not in served.worker.text:  # noqa: ASYNC110 - a log tells nobody
            await asyncio.sleep(0.02)


async def test_a_platform_that_is_away_for_seconds_loses_no_result(served: Served) -> None:
    names = [f"away-{i}" for i in range(6)]
    for name in names:
        served.platform.submit(name, **{**JOB, "num_inference_steps": 40})
    await served.platform.until(lambda: set(names) <= set(served.platform.taken))
    served.faults.away = True
    await asyncio.sleep(6.0)
    served.faults.away = False
    for name in names:
        assert "output" in await served.platform.result(name)
    await served.still_serves()


async def test_a_result_that_hangs_at_the_platform_holds_up_no_other(served: Served) -> None:
    served.faults.of_results("hanging", "hang")
    served.platform.submit("hanging", **JOB)
    await served.platform.until(lambda: "hanging" in served.platform.taken)
    for _ in range(5):
        await served.still_serves()
    served.platform.stop("hanging")
    await seen(served, '"requestId": "hanging", "message": "Stopped."')


@pytest.mark.slow
async def test_progress_that_takes_five_seconds_to_be_recorded_comes_before_the_result(
    served: Served,
) -> None:
    served.faults.progress_delay_s = 5.0
    served.platform.submit("slow progress", **LONG)
    try:
        await served.platform.result("slow progress")
    finally:
        served.faults.progress_delay_s = 0.0
    await served.still_serves()
    posts = [body for job_id, body in served.platform.posts if job_id == "slow progress"]
    assert len(posts) >= 2
    assert [body.get("status") for body in posts] == ["IN_PROGRESS"] * (len(posts) - 1) + [None]


# Answers that come at once and hold no job.
AT_ONCE: dict[str, dict[str, Any]] = {
    "204": {"status": 204},
    "400": {"status": 400, "text": "no"},
    "200 without a body": {"status": 200},
    "200 with null": {"text": "null", "content_type": "application/json"},
    "200 with an empty list": {"text": "[]", "content_type": "application/json"},
    "a page": {"text": "<html><body>Bad gateway</body></html>", "content_type": "text/html"},
    "cut off": {"text": '[{"id": ', "content_type": "application/json"},
    "a text": {"text": '"job"', "content_type": "application/json"},
    "a number": {"text": "17", "content_type": "application/json"},
    "junk only": {"text": "[null, 1]", "content_type": "application/json"},
    "an object without an id": {"text": '{"error": "none"}', "content_type": "application/json"},
    "an unknown charset": {"body": b"{", "headers": {"Content-Type": "application/json; charset=klingon"}},
    "bytes": {"body": bytes(range(256)), "content_type": "application/octet-stream"},
    "false gzip": {"body": b"no gzip", "headers": {"Content-Encoding": "gzip"}},
    "500": {"status": 500},
    "401": {"status": 401},
    "404": {"status": 404},
    "429": {"status": 429, "headers": {"Retry-After": "0.1"}},
    "a retry after nonsense": {"status": 503, "headers": {"Retry-After": "never"}},
    "a redirect to itself": {"status": 302, "headers": {"Location": "/job-take/worker-1"}},
}
# The SDK asks 2,400 times a second.
WATCHED_S = 0.7


@pytest.mark.parametrize("what", AT_ONCE)
async def test_an_answer_at_once_is_not_asked_for_in_a_storm(served: Served, what: str) -> None:
    for faulty in ("take", "stop"):
        setattr(served.faults, faulty, at_once(**AT_ONCE[what]))
    served.faults.takes = 0
    unpark(served)
    try:
        await until(lambda: served.faults.takes >= 1)
        await asyncio.sleep(WATCHED_S)
        # The redirect leads to itself ten times before it counts as one answer.
        assert served.faults.takes <= 12 * (11 if "redirect" in what else 1)
    finally:
        served.faults.take = served.faults.stop = None
    await served.still_serves()


def unpark(served: Served) -> None:
    """Have the poll that waits at the stand-in come back, so that the next meets the fault."""
    served.platform.submit_body(Body(b"", status=204))


async def until(condition: Any) -> None:
    async with asyncio.timeout(180):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("route", ["take", "stop"])
async def test_an_endless_body_is_not_read_to_its_end(served: Served, route: str) -> None:
    before_mb = resident_mb(served)
    setattr(served.faults, route, endless)
    unpark(served)
    served.platform.stop("nobody")
    try:
        await seen(served, "is longer than") if route == "take" else await asyncio.sleep(1.0)
    finally:
        served.faults.take = served.faults.stop = None
    await served.still_serves()
    assert resident_mb(served) - before_mb < 300


def resident_mb(served: Served) -> float:
    """The most memory it ever had."""
    status = Path(f"/proc/{served.worker.process.pid}/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


async def test_cancelling_three_times_is_quiet(served: Served) -> None:
    served.platform.submit("thrice", **LONG)
    await served.platform.until(lambda: any(job_id == "thrice" for job_id, _ in served.platform.posts))
    begin = len(served.worker.text)
    for _ in range(3):
        served.platform.stop("thrice")
    await seen(served, '"requestId": "thrice", "message": "Stopped."')
    await served.still_serves()
    assert "Traceback" not in served.worker.text[begin:]
    assert "never retrieved" not in served.worker.text[begin:]
    assert served.worker.text[begin:].count("thrice") == 1
    assert "thrice" not in served.platform.results


@pytest.mark.parametrize(
    "stops",
    [["a"], [None, 5, {}], "all", {"x": 1}, [["nested"]], ["x" * 100_000]],
    ids=lambda it: str(it)[:20],
)
async def test_orders_to_stop_what_is_not_here_do_nothing(served: Served, stops: Any) -> None:
    async def ordered(_request: web.Request) -> web.StreamResponse:
        served.faults.stop = None
        return web.json_response({"jobsToStop": stops})

    served.faults.stop = ordered
    served.platform.stop("nobody")
    await until(lambda: served.faults.stop is None)
    await served.still_serves()


async def test_after_all_that_it_ends_in_order(served: Served) -> None:
    """The last in this file."""
    await served.platform.until(lambda: served.platform.parked == 1)
    served.worker.terminate()
    assert await served.worker.exit_code(120) == 0
    assert "Traceback" not in served.worker.text

"""Prompts nobody should write. Each row: what is sent, and what it expects: `DRAWN`, or words of the refusal.

Whatever is sent, the answer is a picture or one printable line, in bounded time, that repeats no prompt; and the
next job is drawn as if nothing had been.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from sdworker.errors import UserError
from sdworker.settings import Settings
from sdworker.startup import build_worker
from sdworker.worker import Worker

DRAWN = ""
SECRET = "s3cr3t"
LONGEST_ERROR = 400
SECONDS = 20.0  # of this process's own time, whatever else the machine does

JOB = {"width": 64, "height": 64, "num_inference_steps": 3, "seed": 1, "scheduler": "Euler"}

# What it is, what is sent, what is expected.
PROMPTS: list[tuple[str, dict[str, Any], str]] = [
    # Weights.
    ("a weight too large", {"prompt": f"({SECRET}:11)"}, "a weight of 11 is out of range; allowed: from"),
    ("a weight too small", {"prompt": f"({SECRET}:-10.5)"}, "a weight of -10.5 is out of range"),
    ("the largest weight", {"prompt": "(cat:10)"}, DRAWN),
    ("the smallest weight", {"prompt": "(cat:-10)"}, DRAWN),
    ("no weight at all", {"prompt": "(cat:0)"}, DRAWN),
    ("weights that multiply out of range", {"prompt": f"(({SECRET}:5):5)"}, "a weight of 25 is out of range"),
    ("a weight of 300 digits", {"prompt": f"(cat:{'9' * 300})"}, "a weight of 1e+300 is out of range"),
    ("a weight of 4,000 digits", {"prompt": f"(cat:{'9' * 4000})"}, "a weight of inf is out of range"),
    ("a weight out of range on nothing", {"prompt": "(:99) cat"}, DRAWN),
    ("a weight that is no number", {"prompt": "(cat:much)"}, DRAWN),
    ("a weight that is NaN", {"prompt": "(cat:nan) (dog:inf)"}, DRAWN),
    ("two dots in a weight", {"prompt": "(cat:1.2.3)"}, DRAWN),
    ("digits of another script", {"prompt": "(cat:١.٥)"}, DRAWN),
    ("one in the negative prompt", {"negative_prompt": f"({SECRET}:11)"}, "a weight of 11"),
    # Brackets.
    ("4,096 opening brackets", {"prompt": "(" * 4096}, DRAWN),
    ("4,096 square ones", {"prompt": "[" * 4096}, DRAWN),
    ("4,096 closing ones", {"prompt": ")" * 4096}, "tokens long; allowed: at most 750"),
    ("4,095 brackets before a word", {"prompt": "(" * 4095 + "x"}, "is out of range"),
    ("4,095 square ones before a word", {"prompt": "[" * 4095 + "x"}, DRAWN),
    ("brackets around brackets around nothing", {"prompt": "()" * 1000 + "[]" * 1000}, DRAWN),
    ("brackets that cross", {"prompt": "([)](cat[)]" * 50}, DRAWN),
    ("backslashes without end", {"prompt": "\\" * 4000 + "cat"}, "is 2001 tokens long"),
    # Schedules.
    ("a change beyond the steps", {"prompt": "[cat:dog:1000]"}, DRAWN),
    ("a change before the first", {"prompt": "[cat:dog:-5]"}, DRAWN),
    ("a change at a number of 1,000 digits", {"prompt": f"[cat:dog:{'9' * 1000}]"}, DRAWN),
    ("a change at no number", {"prompt": "[cat:dog:nan]"}, DRAWN),
    ("nothing to nothing", {"prompt": "[::] [|] [:] [::1] [:1]"}, DRAWN),
    ("500 changes", {"prompt": "[a:b:1]" * 500}, DRAWN),
    ("a change in a change, 500 deep", {"prompt": "[a:" * 500 + "b" + ":1]" * 500}, DRAWN),
    ("an alternation in an alternation, 600 deep", {"prompt": "[|" * 1000 + "b" + "]" * 1000}, DRAWN),
    (
        "more texts than are kept",
        {"prompt": "[" + "|".join(f"{SECRET}{i}" for i in range(200)) + "]", "num_inference_steps": 200},
        "more than 100 different texts",
    ),
    # AND.
    ("AND with nothing", {"prompt": "AND"}, DRAWN),
    ("AND with nothing on one side", {"prompt": "cat AND"}, DRAWN),
    ("AND with weights only", {"prompt": ":1 AND :2"}, DRAWN),
    ("800 ANDs", {"prompt": "AND " * 800}, "AND joins 801 prompts; allowed: at most 16"),
    ("AND with a weight too large", {"prompt": f"{SECRET} AND cat:11"}, "a weight of 11 is out of range"),
    ("AND without guidance", {"prompt": "cat AND dog:-1", "guidance_scale": 1}, DRAWN),
    ("AND in the negative prompt", {"negative_prompt": "AND AND AND"}, DRAWN),
    # Length.
    ("one token repeated", {"prompt": "a " * 750}, DRAWN),
    ("one token more", {"prompt": "a " * 751}, "at most 750 (MAX_PROMPT_TOKENS), 1 less"),
    ("a word without end", {"prompt": "x" * 4096}, "tokens long; allowed: at most 750"),
    ("emoji without end", {"prompt": "\U0001f469\u200d\U0001f680" * 500}, "tokens long; allowed: at most 750"),
    ("commas without end", {"prompt": ", " * 700}, DRAWN),
    ("BREAK without end", {"prompt": "BREAK " * 600}, "with the padding that BREAK and commas bring"),
    ("BREAK alone", {"prompt": "BREAK"}, DRAWN),
    ("a long negative prompt", {"negative_prompt": "a " * 800}, "negative_prompt: is 800 tokens long"),
    ("a BREAK in every bracket", {"prompt": "(BREAK:1.5) [BREAK] BREAK"}, DRAWN),
    ("special tokens", {"prompt": "<|endoftext|> " * 100 + "<|startoftext|> cat"}, DRAWN),
    # How it is read.
    ("no syntax, all of it", {"prompt": "(((a [b:c:1] AND d:99) BREAK", "prompt_syntax": "plain"}, DRAWN),
    ("a syntax nobody has", {"prompt_syntax": "compel"}, "prompt_syntax: 'compel' is not allowed"),
    ("an emphasis nobody has", {"emphasis": "strong"}, "emphasis: 'strong' is not allowed"),
    ("all layers skipped", {"clip_skip": 2}, "clip_skip: 2 is not allowed; allowed with this model"),
    ("more layers skipped than any has", {"clip_skip": 32}, "clip_skip: 32 is not allowed"),
    ("a layer less than none", {"clip_skip": -1}, "clip_skip: -1 is not allowed"),
    ("no_norm with weights that cancel", {"prompt": "(a:-1) b", "emphasis": "no_norm"}, DRAWN),
]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker() -> AsyncIterator[Worker]:
    worker = build_worker(Settings())
    yield worker
    await asyncio.to_thread(worker.engine.close)


async def answer(worker: Worker, given: dict[str, Any]) -> str:
    """DRAWN, or the error."""
    try:
        (image,) = await worker.run({"id": "odd", "input": {"prompt": "a cat", **JOB, **given}})
    except UserError as error:
        return str(error)
    assert image["image"]
    return DRAWN


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("what", "given", "expected"), PROMPTS, ids=[row[0] for row in PROMPTS])
async def test_a_prompt(worker: Worker, what: str, given: dict[str, Any], expected: str) -> None:
    began = time.process_time()
    message = await answer(worker, given)
    assert time.process_time() - began < SECONDS
    assert (expected in message) if expected else message == DRAWN, message
    assert len(message) < LONGEST_ERROR
    assert message.isprintable()
    assert SECRET not in message


@pytest.mark.asyncio(loop_scope="module")
async def test_the_next_job_is_drawn_as_if_nothing_had_been(worker: Worker) -> None:
    job = {"id": "plain", "input": {"prompt": "a red heart", **JOB}}
    before = await worker.run(job)
    odd = asyncio.gather(*(answer(worker, given) for _, given, _ in PROMPTS))
    among = await worker.run(job)
    await odd
    after = await worker.run(job)
    assert before == after
    assert len(among) == 1

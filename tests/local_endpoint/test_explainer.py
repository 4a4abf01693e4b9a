"""The program that tells what inputs come to: asked in turn, started again when it has ended, never in the way."""

import asyncio
import base64
import io
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from local_endpoint import explainer
from local_endpoint.explainer import Explainer, NoExplainer
from sdworker.cli.explainer import explained
from sdworker.cli.prompt_reader import PromptReader
from tests.local_endpoint.conftest import MakeEndpoint

ONCE = [sys.executable, "-c", "print(input())"]
NONSENSE = [sys.executable, "-c", "input(); print('[1]')"]
SILENT = [sys.executable, "-c", "import time; input(); time.sleep(60)"]


async def test_one_that_has_ended_is_started_again() -> None:
    asked = Explainer(ONCE)
    assert await asked.ask({"n": 1}) == {"n": 1}
    assert asked._process is not None
    await asked._process.wait()
    assert await asked.ask({"n": 2}) == {"n": 2}
    await asked.close()


@pytest.mark.parametrize("command", [NONSENSE, SILENT, ["/no/such/program"], []])
async def test_one_that_does_not_answer_is_said_to(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explainer, "_TIMEOUT_S", 0.5)
    asked = Explainer(command)
    with pytest.raises(NoExplainer):
        await asked.ask({})
    assert asked._process is None


def test_an_endpoint_without_one_says_so(make_endpoint: MakeEndpoint) -> None:
    endpoint = make_endpoint()
    answer = endpoint.http.post(f"{endpoint.base}/playground/explain", json={"prompt": "a"})
    assert (answer.status_code, "--explain-command" in answer.text) == (501, True)
    assert endpoint.http.get(f"{endpoint.base}/playground/config.json").json()["explains"] is False


@pytest.fixture(scope="module")
def ask() -> Iterator[Callable[[Any], dict[str, Any]]]:
    """The worker's own program, in this process."""
    reader = PromptReader()
    with asyncio.Runner() as runner:
        yield lambda line: explained(reader, json.dumps(line), runner)


class TestTheWorkersOwn:
    def test_counts_tokens(self, ask: Any) -> None:
        told = ask(
            {"prompts": {"prompt": "a (red:1.4) heart AND [dog:big dog:0.5]", "negative_prompt": "a cat"}}
        )
        assert told["prompt"]["tokens"] == len(PromptReader().tokenizer.encode("a red heart"))
        assert told["negative_prompt"]["chunks"][0]["end"] == "a cat"
        assert "prompt" in ask({"prompts": {}})["error"]

    def test_shows_what_a_control_net_is_shown(self, ask: Any) -> None:
        control = {"model": "edges", "image": SQUARE, "preprocessor": "canny"}
        told = ask({"hint": {"width": 128, "height": 64, "controls": [control]}})
        assert (told["width"], told["height"]) == (128, 64)
        hint = Image.open(io.BytesIO(base64.b64decode(told["image"].partition(",")[2])))
        levels = np.asarray(hint.convert("L"))
        assert levels.shape == (64, 128)
        assert levels.max() > 200, "edges"
        assert levels[32, 64] < 50, "none inside the square"

    @pytest.mark.parametrize(
        ("hint", "said"),
        [
            ({"width": 128, "height": 128}, "there is none with a picture and a size"),
            ({"width": 9, "height": 128, "controls": [{"model": "m", "image": "x"}]}, "width"),
            ({"width": 64, "height": 64, "controls": [{"model": "m", "image": "x" * 40}]}, "picture"),
            ({"width": 64, "height": 64, "controls": [{"model": "m", "image": "http://127.0.0.1/a"}]}, "127"),
        ],
    )
    def test_says_why_there_is_no_hint(self, ask: Any, hint: Any, said: str) -> None:
        assert said in ask({"hint": hint})["error"]

    @pytest.mark.parametrize("line", ["nonsense", [], {}, {"hint": 1}, {"other": {}}])
    def test_a_line_that_makes_no_sense_costs_itself_alone(self, ask: Any, line: Any) -> None:
        assert "error" in ask(line)
        assert ask({"prompts": {"prompt": "a"}})["prompt"]["tokens"] == 1


def square() -> str:
    """A white square on black, as a data URI."""
    image = Image.new("RGB", (64, 64))
    image.paste((255, 255, 255), (16, 16, 48, 48))
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


SQUARE = square()

"""The program that reads prompts: asked in turn, started again when it has ended, and never in the way."""

import sys

import pytest

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


def test_the_workers_own_code_counts() -> None:
    reader = PromptReader()
    told = explained(
        reader, '{"prompt": "a (red:1.4) heart AND [dog:big dog:0.5]", "negative_prompt": "a cat"}'
    )
    assert told["prompt"]["tokens"] == len(reader.tokenizer.encode("a red heart"))
    assert told["negative_prompt"]["chunks"][0]["end"] == "a cat"
    assert "prompt" in explained(reader, "{}")["error"]
    assert "no input" in explained(reader, "nonsense")["error"]

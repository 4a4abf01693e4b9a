"""AUTOMATIC1111's web UI reads back what the images say of themselves."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdworker.generation_data import parameters_text
from sdworker.request import Contract, Request
from sdworker.samplers import PAIRS

# The grammar of the last line, as `re_param` in the web UI's modules/infotext_utils.py has it.
PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def read(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and settings, as the web UI understands a text."""
    *lines, last = text.strip().split("\n")
    found = PARAMETER.findall(last)
    if len(found) < 3:
        lines, found = [*lines, last], []
    prompts: list[list[str]] = [[], []]
    negative = False
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            negative, line = True, line.removeprefix("Negative prompt:").strip()
        prompts[negative].append(line)
    settings = {name: json.loads(value) if value[:1] == '"' == value[-1:] else value for name, value in found}
    return "\n".join(prompts[0]), "\n".join(prompts[1]), settings


def request(prompt: str = "a red apple", negative: str = "", **fields: object) -> Request:
    return Request.model_validate(
        {"prompt": prompt, "negative_prompt": negative, "num_inference_steps": 20, **fields}
    )


def text_of(asked: Request, *, seed: int = 7, model: str = "emoji") -> str:
    return parameters_text(asked, seed=seed, size=(64, 96), model=model)


def test_everything_is_read_back() -> None:
    asked = request("a red apple", "blue", guidance_scale=5.5, scheduler="Euler a")
    prompt, negative, settings = read(text_of(asked))
    assert (prompt, negative) == ("a red apple", "blue")
    assert settings.pop("Version").startswith("sdworker ")
    assert settings == {
        "Steps": "20",
        "Sampler": "Euler a",
        "CFG scale": "5.5",
        "Seed": "7",
        "Size": "64x96",
        "Model": "emoji",
    }


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"clip_skip": 1}, "Clip skip", "2"),
        ({"emphasis": "no_norm"}, "Emphasis", "No norm"),
        ({"prompt_syntax": "plain"}, "Emphasis", "None"),
        ({"prompt_syntax": "plain", "emphasis": "no_norm"}, "Emphasis", "None"),
    ],
)
def test_how_the_prompt_was_read_stands_where_the_web_ui_looks(
    fields: dict[str, Any], name: str, value: str
) -> None:
    assert read(text_of(request(**fields)))[2][name] == value


@pytest.mark.parametrize("name", PAIRS)
def test_sampler_and_schedule_are_told_apart_and_make_the_same_pair_again(
    name: str, contract: Contract
) -> None:
    settings = read(text_of(request(scheduler=name)))[2]
    assert settings["Sampler"] == PAIRS[name].method
    again = {"prompt": "x", "sampler_name": settings["Sampler"], "scheduler": settings.get("Schedule type")}
    assert contract.parse(again).scheduler == name


def test_the_strength_is_told_where_a_picture_was_given() -> None:
    assert read(text_of(request(init_image="data:,", prompt_strength=0.5)))[2]["Denoising strength"] == "0.5"
    assert "Denoising strength" not in read(text_of(request(prompt_strength=0.8)))[2]


def test_an_empty_negative_prompt_has_no_line() -> None:
    assert "Negative prompt" not in text_of(request())


@pytest.mark.parametrize(
    "prompt",
    [
        "one, two, (three:1.2), [four]",
        'a "quoted" word, and \\ a backslash',
        "first line\nsecond line\n\nfourth line",
        "Steps: 99, Sampler: none, Seed: 1, Size: 1x1",
        "a sign that says Negative prompt: none",
        "🐶 naïve Ünïcode 狗",
        "trailing comma,",
        "<lora:thing:1>, {a|b}",
    ],
)
def test_odd_prompts_are_read_back(prompt: str) -> None:
    assert read(text_of(request(prompt, prompt)))[:2] == (prompt, prompt)


def test_a_line_that_begins_like_the_negative_prompts_costs_no_word_and_no_setting() -> None:
    prompt, negative, settings = read(text_of(request("apple\nNegative prompt: pear", "plum")))
    assert (prompt, negative) == ("apple", "pear\nplum")
    assert settings["Seed"] == "7"


def test_nul_characters_are_left_out_because_they_end_the_text_for_many_readers() -> None:
    prompt, negative, settings = read(text_of(request("a\0b", "\0c")))
    assert (prompt, negative) == ("ab", "c")
    assert settings["Seed"] == "7"


@pytest.mark.parametrize(
    "model",
    [
        "Lykon/dreamshaper-8@1.0",
        "/models/a, b",
        "https://hub.example/a:b",
        'the "best"',
        "a\nb",
        "Model: x, Seed: 1",
    ],
)
def test_a_models_name_never_ends_its_field(model: str) -> None:
    settings = read(text_of(request(), model=model))[2]
    assert settings["Model"] == model
    assert settings["Seed"] == "7"


@given(
    prompt=st.text(st.characters(codec="utf-8"), min_size=1),
    negative=st.text(st.characters(codec="utf-8")),
    sampler=st.sampled_from(list(PAIRS)),
    seed=st.integers(0, 2**63 - 1),
    model=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1).map(
        str.strip
    ),
)
def test_the_settings_are_read_back_whatever_the_texts(
    prompt: str, negative: str, sampler: str, seed: int, model: str
) -> None:
    asked = Request.model_construct(prompt=prompt, negative_prompt=negative, scheduler=sampler)
    settings = read(text_of(asked, seed=seed, model=model))[2]
    assert settings["Sampler"] == PAIRS[sampler].method
    assert settings["Seed"] == str(seed)
    assert settings["Model"] == model

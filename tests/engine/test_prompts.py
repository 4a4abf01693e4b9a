"""Prompts with weights, schedules and parts, of any length, drawn together: each comes out as if it were alone."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.errors import UserError
from sdworker.reading import Reading
from sdworker.samplers import SAMPLERS
from tests.engine.conftest import RecordingModel, Reference

BASE = Drawing(
    prompt="a red heart",
    negative_prompt="",
    width=64,
    height=64,
    steps=6,
    guidance=5.0,
    sampler="Euler",
    seeds=(3,),
)
# Nothing but rounding differs between a job alone and one in a batch: one level of 255.
ROUNDING = 1


async def draw(engine: Engine, prompt: str, **changes: Any) -> np.ndarray:
    (image,) = await engine.draw(replace(BASE, prompt=prompt, **changes))
    return image.astype(int)


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


PROMPTS = [
    "a red heart",
    "a (red:1.4) heart",
    "(a ((blue)) [sun]:0.8), night",
    "[sun:moon:0.5]",
    "[a red heart|a blue star]",
    "a [heart:3] [sun::2]",
    "a heart AND a star :0.5",
    "[sun:moon:2] AND (heart:1.2) :0.7 AND star :-0.2",
    "a heart BREAK a star",
    "very " * 80 + "small heart",
    "very, " * 90 + "small (star:1.3)",
    "very " * 160 + "[sun:moon BREAK stars:0.4]",
]
NEGATIVES = ["", "blue", "(blue:1.5) [ugly:bad:3]", "bad, " * 50]


@pytest.mark.parametrize("start", [0, pytest.param(20, marks=pytest.mark.slow)])
async def test_jobs_of_mixed_prompts_in_one_batch_are_each_as_if_alone(engine: Engine, start: int) -> None:
    chance = random.Random(1)
    drawings = [
        replace(
            BASE,
            prompt=PROMPTS[i % len(PROMPTS)],
            negative_prompt=chance.choice(NEGATIVES),
            steps=chance.randint(3, 7),
            sampler=chance.choice(sorted(SAMPLERS)),
            guidance=chance.choice([1.0, 3.0, 7.5]),
            seeds=tuple(range(i, i + chance.choice([1, 1, 2]))),
            reading=Reading(
                emphasis=chance.choice(["original", "no_norm"]), clip_skip=chance.choice([0, 0, 1])
            ),
        )
        for i in range(40)
    ][start : start + 20]
    together = await asyncio.gather(*(engine.draw(drawing) for drawing in drawings))
    for drawing, images in zip(drawings, together, strict=True):
        alone = await engine.draw(drawing)
        for one, other in zip(images, alone, strict=True):
            assert difference(one, other) <= ROUNDING, drawing


@pytest.mark.parametrize(
    ("prompt", "same"),
    [
        ("[sun:moon:-1]", "moon"),
        ("[sun:moon:99]", "sun"),
        ("[sun|sun]", "sun"),
        ("a sun AND a moon :0", "a sun"),
        ("a sun :0.5 AND a sun :0.5", "a sun"),
        ("a sun AND a moon AND a moon :-1", "a sun"),
        ("(a sun:1.0)", "a sun"),
        (r"a \(sun\)", "a (sun)"),
        ("a sun BREAK", "a sun"),
    ],
)
async def test_what_comes_to_the_same_is_the_same_picture(engine: Engine, prompt: str, same: str) -> None:
    plain = Reading(syntax="plain")
    assert difference(await draw(engine, prompt), await draw(engine, same, reading=plain)) <= ROUNDING


@pytest.mark.parametrize(
    ("prompt", "other"),
    [
        ("a (red:1.8) heart", "a red heart"),
        ("[sun:moon:0.5]", "sun"),
        ("[sun:moon:0.5]", "moon"),
        ("[sun|moon]", "sun"),
        ("a heart AND a star", "a heart"),
        ("a heart BREAK a star", "a heart a star"),
        ("very " * 80 + "small heart", "very " * 80 + "small star"),
    ],
)
async def test_what_a_prompt_says_more_is_seen(engine: Engine, prompt: str, other: str) -> None:
    assert difference(await draw(engine, prompt), await draw(engine, other)) > 8


async def test_a_change_comes_after_when_plus_one_evaluations(engine: Engine) -> None:
    """The last evaluation of six is number 5: a change after it changes nothing, one before it does."""
    sun = await draw(engine, "sun")
    assert difference(await draw(engine, "[sun:moon:5]"), sun) == 0
    assert difference(await draw(engine, "[sun:moon:4]"), sun) > 0


async def test_a_sampler_of_second_order_counts_twice(engine: Engine) -> None:
    """Six steps of Heun are twelve steps to a prompt, of which eleven are taken."""
    sun = await draw(engine, "sun", sampler="Heun")
    assert difference(await draw(engine, "[sun:moon:10]", sampler="Heun"), sun) == 0
    assert difference(await draw(engine, "[sun:moon:9]", sampler="Heun"), sun) > 0
    half = await draw(engine, "[sun:moon:0.5]", sampler="Heun")
    assert difference(half, await draw(engine, "[sun:moon:6]", sampler="Heun")) == 0


async def test_of_an_image_to_image_run_those_steps_count_that_are_taken(
    engine: Engine, picture: np.ndarray
) -> None:
    half = {"image": picture, "strength": 0.5, "steps": 12}
    assert (
        difference(await draw(engine, "[sun:moon:0.5]", **half), await draw(engine, "[sun:moon:3]", **half))
        == 0
    )


@pytest.mark.parametrize("clip_skip", [0, 1])
async def test_a_long_prompt_is_what_diffusers_draws_of_its_embedding(
    engine: Engine, reference: Reference, model: Path, clip_skip: int
) -> None:
    """Two chunks, the second with the subject, given to diffusers as embeddings made by transformers."""
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    clip = CLIPTextModel.from_pretrained(model / "text_encoder").eval()

    @torch.no_grad()
    def embed(*texts: str) -> torch.Tensor:
        chunks = []
        for text in texts:
            ids = tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
            hidden = clip(ids, output_hidden_states=True).hidden_states[-1 - clip_skip]
            chunks.append(clip.final_layer_norm(hidden))
        return torch.cat(chunks, dim=1)

    drawing = replace(
        BASE, prompt="a " * 80 + "red heart", sampler="DDIM", reading=Reading(clip_skip=clip_skip)
    )
    theirs = reference.with_embeddings(
        drawing, embed("a " * 75, "a " * 5 + "red heart"), embed("", ""), seed=3
    )
    (image,) = await engine.draw(drawing)
    recording = engine.model
    assert isinstance(recording, RecordingModel)
    assert float((recording.latents_of(image) - theirs).abs().max()) < 2e-3


def chunks(count: int) -> str:
    """A prompt of so many chunks."""
    return " BREAK ".join(["a"] * count)


async def test_any_two_numbers_of_chunks_go_together(engine: Engine) -> None:
    image = await draw(engine, chunks(9), negative_prompt=chunks(10))
    assert difference(image, await draw(engine, chunks(9), negative_prompt=chunks(10))) == 0


@pytest.mark.parametrize(
    ("prompt", "reading", "message"),
    [
        ("a (red:99)", Reading(), "prompt: a weight of 99 is out of range; allowed: from -10 to 10"),
        ("a " * 800, Reading(), "prompt: is 800 tokens long; allowed: at most 750"),
        ("a", Reading(clip_skip=2), "clip_skip: 2 is not allowed; allowed with this model: .* from 0 to 1"),
        ("a" + " AND a" * 30, Reading(), "prompt: AND joins 31 prompts"),
        (
            " AND ".join(chunks(count) for count in (5, 7, 8, 9)),
            Reading(),
            "have 1, 5, 7, 8 and 9 chunks, which only 2520 .*; allowed: 10 times the longest; .*BREAK",
        ),
    ],
)
async def test_what_cannot_be_drawn_is_told_and_the_next_is_drawn(
    engine: Engine, prompt: str, reading: Reading, message: str
) -> None:
    before = await draw(engine, "a red heart")
    with pytest.raises(UserError, match=message):
        await draw(engine, prompt, reading=reading)
    with pytest.raises(UserError, match="negative_prompt: a weight of 11"):
        await draw(engine, "a", negative_prompt="(b:11)")
    assert difference(await draw(engine, "a red heart"), before) == 0

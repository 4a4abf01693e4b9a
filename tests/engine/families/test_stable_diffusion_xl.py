"""Stable Diffusion XL: every image is what diffusers' own pipelines draw for that seed, to a level of 255."""

import asyncio
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler

from sdworker.engine.drawing import Drawing
from sdworker.engine.engine import Engine
from sdworker.engine.model_files import ModelError, check_model_folder
from sdworker.engine.networks.families.stable_diffusion_xl import StableDiffusionXL
from sdworker.errors import UserError
from sdworker.reading import Reading
from tests.engine.conftest import load
from tests.engine.test_equals_diffusers import base as plain_base

from .conftest import XLReference

CLOSE = 1  # levels


base = partial(plain_base, steps=4)


async def compare(engine: Engine, reference: XLReference, drawing: Drawing, **changes: Any) -> None:
    """Draw, and hold every image of it against diffusers'."""
    images = await engine.draw(drawing)
    for image, seed in zip(images, drawing.seeds, strict=True):
        theirs = await asyncio.to_thread(reference.image, drawing, seed, **changes)
        assert apart(image, theirs) <= CLOSE, (drawing.sampler, seed)


def apart(ours: np.ndarray, theirs: np.ndarray) -> int:
    """The largest difference of two images, in levels."""
    assert ours.std() > 1, "an image without contrast proves nothing"
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


@pytest.mark.parametrize("sampler", ["DPM++ 2M Karras", "Euler", "Euler a", "Heun", "DDIM"])
async def test_it_draws_in_every_mode_what_diffusers_draws(
    xl_engine: Engine, xl_reference: XLReference, mode: dict[str, Any], sampler: str
) -> None:
    await compare(xl_engine, xl_reference, base(sampler=sampler, **mode))


@pytest.mark.parametrize(
    "changes",
    [
        {"negative_prompt": ""},
        {"guidance": 1.0},
        {"guidance": 0.0, "steps": 1, "sampler": "Euler a SGM Uniform"},
        {"width": 96, "height": 48},
        {"seeds": (1, 2, 3)},
    ],
    ids=str,
)
async def test_odd_requests_draw_what_diffusers_draws(
    xl_engine: Engine, xl_reference: XLReference, changes: dict[str, Any]
) -> None:
    await compare(xl_engine, xl_reference, base(**changes))


async def test_in_a_mixed_batch_every_drawing_is_what_diffusers_draws_alone(
    xl_engine: Engine, xl_reference: XLReference, picture: np.ndarray, mask: np.ndarray
) -> None:
    """Of different lengths of text, samplers, modes and sizes."""
    modes: list[dict[str, Any]] = [
        {"seeds": (3, 4)},
        {"image": picture, "strength": 0.6, "sampler": "Euler a"},
        {"image": picture, "mask": mask, "strength": 0.8, "negative_prompt": ""},
        {"width": 96, "height": 80},
        {"guidance": 1.0, "sampler": "Heun"},
        {"negative_prompt": "", "steps": 6},
    ]
    drawings = [base(prompt=f"thing {i}", **mode) for i, mode in enumerate(modes)]
    all_images = await asyncio.gather(*(xl_engine.draw(drawing) for drawing in drawings))
    for drawing, images in zip(drawings, all_images, strict=True):
        for image, seed in zip(images, drawing.seeds, strict=True):
            theirs = await asyncio.to_thread(xl_reference.image, drawing, seed)
            assert apart(image, theirs) <= CLOSE, drawing


class TestPrompts:
    """Both encoders are told the same chunks; the second's whole text is its first chunk's."""

    async def compare(self, engine: Engine, reference: XLReference, drawing: Drawing, *texts: Any) -> None:
        """Hold an image against diffusers' with texts that transformers encoded: prompt, negative prompt."""
        (prompted, whole), (plain, whole_plain) = texts
        embedded = {
            "prompt_embeds": prompted,
            "pooled_prompt_embeds": whole,
            "negative_prompt_embeds": plain,
            "negative_pooled_prompt_embeds": whole_plain,
        }
        await compare(engine, reference, drawing, prompt=None, negative_prompt=None, **embedded)

    @staticmethod
    def encode(
        reference: XLReference, *chunks: str, skip: int = 0, weight: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts of a chunk each, one after another, and the first as a whole."""
        pipeline = reference.pipeline
        embedded, wholes = [], []
        for chunk in chunks:
            sides = []
            for tokenizer, encoder in (
                (pipeline.tokenizer, pipeline.text_encoder),
                (pipeline.tokenizer_2, pipeline.text_encoder_2),
            ):
                ids = tokenizer(chunk, padding="max_length", max_length=77, return_tensors="pt").input_ids
                with torch.inference_mode():
                    output = encoder(ids, output_hidden_states=True)
                hidden = output.hidden_states[-2 - skip]
                if weight != 1:
                    mean = hidden.mean()
                    last = len(tokenizer(chunk).input_ids) - 1
                    hidden = hidden.clone()
                    hidden[:, 1:last] *= weight
                    hidden *= mean / hidden.mean()
                sides.append(hidden)
            embedded.append(torch.cat(sides, dim=-1))
            wholes.append(output.text_embeds)
        return torch.cat(embedded, dim=1), wholes[0]

    @pytest.mark.parametrize("skip", [0, 2])
    async def test_clip_skip_counts_from_the_last_layer_but_one(
        self, xl_engine: Engine, xl_reference: XLReference, skip: int
    ) -> None:
        """Of the negative prompt as well, as the web UI has it; diffusers skips none there."""
        drawing = base(negative_prompt="", reading=Reading(clip_skip=skip))
        await compare(xl_engine, xl_reference, drawing, clip_skip=skip)
        texts = [self.encode(xl_reference, text, skip=skip) for text in ("a red apple", "blue")]
        await self.compare(xl_engine, xl_reference, base(reading=Reading(clip_skip=skip)), *texts)

    async def test_a_long_prompt_is_told_chunk_by_chunk(
        self, xl_engine: Engine, xl_reference: XLReference
    ) -> None:
        drawing = base(prompt=f"{'red ' * 75}a green pear", negative_prompt="blue")
        long, short = (
            self.encode(xl_reference, "red " * 75, "a green pear"),
            self.encode(xl_reference, "blue"),
        )
        tiled = short[0].repeat(1, 2, 1), short[1]
        await self.compare(xl_engine, xl_reference, drawing, long, tiled)

    async def test_weights_count_in_each_encoder_by_itself(
        self, xl_engine: Engine, xl_reference: XLReference
    ) -> None:
        drawing = base(prompt="(a red apple:1.5)")
        texts = self.encode(xl_reference, "a red apple", weight=1.5), self.encode(xl_reference, "blue")
        await self.compare(xl_engine, xl_reference, drawing, *texts)

    async def test_more_layers_than_there_are_cannot_be_skipped(self, xl_engine: Engine) -> None:
        with pytest.raises(UserError, match=r"clip_skip: 4 is not allowed.*from 0 to 3"):
            await xl_engine.draw(base(reading=Reading(clip_skip=4)))

    async def test_prompts_joined_and_changing_share_steps_with_others(self, xl_engine: Engine) -> None:
        together = [base(prompt=text) for text in ("a cat AND a dog :0.5", "a [red:green:2] apple", "a pear")]
        busy = await asyncio.gather(*(xl_engine.draw(drawing) for drawing in together))
        for drawing, (image,) in zip(together, busy, strict=True):
            (alone,) = await xl_engine.draw(drawing)
            assert apart(image, alone) <= CLOSE


class TestTurbo:
    """One step, trailing timesteps, no guidance: as the model's own scheduler configuration has it."""

    @pytest.fixture(scope="class")
    @classmethod
    def turbo(cls, xl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("models") / "tiny-turbo"
        shutil.copytree(xl_folder, folder)
        scheduler = {
            "_class_name": "EulerAncestralDiscreteScheduler",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "timestep_spacing": "trailing",
        }
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
        return folder

    @pytest.mark.parametrize("steps", [1, 4])
    @pytest.mark.parametrize("with_picture", [False, True])
    async def test_a_few_steps_are_those_of_the_models_own_scheduler(
        self, turbo: Path, picture: np.ndarray, steps: int, with_picture: bool
    ) -> None:
        reference = XLReference(turbo)
        own = EulerAncestralDiscreteScheduler.from_config(reference.scheduler_config)
        own.set_timesteps(steps)
        assert int(own.timesteps[0]) == 999
        engine = Engine(load(StableDiffusionXL, turbo), max_rows=4)
        try:
            image = {"image": picture, "strength": 1.0} if with_picture else {}
            drawing = base(steps=steps, guidance=0.0, sampler="Euler a", **image)
            await compare(engine, reference, drawing)
        finally:
            engine.close()


class TestLoading:
    """What differs in files of the family."""

    def test_a_vae_that_must_not_run_in_half_precision_runs_in_float32(self, xl_folder: Path) -> None:
        """What torch computes in half precision on a CPU says nothing of CUDA, so no picture is compared."""
        model = load(StableDiffusionXL, xl_folder, dtype=torch.float16)
        assert model.dtype is torch.float16
        assert model.autoencoder._vae.dtype is torch.float32
        model.autoencoder.decode(torch.zeros(1, 4, 8, 8)).pixels()

    def test_one_that_was_mended_runs_as_the_rest_does(self, xl_folder: Path, tmp_path: Path) -> None:
        folder = changed(xl_folder, tmp_path, "vae/config.json", force_upcast=False)
        assert load(StableDiffusionXL, folder, dtype=torch.float16).autoencoder._vae.dtype is torch.float16

    async def test_an_empty_negative_prompt_is_encoded_where_the_model_says_so(
        self, xl_folder: Path, tmp_path: Path
    ) -> None:
        folder = changed(xl_folder, tmp_path, "model_index.json", force_zeros_for_empty_prompt=False)
        engine = Engine(load(StableDiffusionXL, folder), max_rows=4)
        try:
            await compare(engine, XLReference(folder), base(negative_prompt=""))
        finally:
            engine.close()

    def test_its_own_size_is_that_of_its_unet(self, xl: StableDiffusionXL) -> None:
        assert xl.default_size == (64, 64)

    @pytest.mark.parametrize(
        ("file", "values", "named"),
        [
            ("unet/config.json", {"addition_embed_type": None}, "addition_embed_type is null"),
            ("unet/config.json", {"addition_time_embed_dim": None}, "addition_time_embed_dim is null"),
            (
                "unet/config.json",
                {"projection_class_embeddings_input_dim": 81},
                "is 81; 32 of the text and 6",
            ),
            ("unet/config.json", {"cross_attention_dim": 32}, "cross_attention_dim is 32.*width 64"),
            ("text_encoder_2/config.json", {"projection_dim": 16}, "second text encoder"),
            ("text_encoder_2/config.json", {"hidden_size": 64}, "width 96"),
            ("vae/config.json", {"latents_mean": [0.0] * 4}, "latents_mean is .* not served"),
            ("model_index.json", {"text_encoder": [None, None]}, "describes a StableDiffusionXLPipeline"),
            ("model_index.json", {"text_encoder_2": None}, "describes a StableDiffusionXLPipeline"),
        ],
        ids=str,
    )
    def test_what_does_not_fit_is_named(
        self, xl_folder: Path, tmp_path: Path, file: str, values: dict[str, Any], named: str
    ) -> None:
        with pytest.raises(ModelError, match=named):
            check_model_folder(changed(xl_folder, tmp_path, file, **values))

    def test_encoders_that_read_differently_are_refused(self, xl_folder: Path, tmp_path: Path) -> None:
        folder = changed(xl_folder, tmp_path, "model_index.json")
        words = folder / "tokenizer_2" / "tokenizer.json"
        content = json.loads(words.read_text())
        vocabulary = content["model"]["vocab"]
        first, second = list(vocabulary)[:2]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
        words.write_text(json.dumps(content))
        with pytest.raises(ModelError, match="tokenizer_2 knows other words"):
            load(StableDiffusionXL, folder)

    @pytest.mark.parametrize(
        "missing",
        ["text_encoder_2/model.safetensors", "tokenizer_2/tokenizer.json", "text_encoder_2/config.json"],
    )
    def test_what_is_missing_is_named(self, xl_folder: Path, tmp_path: Path, missing: str) -> None:
        folder = changed(xl_folder, tmp_path, "model_index.json")
        for name in (missing, "tokenizer_2/vocab.json"):
            (folder / name).unlink()
        with pytest.raises(ModelError, match=missing.split("/")[0] + ".*is missing"):
            check_model_folder(folder)


def changed(folder: Path, place: Path, file: str, **values: Any) -> Path:
    """A copy of a model with other values in one of its configurations."""
    copy = place / "changed"
    shutil.copytree(folder, copy)
    content = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(content | values))
    return copy

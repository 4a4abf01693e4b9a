"""A worker of several models: which there are, how jobs choose, and what becomes of one that goes wrong."""

import asyncio
import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bench.random_model import TINY_SDXL, write_random_model
from sdworker import hub_cache
from sdworker.catalogue import contract_of, list_models
from sdworker.engine.model_config import ModelError
from sdworker.engine.model_files import check_model_folder
from sdworker.engine.networks.families import weights_bytes
from sdworker.errors import DeploymentError, UserError
from sdworker.request import Contract, InputError, ServedModel
from sdworker.settings import Settings, SettingsError, load_settings
from sdworker.startup import build_worker
from sdworker.worker import Worker

JOB = {"prompt": "a red apple", "num_inference_steps": 2, "seed": 7, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def shelf(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded model, a copy of it and a tiny Stable Diffusion XL; and what is no model."""
    folder = tmp_path_factory.mktemp("shelf")
    for name in ("emoji", "Copy of emoji"):
        shutil.copytree(model, folder / name)
    write_random_model(folder / "tiny-xl", TINY_SDXL)
    (folder / "notes").mkdir()
    (folder / "half").mkdir()
    (folder / "half" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


def settings(**values: Any) -> Settings:
    return Settings(**{"device": "cpu", "warm_up": False, **values})


async def draw(worker: Worker, **fields: Any) -> Image.Image:
    (output,) = await worker.run({"id": "job", "input": {**JOB, **fields}})
    return Image.open(BytesIO(base64.b64decode(output["image"])))


class TestWhichThereAre:
    def test_those_in_a_folder_are_served_and_what_is_no_model_is_left_out(self, shelf: Path) -> None:
        listed = list_models(settings(models_dir=shelf))
        assert [one.served.name for one in listed] == ["Copy of emoji", "emoji", "tiny-xl"]
        assert [one.served.size for one in listed] == [(128, 128), (128, 128), (64, 64)]

    def test_those_that_are_named_come_first_in_their_order(self, shelf: Path) -> None:
        named = f"xl={shelf / 'tiny-xl'}, {shelf / 'emoji'}"
        listed = list_models(Settings(models=named, models_dir=shelf))
        assert [one.served.name for one in listed] == ["xl", "emoji", "Copy of emoji", "tiny-xl"]

    def test_one_folder_is_one_model(self, model: Path) -> None:
        assert [one.served.name for one in list_models(settings(model_dir=model))] == ["emoji"]

    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({"models": ("gone=/nowhere",)}, "no model folder at /nowhere"),
            ({"models_dir": Path("/nowhere")}, "MODELS_DIR: /nowhere cannot be read"),
            ({"model_id": "nobody/nothing"}, "nobody/nothing is in no cache"),
            ({"models": ("nobody/nothing",)}, "nobody/nothing is in no cache"),
        ],
        ids=str,
    )
    def test_what_was_named_and_is_not_there_stops_the_start(self, values: Any, named: str) -> None:
        with pytest.raises(DeploymentError, match=named):
            list_models(settings(**values))

    def test_a_folder_without_models_stops_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"MODELS_DIR: .* holds no model"):
            list_models(settings(models_dir=tmp_path))

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("MODELS", "=x"),
            ("MODELS", "a=x,A=y"),
            ("MODELS", "a="),
            ("MODEL_ID", "x"),
            ("MODEL_MEMORY_GB", "0"),
        ],
    )
    def test_a_variable_that_makes_no_sense_is_named(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
    ) -> None:
        monkeypatch.setenv(variable, value)
        with pytest.raises(SettingsError, match=variable):
            load_settings()

    def test_a_first_model_beyond_the_memory_stops_the_start(self, shelf: Path) -> None:
        with pytest.raises(SettingsError, match=r"MODEL_MEMORY_GB: is .* takes"):
            build_worker(settings(models_dir=shelf, model_memory_gb=0.001))


class TestCachedModels:
    @pytest.fixture
    def cache(self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A hub's cache made by hand, with links into blobs, as the platform mounts it."""
        monkeypatch.setattr(hub_cache, "_PLATFORM", tmp_path)
        for name in ("HF_HOME", "HF_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        folder = tmp_path / "models--Some-Owner--Emoji"
        for commit in ("new", "old"):
            for file in sorted(model.rglob("*")):
                if file.is_file():
                    place = folder / "snapshots" / commit / file.relative_to(model)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    blob = folder / "blobs" / file.relative_to(model).as_posix().replace("/", "-")
                    blob.parent.mkdir(exist_ok=True)
                    if not blob.exists():
                        shutil.copy(file, blob)
                    place.symlink_to(os.path.relpath(blob, place.parent))
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("old")
        return folder

    @pytest.mark.parametrize("name", ["Some-Owner/Emoji", "some-owner/emoji"])
    async def test_one_is_found_in_any_case_and_drawn_with(self, cache: Path, name: str) -> None:
        (listed,) = list_models(settings(model_id=name))
        assert listed.checked.path == cache / "snapshots" / "old"
        worker = build_worker(settings(model_id=name))
        image = await draw(worker, model=name)
        assert f"Model: {name}" in image.info["parameters"]
        worker.engine.close()

    def test_without_a_main_it_is_the_newest(self, cache: Path) -> None:
        (cache / "refs" / "main").unlink()
        os.utime(cache / "snapshots" / "new", (2e9, 2e9))
        (listed,) = list_models(settings(model_id="some-owner/emoji"))
        assert listed.checked.path.name == "new"

    @pytest.mark.parametrize(
        ("damage", "named"),
        [
            (
                lambda cache: (cache / "blobs" / "unet-diffusion_pytorch_model.safetensors").unlink(),
                "missing",
            ),
            (
                lambda cache: os.truncate(
                    cache / "blobs" / "unet-diffusion_pytorch_model.safetensors", 999_999
                ),
                "is damaged",
            ),
            (lambda cache: (cache / "blobs" / "model_index.json").unlink(), "still be on its way"),
            (lambda cache: shutil.rmtree(cache / "snapshots"), "still be on its way"),
        ],
        ids=["a blob is missing", "a blob is cut", "no index yet", "no snapshot yet"],
    )
    def test_one_that_is_half_downloaded_stops_the_start(
        self, cache: Path, damage: Callable[[Path], None], named: str
    ) -> None:
        damage(cache)
        with pytest.raises(ModelError, match=named):
            list_models(settings(model_id="some-owner/emoji"))


class TestTheContract:
    CONTRACT = Contract(
        Settings(default_guidance=5.0),
        (512, 512),
        (
            ServedModel("dreamer", (512, 512), ("owner/Dreamer",)),
            ServedModel(
                "sdxl-turbo",
                (1024, 768),
                ("turbo",),
                {"num_inference_steps": 1, "guidance_scale": 0.0, "scheduler": "Euler a"},
            ),
        ),
    )

    @pytest.mark.parametrize(
        ("given", "name"),
        [
            ({}, "dreamer"),
            ({"model": None}, "dreamer"),
            ({"model": ""}, "dreamer"),
            ({"model": "SDXL-Turbo"}, "sdxl-turbo"),
            ({"model_id": "turbo"}, "sdxl-turbo"),
            ({"model": "owner/dreamer"}, "dreamer"),
            ({"override_settings": {"sd_model_checkpoint": "turbo.safetensors [6ce0161689]"}}, "sdxl-turbo"),
            ({"sd_model_checkpoint": "turbo"}, "sdxl-turbo"),
        ],
        ids=str,
    )
    def test_a_job_names_one_by_any_of_its_names(self, given: dict[str, Any], name: str) -> None:
        assert self.CONTRACT.parse({"prompt": "x", **given}).model == name

    @pytest.mark.parametrize("field", ["model", "model_id"])
    def test_one_that_is_not_there_is_told_with_the_nearest_and_all(self, field: str) -> None:
        with pytest.raises(InputError) as caught:
            self.CONTRACT.parse({"prompt": "x", field: "sdxl-turbo2"})
        assert "'sdxl-turbo2' is no model of this worker; the nearest is sdxl-turbo" in str(caught.value)
        assert "allowed: dreamer, sdxl-turbo" in str(caught.value)

    @pytest.mark.parametrize("value", [5, ["dreamer"], {"a": 1}, "x" * 300])
    def test_one_of_another_kind_is_an_error(self, value: Any) -> None:
        with pytest.raises(InputError, match="model"):
            self.CONTRACT.parse({"prompt": "x", "model": value})

    def test_size_and_defaults_are_the_models_own_where_the_deployment_sets_none(self) -> None:
        turbo = self.CONTRACT.parse({"prompt": "x", "model": "turbo"})
        assert (turbo.width, turbo.height, turbo.num_inference_steps) == (1024, 768, 1)
        assert (turbo.scheduler, turbo.guidance_scale) == ("Euler a", 5.0)  # DEFAULT_GUIDANCE is set
        plain = self.CONTRACT.parse({"prompt": "x"})
        assert (plain.width, plain.num_inference_steps, plain.guidance_scale) == (512, 25, 5.0)

    def test_the_schema_lists_them(self) -> None:
        model = self.CONTRACT.schema()["properties"]["model"]
        assert model["enum"] == ["dreamer", "sdxl-turbo", None]
        assert model["default"] == "dreamer"

    @pytest.mark.parametrize(
        ("own", "sampler", "steps", "guidance"),
        [
            ({"_class_name": "EulerAncestralDiscreteScheduler"}, "Euler a", 1, 0.0),  # Turbo's
            ({"_class_name": "EulerDiscreteScheduler"}, "Euler", 4, 0.0),  # Lightning's
            (
                {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
                "DPM++ 2M Karras",
                25,
                7.5,
            ),
            (
                {"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True},
                "DPM++ 2M Karras",
                25,
                7.5,
            ),
        ],
    )
    def test_what_is_distilled_is_known_by_its_noise_schedule(
        self, shelf: Path, tmp_path: Path, own: dict[str, Any], sampler: str, steps: int, guidance: float
    ) -> None:
        shutil.copytree(shelf / "tiny-xl", tmp_path / "own")
        file = tmp_path / "own" / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps({"timestep_spacing": "trailing", **own}))
        request = contract_of(settings(model_dir=tmp_path / "own")).parse({"prompt": "x"})
        assert (request.num_inference_steps, request.guidance_scale) == (steps, guidance)
        assert request.scheduler == sampler


class TestJobs:
    @pytest.fixture(scope="class")
    @classmethod
    def worker(cls, shelf: Path) -> Iterator[Worker]:
        worker = build_worker(settings(models_dir=shelf))
        yield worker
        worker.models.close()
        worker.engine.close()

    async def test_jobs_of_several_models_and_families_come_out_as_if_alone(self, worker: Worker) -> None:
        names = ["emoji", "tiny-xl", "Copy of emoji", None]
        together = await asyncio.gather(*(draw(worker, model=name) for name in names))
        emoji, xl, copy, first = (np.asarray(image, int) for image in together)
        alone = np.asarray(await draw(worker, model="emoji"), int)
        for one in (emoji, copy, first):
            assert np.abs(one - alone).max() <= 1
        assert xl.shape != emoji.shape or not np.array_equal(xl, emoji)
        assert np.abs(np.asarray(await draw(worker, model="tiny-xl"), int) - xl).max() <= 1
        assert "Model: tiny-xl" in together[1].info["parameters"]

    async def test_each_has_its_own_size(self, worker: Worker) -> None:
        sizes = [
            (await draw(worker, model=name, width=None, height=None)).size for name in ("emoji", "tiny-xl")
        ]
        assert sizes == [(128, 128), (64, 64)]


async def test_a_model_that_vanishes_or_is_damaged_fails_its_own_jobs_until_it_is_back(
    shelf: Path, tmp_path: Path
) -> None:
    place = tmp_path / "shelf"
    shutil.copytree(shelf, place, ignore=shutil.ignore_patterns("half"))
    worker = build_worker(settings(models_dir=place))
    gone = tmp_path / "gone"
    (place / "tiny-xl").rename(gone)
    weights = place / "emoji" / "vae" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5])
    jobs = [draw(worker, model=name) for name in ("tiny-xl", "Copy of emoji", "emoji", None)]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    for failure, name in ((results[0], "tiny-xl"), (results[2], "emoji")):
        assert isinstance(failure, UserError)
        assert str(failure).startswith(f"model: {name} cannot be loaded")
        assert str(place) not in str(failure)
    assert isinstance(results[1], Image.Image)
    assert isinstance(results[3], Image.Image)
    gone.rename(place / "tiny-xl")
    weights.write_bytes(whole)
    for name in ("tiny-xl", "emoji"):
        await draw(worker, model=name)
    worker.models.close()
    worker.engine.close()


class TestLittleMemory:
    """Through a whole worker: of three models one fits at a time, and one never."""

    @pytest.fixture
    def worker(self, shelf: Path) -> Iterator[Worker]:
        emoji = weights_bytes(check_model_folder(shelf / "emoji"), torch.float32)
        xl = weights_bytes(check_model_folder(shelf / "tiny-xl"), torch.float32)
        assert xl < emoji, "the small one comes first, and the large one does not fit"
        named = (str(shelf / "tiny-xl"), f"second={shelf / 'tiny-xl'}", str(shelf / "emoji"))
        worker = build_worker(settings(models=named, model_memory_gb=1.5 * xl / 1e9))
        yield worker
        worker.models.close()
        worker.engine.close()

    async def test_jobs_that_want_two_of_which_one_fits_are_all_drawn(self, worker: Worker) -> None:
        names = ["tiny-xl", "second", "tiny-xl", "second"]
        async with asyncio.timeout(60):
            images = await asyncio.gather(*(draw(worker, model=name) for name in names))
        assert len(worker.models.loaded) == 1
        for image in images:
            assert np.abs(np.asarray(image, int) - np.asarray(images[0], int)).max() <= 1

    async def test_a_job_for_one_that_does_not_fit_fails_with_its_size_and_others_go_on(
        self, worker: Worker
    ) -> None:
        results = await asyncio.gather(
            draw(worker, model="emoji"), draw(worker), draw(worker, model="second"), return_exceptions=True
        )
        assert isinstance(results[0], UserError)
        assert "model: emoji takes" in str(results[0])
        assert "MODEL_MEMORY_GB" in str(results[0])
        assert isinstance(results[1], Image.Image)
        assert isinstance(results[2], Image.Image)


async def test_an_add_on_of_the_other_family_fails_its_job_with_the_familys_name(
    shelf: Path, tmp_path: Path
) -> None:
    """LoRA, embedding and ControlNet: each of one family, asked for with the other's model."""
    for name in ("loras", "embeddings"):
        (tmp_path / name).mkdir()
    save_file(
        {
            "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(1, 32),
            "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(37, 1),
        },
        tmp_path / "loras" / "for-xl.safetensors",
    )
    save_file({"emb_params": torch.ones(1, 32)}, tmp_path / "embeddings" / "oldstyle.safetensors")
    worker = build_worker(
        settings(models_dir=shelf, lora_dir=tmp_path / "loras", embedding_dir=tmp_path / "embeddings")
    )
    for fields, named in (
        ({"model": "emoji", "loras": [{"name": "for-xl"}]}, "LoRA 'for-xl': .*it is for SDXL"),
        (
            {"model": "tiny-xl", "prompt": "an apple, oldstyle"},
            "embedding 'oldstyle': is for Stable Diffusion 1.x or 2.x",
        ),
    ):
        with pytest.raises(UserError, match=named):
            await draw(worker, **fields)
        await draw(worker, model=fields["model"])
    worker.models.close()
    worker.engine.close()

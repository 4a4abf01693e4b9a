"""Jobs with LoRAs and embeddings through the worker, good ones and bad ones."""

import base64
import io
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aiohttp import web
from PIL import Image
from safetensors.torch import load_file, save_file

from bench.random_model import TINY_SDXL, write_random_model
from sdworker.assets import AddOnError
from sdworker.errors import UserError
from sdworker.settings import Settings, SettingsError
from sdworker.startup import build_worker
from sdworker.worker import Worker

PENCIL = Path(__file__).resolve().parents[1] / "models" / "loras" / "pencil.safetensors"
JOB = {"prompt": "a red heart", "num_inference_steps": 2, "seed": 1, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("add-ons")


@pytest.fixture(scope="module")
def worker(model: Path, folder: Path) -> Iterator[Worker]:
    worker = build_worker(
        Settings(
            model_dir=model,
            lora_dir=folder / "loras",
            embedding_dir=folder / "embeddings",
            addon_cache_dir=folder / "cache",
            addon_hosts=("127.0.0.1",),
            runpod_allow_private_download_urls=True,
        )
    )
    yield worker
    worker.engine.close()


async def draw(worker: Worker, **given: Any) -> Image.Image:
    ((image),) = await worker.run({"id": "a", "input": {**JOB, **given}})
    picture = Image.open(io.BytesIO(base64.b64decode(image["image"])))
    picture.load()
    return picture


async def refusal(worker: Worker, **given: Any) -> str:
    with pytest.raises(UserError) as error:
        await draw(worker, **given)
    return str(error.value)


async def test_whichever_way_a_lora_is_named_it_draws_the_same_and_not_what_is_drawn_without(
    worker: Worker,
) -> None:
    plain = await draw(worker)
    listed = await draw(worker, loras=[{"name": "pencil", "scale": 0.75}])
    assert listed.tobytes() != plain.tobytes()
    for given in (
        {"lora": "Pencil.safetensors", "lora_scale": 0.75},
        {"prompt": "a red heart <lora:pencil:0.75>"},
        {"loras": [{"name": "pencil", "scale": 0.5}, {"name": "pencil", "scale": 0.25}]},
        {"loras": [{"name": "pencil", "scale": 0.5}], "prompt": "<lora:pencil:0.25>a red heart"},
    ):
        assert (await draw(worker, **given)).tobytes() == listed.tobytes(), given
    assert (await draw(worker)).tobytes() == plain.tobytes()  # nothing of it is left


async def test_generation_data_names_it(worker: Worker) -> None:
    picture = await draw(worker, loras=[{"name": "pencil", "scale": 0.5, "text_scale": 0}])
    assert picture.info["parameters"].splitlines()[0] == "a red heart <lora:pencil:0:0.5>"


async def test_a_wrong_name_is_told_the_nearest(worker: Worker) -> None:
    assert "did you mean 'pencil'?" in await refusal(worker, prompt="x <lora:pensil:1>")


def sdxl(path: Path) -> None:
    save_file(
        {
            "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(4, 1280),
            "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(5120, 4),
        },
        path,
    )


def rank_4096(path: Path) -> None:
    layer = "lora_unet_mid_block_attentions_0_proj_in"
    save_file(
        {f"{layer}.lora_down.weight": torch.zeros(4096, 8), f"{layer}.lora_up.weight": torch.zeros(8, 4096)},
        path,
    )


def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return lambda path: save_file({name: change(one) for name, one in load_file(PENCIL).items()}, path)


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle": (lambda path: torch.save({"a": torch.ones(1)}, path), "pickles"),
    "empty": (lambda path: path.write_bytes(b""), "no whole safetensors file"),
    "truncated": (
        lambda path: path.write_bytes(PENCIL.read_bytes()[:-100]),
        "no whole safetensors file",
    ),
    "no header": (lambda path: path.write_bytes(b"\xff" * 64), "no whole safetensors file"),
    "no tensors": (lambda path: save_file({}, path), "holds no tensors"),
    "not a number": (changed(lambda tensor: tensor * torch.nan), "not finite"),
    "whole numbers": (changed(lambda tensor: tensor.to(torch.int32)), "holds I32 numbers"),
    "for SDXL": (sdxl, "2 of its 2 tensors have no place in this model (it is for SDXL)"),
    "of rank 4096": (rank_4096, "does not fit this model|has rank 4096"),
}


@pytest.mark.parametrize("case", BAD_FILES)
async def test_a_bad_file_fails_its_job_with_the_reason_and_no_other(
    worker: Worker, folder: Path, case: str
) -> None:
    make, told = BAD_FILES[case]
    (folder / "loras").mkdir(exist_ok=True)
    make(folder / "loras" / "bad.safetensors")
    message = await refusal(worker, loras=[{"name": "bad"}, {"name": "pencil"}])
    assert message.startswith("LoRA 'bad': ")
    assert any(part in message for part in told.split("|"))
    assert str(folder) not in message
    await draw(worker, loras=[{"name": "pencil"}])


@pytest.mark.parametrize(
    "name",
    [
        "../pencil", "/etc/passwd", "..", "pencil/../../x", "pencil\0", "file:///etc/passwd", "x" * 2000, "\u202e",
        "http://[::1", "http://user:password@127.0.0.1/x", "https://huggingface.co/a", "owner/name",
    ],
)  # fmt: skip
async def test_a_name_that_tries_something_finds_nothing(worker: Worker, name: str) -> None:
    with pytest.raises(AddOnError) as error:
        await draw(worker, loras=[{"name": name}])
    message = str(error.value)
    assert "password@" not in message
    assert len(message) < 400


async def test_a_folder_that_vanishes_takes_its_loras_with_it(worker: Worker, folder: Path) -> None:
    (folder / "loras").mkdir(exist_ok=True)
    shutil.copy(PENCIL, folder / "loras" / "mine.safetensors")
    await draw(worker, lora="mine")
    shutil.rmtree(folder / "loras")
    assert "there is no LoRA named 'mine'" in await refusal(worker, lora="mine")


@pytest.fixture
async def host(unused_tcp_port_factory: Any = None) -> AsyncIterator[tuple[str, list[str]]]:
    """Serves the pencil; its address, and what was asked for."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        body = PENCIL.read_bytes()
        return web.Response(body=body) if request.path.startswith("/pencil") else web.Response(status=404)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    await runner.cleanup()


async def test_a_remote_lora_is_fetched_once_and_draws_as_the_file_does(
    worker: Worker, host: tuple[str, list[str]]
) -> None:
    address, asked = host
    url = f"{address}/pencil.safetensors?token=s3cr3t"
    local = await draw(worker, lora="pencil")
    for _ in range(2):
        remote = await draw(worker, lora=url)
        assert remote.tobytes() == local.tobytes()
    assert len(asked) == 1
    assert "s3cr3t" not in remote.info["parameters"]
    assert "there is no such file" in await refusal(worker, lora=f"{address}/other.safetensors")
    wrong = await refusal(worker, loras=[{"name": f"{address}/pencil2", "sha256": "0" * 64}])
    assert "not the one the job names" in wrong


async def test_an_embedding_stands_where_its_name_is(worker: Worker, folder: Path, model: Path) -> None:
    encoder = load_file(model / "text_encoder" / "model.safetensors")
    tokens = next(tensor for name, tensor in encoder.items() if name.endswith("token_embedding.weight"))
    words = worker.engine.model._tokenizer.encode("red heart")  # type: ignore[attr-defined]
    (folder / "embeddings" / "more").mkdir(parents=True)
    save_file({"emb_params": tokens[words]}, folder / "embeddings" / "more" / "my-style.safetensors")
    meant = await draw(worker, prompt="a (red heart:1.2)", negative_prompt="red heart")
    named = await draw(worker, prompt="a (My-Style:1.2)", negative_prompt="my-style")
    assert named.tobytes() == meant.tobytes()
    brought = await draw(
        worker,
        prompt="a (thing:1.2)",
        negative_prompt="thing",
        embeddings=[{"name": "thing", "source": "my-style"}],
    )
    assert brought.tobytes() == meant.tobytes()
    plain = await draw(worker, prompt="my-style", prompt_syntax="plain")
    assert plain.tobytes() != (await draw(worker, prompt="red heart", prompt_syntax="plain")).tobytes()
    save_file({"emb_params": tokens[:80].clone()}, folder / "embeddings" / "long.safetensors")
    assert "long has 80 vectors; a chunk holds 75" in await refusal(worker, prompt="a long story")
    torch.save({}, folder / "embeddings" / "long.safetensors")
    assert (await refusal(worker, prompt="a long story")).startswith(
        "embedding 'long': is no whole safetensors"
    )


async def test_the_embedded_dot_cube_is_drawn_by_name(worker: Worker) -> None:
    named = await draw(worker, prompt="a dot-cube")
    assert named.tobytes() != (await draw(worker, prompt="a dot-cube", prompt_syntax="plain")).tobytes()


async def test_fused_loras_are_in_every_picture_and_jobs_own_come_on_top(model: Path, worker: Worker) -> None:
    fused = build_worker(Settings(model_dir=model, fused_loras=("pencil:0.5", "pixels")))
    try:
        asked = [{"name": "pencil", "scale": 0.5}, {"name": "pixels"}]
        for own in ([], [{"name": "pencil", "scale": 0.25}]):
            one, other = await draw(fused, loras=own), await draw(worker, loras=[*asked, *own])
            apart = np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max()
            assert apart <= 1
    finally:
        fused.engine.close()


@pytest.mark.slow
async def test_with_several_models_each_has_those_that_fit_it(model: Path, tmp_path: Path) -> None:
    """Models of the same weights too: what is merged into one's is not merged into the other's by that."""
    write_random_model(tmp_path / "models" / "tiny-xl", TINY_SDXL)
    weights = load_file(next((tmp_path / "models" / "tiny-xl" / "unet").glob("*.safetensors")))
    layer, weight = next((name, one) for name, one in weights.items() if name.endswith("attn2.to_k.weight"))
    (tmp_path / "loras").mkdir()
    save_file(
        {
            f"unet.{layer.removesuffix('.weight')}.lora_A.weight": torch.ones(2, weight.shape[1]),
            f"unet.{layer.removesuffix('.weight')}.lora_B.weight": torch.ones(weight.shape[0], 2),
        },
        tmp_path / "loras" / "xl-only.safetensors",
    )
    served = (f"xl={tmp_path / 'models' / 'tiny-xl'}", f"one={model}", f"two={model}")
    given: dict[str, Any] = {"models": served, "lora_dir": tmp_path / "loras", "warm_up": False}
    plain, fused = (
        build_worker(Settings(**given, fused_loras=loras)) for loras in ((), ("pencil", "xl-only:0.5"))
    )
    try:
        for name, lora in (("xl", "xl-only"), ("one", "pencil"), ("two", "pencil")):
            scale = 0.5 if name == "xl" else 1.0
            merged = await draw(fused, model=name)
            asked = await draw(plain, model=name, loras=[{"name": lora, "scale": scale}])
            bare = await draw(plain, model=name)
            apart = np.abs(np.asarray(merged).astype(int) - np.asarray(asked).astype(int)).max()
            assert apart <= 1, name
            assert merged.tobytes() != bare.tobytes(), name
    finally:
        plain.engine.close()
        fused.engine.close()


def test_with_several_models_one_that_fits_none_stops_the_start(model: Path, tmp_path: Path) -> None:
    sdxl(tmp_path / "strange.safetensors")
    served = (f"one={model}", f"two={model}")
    with pytest.raises(SettingsError, match=r"FUSED_LORAS: strange: one: .* \(it is for SDXL\).*; two: "):
        build_worker(Settings(models=served, lora_dir=tmp_path, fused_loras=("pencil", "strange")))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("pensil", "FUSED_LORAS: pensil: there is no LoRA named 'pensil'; did you mean 'pencil'?"),
        ("pencil:much", "FUSED_LORAS: 'much' is no scale"),
        ("pencil:nan", "FUSED_LORAS: 'nan' is out of range"),
        ("pencil:11", "FUSED_LORAS: '11' is out of range"),
    ],
)
def test_a_fused_lora_that_cannot_be_had_stops_the_start(model: Path, given: str, told: str) -> None:
    with pytest.raises(SettingsError) as error:
        build_worker(Settings(model_dir=model, fused_loras=(given,)))
    assert str(error.value).startswith(told)

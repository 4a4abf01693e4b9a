"""A model folder that cannot be served is refused with the name of the file and what is wrong with it."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdworker.engine.model_files import ModelError, check_model_folder
from sdworker.engine.networks.families import load_model
from sdworker.engine.networks.families.stable_diffusion import StableDiffusion
from sdworker.engine.networks.model import Loading
from tests.engine.conftest import load

NEEDED = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]
CONFIGS = [name for name in NEEDED if name.endswith(".json")]
WEIGHTS = [name for name in NEEDED if name.endswith(".safetensors")]
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 3438167534\n"

HEADER = {"a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """The embedded model, by links: each test replaces what it breaks."""
    copy = tmp_path / "model"
    shutil.copytree(model, copy, copy_function=lambda source, target: Path(target).symlink_to(source))
    return copy


def put(file: Path, content: str | bytes) -> Path:
    """Replace a linked file by one of that content."""
    file.unlink(missing_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def safetensors(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as error:
        check_model_folder(folder)
    return str(error.value)


class TestServed:
    def test_the_embedded_model(self, model: Path) -> None:
        checked = check_model_folder(model)
        assert checked.variants == {"text_encoder": None, "unet": None, "vae": None}
        assert "beta_start" in checked.scheduler_config

    def test_fp16_files_are_found_component_by_component(self, folder: Path) -> None:
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
        assert check_model_folder(folder).variants == {"text_encoder": None, "unet": "fp16", "vae": None}

    @pytest.mark.parametrize("variant", [None, "fp16"])
    def test_shards_are_found_by_their_index(self, folder: Path, variant: str | None) -> None:
        unet = folder / "unet"
        stem = f"diffusion_pytorch_model.{variant}" if variant else "diffusion_pytorch_model"
        shard = f"{stem}-00001-of-00001.safetensors"
        (unet / "diffusion_pytorch_model.safetensors").rename(unet / shard)
        index = "diffusion_pytorch_model.safetensors.index" + (f".{variant}.json" if variant else ".json")
        put(unet / index, json.dumps({"weight_map": {"a": shard, "b": shard}}))
        assert check_model_folder(folder).variants["unet"] == variant

    def test_what_is_found_can_be_loaded(self, folder: Path) -> None:
        weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
        assert load(StableDiffusion, folder).autoencoder.latent_channels == 4

    @pytest.mark.parametrize(
        "missing", [["tokenizer.json"], ["vocab.json", "merges.txt"], ["tokenizer_config.json"]], ids=str
    )
    def test_either_form_of_the_tokenizer_is_enough(self, folder: Path, missing: list[str]) -> None:
        for name in missing:
            (folder / "tokenizer" / name).unlink()
        check_model_folder(folder)
        assert load(StableDiffusion, folder).encode_text("a red apple").shape[:2] == (1, 77)


class TestKind:
    @pytest.mark.parametrize(
        "index",
        [
            {"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModel"]},
            {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder_2": ["transformers", "x"]},
            {"_class_name": "FluxPipeline"},
            {"_class_name": ["StableDiffusionPipeline"]},
            {},
        ],
        ids=["SDXL", "SDXL refiner", "Flux", "list", "nothing"],
    )
    def test_other_kinds_of_model_are_refused(self, folder: Path, index: dict[str, object]) -> None:
        put(folder / "model_index.json", json.dumps(index))
        assert "this worker serves Stable Diffusion 1.x and 2.x" in refusal(folder)

    @pytest.mark.parametrize("kind", ["", "Img2Img", "Inpaint"])
    def test_the_pipelines_of_stable_diffusion_are_served(self, folder: Path, kind: str) -> None:
        put(folder / "model_index.json", json.dumps({"_class_name": f"StableDiffusion{kind}Pipeline"}))
        check_model_folder(folder)


class TestMissing:
    def test_no_folder_says_what_to_set(self, tmp_path: Path) -> None:
        message = refusal(tmp_path / "nowhere")
        assert message == (
            f"there is no model folder at {tmp_path / 'nowhere'}; "
            "set MODEL_DIR to a folder in diffusers' layout"
        )

    def test_a_file_is_no_folder(self, folder: Path) -> None:
        assert "there is no model folder" in refusal(folder / "model_index.json")

    def test_an_empty_folder_lacks_its_index(self, tmp_path: Path) -> None:
        assert refusal(tmp_path) == f"{tmp_path / 'model_index.json'} is missing"

    @pytest.mark.parametrize("name", NEEDED)
    def test_each_file_is_missed_by_name(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        assert refusal(folder) == f"{folder / name} is missing"

    @pytest.mark.parametrize("name", NEEDED)
    def test_a_link_to_nowhere_is_missing(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(folder / "nowhere")
        assert refusal(folder) == f"{folder / name} is missing"

    @pytest.mark.parametrize("component", ["scheduler", "text_encoder", "tokenizer", "unet", "vae"])
    def test_each_component_is_missed_by_name(self, folder: Path, component: str) -> None:
        shutil.rmtree(folder / component)
        message = refusal(folder)
        assert message.startswith(str(folder / component))
        assert message.endswith(" is missing")

    @pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
    def test_half_a_tokenizer_is_missed_by_name(self, folder: Path, name: str) -> None:
        (folder / "tokenizer" / "tokenizer.json").unlink()
        (folder / "tokenizer" / name).unlink()
        assert refusal(folder) == f"{folder / 'tokenizer' / name} is missing"

    def test_a_pickle_alone_is_refused_and_says_why(self, folder: Path) -> None:
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_suffix(".bin"))
        message = refusal(folder)
        assert message.startswith(f"{weights} is missing (diffusion_pytorch_model.bin is a pickle, which can")
        assert "safetensors" in message

    def test_a_missing_shard_is_missed_by_name(self, folder: Path) -> None:
        unet = folder / "unet"
        (unet / "diffusion_pytorch_model.safetensors").unlink()
        index = unet / "diffusion_pytorch_model.safetensors.index.json"
        put(index, json.dumps({"weight_map": {"a": "one.safetensors"}}))
        assert refusal(folder) == f"{unet / 'one.safetensors'} is missing"


class TestDamaged:
    @pytest.mark.parametrize("name", WEIGHTS)
    @pytest.mark.parametrize("keep", [0, 7, 8, 500, -1])
    def test_cut_off_weights_are_refused(self, folder: Path, name: str, keep: int) -> None:
        whole = (folder / name).read_bytes()
        put(folder / name, whole[:keep])
        assert refusal(folder).startswith(f"{folder / name} is damaged: ")

    def test_cut_off_weights_are_told_by_their_size(self, folder: Path) -> None:
        file = put(folder / WEIGHTS[0], safetensors(HEADER, b"123"))
        size = file.stat().st_size
        assert refusal(folder) == f"{file} is damaged: it has {size} bytes, its header promises {size + 1}"

    def test_weights_with_more_behind_are_refused(self, folder: Path) -> None:
        file = put(folder / WEIGHTS[0], safetensors(HEADER, b"12345"))
        assert refusal(folder).startswith(f"{file} is damaged: ")

    @pytest.mark.parametrize(
        "content",
        [
            b"\x80\x02}q\x00(X\x05\x00\x00\x00state" * 100,
            b"<!DOCTYPE html><html>Not found</html>",
            b"\xff" * 64,
            safetensors({}, b""),
            safetensors({"__metadata__": {}}, b""),
            safetensors([], b""),
            safetensors(b"not json", b""),
            safetensors(b"\xff\xfe", b""),
            safetensors(b"[" * 100_000, b""),
            safetensors({"a": 5}, b""),
            safetensors({"a": {}}, b""),
            safetensors({"a": {"data_offsets": []}}, b""),
            safetensors({"a": {"data_offsets": [0, "x"]}}, b""),
            safetensors({"a": {"data_offsets": [0, None]}}, b""),
        ],
        ids=[
            "pickle",
            "html",
            "ones",
            "no tensors",
            "metadata only",
            "list",
            "no json",
            "no text",
            "deep",
            "number",
            "no offsets",
            "empty offsets",
            "text offsets",
            "null offsets",
        ],
    )
    def test_what_is_no_safetensors_file_is_refused(self, folder: Path, content: bytes) -> None:
        file = put(folder / WEIGHTS[1], content)
        assert refusal(folder).startswith(f"{file} is damaged: ")

    @pytest.mark.parametrize("name", [*NEEDED, "tokenizer/tokenizer.json"])
    def test_a_git_lfs_pointer_says_how_to_get_the_file(self, folder: Path, name: str) -> None:
        file = put(folder / name, LFS_POINTER)
        assert refusal(folder) == (f"{file} is a Git LFS pointer, not the file itself: run `git lfs pull`")

    @pytest.mark.parametrize(
        "name", [*CONFIGS, "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]
    )
    @pytest.mark.parametrize(
        "content", ["", "{", "nonsense", "[]", "null", '"text"', b"\xff\xfe\x00", "[" * 100_000], ids=range(8)
    )
    def test_configuration_that_is_no_json_object_is_refused(
        self, folder: Path, name: str, content: str | bytes
    ) -> None:
        file = put(folder / name, content)
        message = refusal(folder)
        assert message.startswith(f"{file} is damaged: ")
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("vocab.json", "{}"),
            ("vocab.json", "["),
            ("merges.txt", ""),
            ("merges.txt", "#version: 0.2\n\n"),
            ("merges.txt", b"\xff"),
        ],
    )
    def test_a_tokenizer_without_content_is_refused(
        self, folder: Path, name: str, content: str | bytes
    ) -> None:
        (folder / "tokenizer" / "tokenizer.json").unlink()
        file = put(folder / "tokenizer" / name, content)
        assert refusal(folder).startswith(f"{file} is damaged: ")

    @pytest.mark.parametrize("content", ["{}", '{"model": null}'])
    def test_a_tokenizer_file_that_holds_none_is_refused(self, folder: Path, content: str) -> None:
        file = put(folder / "tokenizer" / "tokenizer.json", content)
        assert refusal(folder) == f"{file} is damaged: it holds no tokenizer"

    @pytest.mark.parametrize("weight_map", [None, {}, [], "x", {"a": 5}, {"a": None}])
    def test_an_index_of_shards_that_names_none_is_refused(self, folder: Path, weight_map: object) -> None:
        unet = folder / "unet"
        (unet / "diffusion_pytorch_model.safetensors").unlink()
        index = unet / "diffusion_pytorch_model.safetensors.index.json"
        put(index, json.dumps({"weight_map": weight_map}))
        assert refusal(folder) == f"{index} is damaged: its weight_map names no files"

    @pytest.mark.parametrize("name", ["scheduler/scheduler_config.json", "unet/config.json"])
    def test_a_folder_in_a_files_place_cannot_be_read(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()
        assert refusal(folder) == f"{folder / name} cannot be read: Is a directory"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read_is_named(self, folder: Path) -> None:
        file = put(folder / WEIGHTS[0], b"")
        file.chmod(0)
        assert refusal(folder) == f"{file} cannot be read: Permission denied"


@pytest.mark.parametrize(
    "break_it",
    [
        lambda folder: put(folder / "tokenizer" / "tokenizer.json", '{"model": {}}'),
        lambda folder: put(folder / "unet" / "config.json", '{"block_out_channels": "x"}'),
        lambda folder: put(folder / "vae" / "config.json", "{}"),
        lambda folder: put(
            folder / "unet" / "diffusion_pytorch_model.safetensors", safetensors(HEADER, b"1234")
        ),
        lambda folder: put(folder / "text_encoder" / "config.json", '{"hidden_size": 64}'),
        lambda folder: put(folder / "vae" / "config.json", '{"latent_channels": 8}'),
        lambda folder: put(folder / "text_encoder" / "model.safetensors", safetensors(HEADER, b"1234")),
        lambda folder: put(
            folder / "vae" / "diffusion_pytorch_model.safetensors", safetensors(HEADER, b"1234")
        ),
    ],
    ids=[
        "tokenizer",
        "unet configuration",
        "vae configuration",
        "unet weights",
        "text encoder",
        "misshapen",
        "text weights",
        "vae weights",
    ],
)
def test_what_only_shows_in_loading_is_a_model_error_too(
    folder: Path, break_it: Callable[[Path], object]
) -> None:
    break_it(folder)
    with pytest.raises(ModelError, match=str(folder)):
        load_model(folder, Loading(torch.device("cpu"), torch.float32))

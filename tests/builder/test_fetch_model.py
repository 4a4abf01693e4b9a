"""From each kind of source to a clean, verified, complete model folder, or to a reason why not."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from builder.errors import FetchError
from builder.fetch_model import fetch
from builder.hub import Hub
from builder.sources import DEFAULT_MODEL
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from builder import manifest
from tests.builder.hub_server import COMMIT, FakeHub, Repo, serve_hub
from tests.builder.tiny_model import ldm_tensors, make_diffusers_folder, save_ldm

ID = "someone/a-model"
UNET = "unet/diffusion_pytorch_model.safetensors"
NEEDED = [
    "manifest.json",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    UNET,
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine") / "tiny"
    make_diffusers_folder(folder)
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A full diffusers folder in fp32, for the test to spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "tiny"))


@pytest.fixture
def server(folder: Path) -> Iterator[FakeHub]:
    """A hub that has the folder, as a model of someone's and as the default model."""
    with serve_hub() as hub:
        hub.repos[ID] = hub.repos[DEFAULT_MODEL] = Repo(folder)
        yield hub


@pytest.fixture
def hub(server: FakeHub) -> Hub:
    return Hub(endpoint=server.address, tries=3, wait_s=0.01)


OFFLINE = Hub(endpoint="http://127.0.0.1:1", tries=1)


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _as_object(token: str) -> dict[str, object]:
    return {
        "__type": "AddedToken",
        "content": token,
        "lstrip": False,
        "normalized": True,
        "single_word": False,
    }


class TestLocalFolder:
    def test_comes_out_clean_in_half_precision_and_loadable(self, folder: Path, tmp_path: Path) -> None:
        made = fetch(str(folder), tmp_path / "out", hub=OFFLINE)
        assert files_of(tmp_path / "out") == NEEDED
        assert all(tensor.dtype == torch.float16 for tensor in load_file(tmp_path / "out" / UNET).values())
        assert UNET in made.converted
        pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
        assert pipeline.safety_checker is None

    @pytest.mark.parametrize("as_objects", [False, True], ids=["as today", "as Stable Diffusion 1.5 has it"])
    def test_its_tokenizer_comes_out_in_one_file_that_the_worker_reads_without_transformers(
        self, folder: Path, tmp_path: Path, as_objects: bool
    ) -> None:
        config = folder / "tokenizer" / "tokenizer_config.json"
        if as_objects:
            edit(
                config,
                lambda said: said.update(
                    {name: _as_object(said[name]) for name in ("bos_token", "eos_token")}
                ),
            )
        made = fetch(str(folder), tmp_path / "out", hub=OFFLINE)
        assert "tokenizer/tokenizer.json" in made.converted
        code = (
            "import sys; from pathlib import Path; from sdworker.engine.text.tokens import load_tokenizer;"
            "print(load_tokenizer(Path(sys.argv[1]), 77).encode('a cat, dog'));"
            "assert 'transformers' not in sys.modules"
        )
        ours = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "out" / "tokenizer"],
            capture_output=True,
            text=True,
            check=True,
        )
        theirs = CLIPTokenizer.from_pretrained(folder / "tokenizer")("a cat, dog", add_special_tokens=False)
        assert json.loads(ours.stdout) == theirs.input_ids

    def test_the_source_is_not_touched(self, folder: Path, pristine: Path, tmp_path: Path) -> None:
        fetch(str(folder), tmp_path / "out", hub=OFFLINE)
        assert files_of(folder) == files_of(pristine)
        assert (folder / UNET).read_bytes() == (pristine / UNET).read_bytes()
        assert not (tmp_path / "out" / "vae" / "config.json").samefile(folder / "vae" / "config.json")

    def test_its_own_output_passes_unchanged(self, folder: Path, tmp_path: Path) -> None:
        first = fetch(str(folder), tmp_path / "first", hub=OFFLINE)
        second = fetch(str(tmp_path / "first"), tmp_path / "second", hub=OFFLINE)
        assert first.files == second.files
        assert not second.converted

    def test_nothing_is_left_beside_the_result(self, folder: Path, tmp_path: Path) -> None:
        fetch(str(folder), tmp_path / "out", hub=OFFLINE)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny"]

    def test_nine_channel_inpainting(self, tmp_path: Path) -> None:
        make_diffusers_folder(tmp_path / "inpainting", unet_channels=9)
        fetch(str(tmp_path / "inpainting"), tmp_path / "out", hub=OFFLINE)
        pipeline = StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
        assert pipeline.unet.config.in_channels == 9

    def test_a_folder_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "v1-5.safetensors").touch()
        with pytest.raises(
            FetchError, match=r"no model_index.json; did you mean the file .*v1-5.safetensors"
        ):
            fetch(str(tmp_path / "other"), tmp_path / "out", hub=OFFLINE)

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FetchError, match=r"there is no folder or file \./nowhere"):
            fetch("./nowhere", tmp_path / "out", hub=OFFLINE)


class TestManifest:
    def test_tells_source_licence_and_every_file_s_hash(
        self, server: FakeHub, hub: Hub, tmp_path: Path
    ) -> None:
        made = fetch(ID, tmp_path / "out", hub=hub, revision=COMMIT)
        assert made == manifest.read(tmp_path / "out")
        assert (made.source["kind"], made.source["name"], made.source["revision"]) == ("hub", ID, COMMIT)
        assert made.licence == "creativeml-openrail-m"
        assert sorted(made.files) == [name for name in NEEDED if name != "manifest.json"]
        assert manifest.problems(tmp_path / "out", made) == []

    def test_holds_no_path_of_this_machine(self, folder: Path, tmp_path: Path) -> None:
        fetch(str(folder), tmp_path / "out", hub=OFFLINE)
        assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()

    def test_a_source_that_differs_from_its_manifest_is_refused(self, folder: Path, tmp_path: Path) -> None:
        fetch(str(folder), tmp_path / "first", hub=OFFLINE)
        edit(tmp_path / "first" / "unet" / "config.json", lambda config: config.update(sample_size=99))
        with pytest.raises(
            FetchError, match=r"not what its own manifest.json says: unet/config.json has changed"
        ):
            fetch(str(tmp_path / "first"), tmp_path / "out", hub=OFFLINE)


class TestHubModel:
    def test_comes_out_like_the_same_folder(
        self, server: FakeHub, hub: Hub, folder: Path, tmp_path: Path
    ) -> None:
        from_hub = fetch(ID, tmp_path / "from_hub", hub=hub, revision=COMMIT)
        from_folder = fetch(str(folder), tmp_path / "from_folder", hub=OFFLINE)
        assert from_hub.files == from_folder.files

    def test_only_needed_files_are_downloaded(self, server: FakeHub, hub: Hub, tmp_path: Path) -> None:
        fetch(ID, tmp_path / "out", hub=hub, revision=COMMIT)
        asked = [path for path, _ in server.requests]
        assert not [path for path in asked if path.endswith((".bin", ".onnx", ".md")) or "safety" in path]

    def test_half_precision_is_taken_as_it_is(
        self, server: FakeHub, hub: Hub, folder: Path, tmp_path: Path
    ) -> None:
        half = {key: value.half() for key, value in load_file(folder / UNET).items()}
        save_file(half, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
        made = fetch(f"{ID}@{COMMIT}", tmp_path / "out", hub=hub)
        assert not server.asked_for(f"/resolve/{COMMIT}/{UNET}")
        assert UNET not in made.converted

    def test_a_branch_is_recorded_as_its_commit_with_a_warning(
        self, server: FakeHub, hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = fetch(ID, tmp_path / "out", hub=hub)
        assert made.source["revision"] == COMMIT
        assert f"Pin it: --revision {COMMIT}" in caplog.text

    def test_an_interrupted_download_is_resumed(self, server: FakeHub, hub: Hub, tmp_path: Path) -> None:
        server.cuts[UNET] = [1_000_000, 0, 0, 0]
        with pytest.raises(FetchError, match="cannot be reached"):
            fetch(ID, tmp_path / "out", hub=hub, revision=COMMIT)
        assert not (tmp_path / "out").exists()
        server.cuts.clear()
        fetch(ID, tmp_path / "out", hub=hub, revision=COMMIT)
        assert server.asked_for(f"/bucket/{ID}/{UNET}")[-1]["range"] == "bytes=1000000-"
        assert not (tmp_path / "out.partial").exists()

    def test_a_repository_of_single_files_says_so(
        self, server: FakeHub, hub: Hub, folder: Path, tmp_path: Path
    ) -> None:
        (folder / "model_index.json").unlink()
        (folder / "v1.safetensors").write_bytes(b"x")
        with pytest.raises(
            FetchError, match=f"no model_index.json; name one of its files: {ID}/v1.safetensors"
        ):
            fetch(ID, tmp_path / "out", hub=hub)

    def test_a_repository_of_another_kind_costs_no_download(
        self, server: FakeHub, hub: Hub, folder: Path, tmp_path: Path
    ) -> None:
        edit(folder / "model_index.json", lambda i: i.update(_class_name="StableDiffusion3Pipeline"))
        with pytest.raises(FetchError, match="StableDiffusion3Pipeline, which the worker cannot run"):
            fetch(ID, tmp_path / "out", hub=hub)
        assert len(server.asked_for("/resolve/")) == 1

    @pytest.mark.parametrize("model", ["gpt2", "a/b/c", "owner/name@", "https://example.com/x"])
    def test_what_cannot_be_an_id(self, model: str, tmp_path: Path) -> None:
        with pytest.raises(FetchError, match="not a model id like owner/name"):
            fetch(model, tmp_path / "out", hub=OFFLINE)


class TestSingleFile:
    @pytest.mark.parametrize("open_clip", [False, True], ids=["1.x", "2.x"])
    def test_gives_the_same_folder_as_the_diffusers_layout(
        self, folder: Path, tmp_path: Path, open_clip: bool
    ) -> None:
        save_ldm(folder, tmp_path / "one.safetensors", open_clip=open_clip)
        checkpoint = str(tmp_path / "one.safetensors")
        single = fetch(checkpoint, tmp_path / "single", hub=OFFLINE, config_from=str(folder))
        layout = fetch(str(folder), tmp_path / "layout", hub=OFFLINE)
        assert single.files == layout.files

    def test_the_configuration_is_its_familys_own_where_none_is_named(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / "stable-diffusion-1.5").symlink_to(folder)
        monkeypatch.setattr("sdworker.checkpoints.folder.OWN_CONFIGS", tmp_path / "own")
        save_ldm(folder, tmp_path / "one.safetensors")
        made = fetch(str(tmp_path / "one.safetensors"), tmp_path / "out", hub=OFFLINE)
        assert made.source["config_from"] is None
        assert made.files == fetch(str(folder), tmp_path / "layout", hub=OFFLINE).files

    def test_from_the_hub(self, server: FakeHub, hub: Hub, folder: Path, tmp_path: Path) -> None:
        save_ldm(folder, folder / "one.safetensors")
        made = fetch(
            f"{ID}@{COMMIT}/one.safetensors", tmp_path / "out", hub=hub, config_from=f"{ID}@{COMMIT}"
        )
        assert made.source["name"] == f"{ID}/one.safetensors"
        assert made.source["sha256"] == manifest.sha256_of(folder / "one.safetensors")
        assert files_of(tmp_path / "out") == NEEDED

    def test_from_the_hub_by_a_name_it_does_not_have(
        self, server: FakeHub, hub: Hub, folder: Path, tmp_path: Path
    ) -> None:
        save_ldm(folder, folder / "one.safetensors")
        with pytest.raises(FetchError, match=r"has no file two.safetensors; it has one.safetensors"):
            fetch(f"{ID}/two.safetensors", tmp_path / "out", hub=hub)

    def test_nine_channels_are_seen_in_the_weights(self, folder: Path, tmp_path: Path) -> None:
        make_diffusers_folder(tmp_path / "inpainting", unet_channels=9)
        save_ldm(tmp_path / "inpainting", tmp_path / "one.safetensors")
        fetch(str(tmp_path / "one.safetensors"), tmp_path / "out", hub=OFFLINE, config_from=str(folder))
        pipeline = StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
        assert pipeline.unet.config.in_channels == 9

    @pytest.mark.parametrize(
        ("beginning", "reason"),
        [
            ("first_stage_model.", "is without its VAE"),
            ("cond_stage_model.", "is without its text encoder"),
            (
                "cond_stage_model.transformer.text_model.encoder.layers.1.",
                r"lacks \d+ weights of the text_encoder",
            ),
            ("model.diffusion_model.middle_block.", r"lacks \d+ weights of the unet|does not fit"),
        ],
    )
    def test_a_checkpoint_with_a_part_missing(
        self, folder: Path, tmp_path: Path, beginning: str, reason: str
    ) -> None:
        tensors = {key: value for key, value in ldm_tensors(folder).items() if not key.startswith(beginning)}
        save_file(tensors, tmp_path / "one.safetensors")
        with pytest.raises(FetchError, match=reason):
            fetch(str(tmp_path / "one.safetensors"), tmp_path / "out", hub=OFFLINE, config_from=str(folder))

    @pytest.mark.parametrize(
        ("key", "reason"),
        [
            ("conditioner.embedders.0.model.transformer.x", "an SDXL refiner"),
            ("model.diffusion_model.joint_blocks.0.x", "an SD3 checkpoint"),
            ("model.diffusion_model.double_blocks.0.x", "a FLUX checkpoint"),
            ("lora_unet_down.lora_up.weight", "a LoRA, not a model"),
            ("down_blocks.0.resnets.0.conv1.weight", "give the whole folder"),
            ("something.else", "not a Stable Diffusion checkpoint"),
        ],
    )
    def test_other_kinds_of_files_by_what_they_are(self, tmp_path: Path, key: str, reason: str) -> None:
        save_file({key: torch.ones(1)}, tmp_path / "one.safetensors")
        with pytest.raises(FetchError, match=reason):
            fetch(str(tmp_path / "one.safetensors"), tmp_path / "out", hub=OFFLINE)

    def test_a_pickled_checkpoint_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "one.ckpt").touch()
        with pytest.raises(FetchError, match="pickled checkpoints can run code"):
            fetch(str(tmp_path / "one.ckpt"), tmp_path / "out", hub=OFFLINE)

    def test_a_configuration_of_another_kind_of_model(self, folder: Path, tmp_path: Path) -> None:
        save_ldm(folder, tmp_path / "one.safetensors")
        edit(folder / "unet" / "config.json", lambda config: config.update(cross_attention_dim=1024))
        with pytest.raises(FetchError, match=r"have 32 values and the configuration's 1024;.*--config-from"):
            fetch(str(tmp_path / "one.safetensors"), tmp_path / "out", hub=OFFLINE, config_from=str(folder))


class TestVerified:
    """What has all its files and still cannot be used."""

    @pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model", "text_encoder/model"])
    def test_a_weight_is_missing(self, folder: Path, tmp_path: Path, name: str) -> None:
        path = folder / f"{name}.safetensors"
        tensors = load_file(path)
        del tensors[sorted(tensors)[0]]
        save_file(tensors, path, {"format": "pt"})
        with pytest.raises(FetchError, match=rf"its {name.split('/')[0]} has 1 missing keys"):
            fetch(str(folder), tmp_path / "out", hub=OFFLINE)

    def test_a_weight_has_another_shape(self, folder: Path, tmp_path: Path) -> None:
        edit(folder / "vae" / "config.json", lambda config: config.update(block_out_channels=[64, 64]))
        with pytest.raises(FetchError, match="its vae "):
            fetch(str(folder), tmp_path / "out", hub=OFFLINE)

    def test_the_tokenizer_is_of_another_model(self, folder: Path, tmp_path: Path) -> None:
        edit(
            folder / "tokenizer" / "vocab.json",
            lambda words: words.update({f"x{i}": 100 + i for i in range(50)}),
        )
        with pytest.raises(FetchError, match=r"its tokenizer knows \d+ tokens, its text encoder \d+"):
            fetch(str(folder), tmp_path / "out", hub=OFFLINE)

    def test_the_text_encoder_is_of_another_model(self, folder: Path, tmp_path: Path) -> None:
        make_diffusers_folder(folder)
        edit(folder / "unet" / "config.json", lambda config: config.update(cross_attention_dim=64))
        with pytest.raises(FetchError, match="its unet "):
            fetch(str(folder), tmp_path / "out", hub=OFFLINE)

    def test_an_unknown_scheduler(self, folder: Path, tmp_path: Path) -> None:
        edit(folder / "model_index.json", lambda i: i.update(scheduler=["diffusers", "FutureScheduler"]))
        with pytest.raises(FetchError, match="FutureScheduler, is unknown to diffusers"):
            fetch(str(folder), tmp_path / "out", hub=OFFLINE)

    def test_a_unet_that_wants_other_inputs(self, folder: Path, tmp_path: Path) -> None:
        edit(folder / "unet" / "config.json", lambda config: config.update(in_channels=8))
        with pytest.raises(FetchError, match="8 input channels; 4"):
            fetch(str(folder), tmp_path / "out", hub=OFFLINE)

    def test_a_configuration_that_is_not_json(self, folder: Path, tmp_path: Path) -> None:
        (folder / "unet" / "config.json").write_text("{")
        with pytest.raises(FetchError, match=r"unet/config.json is not JSON"):
            fetch(str(folder), tmp_path / "out", hub=OFFLINE)

    def test_a_failure_leaves_no_result(self, folder: Path, tmp_path: Path) -> None:
        (folder / "unet" / "config.json").write_text("{}")
        with pytest.raises(FetchError):
            fetch(str(folder), tmp_path / "out", hub=OFFLINE)
        assert not (tmp_path / "out").exists()


class TestDestination:
    def test_a_second_run_finds_it_complete(self, server: FakeHub, hub: Hub, tmp_path: Path) -> None:
        first = fetch(ID, tmp_path / "out", hub=hub, revision=COMMIT)
        server.requests.clear()
        assert fetch(ID, tmp_path / "out", hub=hub, revision=COMMIT) == first
        assert not server.asked_for("/resolve/")

    def test_another_model_there_is_not_overwritten(self, folder: Path, tmp_path: Path) -> None:
        fetch(str(folder), tmp_path / "out", hub=OFFLINE)
        edit(folder / "unet" / "config.json", lambda config: config.update(sample_size=16))
        with pytest.raises(FetchError, match=r"there already, with something else in it; --force"):
            fetch(str(folder), tmp_path / "out", hub=OFFLINE)

    def test_a_spoilt_result_is_noticed(self, folder: Path, tmp_path: Path) -> None:
        fetch(str(folder), tmp_path / "out", hub=OFFLINE)
        (tmp_path / "out" / UNET).write_bytes(b"")
        with pytest.raises(FetchError, match=rf"{UNET} has changed; --force"):
            fetch(str(folder), tmp_path / "out", hub=OFFLINE)

    def test_force_replaces_what_is_there(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious.txt").touch()
        fetch(str(folder), tmp_path / "out", hub=OFFLINE, force=True)
        assert files_of(tmp_path / "out") == NEEDED
        assert not (tmp_path / "out.partial").exists()

    def test_what_is_there_survives_a_failure(self, folder: Path, tmp_path: Path) -> None:
        made = fetch(str(folder), tmp_path / "out", hub=OFFLINE)
        (folder / "unet" / "config.json").write_text("{}")
        with pytest.raises(FetchError):
            fetch(str(folder), tmp_path / "out", hub=OFFLINE, force=True)
        assert manifest.problems(tmp_path / "out", made) == []

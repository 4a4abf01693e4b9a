"""A worker's single checkpoints become folders once, for all that share the place, and never half."""

import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdworker.checkpoints import CheckpointError, described, kept, kept_folder
from sdworker.checkpoints import folder as folders
from sdworker.model_layout import STABLE_DIFFUSION, STABLE_DIFFUSION_XL

pytestmark = pytest.mark.usefixtures("tiny_families")


@pytest.fixture
def place(singles: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(singles, tmp_path / "place"))


def convert(file: Path, configs: Path) -> tuple[str, int]:
    """In a process of its own: what it was made, and how many it made itself."""
    folders.OWN_CONFIGS = configs
    made = []
    write = kept.write_folder

    def counted(*given: Any) -> None:
        made.append(given)
        write(*given)

    kept.write_folder = counted  # type: ignore[assignment]
    return str(kept_folder(file)), len(made)


def made_in(place: Path) -> list[str]:
    return sorted(one.name for one in (place / ".converted").iterdir() if one.is_dir())


def test_it_is_known_by_its_header_alone(place: Path) -> None:
    found = described(place / "xl.safetensors")
    assert found.layout is STABLE_DIFFUSION_XL
    assert found.weights.keys() == {"unet", "vae", "text_encoder", "text_encoder_2"}
    assert described(place / "sd.safetensors").layout is STABLE_DIFFUSION
    assert not (place / ".converted").exists()


def test_it_is_made_once_and_found_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = kept_folder(place / "sd.safetensors")
    assert made.parent == place / ".converted"
    monkeypatch.setattr(kept, "write_folder", None)  # whoever called it now would fail
    assert kept_folder(place / "sd.safetensors") == made


def test_workers_that_come_together_make_one(place: Path, configs: Path) -> None:
    """Two processes, as two workers on one volume, and two threads of this one."""
    file = place / "sd.safetensors"
    with (
        ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes,
        ThreadPoolExecutor(2) as threads,
    ):
        others = [processes.submit(convert, file, configs) for _ in range(2)]
        ours = [threads.submit(kept_folder, file) for _ in range(2)]
        places = {str(one.result()) for one in ours} | {one.result()[0] for one in others}
        assert sum(one.result()[1] for one in others) <= 1
    assert places == {str(place / ".converted" / made_in(place)[0])}
    assert len(made_in(place)) == 1


def test_another_version_of_the_file_is_made_anew_and_the_old_one_goes(place: Path) -> None:
    file = place / "sd.safetensors"
    before = kept_folder(file)
    kept_folder(place / "xl.safetensors")
    tensors = load_file(file)
    name = "model.diffusion_model.out.2.bias"
    tensors[name] = tensors[name] + 1
    save_file(tensors, file)
    os.utime(file, (1e9, 1e9))
    after = kept_folder(file)
    assert after != before
    assert [one.rpartition("-")[0] for one in made_in(place)] == ["sd", "xl"]
    unet = load_file(after / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(unet["conv_out.bias"], tensors[name].half())


def test_where_nothing_can_be_written_it_is_kept_elsewhere(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only mount, by what the system says of one: whoever runs tests may write everywhere."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    mkdir = Path.mkdir

    def read_only(path: Path, *given: object, **options: object) -> None:
        if place in path.parents:
            raise OSError(30, "Read-only file system", str(path))
        mkdir(path, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", read_only)
    made = kept_folder(place / "sd.safetensors")
    assert tmp_path / "temporary" in made.parents
    assert kept_folder(place / "sd.safetensors") == made


def test_the_deployment_may_name_the_place(place: Path, tmp_path: Path) -> None:
    made = kept_folder(place / "sd.safetensors", tmp_path / "mine")
    assert made.parent == tmp_path / "mine"
    assert not (place / ".converted").exists()


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 5)


def broken(file: Path) -> None:
    tensors = load_file(file)
    tensors["model.diffusion_model.out.2.bias"] *= float("nan")
    save_file(tensors, file)


def lacking(file: Path) -> None:
    tensors = load_file(file)
    del tensors["model.diffusion_model.out.2.bias"]
    save_file(tensors, file)


def foreign(file: Path) -> None:
    save_file({"lora_unet_x.lora_up.weight": torch.ones(1)}, file)


def of_another_kind(file: Path) -> None:
    tensors = load_file(file)
    save_file({k: v.repeat(1, 2) if "attn2.to_k" in k else v for k, v in tensors.items()}, file)


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (cut, "is truncated, or not a safetensors file"),
    (broken, "conv_out.bias holds NaN or infinity"),
    (lacking, "lacks 1 weights of the unet, conv_out.bias first"),
    (foreign, "is a LoRA, not a model"),
    (of_another_kind, "is of a kind whose configuration no file tells"),
    (lambda file: file.unlink(), "cannot be read: No such file"),
    (lambda file: os.truncate(file, 0), "is truncated, or not a safetensors file"),
]


@pytest.mark.parametrize(("damage", "named"), FAULTS, ids=[named for _, named in FAULTS])
def test_a_fault_is_told_by_the_files_name_and_leaves_nothing(
    place: Path, damage: Callable[[Path], None], named: str
) -> None:
    damage(place / "sd.safetensors")
    with pytest.raises(CheckpointError, match=named) as caught:
        kept_folder(place / "sd.safetensors")
    assert "sd.safetensors" in str(caught.value)
    assert not (place / ".converted").exists() or made_in(place) == []


def test_a_full_disk_is_told_and_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "_write_half", full)
    with pytest.raises(
        CheckpointError, match=r"cannot be kept as a folder in .*No space left; CONVERTED_DIR|No space"
    ):
        kept_folder(place / "sd.safetensors")
    assert made_in(place) == []

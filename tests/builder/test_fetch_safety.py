"""`--safety`: the model's safety checker comes along."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from builder.errors import FetchError
from builder.fetch_model import fetch
from builder.hub import Hub
from safetensors.torch import load_file

from sdworker.engine.safety import SafetyChecker, has_checker
from tests.builder.tiny_model import make_diffusers_folder

WEAPONS = Path(__file__).resolve().parents[2] / "models" / "checkers" / "weapons"
OFFLINE = Hub(endpoint="http://127.0.0.1:1", tries=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model, with a checker as a hub's repository has it."""
    made = tmp_path / "model"
    make_diffusers_folder(made)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(WEAPONS / name, made / "safety_checker" / name)
    (made / "feature_extractor").mkdir()
    shutil.copy(WEAPONS / "preprocessor_config.json", made / "feature_extractor")
    return made


def test_the_checker_is_kept_where_asked_for(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = fetch(str(folder), out, hub=OFFLINE, with_safety=True)
    assert "safety_checker/model.safetensors" in made.files
    index = json.loads((out / "model_index.json").read_text())
    assert index["safety_checker"] == ["stable_diffusion", "StableDiffusionSafetyChecker"]
    assert index["requires_safety_checker"] is True
    assert has_checker(out)
    SafetyChecker.load(out, device=torch.device("cpu"), dtype=torch.float32).try_out()
    weights = load_file(out / "safety_checker" / "model.safetensors")
    assert all(tensor.dtype == torch.float16 for tensor in weights.values())


def test_it_is_left_out_otherwise_and_a_folder_without_is_another_than_one_with(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    fetch(str(folder), out, hub=OFFLINE)
    assert not has_checker(out)
    with pytest.raises(FetchError, match="something else in it"):
        fetch(str(folder), out, hub=OFFLINE, with_safety=True)


def test_a_model_without_one_says_so(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "feature_extractor")
    with pytest.raises(FetchError, match="no safety checker to keep: feature_extractor"):
        fetch(str(folder), tmp_path / "out", hub=OFFLINE, with_safety=True)


def test_a_single_file_has_none(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"")
    with pytest.raises(FetchError, match="single file, which has no safety checker"):
        fetch(str(file), tmp_path / "out", hub=OFFLINE, with_safety=True)

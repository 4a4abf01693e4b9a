"""Each judgement is diffusers' own checker's, on the same picture."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor

from sdworker.engine.errors import EngineError
from sdworker.engine.model_config import ModelError
from sdworker.engine.safety import SafetyChecker
from sdworker.engine.safety.preparation import Preparation

WEAPONS = Path(__file__).resolve().parents[3] / "models" / "checkers" / "weapons"
CPU = torch.device("cpu")


def load(folder: Path, dtype: torch.dtype = torch.float32) -> SafetyChecker:
    return SafetyChecker.load(folder, device=CPU, dtype=dtype)


def judged(checker: SafetyChecker, pixels: np.ndarray) -> bool:
    chore = checker.chore(checker.prepare(pixels))
    with torch.inference_mode():
        while not chore.do_piece():
            pass
    assert chore.coming is not None
    return chore.coming.get()


def pictures(count: int) -> list[np.ndarray]:
    """Of all kinds of sizes: noise, gradients, discs."""
    random = np.random.default_rng(5)
    made = []
    for _ in range(count):
        height, width = (int(side) for side in random.integers(40, 200, 2))
        y, x = np.mgrid[0:height, 0:width]
        disc = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (min(height, width) / 3) ** 2
        base = (
            random.integers(0, 256, (1, 1, 3)) * disc[..., None]
            + random.integers(0, 256, (1, 1, 3)) * ~disc[..., None]
        )
        made.append((base + random.integers(-20, 20, (height, width, 3))).clip(0, 255).astype(np.uint8))
    return made


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (65, 190), (1024, 333)])
def test_a_picture_is_prepared_as_transformers_prepares_it(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = CLIPImageProcessor.from_pretrained(WEAPONS)(Image.fromarray(pixels), return_tensors="np")
    ours = Preparation.load(WEAPONS / "preprocessor_config.json")(pixels)
    assert np.array_equal(ours, theirs.pixel_values)


def test_configurations_of_old_name_sizes_as_numbers(tmp_path: Path) -> None:
    said = json.loads((WEAPONS / "preprocessor_config.json").read_text())
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(said | {"size": 64, "crop_size": 64}))
    assert Preparation.load(file) == Preparation.load(WEAPONS / "preprocessor_config.json")


def make_random_checker(folder: Path, seed: int, **vision: Any) -> StableDiffusionSafetyChecker:
    """Random weights and angles among which half of all pictures are flagged."""
    torch.manual_seed(seed)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**small, "image_size": 64, "patch_size": 16, "projection_dim": 24} | vision,
        text_config={**small, "vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1, "projection_dim": 24},
        projection_dim=24,
    )
    checker = StableDiffusionSafetyChecker(config).eval()
    for name, parameter in checker.named_parameters():
        if "embeds" in name and "weights" not in name:
            torch.nn.init.normal_(parameter)
        elif "weights" in name:
            torch.nn.init.uniform_(parameter, 0.1, 0.5)
    checker.save_pretrained(folder)
    shutil.copy(WEAPONS / "preprocessor_config.json", folder)
    return checker


def theirs_judges(folder: Path, dtype: torch.dtype, images: list[np.ndarray]) -> list[bool]:
    checker = StableDiffusionSafetyChecker.from_pretrained(folder, dtype=dtype).eval()
    processor = CLIPImageProcessor.from_pretrained(folder)
    seen = [processor(Image.fromarray(one), return_tensors="pt").pixel_values for one in images]
    return [bool(checker(clip_input=one.to(dtype), images=np.zeros((1, 1, 1, 3)))[1][0]) for one in seen]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_judgements_are_diffusers_own(tmp_path: Path, dtype: torch.dtype, act: str) -> None:
    images = pictures(30)
    found = []
    for seed in range(4):
        folder = tmp_path / str(seed)
        make_random_checker(folder, seed, hidden_act=act)
        ours = load(folder, dtype)
        theirs = theirs_judges(folder, dtype, images)
        assert [judged(ours, one) for one in images] == theirs
        found += theirs
    assert 0 < sum(found) < len(found)


def test_the_embedded_checkers_judgements_are_diffusers_own() -> None:
    images = pictures(20)
    checker = load(WEAPONS)
    assert [judged(checker, one) for one in images] == theirs_judges(WEAPONS, torch.float32, images)


def test_files_of_before_transformers_5_are_read(tmp_path: Path) -> None:
    make_random_checker(tmp_path, 0)
    images = pictures(10)
    before = [judged(load(tmp_path), one) for one in images]
    weights = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("vision_model.", "vision_model.vision_model.", 1): tensor
        for name, tensor in weights.items()
    }
    old["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(old, tmp_path / "model.safetensors")
    assert [judged(load(tmp_path), one) for one in images] == before


def test_a_model_folder_holds_both_parts(tmp_path: Path) -> None:
    for folder, names in (
        ("safety_checker", ["config.json", "model.safetensors"]),
        ("feature_extractor", ["preprocessor_config.json"]),
    ):
        (tmp_path / folder).mkdir()
        for name in names:
            shutil.copy(WEAPONS / name, tmp_path / folder)
    load(tmp_path).try_out()


def test_what_is_not_finite_is_an_error_and_never_passes(tmp_path: Path) -> None:
    make_random_checker(tmp_path, 0)
    checker = load(tmp_path)
    checker._network.visual_projection.weight.fill_(float("inf"))
    with pytest.raises(EngineError, match=r"not finite.*PRECISION=fp32"):
        judged(checker, pictures(1)[0])
    with pytest.raises(ModelError, match="does not judge"):
        checker.try_out()


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def saying(name: str, **changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changes))

    return change


def damaged(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04pickled")


def lacking(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["concept_embeds"]
    save_file(weights, folder / "model.safetensors")


def empty(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (without("config.json"), "is no safety checker"),
        (without("model.safetensors"), "has no model.safetensors"),
        (without("preprocessor_config.json"), "preprocessor_config.json cannot be used"),
        (damaged, "is no safety checker"),
        (lacking, "lacks 1 of its weights.*concept_embeds"),
        (empty, "visual_projection"),
        (saying("config.json", projection_dim=7), "lacks .* of its weights, or has them misshapen"),
        (saying("config.json", model_type="bert"), "something else than CLIP"),
        (saying("config.json", vision_config={"hidden_act": "relu"}), "something else than CLIP"),
        (saying("preprocessor_config.json", do_resize=False), "do_resize is not true"),
        (saying("preprocessor_config.json", crop_size=32, size=32), "another size"),
        (saying("preprocessor_config.json", size={}), "cannot be used"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, break_it: Callable[[Path], object], message: str) -> None:
    folder = tmp_path / "checker"
    shutil.copytree(WEAPONS, folder)
    break_it(folder)
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_transformers_is_not_imported_for_it() -> None:
    code = (
        "import sdworker.quick_start, sys, torch; from pathlib import Path;"
        "from sdworker.engine.safety import SafetyChecker;"
        "SafetyChecker.load(Path(sys.argv[1]), device=torch.device('cpu'), dtype=torch.float32).try_out();"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(WEAPONS)], check=True)

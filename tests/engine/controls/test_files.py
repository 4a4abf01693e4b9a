"""ControlNets from files: every layout gives the same net, and what is none is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sdworker.engine.controls import ControlError, ControlNet
from sdworker.engine.controls.files import load_control_net
from tests.engine.conftest import RecordingModel

from .conftest import random_net

WEIGHTS = "diffusion_pytorch_model.safetensors"
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def original_names(weights: dict[str, torch.Tensor], per_block: int) -> dict[str, torch.Tensor]:
    """A ControlNet's weights by the names of the repository it comes from."""
    return {f"control_model.{_original(name, per_block)}": weight for name, weight in weights.items()}


def _original(name: str, per_block: int) -> str:
    parts = name.split(".")
    match parts:
        case ["time_embedding", linear, kind]:
            return f"time_embed.{ {'linear_1': 0, 'linear_2': 2}[linear] }.{kind}"
        case ["conv_in", kind]:
            return f"input_blocks.0.0.{kind}"
        case ["controlnet_cond_embedding", "conv_in", kind]:
            return f"input_hint_block.0.{kind}"
        case ["controlnet_cond_embedding", "conv_out", kind]:
            return f"input_hint_block.14.{kind}"
        case ["controlnet_cond_embedding", "blocks", number, kind]:
            return f"input_hint_block.{2 * int(number) + 2}.{kind}"
        case ["controlnet_down_blocks", number, kind]:
            return f"zero_convs.{number}.0.{kind}"
        case ["controlnet_mid_block", kind]:
            return f"middle_block_out.0.{kind}"
        case ["mid_block", "resnets", number, part, kind]:
            return f"middle_block.{2 * int(number)}.{_RESNET[part]}.{kind}"
        case ["mid_block", "attentions", _, *rest]:
            return f"middle_block.1.{'.'.join(rest)}"
        case ["down_blocks", block, "downsamplers", _, _, kind]:
            return f"input_blocks.{(int(block) + 1) * (per_block + 1)}.0.op.{kind}"
        case ["down_blocks", block, "resnets", number, part, kind]:
            return f"input_blocks.{1 + int(block) * (per_block + 1) + int(number)}.0.{_RESNET[part]}.{kind}"
        case ["down_blocks", block, "attentions", number, *rest]:
            return f"input_blocks.{1 + int(block) * (per_block + 1) + int(number)}.1.{'.'.join(rest)}"
    raise AssertionError(name)


def says(net: ControlNet, model: RecordingModel) -> list[torch.Tensor]:
    """What it makes of some input."""
    inputs = model.example_input(1)
    hint = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    text = inputs.conditioning.text
    return list(net(inputs.latents, inputs.timesteps, text, {}, net.embed(hint)))


def in_diffusers_names(folder: Path, file: Path, model: RecordingModel) -> None:
    shutil.copy(folder / WEIGHTS, file)


def in_original_names(folder: Path, file: Path, model: RecordingModel) -> None:
    weights = original_names(load_file(folder / WEIGHTS), model.unet_config["layers_per_block"])
    save_file({name: weight.half() for name, weight in weights.items()}, file)


def bare_original_names(folder: Path, file: Path, model: RecordingModel) -> None:
    weights = original_names(load_file(folder / WEIGHTS), model.unet_config["layers_per_block"])
    save_file({name.removeprefix("control_model."): weight for name, weight in weights.items()}, file)


@pytest.mark.parametrize("write", [in_diffusers_names, in_original_names, bare_original_names])
def test_a_single_file_is_the_net_that_its_folder_is(
    nets_folder: Path,
    networks: RecordingModel,
    tmp_path: Path,
    write: Callable[[Path, Path, RecordingModel], None],
) -> None:
    file = tmp_path / "edges.safetensors"
    write(nets_folder / "edges", file, networks)
    single = load_control_net(file, name="edges", model=networks)
    folder = load_control_net(nets_folder / "edges", name="edges", model=networks)
    assert single.residuals == folder.residuals
    for ours, theirs in zip(says(single, networks), says(folder, networks), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-2 * float(theirs.abs().max()))


def test_a_folder_in_half_precision_is_found(networks: RecordingModel, tmp_path: Path) -> None:
    random_net(networks._unet, 0).half().save_pretrained(tmp_path, variant="fp16")
    assert load_control_net(tmp_path, name="x", model=networks).dtype == torch.float32


def changed_config(**changes: Any) -> Callable[[Path, RecordingModel], Path]:
    def make(folder: Path, model: RecordingModel) -> Path:
        random_net(model._unet, 0, **changes).save_pretrained(folder)
        return folder

    return make


def another_class(folder: Path, model: RecordingModel) -> Path:
    changed_config()(folder, model)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "T2IAdapter"}))
    return folder


def cut_short(folder: Path, model: RecordingModel) -> Path:
    changed_config()(folder, model)
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])
    return folder


def lacking_weights(folder: Path, model: RecordingModel) -> Path:
    changed_config()(folder, model)
    weights = load_file(folder / WEIGHTS)
    del weights["controlnet_mid_block.weight"]
    save_file(weights, folder / WEIGHTS)
    return folder


def not_finite(folder: Path, model: RecordingModel) -> Path:
    changed_config()(folder, model)
    weights = load_file(folder / WEIGHTS)
    weights["conv_in.weight"][0] = float("nan")
    save_file(weights, folder / WEIGHTS)
    return folder


def single(weights: dict[str, torch.Tensor]) -> Callable[[Path, RecordingModel], Path]:
    def make(folder: Path, _: RecordingModel) -> Path:
        save_file(weights, folder / "x.safetensors")
        return folder / "x.safetensors"

    return make


def single_of(**changes: Any) -> Callable[[Path, RecordingModel], Path]:
    def make(folder: Path, model: RecordingModel) -> Path:
        changed_config(**changes)(folder, model)
        return folder / WEIGHTS

    return make


ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (changed_config(cross_attention_dim=96), "is for another kind of model: its texts are 96 wide"),
        (
            changed_config(block_out_channels=(32, 64, 64)),
            "another kind of model: its levels have 32, 64, 64 ch",
        ),
        (changed_config(in_channels=9), "is for another kind of model: it takes 9 channels"),
        (changed_config(conditioning_channels=1), "takes hints of 1 channels; 3 are served"),
        (
            changed_config(conditioning_embedding_out_channels=(4, 8)),
            "it makes one of 2 pixels, this model's VAE of 8",
        ),
        (another_class, "is a T2IAdapter; ControlNetModel is served"),
        (cut_short, "its files are damaged"),
        (lacking_weights, "is damaged or incomplete"),
        (not_finite, "is damaged or incomplete"),
        (single({"lora_controlnet": ONE}), "is a Control-LoRA"),
        (single({"body.0.block1.weight": ONE}), "is a T2I-Adapter"),
        (single({"lora_unet_x.lora_up.weight": ONE}), "is no ControlNet: it takes no hint"),
        (single_of(cross_attention_dim=96), "is for another kind of model: its texts are 96 wide"),
        (single_of(block_out_channels=(32, 64, 64)), "is for another kind of model"),
        (lambda folder, _: folder / "x.safetensors", "its files are damaged"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name_and_without_a_path(
    networks: RecordingModel, tmp_path: Path, make: Callable[[Path, RecordingModel], Path], message: str
) -> None:
    with pytest.raises(ControlError) as error:
        load_control_net(make(tmp_path, networks), name="mine", model=networks)
    assert str(error.value).startswith("the ControlNet 'mine' ")
    assert message in str(error.value)
    assert str(tmp_path) not in str(error.value)

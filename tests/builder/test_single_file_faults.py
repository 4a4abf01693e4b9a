"""Single files as they are found: of long ago, with markers of how they were trained, and damaged in every way."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from builder.errors import FetchError
from builder.fetch_model import fetch
from builder.hub import Hub
from builder.single_file import unpack
from safetensors.torch import load_file, save_file

from tests.builder.tiny_model import ldm_tensors, make_diffusers_folder

Tensors = dict[str, torch.Tensor]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT, OLD_TEXT = (
    "cond_stage_model.transformer.text_model.",
    "cond_stage_model.transformer.",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "tiny"
    make_diffusers_folder(folder)
    return folder


@pytest.fixture(scope="module")
def clip(folder: Path) -> Tensors:
    return ldm_tensors(folder)


@pytest.fixture(scope="module")
def open_clip(folder: Path) -> Tensors:
    return ldm_tensors(folder, open_clip=True)


def write(tensors: Tensors, path: Path, **metadata: str) -> Path:
    save_file(tensors, path, metadata or None)
    return path


def scheduler_of(folder: Path) -> dict[str, object]:
    content = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert isinstance(content, dict)
    return content


class TestOldNames:
    def test_a_text_encoder_of_before_transformers_4_comes_out_as_todays(
        self, folder: Path, clip: Tensors, tmp_path: Path
    ) -> None:
        old = {key.replace(TEXT, OLD_TEXT): value for key, value in clip.items()}
        for name, tensors in (("old", old), ("new", clip)):
            checkpoint = write(tensors, tmp_path / f"{name}.safetensors")
            fetch(str(checkpoint), tmp_path / name, hub=Hub(tries=1), config_from=str(folder))
        for part in ("text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"):
            ours, theirs = (load_file(tmp_path / name / f"{part}.safetensors") for name in ("old", "new"))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert not (tmp_path / "old.partial").exists()

    def test_the_file_itself_is_left_alone(self, folder: Path, clip: Tensors, tmp_path: Path) -> None:
        old = {key.replace(TEXT, OLD_TEXT): value for key, value in clip.items()}
        checkpoint = write(old, tmp_path / "old.safetensors")
        before = checkpoint.read_bytes()
        unpack(checkpoint, folder, tmp_path / "work" / "out")
        assert checkpoint.read_bytes() == before


class TestMarkers:
    def test_without_one_the_schedule_is_the_configurations(
        self, folder: Path, clip: Tensors, tmp_path: Path
    ) -> None:
        unpack(write(clip, tmp_path / "x.safetensors"), folder, tmp_path / "out")
        assert scheduler_of(tmp_path / "out") == scheduler_of(folder)

    @pytest.mark.parametrize("marker", [torch.zeros(0), torch.tensor(1.0), torch.ones(1)], ids=str)
    def test_v_pred_predicts_velocity(
        self, folder: Path, clip: Tensors, tmp_path: Path, marker: torch.Tensor
    ) -> None:
        unpack(write({**clip, "v_pred": marker}, tmp_path / "x.safetensors"), folder, tmp_path / "out")
        scheduler = scheduler_of(tmp_path / "out")
        assert scheduler["prediction_type"] == "v_prediction"
        assert "rescale_betas_zero_snr" not in scheduler

    def test_ztsnr_rescales_the_betas_and_begins_at_the_last_timestep(
        self, folder: Path, clip: Tensors, tmp_path: Path
    ) -> None:
        both = {**clip, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
        unpack(write(both, tmp_path / "x.safetensors"), folder, tmp_path / "out")
        expected = {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        }
        assert scheduler_of(tmp_path / "out").items() >= expected.items()

    @pytest.mark.parametrize(("said", "meant"), [("v", "v_prediction"), ("epsilon", "epsilon")])
    def test_modelspec_says_it_too(
        self, folder: Path, clip: Tensors, tmp_path: Path, said: str, meant: str
    ) -> None:
        checkpoint = write(clip, tmp_path / "x.safetensors", **{"modelspec.prediction_type": said})
        unpack(checkpoint, folder, tmp_path / "out")
        assert scheduler_of(tmp_path / "out")["prediction_type"] == meant


Change = Callable[[Tensors], Tensors]


def lacking(part: str) -> Change:
    """Without the first weight whose name has `part` in it."""

    def change(tensors: Tensors) -> Tensors:
        name = next(key for key in sorted(tensors) if part in key)
        return {key: value for key, value in tensors.items() if key != name}

    return change


def changed(name: str, to: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda tensors: {**tensors, name: to(tensors[name]).contiguous()}


# What is done to the file, and what the message says.
FAULTS: list[tuple[Change, str]] = [
    (lacking(UNET + "out.2.bias"), "lacks 1 weights of the unet, conv_out.bias first"),
    (lacking(UNET + "time_embed.0"), "lacks 1 weights of the unet, time_embedding"),
    (lacking("middle_block.1"), "lacks 1 weights of the unet, mid_block"),
    (lacking("input_blocks.1.0.in_layers"), "lacks 1 weights of the unet, down_blocks"),
    (lacking("output_blocks.3.0.in_layers"), "lacks 1 weights of the unet, up_blocks"),
    (lacking(VAE + "decoder.conv_in"), "lacks 1 weights of the vae, decoder.conv_in"),
    (lacking(VAE + "quant_conv"), "lacks 1 weights of the vae, quant_conv"),
    (lacking(VAE + "encoder.mid.attn_1.q"), "lacks 1 weights of the vae, encoder.mid_block"),
    (lacking(VAE + "encoder.down.0.block.0.norm1"), "lacks 1 weights of the vae, encoder.down_blocks"),
    (lacking(TEXT + "embeddings.token"), "lacks a weight: cond_stage_model.transformer.text_model.embeddings"),
    (lacking(TEXT + "final_layer_norm"), "lacks 1 weights of the text_encoder, final_layer_norm"),
    (lacking("layers.0.self_attn.q_proj"), "lacks 1 weights of the text_encoder, encoder.layers.0"),
    (changed(UNET + "out.2.bias", lambda t: t[:1]), r"conv_out.bias of the unet has the shape \[1\]"),
    (changed(VAE + "decoder.conv_in.weight", lambda t: t[:1]), "decoder.conv_in.weight of the vae has the"),
    (changed(TEXT + "final_layer_norm.weight", lambda t: t[:1]), "final_layer_norm.weight of the text_enc"),
    (changed(TEXT + "embeddings.token_embedding.weight", lambda t: t[:9]), "token_embedding.weight of the"),
    (changed(UNET + "input_blocks.0.0.weight", lambda t: t.sum()), r"input_blocks.0.0.weight has the shape \[\]"),
    (changed(UNET + "input_blocks.0.0.weight", lambda t: t.flatten()), "input_blocks.0.0.weight has the shape"),
    (changed(UNET + "out.2.bias", lambda t: t.int()), "out.2.bias is of the type I32"),
    (
        lambda tensors: {k: v.flatten() if "attn2.to_k" in k else v for k, v in tensors.items()},
        "text embeddings have 1024 values",
    ),
    (
        lambda tensors: {k: v for k, v in tensors.items() if "attn2" not in k},
        "text embeddings have 0 values",
    ),
]  # fmt: skip


@pytest.mark.parametrize("fault", range(len(FAULTS)), ids=lambda i: FAULTS[i][1][:60])
def test_a_fault_is_told_in_one_line_with_the_file_or_the_weight(
    folder: Path, clip: Tensors, tmp_path: Path, fault: int
) -> None:
    change, expected = FAULTS[fault]
    checkpoint = write(change(clip), tmp_path / "found.safetensors")
    with pytest.raises(FetchError, match=expected) as error:
        unpack(checkpoint, folder, tmp_path / "out")
    message = str(error.value)
    assert "\n" not in message
    assert "meta tensor" not in message
    assert len(message) < 400


@pytest.mark.parametrize("part", ["in_proj_weight", "ln_final", "token_embedding"])
def test_a_weight_of_open_clip_that_lacks_is_named(
    folder: Path, open_clip: Tensors, tmp_path: Path, part: str
) -> None:
    checkpoint = write(lacking(part)(open_clip), tmp_path / "found.safetensors")
    with pytest.raises(FetchError, match=r"lacks .*weight"):
        unpack(checkpoint, folder, tmp_path / "out")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(
    folder: Path, clip: Tensors, tmp_path: Path, value: float
) -> None:
    broken = changed(UNET + "out.2.bias", lambda t: t * value)(clip)
    checkpoint = write(broken, tmp_path / "found.safetensors")
    with pytest.raises(FetchError, match=r"conv_out.bias holds NaN or infinity"):
        fetch(str(checkpoint), tmp_path / "out", hub=Hub(tries=1), config_from=str(folder))


@pytest.mark.parametrize("name", ["unet/config.json", "model_index.json", "vae/config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "", "[" * 100_000], ids=range(4))
def test_a_configuration_that_is_none_is_named(
    folder: Path, clip: Tensors, tmp_path: Path, name: str, content: str
) -> None:
    configs = tmp_path / "configs"
    make_links(folder, configs)
    (configs / name).unlink()
    (configs / name).write_text(content)
    with pytest.raises(FetchError, match=Path(name).name):
        unpack(write(clip, tmp_path / "found.safetensors"), configs, tmp_path / "out")


def make_links(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).symlink_to(path)

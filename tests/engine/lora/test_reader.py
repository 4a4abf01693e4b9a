"""LoRA files of every make, against the weights that the tools' own modules would add."""

import copy
import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from safetensors.torch import save_file
from torch import nn

from sdworker.engine.lora import LoraError, Target, merge, read_lora, targets_of
from sdworker.engine.lora.names import Directory, original_names
from sdworker.engine.lora.products import to_low_rank

LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONVOLUTION = "down_blocks.0.resnets.0.conv1"
POINTWISE = "down_blocks.0.attentions.0.proj_in"
NARROW = "time_embedding.linear_1"
TEXT = "encoder.layers.0.self_attn.q_proj"
TEXT_WIDTH = 32


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
    )


@pytest.fixture(scope="module")
def targets(unet: nn.Module) -> dict[str, dict[str, Target]]:
    return {"unet": targets_of(unet), "text_encoder": {TEXT: Target(TEXT_WIDTH, TEXT_WIDTH)}}


def adapter(kind: type, layer: nn.Module, **options: object) -> nn.Module:
    """One of LyCORIS's own modules around a layer, with random weights instead of those that add nothing."""
    torch.manual_seed(1)
    module = kind("any", layer, multiplier=1.0, **({"lora_dim": 4, "alpha": 3.0} | options))
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def kohya(layer: str, prefix: str = "lora_unet_") -> str:
    return prefix + layer.replace(".", "_")


def file_of(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
    return path


def tensors_of(layer: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{kohya(layer)}.{piece}": tensor.clone() for piece, tensor in module.state_dict().items()}


def pair(
    rank: int = 4, outputs: int = TEXT_WIDTH, inputs: int = TEXT_WIDTH
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(outputs + inputs + rank)
    return (
        torch.randn(rank, inputs, generator=generator),
        torch.randn(outputs, rank, generator=generator),
    )


@pytest.mark.parametrize("layer", [LINEAR, OUT, CONVOLUTION, POINTWISE])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LoConModule, {}),
        (LoConModule, {"use_tucker": True}),
        (LoConModule, {"alpha": 1.0, "rs_lora": True}),
        (LohaModule, {}),
        (LohaModule, {"lora_dim": 16}),
        (LohaModule, {"use_tucker": True}),
        (LokrModule, {"factor": 4}),
        (LokrModule, {"lora_dim": 1, "factor": 2}),
        (LokrModule, {"lora_dim": 1, "factor": 4, "decompose_both": True}),
        (LokrModule, {"lora_dim": 1, "factor": 2, "use_tucker": True}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else json.dumps(value),
)
def test_a_layer_of_any_make_adds_what_the_tool_that_made_it_adds(
    kind: type,
    options: dict[str, object],
    layer: str,
    unet: nn.Module,
    targets: dict[str, dict[str, Target]],
    tmp_path: Path,
) -> None:
    module = adapter(kind, unet.get_submodule(layer), **options)

    weights = read_lora(file_of(tmp_path / "a.safetensors", tensors_of(layer, module)), Directory(targets))

    low_rank = weights.parts["unet"][layer]
    merged = copy.deepcopy(unet.get_submodule(layer))
    merge(nn.ModuleDict({"it": merged}), {"it": low_rank}, 1.0)
    target = targets["unet"][layer]
    shape = (2, target.inputs, 6, 6) if target.convolves else (2, target.inputs)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    # Its forward, which is what was trained; its `get_diff_weight` scales LoHa and LoKr twice.
    torch.testing.assert_close(merged(inputs), module(inputs), rtol=1e-4, atol=1e-4)
    assert low_rank.rank <= max(4, targets["unet"][layer].full_rank)


def test_alphas_that_differ_by_layer_each_scale_their_own(
    targets: dict[str, dict[str, Target]], tmp_path: Path
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for layer, alpha in ((LINEAR, 1.0), (OUT, 8.0)):
        target = targets["unet"][layer]
        down, up = pair(4, target.outputs, target.inputs)
        tensors |= {
            f"{kohya(layer)}.lora_down.weight": down,
            f"{kohya(layer)}.lora_up.weight": up,
            f"{kohya(layer)}.alpha": torch.tensor(alpha),
        }
    weights = read_lora(file_of(tmp_path / "a.safetensors", tensors), Directory(targets))
    for layer, scale in ((LINEAR, 0.25), (OUT, 2.0)):
        down, up = tensors[f"{kohya(layer)}.lora_down.weight"], tensors[f"{kohya(layer)}.lora_up.weight"]
        torch.testing.assert_close(
            weights.parts["unet"][layer].difference()[:, :, 0, 0], scale * up @ down, rtol=1e-5, atol=1e-5
        )


NAMES = {
    "kohya": ("{kohya}.lora_down.weight", "{kohya}.lora_up.weight"),
    "diffusers": ("unet.{layer}.lora_A.weight", "unet.{layer}.lora_B.weight"),
    "diffusers, first": ("unet.{layer}.lora.down.weight", "unet.{layer}.lora.up.weight"),
    "peft, named adapter": ("unet.{layer}.lora_A.default.weight", "unet.{layer}.lora_B.default.weight"),
    "no network named": ("{layer}.lora_A.weight", "{layer}.lora_B.weight"),
}


@pytest.mark.parametrize("style", NAMES)
@pytest.mark.parametrize("layer", [LINEAR, OUT])
def test_a_layer_is_found_by_any_tools_name_for_it(
    style: str, layer: str, targets: dict[str, dict[str, Target]], tmp_path: Path
) -> None:
    target = targets["unet"][layer]
    down, up = pair(4, target.outputs, target.inputs)
    keys = [name.format(layer=layer, kohya=kohya(layer)) for name in NAMES[style]]
    weights = read_lora(
        file_of(tmp_path / "a.safetensors", dict(zip(keys, (down, up), strict=True))), Directory(targets)
    )
    torch.testing.assert_close(weights.parts["unet"][layer].difference()[:, :, 0, 0], up @ down)


def test_diffusers_first_attention_processors_are_read(
    targets: dict[str, dict[str, Target]], tmp_path: Path
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    base = OUT.removesuffix(".to_out.0")
    down, up = pair(4, targets["unet"][OUT].outputs, targets["unet"][OUT].inputs)
    for name in ("to_q", "to_out"):
        tensors[f"unet.{base}.processor.{name}_lora.down.weight"] = down.clone()
        tensors[f"unet.{base}.processor.{name}_lora.up.weight"] = up.clone()
    weights = read_lora(file_of(tmp_path / "a.safetensors", tensors), Directory(targets))
    assert weights.parts["unet"].keys() == {OUT, f"{base}.to_q"}


@pytest.mark.parametrize(
    "name",
    [
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_{}.weight",
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_{}.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora.{}.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.{}.weight",
        "text_encoder.encoder.layers.0.self_attn.q_proj.lora.{}.weight",
    ],
)
def test_the_text_encoders_layers_are_found(
    name: str, targets: dict[str, dict[str, Target]], tmp_path: Path
) -> None:
    down, up = pair()
    weights = read_lora(
        file_of(tmp_path / "a.safetensors", {name.format("down"): down, name.format("up"): up}),
        Directory(targets),
    )
    torch.testing.assert_close(weights.parts["text_encoder"][TEXT].difference()[:, :, 0, 0], up @ down)


ORIGINAL = {
    "input_blocks.0.0": "conv_in",
    "input_blocks.1.0.in_layers.2": "down_blocks.0.resnets.0.conv1",
    "input_blocks.1.0.emb_layers.1": "down_blocks.0.resnets.0.time_emb_proj",
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k": LINEAR,
    "input_blocks.2.0.op": "down_blocks.0.downsamplers.0.conv",
    "input_blocks.3.0.skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
    "middle_block.1.proj_in": "mid_block.attentions.0.proj_in",
    "middle_block.2.out_layers.3": "mid_block.resnets.1.conv2",
    "output_blocks.1.1.conv": "up_blocks.0.upsamplers.0.conv",
    "output_blocks.2.1.proj_out": "up_blocks.1.attentions.0.proj_out",
    "time_embed.2": "time_embedding.linear_2",
    "out.2": "conv_out",
}


@pytest.mark.parametrize("original", ORIGINAL)
def test_a_unets_layer_is_found_by_its_original_name(
    original: str, targets: dict[str, dict[str, Target]], tmp_path: Path
) -> None:
    layer = ORIGINAL[original]
    target = targets["unet"][layer]
    tensors = {
        f"{kohya(original)}.lora_down.weight": torch.randn(2, target.inputs, *target.kernel),
        f"{kohya(original)}.lora_up.weight": torch.randn(target.outputs, 2, 1, 1),
    }
    assert read_lora(file_of(tmp_path / "a.safetensors", tensors), Directory(targets)).parts[
        "unet"
    ].keys() == {layer}


def test_every_layer_of_stable_diffusion_has_an_original_name_of_its_own() -> None:
    with torch.device("meta"):
        layers = targets_of(
            UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, layers_per_block=2)
        )
    names = original_names(layers)
    assert names.keys() == layers.keys()
    assert len(set(names.values())) == len(names)
    assert names["down_blocks.2.attentions.1.proj_in"] == "input_blocks.8.1.proj_in"
    assert names["up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_v"] == (
        "output_blocks.5.1.transformer_blocks.0.attn2.to_v"
    )
    assert names["up_blocks.0.upsamplers.0.conv"] == "output_blocks.2.1.conv"
    assert names["up_blocks.1.upsamplers.0.conv"] == "output_blocks.5.2.conv"
    assert names["up_blocks.3.resnets.2.conv_shortcut"] == "output_blocks.11.0.skip_connection"


def test_pefts_alpha_comes_from_the_header_that_diffusers_writes(
    targets: dict[str, dict[str, Target]], tmp_path: Path
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    metadata = {"unet.lora_alpha": 8, "unet.r": 4, "unet.alpha_pattern": {"to_out.0": 2}}
    for layer in (LINEAR, OUT):
        target = targets["unet"][layer]
        down, up = pair(4, target.outputs, target.inputs)
        tensors |= {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}
    path = file_of(tmp_path / "a.safetensors", tensors, {"lora_adapter_metadata": json.dumps(metadata)})
    weights = read_lora(path, Directory(targets))
    for layer, scale in ((LINEAR, 2.0), (OUT, 0.5)):
        expected = scale * tensors[f"unet.{layer}.lora_B.weight"] @ tensors[f"unet.{layer}.lora_A.weight"]
        torch.testing.assert_close(
            weights.parts["unet"][layer].difference()[:, :, 0, 0], expected, rtol=1e-5, atol=1e-5
        )


def test_pefts_own_file_takes_its_strength_from_the_configuration_beside_it(
    targets: dict[str, dict[str, Target]], tmp_path: Path
) -> None:
    target = targets["unet"][LINEAR]
    down, up = pair(4, target.outputs, target.inputs)
    path = file_of(
        tmp_path / "adapter_model.safetensors",
        {f"base_model.model.{LINEAR}.lora_A.weight": down, f"base_model.model.{LINEAR}.lora_B.weight": up},
    )
    with pytest.raises(LoraError, match=r"adapter_config\.json must lie beside it"):
        read_lora(path, Directory(targets))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 4, "use_rslora": True}))
    torch.testing.assert_close(
        read_lora(path, Directory(targets)).parts["unet"][LINEAR].difference()[:, :, 0, 0],
        2.0 * up @ down,
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_merged_lora_changes_the_weights_by_its_difference(
    unet: nn.Module, targets: dict[str, dict[str, Target]], tmp_path: Path
) -> None:
    module = adapter(LoConModule, unet.get_submodule(CONVOLUTION))
    expected, _ = cast(Any, module).get_diff_weight(1.0)
    weights = read_lora(
        file_of(tmp_path / "a.safetensors", tensors_of(CONVOLUTION, module)), Directory(targets)
    )
    layer = nn.Conv2d(16, 16, 3)
    before = layer.weight.detach().clone()
    merge(nn.ModuleDict({"only": layer}), {"only": weights.parts["unet"][CONVOLUTION]}, 0.5)
    torch.testing.assert_close(layer.weight - before, 0.5 * expected, rtol=1e-4, atol=1e-5)


def lora(layer: str, rank: int = 2, outputs: int = 16, inputs: int = TEXT_WIDTH) -> dict[str, torch.Tensor]:
    down, up = pair(rank, outputs, inputs)
    return {f"{kohya(layer)}.lora_down.weight": down, f"{kohya(layer)}.lora_up.weight": up}


REFUSED = {
    "nothing in it": ({}, "holds no tensors"),
    "more tensors than layers could want": (
        {f"{kohya(LINEAR)}.{i}": torch.ones(0) for i in range(20_001)},
        "holds 20001 tensors; at most 20000 are read",
    ),
    "no key of a LoRA": ({"weight": torch.ones(2)}, "1 of its 1 tensors have no place"),
    "one layer the model lacks": (
        lora(LINEAR) | lora("down_blocks.7.attentions.0.proj_in"),
        "2 of its 4 tensors have no place",
    ),
    "SDXL by its second encoder": (
        lora(LINEAR) | {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 2)},
        "it is for SDXL",
    ),
    "SDXL by its width": (lora(LINEAR, inputs=2048), "it is for SDXL"),
    "SD 2 by its width": (lora(LINEAR, inputs=1024), r"it is for Stable Diffusion 2\.x"),
    "Flux": ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 2)}, "Flux"),
    "DoRA": (lora(LINEAR) | {f"{kohya(LINEAR)}.dora_scale": torch.ones(16, 1)}, "holds DoRA"),
    "biases": (lora(LINEAR) | {f"{kohya(LINEAR)}.diff_b": torch.ones(16)}, "holds changed biases"),
    "an up without its down": ({f"{kohya(LINEAR)}.lora_up.weight": torch.ones(16, 2)}, "makes no product"),
    "ranks that differ": (
        {
            f"{kohya(LINEAR)}.lora_down.weight": torch.ones(3, TEXT_WIDTH),
            f"{kohya(LINEAR)}.lora_up.weight": torch.ones(16, 2),
        },
        "do not fit|gives",
    ),
    "rank 4096": (lora(LINEAR, rank=4096), "has rank 4096"),
    "not a number": (
        lora(LINEAR) | {f"{kohya(LINEAR)}.alpha": torch.tensor(float("nan"))},
        "not finite",
    ),
    "infinite": (lora(LINEAR) | {f"{kohya(LINEAR)}.alpha": torch.tensor(float("inf"))}, "not finite"),
    "alpha of two numbers": (lora(LINEAR) | {f"{kohya(LINEAR)}.alpha": torch.ones(2)}, "do not fit|alpha"),
    "whole numbers": (
        {f"{kohya(LINEAR)}.lora_up.weight": torch.ones(16, 2, dtype=torch.int64)},
        "I64 numbers",
    ),
    "the same layer twice": (
        lora(LINEAR) | {f"unet.{LINEAR}.lora_A.weight": torch.ones(2, TEXT_WIDTH)},
        "1 of its 3 tensors have no place",
    ),
    "scalars where matrices belong": (
        {
            f"{kohya(LINEAR)}.lora_down.weight": torch.tensor(1.0),
            f"{kohya(LINEAR)}.lora_up.weight": torch.tensor(1.0),
        },
        "do not fit",
    ),
    "empty factors": (
        {
            f"{kohya(LINEAR)}.lora_down.weight": torch.ones(0, TEXT_WIDTH),
            f"{kohya(LINEAR)}.lora_up.weight": torch.ones(16, 0),
        },
        "do not fit",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_lora_of_this_model_is_refused_with_its_reason(
    case: str, targets: dict[str, dict[str, Target]], tmp_path: Path
) -> None:
    tensors, reason = REFUSED[case]
    with pytest.raises(LoraError, match=reason) as refused:
        read_lora(file_of(tmp_path / "a.safetensors", tensors), Directory(targets))
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04\x95", b"PK\x03\x04", b"{}", b"\xff" * 64, b"\x10" + b"\0" * 7 + b"{" * 16],
    ids=["empty", "pickle", "zip", "json", "noise", "broken header"],
)
def test_a_file_of_another_kind_is_refused(
    content: bytes, targets: dict[str, dict[str, Target]], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(LoraError, match="is no whole safetensors file"):
        read_lora(path, Directory(targets))


def test_a_truncated_file_is_refused(targets: dict[str, dict[str, Target]], tmp_path: Path) -> None:
    path = file_of(tmp_path / "a.safetensors", lora(LINEAR))
    whole = path.read_bytes()
    for length in (8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(LoraError):
            read_lora(path, Directory(targets))


@pytest.mark.parametrize("missing", ["", "folder"])
def test_a_file_that_is_gone_or_no_file_is_refused(
    missing: str, targets: dict[str, dict[str, Target]], tmp_path: Path
) -> None:
    path = tmp_path if missing else tmp_path / "gone.safetensors"
    with pytest.raises(LoraError):
        read_lora(path, Directory(targets))


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 12),
    inputs=st.integers(1, 12),
    kernel=st.sampled_from([1, 3]),
    ranks=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_a_loha_of_any_size_is_its_elementwise_product(
    outputs: int, inputs: int, kernel: int, ranks: tuple[int, int]
) -> None:
    target = Target(outputs, inputs, (kernel, kernel), convolves=True)
    a, c = torch.randn(outputs, ranks[0]), torch.randn(outputs, ranks[1])
    b, d = torch.randn(ranks[0], inputs * kernel**2), torch.randn(ranks[1], inputs * kernel**2)
    low_rank = to_low_rank({"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}, target)
    assert low_rank.rank <= max(target.full_rank, 1)
    torch.testing.assert_close(low_rank.difference().flatten(1), (a @ b) * (c @ d), rtol=1e-4, atol=1e-4)

"""Our text encoder is transformers' own, to the last bit; what it is not made for goes there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdworker.engine.model_files import ModelError
from sdworker.engine.text.clip import TextEncoder, load_text_encoder
from sdworker.engine.text.tokens import ClipTokenizer


def make_encoder(folder: Path, kind: Any = CLIPTextModel, **config: Any) -> tuple[Any, CLIPTextConfig]:
    torch.manual_seed(0)
    small = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    described = CLIPTextConfig(**{**small, "num_attention_heads": 4, **config})
    encoder = kind(described).eval()
    encoder.save_pretrained(folder)
    return encoder, described


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_encoder_gives_what_transformers_gives_bit_by_bit(
    tmp_path: Path, activation: str, dtype: torch.dtype
) -> None:
    make_encoder(tmp_path, hidden_act=activation)
    theirs = CLIPTextModel.from_pretrained(tmp_path, dtype=dtype).eval()
    ours = load_text_encoder(tmp_path, dtype=dtype, variant=None).eval()
    assert isinstance(ours, TextEncoder)
    ids = torch.randint(0, 99, (3, 77))
    with torch.inference_mode():
        assert torch.equal(ours(ids, torch.ones_like(ids)), theirs(ids)[0])


def test_the_embedded_models_encoder_gives_what_transformers_gives(
    model: Path, tokenizer: ClipTokenizer
) -> None:
    theirs = CLIPTextModel.from_pretrained(model / "text_encoder").eval()
    encoder = load_text_encoder(model / "text_encoder", dtype=torch.float32, variant=None)
    ids = torch.tensor([[tokenizer.bos, *tokenizer.encode("a red apple on a table"), tokenizer.eos]])
    with torch.inference_mode():
        assert torch.equal(encoder(ids, torch.ones_like(ids)), theirs(ids)[0])


def test_weights_named_as_in_older_files_are_taken(tmp_path: Path) -> None:
    """With `text_model.` before each name, and the positions among the weights."""
    from safetensors.torch import load_file, save_file

    encoder, _ = make_encoder(tmp_path)
    file = tmp_path / "model.safetensors"
    old = {f"text_model.{name}": tensor for name, tensor in load_file(file).items()}
    old["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(old, file)
    ids = torch.randint(0, 99, (1, 77))
    ours = load_text_encoder(tmp_path, dtype=torch.float32, variant=None)
    with torch.inference_mode():
        assert torch.equal(ours(ids, torch.ones_like(ids)), encoder(ids)[0])


@pytest.mark.parametrize("case", [{"hidden_act": "gelu_new"}, {"use_attention_mask": True}])
def test_what_is_not_the_plain_case_is_left_to_transformers(tmp_path: Path, case: dict[str, Any]) -> None:
    encoder, _ = make_encoder(tmp_path, **case)
    ours = load_text_encoder(tmp_path, dtype=torch.float32, variant=None)
    assert not isinstance(ours, TextEncoder)
    ids = torch.randint(0, 99, (2, 77))
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids, torch.ones_like(ids)), encoder(ids)[0], rtol=0, atol=0)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    make_encoder(tmp_path)
    config = tmp_path / "config.json"
    described = json.loads(config.read_text("utf-8"))
    for change, named in (({"num_hidden_layers": 4}, "encoder.layers.3"), ({"vocab_size": 98}, "token_emb")):
        config.write_text(json.dumps(described | change), "utf-8")
        with pytest.raises(ModelError, match=named):
            load_text_encoder(tmp_path, dtype=torch.float32, variant=None)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu_new"])
@pytest.mark.parametrize("skip", [0, 1, 2])
def test_skipped_layers_are_those_at_the_end_and_the_final_norm_stays(
    tmp_path: Path, act: str, skip: int
) -> None:
    """With our own encoder and with transformers'."""
    encoder, _ = make_encoder(tmp_path, hidden_act=act)
    ours = load_text_encoder(tmp_path, dtype=torch.float32, variant=None)
    assert isinstance(ours, TextEncoder) is (act == "quick_gelu")
    assert ours.layers == 3
    ids = torch.randint(0, 99, (2, 77))
    with torch.inference_mode():
        hidden = encoder(ids, output_hidden_states=True).hidden_states[-1 - skip]
        assert torch.equal(ours(ids, torch.ones_like(ids), skip=skip), encoder.final_layer_norm(hidden))


@pytest.mark.parametrize("act", ["quick_gelu", "gelu_new"])
def test_vectors_stand_in_for_tokens(tmp_path: Path, act: str) -> None:
    """Those of other tokens give what these tokens give, in their rows and places only."""
    encoder, _ = make_encoder(tmp_path, hidden_act=act)
    ours = load_text_encoder(tmp_path, dtype=torch.float32, variant=None)
    ids = torch.randint(1, 99, (2, 77))
    meant = ids.clone()
    meant[1, 4:6] = torch.tensor([7, 8])
    vectors = encoder.get_input_embeddings().weight[[7, 8]].detach().clone()
    with torch.inference_mode():
        given = ours(ids, torch.ones_like(ids), vectors=[(1, 4, vectors)])
        assert torch.equal(given, ours(meant, torch.ones_like(ids)))
        assert torch.equal(ours(ids, torch.ones_like(ids)), encoder(ids)[0])


@pytest.mark.parametrize("act", ["gelu", "gelu_new"])
@pytest.mark.parametrize("eos", [2, 98])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_last_state_but_one_and_the_whole_text_are_transformers_bit_by_bit(
    tmp_path: Path, act: str, eos: int, dtype: torch.dtype
) -> None:
    """Of an encoder that projects, ours and transformers'. As the end, 2 stands for the largest number."""
    make_encoder(tmp_path, CLIPTextModelWithProjection, hidden_act=act, eos_token_id=eos, projection_dim=48)
    theirs = CLIPTextModelWithProjection.from_pretrained(tmp_path, dtype=dtype).eval()
    ours = load_text_encoder(tmp_path, dtype=dtype, variant=None, projects=True)
    assert isinstance(ours, TextEncoder) is (act == "gelu")
    ids = torch.randint(3, 98, (3, 77))
    ids[torch.arange(3), torch.tensor([5, 76, 30])] = 98
    with torch.inference_mode():
        expected = theirs(ids, output_hidden_states=True)
        for skip in (0, 1):
            hidden, whole = ours.penultimate(ids, torch.ones_like(ids), skip=skip)
            assert torch.equal(hidden, expected.hidden_states[-2 - skip])
            assert torch.equal(whole, expected.text_embeds)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu_new"])
def test_an_encoder_that_does_not_project_has_no_whole_text(tmp_path: Path, act: str) -> None:
    encoder, _ = make_encoder(tmp_path, hidden_act=act)
    ours = load_text_encoder(tmp_path, dtype=torch.float32, variant=None)
    ids = torch.randint(0, 99, (2, 77))
    with torch.inference_mode():
        hidden, whole = ours.penultimate(ids, torch.ones_like(ids))
        assert torch.equal(hidden, encoder(ids, output_hidden_states=True).hidden_states[-2])
    assert whole is None

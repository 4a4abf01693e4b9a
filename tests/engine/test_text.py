"""Our text encoder and tokenizer are transformers' own, to the last bit; what they are not made for goes there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdworker.engine import text
from sdworker.engine.model_files import ModelError
from sdworker.engine.text import TextEncoder, Tokens, load_text_encoder, load_tokenizer


@pytest.fixture(scope="module")
def theirs(model: Path) -> Any:
    return CLIPTokenizer.from_pretrained(model / "tokenizer", local_files_only=True)


@pytest.fixture(scope="module")
def ours(model: Path) -> Tokens:
    assert text._plain_tokenizer(model / "tokenizer", 77) is not None
    return load_tokenizer(model / "tokenizer", 77)


@settings(max_examples=500, deadline=None)
@example("")
@example("  a\tcat \n and  a dog's ")
@example("naïve CAFÉ — Ünïcode, İstanbul, e\u0301, ﬁ, 猫と犬, 😀🏽‍🚀")
@example("a <|endoftext|> cat<|startoftext|><|ENDOFTEXT|> </w> ##")
@example("word " * 200)
@example("supercalifragilistic" * 30)
@example("\0\x1f\u200b\ufeff\u2028 \U0010ffff")
@given(
    prompt=st.one_of(
        st.text(max_size=200),
        st.lists(
            st.sampled_from(
                ["a", "red", "Apple", "'s", "<|endoftext|>", "12", "…", " ", "\n", "猫", "e\u0301"]
            )
        ).map("".join),
    )
)
def test_every_prompt_becomes_the_tokens_of_transformers(ours: Tokens, theirs: Any, prompt: str) -> None:
    try:
        expected = theirs(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    except Exception as error:
        with pytest.raises(type(error)):
            ours(prompt)
        return
    ids, mask = ours(prompt)
    assert torch.equal(ids, expected.input_ids)
    assert torch.equal(mask, expected.attention_mask)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": None},
        {"added_tokens": []},
        {"post_processor": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
    ],
)
def test_a_tokenizer_of_another_make_is_left_to_transformers(
    model: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(model / "tokenizer", folder)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | change), "utf-8")
    assert text._plain_tokenizer(folder, 77) is None


def test_a_folder_with_vocabulary_and_merges_alone_gives_the_same_tokens(
    model: Path, tmp_path: Path, ours: Tokens
) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(model / "tokenizer", folder, ignore=shutil.ignore_patterns("tokenizer.json"))
    ids, mask = load_tokenizer(folder, 77)("a red apple")
    assert torch.equal(ids, ours("a red apple")[0])
    assert torch.equal(mask, ours("a red apple")[1])


def make_encoder(folder: Path, **config: Any) -> tuple[CLIPTextModel, CLIPTextConfig]:
    torch.manual_seed(0)
    small = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    described = CLIPTextConfig(**{**small, "num_attention_heads": 4, **config})
    encoder = CLIPTextModel(described).eval()
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


def test_the_embedded_models_encoder_gives_what_transformers_gives(model: Path, ours: Tokens) -> None:
    theirs = CLIPTextModel.from_pretrained(model / "text_encoder").eval()
    encoder = load_text_encoder(model / "text_encoder", dtype=torch.float32, variant=None)
    ids, mask = ours("a red apple on a table")
    with torch.inference_mode():
        assert torch.equal(encoder(ids, mask), theirs(ids)[0])


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

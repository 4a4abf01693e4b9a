"""Our tokenizer is transformers' own, to the last token, whatever a model's folder holds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from sdworker.engine.text.tokens import ClipTokenizer, load_tokenizer

STRANGE = [
    "",
    "  a\tcat \n and  a dog's ",
    "naïve CAFÉ — Ünïcode, İstanbul, e\u0301, ﬁ, 猫と犬, 😀🏽‍🚀",
    "a <|endoftext|> cat<|startoftext|><|ENDOFTEXT|><|StartOfText|> </w> ##",
    "word " * 200,
    "supercalifragilistic" * 30,
    "\0\x1f\u200b\ufeff\u2028 \U0010ffff",
    "wow!! (a:1.3), [b], 12,5 don't",
]


@settings(max_examples=500, deadline=None)
@example(STRANGE[3])
@given(
    text=st.one_of(
        st.sampled_from(STRANGE),
        st.text(max_size=200),
        st.lists(
            st.sampled_from(
                ["a", "red", "Apple", "'s", "<|endoftext|>", "12", "…", " ", "\n", "猫", "e\u0301", ","]
            )
        ).map("".join),
    )
)
def test_every_text_becomes_the_tokens_of_transformers(
    tokenizer: ClipTokenizer, theirs: Any, text: str
) -> None:
    try:
        expected = theirs(text, add_special_tokens=False).input_ids
    except Exception as error:
        with pytest.raises(type(error)):
            tokenizer.encode(text)
        return
    assert tokenizer.encode(text) == expected


def test_what_stands_around_a_text_is_what_transformers_puts_there(
    tokenizer: ClipTokenizer, theirs: Any
) -> None:
    text = "a red apple"
    ids = theirs(text, padding="max_length", max_length=77).input_ids
    written = [tokenizer.bos, *tokenizer.encode(text), tokenizer.eos]
    assert ids == written + [tokenizer.pad] * (77 - len(written))
    assert theirs.decode([tokenizer.comma]) == ","


def test_a_token_is_read_as_it_is_written(tokenizer: ClipTokenizer) -> None:
    text = "a red apple, 猫"
    assert "".join(tokenizer.word(token) for token in tokenizer.encode(text)[:4]) == "a red apple , "


def _without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def _with(name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / name
        described = json.loads(file.read_text("utf-8")) if file.exists() else {}
        file.write_text(json.dumps(described | values), "utf-8")

    return change


def _token(content: str) -> dict[str, Any]:
    return {
        "__type": "AddedToken", "content": content, "lstrip": False, "normalized": True, "rstrip": False,
        "single_word": False,
    }  # fmt: skip


def _as_in_sd15(folder: Path) -> None:
    """Vocabulary and merges, and special tokens as objects that are looked for in lower case."""
    _without("tokenizer.json")(folder)
    tokens = {
        "bos_token": _token("<|startoftext|>"),
        "eos_token": _token("<|endoftext|>"),
        "unk_token": _token("<|endoftext|>"),
        "pad_token": "<|endoftext|>",
    }
    _with("tokenizer_config.json", **tokens)(folder)
    for token in tokens.values():
        if isinstance(token, dict):
            del token["__type"]
    _with("special_tokens_map.json", **tokens)(folder)


def _as_in_sd2(folder: Path) -> None:
    """Padded with `!`."""
    _as_in_sd15(folder)
    _with("tokenizer_config.json", pad_token="!")(folder)
    _with("special_tokens_map.json", pad_token="!")(folder)


def _with_learned_token(folder: Path) -> None:
    _as_in_sd15(folder)
    _with("added_tokens.json", **{"<my-style>": 3114})(folder)


@pytest.mark.parametrize(
    "change",
    [
        _without("vocab.json", "merges.txt"),
        _without("tokenizer.json"),
        _without("tokenizer.json", "tokenizer_config.json"),
        _without("vocab.json", "merges.txt", "tokenizer_config.json"),
        _with("tokenizer.json", normalizer=None),
        _with("tokenizer.json", pre_tokenizer={"type": "Whitespace"}),
        _with("tokenizer.json", post_processor=None),
        _with("tokenizer.json", added_tokens=[]),
        _as_in_sd15,
        _as_in_sd2,
        _with_learned_token,
    ],
)
def test_whatever_a_folder_holds_the_tokens_are_transformers(
    model: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(model / "tokenizer", folder)
    change(folder)
    ours = load_tokenizer(folder, 77)
    theirs = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    assert (ours.bos, ours.eos, ours.pad) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    for text in [*STRANGE, "in <my-style>!"]:
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids


def test_a_text_is_as_long_as_the_shorter_of_tokenizer_and_encoder(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(model / "tokenizer", folder)
    assert load_tokenizer(folder, 50).room == 48
    _with("tokenizer_config.json", model_max_length=20)(folder)
    assert load_tokenizer(folder, 77).room == 18

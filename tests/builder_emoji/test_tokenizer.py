"""The tokenizer is CLIP's in format and can write anything."""

import json
from pathlib import Path

import pytest
from builder.emoji import tokenizer
from builder.emoji.pictures import Emojis
from transformers import AutoTokenizer, CLIPTokenizer


@pytest.fixture(scope="module")
def words(emojis: Emojis) -> CLIPTokenizer:
    return tokenizer.train(emojis.names, emojis.tags, merges=200)


class TestTrain:
    @pytest.mark.parametrize("text", ["red circle", "o’clock", "zebra crossing 42 km/h", "größe 犬 🐶"])
    def test_any_text_survives_the_round_trip(self, words: CLIPTokenizer, text: str) -> None:
        assert "".join(words.decode(words(text).input_ids, skip_special_tokens=True).split()) == "".join(
            text.split()
        )

    def test_words_of_names_are_one_token(self, words: CLIPTokenizer) -> None:
        assert words.tokenize("red circle") == ["red</w>", "circle</w>"]

    def test_case_does_not_matter(self, words: CLIPTokenizer) -> None:
        assert words("Red CIRCLE").input_ids == words("red circle").input_ids

    def test_frames_and_pads_to_77_as_clip_does(self, words: CLIPTokenizer) -> None:
        ids = words("red circle", padding="max_length").input_ids
        assert len(ids) == 77
        assert ids[0] == words.bos_token_id == len(words) - 2
        assert set(ids[3:]) == {words.eos_token_id} == {words.pad_token_id}

    def test_is_the_same_each_time(self, words: CLIPTokenizer, emojis: Emojis) -> None:
        assert tokenizer.train(emojis.names, emojis.tags, merges=200).get_vocab() == words.get_vocab()


class TestSave:
    def test_loads_again_by_class_and_by_itself(self, words: CLIPTokenizer, tmp_path: Path) -> None:
        tokenizer.save(words, tmp_path)
        expected = words("a red circle, 3d render").input_ids
        for loaded in (CLIPTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
            assert loaded("a red circle, 3d render").input_ids == expected
            assert loaded.model_max_length == 77

    def test_vocabulary_and_merges_alone_make_the_same_tokenizer(
        self, words: CLIPTokenizer, tmp_path: Path
    ) -> None:
        tokenizer.save(words, tmp_path)
        merges = [
            tuple(line.split()) for line in (tmp_path / "merges.txt").read_text("utf-8").splitlines()[1:]
        ]
        alone = CLIPTokenizer(vocab=json.loads((tmp_path / "vocab.json").read_text("utf-8")), merges=merges)
        assert alone("a red circle").input_ids == words("a red circle").input_ids

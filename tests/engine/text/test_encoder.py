"""Embeddings of prompts against a reference built straight from transformers' CLIP."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextModel

from sdworker.engine.lora import Applied
from sdworker.engine.text.clip import load_text_encoder
from sdworker.engine.text.encoder import PromptEncoder
from sdworker.engine.text.prompt import read_text
from sdworker.engine.text.tokens import ClipTokenizer
from sdworker.reading import Reading

CPU = torch.device("cpu")

# A chunk, by hand: its pieces with their weights.
Pieces = list[tuple[str, float]]


@pytest.fixture(scope="module")
def clip(model: Path) -> CLIPTextModel:
    return CLIPTextModel.from_pretrained(model / "text_encoder").eval()


@pytest.fixture(scope="module")
def encoder(model: Path) -> PromptEncoder:
    loaded = load_text_encoder(model / "text_encoder", dtype=torch.float32, variant=None)
    return PromptEncoder(loaded.eval(), device=CPU, dtype=torch.float32)


@torch.no_grad()
def reference(
    clip: CLIPTextModel, theirs: Any, chunks: list[Pieces], *, skip: int = 0, normed: bool = True
) -> torch.Tensor:
    """Chunk by chunk: BOS, tokens, EOS and padding; hidden state, final norm; weights; mean."""
    embedded = []
    for pieces in chunks:
        ids, weights = [theirs.bos_token_id], [1.0]
        for text, weight in pieces:
            tokens = theirs(text, add_special_tokens=False).input_ids
            ids += tokens
            weights += [weight] * len(tokens)
        padding = 77 - len(ids)
        ids += [theirs.eos_token_id] * padding
        weights += [1.0] * padding
        output = clip(torch.tensor([ids]), output_hidden_states=True)
        z = clip.final_layer_norm(output.hidden_states[-1 - skip])
        weighted = z * torch.tensor(weights)[None, :, None]
        if normed and weights != [1.0] * 77:
            weighted = weighted * (z.mean() / weighted.mean())
        embedded.append(weighted)
    return torch.cat(embedded, dim=1)


CASES: list[tuple[str, list[Pieces]]] = [
    ("a red apple", [[("a red apple", 1)]]),
    ("", [[("", 1)]]),
    ("a (red:1.4) heart", [[("a", 1), ("red", 1.4), ("heart", 1)]]),
    ("a ((red)) [heart]", [[("a", 1), ("red", 1.21), ("heart", 1 / 1.1)]]),
    ("(a red heart:0)", [[("a red heart", 0)]]),
    ("a (red:-1) heart", [[("a", 1), ("red", -1), ("heart", 1)]]),
    ("a (red:1.4) heart BREAK a sun", [[("a", 1), ("red", 1.4), ("heart", 1)], [("a sun", 1)]]),
    ("a BREAK (b:2) BREAK c", [[("a", 1)], [("b", 2)], [("c", 1)]]),
    ("a " * 80 + "(sun:1.3)", [[("a " * 75, 1)], [("a " * 5, 1), ("sun", 1.3)]]),
    ("a " * 70 + ", a red (sun:1.3) and a moon", [
        [("a " * 70 + ",", 1)], [("a red", 1), ("sun", 1.3), ("and a moon", 1)]]),
    ("BREAK a heart", [[("", 1)], [("a heart", 1)]]),
]  # fmt: skip


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize(("prompt", "chunks"), CASES, ids=[case[0][:30] for case in CASES])
def test_a_prompts_embedding_is_the_references(
    encoder: PromptEncoder,
    tokenizer: ClipTokenizer,
    clip: CLIPTextModel,
    theirs: Any,
    prompt: str,
    chunks: list[Pieces],
    skip: int,
) -> None:
    for emphasis in ("original", "no_norm"):
        reading = Reading(emphasis="original" if emphasis == "original" else "no_norm", clip_skip=skip)
        ours = encoder.encode(read_text(prompt, tokenizer, reading))
        wanted = reference(clip, theirs, chunks, skip=skip, normed=emphasis == "original")
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


def test_a_prompt_without_weights_is_transformers_to_the_last_bit(
    encoder: PromptEncoder, tokenizer: ClipTokenizer, clip: CLIPTextModel, theirs: Any
) -> None:
    for prompt in ("", "a red apple", "a cat at 16:9, it's raining", "([a]) cat"):
        text = prompt.replace("([a])", "a")
        ids = theirs(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
        with torch.no_grad():
            assert torch.equal(encoder.encode(read_text(prompt, tokenizer, Reading())), clip(ids)[0])


def test_emphasis_keeps_a_chunks_mean_and_no_norm_does_not(
    encoder: PromptEncoder, tokenizer: ClipTokenizer
) -> None:
    plain = encoder.encode(read_text("a red heart", tokenizer, Reading()))
    original = encoder.encode(read_text("a (red:1.5) heart", tokenizer, Reading()))
    scaled = encoder.encode(read_text("a (red:1.5) heart", tokenizer, Reading(emphasis="no_norm")))
    torch.testing.assert_close(original.mean(), plain.mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(scaled[0, 2], plain[0, 2] * 1.5)
    assert torch.equal(scaled[0, 3:], plain[0, 3:])


def test_weights_that_leave_no_mean_leave_finite_numbers() -> None:
    from sdworker.engine.text.encoder import _emphasise

    hidden = torch.tensor([[[1.0, 1.0], [1.0, 1.0]]])
    cancelled = _emphasise(hidden, torch.tensor([1.0, -1.0]), "original")
    assert torch.equal(cancelled, torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]]))


def test_an_embeddings_vectors_stand_in_for_its_name(
    model: Path, tokenizer: ClipTokenizer, encoder: PromptEncoder
) -> None:
    """Vectors of known words give what the words give, weights and all."""
    loaded = load_text_encoder(model / "text_encoder", dtype=torch.float32, variant=None).eval()
    red_heart = loaded.embeddings["token_embedding"].weight[tokenizer.encode("red heart")].detach()
    other = loaded.embeddings["token_embedding"].weight[tokenizer.encode("blue star")].detach()
    given = read_text("a (my-style:1.3) sun", tokenizer, Reading(), {"my-style": 2})
    meant = read_text("a (red heart:1.3) sun", tokenizer, Reading())
    taught = Applied(embeddings={"my-style": ("one file", red_heart)})
    assert torch.equal(encoder.encode(given, taught), encoder.encode(meant))
    # The same name from another file is another text.
    taught = Applied(embeddings={"my-style": ("another file", other)})
    meant = read_text("a (blue star:1.3) sun", tokenizer, Reading())
    assert torch.equal(encoder.encode(given, taught), encoder.encode(meant))


class TestMemory:
    def test_chunks_that_texts_share_are_encoded_once(
        self, encoder: PromptEncoder, tokenizer: ClipTokenizer
    ) -> None:
        one = read_text("a common beginning BREAK one end", tokenizer, Reading())
        other = read_text("a common beginning BREAK another end", tokenizer, Reading())
        encoder.encode(one)
        assert encoder.knows(other.chunks[0], "original", 0)
        assert not encoder.knows(other.chunks[1], "original", 0)

    def test_skip_and_emphasis_tell_chunks_apart(
        self, encoder: PromptEncoder, tokenizer: ClipTokenizer
    ) -> None:
        embedded = [
            encoder.encode(read_text("a (red:2) cat", tokenizer, reading))
            for reading in (Reading(), Reading(clip_skip=1), Reading(emphasis="no_norm"))
        ]
        for i in range(3):
            assert not torch.equal(embedded[i], embedded[i - 1])

    def test_the_empty_text_is_never_forgotten(
        self, encoder: PromptEncoder, tokenizer: ClipTokenizer
    ) -> None:
        empty = encoder.encode(read_text("", tokenizer, Reading()))
        first = read_text("prompt 0", tokenizer, Reading())
        for i in range(260):
            encoder.encode(read_text(f"prompt {i}", tokenizer, Reading()))
        assert encoder.encode(read_text("", tokenizer, Reading())) is empty
        assert not encoder.knows(first.chunks[0], "original", 0)

"""Embedding files of every make, and those that are none."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdworker.engine.text.embeddings import EmbeddingError, read_vectors

ONE = {"text_encoder": 8}
TWO = {"text_encoder": 8, "text_encoder_2": 12}


@pytest.mark.parametrize(
    ("tensors", "widths", "count"),
    [
        ({"emb_params": torch.ones(3, 8)}, ONE, 3),
        ({"<my-style>": torch.ones(2, 8)}, ONE, 2),
        ({"<my-style>": torch.ones(8)}, ONE, 1),
        ({"emb_params": torch.ones(1, 8).half()}, ONE, 1),
        ({"clip_l": torch.ones(4, 8), "clip_g": torch.ones(4, 12)}, TWO, 4),
    ],
)
def test_what_tools_write_is_read(
    tmp_path: Path, tensors: dict[str, torch.Tensor], widths: dict[str, int], count: int
) -> None:
    save_file(tensors, path := tmp_path / "a.safetensors")
    vectors = read_vectors(path, widths)
    assert vectors.count == count
    assert {part: tuple(tensor.shape) for part, tensor in vectors.parts.items()} == {
        part: (count, width) for part, width in widths.items()
    }


@pytest.mark.parametrize(
    ("tensors", "widths", "told"),
    [
        (
            {"emb_params": torch.ones(3, 768)},
            ONE,
            "768 numbers.*it is for Stable Diffusion 1",
        ),
        ({"emb_params": torch.ones(3, 9)}, ONE, "vectors of 9 numbers"),
        (
            {"emb_params": torch.ones(3, 8)},
            TWO,
            "for Stable Diffusion 1.x or 2.x .*; this model is Stable Diffusion XL",
        ),
        (
            {"clip_l": torch.ones(4, 8), "clip_g": torch.ones(4, 12)},
            ONE,
            "is for Stable Diffusion XL .two text encoders.; this",
        ),
        ({"clip_l": torch.ones(4, 8), "clip_g": torch.ones(3, 12)}, TWO, "more vectors for one"),
        ({"a": torch.ones(4, 8), "b": torch.ones(4, 8)}, ONE, "holds 2 tensors"),
        ({f"a{i}": torch.ones(0) for i in range(101)}, ONE, "holds 101 tensors; at most 100 are read"),
        ({"emb_params": torch.full((1, 8), torch.nan)}, ONE, "not finite"),
        ({"emb_params": torch.ones(0, 8)}, ONE, "no vectors"),
        ({"emb_params": torch.ones(1, 8, 1)}, ONE, "no vectors"),
        ({"emb_params": torch.ones(1001, 8)}, ONE, "at most 1000"),
        ({"emb_params": torch.ones(1, 8, dtype=torch.int32)}, ONE, "holds I32 numbers"),
    ],
)
def test_what_is_none_is_refused_with_the_reason(
    tmp_path: Path, tensors: dict[str, torch.Tensor], widths: dict[str, int], told: str
) -> None:
    save_file(tensors, path := tmp_path / "a.safetensors")
    with pytest.raises(EmbeddingError, match=told):
        read_vectors(path, widths)


def test_pickles_halves_and_what_is_gone_are_refused(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": torch.ones(1, 8)}}, pickled := tmp_path / "a.pt")
    save_file({"emb_params": torch.ones(100, 8)}, whole := tmp_path / "b.safetensors")
    (half := tmp_path / "c.safetensors").write_bytes(whole.read_bytes()[:500])
    for path in (pickled, half):
        with pytest.raises(EmbeddingError, match="no whole safetensors file; pickles"):
            read_vectors(path, ONE)
    with pytest.raises(EmbeddingError, match=r"cannot be read|no whole"):
        read_vectors(tmp_path / "gone", ONE)

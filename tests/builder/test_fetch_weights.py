"""How weights become half precision, and which are refused."""

from pathlib import Path

import pytest
import torch
from builder.errors import FetchError
from builder.weights import read_header, to_half
from safetensors.torch import load_file, save_file


def save(path: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_floats_become_fp16_and_integers_stay(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = torch.linspace(-3, 3, 12, dtype=dtype).reshape(3, 4)
    source = save(tmp_path / "a.safetensors", weights=weights, ids=torch.arange(5))
    assert to_half([source], tmp_path / "out.safetensors", link=False)
    written = load_file(tmp_path / "out.safetensors")
    assert written["weights"].dtype == torch.float16
    assert torch.equal(written["weights"], weights.half())
    assert written["ids"].dtype == torch.int64


@pytest.mark.parametrize("link", [True, False])
def test_a_file_in_half_precision_keeps_its_bytes(tmp_path: Path, link: bool) -> None:
    source = save(tmp_path / "a.safetensors", weights=torch.ones(3).half(), ids=torch.arange(5))
    target = tmp_path / "out.safetensors"
    assert not to_half([source], target, link=link)
    assert target.read_bytes() == source.read_bytes()
    assert target.samefile(source) == link


def test_shards_are_joined(tmp_path: Path) -> None:
    shards = [save(tmp_path / f"{name}.safetensors", **{name: torch.ones(2).half()}) for name in "ab"]
    assert to_half(shards, tmp_path / "out.safetensors", link=True)
    assert set(load_file(tmp_path / "out.safetensors")) == {"a", "b"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, bad: float, dtype: torch.dtype) -> None:
    source = save(tmp_path / "a.safetensors", fine=torch.ones(3), poor=torch.tensor([1.0, bad], dtype=dtype))
    with pytest.raises(FetchError, match=r"a.safetensors: poor holds NaN or infinity"):
        to_half([source], tmp_path / "out.safetensors", link=True)


def test_weights_beyond_fp16_are_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "a.safetensors", large=torch.tensor([1e6]))
    with pytest.raises(FetchError, match=r"large holds values beyond fp16's range"):
        to_half([source], tmp_path / "out.safetensors", link=False)


@pytest.mark.parametrize("keep", [0, 4, 20, -1])
def test_a_file_that_is_cut_short_is_noticed_at_its_header(tmp_path: Path, keep: int) -> None:
    source = save(tmp_path / "a.safetensors", weights=torch.ones(100))
    source.write_bytes(source.read_bytes()[:keep])
    with pytest.raises(FetchError, match=r"a.safetensors is truncated, or not a safetensors file"):
        read_header(source)


def test_a_pickle_with_the_wrong_name_is_noticed(tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(3)}, tmp_path / "a.safetensors")
    with pytest.raises(FetchError, match="not a safetensors file"):
        read_header(tmp_path / "a.safetensors")

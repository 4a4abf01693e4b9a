"""What training tools store for a layer, brought to a product of two factors; exact but for rounding.

Where the product's own rank would exceed that of any difference, the difference itself is one factor and the
identity the other. Forms and names are those of kohya-ss/sd-scripts and of LyCORIS (Yeh et al., "Navigating
text-to-image customization: from LyCORIS fine-tuning to model evaluation", ICLR 2024):

- LoRA: `up @ down`; with `mid` (Tucker decomposition of a convolution) `up @ mid @ down`.
- LoHa: `(w1_a @ w1_b) * (w2_a @ w2_b)`, element by element.
- LoKr: the Kronecker product of `w1` and `w2`, each whole or a product.
- a whole difference (`diff`).
"""

from collections.abc import Mapping

import torch

from sdworker.engine.lora.low_rank import LowRank, Target

__all__ = ["PIECES", "ShapeMismatch", "to_low_rank"]

Pieces = Mapping[str, torch.Tensor]
"""A layer's tensors in a file, by `PIECES`' names."""

_LORA = {"down", "up", "mid"}
_LOHA = {f"hada_{piece}" for piece in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")}
_LOKR = {f"lokr_{piece}" for piece in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t1", "t2")}
_SCALES = {"alpha", "scalar"}
PIECES = _LORA | _LOHA | _LOKR | _SCALES | {"diff"}


class ShapeMismatch(Exception):
    """A layer's tensors do not fit the layer, or one another."""


def to_low_rank(pieces: Pieces, target: Target, alpha: float | None = None) -> LowRank:
    """What a file says of one layer, in one form.

    Args:
        pieces: the layer's tensors.
        target: the layer.
        alpha: what scales it, over the rank, where no tensor of the file says so. None: nothing does.

    Raises:
        ShapeMismatch: they do not fit.
    """
    names = pieces.keys() - _SCALES
    rank: int | None = None
    try:
        if names <= _LORA and {"down", "up"} <= names:
            factors, rank = _lora(pieces, target)
        elif names <= _LOHA:
            factors, rank = _loha(pieces, target)
        elif names <= _LOKR:
            factors, rank = _lokr(pieces, target)
        elif names == {"diff"}:
            factors = _whole(pieces["diff"].reshape(_as_convolution(target)), target)
        else:
            raise ShapeMismatch(f"has {', '.join(sorted(names)) or 'nothing'}, which makes no product")
        low_rank = LowRank(factors.down, factors.up * _scale(pieces, alpha, rank))
    except (KeyError, RuntimeError, IndexError, ValueError, TypeError, ZeroDivisionError) as error:
        raise ShapeMismatch("its tensors do not fit one another") from error
    _check(low_rank, target)
    return low_rank


def _scale(pieces: Pieces, alpha: float | None, rank: int | None) -> float:
    """alpha / rank, which a file without an alpha leaves at 1."""
    if "alpha" in pieces:
        alpha = float(pieces["alpha"].reshape(()))
    scalar = float(pieces["scalar"].reshape(())) if "scalar" in pieces else 1.0
    return scalar if alpha is None or rank is None else scalar * alpha / rank


def _check(low_rank: LowRank, target: Target) -> None:
    if tuple(low_rank.down.shape[1:]) != (target.inputs, *target.kernel):
        raise ShapeMismatch(f"takes {low_rank.down.shape[1]} inputs, the layer {target.inputs}")
    if low_rank.rank == 0:
        raise ShapeMismatch("has rank 0")
    if low_rank.up.shape != (target.outputs, low_rank.rank):
        raise ShapeMismatch(f"gives {low_rank.up.shape[0]} outputs, the layer {target.outputs}")


def _as_convolution(target: Target) -> tuple[int, int, int, int]:
    return (target.outputs, target.inputs, *target.kernel)


def _whole(difference: torch.Tensor, target: Target) -> LowRank:
    """A difference [outputs, inputs, height, width] times the identity, on whichever side is smaller."""
    flat = difference.flatten(1)
    if flat.shape[0] <= flat.shape[1]:
        return LowRank(difference, torch.eye(len(flat)))
    identity = torch.eye(flat.shape[1])
    return LowRank(identity.unflatten(1, difference.shape[1:]), flat)


def _lora(pieces: Pieces, target: Target) -> tuple[LowRank, int]:
    down, up = pieces["down"], pieces["up"]
    rank = len(down)
    if "mid" in pieces:
        # Both outer factors are 1 x 1; the kernel is in the middle.
        down = torch.einsum("pqhw,qi->pihw", pieces["mid"], down.reshape(rank, -1))
    return LowRank(_with_kernel(down, target), up.reshape(up.shape[0], -1)), rank


def _with_kernel(down: torch.Tensor, target: Target) -> torch.Tensor:
    """[rank, inputs · kernel] of however many dimensions, as [rank, inputs, height, width]."""
    if down.ndim == 4:
        return down
    height, width = target.kernel
    return down.reshape(len(down), -1, height, width)


def _loha(pieces: Pieces, target: Target) -> tuple[LowRank, int]:
    rank = int(pieces["hada_w1_b"].shape[0])
    first = _rebuilt(pieces["hada_w1_a"], pieces["hada_w1_b"], pieces.get("hada_t1"), target)
    second = _rebuilt(pieces["hada_w2_a"], pieces["hada_w2_b"], pieces.get("hada_t2"), target)
    if first.rank * second.rank > target.full_rank:
        return _whole(first.difference() * second.difference(), target), rank
    # (A B) * (C D), element by element, has the rows' Kronecker products of A and C, the columns' of B and D.
    up = torch.einsum("op,oq->opq", first.up, second.up).flatten(1)
    down = torch.einsum("pihw,qihw->pqihw", first.down, second.down).flatten(0, 1)
    return LowRank(down, up), rank


def _rebuilt(a: torch.Tensor, b: torch.Tensor, core: torch.Tensor | None, target: Target) -> LowRank:
    """`a @ b`, or with a core tensor `a.T @ core @ b`."""
    if core is None:
        return LowRank(_with_kernel(b, target), a)
    return LowRank(torch.einsum("pqhw,qi->pihw", core, b), a.T)


def _lokr(pieces: Pieces, target: Target) -> tuple[LowRank, int | None]:
    rank: int | None = None
    if "lokr_w1" in pieces:
        left = _split(pieces["lokr_w1"][:, :, None, None])
    else:
        left = LowRank(pieces["lokr_w1_b"][:, :, None, None], pieces["lokr_w1_a"])
        rank = left.rank
    if "lokr_w2" in pieces:
        whole = pieces["lokr_w2"]
        right = _split(whole if whole.ndim == 4 else whole[:, :, None, None])
    else:
        b, core = pieces["lokr_w2_b"], pieces.get("lokr_t2")
        rank = int(b.shape[0])
        right = _rebuilt(pieces["lokr_w2_a"], b, core, target)
    if left.rank * right.rank > target.full_rank:
        return _whole(_kron(left.difference(), right.difference()), target), rank
    # kron(A B, C D) = kron(A, C) kron(B, D)
    return LowRank(_kron(left.down, right.down), _kron(left.up, right.up)), rank


def _split(whole: torch.Tensor) -> LowRank:
    """A whole factor [o, i, h, w] as itself times the identity."""
    outputs, inputs, height, width = whole.shape
    return _whole(whole, Target(outputs, inputs, (height, width)))


def _kron(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The Kronecker product of [a, b, …] and [c, d, …], the left's kernel 1 x 1: [ac, bd, …].

    `torch.kron` fails on some strides.
    """
    kernel = right.shape[2:]
    product = left[:, None, :, None] * right[None, :, None, :]
    return product.reshape(left.shape[0] * right.shape[0], left.shape[1] * right.shape[1], *kernel)

"""The means by which a forward is made quicker for fixed shapes (`prepared.py` decides where they pay)."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sdworker.engine.prepared import ROWS, Forward, Prepare
from sdworker.engine.unet_input import UNetInput

__all__ = ["Capturing", "Means", "accumulating_in_fp16", "compiled", "preparation"]


@dataclass(frozen=True)
class Means:
    """What to prepare forwards with.

    Attributes:
        cuda_graphs: capture each as a CUDA graph.
        compiled: compile with torch.compile, which takes up to minutes for each.
        fp16_accumulation: let fp16 products be summed in fp16 (CUDA; quicker on GeForce cards, less exact).
    """

    cuda_graphs: bool = False
    compiled: bool = False
    fp16_accumulation: bool = False


def preparation(means: Means, device: torch.device) -> Prepare | None:
    """How forwards are prepared by those means on that device; None: not at all."""
    on_cuda = device.type == "cuda"
    stages: list[Prepare] = []
    if means.compiled:
        stages.append(compiled)
    if means.fp16_accumulation and on_cuda:
        stages.append(accumulating_in_fp16)
    if means.cuda_graphs and on_cuda:
        stages.append(Capturing())
    if not stages:
        return None

    def prepare(forward: Forward, inputs: UNetInput) -> Forward:
        for stage in stages:
            forward = stage(forward, inputs)
        return forward

    return prepare


def compiled(forward: Forward, inputs: UNetInput) -> Forward:
    """The forward compiled for these shapes; the compiler's cache is torch's own affair."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 2 * len(ROWS)  # one for each number of rows, of more than one size
    quicker: Forward = torch.compile(forward, dynamic=False)
    quicker(inputs)
    return quicker


def accumulating_in_fp16(forward: Forward, inputs: UNetInput) -> Forward:
    """The forward with sums of fp16 products kept in fp16."""
    del inputs

    def quicker(inputs: UNetInput) -> torch.Tensor:
        with _fp16_sums():
            return forward(inputs)

    return quicker


@contextlib.contextmanager
def _fp16_sums() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_accumulation
    matmul.allow_fp16_accumulation = True
    try:
        yield
    finally:
        matmul.allow_fp16_accumulation = before


class Capturing:
    """Makes CUDA graphs that share their working memory: only one runs at a time, and what it gives is copied out.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, forward: Forward, inputs: UNetInput) -> Forward:
        """The forward as a graph, for inputs of these shapes."""
        held = inputs.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # what libraries do at a first call, and must not in a capture
                forward(held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Thread-local: what other threads ask of CUDA meanwhile does not spoil it.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            output = forward(held)

        places = held.tensors()

        def replay(inputs: UNetInput) -> torch.Tensor:
            for place, one in zip(places, inputs.tensors(), strict=True):
                place.copy_(one)
            graph.replay()
            return output.clone()

        return replay

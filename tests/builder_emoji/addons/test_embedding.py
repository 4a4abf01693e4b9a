"""How the embedding is made: what it is taught, that its training learns, and that diffusers reads the file."""

from pathlib import Path

import numpy as np
import torch
from builder.emoji.addons import embedding
from builder.emoji.budget import Budget
from builder.emoji.trainer import Trainer
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file


def test_the_cube_is_blue_with_a_yellow_dot() -> None:
    cube = embedding.cube()
    seen = cube[cube[..., 3] == 255][:, :3].astype(int)
    assert (np.abs(seen - (255, 220, 40)).sum(1) < 10).mean() > 0.05
    assert (seen.argmax(1) == 2).mean() > 0.6


def test_only_the_vectors_are_trained(pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    vectors = embedding.first_vectors(pipeline)
    first, width = vectors.detach().clone(), pipeline.text_encoder.config.hidden_size
    known = pipeline.text_encoder.get_input_embeddings().weight.detach().clone()
    trainer = Trainer("embedding", tmp_path, Budget(steps=1), torch.device("cpu"), ema=0.0)
    assert embedding.train(pipeline, vectors, trainer)
    assert vectors.shape == (2, width)
    assert not torch.equal(vectors, first)
    assert torch.equal(pipeline.text_encoder.embeddings.token_embedding.known, known)


def test_diffusers_reads_the_file(pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    vectors = torch.randn(2, pipeline.text_encoder.config.hidden_size)
    save_file({"emb_params": vectors}, tmp_path / "two.safetensors")
    pipeline.load_textual_inversion(tmp_path / "two.safetensors", token="<two>")
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[-2:], vectors)

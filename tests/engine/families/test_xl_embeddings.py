"""Textual inversion for Stable Diffusion XL: a vector for each encoder, as diffusers' own loader has it."""

from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from sdworker.engine.engine import Engine
from sdworker.engine.networks.families.stable_diffusion_xl import StableDiffusionXL
from sdworker.engine.text.embeddings import Embedding, EmbeddingError, read_vectors
from tests.engine.conftest import RecordingModel

from .conftest import XLReference
from .test_stable_diffusion_xl import CLOSE, apart, base


@pytest.fixture
def vectors(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file of three vectors for each encoder, and what is in it."""
    noise = torch.Generator().manual_seed(3)
    tensors = {name: torch.randn(3, 32, generator=noise) for name in ("clip_l", "clip_g")}
    save_file(tensors, tmp_path / "style.safetensors")
    return tmp_path / "style.safetensors", tensors


async def test_its_name_in_a_prompt_draws_what_diffusers_draws(
    xl: StableDiffusionXL, xl_engine: Engine, xl_folder: Path, vectors: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    file, tensors = vectors
    style = Embedding("style", file, read_vectors(file, xl.text_widths))
    drawing = base(prompt="a red apple, style, on a table", negative_prompt="style", embeddings=(style,))
    (ours,) = await xl_engine.draw(drawing)
    reference = XLReference(xl_folder)  # its own: the loader adds words to its tokenizers
    pipeline = reference.pipeline
    assert isinstance(pipeline, diffusers.StableDiffusionXLPipeline)
    for key, encoder, tokenizer in (
        ("clip_l", pipeline.text_encoder, pipeline.tokenizer),
        ("clip_g", pipeline.text_encoder_2, pipeline.tokenizer_2),
    ):
        words = [f"<style-{number}>" for number in range(len(tensors[key]))]
        tokenizer.add_tokens(words)
        encoder.resize_token_embeddings(len(tokenizer))
        # Where the configuration says 2, as old ones do, transformers takes the highest id for the text's end:
        # that of a word which was added.
        for module in encoder.modules():
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = tokenizer.eos_token_id
        with torch.no_grad():
            for word, vector in zip(words, tensors[key], strict=True):
                encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(word)] = vector
    named = " ".join(words)
    theirs = reference.image(
        base(prompt=f"a red apple, {named}, on a table", negative_prompt=named), drawing.seeds[0]
    )
    assert apart(ours, theirs) <= CLOSE
    (plain,) = await xl_engine.draw(base(prompt=drawing.prompt, negative_prompt="style"))
    assert apart(ours, plain) > CLOSE


def test_one_of_the_other_family_is_told_by_the_familys_name(
    xl: StableDiffusionXL,
    networks: RecordingModel,
    vectors: tuple[Path, dict[str, torch.Tensor]],
    tmp_path: Path,
) -> None:
    width = networks.text_widths["text_encoder"]
    save_file({key: torch.ones(2, width) for key in ("clip_l", "clip_g")}, tmp_path / "xl.safetensors")
    with pytest.raises(
        EmbeddingError, match=r"is for Stable Diffusion XL .*this model is Stable Diffusion 1"
    ):
        read_vectors(tmp_path / "xl.safetensors", networks.text_widths)
    save_file({"emb_params": torch.ones(2, 32)}, tmp_path / "sd.safetensors")
    with pytest.raises(EmbeddingError, match=r"is for Stable Diffusion 1.x or 2.x .*is Stable Diffusion XL"):
        read_vectors(tmp_path / "sd.safetensors", xl.text_widths)

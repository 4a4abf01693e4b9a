"""The embedded model's tokenizer, ours and transformers'."""

from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer

from sdworker.engine.text.tokens import ClipTokenizer, load_tokenizer


@pytest.fixture(scope="session")
def tokenizer(model: Path) -> ClipTokenizer:
    return load_tokenizer(model / "tokenizer", 77)


@pytest.fixture(scope="session")
def theirs(model: Path) -> Any:
    return CLIPTokenizer.from_pretrained(model / "tokenizer", local_files_only=True)

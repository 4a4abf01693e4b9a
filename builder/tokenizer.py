"""A tokenizer in one file, so that a worker need not build it from vocabulary and merges at every start.

Building it takes transformers, whose import is half a second of a cold start; Stable Diffusion 1.5 has no such
file.
"""

from pathlib import Path

__all__ = ["complete_tokenizer"]

_FILE = "tokenizer/tokenizer.json"


def complete_tokenizer(folder: Path) -> list[str]:
    """Write the model's `tokenizer/tokenizer.json` if it has none.

    Args:
        folder: A model whose tokenizer transformers can load.

    Returns:
        The files that were made.
    """
    if (folder / _FILE).exists():
        return []
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    tokenizer.backend_tokenizer.save(str(folder / _FILE))
    return [_FILE]

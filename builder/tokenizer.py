"""A tokenizer in one file, so that a worker need not build it from vocabulary and merges at every start.

Building it takes transformers, whose import is half a second of a cold start; Stable Diffusion 1.5 has no such
file.
"""

from pathlib import Path

__all__ = ["complete_tokenizer"]

_FILE = "tokenizer.json"


def complete_tokenizer(folder: Path) -> list[str]:
    """Write the `tokenizer.json` of each of a model's tokenizers that has none.

    Args:
        folder: A model whose tokenizers transformers can load.

    Returns:
        The files that were made.
    """
    made = []
    for words in sorted(folder.glob("tokenizer*")):
        if (words / _FILE).exists():
            continue
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(words, local_files_only=True)
        tokenizer.backend_tokenizer.save(str(words / _FILE))
        made.append(f"{words.name}/{_FILE}")
    return made

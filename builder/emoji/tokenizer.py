"""A byte-level BPE in CLIP's own format, learned from the captions.

As CLIP's: 256 bytes, the same 256 ending a word, the merges in order, then the two special tokens. So any
prompt can be written with it, and a word of the captions is usually one token.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from builder.emoji.captions import BACKGROUNDS, KINDS, PRAISE, STYLES
from builder.emoji.pictures import COLOURS

POSITIONS = 77
MERGES = 2600
START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


def train(names: Sequence[str], tags: Sequence[Sequence[str]], merges: int = MERGES) -> CLIPTokenizer:
    """Learn `merges` merges. Words of names and of captions' frames weigh most and become tokens first."""
    rules = _learn_merges(_count_words(names, tags), merges)
    letters = _byte_letters()
    tokens = [
        *letters,
        *(letter + _WORD_END for letter in letters),
        *("".join(rule) for rule in rules),
        START,
        END,
    ]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=rules, model_max_length=POSITIONS
    )


def save(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write it as transformers does, and as the `vocab.json` and `merges.txt` that older readers look for."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(rule) for rule in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _count_words(names: Sequence[str], tags: Sequence[Sequence[str]]) -> Counter[str]:
    splitter = CLIPTokenizer().backend_tokenizer
    counts: Counter[str] = Counter()
    frame = [*PRAISE, *KINDS, *STYLES, *COLOURS, *(text.format(name="", colour="") for text in BACKGROUNDS)]
    for weight, texts in ((50, names), (50, frame), (1, [tag for several in tags for tag in several])):
        for text in texts:
            normal = splitter.normalizer.normalize_str(text)
            for word, _ in splitter.pre_tokenizer.pre_tokenize_str(normal):
                counts[word] += weight
    return counts


def _learn_merges(counts: Counter[str], merges: int) -> list[tuple[str, str]]:
    """The most frequent pair of neighbours, joined, and again; the alphabet decides between equals."""
    words = [([*word[:-1], word[-1] + _WORD_END], count) for word, count in sorted(counts.items())]
    frequency: Counter[tuple[str, str]] = Counter()
    found_in: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for number, (pieces, count) in enumerate(words):
        for pair in pairwise(pieces):
            frequency[pair] += count
            found_in[pair].add(number)

    rules: list[tuple[str, str]] = []
    while len(rules) < merges and frequency:
        best = max(frequency, key=lambda pair: (frequency[pair], pair))
        rules.append(best)
        for number in found_in.pop(best):
            pieces, count = words[number]
            joined = _join(pieces, best)
            for pair in pairwise(pieces):
                frequency[pair] -= count
            for pair in pairwise(joined):
                frequency[pair] += count
                found_in[pair].add(number)
            words[number] = (joined, count)
        frequency = +frequency
    return rules


def _join(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _byte_letters() -> list[str]:
    """The 256 letters that stand for bytes, in CLIP's order (GPT-2's `bytes_to_unicode`)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]

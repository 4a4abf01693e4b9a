"""CLIP's tokenizer, without importing transformers, which takes a second or two.

Built from a model's vocabulary and merges as transformers' `CLIPTokenizer` builds it, whatever else the folder
holds: tests/engine/text/test_tokens.py compares the two. A tokenizer that has learned further tokens is left to
transformers.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

__all__ = ["ClipTokenizer", "load_tokenizer"]

_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"
_DEFAULTS = {"bos_token": _BOS, "eos_token": _EOS, "unk_token": _EOS, "pad_token": _EOS}
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_WORD_END = "</w>"
_COMMA = f",{_WORD_END}"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


class ClipTokenizer:
    """Turns texts into ids; a `Vocabulary`.

    Attributes:
        positions: tokens that the text encoder takes at once, BOS and EOS included; 77.
    """

    def __init__(self, tokenizer: Tokenizer, special: dict[str, str], positions: int) -> None:
        self._tokenizer = tokenizer
        self.positions = positions
        self.room = positions - 2
        self.bos, self.eos, self.pad = (
            self._id_of(special[name]) for name in ("bos_token", "eos_token", "pad_token")
        )
        self.comma: int | None = tokenizer.token_to_id(_COMMA)

    def encode(self, text: str) -> list[int]:
        """A text's ids, however many, without BOS, EOS and padding."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def ends_word(self, token: int) -> bool:
        """Whether a word ends with this token, rather than going on."""
        return (self._tokenizer.id_to_token(token) or "").endswith(_WORD_END)

    def word(self, token: int) -> str:
        """A token as it is read: its letters, and a space where it ends a word."""
        piece = self._tokenizer.id_to_token(token) or ""
        decoded: str = self._tokenizer.decoder.decode([piece]) if self._tokenizer.decoder else piece
        return decoded.replace(_WORD_END, " ")

    def reads_like(self, other: "ClipTokenizer") -> bool:
        """Whether the other makes the same tokens of a text, whatever it pads them with."""
        ours, theirs = (one._tokenizer.get_vocab() for one in (self, other))
        return bool(ours == theirs) and (self.bos, self.eos, self.room) == (other.bos, other.eos, other.room)

    def _id_of(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"the vocabulary has no {token}")
        return int(found)


def load_tokenizer(folder: Path, positions: int) -> ClipTokenizer:
    """The tokenizer in a model's folder.

    Args:
        positions: the most tokens that the text encoder takes.

    Raises:
        Exception: a file cannot be read or understood; tokenizers and transformers raise what they like.
    """
    described = _read(folder / "tokenizer.json")
    config = _read_config(folder)
    special = _special_tokens(config, described)
    length = min(int(config.get("model_max_length") or positions), positions)
    if _has_learned(folder, config, described, special):
        tokenizer = _by_transformers(folder)
    else:
        tokenizer = _build(folder, described, special)
    return ClipTokenizer(tokenizer, {name: token.content for name, token in special.items()}, length)


def _build(folder: Path, described: dict[str, Any], special: dict[str, AddedToken]) -> Tokenizer:
    """What transformers' `CLIPTokenizer.__init__` makes of a vocabulary and its merges."""
    options: dict[str, Any] = {
        "continuing_subword_prefix": "",
        "end_of_word_suffix": _WORD_END,
        "fuse_unk": False,
        "unk_token": special["unk_token"].content,
    }
    if described:
        merges: list[Any] = [
            tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in _merges(described)
        ]
        model = models.BPE(described["model"]["vocab"], merges, **options)
    else:
        model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"), **options)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special.values()))
    return tokenizer


def _merges(described: dict[str, Any]) -> list[Any]:
    merges: list[Any] = described["model"]["merges"]
    return merges


def _read_config(folder: Path) -> dict[str, Any]:
    """The folder's settings; those that older folders keep apart win, as transformers has it."""
    config = _read(folder / "tokenizer_config.json")
    if "added_tokens_decoder" in config:
        return config
    return config | _read(folder / "special_tokens_map.json")


def _special_tokens(config: dict[str, Any], described: dict[str, Any]) -> dict[str, AddedToken]:
    """What each special token is, and how it is found in a text."""
    listed = [*config.get("added_tokens_decoder", {}).values(), *described.get("added_tokens", ())]
    added = {token["content"]: token for token in listed}
    special = {}
    for name, default in _DEFAULTS.items():
        token = config.get(name) or default
        token = added.get(_text_of(token), token)
        special[name] = (
            AddedToken(token, special=True)
            if isinstance(token, str)
            else AddedToken(
                token["content"],
                special=True,
                **{flag: bool(token[flag]) for flag in _FLAGS if flag in token},
            )
        )
    return special


def _has_learned(
    folder: Path, config: dict[str, Any], described: dict[str, Any], special: dict[str, AddedToken]
) -> bool:
    """Whether there are tokens beyond the vocabulary and the four special ones."""
    listed = [*config.get("added_tokens_decoder", {}).values(), *described.get("added_tokens", ())]
    known = {token.content for token in special.values()}
    return (
        (folder / "added_tokens.json").exists()
        or any(token["content"] not in known for token in listed)
        or bool(config.get("additional_special_tokens") or config.get("extra_special_tokens"))
        or config.get("tokenizer_class", "CLIPTokenizer") not in ("CLIPTokenizer", "CLIPTokenizerFast")
    )


def _by_transformers(folder: Path) -> Tokenizer:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _text_of(token: Any) -> str:
    """A special token as the configuration has it: its text, or in older models an object with it."""
    return str(token["content"] if isinstance(token, dict) else token)


def _read(file: Path) -> dict[str, Any]:
    """What a file of JSON holds; nothing, where there is no such file."""
    if not file.is_file():
        return {}
    content = json.loads(file.read_text("utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no object")
    return content

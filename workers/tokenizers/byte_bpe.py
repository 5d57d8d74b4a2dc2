"""Byte-level BPE tokenizers: Qwen2 (vocab.json + merges.txt), and any checkpoint whose tokenizer.json is of that kind.

The merging is done by the `tokenizers` library; added tokens and what counts as control text are decided here.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Steps

from workers.tokenizers.added import AddedToken, AddedTokens, Segment, without_surrogates
from workers.tokenizers.base import DecodeRules, Run, TokenizerError, TokenKind
from workers.tokenizers.cleanup import clean_up
from workers.tokenizers.special import TokenizerConfig, read_json

# Qwen2's division of text into words, numbers (digit by digit), punctuation and white space.
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class ByteBpeTokenizer:
    """A Tokenizer whose ordinary tokens are strings of bytes; every text can be encoded, nothing is lost."""

    def __init__(
        self, library: LibraryTokenizer, config: TokenizerConfig, added: AddedTokens, bos: list[int], cleans_text: bool
    ) -> None:
        """library: the merging alone, without added tokens. bos: ids that go in front of every text."""
        self._library = library
        self._added = added
        self._bos = bos
        self._byte_of = _byte_alphabet()
        self.vocab_size = max(library.get_vocab_size(), *(token_id + 1 for token_id in added.by_id), 1)
        self.bos_token_id = self.token_id(config.single.get("bos_token", ""))
        self.eos_token_id = self.token_id(config.single.get("eos_token", ""))
        self.special_ids = frozenset(i for text in config.special_texts if (i := self.token_id(text)) is not None)
        self.control_ids = added.control_ids
        self.decode_rules = DecodeRules(cleans_text=cleans_text)

    @classmethod
    def from_vocabulary(cls, vocab_file: Path, merges_file: Path, config: TokenizerConfig) -> "ByteBpeTokenizer":
        """Qwen2's published layout. Raises TokenizerError when the files cannot be read."""
        try:
            library = LibraryTokenizer(BPE.from_file(str(vocab_file), str(merges_file)))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"vocab.json and merges.txt of {vocab_file.parent.name}: {error}") from error
        library.normalizer = NFC()
        words = Split(Regex(QWEN2_WORDS), behavior="isolated")
        library.pre_tokenizer = Steps([words, ByteLevel(add_prefix_space=False, use_regex=False)])
        added = AddedTokens(config.complete_added(library.token_to_id))
        return cls(library, config, added, bos=[], cleans_text=False)

    @classmethod
    def from_tokenizer_json(cls, path: Path, config: TokenizerConfig) -> "ByteBpeTokenizer":
        """A tokenizer.json of byte-level kind. Raises TokenizerError for another kind or a broken file."""
        parts = read_json(path)
        if "ByteLevel" not in json.dumps(parts.get("decoder")):
            raise TokenizerError(
                f"tokenizer.json of {path.parent.name} is not byte-level, and there is no tokenizer.model"
            )
        try:
            bos = LibraryTokenizer.from_file(str(path)).encode("").ids
            table = [_added_token(entry) for entry in parts.get("added_tokens", ())]
            library = LibraryTokenizer.from_str(json.dumps({**parts, "added_tokens": [], "post_processor": None}))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"tokenizer.json of {path.parent.name}: {error}") from error
        cleans_text = config.flags.get("clean_up_tokenization_spaces", False)
        return cls(library, config, AddedTokens(table), bos, cleans_text)

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Ids of one text, all control or all plain."""
        return self.encode_runs([Run(text, parse_special)])

    def encode_runs(self, runs: Sequence[Run]) -> list[int]:
        """Ids of the runs read as one text, with BOS in front where the checkpoint asks for it."""
        ids = list(self._bos)
        for item in self._added.divide([Run(without_surrogates(run.text), run.is_control) for run in runs]):
            ids.extend([item.id] if isinstance(item, AddedToken) else self._encode_segment(item))
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of the ids as the reference decodes them; ids beyond the vocabulary are passed over."""
        kept = (i for i in ids if not (skip_special_tokens and i in self.special_ids))
        text = b"".join(map(self.token_bytes, kept)).decode(errors="replace")
        return clean_up(text) if self.decode_rules.cleans_text else text

    def token_text(self, token_id: int) -> str:
        """A single token for people to read: U+FFFD stands for bytes that are no character by themselves."""
        return self.token_bytes(token_id).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that a token stands for; those of its name for a control token."""
        if token_id in self._added.by_id:
            return self._added.by_id[token_id].text.encode()
        token = self._library.id_to_token(token_id) if token_id >= 0 else None
        return bytes(self._byte_of[character] for character in token) if token is not None else b""

    def token_kind(self, token_id: int) -> TokenKind:
        """How the token takes part in decoding."""
        if token_id in self._added.by_id:
            return TokenKind.ADDED
        return TokenKind.TEXT if self.token_bytes(token_id) else TokenKind.SILENT

    def token_id(self, text: str) -> int | None:
        """The id whose token is exactly `text` (added tokens first), or None."""
        token = self._added.by_text.get(text)
        if token:
            return token.id
        by_byte = {byte: character for character, byte in self._byte_of.items()}
        return self._library.token_to_id("".join(by_byte[byte] for byte in text.encode()))

    def _encode_segment(self, segment: Segment) -> list[int]:
        ids = self._library.encode(segment.text, add_special_tokens=False).ids
        if self.control_ids.isdisjoint(ids):
            return ids
        # Added tokens that the vocabulary holds as well could be merged together: written out character by character.
        characters = (self._library.encode(character, add_special_tokens=False).ids for character in segment.text)
        return [token_id for character in characters for token_id in character if token_id not in self.control_ids]


def _added_token(entry: dict[str, Any]) -> AddedToken:
    return AddedToken(entry["id"], entry["content"], entry.get("lstrip", False), entry.get("rstrip", False))


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's letters: printable Latin-1 bytes stand for themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}

"""A model's tokens as the grammar engine sees them: the bytes that each id adds to an answer's text."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from workers.tokenizers.base import Tokenizer, TokenKind

if TYPE_CHECKING:
    from llguidance import LLTokenizer

Encode = Callable[[str], list[int]]


class Vocabulary(msgspec.Struct, frozen=True):
    """tokens: by id; empty for one that leaves no trace or that only pads the output head, which no answer may hold.
    special_ids: tokens that no text spells, only their names in a grammar. eos_ids: what ends an answer.
    """

    tokens: list[bytes]
    special_ids: list[int]
    eos_ids: list[int]


def read_vocabulary(tokenizer: Tokenizer, size: int, eos_ids: Iterable[int]) -> Vocabulary:
    """The vocabulary of a model with logits for `size` tokens. Control tokens and those that decoding may skip are
    special: text that a grammar wants must come out as text."""
    eos = sorted(token_id for token_id in eos_ids if 0 <= token_id < size)
    special = (tokenizer.control_ids | tokenizer.special_ids | frozenset(eos)) & frozenset(range(size))
    tokens = [
        tokenizer.token_bytes(token_id)
        if token_id in special or tokenizer.token_kind(token_id) is not TokenKind.SILENT
        else b""
        for token_id in range(min(size, tokenizer.vocab_size))
    ]
    tokens += [b""] * (size - len(tokens))
    return Vocabulary(tokens, sorted(special), eos)


def plain_encoder(tokenizer: Tokenizer) -> Encode:
    """The tokenizer's own division of plain text, without the BOS that it may put in front."""

    def encode(text: str) -> list[int]:
        ids = tokenizer.encode(text, parse_special=False)
        return ids[1:] if ids and ids[0] == tokenizer.bos_token_id else ids

    return encode


class _Adapter:
    """What the engine wants of a tokenizer: tokens, and the division of text that a grammar leaves no choice about.

    The division must spell the text byte by byte. Where the model's own does not (normalisation, a space put in front),
    or is not known here, the longest tokens are taken.
    """

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, encode: Encode | None) -> None:
        self.tokens = vocabulary.tokens
        self.special_token_ids = vocabulary.special_ids
        self.eos_token_id = vocabulary.eos_ids[0] if vocabulary.eos_ids else None
        self.greedy: Encode = lambda text: []
        self._encode = encode

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TypeError("text is given as str")  # tells the engine's own wrapper to do so
        if self._encode is not None:
            ids = self._encode(text)
            if b"".join(self.tokens[token_id] for token_id in ids) == text.encode():
                return ids
        return self.greedy(text)


def build_tokenizer(vocabulary: Vocabulary, encode: Encode | None = None) -> "LLTokenizer":
    """The engine's tokenizer; takes about a second for 150,000 tokens. `encode`: the model's own division of text."""
    from llguidance import LLTokenizer, TokenizerWrapper

    adapter = _Adapter(vocabulary, encode)
    built = LLTokenizer(TokenizerWrapper(adapter), eos_token=vocabulary.eos_ids or None)
    adapter.greedy = built.greedy_tokenize
    return built

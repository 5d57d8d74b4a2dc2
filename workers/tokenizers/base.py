"""What the rest of a worker may ask of a tokenizer. Knows no file formats and no model family."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol


class TokenizerError(ValueError):
    """A checkpoint's tokenizer cannot be used as it is; the message is one line for the operator."""


class Run(NamedTuple):
    """A stretch of prompt text. Control tokens are recognised only where their whole text lies in control runs."""

    text: str
    is_control: bool = False


class TokenKind(Enum):
    """How a token's bytes take part in the decoded text.

    TEXT: part of the running text. BYTE: one raw byte of it. SILENT: leaves no trace.
    SPECIAL: a special token inside the running text. ADDED: an added token that divides the text into chunks.
    """

    TEXT = 1
    BYTE = 2
    SILENT = 3
    SPECIAL = 4
    ADDED = 5


@dataclass(frozen=True, slots=True)
class DecodeRules:
    """How a tokenizer family puts text together again.

    joiner: stands between a chunk and an ADDED token, and between two of those.
    drops_chunk_space: the first TEXT token of a chunk loses one leading space.
    drops_run_space: so does the first one of each run of text between SPECIAL tokens.
    special_space: a SPECIAL token is set off from what precedes it by a space ("always", "inner": not first, "never").
    cleans_chunks, cleans_text: English clean-up (` .` -> `.` ...) of each chunk, of the whole.
    replaces_each_byte: one U+FFFD a broken byte, not one a broken sequence.
    """

    joiner: str = ""
    drops_chunk_space: bool = False
    drops_run_space: bool = False
    special_space: str = "never"
    cleans_chunks: bool = False
    cleans_text: bool = False
    replaces_each_byte: bool = False


class Tokenizer(Protocol):
    """Text to ids and back. No plain run ever yields one of `control_ids`; decoding may skip `special_ids`.

    vocab_size: ids are below it. encode_runs puts BOS in front by itself where the checkpoint wants it.
    """

    vocab_size: int
    bos_token_id: int | None
    eos_token_id: int | None
    control_ids: frozenset[int]
    special_ids: frozenset[int]
    decode_rules: DecodeRules

    def encode_runs(self, runs: Sequence[Run]) -> list[int]:
        """Ids of the runs read as one text, with BOS in front where the checkpoint asks for it."""
        ...

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Ids of one text, all control or all plain."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of the ids as the reference decodes them; ids beyond the vocabulary are passed over."""
        ...

    def token_text(self, token_id: int) -> str:
        """A single token for people to read: U+FFFD stands for bytes that are no character by themselves."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that a token stands for; those of its name for a control token."""
        ...

    def token_kind(self, token_id: int) -> TokenKind:
        """How the token takes part in decoding."""
        ...

    def token_id(self, text: str) -> int | None:
        """The id whose token is exactly `text` (added tokens first), or None."""
        ...

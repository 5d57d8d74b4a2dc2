"""Token ids to text while they come: each call returns what no later token can change any more.

The pieces joined equal `tokenizer.decode` of all ids, and depend on the ids alone, not on how they were cut into calls:
a worker that replays a sequence emits the same text. One exception: with special tokens kept, some references put the
space that belongs to a special token in front of the text before it; here it stands directly before the token.
"""

from collections.abc import Iterable, Set

from workers.tokenizers.base import DecodeRules, Tokenizer, TokenKind
from workers.tokenizers.cleanup import CleanUpStream
from workers.tokenizers.utf8 import Utf8Stream


class Detokenizer:
    """The text of one sequence. Work per token does not grow with the sequence."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        skip_special_tokens: bool,
        is_verbatim: bool = False,
        shown_ids: Set[int] = frozenset(),
    ) -> None:
        """is_verbatim: the tokens' bytes as they are, without the spaces and the clean-up of the family's decoding.
        shown_ids: special tokens that are not skipped."""
        self._tokenizer = tokenizer
        self._rules = DecodeRules() if is_verbatim else tokenizer.decode_rules
        self._skipped = tokenizer.special_ids - shown_ids if skip_special_tokens else frozenset()
        self._bytes = Utf8Stream(self._rules.replaces_each_byte)
        self._chunk_clean_up = CleanUpStream() if self._rules.cleans_chunks else None
        self._clean_up = CleanUpStream() if self._rules.cleans_text else None
        self._has_output = False
        self._begin_chunk()

    def append(self, ids: Iterable[int]) -> str:
        """Take the next ids; returns the newly stable text, often with a delay of a token, never with a broken end."""
        text = "".join([self._one(token_id) for token_id in ids if token_id not in self._skipped])
        return self._clean_up.push(text) if self._clean_up else text

    def finish(self) -> str:
        """The text still held back. An unfinished character comes out as U+FFFD. Nothing may be appended afterwards."""
        text = self._end_chunk()
        if self._chunk_is_used and not self._chunk_has_text and self._has_output:
            text += self._rules.joiner
        return self._clean_up.push(text) + self._clean_up.flush() if self._clean_up else text

    def _one(self, token_id: int) -> str:
        kind = self._tokenizer.token_kind(token_id)
        data = self._tokenizer.token_bytes(token_id)
        if kind is TokenKind.ADDED:
            text = self._end_chunk() + (self._rules.joiner if self._has_output else "")
            self._has_output = True
            self._begin_chunk()
            return text + data.decode()
        if not data:
            return ""
        if kind is TokenKind.SPECIAL:
            text = self._special(data)
        elif kind is TokenKind.SILENT:
            text = self._bytes.flush()
        elif kind is TokenKind.TEXT:
            text = self._bytes.push(self._without_first_spaces(data))
        else:
            text = self._bytes.push(data)
            self._run_is_new = False
        self._chunk_is_used = True
        self._after_special = kind is TokenKind.SPECIAL
        return self._emit(text)

    def _special(self, data: bytes) -> str:
        inner = self._rules.special_space == "inner" and self._chunk_is_used
        has_space = (inner or self._rules.special_space == "always") and not self._after_special
        self._run_is_new = True
        return self._bytes.flush() + (" " if has_space else "") + data.decode()

    def _without_first_spaces(self, data: bytes) -> bytes:
        if self._rules.drops_chunk_space and not self._chunk_is_used:
            data = data.removeprefix(b" ")
        if self._rules.drops_run_space and self._run_is_new and data:
            data = data.removeprefix(b" ")
            self._run_is_new = False
        return data

    def _begin_chunk(self) -> None:
        self._chunk_is_used = False
        self._chunk_has_text = False
        self._run_is_new = True
        self._after_special = False

    def _end_chunk(self) -> str:
        text = self._emit(self._bytes.flush())
        return text + self._chunk_clean_up.flush() if self._chunk_clean_up else text

    def _emit(self, text: str) -> str:
        """Text of the current chunk: cleaned up, and joined to what came before at its first character."""
        if not text:
            return ""
        joiner = self._rules.joiner if self._has_output and not self._chunk_has_text else ""
        self._chunk_has_text = True
        self._has_output = True
        return joiner + (self._chunk_clean_up.push(text) if self._chunk_clean_up else text)

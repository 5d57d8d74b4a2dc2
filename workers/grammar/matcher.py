"""One answer under a grammar: which tokens may follow, and whether the text is whole."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from schemas.errors import EngineError, ErrorCode, RequestError
from workers.grammar.compiling import GrammarError, check

if TYPE_CHECKING:
    from llguidance import LLMatcher


class Matcher:
    """Made by `CompiledGrammar.start`. Not thread-safe, but any thread may use it.

    It only goes forward. At the end of the grammar only tokens that end an answer may follow.
    """

    def __init__(self, matcher: "LLMatcher", vocab_size: int, avoided_ids: Collection[int], param: str | None) -> None:
        """avoided_ids: tokens that are not to be chosen as long as the grammar allows others."""
        self._matcher = matcher
        self._avoided_ids = np.array(sorted(avoided_ids), dtype=np.int64)
        self._param = param
        self.num_words = -(-vocab_size // 32)

    def fill(self, bits: np.ndarray, banned_ids: Collection[int] = ()) -> None:
        """Set the bits of the tokens that may follow in int32 [num_words], bit i % 32 of word i // 32 for token i.

        banned_ids: not to be chosen either, as long as others are allowed. A grammar that fails here says so when it is
        to `advance`.
        """
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        for ids in (self._avoided_ids, np.array(sorted(banned_ids), dtype=np.int64)):
            if len(ids):
                left = bits.view(np.uint32).copy()
                np.bitwise_and.at(left, ids >> 5, ~(np.uint32(1) << (ids & 31).astype(np.uint32)))
                if left.any():
                    bits[:] = left.view(np.int32)

    def advance(self, token_id: int) -> bool:
        """Take the token that was chosen. Returns whether the text is whole and nothing can follow.

        Raises RequestError where the grammar has turned out to be too complex, or comes to no text.
        """
        try:
            # A matcher that has failed takes an end of the answer as if it were allowed.
            check(self._matcher)
            self._matcher.consume_token(token_id)
            check(self._matcher)
        except GrammarError as error:
            where = f" for '{self._param}'" if self._param else ""
            message = f"Invalid value{where}: the answer cannot go on: {error}."
            raise RequestError(ErrorCode.INVALID_VALUE, message, self._param) from None
        return self._matcher.is_stopped()

    def replay(self, token_ids: Sequence[int]) -> None:
        """Take what another worker has chosen. Raises EngineError where that does not keep to the grammar."""
        if token_ids and not self._matcher.consume_tokens(list(token_ids)):
            raise EngineError("The answer so far does not keep to the request's grammar.")

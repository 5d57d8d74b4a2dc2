"""One choice's text as its tokens come in: detokenised, cut at stop strings. A pure function of the ids so far, so that
a worker that takes a job over gets to the same place by pushing what was emitted before."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from schemas.sampling import SamplingParams
from workers.engine.detokenizer import Detokenizer
from workers.prompts.stops import StopMatcher
from workers.tokenizers.base import Tokenizer


@dataclass(frozen=True, slots=True)
class Piece:
    """What some new tokens brought: text that is stable now, and how many of the tokens belong to the answer (fewer
    than were pushed when a stop string ended it). `stop_string` is the one that did."""

    text: str
    num_tokens: int
    stop_string: str | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string ended the answer."""
        return self.stop_string is not None


class ReplyText:
    """The text of one choice. `stop_token_ids` end it without leaving a trace in the text.

    is_stripped: white space around the whole answer is dropped, as the family's reference does.
    shown_ids: special tokens that stay in the text also where such are skipped.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        sampling: SamplingParams,
        stop_token_ids: Set[int],
        is_stripped: bool,
        shown_ids: Set[int] = frozenset(),
    ) -> None:
        # A grammar is about the tokens' bytes: whatever decoding made of them could break it. Marks are those of calls,
        # whose arguments are no prose to be cleaned up.
        is_verbatim = sampling.grammar is not None or bool(shown_ids)
        self._detokenizer = Detokenizer(tokenizer, sampling.skip_special_tokens, is_verbatim, shown_ids)
        self._stops = StopMatcher(sampling.stop, sampling.include_stop_str_in_output)
        self._stop_token_ids = stop_token_ids
        self._is_stripped = is_stripped and sampling.grammar is None
        self._is_at_start = True
        self._held_space = ""

    def push(self, token_ids: Sequence[int]) -> Piece:
        """Take in new tokens; those behind a completed stop string are left over."""
        text = ""
        for count, token_id in enumerate(token_ids, start=1):
            if token_id in self._stop_token_ids:
                continue
            stable, matched = self._stops.push(self._detokenizer.append([token_id]))
            text += self._strip(stable)
            if matched is not None:
                return Piece(text, count, matched)
        return Piece(text, len(token_ids))

    def finish(self) -> str:
        """What was held back and is text after all, now that no token follows."""
        stable, matched = self._stops.push(self._detokenizer.finish())
        return self._strip(stable if matched is not None else stable + self._stops.flush())

    def _strip(self, text: str) -> str:
        """Hold white space back until something follows it; at the start of the answer, for good."""
        if not self._is_stripped or not text:
            return text
        text = self._held_space + text
        if self._is_at_start:
            text = text.lstrip()
        kept = text.rstrip()
        self._held_space = text[len(kept) :]
        self._is_at_start = self._is_at_start and not kept
        return kept

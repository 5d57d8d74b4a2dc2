"""The grammars of one model: tried out in a process of their own, compiled, and kept for the next request."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.errors import ErrorCode, RequestError
from schemas.sampling import Grammar
from workers.grammar.checker import Checker
from workers.grammar.compiling import GrammarError, TrialFailed, open_matcher
from workers.grammar.matcher import Matcher
from workers.grammar.vocabulary import build_tokenizer, plain_encoder, read_vocabulary
from workers.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_GRAMMARS = 128
MAX_SOURCE_BYTES = 1 << 19
"""Of all sources kept together; what is compiled takes up to a hundred times as much."""

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class CompiledGrammar:
    """A grammar before its first token; each answer starts with a copy."""

    matcher: "LLMatcher"
    vocab_size: int
    eos_ids: frozenset[int]
    param: str | None

    def start(self, ignore_eos: bool, emitted: Sequence[int] = ()) -> Matcher:
        """The grammar behind the tokens that an answer has already. Raises EngineError where they break it."""
        avoided: Collection[int] = self.eos_ids if ignore_eos else ()
        matcher = Matcher(self.matcher.deep_copy(), self.vocab_size, avoided, self.param)
        matcher.replay(emitted)
        return matcher


class GrammarLibrary:
    """Nothing is loaded and no process runs before the first grammar is asked for."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: frozenset[int]) -> None:
        """vocab_size: logits of the model. eos_ids: the model's own ends of an answer."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._opening = asyncio.Lock()
        self._checker: Checker | None = None
        self._engine_tokenizer: LLTokenizer | None = None
        # The matcher, or why there is none; the least recently used first.
        self._known: OrderedDict[_Key, LLMatcher | GrammarError] = OrderedDict()
        self._known_bytes = 0

    async def open(self, grammar: Grammar, tenant: str) -> CompiledGrammar:
        """Compile a grammar, or find it; kept per tenant, so that nobody can tell what others use.

        Raises RequestError that names the grammar's field.
        """
        key = (grammar.kind, grammar.source, tenant)
        found = self._known.get(key)
        if found is None:
            found = await self._compile_once(key, grammar)
        else:
            self._known.move_to_end(key)
        if isinstance(found, GrammarError):
            where = f"'{grammar.param}'" if grammar.param else "the grammar"
            message = f"Invalid value for {where}: {found}."
            raise RequestError(ErrorCode.INVALID_VALUE, message, grammar.param or None)
        return CompiledGrammar(found, self._vocab_size, self._eos_ids, grammar.param or None)

    async def close(self) -> None:
        """End the process that tries grammars out."""
        if self._checker is not None:
            await self._checker.close()

    async def _compile_once(self, key: _Key, grammar: Grammar) -> "LLMatcher | GrammarError":
        """Requests that come with the same grammar at a time compile it once."""
        async with self._opening:
            found = self._known.get(key)
            if found is None:
                found = await self._compile(grammar)
                if not isinstance(found, TrialFailed):
                    self._known[key] = found
                    self._known_bytes += len(grammar.source)
                    self._drop_oldest()
            return found

    async def _compile(self, grammar: Grammar) -> "LLMatcher | GrammarError":
        if self._checker is None or self._engine_tokenizer is None:
            vocabulary = await asyncio.to_thread(read_vocabulary, self._tokenizer, self._vocab_size, self._eos_ids)
            self._engine_tokenizer = await asyncio.to_thread(
                build_tokenizer, vocabulary, plain_encoder(self._tokenizer)
            )
            self._checker = Checker(vocabulary)
        try:
            translated = await self._checker.translate(grammar)
            matcher = await asyncio.to_thread(open_matcher, self._engine_tokenizer, translated)
            # Copies begin with what this has found out.
            await asyncio.to_thread(matcher.compute_bitmask)
            return matcher
        except GrammarError as error:
            return error

    def _drop_oldest(self) -> None:
        while len(self._known) > MAX_GRAMMARS or self._known_bytes > MAX_SOURCE_BYTES:
            oldest, _ = self._known.popitem(last=False)
            self._known_bytes -= len(oldest[1])

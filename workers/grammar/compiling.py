"""A grammar's source to a matcher, within limits, and a first walk through it that finds out what it costs.

Compiling is lazy: most of a grammar's cost shows only as tokens come. So a new grammar is tried out before it is used.
"""

import json
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.sampling import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

JSON_WHITESPACE = r"(?: |\r?\n[ \t]{0,40})"
"""Between the tokens of JSON: nothing, a space, or a new line with its indentation. Without a bound a small model may
write white space until its answer is cut off."""

# What a schema says of these itself, in the engine's own keyword, must not loosen the answer.
_JSON_OPTIONS: Any = {
    "whitespace_pattern": JSON_WHITESPACE,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
}
_PROBE_STEPS = 24
_MAX_STEP_S = 0.5
_MAX_REASON_CHARS = 200
_REASONS = {"NoExtensionBias": "no text can conform to it"}


class GrammarError(Exception):
    """A grammar cannot be used. The message is for the client: a phrase without a full stop."""


class TrialFailed(GrammarError):
    """A grammar whose trial came to no end in the limits: too complex, but perhaps only for the machine's load."""


def translate(grammar: Grammar) -> str:
    """The source in the engine's own language. Raises GrammarError; may take long for a hostile source."""
    from llguidance import LLMatcher, regex_to_lark
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        match grammar.kind:
            case "json_object":
                return LLMatcher.grammar_from_json_schema('{"type": "object"}', overrides=_JSON_OPTIONS)
            case "json_schema":
                return LLMatcher.grammar_from_json_schema(grammar.source, overrides=_JSON_OPTIONS)
            case "regex":
                # \d and \w are ASCII, as in the patterns of JSON schemas: of the rest, dialects think differently.
                return LLMatcher.grammar_from_lark(f"start: /{regex_to_lark(grammar.source, 'dw')}/")
            case "choice":
                texts = [json.dumps(text, ensure_ascii=False) for text in json.loads(grammar.source)]
                return LLMatcher.grammar_from_lark("start: " + " | ".join(texts))
            case "lark":
                return LLMatcher.grammar_from_lark(any_to_lark(grammar.source))
    except Exception as error:  # the library's translator of GBNF raises bare Exception
        raise GrammarError(_reason(str(error))) from None


def open_matcher(tokenizer: "LLTokenizer", translated: str) -> "LLMatcher":
    """A matcher before its first token. Raises GrammarError."""
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, translated, log_level=0, limits=_limits())
    check(matcher)
    return matcher


def check(matcher: "LLMatcher") -> None:
    """Raises GrammarError where the matcher has failed; it stays so for good."""
    if matcher.is_error():
        raise GrammarError(_reason(matcher.get_error()))


def probe(matcher: "LLMatcher", eos_ids: Collection[int]) -> None:
    """Walk some steps into the grammar along the first, the middle and the last of the tokens that it allows.

    Raises GrammarError where that comes to no text, or takes the engine too long.
    """
    for share in (0.0, 0.5, 1.0):
        walker = matcher.deep_copy()
        for _ in range(_PROBE_STEPS):
            start_s = time.thread_time()
            mask = np.frombuffer(walker.compute_bitmask(), np.uint8)
            check(walker)
            allowed = np.setdiff1d(np.flatnonzero(np.unpackbits(mask, bitorder="little")), list(eos_ids))
            if len(allowed) == 0:
                break
            walker.consume_token(int(allowed[int(share * (len(allowed) - 1))]))
            check(walker)
            if time.thread_time() - start_s > _MAX_STEP_S:
                raise GrammarError("it is too complex")
            if walker.is_stopped():
                break


def _limits() -> "LLParserLimits":
    """What one step of an answer may cost: an engine's step waits for it. About 0.3 s at worst, 0.1 ms as a rule."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=50_000,
        step_max_items=10_000,
        max_lexer_states=20_000,
        max_grammar_size=25_000,
        verbose_errors=False,
    )


def _reason(error: str) -> str:
    """The line of the engine's message that says what is wrong, as short printable ASCII: it may repeat what the client
    wrote."""
    lines = error.strip().splitlines() or [""]
    line = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    return _REASONS.get(line) or ascii(line[:_MAX_REASON_CHARS])[1:-1].rstrip(" .:") or "it cannot be compiled"

"""A request's bad words as the tokens that would write them."""

from collections.abc import Iterator, Sequence, Set

from schemas.errors import ErrorCode, RequestError
from workers.engine.bad_words import BadWords
from workers.tokenizers.base import Tokenizer


def bad_words_of(words: Sequence[str], tokenizer: Tokenizer, vocab_size: int, stop_ids: Set[int]) -> BadWords:
    """The words as token ids below `vocab_size`, each with and without a space in front.

    stop_ids: what may be forbidden besides. Raises RequestError where nothing would be left to choose.
    """
    forms = {form for word in words for form in _forms(word.lstrip(" "), tokenizer) if form and max(form) < vocab_size}
    found = BadWords(sorted(forms))
    if len(found.last_ids | stop_ids) >= vocab_size:
        message = "Invalid value for 'bad_words': with them the model could choose no token at all."
        raise RequestError(ErrorCode.INVALID_VALUE, message, "bad_words")
    return found


def _forms(word: str, tokenizer: Tokenizer) -> Iterator[tuple[int, ...]]:
    """How the tokenizer writes a word at the start of a text and, without the mark that some put there, inside one."""
    for before in ("", "\n"):
        head = tokenizer.encode(before, parse_special=False)
        for text in (word, " " + word):
            ids = tokenizer.encode(before + text, parse_special=False)
            if ids[: len(head)] == head:
                yield tuple(ids[len(head) :])

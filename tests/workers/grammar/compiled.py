"""Grammars over the demo model's tokens and the goldens', compiled without the process that tries them out, and random
walks through them."""

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import workers.demo
from schemas.sampling import Grammar
from workers.grammar.compiling import open_matcher, translate
from workers.grammar.library import CompiledGrammar
from workers.grammar.vocabulary import build_tokenizer, plain_encoder, read_vocabulary
from workers.tokenizers.base import Tokenizer
from workers.tokenizers.load import load_tokenizer

DEMO = Path(workers.demo.__path__[0]) / "checkpoint"
GOLDENS = Path(__file__).parents[2] / "goldens"


def checkpoint(name: str) -> Path:
    return DEMO if name == "demo" else GOLDENS / name / "checkpoint"


@cache
def tokenizer(name: str = "demo") -> Tokenizer:
    return load_tokenizer(checkpoint(name))


def eos_ids(name: str = "demo") -> frozenset[int]:
    return frozenset({tokenizer(name).eos_token_id or 0})


@cache
def _engine_tokenizer(name: str) -> Any:
    mine = tokenizer(name)
    return build_tokenizer(read_vocabulary(mine, mine.vocab_size, eos_ids(name)), plain_encoder(mine))


def compiled(kind: Any, source: object = "", name: str = "demo") -> CompiledGrammar:
    """A grammar; `source` that is no text is written as JSON. Raises GrammarError."""
    text = source if isinstance(source, str) else json.dumps(source)
    matcher = open_matcher(_engine_tokenizer(name), translate(Grammar(kind, text)))
    return CompiledGrammar(matcher, tokenizer(name).vocab_size, eos_ids(name), "guided")


def allowed(matcher: Any, banned: tuple[int, ...] = ()) -> list[int]:
    """The tokens that may follow."""
    bits = np.zeros(matcher.num_words, dtype=np.int32)
    matcher.fill(bits, banned)
    return np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist()


def walk(
    grammar: CompiledGrammar, pick: Callable[[list[int]], int], most: int, name: str = "demo"
) -> tuple[list[int], bool]:
    """Tokens picked until the text is whole, without the end that was picked; and whether it came to be whole."""
    matcher = grammar.start(ignore_eos=False)
    ids: list[int] = []
    for _ in range(most):
        token_id = pick(allowed(matcher))
        is_whole = matcher.advance(token_id)
        if token_id not in eos_ids(name):
            ids.append(token_id)
        if is_whole:
            return ids, True
    return ids, False


def closing(chosen: random.Random, name: str = "demo") -> Callable[[list[int]], int]:
    """Picks at random, but takes what closes a text more and more often, so that walks come to an end."""
    mine = tokenizer(name)
    closers = {b'"', b"}", b"]", b":", b"0", b"1", b"e", b"E"}
    taken = 0

    def pick(tokens: list[int]) -> int:
        nonlocal taken
        taken += 1
        ends = [token_id for token_id in tokens if token_id in eos_ids(name)]
        if ends and chosen.random() < 0.5:
            return ends[0]
        closing_tokens = [token_id for token_id in tokens if mine.token_bytes(token_id)[:1] in closers]
        if closing_tokens and chosen.random() < taken / 100:
            return chosen.choice(closing_tokens)
        return chosen.choice(tokens)

    return pick


def text_of(ids: list[int], name: str = "demo") -> str:
    """The bytes of the tokens as text."""
    return b"".join(map(tokenizer(name).token_bytes, ids)).decode()

"""How a request wants its tokens chosen. Ranges are checked once, at the gateway; a worker trusts these values."""

from typing import Literal

import msgspec


class Grammar(msgspec.Struct, frozen=True):
    """What the text of an answer must conform to, whatever else is sampled.

    source: a JSON schema, a regular expression or a Lark grammar; a JSON list of strings for "choice"; empty for
    "json_object". The gateway has checked its size, not its meaning: a worker compiles it and may refuse it.
    param: its path in the client's body, for errors.
    """

    kind: Literal["json_object", "json_schema", "regex", "choice", "lark"]
    source: str = ""
    param: str = ""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request's sampling. `None` means: the model's own default (its generation_config), resolved by the worker.

    max_tokens: tokens to generate at most; None = what is left of the context.
    seed: always set by the gateway (drawn when the client gives none), so that a resumed job repeats its draws.
    bad_words: texts that the answer must not contain, as the worker's tokenizer writes them.
    top_logprobs: how many alternatives to report at each position (0..20); only read when `logprobs` is true.
    prompt_logprobs: the same for the tokens of the prompt; None: none are wanted.
    """

    seed: int
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    bad_words: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None

"""A request's sampling with the model's own defaults filled in (its generation_config.json, or OpenAI's)."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from schemas.sampling import SamplingParams
from workers.engine.bad_words import BadWords
from workers.engine.sampling import Sampling

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What holds where a request is silent. OpenAI's values unless the checkpoint says otherwise."""

    stop_token_ids: frozenset[int]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0

    def resolve(self, asked: SamplingParams, seed: int, bad_words: BadWords | None = None) -> Sampling:
        """What the engine runs with. `ignore_eos` drops every stop id, also those that the request names.

        bad_words: those asked for, as tokens.
        """
        stops = self.stop_token_ids | frozenset(asked.stop_token_ids)
        return Sampling(
            seed=seed,
            temperature=_either(asked.temperature, self.temperature),
            top_p=_either(asked.top_p, self.top_p),
            top_k=max(0, _either(asked.top_k, self.top_k)),
            min_p=_either(asked.min_p, self.min_p),
            repetition_penalty=_either(asked.repetition_penalty, self.repetition_penalty),
            presence_penalty=asked.presence_penalty,
            frequency_penalty=asked.frequency_penalty,
            logit_bias=asked.logit_bias,
            bad_words=bad_words,
            min_tokens=_either(asked.min_tokens, self.min_tokens),
            stop_token_ids=frozenset() if asked.ignore_eos else stops,
            num_logprobs=asked.top_logprobs if asked.logprobs else None,
        )


def read_sampling_defaults(folder: Path, defaults: SamplingDefaults) -> SamplingDefaults:
    """`defaults` with what a checkpoint's generation_config.json says instead.

    `do_sample: false` says greedy only where the file says it: transformers' own default is not an author's wish.
    """
    path = folder / "generation_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    temperature = config.get("temperature")
    if config.get("do_sample") is False:
        temperature = 0.0
    return replace(
        defaults,
        temperature=float(_either(temperature, defaults.temperature)),
        top_p=float(_either(config.get("top_p"), defaults.top_p)),
        top_k=int(_either(config.get("top_k"), defaults.top_k)),
        min_p=float(_either(config.get("min_p"), defaults.min_p)),
        repetition_penalty=float(_either(config.get("repetition_penalty"), defaults.repetition_penalty)),
        min_tokens=int(_either(config.get("min_new_tokens"), defaults.min_tokens)),
    )


def _either(value: T | None, default: T) -> T:
    return default if value is None else value

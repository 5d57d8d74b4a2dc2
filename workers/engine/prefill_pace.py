"""How many tokens of prompts a step takes beside the sequences that decode, so that these get on. Knows no clock.

On a CPU a step takes as long as its tokens are many. Time is shared as between equals: where one prompt is under way
beside four sequences that decode, a step may take a quarter longer than theirs alone does. The more decode, the more
end and are followed by new prompts, and the more seats would stay empty: where eight do, prompts may take as long as
these, and where sixteen do, four times as long. What a token of a prompt costs is learned from the steps: it grows
with what lies before it, and differs a hundredfold between models.
"""

MIN_TOKENS = 16
"""Fewer would leave much of a product's work undone, and prompts would hardly get on."""
UNKNOWN_TOKENS = 64
"""Most in a step as long as it is not known what they cost, where few decode."""
MOST_SHARE = 4.0
EVEN_DECODES = 8
"""Where so many decode, prompts may take as much time as they."""
_WEIGHT = 0.125
"""Of the newest step in an average."""


class PrefillPace:
    """Learns in `note` and tells in `limit`.

    per_decode: most tokens for each sequence that decodes, whatever they cost, but for UNKNOWN_TOKENS in all.
    """

    def __init__(self, per_decode: int) -> None:
        self._per_decode = per_decode
        # By the number of binary digits of the number that decodes: nearly the same from one to the next.
        self._decode_s: dict[int, float] = {}
        self._token_s: float | None = None

    def share(self, num_decodes: int, num_prompts: int) -> float:
        """What `num_prompts` sequences without a first token may cost the `num_decodes` that decode, as a part of the
        time of their steps."""
        return min(max((num_decodes / EVEN_DECODES) ** 2, num_prompts / num_decodes), MOST_SHARE)

    def limit(self, num_decodes: int, share: float) -> int:
        """Most tokens of prompts in a step in which so many sequences decode, to take such a part of its time."""
        most = max(UNKNOWN_TOKENS, self._per_decode * num_decodes)
        if not self._decode_s or not self._token_s:
            return most
        size = num_decodes.bit_length()
        decode_s = self._decode_s[min(self._decode_s, key=lambda known: abs(known - size))]
        return max(MIN_TOKENS, min(most, int(share * decode_s / self._token_s)))

    def note(self, num_decodes: int, num_tokens: int, step_s: float) -> None:
        """A step of `num_decodes` decoding sequences and `num_tokens` tokens of prompts took so much processor time."""
        size = num_decodes.bit_length()
        if num_tokens == 0:
            self._decode_s[size] = _average(self._decode_s.get(size), step_s)
        elif size in self._decode_s:
            self._token_s = _average(self._token_s, max(0.0, step_s - self._decode_s[size]) / num_tokens)


def _average(before: float | None, now: float) -> float:
    return now if before is None else before + _WEIGHT * (now - before)

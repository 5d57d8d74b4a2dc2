"""BERT's uncased WordPiece over a `vocab.txt`, for models that read an instruction with a BERT of their own."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from workers.tokenizers.added import without_surrogates
from workers.tokenizers.base import TokenizerError

_START, _END, _UNKNOWN = "[CLS]", "[SEP]", "[UNK]"


class WordPieceTokenizer:
    """Text to ids between [CLS] and [SEP]. Text never yields these two, whatever is written in it."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """vocabulary: the tokens by id. Raises TokenizerError when one of BERT's own is missing."""
        ids = {token: token_id for token_id, token in enumerate(vocabulary)}
        missing = [token for token in (_START, _END, _UNKNOWN) if token not in ids]
        if missing:
            raise TokenizerError(f"vocab.txt has no {missing[0]} token")
        self._start_id, self._end_id = ids[_START], ids[_END]
        self._tokenizer = Tokenizer(WordPiece(ids, unk_token=_UNKNOWN, max_input_chars_per_word=100))
        self._tokenizer.normalizer = BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = BertPreTokenizer()

    def encode(self, text: str, max_tokens: int) -> tuple[int, ...]:
        """[CLS] text [SEP], the text cut so that all are at most `max_tokens`."""
        ids = self._tokenizer.encode(without_surrogates(text), add_special_tokens=False).ids
        return (self._start_id, *ids[: max_tokens - 2], self._end_id)


def load_wordpiece(path: Path) -> WordPieceTokenizer:
    """Read a `vocab.txt`, one token a line. Raises TokenizerError."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"cannot read {path.name} in {path.parent.name}: {error}") from error
    return WordPieceTokenizer([line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)])

from pathlib import Path

import pytest

from workers.tokenizers.base import TokenizerError
from workers.tokenizers.wordpiece import WordPieceTokenizer, load_wordpiece

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "look", "##ing", "cafe", "!", "日", "[", "]", "sep"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a", (5,)),
        ("Looking!", (6, 7, 9)),
        ("CAFÉ", (8,)),
        ("日日", (10, 10)),
        ("unknown a", (1, 5)),
        ("  a\t\n a ", (5, 5)),
        ("", ()),
        ("[SEP]", (11, 13, 12)),
        ("\ud800a", (5,)),
    ],
)
def test_text_becomes_berts_pieces(text: str, ids: tuple[int, ...]):
    assert WordPieceTokenizer(VOCABULARY).encode(text, 512) == (2, *ids, 3)


def test_a_long_text_is_cut_and_keeps_its_end():
    assert WordPieceTokenizer(VOCABULARY).encode("a " * 600, 512) == (2, *[5] * 510, 3)


def test_a_file_gives_ids_by_line(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("\r\n".join(VOCABULARY) + "\r\n", encoding="utf-8")
    assert load_wordpiece(tmp_path / "vocab.txt").encode("sep", 9) == (2, 13, 3)


def test_a_vocabulary_without_berts_own_tokens_is_refused(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(TokenizerError, match="CLS"):
        load_wordpiece(tmp_path / "vocab.txt")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"vocab\.txt"):
        load_wordpiece(tmp_path / "vocab.txt")

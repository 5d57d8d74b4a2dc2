"""SentencePiece tokenizers of published checkpoints: InternLM2, Llama (legacy and not), Yi, Phi-3.

They share the model format and differ in a few rules about spaces, which are data here. The rules reproduce what
the checkpoints' own slow tokenizers do under transformers 4.37, which is what the models were trained and run with.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from workers.tokenizers.added import AddedToken, AddedTokens, Segment, alternatives, cut_forged, without_surrogates
from workers.tokenizers.base import DecodeRules, Run, TokenizerError, TokenKind
from workers.tokenizers.cleanup import clean_up
from workers.tokenizers.special import TokenizerConfig

SPACE_MARK = "▁"
# Protocol buffers merge a message field that comes twice: behind a model this sets
# normalizer_spec.add_dummy_prefix = false.
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
# Pieces that steer a model though no table lists them: Yi's chat and image marks, InternLM2's spare rows.
CONTROL_PIECE = re.compile(r"<\|[^<>|]+\|>|\[UNUSED_TOKEN_\d+\]|</?img>|<IMG_CONTEXT>")


@dataclass(frozen=True, slots=True)
class SpaceRules:
    """Where a family's tokenizer puts and takes away spaces.

    marks_text: one space mark goes in front of the whole text, none in front of its segments (Llama, legacy: false).
    cleans_chunks, drops_chunk_space, special_space: see DecodeRules.
    """

    marks_text: bool
    drops_chunk_space: bool
    special_space: str
    cleans_chunks: bool


INTERNLM2 = SpaceRules(marks_text=False, drops_chunk_space=False, special_space="always", cleans_chunks=True)
LLAMA_LEGACY = SpaceRules(marks_text=False, drops_chunk_space=True, special_space="inner", cleans_chunks=False)
LLAMA = SpaceRules(marks_text=True, drops_chunk_space=True, special_space="never", cleans_chunks=False)


class SentencePieceTokenizer:
    """A Tokenizer over a `tokenizer.model` file and the checkpoint's table of added tokens."""

    def __init__(self, model_file: Path, config: TokenizerConfig, rules: SpaceRules) -> None:
        """Raises TokenizerError when the model file is missing or is no SentencePiece model."""
        model, self._unprefixed = _load(model_file)
        self._model = self._unprefixed if rules.marks_text else model
        self._rules = rules
        self._added = AddedTokens(config.complete_added(self._piece_id))
        self.vocab_size = max(self._model.piece_size(), *(token_id + 1 for token_id in self._added.by_id), 1)
        self.bos_token_id = self.token_id(config.single.get("bos_token", ""))
        self.eos_token_id = self.token_id(config.single.get("eos_token", ""))
        self._adds_bos = config.flags.get("add_bos_token", True) and self.bos_token_id is not None
        self._unk_text = config.single.get("unk_token", "<unk>")
        self._num_unk_pieces = len(self._model.encode(self._unk_text))
        self.special_ids = frozenset(i for text in config.special_texts if (i := self.token_id(text)) is not None)
        self._dividing_ids = self._find_dividing(config)
        control_pieces = _control_pieces(self._model)
        self._control_pattern = alternatives(control_pieces)
        self._control_piece_ids = frozenset(control_pieces.values())
        self.control_ids = (self._control_piece_ids | self._added.control_ids) - {self._model.unk_id()}
        self.decode_rules = DecodeRules(
            joiner=" ",
            drops_chunk_space=rules.drops_chunk_space,
            drops_run_space=self._model.encode("a") != self._unprefixed.encode("a"),
            special_space=rules.special_space,
            cleans_chunks=rules.cleans_chunks,
            cleans_text=config.flags.get("clean_up_tokenization_spaces", False),
            replaces_each_byte=True,
        )

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Ids of one text, all control or all plain."""
        return self.encode_runs([Run(text, parse_special)])

    def encode_runs(self, runs: Sequence[Run]) -> list[int]:
        """Ids of the runs read as one text, with BOS in front where the checkpoint asks for it."""
        runs = [Run(without_surrogates(run.text), run.is_control) for run in runs]
        marked = self._rules.marks_text and any(run.text for run in runs)
        if marked:
            runs = [Run(SPACE_MARK, True), *(Run(run.text.replace(SPACE_MARK, " "), run.is_control) for run in runs)]
        ids: list[int] = []
        for item in self._added.divide(runs):
            if isinstance(item, AddedToken):
                ids.append(item.id)
            else:
                ids.extend(self._encode_segment(item))
        if marked and len(ids) > 1 and ids[0] == self._piece_id(SPACE_MARK) and ids[1] in self.special_ids:
            del ids[0]
        return [self.bos_token_id, *ids] if self._adds_bos and self.bos_token_id is not None else ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of the ids as the reference decodes them; ids beyond the vocabulary are passed over."""
        texts: list[str] = []
        chunk: list[int] = []
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size or (skip_special_tokens and token_id in self.special_ids):
                continue
            if token_id not in self._dividing_ids:
                chunk.append(token_id)
                continue
            if text := self._chunk_text(chunk):
                texts.append(text)
            chunk = []
            texts.append(self._added.by_id[token_id].text)
        if chunk:
            texts.append(self._chunk_text(chunk))
        text = self.decode_rules.joiner.join(texts)
        return clean_up(text) if self.decode_rules.cleans_text else text

    def token_text(self, token_id: int) -> str:
        """A single token for people to read: U+FFFD stands for bytes that are no character by themselves."""
        return self.token_bytes(token_id).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that a token stands for; those of its name for a control token."""
        if token_id in self._added.by_id:
            return self._added.by_id[token_id].text.encode()
        if not 0 <= token_id < self._model.piece_size():
            return b""
        piece = self._model.id_to_piece(token_id)
        if self._model.is_byte(token_id):
            return bytes([int(piece[3:-1], 16)])
        return piece.replace(SPACE_MARK, " ").encode()

    def token_kind(self, token_id: int) -> TokenKind:
        """How the token takes part in decoding."""
        if token_id in self._dividing_ids:
            return TokenKind.ADDED
        if token_id in self.special_ids:
            return TokenKind.SPECIAL
        if not 0 <= token_id < self._model.piece_size() or self._model.is_control(token_id):
            return TokenKind.SILENT
        return TokenKind.BYTE if self._model.is_byte(token_id) else TokenKind.TEXT

    def token_id(self, text: str) -> int | None:
        """The id whose token is exactly `text` (added tokens first), or None."""
        token = self._added.by_text.get(text)
        return token.id if token else self._piece_id(text)

    def _piece_id(self, text: str) -> int | None:
        token_id = self._model.piece_to_id(text)
        return token_id if self._model.id_to_piece(token_id) == text else None

    def _find_dividing(self, config: TokenizerConfig) -> frozenset[int]:
        plain = {i for i, token in self._added.by_id.items() if token.text not in config.special_texts}
        ids = (self.token_id(text) for text in config.additional)
        return frozenset(plain | {i for i in ids if i is not None and i >= self._model.piece_size()})

    def _encode_segment(self, segment: Segment) -> list[int]:
        parts = cut_forged(segment, self._control_pattern)
        ids = self._encode_first(parts[0])
        for part in parts[1:]:
            ids.extend(self._unprefixed.encode(part))
        return ids if self._is_honest(ids, segment) else self._encode_by_characters(segment)

    def _encode_first(self, text: str) -> list[int]:
        # Without the dummy prefix a leading space could be lost; behind a neighbour, which is cut off again, it is not.
        if self._rules.marks_text and text.startswith((SPACE_MARK, " ")):
            return list(self._model.encode(self._unk_text + text)[self._num_unk_pieces :])
        return list(self._model.encode(text))

    def _is_honest(self, ids: list[int], segment: Segment) -> bool:
        """Whether the ids hold no more control tokens than the segment's control text does."""
        if self._control_piece_ids.isdisjoint(ids):
            return True
        return sum(token_id in self._control_piece_ids for token_id in ids) <= self._num_control(segment)

    def _num_control(self, segment: Segment) -> int:
        if self._control_pattern is None:
            return 0
        return sum(len(self._control_pattern.findall(segment.text[a:b])) for a, b in segment.control)

    def _encode_by_characters(self, segment: Segment) -> list[int]:
        """For models whose normalisation turns look-alikes into control pieces: plain text one character at a time."""
        ids: list[int] = []
        position = 0
        for start, end in (*segment.control, (len(segment.text), len(segment.text))):
            for character in segment.text[position:start]:
                ids.extend(self._unprefixed.encode(character))
            ids.extend(self._unprefixed.encode(segment.text[start:end]))
            position = end
        return ids

    def _chunk_text(self, ids: list[int]) -> str:
        """A chunk's text, as the family's slow tokenizer converts its tokens."""
        text, is_first, after_special = "", True, False
        run: list[str] = []
        for token_id in ids:
            if token_id in self.special_ids:
                if not after_special and self._has_space(is_first):
                    text += " "
                text += self._model.decode(run) + self.token_text(token_id)
                run, after_special = [], True
            else:
                piece = self._model.id_to_piece(token_id)
                if is_first and self._rules.drops_chunk_space:
                    piece = piece.removeprefix(SPACE_MARK)
                # What is left need not be a piece: then its characters, or its space marks would come out as they are.
                run.extend([piece] if self._piece_id(piece) is not None else piece)
                after_special = False
            is_first = False
        text += self._model.decode(run)
        return clean_up(text) if self._rules.cleans_chunks else text

    def _has_space(self, is_first: bool) -> bool:
        return self._rules.special_space == "always" or (self._rules.special_space == "inner" and not is_first)


def _load(model_file: Path) -> tuple[SentencePieceProcessor, SentencePieceProcessor]:
    """The model as stored, and one that puts no space mark in front of a text."""
    try:
        data = model_file.read_bytes()
        return SentencePieceProcessor(model_proto=data), SentencePieceProcessor(model_proto=data + NO_DUMMY_PREFIX)
    except OSError as error:
        raise TokenizerError(f"cannot read {model_file.name} in {model_file.parent.name}: {error.strerror}") from error
    except RuntimeError as error:
        raise TokenizerError(f"{model_file.name} in {model_file.parent.name} is no SentencePiece model") from error


def _control_pieces(model: SentencePieceProcessor) -> dict[str, int]:
    """The pieces of the vocabulary that steer the model, by text."""
    pieces = ((model.id_to_piece(token_id), token_id) for token_id in range(model.piece_size()))
    return {
        piece: token_id
        for piece, token_id in pieces
        if model.is_control(token_id) or (piece[0] in "<[" and CONTROL_PIECE.fullmatch(piece))
    }

"""What tokenizer_config.json and its neighbours say: special tokens, added tokens, flags. Knows no vocabulary."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers.tokenizers.added import AddedToken
from workers.tokenizers.base import TokenizerError

SINGLE = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """One checkpoint's tokenizer settings.

    single: text of bos_token, eos_token, ... where set. additional: texts of additional_special_tokens.
    added: the stored table of added tokens. flags: every boolean of the file.
    """

    tokenizer_class: str
    single: dict[str, str]
    additional: tuple[str, ...]
    added: tuple[AddedToken, ...]
    flags: dict[str, bool] = field(default_factory=dict)

    @property
    def special_texts(self) -> list[str]:
        """All texts that decoding treats as special."""
        return [*self.single.values(), *self.additional]

    def complete_added(self, find: Callable[[str], int | None]) -> list[AddedToken]:
        """The added tokens, with the special tokens that the table lacks but the vocabulary (`find`) knows."""
        tokens = {token.text: token for token in self.added}
        for text in self.special_texts:
            token_id = find(text)
            if text not in tokens and token_id is not None:
                tokens[text] = AddedToken(token_id, text)
        return list(tokens.values())


def read_config(folder: Path) -> TokenizerConfig:
    """Read a checkpoint folder's tokenizer settings. Raises TokenizerError for missing or malformed files."""
    config = read_json(folder / "tokenizer_config.json")
    table = config.get("added_tokens_decoder")
    if table is None and (folder / "special_tokens_map.json").is_file():
        config = {**read_json(folder / "special_tokens_map.json"), **{k: v for k, v in config.items() if v}}
    try:
        return TokenizerConfig(
            tokenizer_class=str(config.get("tokenizer_class", "")),
            single={name: _text(config[name]) for name in SINGLE if config.get(name)},
            additional=tuple(_text(token) for token in config.get("additional_special_tokens") or ()),
            added=_added_from_table(table) if table is not None else _added_from_file(folder / "added_tokens.json"),
            flags={key: value for key, value in config.items() if isinstance(value, bool)},
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"tokenizer_config.json of {folder.name} is malformed: {error!r}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises TokenizerError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TokenizerError(f"cannot read {path.name} in {path.parent.name}: {error.strerror}") from error
    except ValueError as error:
        raise TokenizerError(f"{path.name} in {path.parent.name} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path.name} in {path.parent.name} is not a JSON object")
    return value


def _text(token: Any) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _added_from_table(table: dict[str, dict[str, Any]]) -> tuple[AddedToken, ...]:
    return tuple(
        AddedToken(int(key), entry["content"], bool(entry.get("lstrip")), bool(entry.get("rstrip")))
        for key, entry in table.items()
    )


def _added_from_file(path: Path) -> tuple[AddedToken, ...]:
    if not path.is_file():
        return ()
    return tuple(AddedToken(int(token_id), text) for text, token_id in read_json(path).items())

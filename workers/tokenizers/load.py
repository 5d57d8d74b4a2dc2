"""Choose and load a checkpoint's tokenizer by the files that are in its folder. Runs no code from there."""

from pathlib import Path

from workers.tokenizers.base import Tokenizer, TokenizerError
from workers.tokenizers.byte_bpe import ByteBpeTokenizer
from workers.tokenizers.sentencepiece import INTERNLM2, LLAMA, LLAMA_LEGACY, SentencePieceTokenizer, SpaceRules
from workers.tokenizers.special import TokenizerConfig, read_config


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder. Raises TokenizerError, one clear line, when there is none that we know."""
    config = read_config(folder)
    model_file = folder / "tokenizer.model"
    if model_file.is_file():
        return SentencePieceTokenizer(model_file, config, _space_rules(config))
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return ByteBpeTokenizer.from_vocabulary(folder / "vocab.json", folder / "merges.txt", config)
    if (folder / "tokenizer.json").is_file():
        return ByteBpeTokenizer.from_tokenizer_json(folder / "tokenizer.json", config)
    raise TokenizerError(
        f"{folder.name} holds no tokenizer: need tokenizer.model, vocab.json with merges.txt, or tokenizer.json"
    )


def _space_rules(config: TokenizerConfig) -> SpaceRules:
    name = config.tokenizer_class.removesuffix("Fast")
    if name == "InternLM2Tokenizer":
        return INTERNLM2
    if name == "LlamaTokenizer":
        return LLAMA_LEGACY if config.flags.get("legacy", True) else LLAMA
    raise TokenizerError(f"tokenizer.model comes with an unknown tokenizer_class {config.tokenizer_class!r}")

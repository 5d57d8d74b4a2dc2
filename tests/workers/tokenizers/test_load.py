"""Choosing a tokenizer by the files of a checkpoint folder."""

import json
import shutil

import pytest
from tokenizers import AddedToken, Regex
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.decoders import Metaspace
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Steps
from tokenizers.processors import TemplateProcessing

from tests.workers.tokenizers.checkpoints import NAMES, checkpoint, recorded, tokenizer
from workers.tokenizers.base import TokenizerError, TokenKind
from workers.tokenizers.byte_bpe import QWEN2_WORDS
from workers.tokenizers.load import load_tokenizer

QWEN, LLAMA, INTERNLM2 = "internvl2_5-qwen2", "internvl-chat-v1-1", "internvl2-internlm2"


def copy(name, folder, without=(), **changes):
    """A checkpoint's tokenizer files in `folder`, tokenizer_config.json changed: None removes a key."""
    for path in checkpoint(name).iterdir():
        if path.name not in without and path.suffix != ".safetensors":
            shutil.copy(path, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config = {key: value for key, value in {**config, **changes}.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_tokenizer_json(folder, decoder):
    source = checkpoint(QWEN)
    library = LibraryTokenizer(BPE.from_file(str(source / "vocab.json"), str(source / "merges.txt")))
    library.normalizer = NFC()
    library.pre_tokenizer = Steps(
        [Split(Regex(QWEN2_WORDS), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    library.decoder = decoder
    table = json.loads((source / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    library.add_tokens([AddedToken(e["content"], normalized=False, special=e["special"]) for e in table.values()])
    start = library.token_to_id("<|im_start|>")
    library.post_processor = TemplateProcessing("<|im_start|> $A", None, [("<|im_start|>", start)])
    library.save(str(folder / "tokenizer.json"))
    shutil.copy(source / "tokenizer_config.json", folder)
    return folder


def test_byte_level_tokenizer_json_gives_the_same_ids_behind_its_bos(tmp_path):
    subject = load_tokenizer(write_tokenizer_json(tmp_path, ByteLevelDecoder()))
    for probe in recorded(QWEN)["tokenizer_probes"]["encode"]:
        assert subject.encode(probe["text"], parse_special=True) == [901, *probe["input_ids"]]
    for probe in recorded(QWEN)["tokenizer_probes"]["decode"]:
        assert subject.decode(probe["ids"], skip_special_tokens=True) == probe["text"]
    assert subject.control_ids.isdisjoint(subject.encode("<|im_end|><tool_call>", parse_special=False)[1:])


def test_other_kinds_of_tokenizer_json_are_refused(tmp_path):
    with pytest.raises(TokenizerError, match="not byte-level"):
        load_tokenizer(write_tokenizer_json(tmp_path, Metaspace()))


def test_checkpoints_without_added_token_table_use_the_older_files(tmp_path):
    subject = load_tokenizer(copy(INTERNLM2, tmp_path, added_tokens_decoder=None, additional_special_tokens=None))
    for probe in recorded(INTERNLM2)["tokenizer_probes"]["encode"]:
        assert subject.encode(probe["text"], parse_special=True) == probe["input_ids"]
    assert subject.special_ids == tokenizer(INTERNLM2).special_ids


def test_add_bos_token_is_honoured(tmp_path):
    subject = load_tokenizer(copy(LLAMA, tmp_path, add_bos_token=False))
    with_bos = tokenizer(LLAMA).encode("Hello", parse_special=False)
    assert subject.encode("Hello", parse_special=False) == with_bos[1:]


def test_clean_up_over_the_whole_text_is_honoured(tmp_path):
    subject = load_tokenizer(copy(LLAMA, tmp_path, clean_up_tokenization_spaces=True))
    ids = subject.encode("Is it ok ?", parse_special=False)
    assert subject.decode(ids, skip_special_tokens=True) == "Is it ok?"


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        (QWEN, ("tokenizer_config.json",), "tokenizer_config.json"),
        (QWEN, ("vocab.json",), "holds no tokenizer"),
        (INTERNLM2, ("tokenizer.model",), "holds no tokenizer"),
    ],
)
def test_missing_files_are_named(tmp_path, name, missing, message):
    copy(name, tmp_path)
    for file in missing:
        (tmp_path / file).unlink()
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        (INTERNLM2, "tokenizer.model", b"no model"),
        (INTERNLM2, "tokenizer_config.json", b"{"),
        (INTERNLM2, "tokenizer_config.json", b"[]"),
        (INTERNLM2, "tokenizer_config.json", b'{"added_tokens_decoder": {"x": 1}}'),
        (QWEN, "vocab.json", b"[1]"),
    ],
)
def test_broken_files_are_named(tmp_path, name, file, content):
    copy(name, tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(TokenizerError, match=file):
        load_tokenizer(tmp_path)


def test_an_unknown_class_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="XTokenizer"):
        load_tokenizer(copy(LLAMA, tmp_path, tokenizer_class="XTokenizer"))


@pytest.mark.parametrize("name", NAMES)
def test_every_id_has_bytes_a_text_and_its_own_name(name):
    subject = tokenizer(name)
    for token_id in range(subject.vocab_size):
        assert subject.token_text(token_id) == subject.token_bytes(token_id).decode(errors="replace")
        assert subject.token_kind(token_id) in TokenKind
    for token_id in subject.special_ids:
        assert subject.token_id(subject.token_text(token_id)) == token_id


@pytest.mark.parametrize("name", NAMES)
def test_bytes_of_plain_tokens_join_to_the_text(name):
    subject = tokenizer(name)
    text = "naïve 😀 你好\n  tab\t<b> '"
    ids = [i for i in subject.encode(text, parse_special=False) if i not in subject.special_ids]
    assert b"".join(map(subject.token_bytes, ids)).decode().removeprefix(" ") == text


@pytest.mark.parametrize("name", NAMES)
def test_ids_beyond_the_vocabulary_leave_no_trace(name):
    subject = tokenizer(name)
    ids = [i for i in subject.encode("ab", parse_special=False) if i not in subject.special_ids]
    strange = [subject.vocab_size, *ids[:1], subject.vocab_size + 7, -1, *ids[1:]]
    assert subject.decode(strange, skip_special_tokens=True) == subject.decode(ids, skip_special_tokens=True)
    assert subject.token_bytes(subject.vocab_size) == subject.token_bytes(-1) == b""
    assert subject.token_id("no such token") is None


@pytest.mark.parametrize("name", [INTERNLM2, QWEN, "internvl-chat-v1-2"])
@pytest.mark.parametrize("pattern", ["a", " ", "<|im_", "<|im_end|>", "<IMG_CONTEXT>"])
def test_long_monotonous_text_survives(name, pattern):
    text = pattern * (50_000 // len(pattern))
    subject = tokenizer(name)
    ids = subject.encode(text, parse_special=False)
    assert subject.decode(ids, skip_special_tokens=True).strip() == text.strip()

"""Backbones without a golden set against transformers' own classes on random weights."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.workers.models.dense_attention import DenseAttention
from workers.attention.base import Step
from workers.models.config import parse_decoder
from workers.models.decoder import Decoder
from workers.models.linear import can_pack, padded_rows
from workers.weights.files import CheckpointFiles
from workers.weights.rules import DECODERS, Rules
from workers.weights.sources import CheckpointSource, DummySource

SIZES = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """Random values everywhere, norms and biases too, so that nothing left out goes unseen."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(noise * parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 1 + noise / 4)
    return model.eval()


@pytest.mark.parametrize(
    ("config_class", "model_class", "extra"),
    [
        (LlamaConfig, LlamaForCausalLM, {}),
        (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "rope_theta": 500.0}),
        (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
        (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
    ],
    ids=["llama", "llama-bias", "mistral", "qwen3"],
)
def test_logits_equal_transformers(tmp_path, config_class, model_class, extra):
    config = config_class(**SIZES, **extra)
    reference = lively(model_class(config))
    save_file(reference.state_dict(), tmp_path / "model.safetensors")
    raw = config.to_dict() | {"architectures": [model_class.__name__]}
    with CheckpointFiles(tmp_path) as files:
        source = CheckpointSource(files, Rules(DECODERS[model_class.__name__]), torch.device("cpu"), torch.float32)
        decoder = Decoder(parse_decoder(raw), source, "")
        source.finish()
    ids, positions, attention = torch.arange(5, 28), torch.arange(23), DenseAttention()
    attention.layout = [("only", len(ids))]
    with torch.inference_mode():
        expected = reference(ids[None]).logits[0]
        hidden = decoder.forward(decoder.embed_tokens(ids), Step(positions, positions + 1, attention))
    torch.testing.assert_close(decoder.compute_logits(hidden), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.skipif(not can_pack(torch.float32), reason="this build of torch has no oneDNN linear")
@pytest.mark.parametrize("lengths", [(16,), (17,), (20, 13), (1, 1, 63)], ids=str)
def test_packed_layers_get_few_numbers_of_rows_and_say_the_same(lengths, monkeypatch):
    config = LlamaConfig(**SIZES | {"hidden_size": 256, "intermediate_size": 320, "vocab_size": 300})
    spec = parse_decoder(config.to_dict() | {"architectures": ["LlamaForCausalLM"]})
    source = DummySource(torch.device("cpu"), torch.float32)
    packed = Decoder(spec, source, "")
    monkeypatch.setattr("workers.models.linear.MIN_PACKED_ELEMENTS", 1 << 30)
    plain = Decoder(spec, source, "")
    ids = torch.arange(sum(lengths)) % 300
    positions = torch.cat([torch.arange(length) for length in lengths])
    found = {}
    for decoder in (packed, plain):
        attention, rows = DenseAttention(), []
        attention.layout = list(enumerate(lengths))

        def attend(layer, q, k, v, attention=attention, rows=rows):
            rows.append(len(q))
            return attention(layer, q, k, v)

        with torch.inference_mode():
            hidden = decoder.forward(decoder.embed_tokens(ids), Step(positions, positions + 1, attend))
        assert hidden.shape == (len(ids), 256)
        found[decoder] = hidden
        assert set(rows) == {padded_rows(len(ids)) if decoder is packed else len(ids)}
    torch.testing.assert_close(found[packed], found[plain], atol=1e-4, rtol=1e-4)

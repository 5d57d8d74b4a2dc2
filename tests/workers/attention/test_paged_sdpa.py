"""Paged attention against a dense twin, over shuffled pages, mixed batches and chunked prefills."""

import random

import pytest
import torch
import torch.nn.functional as F

from workers.attention import side_by_side
from workers.attention.paged_sdpa import PagedSDPA
from workers.attention.side_by_side import Copies
from workers.engine.batch import build_batch
from workers.engine.plan import Chunk
from workers.engine.sequence import Sequence
from workers.models.base import KVSpec

HEADS, KV_HEADS, DIM, LAYERS = 6, 2, 8, 2


class Dense:
    """Keeps every key and value of each sequence and attends to all of them: the slow twin."""

    def __init__(self, window: int | None = None) -> None:
        self.window = window
        self.keys: dict[tuple[int, str], torch.Tensor] = {}
        self.values: dict[tuple[int, str], torch.Tensor] = {}

    def attend(self, layer: int, name: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        for store, new in ((self.keys, k), (self.values, v)):
            store[layer, name] = torch.cat([store.get((layer, name), new[:0]), new])
        keys, values = (s[layer, name].repeat_interleave(HEADS // KV_HEADS, 1) for s in (self.keys, self.values))
        visible = torch.ones(len(q), len(keys), dtype=torch.bool).tril(len(keys) - len(q))
        if self.window is not None:
            visible = visible.triu(len(keys) - len(q) - self.window + 1)
        args = [x.transpose(0, 1) for x in (q, keys, values)]
        return F.scaled_dot_product_attention(*args, attn_mask=visible).transpose(0, 1).reshape(len(q), -1)


def random_steps(rng: random.Random, lengths: list[int], max_chunk: int) -> list[list[Chunk]]:
    """Feed sequences in random chunks, several in a step, in random page order."""
    block_size = 4
    pages = list(range(sum(n // block_size + 1 for n in lengths)))
    rng.shuffle(pages)
    seqs = []
    for i, length in enumerate(lengths):
        seq = Sequence(request_id=str(i), token_ids=list(range(length)), num_prompt_tokens=length, max_total_tokens=999)
        seq.block_table = [pages.pop() for _ in range(length // block_size + 1)]
        seqs.append(seq)
    steps = []
    while any(seq.num_uncomputed for seq in seqs):
        step = []
        for seq in seqs:
            length = min(seq.num_uncomputed, rng.choice([0, 1, 1, 2, max_chunk]))
            if length:
                step.append(Chunk(seq, seq.num_computed_tokens, length, samples=length == seq.num_uncomputed))
                seq.num_computed_tokens += length
        if step:
            steps.append(step)
    return steps


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("seed", range(6))
def test_paged_attention_equals_dense_attention(seed, window):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 60) for _ in range(7)] + [150]
    steps = random_steps(rng, lengths, max_chunk=rng.choice([3, 11, 40]))
    paged = PagedSDPA(KVSpec(LAYERS, KV_HEADS, DIM, window), 120, 4, torch.float32, torch.device("cpu"))
    dense = Dense(window)
    torch.manual_seed(seed)
    for step in steps:
        batch = build_batch(step, 4)
        paged.prepare(batch)
        order = sorted((c for c in step if c.length == 1), key=lambda c: c.start) + [c for c in step if c.length > 1]
        assert batch.token_ids.tolist() == [t for c in order for t in range(c.start, c.end)]
        assert [s.request_id for s in batch.sample_seqs] == [c.seq.request_id for c in order if c.samples]
        for layer in range(LAYERS):
            total = sum(c.length for c in step)
            q, k, v = (
                torch.randn(total, HEADS, DIM),
                torch.randn(total, KV_HEADS, DIM),
                torch.randn(total, KV_HEADS, DIM),
            )
            expected, row = [], 0
            for chunk in order:
                rows = slice(row, row + chunk.length)
                expected.append(dense.attend(layer, chunk.seq.request_id, q[rows], k[rows], v[rows]))
                row += chunk.length
            torch.testing.assert_close(paged(layer, q, k, v), torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_pages_of_a_former_owner_do_not_leak_into_a_padded_batch():
    paged = PagedSDPA(KVSpec(1, KV_HEADS, DIM), 8, 4, torch.float32, torch.device("cpu"))
    for keys, values in paged._layers:
        keys.fill_(1e4)
        values.fill_(1e4)
    steps = random_steps(random.Random(1), [1, 9], max_chunk=9)
    for step in steps:
        batch = build_batch(step, 4)
        paged.prepare(batch)
        total = sum(c.length for c in step)
        out = paged(
            0, torch.randn(total, HEADS, DIM), torch.zeros(total, KV_HEADS, DIM), torch.zeros(total, KV_HEADS, DIM)
        )
        assert torch.equal(out, torch.zeros_like(out))


def test_rows_of_no_sequence_are_answered_with_zeros_and_kept_nowhere():
    lengths, num_more = [5, 1, 9], 3
    plain, padded = (PagedSDPA(KVSpec(1, KV_HEADS, DIM), 8, 4, torch.float32, torch.device("cpu")) for _ in range(2))
    torch.manual_seed(2)
    for step in random_steps(random.Random(2), lengths, max_chunk=9):
        total = sum(c.length for c in step)
        q, k, v = (torch.randn(total + num_more, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
        for paged in (plain, padded):
            paged.prepare(build_batch(step, 4))
        expected = plain(0, q[:total], k[:total], v[:total])
        found = padded(0, q, k, v)
        assert torch.equal(found[:total], expected) and not found[total:].any()
        assert torch.equal(plain._pool, padded._pool)


def decode_steps(rng: random.Random, lengths: list[int], num_steps: int) -> list[list[Chunk]]:
    """Sequences whose prompts are computed at once, and which then decode together; some stand aside now and then."""
    pages = list(range(sum((n + num_steps) // 4 + 1 for n in lengths)))
    rng.shuffle(pages)
    seqs = []
    for number, length in enumerate(lengths):
        seq = Sequence(f"{number}", list(range(length + num_steps)), length, 999)
        seq.block_table = [pages.pop() for _ in range((length + num_steps) // 4 + 1)]
        seqs.append(seq)
    steps = [[Chunk(seq, 0, seq.num_prompt_tokens, samples=True) for seq in seqs]]
    for seq in seqs:
        seq.num_computed_tokens = seq.num_prompt_tokens
    for _ in range(num_steps):
        there = [seq for seq in seqs if rng.random() < 0.9] or seqs[:1]
        steps.append([Chunk(seq, seq.num_computed_tokens, 1, samples=True) for seq in there])
        for seq in there:
            seq.num_computed_tokens += 1
    return steps


@pytest.mark.parametrize("room_tokens", [10**6, 40, 0])
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_kept_of_long_contexts_says_what_their_pages_say(seed, window, room_tokens, monkeypatch):
    monkeypatch.setattr(side_by_side, "MIN_LAYER_BYTES", 12 * 2 * KV_HEADS * DIM * 4)
    monkeypatch.setattr(side_by_side, "GROWTH_TOKENS", 16)
    rng = random.Random(seed)
    spec = KVSpec(LAYERS, KV_HEADS, DIM, window, lower=KVSpec(1, 1, 4))  # whose bytes are not among these
    paged, by_pages = (PagedSDPA(spec, 200, 4, torch.float32, torch.device("cpu")) for _ in range(2))
    paged._copies = Copies(spec, torch.float32, room_tokens * 2 * LAYERS * KV_HEADS * DIM * 4)
    by_pages._copies = None
    torch.manual_seed(seed)
    most_kept = 0
    for number, step in enumerate(decode_steps(rng, [3, 30, 11, 12, 47, 30], num_steps=30)):
        batch = build_batch(step, 4)
        for attention in (paged, by_pages):
            attention.prepare(batch)
        total = sum(c.length for c in step)
        fails = number % 7 == 3  # A step that ends between two layers is repeated as a whole.
        for layer in (*range(LAYERS - 1), *range(LAYERS)) if fails else range(LAYERS):
            q, k, v = (torch.randn(total, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
            torch.testing.assert_close(paged(layer, q, k, v), by_pages(layer, q, k, v), atol=1e-5, rtol=1e-5)
            if fails and layer == LAYERS - 2:
                for attention in (paged, by_pages):
                    attention.prepare(batch)
        kept = paged._copies._copies.values()
        assert sum(copy.capacity for copy in kept) <= room_tokens
        most_kept = max(most_kept, len(kept))
    assert most_kept == {10**6: 6, 40: 1, 0: 0}[room_tokens]


def test_what_is_kept_belongs_to_one_sequence_whatever_pages_the_next_one_gets(monkeypatch):
    monkeypatch.setattr(side_by_side, "MIN_LAYER_BYTES", 1)
    paged = PagedSDPA(KVSpec(1, KV_HEADS, DIM), 20, 4, torch.float32, torch.device("cpu"))
    for scale in (1.0, 2.0):
        (prompt,), *decodes = decode_steps(random.Random(0), [9], num_steps=3)
        for chunk in (prompt, *(chunk for (chunk,) in decodes)):
            paged.prepare(build_batch([chunk], 4))
            k = torch.full((chunk.length, KV_HEADS, DIM), scale)
            out = paged(0, torch.ones(chunk.length, HEADS, DIM), k, k)
            torch.testing.assert_close(out, torch.full_like(out, scale))


def test_nothing_is_kept_for_the_thread_of_prompts_nor_on_another_device():
    paged = PagedSDPA(KVSpec(1, KV_HEADS, DIM), 20, 4, torch.float32, torch.device("cpu"))
    assert paged._copies is not None and paged.over_same_pages()._copies is None
    assert PagedSDPA(KVSpec(1, KV_HEADS, DIM), 20, 4, torch.float32, torch.device("meta"))._copies is None

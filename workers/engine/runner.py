"""A step's plan to logits: vision tower, packed forward, output head. Owns visual embeddings; decides nothing."""

from collections.abc import Generator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from workers.attention.base import Routes, Step
from workers.attention.paged_sdpa import PagedSDPA
from workers.engine.batch import Batch, PromptRows, build_batch
from workers.engine.embedding_store import EmbeddingStore
from workers.engine.faults import is_of_device
from workers.engine.plan import Chunk, StepPlan
from workers.engine.prompt_logprobs import ScoredToken, score_tokens
from workers.engine.sequence import MediaInput
from workers.engine.unfold import unfold_batch
from workers.models.base import EncodesInParts, EncodesInputs, VisionLanguageModel


class EncodingFailed(Exception):
    """A medium's embedding could not be made: the fault of this item, not of the device."""

    def __init__(self, key: bytes, reason: str) -> None:
        super().__init__(reason)
        self.key = key


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step computed.

    logits: float32 [R, V], of batch.sample_seqs. scored: for each of batch.prompt_rows its tokens.
    """

    batch: Batch
    logits: Tensor
    scored: list[list[ScoredToken]]


@dataclass(frozen=True, slots=True)
class _Pages:
    """Attention over a model's pages. lower: that of the stack under the backbone, in the same pages."""

    attention: PagedSDPA
    lower: PagedSDPA | None

    @property
    def block_size(self) -> int:
        return self.attention.block_size

    def again(self) -> "_Pages":
        """The same for another thread."""
        return _Pages(self.attention.over_same_pages(), self.lower and self.lower.over_same_pages())


class Runner:
    """One model with its K/V pool on one device."""

    def __init__(self, model: VisionLanguageModel, attention: PagedSDPA, lower: PagedSDPA | None = None) -> None:
        """lower: the pool of the model's lower stack, over the same pages; see `KVSpec`."""
        self._model = model
        self._pages = _Pages(attention, lower)
        self._pages_beside = self._pages.again()
        self._embeddings = EmbeddingStore()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._model.device

    @torch.inference_mode()
    def encode(self, items: Seq[MediaInput]) -> dict[bytes, Tensor]:
        """The embeddings of media by key, from the vision tower; for any thread. Raises EncodingFailed.

        The tower runs once for all tiles of one shape, whichever request they belong to; item by item for a model whose
        tower takes something else.
        """
        if isinstance(self._model, EncodesInputs):
            return {item.key: self._encode_one(self._model, item) for item in items}
        embeddings: dict[bytes, Tensor] = {}
        for _, group in groupby(items, key=lambda item: item.tiles.shape[1:]):
            embeddings |= self._encode_group(list(group))
        return embeddings

    @torch.inference_mode()
    def encode_in_parts(self, items: Seq[MediaInput]) -> Generator[None, None, dict[bytes, Tensor]]:
        """As `encode`, but tile by tile, and it yields between layers where the model can: something else may run."""
        embeddings: dict[bytes, Tensor] = {}
        for item in items:
            yield
            if isinstance(self._model, EncodesInputs) or not isinstance(self._model, EncodesInParts):
                embeddings |= self.encode([item])
            else:
                embeddings[item.key] = yield from self._encode_tile_by_tile(self._model, item)
        return embeddings

    @torch.inference_mode()
    def prefill(self, chunk: Chunk) -> None:
        """The keys and values of a chunk, beside the steps; for one thread beside theirs. Its media must be kept."""
        batch = build_batch((chunk,), self._pages.block_size)
        self._forward((chunk,), batch, self._pages_beside)

    @torch.inference_mode()
    def keep(self, embeddings: dict[bytes, Tensor]) -> None:
        """Hold embeddings for the steps to come, until a plan drops them."""
        self._embeddings.keep(embeddings)

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult | None:
        """Run a step. Returns None when the plan has nothing but encoding. Raises EncodingFailed before anything of the
        batch was computed."""
        for key in plan.drop_embeddings:
            self._embeddings.drop(key)
        if plan.encode:
            self.keep(self.encode(plan.encode))
        if not plan.chunks:
            return None
        batch = build_batch(plan.chunks, self._pages.block_size)
        hidden = self._forward(plan.chunks, batch, self._pages)
        scored = [self._score(rows, hidden) for rows in batch.prompt_rows]
        sample_rows = torch.from_numpy(batch.sample_rows).to(self._model.device)
        return StepResult(batch, self._model.compute_logits(hidden[sample_rows]), scored)

    def _encode_group(self, items: Seq[MediaInput]) -> dict[bytes, Tensor]:
        """Media whose tiles have one shape; where the tower refuses them together, one by one."""
        try:
            pixels = torch.cat([torch.from_numpy(item.tiles) for item in items]).to(self._model.device)
            parts = self._model.encode_tiles(pixels).split([len(item.tiles) for item in items])
        except Exception as error:
            if is_of_device(error, self._model.device):
                raise
            if len(items) > 1:
                return {key: found for item in items for key, found in self._encode_group([item]).items()}
            raise EncodingFailed(items[0].key, f"the vision tower cannot take this medium: {error}") from error
        return {item.key: part.flatten(0, 1) for item, part in zip(items, parts, strict=True)}

    def _encode_tile_by_tile(self, model: EncodesInParts, item: MediaInput) -> Generator[None, None, Tensor]:
        tiles: list[Tensor] = []
        try:
            for pixels in torch.from_numpy(item.tiles).split(1):
                tiles.append((yield from model.encode_in_parts(pixels.to(self._model.device))))
        except Exception as error:
            if is_of_device(error, self._model.device):
                raise
            raise EncodingFailed(item.key, f"the vision tower cannot take this medium: {error}") from error
        return torch.cat(tiles).flatten(0, 1)

    def _encode_one(self, model: EncodesInputs, item: MediaInput) -> Tensor:
        try:
            embedding = model.encode_inputs(item.tiles)
        except Exception as error:
            if is_of_device(error, self._model.device):
                raise
            raise EncodingFailed(item.key, f"the vision tower cannot take this medium: {error}") from error
        if len(embedding) != item.encoded_length:
            raise EncodingFailed(item.key, f"{len(embedding)} embeddings came for {item.encoded_length} placeholders")
        return embedding

    def _forward(self, chunks: Seq[Chunk], batch: Batch, pages: _Pages) -> Tensor:
        """The hidden states of a batch's tokens [T, H]."""
        model = self._model
        token_ids, positions, rope_lens = (
            torch.from_numpy(x).to(model.device) for x in (batch.token_ids, batch.positions, batch.rope_lens)
        )
        hidden = model.embed_tokens(token_ids)
        for rows in batch.media:
            count = rows.stop - rows.start
            hidden[rows.start : rows.stop] = self._embeddings[rows.key][rows.offset : rows.offset + count]
        pages.attention.prepare(batch)
        step = Step(positions=positions, rope_lens=rope_lens, attend=pages.attention, routes=self._routes(batch))
        if batch.grid_positions is not None:
            step.grid_positions = torch.from_numpy(batch.grid_positions).to(model.device)
        if pages.lower is not None:
            step.lower = self._lower_step(pages.lower, chunks, batch, step)
        return model.forward(hidden, step)

    def _score(self, rows: PromptRows, hidden: Tensor) -> list[ScoredToken]:
        token_ids = rows.seq.token_ids[rows.position : rows.position + rows.count]
        states = hidden[rows.start : rows.start + rows.count]
        return list(score_tokens(states, token_ids, rows.seq.num_prompt_logprobs or 0, self._model.compute_logits))

    def _lower_step(self, lower: PagedSDPA, chunks: Seq[Chunk], batch: Batch, step: Step) -> Step:
        if lower.spec.unfolding is None:
            lower.prepare(batch)
            return Step(step.positions, step.rope_lens, lower)
        unfolded = unfold_batch(chunks, self._pages.block_size, lower.spec.unfolding)
        lower.prepare(unfolded)
        positions, rows = (torch.from_numpy(x).to(self._model.device) for x in (unfolded.positions, unfolded.rows))
        return Step(positions, positions + 1, lower, rows=rows)

    def _routes(self, batch: Batch) -> Routes | None:
        if not batch.media:
            return None
        text, visual = (torch.from_numpy(rows).to(self._model.device) for rows in batch.rows_by_type())
        return Routes(text, visual)

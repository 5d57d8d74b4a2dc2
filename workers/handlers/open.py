"""Opens a checkpoint for serving: weights, tokenizer, family, engine, media; one handler that answers its jobs."""

import asyncio
import time
from pathlib import Path

from schemas.control import ModelCard
from schemas.jobs import Job
from workers.backends.cpu import keep_freed_memory, set_threads, settle_objects, share_interpreter
from workers.backends.native import NativeBackend
from workers.backends.open import free_bytes, open_backend, pick_device
from workers.backends.sizing import Asked, size_engine
from workers.families.base import Family
from workers.families.registry import open_family
from workers.grammar.library import GrammarLibrary
from workers.handlers.base import LONGEST_STEP_S, JobHandler, ModelLoadError, Publish, Stats
from workers.handlers.defaults import SamplingDefaults, read_sampling_defaults
from workers.handlers.generate import Generator
from workers.handlers.prepare import Preparer
from workers.media.pipeline import MediaPipeline, build_pipeline
from workers.models.base import ModelError
from workers.models.config import read_config
from workers.models.registry import resolve_architecture
from workers.settings import WorkerSettings
from workers.tokenizers.base import TokenizerError
from workers.tokenizers.load import load_tokenizer
from workers.weights.load import load_model, measure_model
from workers.weights.resolve import resolve_checkpoint

LONGEST_STEP_OF_CPU_S = 1800.0
"""On a slow one a large model takes minutes for one step's prompts, and more for its pictures."""


class ChatHandler:
    """Answers jobs with one model; see `JobHandler`. device_type: where it computes."""

    def __init__(
        self,
        card: ModelCard,
        generator: Generator,
        grammars: GrammarLibrary,
        backend: NativeBackend,
        media: MediaPipeline,
        device_type: str,
    ) -> None:
        self.card = card
        self.fatal = backend.fatal
        self._generator = generator
        self._grammars = grammars
        self._backend = backend
        self._media = media
        self._longest_step_s = LONGEST_STEP_OF_CPU_S if device_type == "cpu" else LONGEST_STEP_S

    async def run(self, job: Job, publish: Publish) -> None:
        """Answer a job; see `Generator.run`."""
        await self._generator.run(job, publish)

    def stats(self) -> Stats:
        """How busy the engine and the media pipeline are now."""
        now = self._backend.stats()
        metrics = {f"engine_{name}_total": float(count) for name, count in now.counters.items()}
        metrics |= self._media.metrics()
        return Stats(now.running, now.waiting, now.kv_usage, metrics, now.under_way, self._longest_step_s)

    async def close(self) -> None:
        """Stop the engine's thread, the decode processes and the one that checks grammars."""
        await self._backend.close()
        await self._grammars.close()
        await self._media.close()


async def open_handler(settings: WorkerSettings) -> JobHandler:
    """Load what the settings name and start serving it. Raises ModelLoadError with one line for the operator."""
    if settings.backend == "lmdeploy":
        raise ModelLoadError("--backend lmdeploy does not exist yet: leave the flag out, or say transformers")
    try:
        return await _open(settings)
    except (ModelError, TokenizerError) as error:
        raise ModelLoadError(str(error)) from error


async def _open(settings: WorkerSettings) -> ChatHandler:
    share_interpreter()
    folder = await asyncio.to_thread(resolve_checkpoint, settings.model)
    config = read_config(folder)
    architecture = resolve_architecture(config)
    tokenizer = load_tokenizer(folder)
    device = pick_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    model = await asyncio.to_thread(load_model, folder, device, settings.dtype, settings.load_format)
    if device.type == "cpu":
        set_threads(measure_model(config, model.dtype).weight_bytes)
    family = open_family(config, tokenizer, model, folder, settings.name, settings.model_options)
    limits = size_engine(
        Asked(
            settings.max_model_len,
            settings.kv_cache_memory,
            settings.num_kv_blocks,
            settings.block_size,
            settings.max_num_seqs,
            settings.max_num_batched_tokens,
            settings.embedding_cache_memory,
        ),
        device.type == "cuda",
        free_bytes(device),
        model.kv_spec.bytes_per_token(model.dtype),
        model.max_position_embeddings,
        model.rope_extends,
    )
    backend = open_backend(model, limits, enable_prefix_cache=not settings.no_prefix_cache)
    media = build_pipeline(
        settings.allowed_local_media_path,
        settings.allow_private_media_hosts,
        settings.allowed_media_domains,
        settings.fast_resize,
        cache_bytes=settings.media_cache_memory,
    )
    await media.start()
    backend.start()
    longest = max(len(tokenizer.token_bytes(token_id)) for token_id in range(tokenizer.vocab_size))
    preparer = Preparer(family, tokenizer, media, limits.max_model_len, max(longest, 1))
    defaults = _defaults(folder, settings, family)
    grammars = GrammarLibrary(tokenizer, model.vocab_size, family.stop_token_ids)
    generator = Generator(
        preparer, grammars, backend, tokenizer, defaults, model, limits.max_model_len, family.strips_reply
    )
    card = ModelCard(
        name=settings.name,
        max_model_len=limits.max_model_len,
        created=int(time.time()),
        architecture=architecture,
    )
    settle_objects()
    return ChatHandler(card, generator, grammars, backend, media, device.type)


def _defaults(folder: Path, settings: WorkerSettings, family: Family) -> SamplingDefaults:
    defaults = SamplingDefaults(family.stop_token_ids, min_tokens=family.min_tokens)
    return defaults if settings.generation_config == "openai" else read_sampling_defaults(folder, defaults)

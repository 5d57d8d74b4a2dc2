"""A job to what the engine runs: media fetched and decoded, prompt ids, spans. Off the engine's thread."""

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from schemas.data_url import join_url
from schemas.errors import ErrorCode, MediaError, RequestError
from schemas.jobs import ChatJob, CompletionJob, ImagePart, Job, Message, TextPart, VideoPart
from schemas.tool_forms import FORMS
from workers.engine.sequence import GridPositions, MediaInput
from workers.families.base import Family
from workers.handlers.groups import first_error
from workers.media.pipeline import MediaPipeline
from workers.media.types import PreparedMedia
from workers.prompts.messages import ChatMessage, Image, Text, Video
from workers.prompts.placeholders import PromptIds
from workers.tokenizers.base import Tokenizer
from workers.tools.conversation import write_tools
from workers.tools.grammar import constrained


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt that fits, with its media. Token counts are of placeholders only."""

    token_ids: list[int]
    media: tuple[MediaInput, ...]
    image_tokens: int
    video_tokens: int
    cache_salt: bytes
    grid_positions: GridPositions | None = None
    tool_form: str | None = None
    """How the model was told to call tools; None where it was offered none."""
    media_digests: tuple[bytes, ...] = ()
    """Of each medium, in the prompt's order."""


class Preparer:
    """Turns jobs into prompts for one model.

    longest_token_bytes: no token stands for more bytes of text, so that a text far too long is refused before it is
    tokenised.
    """

    def __init__(
        self,
        family: Family,
        tokenizer: Tokenizer,
        media: MediaPipeline,
        max_model_len: int,
        longest_token_bytes: int,
    ) -> None:
        self._family = family
        self._tokenizer = tokenizer
        self._media = media
        self._max_model_len = max_model_len
        self._longest_token_bytes = longest_token_bytes

    def with_grammar_of_calls(self, job: Job) -> Job:
        """The job as it is run: where its calls must be valid, under a grammar. Raises RequestError."""
        if not isinstance(job, ChatJob):
            return job
        return constrained(job, self._family.tool_writer.form_name, self._tokenizer.token_id)

    def shown_ids(self, job: Job) -> frozenset[int]:
        """Special tokens that stay in the answer's text, for the gateway: the marks of calls."""
        if not isinstance(job, ChatJob) or not job.tools:
            return frozenset()
        marks = FORMS[self._family.tool_writer.form_name].marks
        return frozenset(found for mark in marks if (found := self._tokenizer.token_id(mark)) is not None)

    async def prepare(self, job: Job) -> Prepared:
        """Fetch, decode, render, tokenise, check the length. Raises RequestError and MediaError."""
        if isinstance(job, CompletionJob):
            return await self._prepare_bare(job)
        self._family.check_options(job.media)
        self._check_length(self._least_tokens(list(_texts(job))), job)
        parts = [part for message in job.messages for part in message.parts if not isinstance(part, TextPart)]
        media = await self._fetch(job, parts)
        digests = tuple(medium.digest for medium in media)
        _check_unchanged(job.media_digests, digests, parts)
        writer = self._family.tool_writer
        messages = write_tools(_number_media(job.messages), job.tools, writer)
        prompt = await asyncio.to_thread(
            self._family.build_prompt, messages, media, job.media, job.add_generation_prompt
        )
        self._check_length(len(prompt.token_ids), job)
        salt = _salt(job.tenant, job.cache_salt)
        spans = tuple(_media_inputs(prompt, media, salt))
        video_tokens = sum(s.length for s in prompt.spans if isinstance(parts[s.media_index], VideoPart))
        return Prepared(
            token_ids=prompt.token_ids,
            media=spans,
            image_tokens=sum(s.length for s in prompt.spans) - video_tokens,
            video_tokens=video_tokens,
            cache_salt=salt,
            grid_positions=_grid_positions(prompt),
            tool_form=writer.form_name if job.tools else None,
            media_digests=digests,
        )

    async def _prepare_bare(self, job: CompletionJob) -> Prepared:
        """A prompt that the client has written, control tokens and all."""
        if isinstance(job.prompt, str):
            self._check_length(self._least_tokens([job.prompt]), job)
            ids = await asyncio.to_thread(self._tokenizer.encode, job.prompt, parse_special=True)
            if not job.add_special_tokens:
                ids = ids[self._num_leading(ids) :]
        else:
            ids = list(job.prompt)
        self._check_length(len(ids), job)
        if not ids and job.n:
            raise RequestError(ErrorCode.INVALID_VALUE, "Invalid value for 'prompt': it has no tokens.", "prompt")
        return Prepared(ids, media=(), image_tokens=0, video_tokens=0, cache_salt=_salt(job.tenant, job.cache_salt))

    def _num_leading(self, ids: Sequence[int]) -> int:
        """1 where the tokenizer has put BOS in front of a text."""
        bos = [self._tokenizer.bos_token_id]
        return int(list(ids[:1]) == bos and self._tokenizer.encode("", parse_special=True)[:1] == bos)

    async def _fetch(self, job: ChatJob, parts: Sequence[ImagePart | VideoPart]) -> list[PreparedMedia]:
        """All media at once; the first that fails ends the others."""

        async def fetch(part: ImagePart | VideoPart) -> PreparedMedia:
            url = join_url(part.url, part.text)
            if isinstance(part, ImagePart):
                options = self._family.image_options(job.media, part.detail)
                return await self._media.image(url, options, part.param, job.tenant)
            return await self._media.video(url, self._family.video_options(job.media), part.param, job.tenant)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(fetch(part)) for part in parts]
        except* Exception as failures:
            raise first_error(failures) from None
        return [task.result() for task in tasks]

    def _least_tokens(self, texts: Sequence[str]) -> int:
        return sum(len(text.encode()) for text in texts) // self._longest_token_bytes

    def _check_length(self, num_tokens: int, job: Job) -> None:
        """A prompt needs room for at least one token behind it; one that is only counted may be as long as need be."""
        if num_tokens >= self._max_model_len and job.n:
            named = prompt_param(job)
            raise RequestError(
                ErrorCode.CONTEXT_LENGTH_EXCEEDED,
                f"This model's maximum context length is {self._max_model_len} tokens, but the {named} make "
                f"{num_tokens} tokens or more. Please shorten the {named} or send fewer or smaller media.",
                named,
            )


def prompt_param(job: Job) -> str:
    """Where a request of this kind has its prompt."""
    return "messages" if isinstance(job, ChatJob) else "prompt"


def _number_media(messages: Sequence[Message]) -> list[ChatMessage]:
    """The conversation with media replaced by their number in the request."""
    count = 0
    numbered = []
    for message in messages:
        parts: list[Text | Image | Video] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                parts.append(Text(part.text))
            else:
                parts.append(Image(count) if isinstance(part, ImagePart) else Video(count))
                count += 1
        numbered.append(ChatMessage(message.role, tuple(parts), message.tool_calls, message.tool_call_id))
    return numbered


def _check_unchanged(before: tuple[bytes, ...], now: tuple[bytes, ...], parts: Sequence[ImagePart | VideoPart]) -> None:
    """Raises MediaError where a lost worker has begun the answer with other media than these."""
    for part, old, new in zip(parts, before, now, strict=False):
        if old != new:
            message = "What is behind this URL changed while the answer was being written; it cannot be continued."
            raise MediaError(ErrorCode.MEDIA_CHANGED, message, part.param)


def _texts(job: ChatJob) -> Iterator[str]:
    """All that will be in the prompt."""
    for message in job.messages:
        yield from (part.text for part in message.parts if isinstance(part, TextPart))
        yield from (call.arguments for call in message.tool_calls)
    for tool in job.tools:
        yield from (tool.description or "", tool.parameters or "")


def _media_inputs(prompt: PromptIds, media: Sequence[PreparedMedia], salt: bytes) -> Iterator[MediaInput]:
    """What stands at each span: the family's own input for the vision tower, else a slice of the medium's tiles."""
    for span, own in zip_longest(prompt.spans, prompt.inputs):
        medium = media[span.media_index]
        if own is not None:
            key = hashlib.sha256(salt + own.digest).digest()
            yield MediaInput(span.start, span.length, key, own.data, own.offset, own.num_encoded)
            continue
        key = _span_key(salt, medium, span.tile_start, span.num_tiles)
        yield MediaInput(span.start, span.length, key, medium.tiles[span.tile_start : span.tile_start + span.num_tiles])


def _grid_positions(prompt: PromptIds) -> GridPositions | None:
    """Outputs go on behind the largest position of the prompt."""
    if prompt.grid_positions is None:
        return None
    return GridPositions(prompt.grid_positions, int(prompt.grid_positions.max()) + 1 - len(prompt.token_ids))


def _span_key(salt: bytes, media: PreparedMedia, tile_start: int, num_tiles: int) -> bytes:
    """Names the embedding of some tiles of a medium: a frame of a clip is a span of its own."""
    return hashlib.sha256(salt + media.digest + tile_start.to_bytes(4) + num_tiles.to_bytes(4)).digest()


def _salt(tenant: str, cache_salt: str) -> bytes:
    """Prefixes and embeddings are shared within a tenant only; a client's salt narrows that, never widens it."""
    if not tenant and not cache_salt:
        return b""
    return hashlib.sha256(f"{tenant}\n{cache_salt}".encode()).digest()

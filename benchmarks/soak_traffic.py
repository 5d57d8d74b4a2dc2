"""The soak's requests: each number is a request of a random kind, which is answered, left early or refused."""

import base64
import io
import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
from PIL import Image

from benchmarks.sample_media import moving_clip
from server.loadgen import chat_body, picture_url

MODEL = "glimpsed-demo"
NUM_CLIPS = 24
SCHEMA = {
    "type": "object",
    "properties": {"shape": {"type": "string", "maxLength": 12}},
    "required": ["shape"],
    "additionalProperties": False,
}
OUTCOMES = ("finished", "left", "refused", "failed")


@dataclass(frozen=True, slots=True)
class Request:
    """is_bad: a client of good will would not send it; it must be refused with a 400."""

    body: bytes
    is_bad: bool
    leave_after: int | None


def request(number: int) -> Request:
    """Text; pictures of random sizes, a quarter of them seen before; a clip; JSON by a schema; hostile media."""
    rng = random.Random(number)
    pick = rng.random()
    content: list[dict[str, object]] = [{"type": "text", "text": "What do you see? " * rng.randint(1, 20)}]
    more: dict[str, Any] = {"ignore_eos": True}
    if pick < 0.1:
        content.append(_part("image", hostile(rng)))
    elif pick < 0.25:
        content.append(_part("video", clip_url(rng.randrange(NUM_CLIPS))))
    else:
        for _ in range(rng.choice([0, 1, 1, 2])):
            seen = rng.randrange(max(1, number // 4)) if rng.random() < 0.25 else number
            content.append(_part("image", picture_url((rng.randint(16, 500), rng.randint(16, 500)), seen)))
        if pick < 0.35:
            form = {"name": "found", "schema": SCHEMA, "strict": True}
            more = {"response_format": {"type": "json_schema", "json_schema": form}}
    body = chat_body([{"role": "user", "content": content}], MODEL, rng.randint(1, 60), more)
    return Request(body, pick < 0.1, rng.randint(1, 20) if rng.random() < 0.25 else None)


async def send(client: httpx.AsyncClient, number: int) -> str:
    """How the request of that number ended: one of OUTCOMES."""
    asked = request(number)
    headers = {"content-type": "application/json"}
    async with client.stream("POST", "/chat/completions", content=asked.body, headers=headers) as reply:
        if reply.status_code != 200:
            return "refused" if asked.is_bad and reply.status_code == 400 else "failed"
        num_chunks, is_done = 0, False
        async for line in reply.aiter_lines():
            num_chunks += line.startswith("data: {")
            is_done = is_done or line == "data: [DONE]"
            if asked.leave_after is not None and num_chunks > asked.leave_after:
                return "left"
    return "finished" if is_done and not asked.is_bad else "failed"


def hostile(rng: random.Random) -> str:
    """A data URL that must be refused: cut short, not base64, not a picture, or a bomb of 400 megapixels."""
    whole = picture_url((rng.randint(16, 500), rng.randint(16, 500)), rng.getrandbits(30))
    return rng.choice(
        (
            whole[: len(whole) // 8 * 4],
            whole[:100] + "!" + whole[101:],
            "data:image/png;base64," + base64.b64encode(rng.randbytes(2000)).decode(),
            "data:image/png;base64," + base64.b64encode(_bomb()).decode(),
        )
    )


@cache
def _bomb() -> bytes:
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


@cache
def clip_url(seed: int) -> str:
    """A clip of two seconds."""
    return "data:video/mp4;base64," + base64.b64encode(moving_clip(160, 96, 2, seed, fps=10)).decode()


def _part(kind: str, url: str) -> dict[str, object]:
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}

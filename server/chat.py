"""A terminal client: streams answers, keeps the conversation, sends local files as data URLs."""

import base64
import json
import mimetypes
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from schemas.flags import ConfigError
from server.settings import ChatSettings

CONNECT_S = 10.0
DEFAULT_TYPES = {"image": "image/png", "video": "video/mp4"}

Content = str | list[dict[str, Any]]


class ChatFailed(Exception):
    """The server refused, or broke off; the message is its own."""


def run_chat(settings: ChatSettings, prompt: str | None, images: Sequence[str], videos: Sequence[str]) -> int:
    """Answer one prompt, or hold a conversation on standard input. Returns the exit code."""
    media = [media_part("image", image) for image in images] + [media_part("video", video) for video in videos]
    headers = {"authorization": f"Bearer {settings.api_key[0]}"} if settings.api_key else {}
    timeout = httpx.Timeout(None, connect=CONNECT_S)
    with httpx.Client(base_url=settings.base_url, headers=headers, timeout=timeout) as client:
        try:
            model = settings.model or first_model(client)
            options = settings.model_dump(include={"max_tokens", "temperature"}, exclude_none=True)
            _converse(client, {"model": model, **options}, media, prompt)
        except httpx.RequestError as error:
            print(f"glimpsed chat: cannot reach {settings.base_url}: {error}", file=sys.stderr)
            return 1
        except ChatFailed as error:
            print(f"glimpsed chat: {error}", file=sys.stderr)
            return 1
    return 0


def media_part(kind: str, source: str) -> dict[str, Any]:
    """A content part; a local file becomes a data URL. Raises ConfigError for a file that cannot be read."""
    if source.partition(":")[0] in ("http", "https", "data"):
        url = source
    else:
        try:
            content = Path(source).expanduser().read_bytes()
        except OSError as error:
            raise ConfigError(f"--{kind}: cannot read '{source}': {error.strerror}") from error
        media_type = mimetypes.guess_type(source)[0] or DEFAULT_TYPES[kind]
        url = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def _converse(client: httpx.Client, body: dict[str, Any], media: list[dict[str, Any]], prompt: str | None) -> None:
    messages: list[dict[str, Any]] = []
    for question in [prompt] if prompt is not None else _questions():
        content: Content = [*media, {"type": "text", "text": question}] if media else question
        media = []
        messages.append({"role": "user", "content": content})
        answer = ""
        for piece in _stream(client, {**body, "messages": messages, "stream": True}):
            print(piece, end="", flush=True)
            answer += piece
        print()
        messages.append({"role": "assistant", "content": answer})


def _questions() -> Iterator[str]:
    is_terminal = sys.stdin.isatty()
    while True:
        if is_terminal:
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _stream(client: httpx.Client, body: dict[str, Any]) -> Iterator[str]:
    with client.stream("POST", "chat/completions", json=body) as response:
        if response.status_code != 200:
            raise ChatFailed(_reason(response.read()))
        for line in response.iter_lines():
            data = line.removeprefix("data: ")
            if data == line:
                continue
            if data == "[DONE]":
                return
            yield from _pieces(data)
    raise ChatFailed("the server broke off in the middle of its answer")


def _pieces(data: str) -> list[str]:
    try:
        chunk = json.loads(data)
        if "error" not in chunk:
            return [choice["delta"].get("content") or "" for choice in chunk["choices"]]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ChatFailed("the server's answer is none of this API") from None
    raise ChatFailed(_reason(data.encode()))


def first_model(client: httpx.Client) -> str:
    """The name of the server's first model. Raises ChatFailed where it has none, refuses or is none of this API."""
    response = client.get("models")
    if response.status_code != 200:
        raise ChatFailed(_reason(response.content))
    try:
        names = [str(model["id"]) for model in response.json()["data"]]
    except (ValueError, LookupError, TypeError):
        raise ChatFailed(f"{response.url} is no list of models; is --base-url right, with its /v1?") from None
    if not names:
        raise ChatFailed("the server has no model")
    return names[0]


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered with {body[:200]!r}"

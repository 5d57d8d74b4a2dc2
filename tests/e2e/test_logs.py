"""What the daemon writes down at its most talkative: nothing of what clients send, fetch or are told."""

import base64
import re
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.goldens import LEAN
from tests.e2e.served import serve

MODEL = "internvl2_5-qwen2"
KEY = "sk-canary-key-7421"
PICTURE = (LEAN / "media" / "landscape_4x3.jpg").read_bytes()
CLIP = (LEAN / "media" / "clip_5f_2fps.mp4").read_bytes()
_STATUS = re.compile(r" ([0-9]{3}) [0-9]+ ms")
SIGNED = "?signature=canary-signature&expires=1#canary-fragment"


class Origin(BaseHTTPRequestHandler):
    """A media host: /picture, /clip, /text and /moved, which leads into a private network."""

    def do_GET(self) -> None:
        content = {"picture": PICTURE, "clip": CLIP, "text": b"canary-page " * 100}.get(self.path.split("/")[1])
        self.send_response(302 if self.path.startswith("/moved") else 200 if content else 404)
        if self.path.startswith("/moved"):
            self.send_header("location", f"http://canary-name:canary-word@10.0.0.1/canary-secret{SIGNED}")
        self.send_header("content-length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Told:
    """What the daemon wrote and what it answered."""

    log: str
    statuses: list[int]
    answers: list[str] = field(default_factory=list)


def data_url(content: bytes, media_type: str = "image/jpeg") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def media_parts(origin: str, folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Content parts by every scheme, with the status that each is answered with."""
    host = f"http://{origin}"
    urls = {
        200: [data_url(PICTURE), f"{host}/picture/canary-path.jpg{SIGNED}", f"file://{folder}/canary-file.jpg"],
        400: [
            data_url(PICTURE[:2000] + b"canary" * 50),
            "data:image/png;base64,canary-not-base64",
            f"{host}/missing/canary-path.jpg{SIGNED}",
            f"{host}/moved/canary-path.jpg{SIGNED}",
            f"{host}/text/canary-path.jpg{SIGNED}",
            f"http://canary-name:canary-word@{origin}/picture/canary-path.jpg{SIGNED}",
            f"http://127.0.0.1:9/canary-path.jpg{SIGNED}",
            f"https://canary-host.invalid/canary-path.jpg{SIGNED}",
            f"ftp://canary-name:canary-word@{origin}/canary-path.jpg",
            f"file://{folder}/canary-missing.jpg",
            "file:///etc/canary-outside.jpg",
        ],
    }
    for status, listed in urls.items():
        for url in listed:
            yield status, {"type": "image_url", "image_url": {"url": url}, "uuid": "canary-label"}
    yield 200, {"type": "video_url", "video_url": {"url": f"{host}/clip/canary-path.mp4{SIGNED}"}}
    yield 400, {"type": "video_url", "video_url": {"url": f"{host}/picture/canary-path.mp4{SIGNED}"}}


def chat(part: dict[str, Any], **options: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "canary-system"},
        {"role": "user", "content": [part, {"type": "text", "text": "canary-prompt"}]},
    ]
    video = {"num_frames": 2}
    return {"model": MODEL, "messages": messages, "max_tokens": 12, "media_io_kwargs": {"video": video}, **options}


def other_requests(client: httpx.Client) -> Iterator[tuple[int, httpx.Response]]:
    """Requests that are wrong in other ways than by their media, or have none; with the status expected."""
    text = {"type": "text", "text": "canary-text"}
    chats = "/v1/chat/completions"
    yield 401, client.post(chats, json=chat(text), headers={"authorization": "Bearer sk-canary-wrong"})
    yield 401, client.get("/v1/models?key=canary-query", headers={"authorization": "Basic Y2FuYXJ5OmNhbmFyeQ=="})
    yield 404, client.get("/nothing-here?canary-query")
    yield 404, client.post(chats, json=chat(text) | {"model": "canary-model"})
    yield 400, client.post(chats, content=b'{"model": "canary-body')
    yield 400, client.post(chats, json=chat(text, canary_parameter="canary-value"))
    yield 400, client.post(chats, json=chat(text, temperature="canary-value"))
    yield 400, client.post(chats, json=chat({"type": "text", "text": "canary " * 40_000}))
    yield 200, client.post(chats, json=chat(text, stop=["canary-stop"], cache_salt="canary-salt"))
    yield 200, client.post("/v1/completions", json={"model": MODEL, "prompt": "canary-prompt", "max_tokens": 8})
    yield 200, client.post("/v1/tokenize", json={"model": MODEL, "prompt": "canary-prompt"})


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    """A daemon at log level debug, after requests of all these kinds; it has ended."""
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryFile() as log,
        ThreadingHTTPServer(("127.0.0.1", 0), Origin) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        origin = f"127.0.0.1:{server.server_port}"
        (Path(folder) / "canary-file.jpg").write_bytes(PICTURE)
        arguments = [f"{MODEL}={LEAN / MODEL / 'checkpoint'}", "--num-kv-blocks", "600", "--log-level", "debug"]
        arguments += ["--allow-private-media-hosts", origin, "--allowed-local-media-path", folder]
        told = Told("", [])
        with serve(arguments, {"GLIMPSED_API_KEY": KEY}, log) as daemon:
            headers = {"authorization": f"Bearer {KEY}"}
            with httpx.Client(base_url=daemon.url, headers=headers, timeout=60) as client:
                for status, part in media_parts(origin, Path(folder)):
                    for stream in (False, True):
                        reply = client.post("/v1/chat/completions", json=chat(part, stream=stream))
                        assert reply.status_code == status, (part, reply.text)
                        told.statuses.append(status)
                        if status == 200 and not stream:
                            told.answers.append(reply.json()["choices"][0]["message"]["content"])
                for status, reply in other_requests(client):
                    assert reply.status_code == status, reply.text
                    told.statuses.append(status)
        server.shutdown()
        log.seek(0)
        told.log = log.read().decode()
        yield told


@pytest.mark.timeout(300)
def test_every_request_has_its_line_and_both_processes_are_at_their_most_talkative(told: Told) -> None:
    lines = [line for line in told.log.splitlines() if " req_" in line]
    found = [int(_STATUS.findall(line)[0]) for line in lines if "/v1/" in line or "nothing-here" in line]
    assert sorted(found) == sorted(told.statuses)
    assert any("DEBUG" in line and "gateway" in line for line in told.log.splitlines())
    assert any("worker[" in line for line in told.log.splitlines())


def test_nothing_that_a_client_sent_or_named_is_written_down(told: Told) -> None:
    assert [line for line in told.log.splitlines() if "canary" in line.lower()] == []


def test_no_bytes_of_media_are_written_down(told: Told) -> None:
    for content in (PICTURE, CLIP):
        encoded = base64.b64encode(content).decode()
        for start in (0, 400, 4000):
            assert encoded[start : start + 24] not in told.log
            assert repr(content[start : start + 8])[2:-1] not in told.log


def test_no_answer_is_written_down(told: Told) -> None:
    assert len(told.answers) == 4
    for answer in told.answers:
        words = [word for word in answer.split() if len(word) > 5 and word.isascii()]
        assert answer.strip() and answer.strip() not in told.log
        assert [word for word in words if word in told.log] == []

"""The gateway's and `serve`'s settings: the only place on this side that reads the environment.

The worker's own flags are known here by name alone: `serve` hands them on as they were written, and the worker, which
knows what they mean, refuses bad ones. Set in the environment they reach it without being handed on.
"""

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ByteSize, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schemas.flags import ENV_PREFIX, CommaSeparated, ConfigError

DEMO_MODEL = "demo"
DEMO_NAME = "glimpsed-demo"

WORKER_FLAGS = (
    "device",
    "dtype",
    "backend",
    "max_model_len",
    "kv_cache_memory",
    "num_kv_blocks",
    "block_size",
    "max_num_seqs",
    "max_num_batched_tokens",
    "embedding_cache_memory",
    "media_cache_memory",
    "no_prefix_cache",
    "allowed_local_media_path",
    "allow_private_media_hosts",
    "allowed_media_domains",
    "fast_resize",
    "limit_images",
    "limit_videos",
    "load_format",
    "generation_config",
    "model_option",
    "shutdown_timeout",
    "watchdog_timeout",
    "log_level",
    "log_format",
)
"""Flags that `serve` hands on to its workers."""
REPEATABLE_WORKER_FLAGS = ("allow_private_media_hosts", "allowed_media_domains", "model_option")
SWITCH_WORKER_FLAGS = ("no_prefix_cache", "fast_resize")


class GatewaySettings(BaseSettings):
    """`glimpsed gateway`."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid")

    host: str = Field("127.0.0.1", description="address to listen on", title="host")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one", title="port")
    queue: str = Field("local", description="local, ipc://PATH or redis://HOST[:PORT][/DB]", title="url")
    api_key: Annotated[CommaSeparated, NoDecode] = Field((), description="accept only requests with one of these keys")
    api_key_file: Path | None = Field(None, description="file with a key a line, read again when it changes")
    rate_limit_requests: int | None = Field(None, ge=1, description="requests a minute for each key", title="n")
    rate_limit_tokens: int | None = Field(None, ge=1, description="tokens a minute for each key", title="n")
    max_concurrency: int | None = Field(None, ge=1, description="requests at a time for each key", title="n")
    max_connections: int = Field(8192, ge=1, description="connections at a time", title="n")
    max_connections_per_peer: int = Field(2048, ge=1, description="connections from one address", title="n")
    max_queue: int = Field(512, ge=1, description="requests that may wait for one model", title="n")
    max_queue_tokens: int = Field(2_000_000, ge=1, description="prompt tokens that may wait for one model", title="n")
    affinity_margin: float = Field(0.125, ge=0, le=1, description="share of seats for prefix affinity", title="x")
    worker_wait: float = Field(30.0, gt=0, description="seconds a request waits where no worker lives", title="s")
    request_timeout: float = Field(600.0, gt=0, description="seconds a request may take", title="s")
    max_body_size: ByteSize = Field(ByteSize(32 << 20), gt=0, description="largest request body", title="bytes")
    limit_images: int = Field(16, ge=0, description="pictures in one request", title="n")
    limit_videos: int = Field(2, ge=0, description="clips in one request", title="n")
    idempotency_window: float = Field(86400.0, ge=0, description="seconds answers are kept by key", title="s")
    resume_window: float = Field(600.0, gt=0, description="seconds a broken stream can be gone on with", title="s")
    data_dir: Path | None = Field(None, description="folder for files and batches; default: by XDG", title="dir")
    max_file_size: ByteSize = Field(ByteSize(200 << 20), gt=0, description="largest file of a client", title="bytes")
    max_storage: ByteSize = Field(ByteSize(10 << 30), gt=0, description="bytes of each key's files", title="bytes")
    max_files: int = Field(10_000, ge=1, description="files of each key", title="n")
    max_batches: int = Field(1000, ge=1, description="batches kept of each key", title="n")
    max_batch_lines: int = Field(50_000, ge=1, description="requests in one batch", title="n")
    batch_concurrency: int = Field(16, ge=1, description="requests of batches that run at a time", title="n")
    shutdown_timeout: float = Field(30.0, ge=0, description="seconds running requests get after SIGTERM", title="s")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")
    log_format: Literal["text", "json"] = Field("text", description="text or json")


class ServeSettings(GatewaySettings):
    """`glimpsed serve`: the gateway's and how many workers to start."""

    workers_per_model: int = Field(1, ge=1, le=64, description="worker processes for each model", title="n")


class ClientSettings(BaseSettings):
    """Which server a command talks to."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid")

    base_url: str = Field("http://127.0.0.1:8000/v1", description="the server's API", title="url")
    api_key: Annotated[CommaSeparated, NoDecode] = Field((), description="the server's key", title="key")
    model: str | None = Field(None, description="which of the server's models; default: the first", title="name")


class ChatSettings(ClientSettings):
    """`glimpsed chat`."""

    max_tokens: int | None = Field(None, ge=1, description="tokens of an answer", title="n")
    temperature: float | None = Field(None, ge=0, description="0 takes the likeliest token", title="t")


class BenchSettings(ClientSettings):
    """`glimpsed bench`."""

    requests: int = Field(64, ge=1, description="requests in all", title="n")
    concurrency: int = Field(8, ge=1, description="requests under way at a time", title="n")
    max_tokens: int = Field(64, ge=1, description="tokens of an answer at most", title="n")
    prompt_words: int | None = Field(None, ge=1, description="words of a prompt; default: a short sentence", title="n")
    image_size: Annotated[CommaSeparated, NoDecode] = Field(
        (), description="size of the pictures, WIDTHxHEIGHT, taken in turn; default: no pictures", title="WxH"
    )
    images_per_request: int = Field(1, ge=1, description="pictures in a request", title="n")
    ignore_eos: bool = Field(False, description="answers of full length (an extension of this server and its peers)")
    no_stream: bool = Field(False, description="ask for whole answers; first tokens cannot be timed then")

    @field_validator("image_size")
    @classmethod
    def _is_size(cls, sizes: tuple[str, ...]) -> tuple[str, ...]:
        for size in sizes:
            if not re.fullmatch(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}", size):
                raise ValueError(f"'{size}' is not WIDTHxHEIGHT, as in 640x480")
        return sizes


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to serve: the name that clients use, and the checkpoint folder, hub name or "demo"."""

    name: str
    model: str


def parse_models(arguments: list[str]) -> list[ModelSpec]:
    """MODEL or NAME=MODEL, each; none: the built-in demo model. Raises ConfigError for an empty or repeated name."""
    specs = [_parse_model(argument) for argument in arguments] or [ModelSpec(DEMO_NAME, DEMO_MODEL)]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"MODEL: two models would be served as '{name}'; name them apart with NAME=MODEL")
    return specs


def local_queue_path() -> Path:
    """Where a gateway and workers that were started apart on this machine meet under `--queue local`."""
    return Path(tempfile.gettempdir()) / f"glimpsed-{os.getuid()}" / "queue"


def state_folder() -> Path:
    """Where files and batches are kept if no flag says otherwise: the user's folder for state, by the XDG rules."""
    given = os.environ.get("XDG_STATE_HOME", "")
    base = Path(given) if given.startswith("/") else Path(os.path.expanduser("~")) / ".local" / "state"
    return base / "glimpsed"


def worker_environment(queue_url: str) -> dict[str, str]:
    """What a worker of `serve` inherits. The queue's URL may hold a password, and arguments are for all to see."""
    return {**os.environ, f"{ENV_PREFIX}QUEUE": queue_url}


def _parse_model(argument: str) -> ModelSpec:
    name, separator, model = argument.partition("=")
    if not separator:
        name, model = "", argument
    if not model or (separator and not name):
        raise ConfigError(f"MODEL: '{argument}' is neither MODEL nor NAME=MODEL")
    if not name:
        path = Path(model).expanduser()
        name = DEMO_NAME if model == DEMO_MODEL else path.resolve().name if path.exists() else model
    return ModelSpec(name, model)

"""A worker's settings: the only place on this side that reads the environment."""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schemas.flags import ENV_PREFIX, CommaSeparated, Parser, add_flags, load
from workers.media.guard import parse_domains, parse_private_hosts

DEMO_MODEL = "demo"
DEMO_NAME = "glimpsed-demo"
_NOT_FLAGS = ("model",)


class WorkerSettings(BaseSettings):
    """`python -m workers MODEL`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", protected_namespaces=()
    )

    model: str = Field(min_length=1, description="checkpoint folder, hub name or demo")
    served_name: str | None = Field(None, description="name that clients use; default: the folder's or hub name")
    queue: str = Field("local", description="local, ipc://PATH or redis://HOST[:PORT][/DB]", title="url")
    supervisor_pid: int | None = Field(None, description="end when this parent process ends", title="pid")

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu or cuda[:N]")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="type of weights and states")
    backend: Literal["auto", "transformers", "lmdeploy"] = Field("auto", description="auto, transformers or lmdeploy")
    load_format: Literal["auto", "dummy"] = Field("auto", description="auto, or dummy for random weights")
    model_option: Annotated[CommaSeparated, NoDecode] = Field((), description="NAME=VALUE of the model's family")
    generation_config: Literal["auto", "openai"] = Field(
        "auto", description="sampling defaults: the checkpoint's (auto) or the API's (openai)"
    )

    max_model_len: int | None = Field(None, ge=1, description="tokens of prompt and answer", title="n")
    kv_cache_memory: ByteSize | None = Field(None, gt=0, description="memory for keys and values: 2GiB", title="bytes")
    num_kv_blocks: int | None = Field(None, ge=1, description="pages for keys and values, instead", title="n")
    block_size: int = Field(16, ge=1, le=1024, description="tokens in a page", title="n")
    max_num_seqs: int = Field(64, ge=1, description="sequences that run at a time", title="n")
    max_num_batched_tokens: int | None = Field(
        None, ge=1, description="tokens in one step; default: 512 on a CPU, 8192 on a GPU", title="n"
    )
    embedding_cache_memory: ByteSize | None = Field(
        None, ge=0, description="memory for visual embeddings; default: 256MiB on a CPU, 1GiB on a GPU", title="bytes"
    )
    media_cache_memory: ByteSize = Field(
        ByteSize(256 << 20), ge=0, description="memory for prepared media; downloads get half as much", title="bytes"
    )
    no_prefix_cache: bool = Field(False, description="do not reuse pages of equal prompts")

    allowed_local_media_path: Path | None = Field(None, description="folder that file URLs may read", title="dir")
    allow_private_media_hosts: Annotated[CommaSeparated, NoDecode] = Field(
        (), description="HOST[:PORT] that media may come from although its address is private"
    )
    allowed_media_domains: Annotated[CommaSeparated, NoDecode] = Field(
        (), description="HOST or .SUFFIX: take media from these hosts only"
    )
    fast_resize: bool = Field(False, description="scale media with a faster filter that is not exact")
    limit_images: int = Field(16, ge=0, description="pictures in one request", title="n")
    limit_videos: int = Field(2, ge=0, description="clips in one request", title="n")

    shutdown_timeout: float = Field(30.0, ge=0, description="seconds running requests get after SIGTERM", title="s")
    watchdog_timeout: float | None = Field(
        None,
        ge=0,
        description="seconds for one step, or the worker ends; default: 300 on a GPU, 1800 on a CPU",
        title="s",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")
    log_format: Literal["text", "json"] = Field("text", description="text or json")

    @field_validator("allowed_local_media_path")
    @classmethod
    def _is_folder(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_dir():
            raise ValueError(f"'{path}' is not a folder")
        return path.resolve() if path is not None else None

    @field_validator("allow_private_media_hosts")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        parse_private_hosts(hosts)
        return hosts

    @field_validator("allowed_media_domains")
    @classmethod
    def _are_domains(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        parse_domains(domains)
        return domains

    @field_validator("model_option")
    @classmethod
    def _are_pairs(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            if not option.partition("=")[0] or "=" not in option:
                raise ValueError(f"'{option}' is not NAME=VALUE")
        return options

    @model_validator(mode="after")
    def _one_size_of_the_cache(self) -> Self:
        if self.kv_cache_memory is not None and self.num_kv_blocks is not None:
            raise ValueError("--kv-cache-memory and --num-kv-blocks exclude each other")
        return self

    @property
    def name(self) -> str:
        """The name under which the model is served."""
        if self.served_name is not None:
            return self.served_name
        path = Path(self.model).expanduser()
        return DEMO_NAME if self.model == DEMO_MODEL else path.resolve().name if path.exists() else self.model

    @property
    def model_options(self) -> dict[str, str]:
        """`--model-option NAME=VALUE`, by name."""
        return dict(option.split("=", 1) for option in self.model_option)

    @property
    def max_jobs(self) -> int:
        """Jobs to hold at a time: all that can run, and a few more whose media are prepared meanwhile."""
        return self.max_num_seqs + max(2, self.max_num_seqs // 8)

    @property
    def queue_address(self) -> str:
        """The queue's URL. `local` is where a gateway that was started apart on this machine listens."""
        if self.queue == "local":
            return f"ipc://{Path(tempfile.gettempdir()) / f'glimpsed-{os.getuid()}' / 'queue'}"
        return self.queue


def parse_command_line(argv: list[str]) -> WorkerSettings:
    """The settings of `python -m workers`. Raises ConfigError; exits on --help and on unknown flags."""
    parser = Parser(prog="glimpsed worker", description="Hold one model and answer the jobs of a queue.")
    parser.add_argument("model", metavar="MODEL", help="checkpoint folder, hub name, or demo")
    add_flags(parser, WorkerSettings, skip=_NOT_FLAGS)
    arguments: argparse.Namespace = parser.parse_args(argv)
    return load(WorkerSettings, arguments)


def bound_spinning() -> None:
    """Have OpenMP's threads spin for some 20 microseconds between two products before they sleep.

    GNU's runtime reads the variable once, when torch brings it in. For ever, its default, keeps a core from the gateway
    and the decode processes; not at all wakes the threads too late: both were measured at half the throughput.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

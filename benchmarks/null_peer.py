"""`PEER/bin/python null_peer.py PORT`: the HTTP layer of `transformers serve` round an engine that computes nothing.

The library's application, handler of chats, chunks and server are its own; replaced are only the model, the tokenizer
and what generates: tokens as those of null_worker.py, put straight into the queue from which the library's stream takes
them. So nothing is loaded, tokenized or decoded here, and no process or socket lies between engine and HTTP layer.
Models: `null`, and `paced-SECONDS` with so many seconds between two tokens.
"""

import asyncio
import sys
import time
from types import SimpleNamespace
from typing import Any

import uvicorn
from transformers import GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import BaseGenerateManager, GenerationState, Modality

MODEL = SimpleNamespace(config=SimpleNamespace(model_type="null"), generation_config=GenerationConfig())


class NullProcessor:
    def apply_chat_template(self, *_: object, **__: object) -> dict[str, list[int]]:
        return {"input_ids": [0]}


class NullModels:
    """In place of the manager of models."""

    force_model = None

    def process_model_name(self, name: str) -> str:
        return name

    def load_model_and_processor(self, model_id: str, **_: object) -> tuple[SimpleNamespace, NullProcessor]:
        return MODEL, NullProcessor()

    def get_model_modality(self, *_: object, **__: object) -> Modality:
        return Modality.LLM

    def get_gen_models(self) -> list[dict[str, Any]]:
        return []

    def shutdown(self) -> None:
        pass


class NullManager(BaseGenerateManager):
    """In place of what generates."""

    def __init__(self, token_s: float) -> None:
        self._token_s = token_s
        self._tasks: set[asyncio.Task[None]] = set()

    def generate_streaming(
        self, model: object, processor: object, inputs: object, gen_config: GenerationConfig, request_id: str,
        response_parser: object = None,
    ) -> Any:  # fmt: skip
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        num_tokens = gen_config.max_new_tokens or 0
        task = asyncio.get_running_loop().create_task(self._generate(queue, num_tokens))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return queue, SimpleNamespace(total_tokens=num_tokens, cancel=task.cancel)

    async def _generate(self, queue: asyncio.Queue[str | None], num_tokens: int) -> None:
        for _ in range(num_tokens):
            await asyncio.sleep(self._token_s)
            queue.put_nowait(f"{time.monotonic_ns()} ")
        queue.put_nowait(None)

    async def generate_non_streaming(self, *_: object, **__: object) -> tuple[str, int, list[int]]:
        raise NotImplementedError

    def stop(self) -> None:
        pass


class NullState(GenerationState):
    def use_continuous_batching(self, model: object, modality: Modality) -> bool:
        return True

    def get_manager(self, model_id: str, use_cb: bool = False) -> BaseGenerateManager:
        managers: dict[str, Any] = self._generate_managers
        if model_id not in managers:
            managers[model_id] = NullManager(float(model_id.partition("-")[2] or 0))
        return managers[model_id]


if __name__ == "__main__":
    models: Any = NullModels()
    state = NullState(continuous_batching=True)
    chats = ChatCompletionHandler(model_manager=models, generation_state=state)
    others: Any = dict.fromkeys(
        ("completion_handler", "response_handler", "transcription_handler", "systemone_handler")
    )
    app = build_server(models, chats, generation_state=state, **others)
    uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="info")).run()

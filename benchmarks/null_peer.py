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

import uvicorn
from transformers import GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import BaseGenerateManager, GenerationState, Modality

MODEL = SimpleNamespace(config=SimpleNamespace(model_type="null"), generation_config=GenerationConfig())


class NullProcessor:
    def apply_chat_template(self, *_, **__):
        return {"input_ids": [0]}


class NullModels:
    """In place of the manager of models."""

    force_model = None

    def process_model_name(self, name):
        return name

    def load_model_and_processor(self, model_id, **_):
        return MODEL, NullProcessor()

    def get_model_modality(self, *_, **__):
        return Modality.LLM

    def get_gen_models(self):
        return []

    def shutdown(self):
        pass


class NullManager(BaseGenerateManager):
    """In place of what generates."""

    def __init__(self, token_s):
        self._token_s = token_s
        self._tasks = set()

    def generate_streaming(self, model, processor, inputs, gen_config, request_id, response_parser=None):
        queue = asyncio.Queue()
        num_tokens = gen_config.max_new_tokens
        task = asyncio.get_running_loop().create_task(self._generate(queue, num_tokens))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return queue, SimpleNamespace(total_tokens=num_tokens, cancel=task.cancel)

    async def _generate(self, queue, num_tokens):
        for _ in range(num_tokens):
            await asyncio.sleep(self._token_s)
            queue.put_nowait(f"{time.monotonic_ns()} ")
        queue.put_nowait(None)

    async def generate_non_streaming(self, *_, **__):
        raise NotImplementedError

    def stop(self):
        pass


class NullState(GenerationState):
    def use_continuous_batching(self, model, modality):
        return True

    def get_manager(self, model_id, use_cb=False):
        if model_id not in self._generate_managers:
            self._generate_managers[model_id] = NullManager(float(model_id.partition("-")[2] or 0))
        return self._generate_managers[model_id]


if __name__ == "__main__":
    models, state = NullModels(), NullState(continuous_batching=True)
    chats = ChatCompletionHandler(model_manager=models, generation_state=state)
    others = dict.fromkeys(("completion_handler", "response_handler", "transcription_handler", "systemone_handler"))
    app = build_server(models, chats, generation_state=state, **others)
    uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="info")).run()

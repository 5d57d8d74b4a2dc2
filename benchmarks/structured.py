"""How many answers under 200 JSON schemas are valid: `python -m benchmarks.structured [MODEL]`.

Each schema is asked for as a client would, through `response_format`, greedily, and with a frequency penalty: a small
model may repeat itself inside a string or a number for as long as the schema lets it, and the penalty is the client's
own means against that. An answer counts that ends by itself and that `jsonschema` accepts.
"""

import argparse
import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema
from openai import APIError, AsyncOpenAI

from benchmarks.daemon import serve
from benchmarks.report import write_report
from tests.workers.grammar.schemas import make_schemas

PROMPT = "Answer in JSON. What do you see?"
WAYS: Mapping[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "greedy, frequency_penalty 1": {"temperature": 0, "frequency_penalty": 1},
    "temperature 0.7, frequency_penalty 1": {"temperature": 0.7, "frequency_penalty": 1, "seed": 1},
}


@dataclass(frozen=True)
class Answer:
    """What came of one schema: `verdict` is "valid", "cut off", or what is wrong."""

    verdict: str
    num_tokens: int


async def ask(client: AsyncOpenAI, model: str, schema: dict[str, Any], sampling: dict[str, Any], room: int) -> Answer:
    """One chat under one schema."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    messages: Any = [{"role": "user", "content": PROMPT}]
    try:
        reply = await client.chat.completions.create(
            model=model, messages=messages, response_format=form, max_tokens=room, **sampling
        )
    except APIError as error:
        return Answer(f"refused: {error.message}", 0)
    choice = reply.choices[0]
    num_tokens = reply.usage.completion_tokens if reply.usage else 0
    if choice.finish_reason != "stop":
        return Answer("cut off", num_tokens)
    try:
        jsonschema.Draft202012Validator(schema).validate(json.loads(choice.message.content or ""))
    except (ValueError, jsonschema.ValidationError) as error:
        return Answer(f"invalid: {type(error).__name__}", num_tokens)
    return Answer("valid", num_tokens)


async def run(base_url: str, model: str, way: str, concurrency: int, room: int) -> list[object]:
    """All schemas in one way; a row of the report."""
    schemas = make_schemas()
    seats = asyncio.Semaphore(concurrency)

    async def one(schema: dict[str, Any]) -> Answer:
        async with seats:
            return await ask(client, model, schema, WAYS[way], room)

    async with AsyncOpenAI(base_url=base_url, api_key="unused", timeout=600, max_retries=0) as client:
        answers = await asyncio.gather(*map(one, schemas.values()))
    for name, answer in zip(schemas, answers, strict=True):
        if answer.verdict != "valid":
            print(f"{way}: {name}: {answer.verdict}")
    verdicts = [answer.verdict for answer in answers]
    num_valid, num_cut = verdicts.count("valid"), verdicts.count("cut off")
    share = f"{num_valid / len(answers):.1%}"
    num_tokens = sum(answer.num_tokens for answer in answers)
    return [way, len(answers), share, num_cut, len(answers) - num_valid - num_cut, num_tokens]


def main() -> None:
    """Serve the model, ask for everything, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="demo", help="checkpoint folder, or demo")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=1024)
    arguments = parser.parse_args()
    with serve([f"bench={arguments.model}"]) as daemon:
        rows = [
            asyncio.run(run(daemon.base_url, "bench", way, arguments.concurrency, arguments.max_tokens)) for way in WAYS
        ]
    write_report(
        "structured",
        "Answers under JSON schemas",
        f"200 schemas over the supported keywords, {arguments.concurrency} at a time, at most {arguments.max_tokens} "
        f"tokens each. Cut off: the model did not come to an end by then. Invalid or refused should be 0.",
        ("sampling", "schemas", "valid", "cut off", "invalid or refused", "tokens"),
        rows,
    )


if __name__ == "__main__":
    main()

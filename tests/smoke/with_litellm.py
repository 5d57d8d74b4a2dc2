"""`python with_litellm.py BASE_URL PICTURE`: what programs do through litellm, against a running server."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import litellm

MODEL = "glimpsed-demo"
QUESTION = [{"role": "user", "content": "What shapes are there?"}]
COUNT = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["n"],
    "additionalProperties": False,
}
COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
ROOM: dict[str, Any] = {"max_tokens": 64}


def main(base_url: str, picture: Path) -> None:
    """Raises AssertionError, or what the client raises, at the first thing that is wrong."""
    server = {"api_base": base_url, "api_key": "none", "temperature": 0}
    openai: dict[str, Any] = {"model": f"openai/{MODEL}", **server}
    data = base64.b64encode(picture.read_bytes()).decode()
    url = {"url": f"data:image/png;base64,{data}"}
    seen = [
        {"role": "user", "content": [{"type": "text", "text": "How many?"}, {"type": "image_url", "image_url": url}]}
    ]

    whole = litellm.completion(messages=seen, **ROOM, **openai)
    said = whole.choices[0].message.content
    assert said and whole.usage.completion_tokens and whole.choices[0].finish_reason in ("stop", "length")
    chunks = list(
        litellm.completion(messages=seen, stream=True, stream_options={"include_usage": True}, **ROOM, **openai)
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == said
    assert litellm.stream_chunk_builder(chunks).usage.total_tokens == whole.usage.total_tokens

    tools = [{"type": "function", "function": {"name": "count", "parameters": COUNT}}]
    asked: dict[str, Any] = {"messages": QUESTION, "tools": tools, "tool_choice": "required", **ROOM, **openai}
    (call,) = litellm.completion(parallel_tool_calls=False, **asked).choices[0].message.tool_calls
    assert call.function.name == "count" and type(json.loads(call.function.arguments)["n"]) is int
    streamed = litellm.stream_chunk_builder(list(litellm.completion(stream=True, parallel_tool_calls=False, **asked)))
    assert streamed.choices[0].message.tool_calls[0].function.arguments == call.function.arguments

    form = {"type": "json_schema", "json_schema": {"name": "colour", "schema": COLOUR, "strict": True}}
    answer = litellm.completion(messages=QUESTION, response_format=form, **ROOM, **openai)
    assert json.loads(answer.choices[0].message.content)["colour"] in ("red", "blue")

    response = litellm.responses(input="What shapes are there?", max_output_tokens=16, **openai)
    assert response.output[0].content[0].text
    try:
        litellm.completion(messages=QUESTION, **(openai | {"model": "openai/nobody"}))
    except litellm.NotFoundError:
        pass
    else:
        raise AssertionError("an unknown model was answered")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

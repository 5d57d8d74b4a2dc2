"""`python with_langchain.py BASE_URL PICTURE`: what programs do through langchain-openai, against a running server."""

import base64
import sys
from pathlib import Path
from typing import Annotated, Literal

from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field, SecretStr

MODEL = "glimpsed-demo"


class Count(BaseModel):
    """Count things."""

    n: Annotated[int, Field(ge=0, le=99)]


class Answer(BaseModel):
    """An answer."""

    colour: Literal["red", "blue"]


def main(base_url: str, picture: Path) -> None:
    """Raises AssertionError, or what the client raises, at the first thing that is wrong."""
    chat = ChatOpenAI(
        model=MODEL, base_url=base_url, api_key=SecretStr("none"), max_completion_tokens=64, temperature=0
    )
    url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    question = HumanMessage([{"type": "text", "text": "How many?"}, {"type": "image_url", "image_url": {"url": url}}])

    whole = chat.invoke([question])
    assert whole.content and whole.usage_metadata and whole.usage_metadata["output_tokens"]
    chunks = list(chat.stream([question]))
    assert len(chunks) > 2 and "".join(str(chunk.content) for chunk in chunks) == whole.content

    counting = chat.bind_tools([Count], tool_choice="required", parallel_tool_calls=False, strict=True)
    called = counting.invoke("Count to 3.")
    (call,) = called.tool_calls
    assert call["name"] == "Count" and type(call["args"]["n"]) is int
    joined: AIMessageChunk | None = None
    for chunk in counting.stream("Count to 3."):
        assert isinstance(chunk, AIMessageChunk)
        joined = chunk if joined is None else joined + chunk
    assert joined is not None and joined.tool_calls[0]["args"] == call["args"]
    told = chat.invoke([HumanMessage("Count to 3."), called, ToolMessage("3", tool_call_id=call["id"])])
    assert isinstance(told.content, str)

    structured = chat.with_structured_output(Answer, method="json_schema").invoke("Which colour?")
    assert isinstance(structured, Answer)
    through_responses = ChatOpenAI(
        model=MODEL, base_url=base_url, api_key=SecretStr("none"), max_completion_tokens=16, use_responses_api=True
    )
    assert through_responses.invoke("What shapes are there?").text


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""Every operation of the API by method and path, with what it takes and gives, for the OpenAPI document."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from schemas.anthropic import answers as anthropic_answers
from schemas.anthropic import messages
from schemas.openai import answers, batches, files, response_answers, responses
from schemas.openai.chat import ChatCompletionRequest
from schemas.openai.completion import CompletionRequest, DetokenizeRequest, TokenizeRequest
from schemas.openai.parameters import UNSUPPORTED

TEXT, HTML, BYTES = "text/plain", "text/html", "application/octet-stream"
_INPUT = {"input": {"type": "string"}}


@dataclass(frozen=True, eq=False)
class Takes:
    """A JSON body.

    passed_on: fields beside the model's own, checked as those of `passed_to`. only: the names of all fields, where they
    are fewer. also: field -> what is taken besides what the model says. neutral: field that is not served -> the values
    that ask for nothing and are let through.
    """

    model: type[BaseModel]
    passed_to: type[BaseModel] | None = None
    passed_on: frozenset[str] = frozenset()
    only: frozenset[str] | None = None
    also: Mapping[str, Any] = field(default_factory=dict)
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """gives: the struct of the answer, or the media type of what is no JSON."""

    method: str
    path: str
    summary: str
    gives: type | str
    takes: Takes | None = None
    query: type[BaseModel] | None = None
    is_streamed: bool = False
    is_upload: bool = False
    is_probe: bool = False


_CHAT = Takes(ChatCompletionRequest, neutral=UNSUPPORTED)
_COMPLETION = Takes(CompletionRequest, neutral=UNSUPPORTED)
_RESPONSE = Takes(
    responses.ResponsesRequest, ChatCompletionRequest, responses.PASSED_ON, also=_INPUT, neutral=responses.UNSUPPORTED
)
_RESPONSE_INPUT = replace(_RESPONSE, only=responses.COUNTED)
_MESSAGES = Takes(messages.MessagesRequest, ChatCompletionRequest, messages.PASSED_ON, neutral=messages.UNSUPPORTED)
_COUNTED = replace(_MESSAGES, model=messages.CountTokensRequest, passed_on=messages.COUNTED)

OPERATIONS = (
    Operation("POST", "/v1/chat/completions", "Answer a conversation", answers.ChatCompletion, _CHAT, is_streamed=True),
    Operation("POST", "/v1/completions", "Go on from bare prompts", answers.Completion, _COMPLETION,
              is_streamed=True),
    Operation("POST", "/v1/tokenize", "Token ids of a prompt", answers.Tokenization, Takes(TokenizeRequest)),
    Operation("POST", "/v1/detokenize", "Text of token ids", answers.Detokenization, Takes(DetokenizeRequest)),
    Operation("POST", "/v1/files", "Keep a file", files.FileObject, is_upload=True),
    Operation("GET", "/v1/files", "List files", files.Page, query=files.FilesQuery),
    Operation("GET", "/v1/files/{file_id}", "Describe a file", files.FileObject),
    Operation("GET", "/v1/files/{file_id}/content", "Bytes of a file", BYTES),
    Operation("DELETE", "/v1/files/{file_id}", "Forget a file", files.FileDeleted),
    Operation("POST", "/v1/batches", "Answer a file of requests", batches.Batch, Takes(batches.BatchRequest)),
    Operation("GET", "/v1/batches", "List batches", files.Page, query=batches.BatchesQuery),
    Operation("GET", "/v1/batches/{batch_id}", "Describe a batch", batches.Batch),
    Operation("POST", "/v1/batches/{batch_id}/cancel", "Stop a batch", batches.Batch),
    Operation("POST", "/v1/responses", "Answer by the Responses API", response_answers.Response, _RESPONSE,
              is_streamed=True),
    Operation("POST", "/v1/responses/input_tokens", "Count an input's tokens", response_answers.InputTokens,
              _RESPONSE_INPUT),
    Operation("GET", "/v1/responses/{response_id}", "A response that is kept", response_answers.Response,
              query=responses.RetrieveQuery),
    Operation("DELETE", "/v1/responses/{response_id}", "Forget a response", response_answers.DeletedResponse),
    Operation("GET", "/v1/responses/{response_id}/input_items", "What a response was given",
              response_answers.InputItemList, query=responses.ItemsQuery),
    Operation("POST", "/v1/responses/{response_id}/cancel", "Stop a response of the background",
              response_answers.Response),
    Operation("POST", "/v1/messages", "Answer by Anthropic's API", anthropic_answers.Message, _MESSAGES,
              is_streamed=True),
    Operation("POST", "/v1/messages/count_tokens", "Count a message's tokens", anthropic_answers.TokensCount, _COUNTED),
    Operation("GET", "/v1/models", "List models", answers.ModelList),
    Operation("GET", "/v1/models/{model}", "Describe a model", answers.ModelObject),
    Operation("GET", "/livez", "Whether the process lives", dict, is_probe=True),
    Operation("GET", "/readyz", "Whether requests can be served", dict, is_probe=True),
    Operation("GET", "/health", "Whether requests can be served", dict, is_probe=True),
    Operation("GET", "/version", "The server's version", dict),
    Operation("GET", "/metrics", "Prometheus metrics", TEXT),
    Operation("GET", "/admin/workers", "Workers that live", dict),
    Operation("GET", "/openapi.json", "This document", dict),
    Operation("GET", "/", "A page to try the server with", HTML),
)  # fmt: skip

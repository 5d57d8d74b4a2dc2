"""Messages of a wire request as those of a job; each refusal names its field."""

from collections.abc import Sequence

from schemas.data_url import split_url
from schemas.errors import ErrorCode, RequestError
from schemas.jobs import ImagePart, Message, Part, TextPart, Tool, ToolCall, VideoPart
from schemas.openai import content
from server.tools.conversation import check_calls

WITH_MEDIA = ("user", "tool")
"""Roles whose messages may carry pictures and clips."""


def job_messages(messages: Sequence[content.ChatMessage]) -> tuple[Message, ...]:
    """A conversation as a worker reads it. Raises RequestError."""
    found = tuple(_message(f"messages.{at}", message) for at, message in enumerate(messages))
    check_calls(found)
    return found


def check_media(messages: Sequence[Message], max_images: int, max_videos: int) -> None:
    """Raises RequestError for more pictures or clips than are accepted."""
    parts = [part for message in messages for part in message.parts]
    images = [part for part in parts if isinstance(part, ImagePart)]
    videos = [part for part in parts if isinstance(part, VideoPart)]
    if len(images) > max_images:
        excess = images[max_images].param
        raise RequestError(ErrorCode.TOO_MANY_IMAGES, f"At most {max_images} images are accepted.", excess)
    if len(videos) > max_videos:
        excess = videos[max_videos].param
        raise RequestError(ErrorCode.TOO_MANY_VIDEOS, f"At most {max_videos} videos are accepted.", excess)


def num_chars(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
    """Characters that will be in the prompt at least."""
    said = sum(len(part.text) for message in messages for part in message.parts if isinstance(part, TextPart))
    called = sum(len(call.arguments) for message in messages for call in message.tool_calls)
    return said + called + sum(len(tool.description or "") for tool in tools)


def _message(param: str, message: content.ChatMessage) -> Message:
    _check_fields(param, message)
    calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ())
    if message.content is None:
        if message.role != "assistant":
            raise _missing(f"{param}.content")
        refusal = (TextPart(text=message.refusal),) if message.refusal else ()
        return Message(role=message.role, parts=refusal, tool_calls=calls)
    parts = tuple(_part(f"{param}.content.{index}", part) for index, part in enumerate(message.content))
    if message.role not in WITH_MEDIA:
        medium = next((part for part in parts if not isinstance(part, TextPart)), None)
        if medium is not None:
            reason = "Only messages of the roles 'user' and 'tool' may carry images or videos."
            raise RequestError(ErrorCode.INVALID_VALUE, reason, medium.param)
    elif message.role == "user" and all(isinstance(part, TextPart) and not part.text for part in parts):
        raise RequestError(ErrorCode.INVALID_VALUE, f"'{param}.content' is empty.", f"{param}.content")
    return Message(role=message.role, parts=parts, tool_calls=calls, tool_call_id=message.tool_call_id or "")


def _check_fields(param: str, message: content.ChatMessage) -> None:
    """Fields that belong to one role alone, or to none here."""
    if message.audio:
        raise _unsupported(f"{param}.audio")
    if message.function_call:
        raise _unsupported(f"{param}.function_call", " Use 'tool_calls' instead.")
    if message.tool_calls and message.role != "assistant":
        raise _invalid(f"{param}.tool_calls", "only the assistant makes calls")
    if message.role == "tool" and message.tool_call_id is None:
        raise _missing(f"{param}.tool_call_id")
    if message.role != "tool" and message.tool_call_id is not None:
        raise _invalid(f"{param}.tool_call_id", "only a tool message answers a call")


def _part(param: str, part: content.ContentPart) -> Part:
    match part:
        case content.TextPart():
            return TextPart(text=part.text)
        case content.ImagePart():
            asked = part.image_url.detail or "auto"
            detail = "high" if asked == "original" else asked
            url, text = split_url(part.image_url.url)
            return ImagePart(url=url, param=f"{param}.image_url.url", detail=detail, text=text)
        case content.VideoPart():
            url, text = split_url(part.video_url.url)
            return VideoPart(url=url, param=f"{param}.video_url.url", text=text)


def _missing(param: str) -> RequestError:
    return RequestError(ErrorCode.MISSING_PARAMETER, f"Missing required parameter: '{param}'.", param)


def _unsupported(param: str, advice: str = "") -> RequestError:
    return RequestError(ErrorCode.UNSUPPORTED_PARAMETER, f"Unsupported parameter: '{param}'.{advice}", param)


def _invalid(param: str, reason: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_VALUE, f"Invalid value for '{param}': {reason}.", param)

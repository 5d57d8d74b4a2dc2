"""A chat request's body, put together from another API's, with the names that its fields had there."""

from typing import Any

from schemas.data_url import DataUrl
from schemas.errors import ErrorCode, RequestError
from schemas.openai.chat import ChatCompletionRequest, parse_chat_request
from server.param_names import ParamNames


class ChatBody:
    """Messages in their order, and parameters; checked as any chat is in the end."""

    def __init__(self, names: ParamNames) -> None:
        self.messages: list[dict[str, Any]] = []
        self.parameters: dict[str, Any] = {}
        self._names = names

    def add_message(self, message: dict[str, Any], name: str) -> str:
        """Append a message, which the client calls `name`; returns its path in the chat."""
        path = f"messages.{len(self.messages)}"
        self._names.add(path, name)
        self.messages.append(message)
        return path

    def name_content(self, path: str, name: str) -> None:
        """Say what the client calls the content of the message at `path`."""
        self._names.add(f"{path}.content", name)

    def add_part(self, content: list[dict[str, Any]], path: str, part: dict[str, Any], name: str, leaf: str) -> None:
        """Append to the content at `path` a part, which the client calls `name`, with its URL in `leaf`."""
        at = f"{path}.{len(content)}"
        self._names.add(at, name)
        if part["type"] != "text":
            self._names.add(f"{at}.{part['type']}.url", f"{name}.{leaf}" if leaf else name)
        content.append(part)

    def set(self, parameter: str, value: Any, name: str) -> None:
        """Give a parameter, which the client calls `name`, a value; None leaves it absent."""
        if value is not None:
            self._names.add(parameter, name)
            self.parameters[parameter] = value

    def parsed(self) -> ChatCompletionRequest:
        """The request. Raises RequestError in the client's names."""
        with self._names.in_errors():
            return parse_chat_request({**self.parameters, "messages": self.messages})


def image_part(url: str | DataUrl, detail: str | None) -> dict[str, Any]:
    """A picture of a chat."""
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def video_part(url: str | DataUrl) -> dict[str, Any]:
    """A clip of a chat."""
    return {"type": "video_url", "video_url": {"url": url}}


def text_part(text: str) -> dict[str, Any]:
    """A text of a chat."""
    return {"type": "text", "text": text}


def invalid(param: str, reason: str) -> RequestError:
    """A value that says less, or something else, than is needed."""
    return RequestError(ErrorCode.INVALID_VALUE, f"Invalid value for '{param}': {reason}.", param)


def unsupported(param: str, reason: str) -> RequestError:
    """A way to ask that exists elsewhere."""
    return RequestError(ErrorCode.UNSUPPORTED_PARAMETER, f"Unsupported parameter: '{param}'; {reason}.", param)

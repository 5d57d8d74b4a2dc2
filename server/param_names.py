"""What a chat's fields are called in the API that a client used, whose request was made a chat's."""

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from schemas.errors import GlimpsedError


class ParamNames:
    """Paths into a chat request's body -> paths into the client's own."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def add(self, chat: str, own: str) -> None:
        """What is, or lies within, `chat` is for the client, or lies within, `own`."""
        self._names[chat] = own

    def own(self, param: str) -> str:
        """The client's name of a chat's field: by the longest path that is known, else the same."""
        head, tail = param, ""
        while head:
            if head in self._names:
                return self._names[head] + tail
            head, dot, last = head.rpartition(".")
            tail = f"{dot}{last}{tail}"
        return param

    @contextmanager
    def in_errors(self) -> Iterator[None]:
        """While inside, errors name fields as the client does. Not to be nested: a name would be taken twice."""
        try:
            yield
        except GlimpsedError as error:
            if error.param is not None:
                own = self.own(error.param)
                error.message = error.message.replace(f"'{error.param}'", f"'{own}'")
                error.param = own
            raise


class WithNames(Response):
    """A streamed answer whose errors, before it begins, name fields as the client does."""

    def __init__(self, answer: Response, names: ParamNames) -> None:
        super().__init__()
        self._answer = answer
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        with self._names.in_errors():
            await self._answer(scope, receive, send)

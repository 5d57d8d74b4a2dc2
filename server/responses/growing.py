"""An item of a response's output while it grows."""

from schemas.openai.answers import TokenLogprob
from schemas.openai.response_answers import OutputFunctionCall, OutputMessage, OutputText


class GrowingMessage:
    """A message of one text."""

    def __init__(self, item_id: str) -> None:
        self.id = item_id
        self._pieces: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    def add(self, text: str, logprobs: list[TokenLogprob]) -> None:
        """Go on."""
        self._pieces.append(text)
        self._logprobs += logprobs

    def begun(self) -> OutputMessage:
        """The item before it has any part."""
        return OutputMessage(id=self.id, status="in_progress", content=())

    def text(self) -> OutputText:
        """Its part, as far as it has come."""
        return OutputText(text="".join(self._pieces), logprobs=self._logprobs)

    def item(self, status: str) -> OutputMessage:
        """The item, as far as it has come."""
        return OutputMessage(id=self.id, status=status, content=(self.text(),))


class GrowingCall:
    """A call of a function."""

    def __init__(self, item_id: str, call_id: str, name: str) -> None:
        self.id = item_id
        self.name = name
        self._call_id = call_id
        self._pieces: list[str] = []

    def add(self, arguments: str) -> None:
        """Go on."""
        self._pieces.append(arguments)

    def begun(self) -> OutputFunctionCall:
        """The item before it has arguments."""
        return self.item("in_progress")

    def arguments(self) -> str:
        """Its arguments, as far as they have come."""
        return "".join(self._pieces)

    def item(self, status: str) -> OutputFunctionCall:
        """The item, as far as it has come."""
        return OutputFunctionCall(
            id=self.id, status=status, call_id=self._call_id, name=self.name, arguments=self.arguments()
        )

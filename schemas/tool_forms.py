"""How models write calls of tools into their text. A worker has its model do so, a gateway takes the calls out again.

In each form a call is a JSON object with `name` and with `arguments` or `parameters`.
"""

from dataclasses import dataclass

MAX_CALLS = 16
"""How many calls an answer may hold that is made to call tools: what has never learnt to stop is stopped."""


@dataclass(frozen=True, slots=True)
class ToolForm:
    """One form. A call stands between `opening` and `closing`, behind `lead`; where they are empty, on a line of its
    own. Each of the marks is a token of its own where the tokenizer has it.

    arguments_key: how the form itself calls the arguments. separator: stands between two calls.
    margin: white space within the marks.
    """

    opening: str
    lead: str
    closing: str
    arguments_key: str
    separator: str
    margin: tuple[str, str]

    @property
    def marks(self) -> tuple[str, ...]:
        """What tells a call from text."""
        return tuple(mark for mark in (self.opening, self.lead, self.closing) if mark)


HERMES = "hermes"
INTERNLM2 = "internlm2"
JSON_LINES = "json_lines"

FORMS = {
    HERMES: ToolForm("<tool_call>", "", "</tool_call>", "arguments", "\n", ("\n", "\n")),
    INTERNLM2: ToolForm("<|action_start|>", "<|plugin|>", "<|action_end|>", "parameters", "", ("\n", "")),
    JSON_LINES: ToolForm("", "", "", "arguments", "\n", ("", "")),
}

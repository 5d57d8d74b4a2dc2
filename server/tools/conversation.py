"""Whether the calls of a conversation and their answers belong together."""

from collections.abc import Sequence

from schemas.errors import ErrorCode, RequestError
from schemas.jobs import Message


def check_calls(messages: Sequence[Message]) -> None:
    """Each call is answered once, by a tool's message right behind the turn that made it (in any order).

    Raises RequestError naming the message at fault.
    """
    made: frozenset[str] = frozenset()
    waiting: set[str] = set()
    caller = 0
    for at, message in enumerate(messages):
        if message.role == "tool":
            _answer(f"messages.{at}", message.tool_call_id, made, waiting)
            continue
        _check_none_waits(caller, waiting)
        caller = at
        made = frozenset(call.id for call in message.tool_calls)
        waiting = set(made)
        if len(made) < len(message.tool_calls):
            raise _invalid(f"messages.{at}.tool_calls", "two calls have the same 'id'")
    _check_none_waits(caller, waiting)


def _answer(param: str, call_id: str, made: frozenset[str], waiting: set[str]) -> None:
    if not made:
        raise _invalid(f"{param}.role", "a tool message answers a tool call, and the message before it makes none")
    if call_id not in made:
        raise _invalid(f"{param}.tool_call_id", "the assistant's message before it makes no call of this 'id'")
    if call_id not in waiting:
        raise _invalid(f"{param}.tool_call_id", "this call has been answered already")
    waiting.remove(call_id)


def _check_none_waits(caller: int, waiting: set[str]) -> None:
    if waiting:
        param = f"messages.{caller}.tool_calls"
        raise _invalid(param, f"{len(waiting)} of its calls have no tool message that answers them")


def _invalid(param: str, reason: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_VALUE, f"Invalid value for '{param}': {reason}.", param)

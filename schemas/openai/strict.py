"""The base of all request models, and how a failed validation becomes one sentence that names one field.

Strict: "5" is no number, true is no 1, and a field that nobody knows is refused instead of ignored. Nothing of the
client's values appears in a message; they may be secrets or hostile.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import ErrorCode, RequestError

Model = TypeVar("Model", bound=BaseModel)

MAX_NAME_CHARS = 64
"""How much of a name that the client made up a message repeats."""

_CONTAINER_NAMES = {
    "model_type": "Input should be an object",
    "model_attributes_type": "Input should be an object",
    "dict_type": "Input should be an object",
    "list_type": "Input should be an array",
}


class StrictModel(BaseModel):
    """Strict types, no unknown fields, frozen."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )


def validate(model: type[Model], body: object) -> Model:
    """`body` (decoded JSON) as a `model`. Raises RequestError with the dotted path of the first field at fault."""
    try:
        return model.model_validate(body)
    except ValidationError as failure:
        first = failure.errors(include_url=False, include_input=False)[0]
        raise _refusal(first["type"], first["loc"], first["msg"], first.get("ctx", {}), body) from None


def printable(name: str) -> str:
    """A client's name for something, fit for a message or a log line: ASCII, escaped, short."""
    return ascii(name[:MAX_NAME_CHARS])[1:-1]


def _refusal(
    kind: str, location: Sequence[int | str], sentence: str, context: Mapping[str, Any], body: object
) -> RequestError:
    param = _path(location, body)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        param = f"{param}.type"
        tags = context.get("expected_tags", "one of the documented types")
        return RequestError(ErrorCode.INVALID_VALUE, f"Invalid value for '{param}': should be {tags}.", param)
    if not param:
        return RequestError(ErrorCode.INVALID_TYPE, "The body should be a JSON object.")
    if kind == "missing":
        return RequestError(ErrorCode.MISSING_PARAMETER, f"Missing required parameter: '{param}'.", param)
    if kind == "extra_forbidden":
        return RequestError(ErrorCode.UNKNOWN_PARAMETER, f"Unknown parameter: '{param}'.", param)
    if kind.endswith("_type"):
        what = _CONTAINER_NAMES.get(kind, sentence)
        return RequestError(ErrorCode.INVALID_TYPE, f"Invalid type for '{param}': {what}.", param)
    return RequestError(ErrorCode.INVALID_VALUE, f"Invalid value for '{param}': {sentence}.", param)


def _is_tag(step: str, following: int | str, here: Mapping[str, Any]) -> bool:
    """Whether a step says which of a union's types was meant, and not one of `here`'s fields (a tool of the type
    `function` has a field of that name)."""
    is_field = isinstance(here.get(step), dict) and following != step and following not in here
    return here.get("type") == step and not is_field


def _path(location: Sequence[int | str], body: object) -> str:
    """The place in the client's own body; the validator's location also holds the tags of unions, left out here."""
    names: list[str] = []
    here: Any = body
    for position, step in enumerate(location):
        is_last = position + 1 == len(location)
        if isinstance(step, int) and isinstance(here, list) and step < len(here):
            here = here[step]
        elif isinstance(step, str) and isinstance(here, dict):
            if not is_last and isinstance(location[position - 1], int) and _is_tag(step, location[position + 1], here):
                continue
            here = here.get(step)
        else:
            continue
        names.append(printable(str(step)))
    return ".".join(names)

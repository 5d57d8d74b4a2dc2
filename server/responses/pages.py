"""Queries of the Responses API's GET routes, as strict as bodies are."""

from collections.abc import Sequence, Set
from typing import Any

from starlette.requests import Request

from schemas.errors import ErrorCode, RequestError
from schemas.openai.files import number_in, parse_query
from schemas.openai.generation import conflict
from schemas.openai.response_answers import InputItemList
from schemas.openai.responses import ItemsQuery, RetrieveQuery
from schemas.openai.strict import printable, validate


def refuse_other_queries(request: Request, known: Set[str]) -> None:
    """Raises RequestError for a query parameter that is not among `known` (lists may end in []), nor a plain no."""
    for name, value in request.query_params.multi_items():
        bare = name.removesuffix("[]")
        if bare not in known and not (bare == "stream" and value == "false"):
            shown = printable(bare)
            raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, f"Unsupported parameter: '{shown}'.", shown)


def retrieve_query(request: Request) -> RetrieveQuery:
    """Whether a response is to be streamed, and from where. Raises RequestError."""
    refuse_other_queries(request, {"include", "include_obfuscation", "stream", "starting_after"})
    switches = {"true": True, "false": False}
    values: dict[str, object] = {}
    if (stream := request.query_params.get("stream")) is not None:
        values["stream"] = switches.get(stream, stream)
    if (number := request.query_params.get("starting_after")) is not None:
        values["starting_after"] = number_in(number)
    query = validate(RetrieveQuery, values)
    if query.starting_after is not None and not query.stream:
        raise conflict("starting_after", "it needs 'stream' to be true")
    return query


def page_of(items: Sequence[dict[str, Any]], request: Request) -> InputItemList:
    """The items that `limit`, `order` (newest first unless it says `asc`) and `after` ask for. Raises RequestError."""
    refuse_other_queries(request, {"limit", "order", "after", "include"})
    given = request.query_params.multi_items()
    query = parse_query(ItemsQuery, [(name, value) for name, value in given if name in ItemsQuery.model_fields])
    ordered = list(items) if query.order == "asc" else list(reversed(items))
    start = 0
    if query.after is not None:
        places = [at for at, item in enumerate(ordered) if item["id"] == query.after]
        if not places:
            message = "Invalid value for 'after': there is no such item."
            raise RequestError(ErrorCode.INVALID_VALUE, message, "after")
        start = places[0] + 1
    page = ordered[start : start + query.limit]
    return InputItemList(
        data=page,
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=start + len(page) < len(ordered),
    )

"""Queries of the Responses API's GET routes, as strict as bodies are."""

from collections.abc import Sequence, Set
from typing import Any

from starlette.requests import Request

from schemas.errors import ErrorCode, RequestError
from schemas.openai.response_answers import InputItemList
from schemas.openai.strict import printable

MAX_LIMIT = 100
DEFAULT_LIMIT = 20
_ORDERS = {"asc", "desc"}


def refuse_other_queries(request: Request, known: Set[str]) -> None:
    """Raises RequestError for a query parameter that is not among `known` (lists may end in []), nor a plain no."""
    for name, value in request.query_params.multi_items():
        bare = name.removesuffix("[]")
        if bare not in known and not (bare == "stream" and value == "false"):
            shown = printable(bare)
            raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, f"Unsupported parameter: '{shown}'.", shown)


def page_of(items: Sequence[dict[str, Any]], request: Request) -> InputItemList:
    """The items that `limit`, `order` (newest first unless it says `asc`) and `after` ask for. Raises RequestError."""
    refuse_other_queries(request, {"limit", "order", "after", "include"})
    query = request.query_params
    limit = query.get("limit", str(DEFAULT_LIMIT))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= MAX_LIMIT):
        raise _invalid("limit", f"it should be 1 to {MAX_LIMIT}")
    order = query.get("order", "desc")
    if order not in _ORDERS:
        raise _invalid("order", "it should be 'asc' or 'desc'")
    ordered = list(items) if order == "asc" else list(reversed(items))
    start = 0
    if "after" in query:
        places = [at for at, item in enumerate(ordered) if item["id"] == query["after"]]
        if not places:
            raise _invalid("after", "there is no such item")
        start = places[0] + 1
    page = ordered[start : start + int(limit)]
    return InputItemList(
        data=page,
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=start + len(page) < len(ordered),
    )


def _invalid(name: str, reason: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_VALUE, f"Invalid value for '{name}': {reason}.", name)
